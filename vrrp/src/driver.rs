//! The thread that runs the machines: waits for sockets and timers, feeds events in, performs what
//! comes out.
//!
//! One loop, one thread, no async runtime: between the wake-up by a timer and the advert there is no
//! queue and no allocation but the kernel's. The order within a round matters: received packets go
//! in before timers fire, so that silence is judged only with an empty queue.

mod peers;

use crate::accept::Refusals;
use crate::checks::Checks;
use crate::clock;
use crate::config::{self, InForce, Refused, Verdict};
use crate::control::Command;
use crate::error::{VrrpError, during};
use crate::events::Events;
use crate::flood::Flood;
use crate::guard::Guard;
use crate::instance::{Instance, RouterKey};
use crate::liveness::Sessions;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::port::{Port, PortKey};
use crate::socket::{PACKETS_PER_ROUND, ReceiveBuffer};
use crate::track::Track;
use crate::vip;
use crate::vmac;
use krater_model::FieldError;
use krater_model::control::{
    Applied, Granted, Handover, HandoverResult, RouterState, VrrpConfig, VrrpEventKind, VrrpStatus,
};
use krater_net::PROTO_VRRP;
use krater_net::sync::NetlinkSocket;
use krater_vrrp_proto::strays::Strays;
use krater_vrrp_proto::term::Terms;
use krater_vrrp_proto::{DropReason, Event, Fault, Faults, Router, Span, Time, group, receive};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::signalfd::SignalFd;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use socket2::Socket;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

/// After an address event or a refused change, the kernel is compared with what we want this much
/// later: our own changes cause events too, in bursts.
const RESYNC_AFTER: Span = Span::from_millis(100);
/// So many good packets count as a refused one when it comes to a flood: 255 routers of 2 peers with 10 ms between adverts
/// send no flood, and a peer that sends 100,000 a second does.
const ACCEPTED_AS_REFUSED: u64 = 8;
/// A guard that died is replaced at most this often.
const GUARD_RETRY: Span = Span::from_millis(1_000);

/// Everything the thread works with; made by `run` before privileges are dropped.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) netlink: NetlinkSocket,
    /// Events of links and addresses; only *that* something happened is used.
    pub(crate) events: Socket,
    pub(crate) signals: SignalFd,
    pub(crate) commands: Receiver<Command>,
    pub(crate) wake: Arc<EventFd>,
    pub(crate) track: Track,
    pub(crate) guard: Guard,
    pub(crate) guard_arguments: Vec<OsString>,
    pub(crate) tell: Events,
    pub(crate) metrics: Metrics,
    pub(crate) version: String,
    /// What of the process was granted.
    pub(crate) memory: Memory,
    pub(crate) real_time: Granted,
    /// Of Actives here and at peers.
    pub(crate) terms: Cell<Terms>,
    /// Who is Active where has changed, or what there is to be.
    pub(crate) moved: Cell<bool>,
}

/// Who waits for routers to let go.
#[derive(Debug)]
enum Pending {
    Configured(Applied, oneshot::Sender<Result<Applied, Refused>>),
    HandedOver(
        Vec<RouterKey>,
        oneshot::Sender<Result<Vec<HandoverResult>, Refused>>,
    ),
}

/// Runs until a signal says to end; all routers have resigned then.
pub(crate) fn run(driver: Driver) -> Result<(), VrrpError> {
    let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags).map_err(during("make a timer"))?;
    let mut state = State {
        driver,
        ports: HashMap::new(),
        instances: Vec::new(),
        groups: Vec::new(),
        links_up: HashSet::new(),
        refusals: Refusals::default(),
        sessions: Sessions::default(),
        checks: Checks::default(),
        config: None,
        resync: None,
        guard_retry: None,
        flood: Flood::default(),
        poor: false,
        strays: Strays::default(),
        strays_from: None,
        pending: Vec::new(),
        ending: false,
    };
    let mut buffer = ReceiveBuffer::new();
    loop {
        let deadline = state.deadline();
        arm(&timer, deadline).map_err(during("arm the timer"))?;
        wait(&timer, &state)?;
        let now = clock::now();
        if let Some(late) = deadline.filter(|at| *at <= now) {
            state.driver.metrics.late(now - late);
        }
        // Resets the timer; nothing to read is fine.
        let _ = timer.wait();
        if !state.round(now, &mut buffer)? {
            state.sessions.leave(&state.driver.metrics);
            return Ok(());
        }
    }
}

