//! Two and three routers on a virtual clock, over a network that loses, delays, duplicates, reorders
//! and splits, on hosts that stall, die and return. The very code that runs decides: machine, receive
//! ladder and codec.
//!
//! Each seed is a few rounds of chaos, each followed by calm in which the invariants are checked.
//! `KRATER_SIM_SEEDS=10000` widens the sweep, `KRATER_SIM_SEED=17` replays one seed.

#![allow(
    clippy::unwrap_used,
    reason = "a test; clippy sees only the functions marked as such"
)]

use krater_model::control::RouterState;
use krater_vrrp_proto::output::{Fault, Faults};
use krater_vrrp_proto::{
    ChecksumForm, Datagram, Event, Machine, Output, Reason, Router, Span, Time, receive,
};
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;

/// Seeds of a normal run.
const SEEDS: u64 = 64;
const ROUNDS: u32 = 4;

/// Something deliberately wrong, to see that the invariants find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// A withdrawn address stays installed.
    KeepsAddress,
    /// A loser leaves without a word, so that the winner does not announce again.
    SilentLoser,
    /// Adverts from the queue count as if just received, however old.
    StaleAccepted,
    /// The Active does not announce.
    NoAnnouncement,
    /// A router that starts takes the address at once.
    StartsActive,
    /// Timeouts of a Backup are lost.
    DeafBackup,
    /// A returning router of higher priority takes over although nobody preempts.
    Preempts,
    /// A faulty router hears nothing of its fault.
    IgnoresFault,
}

/// SplitMix64: small, seeded, good enough.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

struct Packet {
    at: Time,
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

struct Host {
    router: Arc<Router>,
    machine: Option<Machine>,
    holds: bool,
    inbox: Vec<(Time, usize, Vec<u8>)>,
    stalled_until: Time,
    /// A paused virtual machine does not even receive.
    paused: bool,
    faulty: bool,
    announced: Option<Time>,
    announcements: u64,
    takeovers: u64,
    withdrew: Option<Time>,
    changes: u64,
}

struct World {
    now: Time,
    random: Random,
    hosts: Vec<Host>,
    wire: Vec<Packet>,
    loss: u64,
    duplicates: u64,
    corrupt: u64,
    delay: Span,
    group: Vec<u64>,
    interval: Span,
    bug: Bug,
    trace: Vec<String>,
}

type Checked = Result<(), String>;

fn address(host: usize) -> IpAddr {
    format!("192.0.2.{}", host + 1).parse().unwrap()
}

impl World {
    fn new(seed: u64, bug: Bug) -> Self {
        let mut random = Random(seed);
        let count = 2 + usize::try_from(random.below(2)).unwrap();
        let centiseconds = random.pick(&[1_u64, 5, 10, 100]);
        let preempt = random.percent(25);
        let hosts = (0..count)
            .map(|host| {
                let priority = random.pick(&[1_u64, 90, 100, 100, 254]);
                let others = (0..count).filter(|other| *other != host);
                let peers: Vec<IpAddr> = others.map(address).collect();
                // No second burst and no refresh: each announcement has a cause.
                let document = json!({
                    "vrid": 7, "interface": "eth1", "priority": priority,
                    "advert_interval": centiseconds, "preempt": preempt,
                    "source": address(host), "peers": peers, "addresses": ["192.0.2.100/32"],
                    "announce": {"repeat": 1, "delay": 0, "refresh": 0},
                });
                let router = Router::new(serde_json::from_value(document).unwrap()).unwrap();
                Host {
                    router: Arc::new(router),
                    machine: None,
                    holds: false,
                    inbox: Vec::new(),
                    stalled_until: Time::default(),
                    paused: false,
                    faulty: false,
                    announced: None,
                    announcements: 0,
                    takeovers: 0,
                    withdrew: None,
                    changes: 0,
                }
            })
            .collect();
        Self {
            now: Time::from_micros(1_000_000),
            random,
            hosts,
            wire: Vec::new(),
            loss: 0,
            duplicates: 0,
            corrupt: 0,
            delay: Span::ZERO,
            group: vec![0; count],
            interval: Span::from_micros(centiseconds * 10_000),
            bug,
            trace: Vec::new(),
        }
    }

