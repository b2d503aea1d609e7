//! The guard: a second process that outlives vrrp by a moment, so that a crashed vrrp leaves no
//! address behind that a peer takes over too.
//!
//! vrrp starts it from its own executable before it has a thread and while it is root:
//! `amphora vrrp-guard --pidfd N --will N --lock N`. The guard has its own session, watches vrrp's
//! pidfd, and dies with nobody. When vrrp ends in whatever way, it
//! 1. resigns (priority 0) for the routers that were Active by vrrp's last *will*, to each peer in the
//!    form that it reads, so that it takes over at once,
//! 2. waits until the successor of each is heard and had the time to announce itself, as a planned handover does: a peer
//!    that waits Skew_Time first leaves the addresses without an owner otherwise; or until nobody will, and
//! 3. removes all addresses, routes and rules that bear vrrp's tag in this namespace, then ends.
//!
//! Order against a successor: the guard holds an abstract Unix socket name of the namespace, the
//! *lock*, from before vrrp does anything until its own end. A new vrrp takes the lock first, and so
//! starts only after the old guard has removed what its vrrp left; then it starts a guard of its own.
//! Adoption of a crashed vrrp's addresses by its successor is deliberately not done here: without
//! peers they return with the successor's start, and with peers the other side has them by then.

use crate::error::{VrrpError, during};
use crate::socket::{AdvertSocket, PACKETS_PER_ROUND, ReceiveBuffer};
use crate::{clock, sys, vip};
use krater_model::state::VirtualRouter;
use krater_net::sync::NetlinkSocket;
use krater_vrrp_proto::{ChecksumForm, Router, Span, Time, machine, receive};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, recv, send, socket, socketpair,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tracing::{error, info, warn};

/// The lock's name; abstract names belong to a network namespace.
const LOCK: &[u8] = b"krater-vrrp-guard";
/// How long a new vrrp waits for its predecessor's guard: removing 255 addresses takes 20 ms.
const LOCK_WITHIN: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(2);
/// A will is one router's configuration; 255 IPv6 addresses and 1,024 routes are some 150 KB.
const MAX_WILL: usize = 200 * 1024;
/// After so many milliseconds without a will it gives memory back.
const REST: u16 = 2_000;
/// Nobody is waited for longer: a new vrrp waits for us ([`LOCK_WITHIN`]).
const LONGEST_WAIT: Span = Span::from_millis(1_500);
/// Removing is repeated when the kernel refuses: a table may be busy.
const ATTEMPTS: usize = 5;

/// What the guard must say for vrrp when it cannot any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Will {
    /// This router is Active.
    Active {
        /// With the version, the password and the peers that its adverts need.
        router: Box<VirtualRouter>,
        /// Its destinations that read the older checksum.
        older: Vec<IpAddr>,
    },
    /// The router of this interface, identifier and family (true: IPv4) is not.
    Released(String, u8, bool),
}

/// vrrp's end of its guard.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    will: OwnedFd,
}

/// Waits for a predecessor's guard to end and takes the namespace's lock. None when it could not be
/// had in time: somebody else holds the name, which must not keep a load balancer down.
pub(crate) fn lock() -> Result<Option<OwnedFd>, VrrpError> {
    let attempts = LOCK_WITHIN.as_millis() / LOCK_RETRY.as_millis();
    for _ in 0..attempts {
        match try_lock().map_err(during("take the guard's lock"))? {
            None => std::thread::sleep(LOCK_RETRY),
            taken => return Ok(taken),
        }
    }
    warn!("the predecessor's guard did not end in {LOCK_WITHIN:?}; going on without the lock");
    Ok(None)
}

