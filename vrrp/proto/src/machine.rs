//! The state machine of one virtual router (RFC 9568 section 6.4), widened by faults, by knowledge
//! of one's own stalls, and by announcements after every heal.
//!
//! `handle(now, event)` decides, [`Machine::poll_output`] gives the effects in order,
//! [`Machine::poll_timeout`] says when to call with [`Event::Timeout`]. Before a timeout the caller
//! feeds every advert that its sockets hold: silence counts only when the queue was empty.
//!
//! Where it goes beyond the RFC, and why:
//! - *Fault* is Initialize with a reason: what is broken is never the owner of an address.
//! - A Backup whose only peer resigns does not wait Skew_Time: there is nobody to collide with.
//! - Who woke up too late listens before it speaks: the silence may be its own.
//! - An Active that leaves makes before it breaks: it resigns, but serves on until the successor was heard.
//! - An Active that hears a loser, or a resignation, announces again (coalesced): until now
//!   somebody else answered for the address too. So does one whose Backup got what was sent to the addresses.

mod phase;

use crate::announcer::Announcer;
use crate::group::Standing;
use crate::output::{Faults, Notice, Output, Reason};
use crate::receive::Heard;
use crate::router::Router;
use crate::time::{Span, Time};
use crate::timers;
use krater_model::control::RouterState;
use phase::{Active, Backup, Leaving, Listening, Phase, Rival, Then};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

/// Whoever wakes up less late than this did not stand still, however short its interval: a process waits
/// so long for a CPU on a loaded virtual machine (p99.9 of the measured wake-ups is 4 to 19 ms, the
/// worst but rare ones are 22 to 49 ms). At 10 ms between adverts such a hiccup would be two or three
/// intervals. An Active that listened after it would be silent past its peers' Active_Down_Interval
/// (30 to 40 ms), and so lose the addresses for what it could still make good; a Backup would wait
/// although its queue proves the silence. It is not more, because an Active that was silent for longer
/// than its peers wait should listen: at 10 ms that is the case from 40 ms on, of which 36 are theirs.
const MIN_STALL: Span = Span::from_millis(30);
/// How often in a row a Backup that wakes up late listens again before it takes over all the same:
/// a machine that is always late must not leave the address without an owner.
const MAX_RELISTENS: u8 = 3;
/// Priority of the address owner.
const OWNER: u8 = 255;

/// How long an Active that leaves serves on after its successor's first advert: that one installs and
/// announces the addresses meanwhile, and neighbours learn it.
pub const LINGER: Span = Span::from_millis(20);
/// Nobody waits longer for a successor: who told us to go wants to go on. Only intervals of more than one
/// and a half seconds have peers that may be later.
const LONGEST_WAIT: Span = Span::from_millis(3_000);
/// A resignation is repeated so soon, because a packet may be lost. Not again until the longest Skew_Time has
/// passed: a Backup by the letter of RFC 9568 section 6.4.2 begins it anew at each resignation, and would never
/// take over from an Active that repeats it faster.
const TWICE: Span = Span::from_millis(2);
/// An advert that went out so shortly before a rival's was read has answered that one too: its sender reads ours after
/// it spoke. A flood of such adverts is answered a thousand times a second at most.
const ANSWERED: Span = Span::from_millis(1);

/// What happens to a machine.
#[derive(Debug, Clone)]
pub enum Event {
    /// Begin; nothing happens before.
    Startup,
    /// An advertisement passed the receive ladder.
    Heard(Heard),
    /// The time of [`Machine::poll_timeout`] has come. Harmless when it has not.
    Timeout,
    /// What is broken now; the whole set.
    Faults(Faults),
    /// A new configuration of the same router: same interface, identifier and family.
    Configure(Arc<Router>),
    /// Hand the addresses over to a peer and be its Backup; without one that takes them, stay Active.
    /// For so long after it the peer is not preempted.
    HandOver(Span),
    /// The liveness session with a peer ended in silence.
    PeerDead {
        /// Which one.
        peer: IpAddr,
        /// When it was heard there last.
        spoke: Time,
        /// For how long it is silent.
        silence: Span,
        /// Between its heartbeats.
        beat: Span,
        /// It was heard on this network until then. Without, its adverts must be overdue, however rare they are.
        sure: bool,
    },
    /// The liveness session with this peer is up (again).
    PeerAlive(IpAddr),
    /// This peer is silent on this network and lives, as another network tells: the protocol's own time counts.
    PeerCut(IpAddr),
    /// This peer resigned just now, and of all others that may take over from it, as their heartbeats tell, we are the
    /// best: there is nobody to leave Skew_Time to.
    NextBest(IpAddr),
    /// A Backup got frames that were sent to our addresses: somebody still takes it for their owner.
    Misled,
    /// All of the sync group take over: be Active, if Backup.
    TakeOver,
    /// Another router of the sync group is not Active any more: resign, if Active.
    GiveUp,
    /// Resign, and withdraw once a peer has taken over or none will. A second time: withdraw now.
    Shutdown,
}