    fn preempts(&self) -> bool {
        self.hosts[0].router.preempts()
    }

    fn note(&mut self, text: impl std::fmt::Display) {
        self.trace.push(format!("{:>12} {text}", self.now.micros()));
    }

    fn fail<T>(&self, what: &str) -> Result<T, String> {
        let from = self.trace.len().saturating_sub(60);
        Err(format!("{what}\n{}", self.trace[from..].join("\n")))
    }

    fn start(&mut self, host: usize) -> Checked {
        if self.hosts[host].machine.is_some() {
            return Ok(());
        }
        self.note(format!("start {host}"));
        let this = &mut self.hosts[host];
        this.machine = Some(Machine::new(Arc::clone(&this.router), self.now));
        this.stalled_until = self.now;
        this.paused = false;
        this.faulty = false;
        this.inbox.clear();
        if self.bug == Bug::StartsActive {
            let mut alone = this.router.plain().clone();
            alone.peers.clear();
            let alone = Arc::new(Router::new(alone).unwrap());
            this.machine = Some(Machine::new(alone, self.now));
            self.feed(host, Event::Startup)?;
            let router = Arc::clone(&self.hosts[host].router);
            return self.feed(host, Event::Configure(router));
        }
        self.feed(host, Event::Startup)
    }

    /// The process dies; its guard removes the address and, when the host lives, resigns for it.
    fn kill(&mut self, host: usize, with_host: bool) {
        self.note(format!("kill {host}, host too: {with_host}"));
        let active = self.state(host) == Some(RouterState::Active);
        self.hosts[host].machine = None;
        self.hosts[host].holds = false;
        if active && !with_host {
            self.send(host, 0);
        }
    }

    fn state(&self, host: usize) -> Option<RouterState> {
        self.hosts[host].machine.as_ref().map(Machine::state)
    }

    fn feed(&mut self, host: usize, event: Event) -> Checked {
        let Some(machine) = &mut self.hosts[host].machine else {
            return Ok(());
        };
        machine.handle(self.now, event);
        let mut outputs = Vec::new();
        while let Some(output) = machine.poll_output() {
            outputs.push(output);
        }
        let mut announced = false;
        let mut just_lost = false;
        for output in outputs {
            match output {
                Output::SendAdvert { priority } => {
                    if !(just_lost && self.bug == Bug::SilentLoser) {
                        self.send(host, priority);
                    }
                }
                Output::Add(_) => self.hosts[host].holds = true,
                Output::Remove(_) => {
                    just_lost = true;
                    self.hosts[host].holds = self.bug == Bug::KeepsAddress;
                    self.hosts[host].withdrew = Some(self.now);
                }
                Output::Announce if self.bug == Bug::NoAnnouncement => {}
                Output::Announce => {
                    if !self.hosts[host].holds {
                        return self.fail("announced what it does not hold");
                    }
                    announced = true;
                    self.hosts[host].announced = Some(self.now);
                    self.hosts[host].announcements += 1;
                }
                Output::StateChanged { old, new, reason } => {
                    self.note(format!("{host} {old:?} → {new:?}: {reason}"));
                    self.hosts[host].changes += 1;
                    if new == RouterState::Active {
                        self.hosts[host].takeovers += 1;
                        if !announced {
                            return self.fail("became Active without announcing");
                        }
                        if matches!(reason, Reason::Alone) && self.bug == Bug::None {
                            return self.fail("has peers, but became Active as if alone");
                        }
                    }
                }
                Output::Notice(notice) => self.note(format!("{host} {notice}")),
            }
        }
        let active = self.state(host) == Some(RouterState::Active);
        if active != self.hosts[host].holds {
            return self
                .fail("holds the address in another state than Active, or does not in Active");
        }
        Ok(())
    }

