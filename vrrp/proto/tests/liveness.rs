//! Liveness sessions and virtual routers together on a virtual clock: two or three hosts that send adverts and
//! heartbeats over a network with jitter and single losses, on hosts that hiccup, stand still, leave and die.
//! Sessions, machine, codec and receive ladder are the very code that runs.
//!
//! | invariant | scenario |
//! |---|---|
//! | nobody takes over from a living Active, whatever late or lost packets and late processes there are | all, first |
//! | death shows within the session's patience, and when adverts are frequent within one that is overdue | `Death` |
//! | who leaves is not dead | `Farewell` |
//! | lost heartbeats alone move nothing while adverts are heard | `Blocked` |
//! | one-way loss is told apart, and moves nothing | `OneWay` |
//! | own silence is not the other's | `Stall` |
//! | with a foreign peer the protocol's own time counts, exactly | `Foreign` |
//! | a split network is no death: the protocol's own time counts, and when it heals one Active is left | `Split` |
//! | the loss of the second network moves nothing | `SecondLost` |
//! | where heartbeats pass only on the second network, death shows when an advert is overdue, and no sooner | `SecondOnly` |
//!
//! `KRATER_SIM_SEEDS` and `KRATER_SIM_SEED` as in `sim.rs`.

#![allow(
    clippy::unwrap_used,
    reason = "a test; clippy sees only the functions marked as such"
)]

mod random;

use krater_model::control::{LivenessPath, PathState, RouterState};
use krater_model::secret::Secret;
use krater_model::wire::liveness::Heartbeat;
use krater_vrrp_proto::liveness::{Change, News, Peer, Session, Verdict};
use krater_vrrp_proto::{
    ChecksumForm, Datagram, Event, Machine, Output, Reason, Router, Span, Time, receive,
};
use random::{Random, variable};
use serde_json::json;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

const SEEDS: u64 = 200;
/// Hiccups of a process that waits for a CPU, in milliseconds.
const HICCUP: u64 = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The verdict of a session is believed whatever adverts say.
    AdvertsIgnored,
    /// Heartbeats are taken as proof that ours were heard.
    EchoIgnored,
    /// Who stood still judges as if it had not.
    StallUnnoticed,
    /// A farewell is a heartbeat like others.
    FarewellIgnored,
    /// Heartbeats that were recorded count again.
    ReplayAccepted,
    /// Verdicts reach no router.
    VerdictLost,
    /// Silence where the routers are is death, whatever the second network tells.
    SplitIsDeath,
    /// Silence on the second network is proof.
    SecondIsProof,
    /// Who is silent on the first path and then on the second one is forgotten.
    WaitsForEver,
}

impl Bug {
    const ALL: [Self; 9] = [
        Self::AdvertsIgnored,
        Self::EchoIgnored,
        Self::StallUnnoticed,
        Self::FarewellIgnored,
        Self::ReplayAccepted,
        Self::VerdictLost,
        Self::SplitIsDeath,
        Self::SecondIsProof,
        Self::WaitsForEver,
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    Death,
    Farewell,
    Blocked,
    OneWay,
    Stall,
    Foreign,
    Split,
    SecondLost,
    SecondOnly,
}

/// What is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Advert,
    Beat(LivenessPath),
}

impl Kind {
    const VIP: Self = Self::Beat(LivenessPath::Vip);
    const SECOND: Self = Self::Beat(LivenessPath::Second);
}

#[derive(Clone)]
struct Packet {
    at: Time,
    from: usize,
    to: usize,
    kind: Kind,
    bytes: Vec<u8>,
}

struct Host {
    router: Arc<Router>,
    machine: Option<Machine>,
    /// With each other host.
    sessions: Vec<Option<Peer>>,
    inbox: Vec<(Time, Packet)>,
    busy_until: Time,
    /// Does not even receive while busy.
    paused: bool,
    takeovers: u32,
    /// Why it became Active last.
    reason: Option<Reason>,
    changes: Vec<(usize, LivenessPath, Change)>,
    verdicts: Vec<(usize, Verdict)>,
}

