//! One peer over one or two networks, and what both together say of it.
//!
//! | first path | second path | [`Verdict`] |
//! |---|---|---|
//! | silent after it was alive | none, or never heard | `Dead` |
//! | the same | heard since | `Cut`: the peer lives, the network of the routers is split or drops its heartbeats |
//! | the same | not heard since | waits until it is heard (`Cut`) or silent (`Dead`) |
//! | alive | silent | none: the second network is lost, and nothing follows |
//! | never heard, or cut | silent after it was alive | `Dead`, but not `sure`: an advert must be overdue |
//! | alive (again) | any | `Alive` |
//!
//! `Dead` is the only verdict that makes a Backup act before the protocol's own time has passed, and with two paths
//! it takes silence on both. The second path alone is no proof of death: it is another network, whose loss says nothing of
//! the first one. Yet where a firewall lets no heartbeat pass on the first path it is better than nothing: together
//! with an advert that is overdue.

use super::{Change, Session, State};
use crate::time::{Span, Time};
use krater_model::control::{LivenessPath, PathState};
use krater_model::wire::liveness::{Heartbeat, Report};

/// What routers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Both hear each other where the routers are.
    Alive,
    /// It lives, and is silent where the routers are.
    Cut,
    /// It is silent wherever it was heard.
    Dead {
        /// When it was heard last.
        spoke: Time,
        /// For how long it is silent.
        silence: Span,
        /// Between its heartbeats.
        beat: Span,
        /// It was heard where the routers are until then; without, an advert must be overdue too.
        sure: bool,
    },
}

/// What an input changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct News {
    /// On the path that it was about.
    pub change: Option<Change>,
    /// Of the peer.
    pub verdict: Option<Verdict>,
    /// It got what was sent to addresses that it moves, as their Backup: their Active announces again.
    pub misled: bool,
}

/// The first path is silent, and the second one is yet to tell why.
#[derive(Debug, Clone, Copy)]
struct Silent {
    spoke: Time,
    beat: Span,
}

/// A peer and its sessions.
#[derive(Debug)]
pub struct Peer {
    first: Session,
    second: Option<Session>,
    /// Silence on the first path that is not judged yet.
    silent: Option<Silent>,
    /// Silent on the first path, heard on the second one.
    cut: bool,
    /// How many strays it told of.
    strays: Option<u32>,
}

impl Peer {
    /// Begins with one path.
    pub fn new(first: Session) -> Self {
        Self {
            first,
            second: None,
            silent: None,
            cut: false,
            strays: None,
        }
    }

    /// With another path.
    #[must_use]
    pub fn with_second(self, second: Session) -> Self {
        Self {
            second: Some(second),
            ..self
        }
    }

    /// How it stands on a path; none on one that there is not.
    pub fn state(&self, path: LivenessPath) -> Option<PathState> {
        self.session(path).map(|session| match session.state() {
            State::Alive => PathState::Alive,
            State::OneWay => PathState::OneWay,
            State::Unknown if session.was_heard() => PathState::Silent,
            State::Unknown => PathState::Never,
        })
    }

    /// The session of a path.
    pub fn session(&self, path: LivenessPath) -> Option<&Session> {
        match path {
            LivenessPath::Vip => Some(&self.first),
            LivenessPath::Second => self.second.as_ref(),
        }
    }

    fn session_mut(&mut self, path: LivenessPath) -> Option<&mut Session> {
        match path {
            LivenessPath::Vip => Some(&mut self.first),
            LivenessPath::Second => self.second.as_mut(),
        }
    }

    /// What heartbeats tell of our routers from now on, on each path.
    pub fn tell(&mut self, report: Report) {
        self.first.tell(report);
        if let Some(second) = &mut self.second {
            second.tell(report);
        }
    }

    /// What it told of its routers last, while it is heard on any path.
    pub fn reported(&self) -> Option<Report> {
        let sessions = std::iter::once(&self.first).chain(&self.second);
        let newest = sessions.max_by_key(|session| session.heard_at());
        newest.and_then(Session::reported)
    }

    /// When [`Peer::timeout`] is due on some path.
    pub fn poll_timeout(&self) -> Time {
        let second = self.second.as_ref().map(Session::poll_timeout);
        second
            .into_iter()
            .fold(self.first.poll_timeout(), Time::min)
    }