struct State {
    driver: Driver,
    ports: HashMap<PortKey, Port>,
    instances: Vec<Instance>,
    /// Sync groups: name, and how many of its routers are at fault themselves.
    groups: Vec<(String, usize)>,
    /// Tracked interfaces that are up and have a carrier.
    links_up: HashSet<String>,
    refusals: Refusals,
    sessions: Sessions,
    checks: Checks,
    config: Option<InForce>,
    resync: Option<Time>,
    guard_retry: Option<Time>,
    flood: Flood,
    /// The data plane has members, and none is up.
    poor: bool,
    strays: Strays,
    /// When to watch for strays of the present Backups.
    strays_from: Option<Time>,
    pending: Vec<Pending>,
    /// Told to end: routers that were Active serve until their successors were heard.
    ending: bool,
}

impl State {
    fn deadline(&self) -> Option<Time> {
        self.instances
            .iter()
            .filter_map(|instance| instance.machine.poll_timeout())
            .chain(self.driver.track.deadline())
            .chain(self.resync)
            .chain(self.guard_retry)
            .chain(self.flood.rest())
            .chain(self.sessions.deadline())
            .chain(self.checks.deadline())
            .chain(self.strays.poll_timeout())
            .chain(self.strays_from)
            .min()
    }

    /// One round. False when it was the last.
    fn round(&mut self, now: Time, buffer: &mut ReceiveBuffer) -> Result<bool, VrrpError> {
        let refused = self.receive(buffer) + self.sessions.receive(&self.driver.metrics, now);
        self.flood.refused(now, refused);
        self.network_events(now);
        self.driver.track.work(now);
        if let Some((bound, socket)) = self.driver.track.take_second() {
            self.sessions.set_second(bound, socket);
        }
        let poor = self.driver.track.is_poor();
        let changed = std::mem::replace(&mut self.poor, poor) != poor;
        if self.checks.work(now) || changed {
            self.weigh(now);
        }
        self.set_faults(now);
        self.commands(now);
        self.judge_peers(now);
        for at in 0..self.instances.len() {
            self.step(at, now, Event::Timeout);
        }
        self.synchronise(now);
        if self.resync.is_some_and(|at| at <= now) {
            self.resync = None;
            self.resynchronise(now);
        }
        self.watch_guard(now);
        let signal = self.driver.signals.read_signal();
        if let Ok(Some(signal)) = signal {
            info!(signal = signal.ssi_signo, "ending: resigning all routers");
            for at in 0..self.instances.len() {
                self.step(at, now, Event::Shutdown);
            }
            self.ending = true;
        }
        self.let_go();
        self.look_for_strays(now);
        let done = |instance: &Instance| instance.machine.state() == RouterState::Initialize;
        Ok(!(self.ending && self.instances.iter().all(done)))
    }

    /// Feeds an event into a machine and performs what comes out.
    fn step(&mut self, at: usize, now: Time, event: Event) {
        let Some(instance) = self.instances.get_mut(at) else {
            return;
        };
        instance.machine.handle(now, event);
        let Some(port) = self.ports.get(&instance.port) else {
            return;
        };
        if instance.perform(&self.driver, port).is_err() {
            self.resync.get_or_insert(now + RESYNC_AFTER);
        }
    }

