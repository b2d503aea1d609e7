//! `krater doctor`: can this host run Krater, and what is to do where it cannot.
//!
//! Each check does for real what Krater will do, in a namespace that it makes and removes.
#![allow(clippy::print_stdout, reason = "prints its findings")]

use super::{Machines, StateDir};
use crate::config::{Drivers, Qemu};
use crate::drivers::compute::netns::amphora_bin;
use crate::drivers::compute::qemu;
use crate::drivers::compute::qemu::image::Image;
use crate::drivers::layout::Layout;
use crate::drivers::network::client::clients;
use crate::drivers::network::local::has_ipv6;
use krater_net::announce::Announcer;
use krater_net::link::{Address, VethSpec};
use krater_net::netns::{self, NetNs};
use krater_net::process::{ProcessId, holding_signals};
use krater_net::sync::NetlinkSocket;
use krater_net::{PROTO_VRRP, sysctl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use serde::Serialize;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

/// Free disk below which nothing is started: database, logs (4 × 16 MiB per process) and a backup.
const MIN_DISK: u64 = 256 << 20;
/// Free memory below which two amphorae (60 MB) and a controller may not fit.
const MIN_MEMORY_KIB: u64 = 256 << 10;
/// Descriptors: a data plane needs two per connection.
const MIN_FILES: u64 = 4_096;
/// Folders that checks work in: this, the process id, a number.
const SCRATCH: &str = "krater-doctor-";
/// Descriptors from which on a data plane is at ease.
const GOOD_FILES: u64 = 65_536;

/// Arguments of `krater doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    state: StateDir,
    /// Address that the API shall listen on.
    #[arg(long, default_value = "127.0.0.1:9876", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The `amphora` program. [default: the file of that name beside krater]
    #[arg(long, env = "KRATER_AMPHORA_BIN", value_name = "FILE")]
    amphora_bin: Option<PathBuf>,
    /// What shall make amphorae.
    #[arg(
        long,
        visible_alias = "drivers",
        value_enum,
        env = "KRATER_DRIVERS",
        default_value = "netns"
    )]
    compute: Drivers,
    #[command(flatten)]
    machines: Machines,
    /// JSON instead of lines.
    #[arg(long)]
    json: bool,
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Krater runs, with a limit.
    Warn,
    /// Krater does not run.
    Fail,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty when there is nothing to do.
    pub cure: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            cure: String::new(),
        }
    }

    fn bad(name: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Fail,
            found: found.into(),
            cure: cure.into(),
        }
    }

    fn warn(name: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warn,
            ..Self::bad(name, found, cure)
        }
    }
}

/// What to check for.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// State folder; need not exist.
    pub state_dir: &'a Path,
    /// Where the API shall listen; none: not checked.
    pub listen: Option<SocketAddr>,
    /// What amphorae are made of.
    pub amphorae: Amphorae<'a>,
}

