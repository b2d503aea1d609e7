//! Client, load balancer and server: three namespaces joined by veth, or one with `--loopback`.

use anyhow::{Context, bail};
use krater_net::link::{Address, Link, Route, TABLE_MAIN, VethSpec};
use krater_net::netns::{self, NetNs};
use krater_net::process::{ProcessId, kill_all_in};
use krater_net::sync::NetlinkSocket;
use krater_net::{PROTO_AGENT, sysctl};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where runs keep their namespaces and files; a folder per run, named by process and start time.
const RUNS: &str = "/run/krater-perf";
/// How long processes may take to die of SIGKILL.
const DYING: Duration = Duration::from_secs(10);

/// Addresses of the server.
const MEMBERS: u8 = 10;

/// Who runs where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Client,
    Balancer,
    Server,
}

/// The namespaces of a run; all that runs in them dies with this value.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) folder: PathBuf,
    places: Vec<(NetNs, PathBuf)>,
    /// Where clients find the load balancer.
    pub(crate) vip: IpAddr,
    /// Where members are.
    pub(crate) members: Vec<IpAddr>,
    /// The core of the load balancer, and the core of client and server.
    pub(crate) cores: (u32, u32),
    pub(crate) loopback: bool,
}

impl Topology {
    pub(crate) fn new(loopback: bool) -> anyhow::Result<Self> {
        let folder = run_folder()?;
        let count = u32::try_from(std::thread::available_parallelism()?.get())?;
        if count < 2 {
            bail!("one core only: load balancer and load generator need a core each");
        }
        let names: &[&str] = if loopback {
            &["all"]
        } else {
            &["client", "balancer", "server"]
        };
        let v4 = |a, b, c, d| IpAddr::V4(Ipv4Addr::new(a, b, c, d));
        let mut this = Self {
            places: Vec::new(),
            vip: if loopback {
                v4(127, 0, 0, 1)
            } else {
                v4(10, 77, 1, 1)
            },
            members: (0..MEMBERS)
                .map(|n| {
                    if loopback {
                        v4(127, 0, 0, 1 + n)
                    } else {
                        v4(10, 77, 2, 2 + n)
                    }
                })
                .collect(),
            cores: (0, count - 1),
            folder,
            loopback,
        };
        for name in names {
            let path = this.folder.join(name);
            let ns = NetNs::create(&path).with_context(|| format!("namespace {name}"))?;
            this.places.push((ns, path));
        }
        for (ns, _) in &this.places {
            sysctl::write_all(
                ns,
                &[
                    ("net/ipv4/ip_local_port_range", "1024 65535"),
                    // Ports below 10000 are the servers'.
                    ("net/ipv4/ip_local_reserved_ports", "1024-9999"),
                    // A connection per request uses a port per request, and needs them again at once.
                    ("net/ipv4/tcp_tw_reuse", "1"),
                    ("net/ipv4/ip_forward", "1"),
                    ("net/ipv4/ping_group_range", "0 4294967294"),
                ],
            )
            .context("kernel parameters of a namespace")?;
        }
        if !loopback {
            this.wire()?;
        }
        Ok(this)
    }

    fn wire(&self) -> anyhow::Result<()> {
        let [(client, _), (balancer, _), (server, _)] = self.places.as_slice() else {
            bail!("three namespaces were made");
        };
        let near = NetlinkSocket::open_in(balancer)?;
        let members: Vec<String> = self.members.iter().map(|ip| format!("{ip}/24")).collect();
        for (ns, name, own, theirs, gateway) in [
            (
                client,
                "clients",
                "10.77.1.1/24",
                &["10.77.1.2/24".to_owned()][..],
                "10.77.1.1",
            ),
            (server, "members", "10.77.2.1/24", &members, "10.77.2.1"),
        ] {
            use std::os::fd::AsFd;
            near.create_veth(&VethSpec {
                name,
                mac: None,
                master: None,
                mtu: None,
                up: true,
                peer: "eth0",
                peer_mac: None,
                peer_netns: Some(ns.as_fd()),
            })?;
            let far = NetlinkSocket::open_in(ns)?;
            let link = index(&far, "eth0")?;
            far.set_up(link, true)?;
            add(&near, index(&near, name)?, own)?;
            for address in theirs {
                add(&far, link, address)?;
            }
            far.add_route(&Route {
                to: "0.0.0.0/0".parse()?,
                via: Some(gateway.parse()?),
                link: Some(link),
                table: TABLE_MAIN,
                source: None,
                onlink: false,
                metric: None,
                protocol: PROTO_AGENT,
            })?;
        }
        Ok(())
    }