    /// Has the routers of each sync group change state together.
    fn synchronise(&mut self, now: Time) {
        for group in 0..self.groups.len() {
            let members = self.instances.iter().filter(|i| i.group == Some(group));
            let event = match group::decide(members.map(|i| i.machine.standing())) {
                group::Verdict::Stay => continue,
                group::Verdict::TakeOver => Event::TakeOver,
                group::Verdict::GiveUp => Event::GiveUp,
            };
            for at in 0..self.instances.len() {
                if self
                    .instances
                    .get(at)
                    .is_some_and(|i| i.group == Some(group))
                {
                    self.step(at, now, event.clone());
                }
            }
        }
    }

    /// Finds out who belongs to which sync group.
    fn regroup(&mut self) {
        self.groups.clear();
        for instance in &mut self.instances {
            let name = &instance.configured.plain().sync_group;
            instance.group = match name {
                Some(name) if !instance.removed => {
                    let known = self.groups.iter().position(|(group, _)| group == name);
                    Some(known.unwrap_or_else(|| {
                        self.groups.push((name.clone(), 0));
                        self.groups.len() - 1
                    }))
                }
                _ => None,
            };
        }
    }

    /// Feeds what the sockets hold into the machines. Answers how many packets were refused, and what good ones cost
    /// beside them.
    fn receive(&mut self, buffer: &mut ReceiveBuffer) -> u64 {
        let (mut refused, mut accepted) = (0, 0);
        // Keys are cloned only when a packet is there for a router.
        for port in self.ports.values() {
            let Some(open) = &port.open else { continue };
            for _ in 0..PACKETS_PER_ROUND {
                let datagram = match open.adverts.receive(buffer) {
                    Ok(Some(datagram)) => datagram,
                    Ok(None) => break,
                    Err(error) => {
                        // Such as ENETDOWN; the link's event tells more.
                        warn!(interface = port.key.interface, %error, "receive");
                        break;
                    }
                };
                let now = clock::now();
                let vrid = match receive::header(&datagram) {
                    Ok(packet) => packet.vrid(),
                    Err(reason) => {
                        self.driver.metrics.dropped(reason);
                        refused += 1;
                        continue;
                    }
                };
                let instance = self.instances.iter_mut().find(|instance| {
                    instance.key.vrid.value() == vrid && instance.port == port.key
                });
                let Some(instance) = instance else {
                    self.driver.metrics.dropped(DropReason::Vrid);
                    refused += 1;
                    continue;
                };
                match receive::check(instance.machine.router(), &datagram, now) {
                    Ok(heard) => {
                        accepted += 1;
                        instance.heard(now, heard);
                        let router = instance.machine.router();
                        if heard.priority == 0 && self.sessions.succeeds(router, heard.source) {
                            let event = Event::NextBest(heard.source);
                            instance.machine.handle(now, event);
                        }
                        if instance.perform(&self.driver, port).is_err() {
                            self.resync.get_or_insert(now + RESYNC_AFTER);
                        }
                    }
                    Err(reason) => {
                        instance.refused(reason, &datagram, &self.driver, now);
                        refused += 1;
                    }
                }
            }
            self.driver
                .metrics
                .overflows
                .inc_by(open.adverts.take_lost());
        }
        refused + accepted / ACCEPTED_AS_REFUSED
    }

    /// Something happened to links or addresses: look at the links now, at the addresses soon.
    fn network_events(&mut self, now: Time) {
        let mut happened = false;
        let mut bytes = [MaybeUninit::uninit(); 1];
        // A datagram is consumed whole even when only its first byte is read; ENOBUFS means that
        // events were lost, which is an event too.
        loop {
            match self.driver.events.recv(&mut bytes) {
                Ok(_) => happened = true,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => happened = true,
                Err(_) => break,
            }
        }
        if happened {
            self.refresh_ports();
            self.look_at_links();
            self.weigh(now);
            self.resync.get_or_insert(now + RESYNC_AFTER);
        }
    }

    /// Which of the tracked interfaces work.
    fn look_at_links(&mut self) {
        let tracked = self.instances.iter().flat_map(|instance| {
            let links = &instance.configured.plain().track_interfaces;
            links.iter().map(|link| link.name.clone())
        });
        let tracked: HashSet<String> = tracked.collect();
        self.links_up.clear();
        for name in tracked {
            self.look_at(&name);
        }
    }