/// What amphorae are made of.
#[derive(Debug, Clone, Copy)]
pub enum Amphorae<'a> {
    /// Processes of the `amphora` program, as on the command line.
    Processes(Option<&'a Path>),
    /// Virtual machines.
    Machines(&'a Qemu),
    /// Nothing.
    Nothing,
}

/// Runs `krater doctor`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut config = Qemu::default();
    args.machines.over(&mut config);
    let checks = examine(&Subject {
        state_dir: &args.state.state_dir,
        listen: Some(args.listen),
        amphorae: match args.compute {
            Drivers::Netns => Amphorae::Processes(args.amphora_bin.as_deref()),
            Drivers::Qemu => Amphorae::Machines(&config),
            Drivers::Noop => Amphorae::Nothing,
        },
    });
    if args.json {
        println!("{}", serde_json::to_string_pretty(&checks)?);
    } else {
        for check in &checks {
            println!("{}", line(check));
        }
    }
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// For commands that start something: an error that says what to do, when this host cannot run Krater.
pub fn require(subject: &Subject<'_>) -> anyhow::Result<()> {
    let mut failed = examine(subject);
    failed.retain(|check| check.verdict == Verdict::Fail);
    if failed.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = failed.iter().map(line).collect();
    anyhow::bail!(
        "this host cannot run Krater (see `krater doctor`):\n{}",
        lines.join("\n")
    )
}

fn line(check: &Check) -> String {
    let verdict = match check.verdict {
        Verdict::Ok => "ok  ",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    let mut line = format!("{verdict}  {:<18} {}", check.name, check.found);
    if !check.cure.is_empty() {
        line.push_str(": ");
        line.push_str(&check.cure);
    }
    line
}

/// All checks, in the order in which they should be cured.
pub fn examine(subject: &Subject<'_>) -> Vec<Check> {
    let mut checks = vec![capabilities(), mounts()];
    let machine = matches!(subject.amphorae, Amphorae::Machines(_));
    checks.extend(kernel(machine));
    checks.push(ipv6());
    checks.push(pidfd());
    checks.push(open_files());
    checks.push(disk(subject.state_dir));
    checks.push(memory());
    checks.extend(subject.listen.map(|listen| port(listen, subject.state_dir)));
    match subject.amphorae {
        Amphorae::Processes(amphora_bin) => checks.push(program(amphora_bin)),
        Amphorae::Machines(config) => checks.extend(machines(config)),
        Amphorae::Nothing => {}
    }
    checks.push(leftovers(subject.state_dir));
    checks
}

/// Capabilities that some part needs, by bit number of capability.h.
const CAPABILITIES: [(u32, &str); 11] = [
    (0, "CHOWN"),
    (1, "DAC_OVERRIDE"),
    (5, "KILL"),
    (6, "SETGID"),
    (7, "SETUID"),
    (8, "SETPCAP"),
    (10, "NET_BIND_SERVICE"),
    (12, "NET_ADMIN"),
    (13, "NET_RAW"),
    (19, "SYS_PTRACE"),
    (21, "SYS_ADMIN"),
];

fn capabilities() -> Check {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    if missing.is_empty() {
        return Check::ok("capabilities", "all that are needed");
    }
    Check::bad(
        "capabilities",
        format!("missing: {}", missing.join(", ")),
        "run as root; in a container, give it these (docker run --privileged)",
    )
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let bits = bits.unwrap_or_default();
    let missing = CAPABILITIES.iter().filter(|(bit, _)| bits >> bit & 1 == 0);
    missing.map(|(_, name)| *name).collect()
}

/// Each amphora has mounts of its own; that is impossible below a plain chroot.
fn mounts() -> Check {
    match netns::check_private_mounts() {
        Ok(()) => Check::ok("mounts", "a process can have its own"),
        Err(error) => Check::bad(
            "mounts",
            error.to_string(),
            "a root folder that is a mount point, and the right to unshare and mount (SYS_ADMIN)",
        ),
    }
}

/// Namespaces, veth, bridge, tags, packet sockets, parameters: each tried in a namespace of its own.
fn kernel(machine: bool) -> Vec<Check> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let base = std::env::temp_dir();
    sweep(&base);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = base.join(format!("{SCRATCH}{}-{number}", std::process::id()));
    let path = folder.join("netns");
    // SIGTERM right after the start would leave namespace and folder behind.
    let tried = holding_signals(|| try_out(&folder, &path, machine));
    tried.unwrap_or_else(|error| {
        let cure = "allow rt_sigprocmask (seccomp)";
        vec![Check::bad("signals", error.to_string(), cure)]
    })
}

fn try_out(folder: &Path, path: &Path, machine: bool) -> Vec<Check> {
    // Of a killed process that had our number.
    let _ = netns::delete(path);
    let made = std::fs::create_dir_all(folder).and_then(|()| NetNs::create(path));
    let checks = match made {
        Err(error) => vec![Check::bad(
            "namespaces",
            error.to_string(),
            "a kernel with CONFIG_NET_NS, and the right to unshare and mount (SYS_ADMIN)",
        )],
        Ok(netns) => {
            let mut checks = vec![Check::ok("namespaces", "made and pinned one")];
            checks.extend(links(&netns));
            checks.push(parameters(&netns));
            if machine {
                checks.push(tap_device(&netns));
            }
            checks
        }
    };
    let _ = netns::delete(path);
    let _ = std::fs::remove_dir_all(folder);
    checks
}

/// Removes what killed runs left.
fn sweep(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let pid = name
            .strip_prefix(SCRATCH)
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| ProcessId::of(pid).is_err()) {
            let _ = netns::delete(&entry.path().join("netns"));
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

fn links(netns: &NetNs) -> Vec<Check> {
    let mut checks = Vec::new();
    let netlink = match NetlinkSocket::open_in(netns) {
        Ok(netlink) => netlink,
        Err(error) => {
            let cure = "allow AF_NETLINK sockets (seccomp, systemd RestrictAddressFamilies)";
            return vec![Check::bad("netlink", error.to_string(), cure)];
        }
    };
    let mut tried = |name, what: &str, cure, result: io::Result<()>| {
        checks.push(match result {
            Ok(()) => Check::ok(name, what),
            Err(error) => Check::bad(name, error.to_string(), cure),
        });
    };
    let bridge = netlink.create_bridge("br0", None, None);
    tried(
        "bridge",
        "made one",
        "modprobe bridge",
        bridge.map_err(Into::into),
    );
    let veth = netlink.create_veth(&VethSpec {
        name: "a",
        mac: None,
        master: None,
        mtu: None,
        up: true,
        peer: "b",
        peer_mac: None,
        peer_netns: None,
    });
    tried(
        "veth",
        "made a pair",
        "modprobe veth",
        veth.map_err(Into::into),
    );
    let link = netlink.link_by_name("a").ok().flatten();
    let index = link.map_or(1, |link| link.index);
    tried(
        "address tags",
        "addresses carry their owner",
        "a kernel of at least 5.18 (IFA_PROTO), such as Debian 12's",
        tag(&netlink, index),
    );
    tried(
        "packet sockets",
        "opened one",
        "modprobe af_packet; give NET_RAW",
        Announcer::open_in(netns, index).map(drop),
    );
    checks
}

fn tag(netlink: &NetlinkSocket, link: u32) -> io::Result<()> {
    let address = Address {
        link,
        net: ipnet::Ipv4Net::new([192, 0, 2, 1].into(), 32)
            .map_err(io::Error::other)?
            .into(),
        protocol: PROTO_VRRP,
        no_prefix_route: true,
    };
    netlink.add_address(&address)?;
    if netlink
        .tagged_addresses(link, PROTO_VRRP)?
        .contains(&address)
    {
        Ok(())
    } else {
        Err(io::Error::other("the kernel does not keep them"))
    }
}

fn parameters(netns: &NetNs) -> Check {
    match sysctl::write(netns, "net/ipv4/ip_forward", "1") {
        Ok(()) => Check::ok("/proc/sys", "parameters of a namespace can be written"),
        Err(error) => Check::bad(
            "/proc/sys",
            error.to_string(),
            "make /proc/sys writable, or allow mounts (docker run --privileged)",
        ),
    }
}

fn ipv6() -> Check {
    if has_ipv6() {
        Check::ok("IPv6", "there")
    } else {
        let cure = "boot without ipv6.disable=1 to have IPv6 VIPs";
        Check::warn("IPv6", "the kernel has none", cure)
    }
}

fn pidfd() -> Check {
    let me = ProcessId::of(std::process::id());
    match me.and_then(|me| me.wait(std::time::Duration::ZERO)) {
        Ok(_) => Check::ok("process handles", "pidfd works"),
        Err(error) => {
            let cure = "a kernel of at least 5.3, /proc mounted, seccomp that allows pidfd_open";
            Check::bad("process handles", error.to_string(), cure)
        }
    }
}

fn open_files() -> Check {
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map(|(_, hard)| hard);
    let hard = match hard {
        Ok(hard) => hard,
        Err(error) => return Check::bad("open files", error.to_string(), "allow getrlimit"),
    };
    let found = format!("at most {hard} per process");
    let cure = "raise the hard limit (ulimit -Hn 1048576, LimitNOFILE=1048576)";
    match hard {
        GOOD_FILES.. => Check::ok("open files", found),
        MIN_FILES.. => Check::warn("open files", found, cure),
        _ => Check::bad("open files", found, cure),
    }
}

fn disk(state_dir: &Path) -> Check {
    // The folder may not exist yet: its nearest ancestor tells.
    let existing = state_dir.ancestors().find(|path| path.exists());
    let existing = existing.filter(|path| !path.as_os_str().is_empty());
    let existing = existing.unwrap_or_else(|| Path::new("."));
    match statvfs(existing) {
        Err(error) => {
            let found = format!("{}: {error}", existing.display());
            Check::bad("disk", found, "name another folder by --state-dir")
        }
        Ok(stat) => {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            let found = format!("{} MiB free at {}", free >> 20, existing.display());
            if free >= MIN_DISK {
                Check::ok("disk", found)
            } else {
                let cure = format!("free {} MiB, or use --state-dir", MIN_DISK >> 20);
                Check::bad("disk", found, cure)
            }
        }
    }
}

fn memory() -> Check {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    match number {
        None => Check::warn("memory", "unknown", "mount /proc"),
        Some(free) if free < MIN_MEMORY_KIB => {
            let found = format!("{} MiB available", free >> 10);
            let cure = format!("have at least {} MiB", MIN_MEMORY_KIB >> 10);
            Check::bad("memory", found, cure)
        }
        Some(free) => Check::ok("memory", format!("{} MiB available", free >> 10)),
    }
}

fn port(listen: SocketAddr, state_dir: &Path) -> Check {
    match TcpListener::bind(listen) {
        Ok(_) => Check::ok("port", format!("{listen} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_running(state_dir) => {
            Check::ok("port", format!("{listen} is the running controller's"))
        }
        Err(error) => Check::bad(
            "port",
            format!("{listen}: {error}"),
            "stop the program that listens there (ss -ltnp), or use --listen",
        ),
    }
}

/// A controller holds the lock of this state folder.
fn is_running(state_dir: &Path) -> bool {
    use nix::fcntl::{Flock, FlockArg};
    std::fs::File::open(state_dir.join("lock")).is_ok_and(|file| {
        matches!(
            Flock::lock(file, FlockArg::LockExclusiveNonblock),
            Err((_, nix::Error::EWOULDBLOCK))
        )
    })
}

fn program(given: Option<&Path>) -> Check {
    match amphora_bin(given) {
        Ok(path) => Check::ok("amphora program", path.display().to_string()),
        Err(error) => Check::bad(
            "amphora program",
            error.to_string(),
            "cargo build --release, or --amphora-bin",
        ),
    }
}

fn tap_device(netns: &NetNs) -> Check {
    match krater_net::tap::create(netns, "t") {
        Ok(_) => Check::ok("tap", "made one"),
        Err(error) => Check::bad("tap", error.to_string(), "modprobe tun; give NET_ADMIN"),
    }
}

fn machines(config: &Qemu) -> [Check; 2] {
    let program = match qemu::find_program(&config.binary) {
        Ok(path) => Check::ok("qemu program", path.display().to_string()),
        Err(error) => Check::bad(
            "qemu program",
            error.to_string(),
            "apt install qemu-system-x86, or --qemu-binary",
        ),
    };
    let folder = config.image.as_deref();
    let image = folder.map(|folder| Image::open(folder, config.boot));
    let image = match (image, folder) {
        (Some(Ok(_)), Some(folder)) => Check::ok("image", folder.display().to_string()),
        (Some(Err(error)), _) => Check::bad(
            "image",
            error.to_string(),
            "krater image build, then --image DIR",
        ),
        _ => Check::bad(
            "image",
            "none is named",
            "krater image build, then --image DIR",
        ),
    };
    [program, image]
}

fn leftovers(state_dir: &Path) -> Check {
    const NAME: &str = "leftovers";
    let Ok(layout) = Layout::open(state_dir) else {
        return Check::ok(NAME, "none: no controller has used this state folder");
    };
    let dead = clients(&layout).unwrap_or_default();
    let dead = dead.iter().filter(|(_, owner)| !owner.is_alive()).count();
    if dead > 0 {
        let found = format!("{dead} namespaces of `krater net` processes that were killed");
        return Check::warn(
            NAME,
            found,
            "the next `krater net` removes them, or `krater down`",
        );
    }
    let amphorae = layout.amphorae().unwrap_or_default().len();
    if amphorae > 0 && !is_running(state_dir) {
        let found = format!("{amphorae} amphorae run without a controller");
        let cure = "`krater up` takes them over, `krater down` ends them";
        return Check::warn(NAME, found, cure);
    }
    Check::ok(NAME, "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(state_dir: &Path) -> Subject<'_> {
        Subject {
            state_dir,
            listen: None,
            amphorae: Amphorae::Processes(Some(Path::new("/bin/sh"))),
        }
    }

    fn find<'a>(checks: &'a [Check], name: &str) -> &'a Check {
        checks.iter().find(|check| check.name == name).unwrap()
    }

    #[test]
    fn this_host_is_healthy_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let checks = examine(&subject(dir.path()));
        let failed: Vec<_> = checks
            .iter()
            .filter(|c| c.verdict == Verdict::Fail)
            .collect();
        assert!(failed.is_empty(), "{failed:?}");
        require(&subject(dir.path())).unwrap();
    }

    #[test]
    fn what_a_killed_check_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |pid: u32| dir.path().join(format!("{SCRATCH}{pid}-0"));
        let (dead, living) = (u32::MAX, std::process::id());
        for pid in [dead, living] {
            std::fs::create_dir(folder(pid)).unwrap();
            NetNs::create(&folder(pid).join("netns")).unwrap();
        }
        sweep(dir.path());
        assert!(!folder(dead).exists() && netns::exists(&folder(living).join("netns")));
        netns::delete(&folder(living).join("netns")).unwrap();
    }

    #[test]
    fn what_is_missing_is_named_with_its_cure() {
        assert_eq!(missing_capabilities("CapEff:\t000001ffffffffff\n"), [""; 0]);
        let none = missing_capabilities("CapEff:\t0000000000000000\n");
        assert_eq!(none.len(), CAPABILITIES.len());
        assert_eq!(
            missing_capabilities("CapEff:\t000001ffffffefff\n"),
            ["NET_ADMIN"]
        );

        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let checks = examine(&Subject {
            listen: taken.local_addr().ok(),
            amphorae: Amphorae::Processes(Some(Path::new("/nonexistent/amphora"))),
            ..subject(dir.path())
        });
        for name in ["port", "amphora program"] {
            let check = find(&checks, name);
            assert_eq!(check.verdict, Verdict::Fail, "{check:?}");
            assert!(line(check).starts_with("FAIL") && !check.cure.is_empty());
        }
        let error = require(&Subject {
            amphorae: Amphorae::Processes(Some(Path::new("/nonexistent/amphora"))),
            ..subject(dir.path())
        });
        assert!(error.unwrap_err().to_string().contains("--amphora-bin"));
    }

    #[test]
    fn a_dead_client_is_a_leftover() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        assert_eq!(leftovers(dir.path()).verdict, Verdict::Ok);
        let name = format!("{}-c-1-999999999", layout.instance());
        std::fs::write(layout.netns_dir().join(name), "").unwrap();
        let check = leftovers(dir.path());
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.cure.contains("krater down"));
    }
}
