//! VRRP on Linux: raw sockets, timers, virtual IP addresses, and a guard against crashes.
//!
//! What belongs here: the effects of `krater-vrrp-proto`'s decisions, and the process around them
//! ([`run`]). What never will: a decision about states or timers.
//!
//! | thread | owns |
//! |---|---|
//! | main | [`driver`]: all routers, sockets, netlink, the tracked data plane |
//! | `control` | [`control`]: HTTP on the control socket; asks the driver through a bounded queue |
//! | other process | [`guard`]: removes what a crashed vrrp held |
//!
//! Identity: starts as root, enters the namespace, starts the guard (which stays root), binds its Unix
//! sockets, and is then a fixed uid with CAP_NET_ADMIN and CAP_NET_RAW only, before the first thread. Started with these
//! two alone, as root or another user, it stays that user, and needs no other.

mod accept;
mod checks;
mod clock;
mod config;
mod control;
mod cpu;
mod driver;
mod error;
mod events;
mod flood;
pub mod guard;
mod instance;
mod liveness;
mod memory;
mod metrics;
mod older;
mod port;
mod quiet;
mod socket;
mod sys;
mod track;
mod vip;
mod vmac;

pub use control::SetLogLevel;
pub use error::VrrpError;

use error::during;
use guard::Guard;
use krater_model::control::Granted;
use krater_net::netns::NetNs;
use krater_net::sync::NetlinkSocket;
use memory::Memory;
use metrics::Metrics;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use prometheus_client::registry::Registry;
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::Cell;
use std::ffi::OsString;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::{fmt, io};
use tracing::{debug, info, warn};
use track::{Canary, Track};

/// What the command line gives.
#[derive(Clone)]
pub struct Settings {
    /// Network namespace to enter; none: the one we are in.
    pub netns: Option<PathBuf>,
    /// Where the control socket is made.
    pub control: PathBuf,
    /// Where the socket is made on which the agent hands over the data plane to track.
    pub track: PathBuf,
    /// Uid and gid to become; none: stay who we are.
    pub uid: Option<u32>,
    /// Sets the log level.
    pub log: SetLogLevel,
    /// Version for `/status`.
    pub version: String,
    /// Arguments between `vrrp-guard` and ours when the guard is started, such as where to log.
    pub guard_arguments: Vec<OsString>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("netns", &self.netns)
            .field("control", &self.control)
            .field("track", &self.track)
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

/// Whether a configuration would be taken, without any effect.
pub fn check(config: &krater_model::control::VrrpConfig) -> Result<(), krater_model::FieldError> {
    match config::judge(None, config) {
        Ok(_) => Ok(()),
        Err(config::Refused::Invalid(error) | config::Refused::Conflict(error)) => Err(error),
    }
}

/// The process from start to end: serves until SIGTERM or SIGINT, then resigns and withdraws.
///
/// Must be called before any thread exists: namespace, capabilities and signal mask belong to threads.
pub fn run(settings: Settings) -> Result<(), VrrpError> {
    if let Some(path) = &settings.netns {
        NetNs::open(path)
            .and_then(|netns| netns.enter())
            .map_err(|source| VrrpError::Netns {
                path: path.clone(),
                source,
            })?;
    }
    let listen = |path: &Path| {
        let path = path.to_path_buf();
        move |source| VrrpError::Listen { path, source }
    };
    // First, because it finds out whether a living vrrp is here already.
    let control = listen_control(&settings.control).map_err(listen(&settings.control))?;
    let track = track::open(&settings.track).map_err(listen(&settings.track))?;
    let signals = signals().map_err(during("receive signals"))?;

    let guard_lock = guard::lock()?;
    let guard = Guard::start(guard_lock.as_ref(), &settings.guard_arguments)
        .map_err(during("start the guard"))?;
    info!(guard.pid = guard.pid(), "guard started");
    // Its lock is the guard's now, and ends with it.
    drop(guard_lock);

    let real_time = match sys::prefer_this_thread() {
        Ok(()) => Granted::Yes,
        Err(error) => {
            debug!(%error, "no real-time scheduling");
            Granted::No(format!("SCHED_FIFO: {error}"))
        }
    };
    let memory = Memory::lock();
    let capabilities = [sys::CAP_NET_ADMIN, sys::CAP_NET_RAW];
    let keep = during("keep CAP_NET_ADMIN and CAP_NET_RAW, and nothing else");
    if !sys::drop_privileges(settings.uid, &capabilities).map_err(keep)? {
        let uid = nix::unistd::getuid().as_raw();
        warn!(
            uid,
            "no other user: CAP_SETUID and CAP_SETGID are not granted"
        );
    }

    let netlink = NetlinkSocket::open()?;
    let events = network_events().map_err(during("watch links and addresses"))?;
    // Both vrrp and guard may have been killed: nobody else removes what they left.
    let purged = vip::purge(&netlink)?;
    if purged != vip::Purged::default() {
        info!(
            addresses = purged.addresses,
            routes = purged.routes,
            rules = purged.rules,
            "removed what a predecessor left"
        );
    }

    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, &settings.version);
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let wake = EventFd::from_flags(flags).map_err(during("make an eventfd"))?;
    let wake = Arc::new(wake);
    let (sender, commands) = sync_channel(control::QUEUE);
    let to_driver = control::Driver {
        commands: sender,
        wake: Arc::clone(&wake),
    };
    let log = settings.log;
    let canary = Canary::default();
    let beating = canary.clone();
    let (events_to_tell, journal) = events::stream();
    let resting = memory.clone();
    std::thread::Builder::new()
        .name("control".into())
        .stack_size(512 * 1024)
        .spawn(move || {
            let served =
                control::serve(control, to_driver, registry, log, beating, resting, journal);
            if let Err(error) = served {
                tracing::error!(%error, "the control socket is not served any more");
            }
        })
        .map_err(during("start a thread"))?;

    info!(version = settings.version, "vrrp runs");
    let ended = driver::run(driver::Driver {
        netlink,
        events,
        signals,
        commands,
        wake,
        track: Track::new(track, canary),
        guard,
        guard_arguments: settings.guard_arguments,
        tell: events_to_tell,
        metrics,
        version: settings.version,
        memory,
        real_time,
        terms: Cell::default(),
        moved: Cell::new(true),
    });
    info!("vrrp ends");
    ended
}

/// Makes the control socket, unless a living process serves there.
fn listen_control(path: &Path) -> io::Result<UnixListener> {
    match UnixStream::connect(path) {
        Ok(_) => {
            let text = "another vrrp serves here: stop it first";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => std::fs::remove_file(path)?,
    }
    UnixListener::bind(path)
}

/// SIGTERM and SIGINT as a descriptor, blocked for all threads to come.
fn signals() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGINT);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// A netlink socket that becomes readable when a link or an address changes.
fn network_events() -> io::Result<Socket> {
    use nix::sys::socket::{NetlinkAddr, bind};
    use std::os::fd::AsRawFd;
    let groups = [
        libc::RTMGRP_LINK,
        libc::RTMGRP_IPV4_IFADDR,
        libc::RTMGRP_IPV6_IFADDR,
    ];
    let groups = groups.into_iter().fold(0, |all, group| all | group);
    let groups = u32::try_from(groups).map_err(io::Error::other)?;
    let protocol = Protocol::from(libc::NETLINK_ROUTE);
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}
