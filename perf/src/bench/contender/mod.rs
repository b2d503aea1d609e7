//! What is measured: Krater, and the peers that do the same work.

mod haproxy;
mod krater;
mod nginx;

use super::topology::{Place, Topology};
use super::workload::{Service, Unit};
use crate::origin::Ports;
use anyhow::{Context, bail};
use krater_net::process::ProcessId;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a contender may take until it serves.
const STARTING: Duration = Duration::from_secs(20);

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Who {
    Krater,
    /// Another amphora binary, for `compare`.
    Old,
    /// With what Octavia's template renders.
    HaproxyOctavia,
    /// Hand-tuned.
    HaproxyTuned,
    Nginx,
    /// No load balancer: the kernel routes.
    Direct,
}

impl Who {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Krater => "krater",
            Self::Old => "old",
            Self::HaproxyOctavia => "haproxy-octavia",
            Self::HaproxyTuned => "haproxy-tuned",
            Self::Nginx => "nginx",
            Self::Direct => "direct",
        }
    }

    /// The port of its listener: all are up at the same time.
    const fn port(self) -> u16 {
        match self {
            Self::Krater => 8_001,
            Self::Old => 8_005,
            Self::HaproxyOctavia => 8_002,
            Self::HaproxyTuned => 8_003,
            Self::Nginx => 8_004,
            Self::Direct => 0,
        }
    }
}

impl Who {
    /// Whether it does this at all. HAProxy balances no UDP, and Krater does neither that nor HTTP/2 yet; the
    /// members speak HTTP/1.1 only.
    pub(crate) fn does(self, service: Service) -> bool {
        match service {
            Service::Udp => matches!(self, Self::Nginx | Self::Direct),
            Service::Http2 => !matches!(self, Self::Krater | Self::Old | Self::Direct),
            _ => true,
        }
    }

    /// Whether it has a configuration that can change, where the row is about that.
    pub(crate) fn changes(self, unit: Unit) -> bool {
        unit != Unit::Change || self != Self::Direct
    }
}

/// Programs of the contenders.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) amphora: PathBuf,
    /// For `compare`.
    pub(crate) old: Option<PathBuf>,
    /// For `self-test`: share of its own CPU time that Krater burns on top.
    pub(crate) handicap: Option<f64>,
    pub(crate) haproxy: Option<PathBuf>,
    pub(crate) nginx: Option<PathBuf>,
    /// Folder of unpacked packages, for libraries and modules.
    pub(crate) tree: PathBuf,
}

impl Programs {
    /// A peer's command, which finds its libraries whether installed or only unpacked.
    fn peer(&self, program: &Path) -> Command {
        unpacked(program, &self.tree)
    }

    /// First line of what a program says of its version.
    pub(crate) fn version(&self, who: Who) -> anyhow::Result<String> {
        let (mut command, what) = match who {
            Who::Krater => (Command::new(&self.amphora), "--version"),
            Who::Old => (Command::new(self.need(who)?), "--version"),
            Who::HaproxyOctavia | Who::HaproxyTuned => (self.peer(self.need(who)?), "-v"),
            Who::Nginx => (self.peer(self.need(who)?), "-v"),
            Who::Direct => return Ok("kernel routing".into()),
        };
        let output = command
            .arg(what)
            .output()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    fn need(&self, who: Who) -> anyhow::Result<&Path> {
        if who == Who::Old {
            return self.old.as_deref().context("no other amphora was given");
        }
        let (program, option, package) = match who {
            Who::Nginx => (&self.nginx, "nginx", "nginx"),
            _ => (&self.haproxy, "haproxy", "haproxy"),
        };
        program.as_deref().with_context(|| {
            format!(
                "{option} is missing: run `cargo xtask setup` (it fetches Debian's), or `apt-get install \
                 {package}`, or give --peer-bin {option}=PATH"
            )
        })
    }
}

/// A command for a program that may be unpacked in `tree`, with its libraries beside it.
pub(crate) fn unpacked(program: &Path, tree: &Path) -> Command {
    let mut command = Command::new(program);
    if program.starts_with(tree) {
        let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
        let libraries = [
            tree.join("usr/lib").join(&triple),
            tree.join("lib").join(&triple),
        ];
        let joined = libraries.map(|p| p.display().to_string()).join(":");
        command.env("LD_LIBRARY_PATH", joined);
    }
    command
}

/// What a load balancer is to do.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    pub(crate) service: Service,
    pub(crate) topology: &'a Topology,
    pub(crate) programs: &'a Programs,
    pub(crate) origin: &'a Ports,
    /// Certificate chain and key.
    pub(crate) pem: &'a str,
}