/// Takes the lock unless somebody has it.
fn try_lock() -> nix::Result<Option<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match bind(fd.as_raw_fd(), &UnixAddr::new_abstract(LOCK)?) {
        Ok(()) => Ok(Some(fd)),
        Err(nix::Error::EADDRINUSE) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Guard {
    /// Starts the guard. `arguments` go before ours.
    pub(crate) fn start(lock: Option<&OwnedFd>, arguments: &[OsString]) -> io::Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let pidfd = sys::own_pidfd()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("vrrp-guard").args(arguments);
        let mut inherited = vec![pidfd.as_fd(), theirs.as_fd()];
        for (name, fd) in [("--pidfd", &pidfd), ("--will", &theirs)] {
            command.arg(name).arg(fd.as_raw_fd().to_string());
        }
        if let Some(lock) = lock {
            command.arg("--lock").arg(lock.as_raw_fd().to_string());
            inherited.push(lock.as_fd());
        }
        command.stdin(Stdio::null()).current_dir("/");
        sys::detach_with(&mut command, &inherited);
        let child = command.spawn()?;
        Ok(Self { child, will: ours })
    }

    /// Starts another guard in place of one that died, and with the lock that it left.
    pub(crate) fn replace(arguments: &[OsString]) -> io::Result<Self> {
        Self::start(try_lock()?.as_ref(), arguments)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The descriptor that polls readable when the guard has ended.
    pub(crate) fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.will.as_fd()
    }

    /// Whether it has ended (and was reaped).
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// `router` is Active from now on, and these of its destinations read the older checksum. Told again
    /// when either changes.
    pub(crate) fn active(&self, router: &Router, older: Vec<IpAddr>) {
        let router = Box::new(router.plain().clone());
        self.tell(&Will::Active { router, older });
    }

    /// `router` is not Active any more.
    pub(crate) fn released(&self, router: &Router) {
        let plain = router.plain();
        let (interface, vrid) = (plain.interface.clone(), plain.vrid.value());
        self.tell(&Will::Released(interface, vrid, plain.source.is_ipv4()));
    }

    fn tell(&self, will: &Will) {
        let sent = serde_json::to_vec(will)
            .map_err(io::Error::from)
            .and_then(|bytes| {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(self.will.as_raw_fd(), &bytes, flags).map_err(Into::into)
            });
        if let Err(error) = sent {
            // It still removes what is tagged; only its resignation is missing.
            warn!(%error, "the guard does not listen");
        }
    }
}

/// The guard's life: `amphora vrrp-guard …`. Ends after vrrp has ended.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<(), VrrpError> {
    let descriptors = Descriptors::parse(arguments)?;
    let netlink = NetlinkSocket::open()?;
    let wills = wait(&descriptors)?;
    succeed(resign(&netlink, &wills));
    let mut last = Ok(vip::Purged::default());
    for _ in 0..ATTEMPTS {
        last = vip::purge(&netlink);
        if last.is_ok() {
            break;
        }
    }
    match last {
        Ok(purged) if purged == vip::Purged::default() => info!("vrrp ended and left nothing"),
        Ok(purged) => warn!(
            addresses = purged.addresses,
            routes = purged.routes,
            rules = purged.rules,
            "vrrp ended without withdrawing: removed what it held"
        ),
        Err(error) => error!(%error, "vrrp ended, and what it held cannot be removed"),
    }
    drop(descriptors);
    Ok(())
}

/// Gives back what only starting, or a change, needed.
fn rest() {
    if let Err(error) = krater_net::resident::give_back() {
        warn!(%error, "start-up's memory stays");
    }
}

struct Descriptors {
    pidfd: OwnedFd,
    will: OwnedFd,
    /// Held until the process ends.
    _lock: Option<OwnedFd>,
}

impl Descriptors {
    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, VrrpError> {
        let mut numbers = HashMap::new();
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            let name = name.to_string_lossy().into_owned();
            let value = arguments
                .next()
                .and_then(|v| v.to_str()?.parse::<RawFd>().ok());
            let value = value.ok_or_else(|| {
                VrrpError::GuardArguments(format!("{name} needs the number of a descriptor"))
            })?;
            numbers.insert(name, value);
        }
        let mut take = |name: &str| match numbers.remove(name) {
            Some(number) => sys::adopt(number)
                .map(Some)
                .map_err(during("inherit a descriptor")),
            None => Ok(None),
        };
        let missing = |name: &str| VrrpError::GuardArguments(format!("{name} is missing"));
        let this = Self {
            pidfd: take("--pidfd")?.ok_or_else(|| missing("--pidfd"))?,
            will: take("--will")?.ok_or_else(|| missing("--will"))?,
            _lock: take("--lock")?,
        };
        match numbers.into_keys().next() {
            Some(name) => Err(VrrpError::GuardArguments(format!(
                "{name} is not understood"
            ))),
            None => Ok(this),
        }
    }
}