/// One virtual router.
#[derive(Debug)]
pub struct Machine {
    router: Arc<Router>,
    phase: Phase,
    started: bool,
    faults: Faults,
    reason: Reason,
    since: Time,
    transitions: u64,
    outputs: VecDeque<Output>,
}

impl Machine {
    /// A machine in Initialize.
    pub fn new(router: Arc<Router>, now: Time) -> Self {
        Self {
            router,
            phase: Phase::Initialize,
            started: false,
            faults: Faults::NONE,
            reason: Reason::Created,
            since: now,
            transitions: 0,
            // One event causes at most a handful of outputs; room for more costs 255 routers a third of a megabyte.
            outputs: VecDeque::with_capacity(4),
        }
    }

    /// The state by its RFC name.
    pub fn state(&self) -> RouterState {
        match self.phase {
            Phase::Backup(_) => RouterState::Backup,
            Phase::Active(_) => RouterState::Active,
            Phase::Initialize if self.started => RouterState::Fault,
            Phase::Initialize => RouterState::Initialize,
        }
    }
    /// Why it is in this state.
    pub fn reason(&self) -> Reason {
        self.reason
    }
    /// Since when it is in this state.
    pub fn since(&self) -> Time {
        self.since
    }
    /// How often it gained or lost the Active role.
    pub fn transitions(&self) -> u64 {
        self.transitions
    }
    /// The configuration in force.
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }
    /// Whether it has resigned and serves on until a successor was heard.
    pub fn is_leaving(&self) -> bool {
        matches!(&self.phase, Phase::Active(active) if active.leaving.is_some())
    }
    /// Where it stands in its sync group.
    pub fn standing(&self) -> Standing {
        match &self.phase {
            Phase::Initialize => Standing::Down,
            Phase::Backup(backup) if backup.ready && backup.resigned.is_some() => {
                Standing::Released
            }
            Phase::Backup(backup) if backup.ready => Standing::Ready,
            Phase::Backup(backup) if backup.active.is_some() && backup.resigned.is_none() => {
                Standing::Follows
            }
            Phase::Backup(_) => Standing::Waits,
            Phase::Active(active) if active.leaving.is_some() => Standing::Leaves,
            Phase::Active(_) => Standing::Active,
        }
    }
    /// Whom it follows, while Backup.
    pub fn active_peer(&self) -> Option<IpAddr> {
        match &self.phase {
            Phase::Backup(backup) => backup.active,
            _ => None,
        }
    }

    /// The next effect.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Event::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        match &self.phase {
            Phase::Initialize => None,
            Phase::Backup(backup) => (!backup.ready).then_some(backup.deadline),
            Phase::Active(active) => match (&active.leaving, active.listening) {
                (Some(leaving), _) if leaving.successor.is_some() => Some(leaving.until),
                (Some(leaving), _) => Some(leaving.until.min(leaving.next)),
                (None, Some(listening)) => Some(listening.until),
                (None, None) => [active.next, active.announcer.deadline()]
                    .into_iter()
                    .flatten()
                    .min(),
            },
        }
    }

    /// Takes an event in. `now` never goes back.
    pub fn handle(&mut self, now: Time, event: Event) {
        if !matches!(event, Event::Shutdown | Event::Faults(_)) {
            self.notice_own_stall(now);
        }
        match event {
            Event::Startup => {
                if !self.started {
                    self.started = true;
                    self.begin(now);
                }
            }
            Event::Heard(heard) => match self.phase {
                // What is heard while broken changes nothing.
                Phase::Initialize => {}
                Phase::Backup(_) => self.backup_heard(heard),
                Phase::Active(_) => self.active_heard(now, heard),
            },
            Event::Timeout => match self.phase {
                Phase::Initialize => {}
                Phase::Backup(_) => self.backup_timeout(now),
                Phase::Active(_) => self.active_timeout(now),
            },
            Event::Faults(faults) => self.set_faults(now, faults),
            Event::PeerDead {
                peer,
                spoke,
                silence,
                beat,
                sure,
            } => self.peer_dead(now, peer, spoke, silence, beat, sure),
            Event::PeerAlive(peer) => self.peer_lives(peer, None),
            Event::PeerCut(peer) => self.peer_lives(peer, Some(peer)),
            Event::NextBest(peer) => {
                if let Phase::Backup(backup) = &mut self.phase
                    && backup.resigned == Some(peer)
                {
                    backup.deadline = backup.deadline.min(now);
                }
            }
            Event::Misled => {
                if let Phase::Active(active) = &mut self.phase {
                    active.announcer.request(now);
                    self.announce_due(now);
                }
            }
            Event::Configure(router) => self.configure(now, router),
            Event::TakeOver => {
                if let Phase::Backup(backup) = &mut self.phase {
                    if !backup.ready {
                        // Its Active resigned for the whole group, here too.
                        backup.resigned = backup.resigned.or(backup.active);
                    }
                    let reason = backup.reason(now);
                    self.become_active(now, RouterState::Backup, reason);
                }
            }
            Event::GiveUp => {
                if matches!(&self.phase, Phase::Active(active) if active.leaving.is_none()) {
                    self.withdraw();
                    let backup = self.listening(now);
                    let reason = Reason::GroupGaveUp;
                    self.enter(now, RouterState::Active, Phase::Backup(backup), reason);
                }
            }
            Event::Shutdown => {
                if self.started {
                    self.shut_down(now);
                }
            }
            Event::HandOver(hold) => {
                if matches!(&self.phase, Phase::Active(active) if active.leaving.is_none()) {
                    self.leave(now, Then::Backup(hold));
                }
            }
        }
    }

    /// Leaves Initialize, or reports why not.
    fn begin(&mut self, now: Time) {
        let old = match self.started {
            // `started` is set already, so the state would read Fault at the very start.
            true if self.reason == Reason::Created || self.reason == Reason::Shutdown => {
                RouterState::Initialize
            }
            _ => self.state(),
        };
        if !self.faults.is_empty() {
            let reason = Reason::Faulty(self.faults);
            self.enter(now, old, Phase::Initialize, reason);
        } else if self.router.is_alone() {
            self.become_active(now, old, Reason::Alone);
        } else if self.router.is_owner() {
            self.become_active(now, old, Reason::Owner);
        } else {
            let backup = self.listening(now);
            self.enter(now, old, Phase::Backup(backup), Reason::Listening);
        }
    }

    /// A Backup that has heard nobody yet.
    fn listening(&self, now: Time) -> Backup {
        let learned = timers::interval(self.router.interval());
        Backup {
            learned,
            heard: now,
            deadline: now + self.active_down(learned),
            active: None,
            resigned: None,
            dead: None,
            cut: None,
            relistens: 0,
            differs: false,
            ready: false,
            preempt_at: None,
        }
    }

    fn set_faults(&mut self, now: Time, faults: Faults) {
        let before = std::mem::replace(&mut self.faults, faults);
        if !self.started || before == faults {
            return;
        }
        match (before.is_empty(), faults.is_empty()) {
            (true, false) => {
                let old = self.state();
                self.withdraw();
                self.enter(now, old, Phase::Initialize, Reason::Faulty(faults));
            }
            (false, true) => self.begin(now),
            _ => self.reason = Reason::Faulty(faults),
        }
    }

    fn shut_down(&mut self, now: Time) {
        let alone = self.router.is_alone();
        match &mut self.phase {
            Phase::Active(active) if !alone && active.listening.is_none() => {
                match &mut active.leaving {
                    None => return self.leave(now, Then::Stop),
                    Some(leaving) if leaving.then != Then::Stop => {
                        leaving.then = Then::Stop;
                        return;
                    }
                    Some(_) => {}
                }
            }
            _ => {}
        }
        self.stop(now);
    }

    fn stop(&mut self, now: Time) {
        let old = self.state();
        let succeeded = matches!(&self.phase, Phase::Active(active)
            if active.leaving.is_some_and(|leaving| leaving.successor.is_some()));
        if succeeded {
            self.remove_all();
            // Until now we answered for the addresses too: the successor announces once more.
            self.send(0);
        } else {
            self.withdraw();
        }
        self.started = false;
        self.enter(now, old, Phase::Initialize, Reason::Shutdown);
    }

    /// Resigns and serves on: a successor waits Skew_Time at most, which is less than an interval.
    fn leave(&mut self, now: Time, then: Then) {
        let skew = self.router.longest_skew();
        let every = skew + LINGER;
        // Twice: both packets of the first round may be lost.
        let wait = every.times(2).min(LONGEST_WAIT);
        let Phase::Active(active) = &mut self.phase else {
            return;
        };
        active.leaving = Some(Leaving {
            began: now,
            next: now + TWICE,
            every,
            until: now + wait + LINGER,
            successor: None,
            then,
        });
        self.send(0);
    }

    fn leaving_timeout(&mut self, now: Time, leaving: Leaving) {
        let Phase::Active(active) = &mut self.phase else {
            return;
        };
        if now < leaving.until {
            if leaving.successor.is_none() && now >= leaving.next {
                let next = now + leaving.every;
                active.leaving = Some(Leaving { next, ..leaving });
                self.send(0);
            }
            return;
        }
        match (leaving.then, leaving.successor) {
            (Then::Stop, _) => self.stop(now),
            (Then::Backup(hold), Some(heard)) => {
                self.remove_all();
                // Until now we answered for the addresses too: the successor announces once more.
                self.send(0);
                let reason = Reason::HandedOver {
                    to: heard.source,
                    took: now - leaving.began,
                };
                self.follow(now, heard, reason);
                if let Phase::Backup(backup) = &mut self.phase {
                    backup.preempt_at = Some(now + hold);
                }
            }
            (Then::Backup(_), None) => {
                active.leaving = None;
                active.announcer.burst(now);
                self.outputs.push_back(Output::Notice(Notice::NoSuccessor {
                    waited: now - leaving.began,
                }));
                self.speak(now);
            }
        }
    }

    /// Gives the addresses up, if held. The resignation goes first: the peer installs them while
    /// we still remove ours, and nobody finds the address without an owner.
    fn withdraw(&mut self) {
        if matches!(self.phase, Phase::Active(_)) {
            self.send(0);
            let belongings = self.router.belongings();
            self.outputs.push_back(Output::Remove(belongings));
        }
    }

    fn backup_heard(&mut self, heard: Heard) {
        let router = Arc::clone(&self.router);
        let own = router.priority().value();
        let only_peer = router.peers() == [heard.source];
        let Phase::Backup(backup) = &mut self.phase else {
            return;
        };
        if heard.priority == 0 {
            // Only the Active can give up what it has; before any advert it may be anybody.
            if backup.active.is_none_or(|active| active == heard.source) {
                backup.resigned = Some(heard.source);
                let wait = if only_peer {
                    Span::ZERO
                } else {
                    router.skew(backup.learned)
                };
                backup.preempt_at = None;
                backup.deadline = backup.deadline.min(heard.received + wait);
            }
            return;
        }
        if router.preempts() && heard.priority < own {
            let delay = router.preempt_delay();
            let at = *backup.preempt_at.get_or_insert(heard.received + delay);
            if heard.received >= at {
                // Discarded (section 6.4.2): the timer runs on and we take over.
                return;
            }
        } else {
            backup.preempt_at = None;
        }
        let learned = timers::interval(heard.interval);
        if learned != backup.learned {
            self.outputs
                .push_back(Output::Notice(Notice::IntervalLearned {
                    source: heard.source,
                    interval: learned,
                }));
        }
        let differs = !heard.same_addresses;
        if differs && (backup.active != Some(heard.source) || !backup.differs) {
            self.outputs
                .push_back(Output::Notice(Notice::AddressesDiffer {
                    source: heard.source,
                }));
        }
        backup.learned = learned;
        backup.differs = differs;
        backup.active = Some(heard.source);
        backup.resigned = None;
        backup.dead = None;
        backup.cut = None;
        backup.relistens = 0;
        backup.ready = false;
        backup.heard = backup.heard.max(heard.received);
        backup.deadline = backup.heard + router.active_down(learned);
    }

    /// A second witness of the Active's death beside its adverts: it shortens the wait, and never prolongs it.
    fn peer_dead(
        &mut self,
        now: Time,
        peer: IpAddr,
        spoke: Time,
        silence: Span,
        beat: Span,
        sure: bool,
    ) {
        let router = Arc::clone(&self.router);
        let Phase::Backup(backup) = &mut self.phase else {
            return;
        };
        // An advert since then speaks against it: what is lost is the session, not the peer. (Adverts and
        // heartbeats have schedules of their own, and the last heartbeat may have been lost.)
        if backup.active != Some(peer) || backup.heard > spoke + beat.times(2) {
            return;
        }
        // Adverts that come nearly as often are asked: one must be overdue.
        let overdue = if !sure || backup.learned <= silence.times(2) {
            backup.heard + backup.learned + beat
        } else {
            now
        };
        // Of several peers the best one is first, as after a resignation.
        let rank = if router.peers() == [peer] {
            Span::ZERO
        } else {
            timers::skew(router.priority().value(), beat)
        };
        backup.dead = Some(peer);
        backup.deadline = backup.deadline.min(overdue.max(now) + rank);
    }

    /// It was late, not dead, or it is on the other side of a split network: the protocol's own time counts (again).
    fn peer_lives(&mut self, peer: IpAddr, cut: Option<IpAddr>) {
        let router = Arc::clone(&self.router);
        let Phase::Backup(backup) = &mut self.phase else {
            return;
        };
        if cut.is_some() || backup.cut == Some(peer) {
            backup.cut = cut;
        }
        if backup.dead == Some(peer) && !backup.ready {
            backup.dead = None;
            if backup.resigned.is_none() {
                backup.deadline = backup.heard + router.active_down(backup.learned);
            }
        }
    }

    fn backup_timeout(&mut self, now: Time) {
        let router = Arc::clone(&self.router);
        let Phase::Backup(backup) = &mut self.phase else {
            return;
        };
        if now < backup.deadline || backup.ready {
            return;
        }
        let late = now - backup.deadline;
        // An Active on the same loaded machine may have its hiccup while we listen.
        let stall = backup.learned.max(MIN_STALL);
        if late > stall && backup.relistens < MAX_RELISTENS {
            backup.relistens += 1;
            backup.deadline = now + stall + router.skew(backup.learned);
            self.outputs
                .push_back(Output::Notice(Notice::Stalled { late }));
            return;
        }
        if router.is_grouped() {
            backup.ready = true;
            return;
        }
        let reason = backup.reason(now);
        self.become_active(now, RouterState::Backup, reason);
    }

    fn become_active(&mut self, now: Time, old: RouterState, reason: Reason) {
        self.send(self.router.priority().value());
        let belongings = self.router.belongings();
        self.outputs.push_back(Output::Add(belongings));
        let interval = timers::interval(self.router.interval());
        let straggle = LINGER.max(Span::from_micros(interval.micros() / 10));
        let active = Active {
            predecessor: match reason {
                Reason::Resigned(by) => Some((by, now + straggle)),
                _ => None,
            },
            leaving: None,
            rival: None,
            sent: now,
            next: (!self.router.is_alone()).then(|| now + interval),
            spoke: None,
            listening: None,
            announcer: Announcer::new(self.router.announce(), now),
        };
        self.phase = Phase::Active(active);
        self.announce_due(now);
        self.changed(now, old, reason);
    }

    fn active_heard(&mut self, now: Time, heard: Heard) {
        let wins = self.outranks_us(&heard);
        let preempts = self.router.preempts();
        if let Phase::Active(Active {
            leaving: Some(leaving),
            ..
        }) = &mut self.phase
        {
            if heard.priority > 0 {
                if leaving.successor.is_none() {
                    leaving.until = now + LINGER;
                }
                leaving.successor = Some(heard);
            }
            return;
        }
        if let Phase::Active(active) = &mut self.phase
            && let Some((source, until)) = active.predecessor
            && source == heard.source
            && heard.priority > 0
            && heard.received < until
        {
            // Giving way to it would leave nobody: it is about to withdraw. It answered for the
            // addresses until then, so that they are announced again.
            active.announcer.request(now);
            self.announce_due(now);
            return;
        }
        let owners = heard.priority == OWNER && self.router.is_owner();
        let Phase::Active(active) = &mut self.phase else {
            return;
        };
        if owners {
            // Erratum 8298: not discarded; the election decides, and the operator is told.
            self.outputs.push_back(Output::Notice(Notice::TwoOwners {
                source: heard.source,
            }));
        }
        if heard.priority == 0 {
            // Somebody answered for the address until now (a duplicate that ends): say whose it is.
            active.announcer.request(now);
            let gone = active
                .rival
                .take_if(|rival| rival.source == heard.source)
                .map(|rival| rival.gone(heard.received));
            self.outputs.extend(gone);
            self.answer(now);
        } else if wins {
            self.remove_all();
            // One last advert, after ours are gone: it makes the winner announce again.
            self.send(self.router.priority().value());
            let reason = Reason::Outranked {
                by: heard.source,
                priority: heard.priority,
            };
            self.follow(now, heard, reason);
        } else if let Some(listening) = active.listening.filter(|_| !preempts) {
            self.remove_all();
            // Our own priority would win the election that nobody asked for; a resignation makes
            // the new Active announce again and changes nothing else.
            self.send(0);
            let reason = Reason::Displaced {
                by: heard.source,
                silence: listening.silence,
            };
            self.follow(now, heard, reason);
        } else {
            active.listening = None;
            active.announcer.request(now);
            let rival = active.rival.get_or_insert_with(|| {
                Box::new(Rival {
                    source: heard.source,
                    first: heard.received,
                    last: heard.received,
                })
            });
            rival.last = rival.last.max(heard.received);
            self.outputs.push_back(Output::Notice(Notice::RivalActive {
                source: heard.source,
                priority: heard.priority,
            }));
            self.answer(now);
        }
    }

    /// Becomes Backup of the sender of `heard`.
    fn follow(&mut self, now: Time, heard: Heard, reason: Reason) {
        let learned = timers::interval(heard.interval);
        let backup = Backup {
            learned,
            heard: heard.received,
            deadline: heard.received + self.active_down(learned),
            active: Some(heard.source),
            ..self.listening(now)
        };
        self.enter(now, RouterState::Active, Phase::Backup(backup), reason);
    }

    fn active_timeout(&mut self, now: Time) {
        let interval = timers::interval(self.router.interval());
        let own = self.router.priority().value();
        let Phase::Active(active) = &mut self.phase else {
            return;
        };
        if let Some(leaving) = active.leaving {
            self.leaving_timeout(now, leaving);
        } else if let Some(listening) = active.listening {
            if now < listening.until {
                return;
            }
            // Nobody took our place. Say that it is still ours.
            active.listening = None;
            active.announcer.burst(now);
            self.speak(now);
        } else if let Some(next) = active.next.filter(|next| *next <= now) {
            // An absolute schedule: lateness does not add up, and missed slots are not made up for.
            let missed = (now - next).micros() / interval.micros().max(1);
            active.next = Some(next + interval.times(missed + 1));
            active.sent = now;
            self.send(own);
            self.forget_rival(now, interval);
        }
        self.announce_due(now);
    }

    /// One that is silent for as long as makes a Backup an Active has given way, or is cut off again.
    fn forget_rival(&mut self, now: Time, interval: Span) {
        let Phase::Active(active) = &mut self.phase else {
            return;
        };
        let silent = |rival: &mut Box<Rival>| now - rival.last > interval.times(3);
        let gone = active.rival.take_if(silent);
        self.outputs
            .extend(gone.map(|rival| rival.gone(rival.last)));
    }

    /// An advert at once, unless one that is as good has just gone out.
    fn answer(&mut self, now: Time) {
        let Phase::Active(active) = &self.phase else {
            return;
        };
        if active.spoke.is_some_and(|spoke| now - spoke < ANSWERED) {
            self.announce_due(now);
        } else {
            self.speak(now);
            if let Phase::Active(active) = &mut self.phase {
                active.spoke = Some(now);
            }
        }
    }

    /// An advert now, and the next one an interval later.
    fn speak(&mut self, now: Time) {
        let interval = timers::interval(self.router.interval());
        let has_peers = !self.router.is_alone();
        let priority = self.router.priority().value();
        if let Phase::Active(active) = &mut self.phase {
            active.sent = now;
            active.next = has_peers.then(|| now + interval);
        }
        self.send(priority);
        self.announce_due(now);
    }

    /// An Active that was silent for so long that a peer may have taken over listens before it
    /// speaks: for one interval, in which a living Active is heard.
    fn notice_own_stall(&mut self, now: Time) {
        let interval = timers::interval(self.router.interval());
        let skew = self.router.skew(interval);
        // No peer's Active_Down_Interval is shorter than three intervals.
        let protocol = interval.times(3).max(interval + MIN_STALL);
        // Nor is the patience of its liveness session, which misses heartbeats between two adverts.
        let session = self.router.peers_patience().map(|span| interval + span);
        let stall = session.map_or(protocol, |session| session.min(protocol));
        let Phase::Active(active) = &mut self.phase else {
            return;
        };
        let silence = now - active.sent;
        let speaks = active.next.is_some() && active.leaving.is_none();
        if speaks && active.listening.is_none() && silence > stall {
            active.listening = Some(Listening {
                until: now + interval + skew,
                silence,
            });
            self.outputs
                .push_back(Output::Notice(Notice::Stalled { late: silence }));
        }
    }

    fn announce_due(&mut self, now: Time) {
        let Phase::Active(active) = &mut self.phase else {
            return;
        };
        if active.listening.is_none() && active.leaving.is_none() {
            while active.announcer.poll(now) {
                self.outputs.push_back(Output::Announce);
            }
        }
    }

    fn configure(&mut self, now: Time, router: Arc<Router>) {
        let old = std::mem::replace(&mut self.router, Arc::clone(&router));
        if old == router {
            return;
        }
        let alone = router.is_alone();
        let interval = timers::interval(router.interval());
        match &mut self.phase {
            Phase::Initialize => {}
            Phase::Backup(_) if alone => {
                self.become_active(now, RouterState::Backup, Reason::Alone);
            }
            Phase::Backup(backup) => {
                backup.ready = false;
                if backup.active.is_some_and(|active| !router.admits(active)) {
                    backup.active = None;
                }
                if backup.active.is_none() {
                    backup.learned = interval;
                }
                if backup.resigned.is_none() {
                    let deadline = backup.heard + router.active_down(backup.learned);
                    // A shorter interval must not make silence of what was not silence yet.
                    backup.deadline = deadline.max(now + backup.learned);
                }
            }
            Phase::Active(active) => {
                let (before, after) = (old.belongings(), router.belongings());
                let (gone, new) = (before.without(&after), after.without(&before));
                let speak = old.priority() != router.priority()
                    || old.interval() != router.interval()
                    || old.destinations() != router.destinations()
                    || old.source() != router.source()
                    || old.advertised() != router.advertised();
                active.announcer.configure(router.announce(), now);
                if alone {
                    active.listening = None;
                    if active
                        .leaving
                        .is_some_and(|leaving| leaving.then != Then::Stop)
                    {
                        active.leaving = None;
                    }
                }
                if !gone.is_empty() {
                    self.outputs.push_back(Output::Remove(gone));
                }
                if !new.is_empty() {
                    if !new.addresses.is_empty() {
                        active.announcer.burst(now);
                    }
                    self.outputs.push_back(Output::Add(new));
                }
                if speak && active.listening.is_none() && active.leaving.is_none() {
                    self.speak(now);
                } else {
                    self.announce_due(now);
                }
            }
        }
    }

    fn remove_all(&mut self) {
        let belongings = self.router.belongings();
        self.outputs.push_back(Output::Remove(belongings));
    }

    fn send(&mut self, priority: u8) {
        if !self.router.is_alone() {
            self.outputs.push_back(Output::SendAdvert { priority });
        }
    }

    /// Section 6.4.3: higher priority, or equal priority and the greater address.
    fn outranks_us(&self, heard: &Heard) -> bool {
        let own = self.router.priority().value();
        heard.priority > own || (heard.priority == own && heard.source > self.router.source())
    }

    fn active_down(&self, learned: Span) -> Span {
        self.router.active_down(learned)
    }

    fn enter(&mut self, now: Time, old: RouterState, phase: Phase, reason: Reason) {
        self.phase = phase;
        self.changed(now, old, reason);
    }

    fn changed(&mut self, now: Time, old: RouterState, reason: Reason) {
        let new = self.state();
        self.reason = reason;
        self.since = now;
        if (old == RouterState::Active) != (new == RouterState::Active) {
            self.transitions += 1;
        }
        self.outputs
            .push_back(Output::StateChanged { old, new, reason });
    }
}

#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod told;