struct World {
    now: Time,
    random: Random,
    hosts: Vec<Host>,
    wire: Vec<Packet>,
    key: Secret,
    jitter: u64,
    /// Percent of packets that are lost, never two in a row of one kind between the same two.
    loss: u64,
    just_lost: HashSet<(usize, usize, Kind)>,
    hiccups: bool,
    /// What the network drops: sender, receiver, what.
    cut: Vec<(usize, usize, Kind)>,
    recorded: Vec<Packet>,
    beat: u64,
    interval: u64,
    bug: Bug,
    trace: Vec<String>,
}

fn address(host: usize) -> IpAddr {
    format!("192.0.2.{}", host + 1).parse().unwrap()
}

/// On the network of a path.
fn on(path: LivenessPath, host: usize) -> IpAddr {
    match path {
        LivenessPath::Vip => address(host),
        LivenessPath::Second => format!("198.51.100.{}", host + 1).parse().unwrap(),
    }
}

const PATHS: [LivenessPath; 2] = [LivenessPath::Vip, LivenessPath::Second];

fn ms(millis: u64) -> Span {
    Span::from_micros(millis * 1_000)
}

type Checked = Result<(), String>;

impl World {
    fn new(seed: u64, bug: Bug, second: bool, speaks: impl Fn(usize) -> bool) -> Self {
        let mut random = Random(seed);
        let count = 2 + random.index(2);
        let interval = random.pick(&[50, 100, 100, 1_000]);
        let beat = random.pick(&[10, 20, 30, 30, 50]);
        let now = Time::from_micros(1_000_000);
        let hosts = (0..count).map(|host| {
            let others = || (0..count).filter(|other| *other != host);
            let peers: Vec<IpAddr> = others().map(address).collect();
            let document = json!({
                "vrid": 7, "interface": "eth1", "priority": 100 - host, "advert_interval": interval / 10,
                "source": address(host), "peers": peers, "addresses": ["192.0.2.100/32"],
                "liveness": {"interval": beat, "key": "0123456789abcdef"},
            });
            let router = Arc::new(Router::new(serde_json::from_value(document).unwrap()).unwrap());
            let sessions = (0..count).map(|other| {
                let session = |boot| Session::new(ms(beat), boot + host as u64, now);
                (other != host && speaks(host)).then(|| match second {
                    true => Peer::new(session(1_000)).with_second(session(2_000)),
                    false => Peer::new(session(1_000)),
                })
            });
            Host {
                machine: Some(Machine::new(Arc::clone(&router), now)),
                router,
                sessions: sessions.collect(),
                inbox: Vec::new(),
                busy_until: now,
                paused: false,
                takeovers: 0,
                reason: None,
                changes: Vec::new(),
                verdicts: Vec::new(),
            }
        });
        let hosts = hosts.collect();
        Self {
            now,
            random,
            hosts,
            wire: Vec::new(),
            key: Secret::new("0123456789abcdef"),
            jitter: 200,
            loss: 0,
            just_lost: HashSet::new(),
            hiccups: false,
            cut: Vec::new(),
            recorded: Vec::new(),
            beat,
            interval,
            bug,
            trace: Vec::new(),
        }
    }

    fn note(&mut self, text: &str) {
        self.trace.push(format!("{:>10} {text}", self.now.micros()));
    }

    fn fail<T>(&self, what: &str) -> Result<T, String> {
        let from = self.trace.len().saturating_sub(40);
        let settings = format!("adverts {} ms, heartbeats {} ms", self.interval, self.beat);
        Err(format!(
            "{what} ({settings})\n{}",
            self.trace[from..].join("\n")
        ))
    }

