//! Replays `cases/*.toml`: one router with a script of events, and whole topologies.
//!
//! The cases come from descriptions of other implementations' tests (holo's conformance steps, the
//! receive ladder and the negatives of ze, the steps of vrrp-rs) and from RFC 9568; no line of theirs is
//! here. Packets are built as bytes and go through codec, ladder and machine.

#![allow(
    clippy::unwrap_used,
    reason = "a test; clippy sees only the functions marked as such"
)]

use krater_vrrp_proto::output::{Fault, Faults};
use krater_vrrp_proto::packet::{Authentication, HEADER, Version};
use krater_vrrp_proto::{
    Advert, ChecksumForm, Datagram, Event, Machine, Output, Router, Span, Time, receive,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    case: Vec<Case>,
    #[serde(default)]
    topology: Vec<Topology>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    router: Value,
    steps: Vec<Step>,
}

/// Everything is optional but the time in milliseconds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at: u32,
    event: Option<String>,
    configure: Option<Value>,
    hear: Option<Hear>,
    /// All outputs since the last step; `…` at the end of one stands for any rest.
    #[serde(default)]
    expect: Vec<String>,
    state: Option<String>,
    dropped: Option<String>,
}

/// A packet: a good one of the first peer, but for what is said here.
#[derive(Deserialize, Default, Clone)]
#[serde(deny_unknown_fields, default)]
struct Hear {
    from: Option<IpAddr>,
    to: Option<IpAddr>,
    ttl: Option<u8>,
    version: Option<u8>,
    kind: Option<u8>,
    vrid: Option<u8>,
    priority: Option<u8>,
    /// In the unit of the version: centiseconds or seconds.
    interval: Option<u16>,
    auth_type: Option<u8>,
    password: Option<String>,
    addresses: Option<Vec<IpAddr>>,
    count: Option<u8>,
    /// `rfc9568`, `pseudo` or `bad`.
    checksum: Option<String>,
    append: Option<String>,
    cut: Option<usize>,
    /// The whole message as it is.
    hex: Option<String>,
    age: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Topology {
    name: String,
    #[serde(default)]
    router: Value,
    routers: Vec<Member>,
    steps: Vec<TopologyStep>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    source: IpAddr,
    priority: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopologyStep {
    at: u32,
    #[serde(default)]
    start: Vec<usize>,
    #[serde(default)]
    stop: Vec<usize>,
    #[serde(default)]
    die: Vec<usize>,
    /// Who is Active at the end of the step; one letter for each router: `A`, `B`, `-`.
    states: String,
}

/// Own priority 90, interval 1 s, one announcement at a takeover.
fn router(changes: &[&Value]) -> Arc<Router> {
    let mut document = json!({
        "vrid": 1, "interface": "eth1", "priority": 90, "advert_interval": 100,
        "source": "192.0.2.2", "peers": ["192.0.2.1", "192.0.2.3"], "addresses": ["192.0.2.100/32"],
        "announce": {"repeat": 1, "delay": 0, "refresh": 0},
    });
    for (key, value) in changes.iter().filter_map(|c| c.as_object()).flatten() {
        document[key] = value.clone();
    }
    Arc::new(Router::new(serde_json::from_value(document).unwrap()).unwrap())
}

fn at(millis: u32) -> Time {
    Time::from_micros(1_000_000_000) + Span::from_millis(millis)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn words(machine: &mut Machine) -> Vec<String> {
    let list = |of: &krater_vrrp_proto::Belongings| {
        let texts = of.addresses.iter().map(|net| format!(" {}", net.addr()));
        texts.collect::<String>()
    };
    std::iter::from_fn(|| machine.poll_output())
        .map(|output| match output {
            Output::SendAdvert { priority } => format!("send {priority}"),
            Output::Add(b) => format!("add{}", list(&b)),
            Output::Remove(b) => format!("remove{}", list(&b)),
            Output::Announce => "announce".into(),
            Output::StateChanged { old, new, reason } => format!("{old:?}→{new:?}: {reason}"),
            Output::Notice(notice) => format!("note: {notice}"),
        })
        .collect()
}

/// One's complement sum of a message, over the pseudo-header too when there is one.
fn checksum(message: &[u8], pseudo: Option<(IpAddr, IpAddr)>) -> u16 {
    let mut bytes = Vec::new();
    if let Some((source, destination)) = pseudo {
        for address in [source, destination] {
            match address {
                IpAddr::V4(v4) => bytes.extend(v4.octets()),
                IpAddr::V6(v6) => bytes.extend(v6.octets()),
            }
        }
        bytes.extend([0, 112]);
        bytes.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    }
    bytes.extend(message);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let words = bytes
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

impl Hear {
    fn source(&self, router: &Router) -> IpAddr {
        let first = router.peers().first();
        self.from.unwrap_or_else(|| *first.unwrap())
    }

    fn destination(&self, router: &Router) -> IpAddr {
        let usual = if router.is_multicast() {
            router.destinations()[0]
        } else {
            router.source()
        };
        self.to.unwrap_or(usual)
    }

    fn message(&self, router: &Router) -> Vec<u8> {
        if let Some(text) = &self.hex {
            return hex(text);
        }
        let (source, destination) = (self.source(router), self.destination(router));
        let version = match (
            self.version.unwrap_or_else(|| router.version().value()),
            &self.password,
        ) {
            (2, Some(password)) => Version::V2(Authentication::password(password)),
            (2, None) => match router.wire_version() {
                Version::V3 => Version::V2(Authentication::default()),
                ours => ours,
            },
            _ => Version::V3,
        };
        let mut bytes = Vec::new();
        Advert {
            version,
            vrid: router.vrid(),
            priority: self.priority.unwrap_or(100),
            interval: router.interval(),
            addresses: self
                .addresses
                .as_deref()
                .unwrap_or_else(|| router.advertised()),
        }
        .emit(source, destination, ChecksumForm::Rfc9568, &mut bytes);
        if let Some(version) = self.version {
            bytes[0] = version << 4 | bytes[0] & 0x0f;
        }
        if let Some(kind) = self.kind {
            bytes[0] = bytes[0] & 0xf0 | kind;
        }
        if let Some(interval) = self.interval {
            if version == Version::V3 {
                bytes[4..6].copy_from_slice(&interval.to_be_bytes());
            } else {
                bytes[5] = u8::try_from(interval).unwrap();
            }
        }
        let fields = [(1, self.vrid), (3, self.count), (4, self.auth_type)];
        for (place, value) in fields {
            bytes[place] = value.unwrap_or(bytes[place]);
        }
        bytes.extend(hex(self.append.as_deref().unwrap_or_default()));
        bytes.truncate(bytes.len() - self.cut.unwrap_or(0));
        if bytes.len() >= HEADER {
            bytes[6..8].fill(0);
            let kind = self.checksum.as_deref().unwrap_or("rfc9568");
            let pseudo = (kind == "pseudo" || source.is_ipv6()).then_some((source, destination));
            let sum = checksum(&bytes, pseudo) ^ u16::from(kind == "bad");
            bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

fn run(case: &Case) {
    let name = &case.name;
    let mut machine = Machine::new(router(&[&case.router]), at(0));
    for (number, step) in case.steps.iter().enumerate() {
        let place = format!("{name}, step {number} at {} ms", step.at);
        let now = at(step.at);
        let mut found = Vec::new();
        while let Some(due) = machine.poll_timeout().filter(|due| *due <= now) {
            machine.handle(due, Event::Timeout);
            found.extend(words(&mut machine));
        }
        match step.event.as_deref() {
            Some("start") => machine.handle(now, Event::Startup),
            Some("stop") => machine.handle(now, Event::Shutdown),
            Some("link down") => {
                machine.handle(now, Event::Faults(Faults::NONE.with(Fault::Link)));
            }
            Some("link up") => machine.handle(now, Event::Faults(Faults::NONE)),
            Some(other) => panic!("{place}: {other:?} is no event"),
            None => {}
        }
        if let Some(changes) = &step.configure {
            machine.handle(now, Event::Configure(router(&[&case.router, changes])));
        }
        if let Some(hear) = &step.hear {
            let router = Arc::clone(machine.router());
            let message = hear.message(&router);
            let datagram = Datagram {
                source: hear.source(&router),
                destination: hear.destination(&router),
                hop_limit: hear.ttl.unwrap_or(255),
                received: Time::from_micros(now.micros() - Span::from_millis(hear.age).micros()),
                message: &message,
            };
            let before = (machine.state(), machine.poll_timeout());
            match receive::check(&router, &datagram, now) {
                Ok(heard) => {
                    assert_eq!(step.dropped, None, "{place}: it was not dropped");
                    machine.handle(now, Event::Heard(heard));
                }
                Err(reason) => {
                    let dropped = step.dropped.as_deref();
                    assert_eq!(Some(reason.name()), dropped, "{place}");
                    let after = (machine.state(), machine.poll_timeout());
                    assert_eq!(before, after, "{place}: what is dropped touches nothing");
                }
            }
        }
        // What a step causes at once, such as a takeover without skew, belongs to it.
        while let Some(due) = machine.poll_timeout().filter(|due| *due <= now) {
            found.extend(words(&mut machine));
            machine.handle(due.max(now), Event::Timeout);
        }
        found.extend(words(&mut machine));
        let fits = |(found, wanted): (&String, &String)| match wanted.strip_suffix('…') {
            Some(start) => found.starts_with(start),
            None => found == wanted,
        };
        let same = found.len() == step.expect.len() && found.iter().zip(&step.expect).all(fits);
        assert!(same, "{place}: {found:?} instead of {:?}", step.expect);
        if let Some(state) = &step.state {
            assert_eq!(&format!("{:?}", machine.state()), state, "{place}");
        }
    }
}

/// Routers on one segment on which a packet takes a millisecond.
fn run_topology(topology: &Topology) {
    let all: Vec<IpAddr> = topology
        .routers
        .iter()
        .map(|member| member.source)
        .collect();
    let routers: Vec<Arc<Router>> = topology
        .routers
        .iter()
        .map(|member| {
            let peers: Vec<&IpAddr> = all.iter().filter(|a| **a != member.source).collect();
            let own = json!({
                "source": member.source, "priority": member.priority, "peers": peers,
            });
            router(&[&own, &topology.router])
        })
        .collect();
    let mut machines: Vec<Option<Machine>> = routers.iter().map(|_| None).collect();
    let mut wire: Vec<(Time, usize, u8)> = Vec::new();
    let mut now = at(0);
    for step in &topology.steps {
        let end = at(step.at);
        loop {
            let timeouts = machines.iter().flatten().filter_map(Machine::poll_timeout);
            let arrivals = wire.iter().map(|(at, ..)| *at);
            let Some(next) = timeouts.chain(arrivals).min().filter(|at| *at <= end) else {
                break;
            };
            now = next.max(now);
            let (arrived, rest) = wire.iter().partition(|(at, ..)| *at <= now);
            wire = rest;
            let arrived: Vec<(Time, usize, u8)> = arrived;
            for (received, from, priority) in arrived {
                for to in (0..routers.len()).filter(|to| *to != from) {
                    hear(&routers, &mut machines[to], (from, to), priority, received);
                    collect(&mut machines[to], to, now, &mut wire);
                }
            }
            for (host, machine) in machines.iter_mut().enumerate() {
                let due = machine.as_ref().and_then(Machine::poll_timeout);
                if due.is_some_and(|due| due <= now) {
                    machine.as_mut().unwrap().handle(now, Event::Timeout);
                    collect(machine, host, now, &mut wire);
                }
            }
        }
        now = end;
        for host in &step.start {
            let mut machine = Machine::new(Arc::clone(&routers[*host]), now);
            machine.handle(now, Event::Startup);
            machines[*host] = Some(machine);
            collect(&mut machines[*host], *host, now, &mut wire);
        }
        for host in &step.stop {
            machines[*host]
                .as_mut()
                .unwrap()
                .handle(now, Event::Shutdown);
            collect(&mut machines[*host], *host, now, &mut wire);
            machines[*host] = None;
        }
        for host in &step.die {
            machines[*host] = None;
        }
        let letter = |machine: &Option<Machine>| {
            let state = machine.as_ref().map(Machine::state);
            state.map_or('-', |state| format!("{state:?}").chars().next().unwrap())
        };
        let states: String = machines.iter().map(letter).collect();
        assert_eq!(states, step.states, "{} at {} ms", topology.name, step.at);
    }
}

fn hear(
    routers: &[Arc<Router>],
    machine: &mut Option<Machine>,
    (from, to): (usize, usize),
    priority: u8,
    received: Time,
) {
    let Some(machine) = machine else { return };
    let (source, destination) = (routers[from].source(), routers[to].source());
    let mut message = Vec::new();
    let form = ChecksumForm::Rfc9568;
    let advert = routers[from].advert(priority);
    advert.emit(source, destination, form, &mut message);
    let datagram = Datagram {
        source,
        destination,
        hop_limit: 255,
        received,
        message: &message,
    };
    let heard = receive::check(&routers[to], &datagram, received).unwrap();
    machine.handle(received, Event::Heard(heard));
}

fn collect(
    machine: &mut Option<Machine>,
    host: usize,
    now: Time,
    wire: &mut Vec<(Time, usize, u8)>,
) {
    let outputs = machine.iter_mut();
    for output in outputs.flat_map(|m| std::iter::from_fn(|| m.poll_output())) {
        if let Output::SendAdvert { priority } = output {
            wire.push((now + Span::from_millis(1), host, priority));
        }
    }
}

fn file(text: &str, cases: usize) -> File {
    let file: File = toml::from_str(text).unwrap();
    let names: std::collections::HashSet<&String> = file.case.iter().map(|c| &c.name).collect();
    assert_eq!(names.len(), file.case.len(), "a name is there twice");
    assert_eq!(
        file.case.len(),
        cases,
        "a file was cut, or the number here is old"
    );
    file
}

#[test]
fn holo_conformance_steps() {
    let file = file(include_str!("../cases/holo.toml"), 13);
    file.case.iter().for_each(run);
}

#[test]
fn topologies() {
    let file = file(include_str!("../cases/topologies.toml"), 0);
    assert_eq!(file.topology.len(), 8);
    file.topology.iter().for_each(run_topology);
}

#[test]
fn receive_ladder() {
    let file = file(include_str!("../cases/ladder.toml"), 15);
    file.case.iter().for_each(run);
}

#[test]
fn negatives() {
    let file = file(include_str!("../cases/negatives.toml"), 20);
    file.case.iter().for_each(run);
}

#[test]
fn elections() {
    let file = file(include_str!("../cases/elections.toml"), 14);
    file.case.iter().for_each(run);
}

/// The runner itself: a wrong expectation is noticed.
#[test]
#[should_panic(expected = "step 0")]
fn a_wrong_expectation_fails() {
    let text = "[[case]]\nname = \"x\"\nsteps = [{ at = 0, event = \"start\" }]";
    file(text, 1).case.iter().for_each(run);
}