    fn of(&self, place: Place) -> anyhow::Result<&(NetNs, PathBuf)> {
        let index = match place {
            _ if self.loopback => 0,
            Place::Client => 0,
            Place::Balancer => 1,
            Place::Server => 2,
        };
        self.places.get(index).context("no such namespace")
    }

    /// Path of a namespace.
    pub(crate) fn path(&self, place: Place) -> anyhow::Result<&Path> {
        Ok(&self.of(place)?.1)
    }

    /// The core that a place is pinned to.
    pub(crate) const fn core(&self, place: Place) -> u32 {
        match place {
            Place::Balancer => self.cores.0,
            _ => self.cores.1,
        }
    }

    /// Runs something at a place.
    pub(crate) fn within<T: Send>(
        &self,
        place: Place,
        work: impl FnOnce() -> T + Send,
    ) -> anyhow::Result<T> {
        Ok(self.of(place)?.0.run(work)?)
    }

    /// Starts a program at a place, on that place's core.
    pub(crate) fn spawn(&self, place: Place, mut command: Command) -> anyhow::Result<Child> {
        let core = usize::try_from(self.core(place))?;
        let what = format!("start {}", command.get_program().display());
        // A child inherits namespace and core of the thread that forks it.
        let child = self.of(place)?.0.run(|| {
            let mut set = CpuSet::new();
            set.set(core)?;
            sched_setaffinity(Pid::from_raw(0), &set)?;
            command.spawn()
        })?;
        child.with_context(|| what)
    }
}

/// The folder of this run, empty and there, once what dead runs left is removed.
pub(crate) fn run_folder() -> anyhow::Result<PathBuf> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("namespaces can only be made by root: run as root");
    }
    sweep()?;
    let me = ProcessId::of(std::process::id())?;
    let folder = Path::new(RUNS).join(format!("{}-{}", me.pid, me.started));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

impl Drop for Topology {
    fn drop(&mut self) {
        let _reported_by_the_next_sweep = remove(&self.folder);
    }
}

fn index(socket: &NetlinkSocket, name: &str) -> anyhow::Result<u32> {
    let link: Option<Link> = socket.link_by_name(name)?;
    Ok(link
        .with_context(|| format!("link {name} is missing"))?
        .index)
}

fn add(socket: &NetlinkSocket, link: u32, address: &str) -> anyhow::Result<()> {
    socket.add_address(&Address {
        link,
        net: address.parse()?,
        protocol: PROTO_AGENT,
        no_prefix_route: false,
    })?;
    Ok(())
}

/// Removes what runs left that were killed before they could.
fn sweep() -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(RUNS) else {
        return Ok(()); // no run was ever made
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split_once('-').and_then(|(pid, started)| {
            Some(ProcessId {
                pid: pid.parse().ok()?,
                started: started.parse().ok()?,
            })
        });
        if owner.is_some_and(|owner| !owner.is_alive()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Ends all that runs in the namespaces of a run's folder, and removes both.
pub(crate) fn remove(folder: &Path) -> anyhow::Result<()> {
    let mut pinned = Vec::new();
    let mut ids = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Ok(ns) = NetNs::open(&entry.path()) {
            ids.push(ns.id()?);
            pinned.push(entry.path());
        }
    }
    kill_all_in(&ids, DYING)?;
    for path in &pinned {
        netns::delete(path)?;
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// A signal came: what fails from now on fails because of it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// After a signal: waits until the process ends, so that its own failures are not told.
pub(crate) fn end_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// On SIGINT and SIGTERM: leaves nothing behind. Call before any other thread exists.
pub(crate) fn clean_up_on_signals(folder_of: ProcessId) -> anyhow::Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    let folder = Path::new(RUNS).join(format!("{}-{}", folder_of.pid, folder_of.started));
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if set.wait().is_ok() {
                INTERRUPTED.store(true, Ordering::SeqCst);
                let _reported_by_the_next_sweep = remove(&folder);
                std::process::exit(130);
            }
        })?;
    Ok(())
}