    fn send(&mut self, from: usize, to: usize, kind: Kind, bytes: Vec<u8>) {
        let link = (from, to, kind);
        if self.cut.contains(&link) {
            return;
        }
        let lost = self.random.below(100) < self.loss;
        if lost && self.just_lost.insert(link) {
            return;
        }
        self.just_lost.remove(&link);
        let at = self.now + Span::from_micros(50 + self.random.below(self.jitter));
        self.wire.push(Packet {
            at,
            from,
            to,
            kind,
            bytes,
        });
    }

    /// Drops all of this kind between the first host and the others, or in one direction.
    fn cut(&mut self, kinds: &[Kind], from_first: bool, to_first: bool) {
        for other in 1..self.hosts.len() {
            for kind in kinds {
                self.cut.extend(from_first.then_some((0, other, *kind)));
                self.cut.extend(to_first.then_some((other, 0, *kind)));
            }
        }
    }

    fn feed(&mut self, host: usize, event: Event) {
        let Some(machine) = &mut self.hosts[host].machine else {
            return;
        };
        machine.handle(self.now, event);
        let outputs: Vec<Output> = std::iter::from_fn(|| machine.poll_output()).collect();
        for output in outputs {
            match output {
                Output::SendAdvert { priority } => {
                    for to in (0..self.hosts.len()).filter(|to| *to != host) {
                        let mut bytes = Vec::new();
                        let router = &self.hosts[host].router;
                        let advert = router.advert(priority);
                        advert.emit(
                            address(host),
                            address(to),
                            ChecksumForm::Rfc9568,
                            &mut bytes,
                        );
                        self.send(host, to, Kind::Advert, bytes);
                    }
                }
                Output::StateChanged { old, new, reason } => {
                    self.note(&format!("{host} {old:?} → {new:?}: {reason}"));
                    if new == RouterState::Active {
                        self.hosts[host].takeovers += 1;
                        self.hosts[host].reason = Some(reason);
                    }
                }
                _ => {}
            }
        }
    }

    fn changed(&mut self, host: usize, peer: usize, path: LivenessPath, news: News) {
        let News {
            change,
            mut verdict,
            ..
        } = news;
        if let Some(change) = change {
            self.note(&format!("{host} about {peer} over {path:?}: {change:?}"));
            self.hosts[host].changes.push((peer, path, change));
        }
        let dead = |change: Option<Change>, sure: bool| match change {
            Some(Change::Dead {
                spoke,
                silence,
                beat,
            }) => Some(Verdict::Dead {
                spoke,
                silence,
                beat,
                sure,
            }),
            _ => None,
        };
        match (self.bug, path, verdict) {
            (Bug::SplitIsDeath, LivenessPath::Vip, None | Some(Verdict::Cut)) => {
                verdict = dead(change, true).or(verdict);
            }
            (Bug::SecondIsProof, LivenessPath::Second, _) => {
                let now = self.now;
                if dead(change, true).is_some() {
                    verdict = Some(Verdict::Dead {
                        spoke: now,
                        silence: Span::ZERO,
                        beat: Span::ZERO,
                        sure: true,
                    });
                }
            }
            (Bug::WaitsForEver, LivenessPath::Second, Some(Verdict::Dead { .. })) => {
                verdict = None;
            }
            _ => {}
        }
        let Some(verdict) = verdict else { return };
        self.note(&format!("{host} about {peer}: {verdict:?}"));
        self.hosts[host].verdicts.push((peer, verdict));
        let peer = address(peer);
        let event = match (verdict, self.bug) {
            (Verdict::Alive, _) => Event::PeerAlive(peer),
            (Verdict::Cut, _) => Event::PeerCut(peer),
            (Verdict::Dead { .. }, Bug::VerdictLost) => return,
            (Verdict::Dead { .. }, Bug::AdvertsIgnored) => Event::PeerDead {
                peer,
                spoke: self.now,
                silence: Span::ZERO,
                beat: Span::ZERO,
                sure: true,
            },
            (
                Verdict::Dead {
                    spoke,
                    silence,
                    beat,
                    sure,
                },
                _,
            ) => Event::PeerDead {
                peer,
                spoke,
                silence,
                beat,
                sure,
            },
        };
        self.feed(host, event);
    }