impl Task<'_> {
    /// The members' port.
    fn member_port(&self) -> anyhow::Result<u16> {
        let address = match self.service {
            Service::Echo => self.origin.echo,
            Service::Bulk => self.origin.bulk,
            Service::Udp => self.origin.udp,
            _ => self.origin.http,
        };
        Ok(address.context("the origin does not serve this")?.port())
    }

    const fn is_http(&self) -> bool {
        self.service.is_http()
    }

    const fn is_tls(&self) -> bool {
        self.service.is_tls()
    }

    /// Whether members are looked after.
    pub(crate) const fn has_checks(&self) -> bool {
        !matches!(self.service, Service::Pools(_))
    }

    /// How many members each pool has; they share two addresses otherwise.
    fn members(&self) -> &[IpAddr] {
        let all = &self.topology.members;
        match self.service {
            Service::Pools(_) => all,
            _ => all.get(..2).unwrap_or(all),
        }
    }

    /// How many policies come before the default pool.
    const fn policies(&self) -> u16 {
        match self.service {
            Service::Policies(n) | Service::Pools(n) => n,
            _ => 0,
        }
    }

    /// Path prefix of policy `n`, from 1: only the last one matches what is asked.
    fn prefix(&self, n: u16) -> String {
        if n == self.policies() {
            "/bytes".into()
        } else {
            format!("/no-such-{n}")
        }
    }
}

/// What a load balancer says it did.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) connections: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// A running load balancer.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) who: Who,
    pub(crate) address: SocketAddr,
    child: Option<Child>,
    /// See [`Programs::handicap`].
    burner: Option<Child>,
    folder: PathBuf,
    /// Its whole configuration.
    pub(crate) configuration: String,
}

impl Contender {
    /// Starts it and waits until it serves.
    pub(crate) fn start(who: Who, task: &Task<'_>) -> anyhow::Result<Self> {
        let folder = task.topology.folder.join(who.name());
        fs::create_dir_all(&folder)?;
        open_to_all(&folder)?;
        open_to_all(&task.topology.folder)?;
        let address = SocketAddr::new(task.topology.vip, who.port());
        let (child, configuration) = match who {
            Who::Krater => krater::start(task, &task.programs.amphora, &folder, address)?,
            Who::Old => krater::start(task, task.programs.need(who)?, &folder, address)?,
            Who::HaproxyOctavia => haproxy::start(task, &folder, address, false)?,
            Who::HaproxyTuned => haproxy::start(task, &folder, address, true)?,
            Who::Nginx => nginx::start(task, &folder, address)?,
            Who::Direct => {
                let to: IpAddr = task.topology.members[0];
                let port = if task.is_tls() {
                    task.origin.https.context("the origin has no TLS")?.port()
                } else {
                    task.member_port()?
                };
                return Ok(Self {
                    who,
                    address: (to, port).into(),
                    child: None,
                    burner: None,
                    folder,
                    configuration: "no load balancer: the kernel routes to the first member\n"
                        .into(),
                });
            }
        };
        let mut this = Self {
            who,
            address,
            child: Some(child),
            burner: None,
            folder,
            configuration,
        };
        this.wait(task).with_context(|| who.name())?;
        if let (Some(share), Who::Krater, Some(pid)) = (task.programs.handicap, who, this.pid()) {
            let mut burn = Command::new("/proc/self/exe");
            burn.args([
                "burn",
                "--pid",
                &pid.to_string(),
                "--share",
                &share.to_string(),
            ]);
            burn.stdin(Stdio::null());
            this.burner = Some(task.topology.spawn(Place::Balancer, burn)?);
        }
        Ok(this)
    }