    /// An authentic heartbeat was received over a path.
    pub fn heard(&mut self, path: LivenessPath, beat: &Heartbeat, received: Time) -> News {
        let Some(session) = self.session_mut(path) else {
            return News::default();
        };
        let change = session.heard(beat, received);
        let misled = self.is_misled();
        let news = self.judge(path, change, received);
        News { misled, ..news }
    }

    /// Whether it counted more strays since the last time.
    fn is_misled(&mut self) -> bool {
        let Some(Report { strays, .. }) = self.reported() else {
            return false;
        };
        // Another process of it begins at 0.
        let before = self.strays.replace(strays);
        before.is_some_and(|before| strays.wrapping_sub(before).cast_signed() > 0)
    }

    /// The time of a path's session has come, or nearly: a heartbeat to send there, and what silence changed.
    /// To be called for each path.
    pub fn timeout(&mut self, path: LivenessPath, now: Time) -> (Option<Heartbeat>, News) {
        let Some(session) = self.session_mut(path).filter(|s| s.poll_timeout() <= now) else {
            return (None, News::default());
        };
        let (beat, change) = session.timeout(now);
        (beat, self.judge(path, change, now))
    }

    /// The farewell on a path.
    pub fn leave(&mut self, path: LivenessPath) -> Option<Heartbeat> {
        self.session_mut(path).map(Session::leave)
    }

    fn judge(&mut self, path: LivenessPath, change: Option<Change>, now: Time) -> News {
        let verdict = match path {
            LivenessPath::Vip => self.judge_first(change),
            LivenessPath::Second => self.judge_second(change, now),
        };
        News {
            change,
            verdict,
            misled: false,
        }
    }

    fn judge_first(&mut self, change: Option<Change>) -> Option<Verdict> {
        match change? {
            Change::Alive => {
                self.silent = None;
                self.cut = false;
                Some(Verdict::Alive)
            }
            Change::OneWay => None,
            Change::Left => {
                self.silent = None;
                self.cut = false;
                None
            }
            Change::Dead {
                spoke,
                silence,
                beat,
            } => match self.second.as_ref().and_then(Session::heard_at) {
                // It was heard when its next heartbeat on the first path was overdue.
                Some(heard) if heard > spoke + beat.times(2) => {
                    self.cut = true;
                    Some(Verdict::Cut)
                }
                Some(_) => {
                    self.silent = Some(Silent { spoke, beat });
                    None
                }
                None => Some(Verdict::Dead {
                    spoke,
                    silence,
                    beat,
                    sure: true,
                }),
            },
        }
    }

    fn judge_second(&mut self, change: Option<Change>, now: Time) -> Option<Verdict> {
        match change {
            Some(Change::Dead {
                spoke,
                silence,
                beat,
            }) => {
                let cut = std::mem::take(&mut self.cut);
                if let Some(silent) = self.silent.take() {
                    let spoke = spoke.max(silent.spoke);
                    return Some(Verdict::Dead {
                        spoke,
                        silence: now - spoke,
                        beat: beat.max(silent.beat),
                        sure: true,
                    });
                }
                let heard_first = self.first.heard_at().is_some();
                ((cut || !self.first.was_heard()) && !heard_first).then_some(Verdict::Dead {
                    spoke,
                    silence,
                    beat,
                    sure: false,
                })
            }
            Some(Change::Left) => {
                self.silent = None;
                self.cut = false;
                None
            }
            _ => self.still_heard(change),
        }
    }

    /// The second path may tell that silence on the first one is no death.
    fn still_heard(&mut self, change: Option<Change>) -> Option<Verdict> {
        let heard = self.second.as_ref().and_then(Session::heard_at)?;
        if let Some(silent) = self.silent {
            let since = heard > silent.spoke + silent.beat.times(2);
            return since.then(|| {
                self.silent = None;
                self.cut = true;
                Verdict::Cut
            });
        }
        // Back from silence on both.
        let back = change == Some(Change::Alive);
        let silent = self.first.was_heard() && self.first.heard_at().is_none();
        (back && silent && !self.cut && !self.first.left()).then(|| {
            self.cut = true;
            Verdict::Cut
        })
    }
}

#[cfg(test)]
mod tests;
