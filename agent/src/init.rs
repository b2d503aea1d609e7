//! `amphora init`: process 1 of the amphora image. The initrd is the whole system: this program and kernel modules.
//!
//! Owns: everything between the kernel and the agent (mounts, modules, clock, config drive, management NIC), the
//! agent's life, and the end of the machine. One thread, one loop over poll(2); what it cannot do, it says on the
//! console, which is all that an operator sees of a machine without a shell. It decides nothing about load
//! balancing, and supervises neither data plane nor vrrp: they are the agent's, and it only reaps them.

mod agent;
mod clock;
mod console;
mod data;
mod drive;
mod housekeeping;
mod image;
mod modules;
mod mounts;
mod network;
mod power;
mod sys;
mod verdict;

use agent::Agent;
use console::say;
use image::Image;
use krater_model::guest::uevent::{Action, Uevent};
use krater_net::sync::NetlinkSocket;
use krater_net::uevent::Uevents;
use network::Network;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use power::Watchdog;
use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};
use sys::End;
use verdict::{Deaths, Verdict};

/// What only this program reads and writes.
const RUN: &str = "/run/init";
/// How long disks and NICs may take to appear after the modules are loaded: SATA and SCSI look for theirs by
/// themselves.
const LATE: Duration = Duration::from_secs(10);
/// Between two looks for them, for those that no event announces.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Events of the kernel that are read at once.
const AT_ONCE: usize = 64;
/// At the end: for the agent, for vrrp to hand its addresses over, for all the others.
const AGENT_ENDS: Duration = Duration::from_secs(5);
const VRRP_ENDS: Duration = Duration::from_secs(6);
const OTHERS_END: Duration = Duration::from_secs(3);
/// How often the end of processes is looked for then, and a socket of the agent after its start.
const GLANCE: Duration = Duration::from_millis(20);
/// How long it is looked for that a new agent listens.
const LISTENS_WITHIN: Duration = Duration::from_secs(60);
/// A shell that ends earlier is broken.
const SHELL_LIVES: Duration = Duration::from_secs(1);
/// How often the hardware clock is read.
const CLOCK_EVERY: Duration = Duration::from_secs(600);

/// Why an amphora cannot work.
#[derive(Debug)]
struct Fault {
    /// What it is about, one word.
    what: &'static str,
    /// What is wrong, and what helps.
    why: String,
}

impl Fault {
    const fn new(what: &'static str, why: String) -> Self {
        Self { what, why }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// Why booting stopped.
enum Stop {
    Fault(Fault),
    End(End),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Whether the kernel started this program as its first: the initrd's `/init`. In a container a process 1 may be
/// anything.
pub(crate) fn is_wanted() -> bool {
    std::process::id() == 1
        && std::env::args_os()
            .next()
            .is_some_and(|name| name == "/init")
}

/// `amphora init`.
pub(crate) fn command() -> anyhow::Result<()> {
    anyhow::ensure!(
        std::process::id() == 1,
        "init runs as process 1 only: it is what the kernel of the amphora image starts"
    );
    run()
}

/// Runs until the machine ends.
pub(crate) fn run() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        say(format_args!("process 1 panics: {panic}"))
    }));
    let end = std::panic::catch_unwind(live).unwrap_or_else(|_| {
        let seconds = verdict::RESTART_AFTER.as_secs();
        say(format_args!(
            "restart in {seconds} s: process 1 is broken, please report it"
        ));
        std::thread::sleep(verdict::RESTART_AFTER);
        End::Restart
    });
    nix::unistd::sync();
    let error = sys::reboot(end);
    say(format_args!("the kernel does not end the machine: {error}"));
    loop {
        std::thread::park();
    }
}

fn live() -> End {
    mounts::all();
    let image = Image::read();
    say(format_args!("starts: {}", image.shown()));
    image.panic_on_demand();
    let mut init = match Init::new(image) {
        Ok(init) => init,
        Err(error) => {
            // Without signals there is no reaping: nothing that could go on.
            say(format_args!("signals: {error}"));
            std::thread::sleep(verdict::RESTART_AFTER);
            return End::Restart;
        }
    };
    let end = match init.boot() {
        Ok(()) => init.serve(),
        Err(Stop::Fault(fault)) => init.give_up(&fault, verdict::FAULT_AFTER),
        Err(Stop::End(end)) => end,
    };
    init.finish(end);
    end
}