    fn read(&mut self, host: usize, received: Time, packet: &Packet) {
        if let Kind::Beat(path) = packet.kind {
            let (from, to) = (on(path, packet.from), on(path, host));
            let Ok(mut beat) = Heartbeat::decode(&packet.bytes, &self.key, from, to) else {
                return;
            };
            if self.bug == Bug::FarewellIgnored {
                beat.leaving = false;
            }
            let Some(peer) = &mut self.hosts[host].sessions[packet.from] else {
                return;
            };
            if self.bug == Bug::ReplayAccepted {
                beat.sequence = received.micros();
            }
            if self.bug == Bug::EchoIgnored {
                // Whatever it tells, it is this one that we sent last.
                let mut asked = Session::new(ms(self.beat), beat.boot, received);
                beat.heard = latest(peer, path, &mut asked);
            }
            // As the shell does: a heartbeat counts from when it is read.
            let news = peer.heard(path, &beat, self.now);
            self.changed(host, packet.from, path, news);
            return;
        }
        let (from, to) = (address(packet.from), address(host));
        let router = Arc::clone(&self.hosts[host].router);
        let datagram = Datagram {
            source: from,
            destination: to,
            hop_limit: 255,
            received,
            message: &packet.bytes,
        };
        if let Ok(heard) = receive::check(&router, &datagram, self.now) {
            self.feed(host, Event::Heard(heard));
        }
    }

    fn due(&self, host: usize) -> Option<Time> {
        let this = &self.hosts[host];
        let machine = this.machine.as_ref()?;
        let sessions = this.sessions.iter().flatten().map(Peer::poll_timeout);
        let inbox = this.inbox.iter().map(|(at, _)| *at);
        let first = sessions.chain(machine.poll_timeout()).chain(inbox).min()?;
        Some(first.max(this.busy_until).max(self.now))
    }

    fn wake(&mut self, host: usize) {
        for (received, packet) in std::mem::take(&mut self.hosts[host].inbox) {
            self.read(host, received, &packet);
        }
        for peer in 0..self.hosts.len() {
            for path in PATHS {
                let now = self.now;
                let Some(session) = &mut self.hosts[host].sessions[peer] else {
                    continue;
                };
                let Some(due) = session.session(path).map(Session::poll_timeout) else {
                    continue;
                };
                if due > now {
                    continue;
                }
                let at = match self.bug {
                    Bug::StallUnnoticed => due,
                    _ => now,
                };
                let (beat, news) = session.timeout(path, at);
                self.changed(host, peer, path, news);
                if let Some(beat) = beat {
                    let bytes = beat.encode(&self.key, on(path, host), on(path, peer));
                    self.send(host, peer, Kind::Beat(path), bytes.to_vec());
                }
            }
        }
        self.feed(host, Event::Timeout);
        let rested = self.now - self.hosts[host].busy_until > ms(100);
        if self.hiccups && rested && self.random.below(50) == 0 {
            self.hosts[host].busy_until = self.now + ms(self.random.below(HICCUP));
        }
    }