    fn look_at(&mut self, name: &str) {
        let link = self.driver.netlink.link_by_name(name);
        if link.is_ok_and(|link| link.is_some_and(|link| link.up && link.carrier)) {
            self.links_up.insert(name.to_owned());
        } else {
            self.links_up.remove(name);
        }
    }

    /// Gives each router the priority that its tracked interfaces leave.
    fn weigh(&mut self, now: Time) {
        for at in 0..self.instances.len() {
            let Some(instance) = self.instances.get(at) else {
                continue;
            };
            let router = self.weighed(&instance.configured);
            if router.priority() != instance.machine.router().priority() {
                info!(
                    vrid = instance.key.vrid.value(),
                    priority = router.priority().value(),
                    "what is tracked changes the priority"
                );
                instance
                    .metrics
                    .priority
                    .set(router.priority().value().into());
                self.step(at, now, Event::Configure(router));
            }
        }
    }

    fn weighed(&self, configured: &Arc<Router>) -> Arc<Router> {
        let is_up = |name: &str| self.links_up.contains(name);
        let passes = |name: &str| self.checks.is_up(name);
        let priority = configured.weighed_priority(is_up, passes, self.poor);
        if priority == configured.priority() {
            Arc::clone(configured)
        } else {
            Arc::new(configured.with_priority(priority))
        }
    }

    fn refresh_ports(&mut self) {
        for port in self.ports.values_mut() {
            port.refresh(&self.driver.netlink);
        }
        self.sessions.open(&self.ports);
        self.driver.moved.set(true);
    }

    fn set_faults(&mut self, now: Time) {
        let dataplane = self.driver.track.fault();
        let healthy = dataplane.is_none();
        self.driver.metrics.dataplane_healthy.set(healthy.into());
        let own = |state: &Self, instance: &Instance| {
            let router = instance.machine.router();
            let port = state.ports.get(&instance.port);
            state.faults_of(router, dataplane, port)
        };
        for at in 0..self.groups.len() {
            let members = self.instances.iter().filter(|i| i.group == Some(at));
            let faulty = members.filter(|i| !own(self, i).is_empty()).count();
            if let Some(group) = self.groups.get_mut(at) {
                group.1 = faulty;
            }
        }
        for at in 0..self.instances.len() {
            let Some(instance) = self.instances.get(at) else {
                continue;
            };
            let mut faults = own(self, instance);
            let group = instance.group.and_then(|group| self.groups.get(group));
            let others = group.map_or(0, |(_, faulty)| *faulty);
            if others > usize::from(!faults.is_empty()) {
                faults = faults.with(Fault::SyncGroup);
            }
            let Some(instance) = self.instances.get_mut(at) else {
                continue;
            };
            if faults != instance.faults {
                instance.faults = faults;
                self.step(at, now, Event::Faults(faults));
            }
        }
    }

    fn commands(&mut self, now: Time) {
        // Fails when the counter is zero: nobody woke us.
        let _ = self.driver.wake.read();
        while let Ok(command) = self.driver.commands.try_recv() {
            // A client that gave up does not want the answer.
            match command {
                Command::Configure(config, answer) => match self.configure(now, *config) {
                    // Whoever removes a router may remove its interface next: it must be gone before.
                    Ok(applied) => self.pending.push(Pending::Configured(applied, answer)),
                    Err(refused) => drop(answer.send(Err(refused))),
                },
                Command::HandOver(handover, answer) => match self.hand_over(now, &handover) {
                    Ok(keys) => self.pending.push(Pending::HandedOver(keys, answer)),
                    Err(refused) => drop(answer.send(Err(refused))),
                },
                Command::Report(name, up, answer) => {
                    let reported = self.checks.report(&name, up, now);
                    if reported == Ok(true) {
                        self.weigh(now);
                        self.set_faults(now);
                    }
                    let _ = answer.send(reported.map(drop));
                }
                Command::Status(answer) => {
                    let _ = answer.send(self.status(now));
                }
            }
        }
    }