/// Waits for vrrp to end; answers its last wills.
fn wait(descriptors: &Descriptors) -> Result<Vec<Resignation>, VrrpError> {
    let mut active: HashMap<(String, u8, bool), (VirtualRouter, Vec<IpAddr>)> = HashMap::new();
    let mut buffer = vec![0; MAX_WILL];
    let mut will_open = true;
    // It waits all its life: it should not cost anything meanwhile.
    let mut at_rest = false;
    loop {
        let mut fds = vec![PollFd::new(descriptors.pidfd.as_fd(), PollFlags::POLLIN)];
        if will_open {
            fds.push(PollFd::new(descriptors.will.as_fd(), PollFlags::POLLIN));
        }
        let patience = match at_rest {
            true => PollTimeout::NONE,
            false => PollTimeout::from(REST),
        };
        match poll(&mut fds, patience) {
            Err(nix::Error::EINTR) => continue,
            Ok(0) => {
                rest();
                at_rest = true;
                continue;
            }
            result => result.map_err(during("poll"))?,
        };
        at_rest = false;
        let ended = fds.first().is_some_and(|fd| fd.any() == Some(true));
        // Also when vrrp has ended: its last words may still be queued.
        while will_open {
            match recv(
                descriptors.will.as_raw_fd(),
                &mut buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(0) => will_open = false,
                Ok(length) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    match serde_json::from_slice(bytes) {
                        Ok(Will::Active { router, older }) => {
                            let v4 = router.source.is_ipv4();
                            let key = (router.interface.clone(), router.vrid.value(), v4);
                            active.insert(key, (*router, older));
                        }
                        Ok(Will::Released(interface, vrid, v4)) => {
                            active.remove(&(interface, vrid, v4));
                        }
                        Err(error) => warn!(%error, "a will cannot be read"),
                    }
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => break,
                Err(_) => will_open = false,
            }
        }
        if ended {
            return Ok(active
                .into_values()
                .filter_map(|(router, older)| Resignation::new(router, older))
                .collect());
        }
    }
}

/// What is said for one router.
struct Resignation {
    router: Router,
    older: Vec<IpAddr>,
}

impl Resignation {
    fn new(router: VirtualRouter, older: Vec<IpAddr>) -> Option<Self> {
        let router = Router::new(router).ok()?;
        Some(Self { router, older })
    }

    /// Priority 0 in the form that this destination reads.
    fn emit(&self, to: IpAddr, message: &mut Vec<u8>) {
        let form = if self.older.contains(&to) {
            ChecksumForm::PseudoHeader
        } else {
            ChecksumForm::Rfc9568
        };
        let source = self.router.source();
        self.router.advert(0).emit(source, to, form, message);
    }
}

/// A router whose successor is awaited.
struct Awaited<'a> {
    router: &'a Router,
    socket: AdvertSocket,
    /// When it is given up at the latest.
    until: Time,
}

/// Waits for successors.
fn succeed(mut awaited: Vec<Awaited<'_>>) {
    let mut buffer = ReceiveBuffer::new();
    loop {
        let now = clock::now();
        awaited.retain(|one| now < one.until);
        for one in &mut awaited {
            // No more: a flood must not keep what we are here to remove.
            for _ in 0..PACKETS_PER_ROUND {
                let Ok(Some(datagram)) = one.socket.receive(&mut buffer) else {
                    break;
                };
                let heard = receive::check(one.router, &datagram, now);
                if heard.is_ok_and(|heard| heard.priority > 0) {
                    one.until = one.until.min(now + machine::LINGER);
                }
            }
        }
        let Some(next) = awaited.iter().map(|one| one.until).min() else {
            return;
        };
        let descriptors = awaited.iter().flat_map(|one| one.socket.descriptors());
        let mut fds: Vec<PollFd<'_>> = descriptors
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let patience = Duration::from(next - now) + Duration::from_millis(1);
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
        if poll(&mut fds, patience).is_err_and(|e| e != nix::Error::EINTR) {
            return;
        }
    }
}