    fn run(&mut self, span: Span) {
        let end = self.now + span;
        loop {
            let packet = self.wire.iter().map(|packet| packet.at).min();
            let host = (0..self.hosts.len())
                .filter_map(|host| self.due(host))
                .min();
            let next = packet.into_iter().chain(host).min();
            let Some(next) = next.filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            let now = self.now;
            let (arrived, rest): (Vec<_>, Vec<_>) =
                self.wire.drain(..).partition(|packet| packet.at <= now);
            self.wire = rest;
            for packet in arrived {
                let to = &mut self.hosts[packet.to];
                if to.machine.is_some() && !(to.paused && to.busy_until > now) {
                    if packet.kind != Kind::Advert {
                        self.recorded.push(packet.clone());
                        self.recorded
                            .drain(..self.recorded.len().saturating_sub(20));
                    }
                    to.inbox.push((now, packet));
                }
            }
            for host in 0..self.hosts.len() {
                // Bounded: a session whose time passed has another one afterwards.
                for _ in 0..100 {
                    if self.due(host).is_none_or(|at| at > self.now) {
                        break;
                    }
                    self.wake(host);
                }
            }
        }
    }

    fn owners(&self) -> Vec<usize> {
        let active = |host: &usize| {
            let machine = self.hosts[*host].machine.as_ref();
            machine.is_some_and(|machine| machine.state() == RouterState::Active)
        };
        (0..self.hosts.len()).filter(active).collect()
    }

    fn deaths(&self, of: usize) -> usize {
        let all = self.hosts.iter().flat_map(|host| &host.verdicts);
        all.filter(|(peer, verdict)| *peer == of && matches!(verdict, Verdict::Dead { .. }))
            .count()
    }

    fn takeovers(&self) -> u32 {
        self.hosts.iter().map(|host| host.takeovers).sum()
    }

    fn kill(&mut self, host: usize) {
        self.note(&format!("kill {host}"));
        self.hosts[host].machine = None;
        self.hosts[host]
            .sessions
            .iter_mut()
            .for_each(|session| *session = None);
    }
}

/// What a session said last, as a peer that hears it would tell.
fn latest(peer: &mut Peer, path: LivenessPath, asked: &mut Session) -> Option<(u64, u64)> {
    let beat = peer.leave(path)?;
    asked.heard(
        &Heartbeat {
            leaving: false,
            ..beat
        },
        Time::default(),
    );
    Some((beat.boot, beat.sequence))
}

fn simulate(seed: u64, bug: Bug) -> Checked {
    let all = [
        Scenario::Death,
        Scenario::Farewell,
        Scenario::Blocked,
        Scenario::OneWay,
        Scenario::Stall,
        Scenario::Foreign,
        Scenario::Split,
        Scenario::SecondLost,
        Scenario::SecondOnly,
    ];
    let mut scenario = all[usize::try_from(seed % 9).unwrap()];
    let needs = [Scenario::Split, Scenario::SecondLost, Scenario::SecondOnly];
    // The others must hold with a second network too.
    let second = needs.contains(&scenario) || seed / 9 % 2 == 1;
    let speaks = |host| scenario != Scenario::Foreign || host != 0;
    let mut world = World::new(seed, bug, second, speaks);
    if scenario == Scenario::SecondOnly {
        // A security group that lets only VRRP pass.
        for from in 0..world.hosts.len() {
            for to in 0..world.hosts.len() {
                world.cut.push((from, to, Kind::VIP));
            }
        }
    }
    let rare = world.interval == 1_000;
    if scenario == Scenario::Blocked && rare {
        // Then adverts are no witness in time, and the session is believed.
        scenario = Scenario::Death;
    }
    world.note(&format!("{scenario:?}, second network: {second}"));
    let interval = world.interval;
    for host in 0..world.hosts.len() {
        world.feed(host, Event::Startup);
        // The first one is Active before others listen.
        world.run(ms(5 * interval));
    }
    // Under load: nothing moves.
    world.jitter = 5_000;
    world.loss = 10;
    world.hiccups = true;
    world.run(ms(3_000));
    world.loss = 0;
    world.hiccups = false;
    world.run(ms(300 + interval));
    let [owner] = world.owners()[..] else {
        return world.fail("one Active, no more");
    };
    if owner != 0 || world.takeovers() != 1 {
        return world.fail("a takeover from a living Active");
    }
    let session = world.hosts[1].sessions[0].as_ref().unwrap();
    let states = PATHS.map(|path| session.state(path));
    let expected = match scenario {
        Scenario::Foreign => [PathState::Never; 2],
        Scenario::SecondOnly => [PathState::Never, PathState::Alive],
        _ => [PathState::Alive; 2],
    };
    let expected = [Some(expected[0]), Some(expected[1]).filter(|_| second)];
    if states != expected {
        return world.fail(&format!("the session is {states:?}, not {expected:?}"));
    }
    for host in &mut world.hosts {
        host.changes.clear();
        host.verdicts.clear();
    }
    let phase = world.random.below(interval * 1_000);
    world.run(Span::from_micros(phase));
    happens(&mut world, scenario, interval)
}