/// All that process 1 waits for.
struct Init {
    image: Image,
    signals: SignalFd,
    uevents: Option<Uevents>,
    buttons: Vec<File>,
    watchdog: Option<Watchdog>,
    network: Option<Network>,
    agent: Option<Agent>,
    /// A new agent does not listen yet; looked for until then.
    starting: Option<Instant>,
    /// When to start the agent again.
    again: Option<Instant>,
    deaths: Deaths,
    /// The agent cannot live.
    hopeless: Option<Fault>,
    /// The shell of the debug variant, and when it was started.
    shell: Option<(Pid, Instant)>,
    /// A disk or NIC came or went since it was last looked at.
    changed: bool,
    data: bool,
    housekeeping: Instant,
    clock: Instant,
}

impl Init {
    fn new(image: Image) -> nix::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGPWR,
        ] {
            set.add(signal);
        }
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        if let Err(error) = sys::catch_ctrl_alt_del() {
            say(format_args!("ctrl-alt-del restarts at once: {error}"));
        }
        // Before the modules: what they find is announced.
        let uevents = Uevents::open()
            .inspect_err(|error| say(format_args!("no events of devices: {error}")))
            .ok();
        let now = Instant::now();
        Ok(Self {
            image,
            signals,
            uevents,
            buttons: Vec::new(),
            watchdog: None,
            network: None,
            agent: None,
            starting: None,
            again: None,
            deaths: Deaths::default(),
            hopeless: None,
            shell: None,
            changed: false,
            data: false,
            housekeeping: now + housekeeping::EVERY,
            clock: now + CLOCK_EVERY,
        })
    }

    fn boot(&mut self) -> Result<(), Stop> {
        network::loopback();
        modules::load();
        clock::parameters();
        clock::set();
        self.buttons = power::buttons();
        self.watchdog = Watchdog::open();
        self.start_shell();
        let contents = self.config_drive()?;
        clock::identity(&contents.meta);
        agent::check()?;
        let netlink = NetlinkSocket::open().map_err(|e| Fault::new("network", e.to_string()))?;
        let link = self.until(
            || network::find(&netlink, &contents.network).unwrap_or_default(),
            || network::missing(&netlink, &contents.network),
        )?;
        let name = contents.meta.hostname.as_deref();
        self.network = Some(Network::start(netlink, link, &contents.network, name)?);
        self.data = data::mount(&drive::disks());
        mounts::seal_root();
        self.start_agent();
        Ok(())
    }

    fn config_drive(&mut self) -> Result<drive::Contents, Stop> {
        let contents = self.until(
            || {
                let disks = drive::disks();
                drive::find(&disks).map(drive::read)
            },
            || drive::missing(&drive::disks()),
        )?;
        Ok(contents?)
    }

    /// Looks until there is something, at each event of a device and now and then; after [`LATE`] it is missing.
    fn until<T>(
        &mut self,
        look: impl Fn() -> Option<T>,
        missing: impl Fn() -> Fault,
    ) -> Result<T, Stop> {
        let deadline = Instant::now() + LATE;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(missing().into());
            }
            let next = (now + LOOK_AGAIN).min(deadline);
            self.changed = false;
            while !self.changed && Instant::now() < next {
                self.wait(next).map_err(Stop::End)?;
            }
        }
    }

    /// Until the machine is told to end, or the agent cannot live.
    fn serve(&mut self) -> End {
        loop {
            if let Some(fault) = self.hopeless.take() {
                return self.give_up(&fault, verdict::RESTART_AFTER);
            }
            let now = Instant::now();
            if self.again.is_some_and(|at| now >= at) {
                self.again = None;
                self.start_agent();
            }
            if now >= self.housekeeping {
                self.housekeeping = now + housekeeping::EVERY;
                housekeeping::logs();
            }
            if now >= self.clock {
                self.clock = now + CLOCK_EVERY;
                clock::follow();
            }
            let next = self
                .again
                .unwrap_or(self.housekeeping)
                .min(self.housekeeping);
            if let Err(end) = self.wait(next) {
                return end;
            }
        }
    }

    /// Says what is wrong until the time is over, and again meanwhile; the machine can be told to end earlier.
    fn give_up(&mut self, fault: &Fault, patience: Duration) -> End {
        let restart = Instant::now() + patience;
        loop {
            let left = restart.saturating_duration_since(Instant::now());
            if left.is_zero() {
                say(format_args!("{fault}\nrestarts now"));
                return End::Restart;
            }
            say(format_args!(
                "{fault}\nrestarts in {} s",
                left.as_secs_f32().ceil()
            ));
            let repeat = Instant::now() + left.min(verdict::REPEAT_EVERY);
            while Instant::now() < repeat {
                if let Err(end) = self.wait(repeat) {
                    return end;
                }
            }
        }
    }

    /// Waits for anything, `until` at most, and handles it. An error is that the machine shall end.
    fn wait(&mut self, until: Instant) -> Result<(), End> {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.pet();
        }
        let mut longest = until.saturating_duration_since(Instant::now());
        if self.watchdog.is_some() {
            longest = longest.min(power::PET_EVERY);
        }
        if self.starting.is_some() {
            longest = longest.min(GLANCE);
        }
        if let Some(idle) = self.network.as_ref().and_then(Network::idle) {
            longest = longest.min(idle);
        }
        // Rounded up: a wait that ends too early would be repeated with nothing to do.
        let millis = longest.as_micros().div_ceil(1_000);
        let millis = u16::try_from(millis).unwrap_or(u16::MAX);
        let dhcp = self.network.as_ref().and_then(Network::socket);
        let uevents = self.uevents.as_ref().map(AsFd::as_fd);
        let others = self.buttons.iter().map(AsFd::as_fd);
        let mut set: Vec<PollFd<'_>> = std::iter::once(self.signals.as_fd())
            .chain(dhcp)
            .chain(uevents)
            .chain(others)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match poll(&mut set, PollTimeout::from(millis)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                say(format_args!("poll: {error}"));
                std::thread::sleep(Duration::from_secs(1)); // never a loop without a pause
            }
        }
        drop(set);
        // All are asked: each says when it has nothing.
        self.devices();
        self.listens();
        if let Some(network) = &mut self.network {
            network.receive();
            network.tick();
        }
        self.signalled()?;
        self.button()
    }

    fn signalled(&mut self) -> Result<(), End> {
        let mut end = None;
        while let Ok(Some(info)) = self.signals.read_signal() {
            match i32::try_from(info.ssi_signo).map(Signal::try_from) {
                Ok(Ok(Signal::SIGINT)) => end = Some(("ctrl-alt-del", End::Restart)),
                Ok(Ok(Signal::SIGTERM)) => end = Some(("SIGTERM", End::PowerOff)),
                Ok(Ok(Signal::SIGPWR)) => end = Some(("SIGPWR", End::PowerOff)),
                _ => {}
            }
        }
        self.reap();
        match end {
            None => Ok(()),
            Some((why, end)) => {
                say(format_args!("{why}: {}", shown(end)));
                Err(end)
            }
        }
    }

    fn button(&mut self) -> Result<(), End> {
        let mut pressed = false;
        self.buttons
            .retain_mut(|device| match power::pressed(device) {
                Ok(now) => {
                    pressed |= now;
                    true
                }
                Err(_) => false,
            });
        if pressed {
            say(format_args!("power button: {}", shown(End::PowerOff)));
            return Err(End::PowerOff);
        }
        Ok(())
    }

    /// Says when a new agent can be reached: from here on it is the agent that tells what is wrong, in its answers.
    fn listens(&mut self) {
        let Some(until) = self.starting else {
            return;
        };
        let port = agent::port();
        if let Some(port) = port {
            say(format_args!("agent listens on port {port}"));
        }
        if port.is_some() || self.agent.is_none() || Instant::now() >= until {
            self.starting = None;
        }
    }

    /// Takes the kernel's events.
    fn devices(&mut self) {
        let Some(uevents) = &self.uevents else {
            return;
        };
        let mut plugged = false;
        for _ in 0..AT_ONCE {
            let event = match uevents.next() {
                Ok(Some(datagram)) => Uevent::parse(&datagram),
                Ok(None) => break,
                Err(_lost) => {
                    self.changed = true;
                    plugged = true;
                    break;
                }
            };
            let Some(event) = event else {
                continue;
            };
            match (event.subsystem.as_str(), event.action, event.interface) {
                ("net", Action::Add, Some(name)) => {
                    self.changed = true;
                    plugged = true;
                    // The agent finds it by its address, as soon as its controller names it.
                    let mac = std::fs::read_to_string(format!("/sys/class/net/{name}/address"));
                    say(format_args!(
                        "NIC {name} ({}) is there",
                        mac.unwrap_or_default().trim()
                    ));
                }
                ("net", Action::Remove, Some(name)) => {
                    say(format_args!("NIC {name} left the management namespace"));
                }
                ("block", Action::Add | Action::Change, _) => self.changed = true,
                _ => {}
            }
        }
        if plugged && let Some(network) = &self.network {
            network.vlans();
        }
    }

    /// Takes note of all ended processes: the agent, the shell, and orphans.
    fn reap(&mut self) {
        loop {
            let status = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(error) => return say(format_args!("wait for processes: {error}")),
            };
            if let Some((_, started)) = self.shell.take_if(|(pid, _)| status.pid() == Some(*pid)) {
                // One that cannot live is not started in a circle.
                if started.elapsed() >= SHELL_LIVES {
                    self.start_shell();
                } else {
                    say("the shell ended at once: it is not started again");
                }
            }
            if let Some(agent) = self.agent.take_if(|agent| status.pid() == Some(agent.pid)) {
                self.agent_ended(&agent, status);
            }
        }
    }

    fn start_shell(&mut self) {
        self.shell = self.image.shell().map(|pid| (pid, Instant::now()));
    }

    fn start_agent(&mut self) {
        match agent::start() {
            Ok(agent) => {
                self.agent = Some(agent);
                self.starting = Some(Instant::now() + LISTENS_WITHIN);
            }
            Err(error) => {
                let why = format!("cannot be started: {error}");
                self.hopeless = Some(Fault::new("agent", why));
            }
        }
    }

    fn agent_ended(&mut self, agent: &Agent, status: WaitStatus) {
        let lived = agent.started.elapsed();
        let how = match status {
            WaitStatus::Exited(_, code) => format!("with status {code}"),
            WaitStatus::Signaled(_, signal, _) => format!("by {signal}"),
            other => format!("{other:?}"),
        };
        let seconds = lived.as_secs();
        let mut why = format!("ended {how} after {seconds} s");
        let words = agent::last_words();
        if !words.is_empty() {
            why = format!("{why}; it said:\n{words}");
        }
        let fault = Fault::new("agent", why);
        match self.deaths.after(lived) {
            Verdict::Again(wait) => {
                say(format_args!(
                    "{fault}\na new one starts in {} s",
                    wait.as_secs()
                ));
                self.again = Some(Instant::now() + wait);
            }
            Verdict::Restart => self.hopeless = Some(fault),
        }
    }

    /// Ends everything in order: the agent, so that it starts nothing again; vrrp, which hands its addresses over
    /// while the data plane still serves; then the others.
    fn finish(&mut self, end: End) {
        say(format_args!("ends: {}", shown(end)));
        if let Some(agent) = self.agent.take() {
            agent.stop();
            ended_within(AGENT_ENDS, || !is_alive(agent.pid));
        }
        let routers = agent::processes("vrrp");
        for router in &routers {
            let _ = kill(*router, Signal::SIGTERM);
        }
        ended_within(VRRP_ENDS, || !routers.iter().any(|pid| is_alive(*pid)));
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            // All but this process.
            let _ = kill(Pid::from_raw(-1), signal);
            if ended_within(OTHERS_END, || false) {
                break;
            }
        }
        if let Some(network) = &mut self.network {
            network.release();
        }
        if self.data {
            data::unmount();
        }
        nix::unistd::sync();
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.close();
        }
    }
}

const fn shown(end: End) -> &'static str {
    match end {
        End::Restart => "the machine restarts",
        End::PowerOff => "the machine goes off",
    }
}

/// Reaps until `done`, or until there is no child left; false when neither came in time.
fn ended_within(limit: Duration, done: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return true,
            Ok(WaitStatus::StillAlive) | Err(_) => {
                if done() {
                    return true;
                }
                if Instant::now() >= deadline {
                    return false;
                }
                std::thread::sleep(GLANCE);
            }
            Ok(_) => {}
        }
    }
}

fn is_alive(pid: Pid) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
