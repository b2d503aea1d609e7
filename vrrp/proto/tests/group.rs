//! Sync groups on a virtual clock: two hosts, two or three virtual routers on a network each, which are
//! cut and mended one by one; members fail, hosts die and return. Machine, codec-free adverts and the
//! decision are the ones that run; only the dozen lines that feed them are the test's own.
//!
//! After each calm one host is Active for all routers and the other for none; while a part of the networks
//! is cut, nothing moves; who is at fault in one has none.

#![allow(
    clippy::unwrap_used,
    reason = "a test; clippy sees only the functions marked as such"
)]

mod random;

use krater_model::control::RouterState;
use krater_vrrp_proto::group::{self, Verdict};
use krater_vrrp_proto::output::{Fault, Faults};
use krater_vrrp_proto::{ChecksumForm, Event, Heard, Machine, Output, Router, Span, Time};
use random::Random;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;

const SEEDS: u64 = 100;
const ROUNDS: u32 = 12;
const INTERVAL: Span = Span::from_millis(100);
const DELAY: Span = Span::from_micros(200);

/// Something deliberately wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// One takes over all, as soon as its own Active is silent.
    FirstTakesAll,
    /// Who loses one keeps the rest.
    KeepsTheRest,
    /// A fault is its router's alone.
    LonelyFault,
}

struct Host {
    machines: Vec<Machine>,
    faulty: Vec<bool>,
    up: bool,
}

struct World {
    now: Time,
    random: Random,
    hosts: Vec<Host>,
    /// By network: whether the hosts reach each other.
    connected: Vec<bool>,
    wire: Vec<(Time, usize, usize, Heard)>,
    bug: Bug,
    trace: Vec<String>,
}

type Checked = Result<(), String>;

fn address(network: usize, host: usize) -> IpAddr {
    format!("192.0.{network}.{}", host + 1).parse().unwrap()
}

fn router(network: usize, host: usize, preempt: bool) -> Arc<Router> {
    let document = json!({
        "vrid": 1, "interface": format!("eth{network}"), "advert_interval": 10,
        "priority": if host == 0 { 100 } else { 90 }, "preempt": preempt, "sync_group": "all",
        "source": address(network, host), "peers": [address(network, 1 - host)],
        "addresses": [format!("192.0.{network}.100/32")],
    });
    Arc::new(Router::new(serde_json::from_value(document).unwrap()).unwrap())
}

impl World {
    fn new(seed: u64, bug: Bug) -> Self {
        let mut random = Random(seed);
        let networks = 2 + random.index(2);
        let preempt = random.index(3) == 0;
        let now = Time::from_micros(1_000_000);
        let hosts = [0, 1].map(|host| Host {
            machines: (0..networks)
                .map(|network| Machine::new(router(network, host, preempt), now))
                .collect(),
            faulty: vec![false; networks],
            up: false,
        });
        Self {
            now,
            random,
            hosts: hosts.into(),
            connected: vec![true; networks],
            wire: Vec::new(),
            bug,
            trace: Vec::new(),
        }
    }

    fn fail<T>(&self, what: &str) -> Result<T, String> {
        let from = self.trace.len().saturating_sub(50);
        Err(format!("{what}\n{}", self.trace[from..].join("\n")))
    }

    fn note(&mut self, text: impl std::fmt::Display) {
        self.trace.push(format!("{:>10} {text}", self.now.micros()));
    }

    fn start(&mut self, host: usize) {
        if self.hosts[host].up {
            return;
        }
        self.note(format!("start {host}"));
        self.hosts[host].up = true;
        for network in 0..self.connected.len() {
            let router = Arc::clone(self.hosts[host].machines[network].router());
            self.hosts[host].machines[network] = Machine::new(router, self.now);
            self.feed(host, network, Event::Startup);
        }
        self.set_faults(host);
    }

    fn feed(&mut self, host: usize, network: usize, event: Event) {
        let this = &mut self.hosts[host].machines[network];
        this.handle(self.now, event);
        let (source, interval) = (this.router().source(), this.router().interval());
        while let Some(output) = self.hosts[host].machines[network].poll_output() {
            match output {
                Output::SendAdvert { priority } if self.connected[network] => {
                    let received = self.now + DELAY;
                    let heard = Heard {
                        source,
                        priority,
                        interval,
                        received,
                        same_addresses: true,
                        checksum: ChecksumForm::Rfc9568,
                    };
                    self.wire.push((received, 1 - host, network, heard));
                }
                Output::StateChanged { old, new, reason } => {
                    self.note(format!("{host}.{network} {old:?} → {new:?}: {reason}"));
                }
                _ => {}
            }
        }
    }

    /// What the shell does after each round.
    fn synchronise(&mut self, host: usize) {
        let members = self.hosts[host].machines.iter();
        let event = match group::decide(members.map(Machine::standing)) {
            Verdict::GiveUp if self.bug == Bug::KeepsTheRest => return,
            Verdict::GiveUp => Event::GiveUp,
            Verdict::TakeOver => Event::TakeOver,
            Verdict::Stay => return,
        };
        for network in 0..self.connected.len() {
            self.feed(host, network, event.clone());
        }
    }

    fn set_faults(&mut self, host: usize) {
        let own = self.hosts[host].faulty.clone();
        for (network, faulty) in own.iter().enumerate() {
            let others = (0..own.len()).any(|other| other != network && own[other]);
            let mut faults = Faults::NONE;
            if *faulty {
                faults = faults.with(Fault::TrackedLink);
            }
            if others && self.bug != Bug::LonelyFault {
                faults = faults.with(Fault::SyncGroup);
            }
            self.feed(host, network, Event::Faults(faults));
        }
    }