    /// Begins to hand over what is asked for; answers which.
    fn hand_over(&mut self, now: Time, which: &Handover) -> Result<Vec<RouterKey>, Refused> {
        let asked = |key: &RouterKey| {
            which.vrid.is_none_or(|vrid| vrid == key.vrid)
                && which.interface.as_ref().is_none_or(|i| *i == key.interface)
        };
        let conflict = |why: &str| Err(Refused::Conflict(FieldError::new("vrid", why)));
        let mut keys = Vec::new();
        let mut known = false;
        let hold = which.hold.unwrap_or(Handover::HOLD).duration().into();
        // A sync group goes as a whole.
        let groups = self.instances.iter().filter(|i| asked(&i.key));
        let groups: Vec<usize> = groups.filter_map(|i| i.group).collect();
        let asked =
            |i: &&Instance| asked(&i.key) || i.group.is_some_and(|group| groups.contains(&group));
        for at in 0..self.instances.len() {
            let Some(instance) = self.instances.get(at).filter(asked) else {
                continue;
            };
            known = true;
            let alone = instance.machine.router().is_alone();
            if instance.machine.state() == RouterState::Active && !alone && !instance.removed {
                keys.push(instance.key.clone());
                self.step(at, now, Event::HandOver(hold));
            }
        }
        match (known, keys.is_empty()) {
            (false, _) => conflict("no such virtual router here: see `status`"),
            (_, true) => conflict("nothing to hand over: not Active, or without peers"),
            _ => Ok(keys),
        }
    }

    /// Forgets routers that were removed and have let go, and answers who waited for it.
    fn let_go(&mut self) {
        let before = self.instances.len();
        for at in (0..self.instances.len()).rev() {
            let done = |i: &Instance| i.removed && i.machine.state() == RouterState::Initialize;
            if self.instances.get(at).is_some_and(done) {
                let gone = self.instances.swap_remove(at);
                self.driver.metrics.forget(&gone.key.labels());
                self.without_virtual_mac(&gone);
            }
        }
        if self.instances.len() < before {
            self.accept_again();
        }
        let used: Vec<PortKey> = self.instances.iter().map(|i| i.port.clone()).collect();
        if self.ports.len() > used.len() || !self.pending.is_empty() {
            self.ports.retain(|key, _| used.contains(key));
        }
        let instances = &self.instances;
        let removing = instances.iter().any(|instance| instance.removed);
        let busy = |keys: &[RouterKey]| {
            let mut leaving = instances.iter().filter(|i| i.machine.is_leaving());
            leaving.any(|instance| keys.contains(&instance.key))
        };
        for pending in std::mem::take(&mut self.pending) {
            // A client that gave up does not want the answer.
            match pending {
                Pending::Configured(applied, answer) if !removing => {
                    let _ = answer.send(Ok(applied));
                }
                Pending::HandedOver(keys, answer) if !busy(&keys) => {
                    let ours = instances.iter().filter(|i| keys.contains(&i.key));
                    let _ = answer.send(Ok(ours.map(Instance::handover_result).collect()));
                }
                waiting => self.pending.push(waiting),
            }
        }
    }