    fn send(&mut self, from: usize, priority: u8) {
        for to in 0..self.hosts.len() {
            if to == from || self.group[from] != self.group[to] || self.random.percent(self.loss) {
                continue;
            }
            let router = &self.hosts[from].router;
            let mut bytes = Vec::new();
            router.advert(priority).emit(
                address(from),
                address(to),
                ChecksumForm::Rfc9568,
                &mut bytes,
            );
            if self.random.percent(self.corrupt) {
                let at = usize::try_from(self.random.below(bytes.len() as u64)).unwrap();
                bytes[at] ^= 1 << self.random.below(8);
            }
            let copies = 1 + u64::from(self.random.percent(self.duplicates));
            for _ in 0..copies {
                let delay = Span::from_micros(50 + self.random.below(self.delay.micros()));
                self.wire.push(Packet {
                    at: self.now + delay,
                    from,
                    to,
                    bytes: bytes.clone(),
                });
            }
        }
    }

    /// When a host has something to do; never before its stall ends.
    fn due(&self, host: usize) -> Option<Time> {
        let this = &self.hosts[host];
        let machine = this.machine.as_ref()?;
        let work = match this.inbox.first() {
            Some((received, ..)) => Some(*received),
            None => machine.poll_timeout(),
        };
        let work = match (work, machine.poll_timeout()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        work.map(|at| at.max(this.stalled_until).max(self.now))
    }

    fn run_until(&mut self, end: Time) -> Checked {
        loop {
            let packet = self.wire.iter().map(|packet| packet.at).min();
            let host = (0..self.hosts.len())
                .filter_map(|host| self.due(host))
                .min();
            let Some(next) = [packet, host]
                .into_iter()
                .flatten()
                .min()
                .filter(|at| *at <= end)
            else {
                self.now = end;
                return Ok(());
            };
            self.now = next.max(self.now);
            self.deliver();
            for host in 0..self.hosts.len() {
                if self.due(host).is_some_and(|at| at <= self.now) {
                    self.wake(host)?;
                }
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (arrived, rest) = std::mem::take(&mut self.wire)
            .into_iter()
            .partition(|packet| packet.at <= now);
        self.wire = rest;
        let mut arrived: Vec<Packet> = arrived;
        arrived.sort_by_key(|packet| packet.at);
        for packet in arrived {
            let connected = self.group[packet.from] == self.group[packet.to];
            let host = &mut self.hosts[packet.to];
            let receives = !(host.paused && host.stalled_until > now);
            if connected && receives && host.machine.is_some() {
                host.inbox.push((now, packet.from, packet.bytes));
            }
        }
    }

    fn wake(&mut self, host: usize) -> Checked {
        for (received, from, bytes) in std::mem::take(&mut self.hosts[host].inbox) {
            let received = if self.bug == Bug::StaleAccepted {
                self.now
            } else {
                received
            };
            let datagram = Datagram {
                source: address(from),
                destination: address(host),
                hop_limit: 255,
                received,
                message: &bytes,
            };
            match receive::check(&self.hosts[host].router, &datagram, self.now) {
                Ok(heard) => self.feed(host, Event::Heard(heard))?,
                Err(reason) => self.note(format!("{host} drops {reason}")),
            }
        }
        let backup = self.state(host) == Some(RouterState::Backup);
        let timeout = self.hosts[host]
            .machine
            .as_ref()
            .and_then(Machine::poll_timeout);
        if timeout.is_some_and(|at| at <= self.now) {
            if self.bug == Bug::DeafBackup && backup {
                // It is lost, and with it the deadline.
                self.hosts[host].stalled_until = self.now + self.interval;
                return Ok(());
            }
            self.feed(host, Event::Timeout)?;
        }
        Ok(())
    }

    fn intervals(&self, count: u64) -> Time {
        self.now + self.interval.times(count)
    }

    fn chaos(&mut self) -> Checked {
        for _ in 0..self.random.below(12) {
            let host = usize::try_from(self.random.below(self.hosts.len() as u64)).unwrap();
            match self.random.below(11) {
                0 => self.loss = self.random.pick(&[0, 5, 30, 100]),
                1 => self.delay = self.interval.times(self.random.below(4)),
                2 => self.duplicates = self.random.pick(&[0, 50]),
                3 => self.corrupt = self.random.pick(&[0, 20]),
                4 | 5 => {
                    for group in &mut self.group {
                        *group = self.random.below(2);
                    }
                    self.note(format!("partition {:?}", self.group));
                }
                6 => {
                    let length = self.interval.times(1 + self.random.below(30));
                    self.hosts[host].stalled_until = self.now + length;
                    self.hosts[host].paused = self.random.percent(50);
                    self.note(format!("stall {host} for {length}"));
                }
                7 => {
                    let with_host = self.random.percent(50);
                    self.kill(host, with_host);
                }
                8 => self.start(host)?,
                9 => {
                    let faulty = self.random.percent(50);
                    self.set_fault(host, faulty)?;
                }
                _ => {
                    self.feed(host, Event::Shutdown)?;
                    if self.hosts[host].machine.take().is_some() {
                        self.note(format!("shutdown {host}"));
                    }
                }
            }
            let pause = self.interval.micros() * self.random.below(12);
            let pause = Span::from_micros(pause + self.random.below(self.interval.micros()));
            self.run_until(self.now + pause)?;
        }
        Ok(())
    }

    fn set_fault(&mut self, host: usize, faulty: bool) -> Checked {
        if self.hosts[host].machine.is_none() {
            return Ok(());
        }
        self.hosts[host].faulty = faulty;
        let faults = if faulty {
            Faults::NONE.with(Fault::DataplaneFrozen)
        } else {
            Faults::NONE
        };
        if self.bug == Bug::IgnoresFault {
            return Ok(());
        }
        self.feed(host, Event::Faults(faults))
    }

    /// Ends all trouble and waits until it must have settled.
    fn calm(&mut self) -> Result<Option<usize>, String> {
        (self.loss, self.duplicates, self.corrupt) = (0, 0, 0);
        self.delay = Span::from_micros(self.interval.micros() / 20);
        self.group.fill(0);
        for host in &mut self.hosts {
            host.stalled_until = self.now.min(host.stalled_until);
            host.paused = false;
        }
        self.note("calm");
        let began = self.now;
        // Late packets of the chaos (4 intervals), one down interval (4), the listening of a router
        // that stalled (2 each).
        self.run_until(self.intervals(14))?;
        let owner = self.sole_owner()?;
        let changes: u64 = self.hosts.iter().map(|host| host.changes).sum();
        // Long enough for a coalesced announcement.
        self.run_until(self.now + self.interval.times(10) + Span::from_millis(1_100))?;
        if self.hosts.iter().map(|host| host.changes).sum::<u64>() != changes {
            return self.fail("a change without a cause");
        }
        if let Some(owner) = owner {
            let last_loss = (0..self.hosts.len())
                .filter(|host| *host != owner)
                .filter_map(|host| self.hosts[host].withdrew)
                .filter(|at| *at > began)
                .max();
            if last_loss.is_some() && self.hosts[owner].announced < last_loss {
                return self.fail("the loser withdrew, but the winner did not announce again");
            }
        }
        Ok(owner)
    }

    /// At most one Active, and exactly one when any router is up and well; with preemption the best.
    fn sole_owner(&self) -> Result<Option<usize>, String> {
        let all = 0..self.hosts.len();
        let fit: Vec<usize> = all
            .clone()
            .filter(|host| self.hosts[*host].machine.is_some() && !self.hosts[*host].faulty)
            .collect();
        let active: Vec<usize> = all.filter(|host| self.hosts[*host].holds).collect();
        match (active.as_slice(), fit.is_empty()) {
            ([], true) => Ok(None),
            ([owner], false) if fit.contains(owner) => {
                let priority = |host: &usize| self.hosts[*host].router.priority();
                let best = fit.iter().map(priority).max();
                if self.preempts() && best != Some(priority(owner)) {
                    return self.fail("preemption did not bring the best to the top");
                }
                Ok(Some(*owner))
            }
            _ => self.fail(&format!("{fit:?} are fit, {active:?} own the address")),
        }
    }

    /// Everybody returns, one after the other; without preemption nobody displaces the owner.
    fn everybody_returns(&mut self, owner: Option<usize>) -> Checked {
        for host in 0..self.hosts.len() {
            if self.bug == Bug::Preempts && self.hosts[host].machine.is_none() {
                let mut document = self.hosts[host].router.plain().clone();
                document.preempt = true;
                self.hosts[host].router = Arc::new(Router::new(document).unwrap());
            }
            self.start(host)?;
            self.set_fault(host, false)?;
        }
        self.run_until(self.intervals(14))?;
        let now = self.sole_owner()?;
        if owner.is_some() && !self.preempts() && now != owner {
            return self.fail("a healthy Active was displaced by one that returned");
        }
        Ok(())
    }

    fn announcements_are_bounded(&self) -> Checked {
        let seconds = self.now.micros() / 1_000_000;
        for host in &self.hosts {
            if host.announcements > host.takeovers * 2 + seconds {
                return self.fail("more announcements than takeovers and coalesced heals explain");
            }
        }
        Ok(())
    }
}

fn simulate(seed: u64, bug: Bug) -> Checked {
    let mut world = World::new(seed, bug);
    for host in 0..world.hosts.len() {
        world.start(host)?;
        let pause = world.random.below(world.interval.micros() * 6);
        world.run_until(world.now + Span::from_micros(pause))?;
    }
    for _ in 0..ROUNDS {
        world.chaos()?;
        let owner = world.calm()?;
        world.everybody_returns(owner)?;
    }
    world.announcements_are_bounded()
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn invariants_hold_on_all_seeds() {
    let seeds = match variable("KRATER_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("KRATER_SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(why) = simulate(seed, Bug::None) {
            panic!("seed {seed}: {why}");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let trace = |seed| {
        let mut world = World::new(seed, Bug::None);
        for host in 0..world.hosts.len() {
            world.start(host).unwrap();
        }
        world.chaos().unwrap();
        world.calm().unwrap();
        world.trace
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

/// The invariants are worth something: each planted bug is found.
#[test]
fn planted_bugs_are_found() {
    for bug in [
        Bug::KeepsAddress,
        Bug::SilentLoser,
        Bug::NoAnnouncement,
        Bug::StartsActive,
        Bug::DeafBackup,
        Bug::Preempts,
        Bug::IgnoresFault,
    ] {
        let found = (0..200).find(|seed| simulate(*seed, bug).is_err());
        assert!(found.is_some(), "{bug:?} was not found in 200 seeds");
    }
}

/// A queue of old adverts must not revive an Active that is gone: without the age check it does.
#[test]
fn stale_adverts_are_told_apart_by_age() {
    for (bug, revived) in [(Bug::None, false), (Bug::StaleAccepted, true)] {
        let mut world = World::new(1, bug);
        for host in 0..world.hosts.len() {
            world.start(host).unwrap();
            world.run_until(world.intervals(8)).unwrap();
        }
        let owner = world.sole_owner().unwrap().unwrap();
        let other = (owner + 1) % world.hosts.len();
        world.hosts[other].stalled_until = world.intervals(40);
        world.run_until(world.intervals(5)).unwrap();
        world.kill(owner, true);
        world.run_until(world.intervals(35)).unwrap();
        let before = world.trace.len();
        world.run_until(world.now + Span::from_micros(1)).unwrap();
        let dropped = world.trace[before.saturating_sub(20)..]
            .iter()
            .any(|line| line.contains("stale"));
        assert_eq!(dropped, !revived, "{bug:?}: {:#?}", world.trace);
    }
}