    fn run(&mut self, intervals: u64) {
        let end = self.now + INTERVAL.times(intervals);
        loop {
            let up = self.hosts.iter().filter(|host| host.up);
            let due = up
                .flat_map(|host| host.machines.iter().filter_map(Machine::poll_timeout))
                .chain(self.wire.iter().map(|(at, ..)| *at))
                .min();
            let Some(next) = due.filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = next.max(self.now);
            let now = self.now;
            let (arrived, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.wire)
                .into_iter()
                .partition(|(at, ..)| *at <= now);
            self.wire = rest;
            for (_, host, network, heard) in arrived {
                if self.hosts[host].up && self.connected[network] {
                    self.feed(host, network, Event::Heard(heard));
                }
            }
            for host in 0..2 {
                if !self.hosts[host].up {
                    continue;
                }
                for network in 0..self.connected.len() {
                    self.feed(host, network, Event::Timeout);
                    let ready = self.hosts[host].machines[network].standing();
                    if self.bug == Bug::FirstTakesAll && ready == group::Standing::Ready {
                        self.feed(host, network, Event::TakeOver);
                    }
                }
                self.synchronise(host);
            }
        }
    }

    fn active(&self, host: usize) -> Vec<bool> {
        let this = &self.hosts[host];
        let states = this.machines.iter();
        states
            .map(|machine| this.up && machine.state() == RouterState::Active)
            .collect()
    }

    fn transitions(&self) -> u64 {
        let all = self.hosts.iter().flat_map(|host| &host.machines);
        all.map(Machine::transitions).sum()
    }

    /// One host that is fit has all, the other none.
    fn check(&self) -> Result<Option<usize>, String> {
        let fit = |host: &usize| {
            let this = &self.hosts[*host];
            this.up && !this.faulty.contains(&true)
        };
        let all = |host: &usize| self.active(*host).iter().all(|active| *active);
        let none = |host: &usize| !self.active(*host).contains(&true);
        let owners: Vec<usize> = [0, 1].into_iter().filter(all).collect();
        match owners.as_slice() {
            [] if [0, 1].iter().all(|host| !fit(host) && none(host)) => Ok(None),
            [owner] if fit(owner) && none(&(1 - owner)) => Ok(Some(*owner)),
            _ => self.fail(&format!("{:?} and {:?}", self.active(0), self.active(1))),
        }
    }

    fn round(&mut self) -> Checked {
        let networks = self.connected.len();
        for _ in 0..1 + self.random.index(4) {
            let (host, network) = (self.random.index(2), self.random.index(networks));
            match self.random.index(6) {
                0 | 1 => {
                    self.connected[network] = !self.connected[network];
                    self.note(format!("network {network}: {}", self.connected[network]));
                }
                2 => {
                    self.hosts[host].faulty[network] = !self.hosts[host].faulty[network];
                    self.note(format!("faults of {host}: {:?}", self.hosts[host].faulty));
                    if self.hosts[host].up {
                        self.set_faults(host);
                    }
                }
                3 => {
                    self.note(format!("{host} dies"));
                    self.hosts[host].up = false;
                }
                4 => self.start(host),
                _ => {
                    for network in 0..networks {
                        if self.hosts[host].up {
                            self.feed(host, network, Event::HandOver(Span::ZERO));
                        }
                    }
                }
            }
            let pause = self.random.index(9) as u64;
            self.run(pause);
        }
        self.connected.fill(true);
        self.note("calm");
        // Each side may have given up the other's part: then both wait once more.
        self.run(24);
        let owner = self.check()?;
        let before = self.transitions();
        self.run(20);
        if self.transitions() != before {
            return self.fail("a change without a cause");
        }
        // All networks but one are cut: the Active is still heard.
        let heard = self.random.index(networks);
        for network in 0..networks {
            self.connected[network] = network == heard;
        }
        self.note(format!("all networks but {heard} are cut"));
        self.run(30);
        if self.transitions() != before || self.check()? != owner {
            return self.fail("a partial partition moved something");
        }
        // All are cut, and one is mended: who loses there has lost all.
        self.connected.fill(false);
        self.run(10);
        self.connected[heard] = true;
        self.note(format!("only {heard} is mended"));
        self.run(10);
        self.check()?;
        self.connected.fill(true);
        self.run(10);
        Ok(())
    }
}

fn simulate(seed: u64, bug: Bug) -> Checked {
    let mut world = World::new(seed, bug);
    world.start(0);
    world.start(1);
    world.run(10);
    (0..ROUNDS).try_for_each(|_| world.round())
}

#[test]
fn a_group_is_one() {
    let seeds = std::env::var("KRATER_SIM_SEEDS").ok();
    let seeds = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        if let Err(why) = simulate(seed, Bug::None) {
            panic!("seed {seed}: {why}");
        }
    }
}

/// A host that loses one link can resign on the other one only: the whole group is taken over at once,
/// not after the silence of the lost one.
#[test]
fn a_resignation_of_one_is_one_of_all() {
    for seed in 0..20 {
        let mut world = World::new(seed, Bug::None);
        world.start(0);
        world.run(10);
        world.start(1);
        world.run(10);
        assert_eq!(world.check(), Ok(Some(0)), "seed {seed}");
        world.connected[1] = false;
        world.hosts[0].faulty[1] = true;
        world.set_faults(0);
        world.run(1);
        assert_eq!(world.check(), Ok(Some(1)), "seed {seed}");
    }
}

#[test]
fn planted_bugs_are_found() {
    for bug in [Bug::FirstTakesAll, Bug::KeepsTheRest, Bug::LonelyFault] {
        let found = (0..SEEDS).find(|seed| simulate(*seed, bug).is_err());
        assert!(found.is_some(), "{bug:?} was not found");
    }
}