    fn configure(&mut self, now: Time, new: VrrpConfig) -> Result<Applied, Refused> {
        if self.ending {
            let error = FieldError::new("revision", "vrrp is about to end");
            return Err(Refused::Conflict(error));
        }
        let revision = new.revision;
        let routers = match config::judge(self.config.as_ref(), &new)? {
            Verdict::Same => {
                return Ok(Applied {
                    revision,
                    changed: false,
                });
            }
            Verdict::Apply(routers) => routers,
        };
        // Before an address comes, and until it has gone.
        let present = self.instances.iter().map(|i| &*i.configured);
        let all = routers.iter().map(|router| &**router).chain(present);
        self.refusals.set(all).map_err(|error| {
            let why = format!("false needs nftables: {error}: {}", error.source);
            Refused::Invalid(FieldError::new("accept", why))
        })?;
        self.virtual_macs(&routers)?;
        let wanted: Vec<RouterKey> = routers.iter().map(|r| RouterKey::of(r)).collect();
        for at in 0..self.instances.len() {
            let gone = |i: &&Instance| !i.removed && !wanted.contains(&i.key);
            let Some(key) = self.instances.get(at).filter(gone).map(|i| i.key.clone()) else {
                continue;
            };
            let theirs = |router: &Arc<Router>| {
                router.plain().interface == key.interface && self.shares_addresses(at, router)
            };
            let moved = routers.iter().any(theirs);
            self.step(at, now, Event::Shutdown);
            if moved {
                // Another router of ours takes its addresses: now, not after a successor elsewhere.
                self.step(at, now, Event::Shutdown);
            }
            if let Some(instance) = self.instances.get_mut(at) {
                instance.removed = true;
            }
        }
        let in_force = routers.clone();
        self.checks.set(&routers);
        for router in &routers {
            for link in &router.plain().track_interfaces {
                self.look_at(&link.name);
            }
        }
        for router in routers {
            self.set_router(now, router);
        }
        info!(
            revision = %revision,
            request_id = new.request_id,
            routers = in_force.len(),
            "configuration in force"
        );
        self.config = Some(InForce {
            revision,
            routers: in_force,
        });
        self.regroup();
        self.set_faults(now);
        self.accept_again();
        self.meet_peers(now);
        self.driver.moved.set(true);
        Ok(Applied {
            revision,
            changed: true,
        })
    }

    /// Makes the macvlans that these routers need, while nothing has changed yet. Those of interfaces that are not there
    /// are made with them.
    fn virtual_macs(&self, routers: &[Arc<Router>]) -> Result<(), Refused> {
        for (i, router) in routers.iter().enumerate() {
            let plain = router.plain();
            if !plain.virtual_mac {
                continue;
            }
            let link = self.driver.netlink.link_by_name(&plain.interface);
            let made = link.and_then(|link| {
                let parent = link.map(|link| link.index);
                parent.map_or(Ok(0), |parent| {
                    vmac::prepare(&self.driver.netlink, parent, router)
                })
            });
            made.map_err(|error| {
                let why = format!("true needs a macvlan on {}: {error}", plain.interface);
                Refused::Invalid(FieldError::new(format!("routers[{i}].virtual_mac"), why))
            })?;
        }
        Ok(())
    }

    /// A router that had a virtual MAC address has none any more.
    fn without_virtual_mac(&self, gone: &Instance) {
        let router = gone.machine.router();
        let open = self
            .ports
            .get(&gone.port)
            .and_then(|port| port.open.as_ref());
        if let Some(open) = open.filter(|_| router.plain().virtual_mac) {
            vmac::delete(&self.driver.netlink, open.index, router);
        }
    }

    /// Has the liveness sessions that routers ask for.
    fn meet_peers(&mut self, now: Time) {
        let present = self.instances.iter().filter(|i| !i.removed);
        let routers = present.map(|i| &*i.configured);
        self.sessions
            .set(routers, &self.ports, &self.driver.metrics, now);
    }

    /// Accepts packets to addresses that no router refuses any more.
    fn accept_again(&mut self) {
        let present = self.instances.iter().map(|i| &*i.configured);
        if let Err(error) = self.refusals.set(present) {
            self.driver.metrics.netlink_errors.inc();
            warn!(%error, "packets to former addresses are still refused");
        }
    }

    fn shares_addresses(&self, at: usize, other: &Router) -> bool {
        self.instances.get(at).is_some_and(|instance| {
            let mut ours = instance.machine.router().moved();
            ours.any(|address| other.moves(address))
        })
    }