/// What the seed is about, and what must be true of it.
fn happens(world: &mut World, scenario: Scenario, interval: u64) -> Checked {
    let beat = world.beat;
    // The longer one of both paths.
    let patience = |world: &World| {
        let peer = world.hosts[1].sessions[0].as_ref().unwrap();
        let all = PATHS.into_iter().filter_map(|path| peer.session(path));
        all.map(Session::patience).max().unwrap()
    };
    let down = world.hosts[1].router.active_down(ms(interval)).micros();
    match scenario {
        Scenario::Death => {
            let patience = patience(world).micros() / 1_000;
            world.kill(0);
            if world.bug == Bug::ReplayAccepted || world.random.below(2) == 0 {
                // Somebody plays what it recorded again, all the time.
                replay(world, 2 * patience + 3 * beat + 2 * interval);
            } else {
                let silence = patience + 2 * beat + 15;
                let overdue = if interval <= 2 * patience {
                    interval + 2 * beat + 15
                } else {
                    0
                };
                world.run(ms(silence.max(overdue) + beat));
            }
            if world.owners().is_empty() {
                return world.fail("nobody took over in time");
            }
            alone(world)
        }
        Scenario::Foreign => {
            world.kill(0);
            let before = world.now;
            while world.owners().is_empty() && (world.now - before).micros() < down + 10_000 {
                world.run(ms(1));
            }
            // The last advert was at most one interval ago.
            let took = (world.now - before).micros();
            if world.owners().is_empty() || took + interval * 1_000 + 10_000 < down {
                return world.fail("the protocol's own time");
            }
            alone(world)
        }
        Scenario::Farewell => {
            world.feed(0, Event::Shutdown);
            world.run(ms(50));
            // The last word of a process.
            for peer in 1..world.hosts.len() {
                for path in PATHS {
                    let session = world.hosts[0].sessions[peer].as_mut().unwrap();
                    let Some(beat) = session.leave(path) else {
                        continue;
                    };
                    let bytes = beat.encode(&world.key, on(path, 0), on(path, peer));
                    world.send(0, peer, Kind::Beat(path), bytes.to_vec());
                }
            }
            world.kill(0);
            world.run(ms(10 * interval + 1_000));
            if world.deaths(0) > 0 {
                return world.fail("who left is dead");
            }
            alone(world)
        }
        Scenario::Blocked => {
            world.cut(&[Kind::VIP], true, false);
            world.run(ms(2_000));
            let silent = |(peer, path, change): &(usize, LivenessPath, Change)| {
                let dead = matches!(change, Change::Dead { .. });
                (*peer, *path) == (0, LivenessPath::Vip) && dead
            };
            if !world.hosts[1].changes.iter().any(silent) {
                return world.fail("sessions notice that they are cut");
            }
            unmoved(world)
        }
        Scenario::OneWay => {
            world.cut(&[Kind::Advert, Kind::VIP], false, true);
            world.run(ms(2_000));
            let one_way = (0, LivenessPath::Vip, Change::OneWay);
            let told = |host: &Host| host.changes.contains(&one_way);
            if !world.hosts[1..].iter().all(told) {
                return world.fail("who is not heard is told so");
            }
            unmoved(world)
        }
        Scenario::Stall => {
            world.hosts[1].paused = true;
            // Often longer than the session waits, and shorter than the protocol does.
            let down = down / 1_000;
            let stall = 10 + world.random.below(down.saturating_sub(2 * interval + 30));
            world.hosts[1].busy_until = world.now + ms(stall);
            world.run(ms(stall + 2_000));
            world.hosts[1].paused = false;
            unmoved(world)
        }
        Scenario::Split => {
            // After irregular heartbeats rare ones may be waited for longer than adverts are.
            let judged = patience(world).micros() + (beat + interval) * 1_000 + 5_000 < down;
            world.cut(&[Kind::Advert, Kind::VIP], true, true);
            let before = world.now;
            // The last advert was at most one interval ago.
            let early = down.saturating_sub(interval * 1_000 + 10_000);
            world.run(Span::from_micros(early));
            if world.takeovers() != 1 {
                return world.fail("a split network is taken for death");
            }
            while world.owners().len() < 2 && (world.now - before).micros() < down + 20_000 {
                world.run(ms(1));
            }
            let split = |host: &Host| matches!(host.reason, Some(Reason::Cut { peer, .. }) if peer == address(0));
            if world.owners().len() < 2 || judged && !world.hosts.iter().any(split) {
                return world.fail("the protocol's own time, and that the network is split");
            }
            world.run(ms(2 * interval));
            world.cut.clear();
            alone(world)
        }
        Scenario::SecondLost => {
            world.cut(&[Kind::SECOND], true, true);
            world.run(ms(2_000));
            if world.deaths(0) > 0 {
                return world.fail("the loss of the second network is death");
            }
            unmoved(world)
        }
        Scenario::SecondOnly => {
            // Lost for long, and back: adverts go on.
            world.cut(&[Kind::SECOND], true, true);
            world.run(ms(1_000));
            unmoved(world)?;
            world.cut.retain(|(.., kind)| *kind != Kind::SECOND);
            world.run(ms(500 + interval));
            let patience = patience(world).micros() / 1_000;
            world.kill(0);
            let before = world.now;
            while world.owners().is_empty() && (world.now - before).micros() < down {
                world.run(ms(1));
            }
            let took = (world.now - before).micros() / 1_000;
            let most = (patience + 2 * beat).max(interval + 2 * beat) + 15 + beat;
            if world.owners().is_empty() || took > most {
                return world.fail(&format!("{took} ms, not {most} at most"));
            }
            alone(world)
        }
    }
}

