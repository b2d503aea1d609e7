//! A liveness session with one peer: heartbeats in both directions, each telling what its sender heard last.
//!
//! | what is seen | [`State`] | what follows |
//! |---|---|---|
//! | nothing, ever | `Unknown` | nothing: a foreign peer, or a network that lets only VRRP pass |
//! | heartbeats that do not tell of ours | `OneWay` | it is reported |
//! | heartbeats that tell of ours | `Alive` | |
//! | silence after `Alive` | `Unknown` | [`Change::Dead`], which [`crate::Event::PeerDead`] hands to the routers |
//! | its farewell | `Unknown` | nothing: silence after it is planned |
//!
//! How long silence must last follows what is observed: three intervals of the slower side, more when they are short or
//! heartbeats came late, as on a loaded host ([`Session::patience`]). Time in which this side stood still itself does not count.
//! Whether silence means death or a network that is split, one path cannot tell; routers ask their adverts too, and
//! a Backup that takes over from an Active that only it cannot hear is what the protocol does as well, later. Two
//! paths can ([`Peer`]).

mod peer;

pub use peer::{News, Peer, Verdict};

use crate::time::{Span, Time};
use krater_model::wire::liveness::{Heartbeat, Report};

/// Intervals of silence that are death.
const MISSED: u64 = 3;
/// And no less than this beyond one interval: a process waits so long for a CPU on a loaded virtual machine (the
/// worst of the measured wake-ups were 22 to 49 ms late), and that is no death however short the interval.
const HICCUP: Span = Span::from_millis(50);
/// The same when heartbeats come irregularly; beyond that the protocol's own timer is as good.
const MOST_MISSED: u64 = 10;
/// How often in a row it looks again because it stood still: one that is always late must not wait for ever.
const MAX_LOOKS: u8 = 3;
/// Part by which the longest distance of heartbeats is forgotten with each of them.
const FORGET: u64 = 16;

/// How it stands with the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was never heard, or not since it died or left.
    Unknown,
    /// It is heard, and does not hear us.
    OneWay,
    /// Both hear each other.
    Alive,
}

/// How long a peer with regular heartbeats may be silent.
pub fn least_patience(interval: Span) -> Span {
    interval.times(MISSED).max(interval + HICCUP)
}

/// What an input changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Both hear each other from now on.
    Alive,
    /// It does not hear us (any more).
    OneWay,
    /// It was alive and is silent.
    Dead {
        /// When it was heard last.
        spoke: Time,
        /// For how long it is silent.
        silence: Span,
        /// Between its heartbeats.
        beat: Span,
    },
    /// It said farewell.
    Left,
}

#[derive(Debug)]
struct Known {
    boot: u64,
    sequence: u64,
    interval: Span,
    heard: Time,
    /// The longest distance of two heartbeats lately.
    gap: Span,
    report: Report,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    interval: Span,
    boot: u64,
    /// Of the last heartbeat that was sent.
    sequence: u64,
    next: Time,
    state: State,
    peer: Option<Known>,
    /// The last one of ours that it told of, and when.
    told: (u64, Time),
    /// That it does not hear us was reported.
    deaf: bool,
    /// This side stood still: its verdict waits until then, so often in a row.
    look_at: Option<Time>,
    looks: u8,
    /// Boot and sequence that were heard last, whatever became of it; what is older is a replay, or was overtaken.
    seen: (u64, u64),
    /// The boot that said farewell.
    left: u64,
    /// What heartbeats tell of our routers.
    report: Report,
}

impl Session {
    /// Begins; the first heartbeat is due at once. `boot` differs at each start of the process and is not 0.
    pub fn new(interval: Span, boot: u64, now: Time) -> Self {
        Self {
            interval,
            boot,
            sequence: 0,
            next: now,
            state: State::Unknown,
            peer: None,
            told: (0, now),
            deaf: false,
            look_at: None,
            looks: 0,
            seen: (0, 0),
            left: 0,
            report: Report::default(),
        }
    }

    /// What heartbeats tell of our routers from now on.
    pub fn tell(&mut self, report: Report) {
        self.report = report;
    }

    /// What the peer told of its routers last, while it is heard.
    pub fn reported(&self) -> Option<Report> {
        self.peer.as_ref().map(|peer| peer.report)
    }

    /// How it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// When it was heard last, while it is heard.
    pub fn heard_at(&self) -> Option<Time> {
        self.peer.as_ref().map(|peer| peer.heard)
    }

    /// Whether it was ever heard.
    pub fn was_heard(&self) -> bool {
        self.seen.0 != 0
    }

    /// Whether the last word that was heard of it was its farewell.
    pub fn left(&self) -> bool {
        self.left != 0 && self.left == self.seen.0
    }

    /// How long it may be silent.
    pub fn patience(&self) -> Span {
        let (interval, gap) = match &self.peer {
            Some(peer) => (self.interval.max(peer.interval), peer.gap),
            None => (self.interval, self.interval),
        };
        let least = least_patience(interval);
        let irregular = gap.times(2) + interval;
        irregular.min(interval.times(MOST_MISSED)).max(least)
    }