    /// Changes a router, or makes it.
    fn set_router(&mut self, now: Time, router: Arc<Router>) {
        let key = RouterKey::of(&router);
        let port = PortKey {
            interface: key.interface.clone(),
            source: router.source(),
            multicast: router.is_multicast(),
        };
        if !self.ports.contains_key(&port) {
            let made = Port::new(port.clone(), &self.driver.netlink);
            self.ports.insert(port.clone(), made);
        }
        let weighed = self.weighed(&router);
        if let Some(at) = self.instances.iter().position(|i| i.key == key) {
            // Its addresses cannot be at two places.
            let moved =
                |i: &Instance| i.machine.router().plain().virtual_mac != router.plain().virtual_mac;
            let removed = self
                .instances
                .get(at)
                .is_some_and(|i| i.removed || moved(i));
            if removed {
                // It comes back before it has gone.
                self.step(at, now, Event::Shutdown);
            }
            if self.instances.get(at).is_some_and(moved) {
                self.step(at, now, Event::Shutdown);
                if let Some(instance) = self.instances.get(at) {
                    self.without_virtual_mac(instance);
                }
            }
            if let Some(instance) = self.instances.get_mut(at) {
                instance.port = port;
                instance.removed = false;
                instance.configured = router;
                instance
                    .metrics
                    .priority
                    .set(weighed.priority().value().into());
            }
            self.step(at, now, Event::Configure(weighed));
            if removed {
                self.step(at, now, Event::Startup);
            }
            return;
        }
        let faults = self.faults_of(&router, self.driver.track.fault(), self.ports.get(&port));
        let metrics = self.driver.metrics.router(&key.labels());
        metrics.priority.set(weighed.priority().value().into());
        let mut instance = Instance::new(key, port, router, weighed, metrics, now);
        instance.faults = faults;
        instance.machine.handle(now, Event::Faults(faults));
        self.instances.push(instance);
        self.step(self.instances.len() - 1, now, Event::Startup);
    }

    /// What is wrong with a router's surroundings, without those of its sync group.
    fn faults_of(&self, router: &Router, dataplane: Option<Fault>, port: Option<&Port>) -> Faults {
        let dataplane = dataplane.filter(|_| router.plain().track_dataplane);
        let link = (!port.is_some_and(Port::works)).then_some(Fault::Link);
        let misses = router.misses_a_link(|name| self.links_up.contains(name));
        let fails = router.misses_a_check(|name| self.checks.is_up(name));
        let tracked = misses.then_some(Fault::TrackedLink);
        let check = fails.then_some(Fault::Check);
        let all = dataplane
            .into_iter()
            .chain(link)
            .chain(tracked)
            .chain(check);
        all.fold(Faults::NONE, Faults::with)
    }

    fn status(&self, now: Time) -> VrrpStatus {
        VrrpStatus {
            version: self.driver.version.clone(),
            pid: std::process::id(),
            revision: self.config.as_ref().map(|config| config.revision),
            memory_locked: Some(self.driver.memory.locked()),
            real_time: Some(self.driver.real_time.clone()),
            checks: self.checks.status(now),
            routers: self
                .instances
                .iter()
                .filter(|instance| !instance.removed)
                .map(|instance| {
                    let liveness = self.sessions.of(instance.machine.router());
                    instance.status(now, liveness)
                })
                .collect(),
        }
    }