/// The recorded heartbeats of the dead arrive again and again.
fn replay(world: &mut World, millis: u64) {
    for _ in 0..millis / 5 {
        let recorded: Vec<Packet> = world
            .recorded
            .iter()
            .filter(|p| p.from == 0)
            .cloned()
            .collect();
        for packet in recorded {
            world.wire.push(Packet {
                at: world.now,
                ..packet
            });
        }
        world.run(ms(5));
    }
}

/// Once those who took over at the same time have heard each other, one is left.
fn alone(world: &mut World) -> Checked {
    world.run(ms(2 * world.interval));
    match world.owners()[..] {
        [_] => Ok(()),
        _ => world.fail("one Active, no more"),
    }
}

fn unmoved(world: &World) -> Checked {
    match (world.owners().as_slice(), world.takeovers()) {
        ([0], 1) => Ok(()),
        _ => world.fail("a living Active was displaced"),
    }
}

#[test]
fn sessions_keep_their_promises_on_all_seeds() {
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
fn planted_bugs_of_sessions_are_found() {
    for bug in Bug::ALL {
        let found = (0..SEEDS).find(|seed| simulate(*seed, bug).is_err());
        println!("{bug:?}: seed {found:?}");
        assert!(found.is_some(), "{bug:?} is not found in {SEEDS} seeds");
    }
}