/// Sends priority 0 in vrrp's name. Answers who may succeed, and can be heard.
fn resign<'a>(netlink: &NetlinkSocket, resignations: &'a [Resignation]) -> Vec<Awaited<'a>> {
    let mut message = Vec::new();
    let mut awaited = Vec::new();
    for resignation in resignations {
        let router = &resignation.router;
        let interface = &router.plain().interface;
        if router.is_alone() {
            continue;
        }
        let sent = (|| -> io::Result<AdvertSocket> {
            let link = netlink.link_by_name(interface)?;
            let index = link.ok_or_else(|| io::Error::other("no such link"))?.index;
            let multicast = router.is_multicast();
            let socket = AdvertSocket::open(interface, index, router.source(), multicast)?;
            for peer in router.destinations() {
                resignation.emit(*peer, &mut message);
                // One that cannot be reached must not keep the others waiting.
                if let Err(error) = socket.send(*peer, &message) {
                    warn!(vrid = router.vrid().value(), %peer, %error, "no resignation");
                }
            }
            Ok(socket)
        })();
        match sent {
            Ok(socket) => {
                let wait = router.longest_skew() + machine::LINGER;
                awaited.push(Awaited {
                    router,
                    socket,
                    until: clock::now() + wait.min(LONGEST_WAIT),
                });
            }
            Err(error) => warn!(vrid = router.vrid().value(), %error, "no resignation"),
        }
    }
    awaited
}

#[cfg(test)]
mod tests {
    use super::*;
    use krater_vrrp_proto::Packet;
    use serde_json::{Value, json};

    /// A will as it arrives, and what is said to a destination.
    fn said(changes: &Value, older: &[&str], to: &str) -> Vec<u8> {
        let mut router = json!({
            "vrid": 51, "interface": "eth1", "priority": 100, "advert_interval": 100,
            "source": "10.99.0.11", "peers": ["10.99.0.12", "10.99.0.13"],
            "addresses": ["10.99.0.50/32"],
        });
        for (key, value) in changes.as_object().unwrap() {
            router[key] = value.clone();
        }
        let will = json!({"Active": {"router": router, "older": older}});
        let Will::Active { router, older } = serde_json::from_value(will).unwrap() else {
            panic!("another will");
        };
        let resignation = Resignation::new(*router, older).unwrap();
        let mut message = Vec::new();
        resignation.emit(to.parse().unwrap(), &mut message);
        message
    }

    #[test]
    fn version_3_to_each_peer_in_the_checksum_that_it_reads() {
        for (to, form) in [
            ("10.99.0.12", ChecksumForm::Rfc9568),
            ("10.99.0.13", ChecksumForm::PseudoHeader),
        ] {
            let message = said(&json!({}), &["10.99.0.13"], to);
            let packet = Packet::new(&message).unwrap();
            assert_eq!((packet.version(), packet.priority()), (3, 0));
            let source = "10.99.0.11".parse().unwrap();
            let read = packet.checksum_form(source, to.parse().unwrap());
            assert_eq!(read, Some(form), "{to}");
        }
    }

    #[test]
    fn version_2_with_and_without_a_password_byte_for_byte() {
        let hex = |message: Vec<u8>| -> String {
            message.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        // As captured from keepalived: a resignation with the password "abcdefg".
        let with = said(
            &json!({"version": 2, "password": "abcdefg"}),
            &[],
            "10.99.0.12",
        );
        assert_eq!(hex(with), "21330001010142080a6300326162636465666700");
        // Without: type 0 and no data, so that the sum has neither.
        let without = said(&json!({"version": 2}), &[], "10.99.0.12");
        assert_eq!(hex(without), "213300010001d4350a6300320000000000000000");
    }
}