    /// Makes the tagged addresses in the kernel what the Active routers hold: restores what somebody
    /// removed or a refused change left out, removes what nobody holds.
    fn resynchronise(&mut self, now: Time) {
        if self
            .ports
            .values()
            .any(|port| port.up && port.open.is_none())
        {
            // Sockets could not be opened although the interface is up.
            self.refresh_ports();
            self.resync = Some(now + RESYNC_AFTER);
        }
        let listed = match self.driver.netlink.addresses() {
            Ok(listed) => listed,
            Err(error) => {
                self.driver.metrics.netlink_errors.inc();
                warn!(%error, "addresses cannot be listed");
                self.resync = Some(now + RESYNC_AFTER);
                return;
            }
        };
        let mut wanted = Vec::new();
        let mut failed = false;
        for instance in &mut self.instances {
            let index = self
                .ports
                .get(&instance.port)
                .and_then(|p| Some(p.open.as_ref()?.index));
            let Some(index) = index.filter(|_| instance.machine.state() == RouterState::Active)
            else {
                continue;
            };
            let belongings = instance.machine.router().belongings();
            let place = match instance.place(&self.driver, index) {
                Ok(place) => place,
                Err(error) => {
                    warn!(%error, "no virtual MAC address");
                    failed = true;
                    continue;
                }
            };
            let mut missing = 0_u64;
            for address in vip::addresses(place, &belongings) {
                if !listed
                    .iter()
                    .any(|l| l.link == address.link && l.net.addr() == address.net.addr())
                {
                    missing += 1;
                }
                wanted.push((address.link, address.net.addr()));
            }
            if missing > 0 || instance.incomplete.get() {
                warn!(
                    vrid = instance.key.vrid.value(),
                    missing, "addresses, routes or rules were missing: adding them"
                );
                self.driver.metrics.restored.inc_by(missing);
                if missing > 0 {
                    let event = VrrpEventKind::AddressesRestored { count: missing };
                    self.driver.tell.tell(&instance.key, event);
                }
                let added = vip::add(&self.driver.netlink, place, &belongings);
                instance.incomplete.set(added.is_err());
                if let Err(error) = added {
                    warn!(%error, "cannot be added");
                    failed = true;
                }
            }
        }
        for address in listed
            .iter()
            .filter(|address| address.protocol == PROTO_VRRP)
        {
            if !wanted.contains(&(address.link, address.net.addr())) {
                warn!(address = %address.net, "nobody holds this address: removing it");
                failed |= self.driver.netlink.delete_address(address).is_err();
            }
        }
        if failed {
            self.driver.metrics.netlink_errors.inc();
            self.resync = Some(now + RESYNC_AFTER);
        }
    }

    /// Replaces a guard that died. The new one is not root but has our capabilities, which is enough.
    fn watch_guard(&mut self, now: Time) {
        if self.guard_retry.is_some_and(|at| at > now) || !self.driver.guard.has_ended() {
            return;
        }
        self.guard_retry = Some(now + GUARD_RETRY);
        match Guard::replace(&self.driver.guard_arguments) {
            Ok(guard) => {
                warn!(
                    guard.pid = guard.pid(),
                    "the guard died; another one is on guard"
                );
                self.driver.guard = guard;
                self.guard_retry = None;
                for instance in &mut self.instances {
                    instance.guard_replaced(&self.driver);
                }
            }
            Err(error) => error!(%error, "the guard died and cannot be started again"),
        }
    }
}

fn arm(timer: &TimerFd, deadline: Option<Time>) -> nix::Result<()> {
    match deadline {
        // Zero would disarm it.
        Some(at) => {
            let at = clock::timespec(at).max(TimeSpec::new(0, 1));
            timer.set(
                Expiration::OneShot(at),
                TimerSetTimeFlags::TFD_TIMER_ABSTIME,
            )
        }
        None => timer.unset(),
    }
}

fn wait(timer: &TimerFd, state: &State) -> Result<(), VrrpError> {
    let driver = &state.driver;
    let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut fds = vec![
        readable(timer.as_fd()),
        readable(driver.events.as_fd()),
        readable(driver.signals.as_fd()),
        readable(driver.wake.as_fd()),
    ];
    if state.guard_retry.is_none() {
        fds.push(readable(driver.guard.descriptor()));
    }
    fds.extend(driver.track.descriptors().map(readable));
    // Under a flood they are looked at when the rest is over, and whenever anything else wakes us.
    if state.flood.rest().is_none() {
        let open = state.ports.values().filter_map(|port| port.open.as_ref());
        fds.extend(
            open.flat_map(|open| open.adverts.descriptors())
                .map(readable),
        );
        fds.extend(state.sessions.descriptors().map(readable));
    }
    if state.strays.poll_timeout().is_none() {
        let open = state.ports.values().filter_map(|port| port.open.as_ref());
        let watches = open.flat_map(|open| &open.strays).map(AsFd::as_fd);
        fds.extend(watches.map(readable));
    }
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(during("poll")(error)),
    }
}