    /// Waits until its listener takes connections.
    fn wait(&mut self, task: &Task<'_>) -> anyhow::Result<()> {
        let end = Instant::now() + STARTING;
        let (address, mut served) = (self.address, false);
        loop {
            if let Some(status) = self
                .child
                .as_mut()
                .map(Child::try_wait)
                .transpose()?
                .flatten()
            {
                bail!("ended with {status}:\n{}", log(&self.folder));
            }
            let connect = move || TcpStream::connect_timeout(&address, Duration::from_secs(1));
            served = served
                || match task.service {
                    Service::Udp => task
                        .topology
                        .within(Place::Client, move || echoes(address))?,
                    _ => task.topology.within(Place::Client, connect)?.is_ok(),
                };
            // Our own connection must be counted before the first measurement looks at the counters.
            let counted = || match self.seen() {
                Ok(Some(seen)) => seen.connections > 0,
                Ok(None) => true,
                Err(_) => false, // its socket is not there yet
            };
            if served && counted() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!(
                    "does not listen on {address} after {STARTING:?}:\n{}",
                    log(&self.folder)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its process; none for `direct`.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The processes whose trees are measured.
    pub(crate) fn pids(&self) -> Vec<u32> {
        [&self.child, &self.burner]
            .into_iter()
            .flatten()
            .map(Child::id)
            .collect()
    }

    /// Gives it a configuration that differs in the weight of a member, and waits until that serves; the
    /// time it took.
    pub(crate) fn change(&self, number: u32) -> anyhow::Result<Duration> {
        let start = Instant::now();
        match (self.who, self.pid()) {
            (Who::Krater | Who::Old, _) => krater::change(&self.folder, number)?,
            (Who::HaproxyOctavia | Who::HaproxyTuned, Some(master)) => {
                haproxy::change(&self.folder, number, master)?;
            }
            (Who::Nginx, Some(master)) => nginx::change(&self.folder, number, master)?,
            _ => bail!("{} has no configuration", self.who.name()),
        }
        Ok(start.elapsed())
    }

    /// What it counted so far; none when it has no counters.
    pub(crate) fn seen(&self) -> anyhow::Result<Option<Seen>> {
        match self.who {
            Who::Krater | Who::Old => krater::seen(&self.folder).map(Some),
            Who::HaproxyOctavia | Who::HaproxyTuned => haproxy::seen(&self.folder).map(Some),
            Who::Nginx | Who::Direct => Ok(None),
        }
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some(burner) = &mut self.burner {
            let _gone = burner.kill();
            let _reaped = burner.wait();
        }
        if let Some(child) = &mut self.child {
            let family: Vec<_> = crate::cpu::tree(&[child.id()])
                .into_iter()
                .filter_map(|pid| ProcessId::of(pid).ok())
                .collect();
            for process in &family {
                let _gone = process.signal(libc::SIGKILL);
            }
            let _reaped = child.wait();
            // A worker that outlives its master would answer on the address of the next one.
            for process in &family {
                let _gone = process.wait(STARTING);
            }
        }
    }
}

/// Polls until something is so.
fn until(what: &str, mut is: impl FnMut() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + STARTING;
    while !is() {
        if Instant::now() > end {
            bail!("waited {STARTING:?} in vain until {what}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The configuration in `path` with another weight of the first member: `number` says which.
fn with_weight(path: &Path, word: (&str, &str), number: u32) -> anyhow::Result<()> {
    let text = fs::read_to_string(path)?;
    let (from, to) = if number % 2 == 1 {
        word
    } else {
        (word.1, word.0)
    };
    if !text.contains(from) {
        bail!("{}: there is no {from:?} to change", path.display());
    }
    fs::write(path, text.replacen(from, to, 1))?;
    Ok(())
}

/// Whether a datagram comes back.
fn echoes(address: SocketAddr) -> bool {
    let exchange = || -> std::io::Result<usize> {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        socket.connect(address)?;
        socket.send(b"?")?;
        socket.recv(&mut [0; 8])
    };
    exchange().is_ok()
}

/// Children that drop privileges must get at their files.
fn open_to_all(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The end of whatever a contender wrote.
fn log(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "log") {
            let all = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = all.lines().collect();
            let from = lines.len().saturating_sub(10);
            let _infallible = writeln!(text, "{}: {}", path.display(), lines[from..].join("\n"));
        }
    }
    text
}

/// Standard output and error into a file of the folder.
fn logged(command: &mut Command, folder: &Path) -> anyhow::Result<()> {
    let file = fs::File::create(folder.join("stderr.log"))?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_peer_is_an_error_that_says_how_to_install_it() {
        let programs = Programs {
            amphora: "amphora".into(),
            old: None,
            handicap: None,
            haproxy: None,
            nginx: None,
            tree: "tree".into(),
        };
        for (who, package) in [(Who::HaproxyTuned, "haproxy"), (Who::Nginx, "nginx")] {
            let text = programs.version(who).unwrap_err().to_string();
            let fix = format!("apt-get install {package}");
            assert!(
                text.contains("cargo xtask setup") && text.contains(&fix),
                "{text}"
            );
        }
    }
}