    /// When [`Session::timeout`] is due.
    pub fn poll_timeout(&self) -> Time {
        let judged = self.judged_at().into_iter().chain(self.deaf_at());
        judged.fold(self.next, Time::min)
    }

    /// When silence becomes death.
    fn judged_at(&self) -> Option<Time> {
        let peer = self.peer.as_ref()?;
        Some((peer.heard + self.patience()).max(self.look_at.unwrap_or_default()))
    }

    /// When not being told of becomes deafness: it may tell of us one interval late.
    fn deaf_at(&self) -> Option<Time> {
        let waits = self.state != State::Unknown && !self.deaf;
        waits.then(|| self.told.1 + self.patience() + self.interval)
    }

    /// An authentic heartbeat was received. None when it is a replay, which changes nothing, or nothing new.
    pub fn heard(&mut self, beat: &Heartbeat, received: Time) -> Option<Change> {
        let ours = beat.heard.filter(|(boot, _)| *boot == self.boot);
        let again = self.seen.0 == beat.boot && beat.sequence <= self.seen.1;
        if again || self.left == beat.boot {
            return None;
        }
        let before = match &self.peer {
            Some(peer) if peer.boot == beat.boot => Some((peer.heard, peer.gap)),
            // An old recording has another boot too; only a living peer can tell of this process.
            Some(_) if self.state == State::Alive && ours.is_none() => return None,
            _ => None,
        };
        if beat.leaving {
            let known = before.is_some() && self.state != State::Unknown;
            if before.is_some() || ours.is_some() {
                self.left = beat.boot;
                self.forget();
            }
            return known.then_some(Change::Left);
        }
        self.seen = (beat.boot, beat.sequence);
        let interval = Span::from_millis(beat.interval.into());
        let (heard, gap) = match before {
            Some((heard, gap)) => {
                let less = Span::from_micros(gap.micros() - gap.micros() / FORGET);
                (heard.max(received), less.max(received - heard))
            }
            None => (received, interval),
        };
        self.peer = Some(Known {
            boot: beat.boot,
            sequence: beat.sequence,
            interval,
            heard,
            gap,
            report: beat.report,
        });
        self.look_at = None;
        self.looks = 0;
        let news =
            ours.filter(|(_, sequence)| (self.told.0 + 1..=self.sequence).contains(sequence));
        if let Some((_, sequence)) = news {
            self.told = (sequence, received);
            self.deaf = false;
            let before = std::mem::replace(&mut self.state, State::Alive);
            return (before != State::Alive).then_some(Change::Alive);
        }
        if self.state == State::Unknown {
            // It may hear us yet.
            self.state = State::OneWay;
            self.told.1 = received;
            self.deaf = false;
        }
        None
    }

    /// Its time has come, or nearly: a heartbeat to send, and what silence changed.
    pub fn timeout(&mut self, now: Time) -> (Option<Heartbeat>, Option<Change>) {
        let change = self.judge(now);
        let beat = (now >= self.next).then(|| {
            // An absolute schedule; missed ones are not made up for.
            let missed = (now - self.next).micros() / self.interval.micros().max(1);
            self.next = self.next + self.interval.times(missed + 1);
            self.beat(false)
        });
        (beat, change)
    }

    /// The farewell.
    pub fn leave(&mut self) -> Heartbeat {
        self.beat(true)
    }

    fn beat(&mut self, leaving: bool) -> Heartbeat {
        self.sequence += 1;
        let milliseconds = self.interval.micros() / 1_000;
        Heartbeat {
            leaving,
            interval: u16::try_from(milliseconds).unwrap_or(u16::MAX),
            boot: self.boot,
            sequence: self.sequence,
            heard: self.peer.as_ref().map(|peer| (peer.boot, peer.sequence)),
            report: self.report,
        }
    }

    fn judge(&mut self, now: Time) -> Option<Change> {
        let peer = self.peer.as_ref()?;
        let (spoke, beat) = (peer.heard, peer.interval.max(self.interval));
        let late = now - self.next;
        if late.times(2) > self.interval && self.looks < MAX_LOOKS {
            // What was sent meanwhile may be lost, and what it told of us is old.
            self.looks += 1;
            self.look_at = Some(now + beat + HICCUP);
            self.told.1 = self.told.1.max(now);
        }
        if now >= self.judged_at()? {
            let alive = self.state == State::Alive;
            self.forget();
            return alive.then_some(Change::Dead {
                spoke,
                silence: now - spoke,
                beat,
            });
        }
        if self.deaf_at().is_some_and(|at| at <= now) {
            self.state = State::OneWay;
            self.deaf = true;
            return Some(Change::OneWay);
        }
        None
    }

    fn forget(&mut self) {
        self.state = State::Unknown;
        self.peer = None;
        self.look_at = None;
        self.looks = 0;
    }
}

#[cfg(test)]
mod tests;
