//! What a machine knows in each of its phases.

use crate::announcer::Announcer;
use crate::output::{Notice, Output, Reason};
use crate::receive::Heard;
use crate::time::{Span, Time};
use std::net::IpAddr;

#[derive(Debug)]
pub(super) enum Phase {
    Initialize,
    Backup(Backup),
    Active(Active),
}

#[derive(Debug)]
pub(super) struct Backup {
    /// Active_Adver_Interval.
    pub(super) learned: Span,
    /// When the Active was last heard, or when we began to listen.
    pub(super) heard: Time,
    /// Active_Down_Timer.
    pub(super) deadline: Time,
    /// Whom we follow.
    pub(super) active: Option<IpAddr>,
    /// Who resigned since.
    pub(super) resigned: Option<IpAddr>,
    /// Whose liveness session ended in silence since it was heard.
    pub(super) dead: Option<IpAddr>,
    /// Who lives, by another network, and was not heard since.
    pub(super) cut: Option<IpAddr>,
    pub(super) relistens: u8,
    /// It advertised other addresses than ours when it was heard last.
    pub(super) differs: bool,
    /// The timer fired, and the rest of the sync group is waited for.
    pub(super) ready: bool,
    /// When a worse Active may be preempted; none before one was heard.
    pub(super) preempt_at: Option<Time>,
}

#[derive(Debug)]
pub(super) struct Active {
    /// When we last sent an advert.
    pub(super) sent: Time,
    /// Adver_Timer; none without peers.
    pub(super) next: Option<Time>,
    /// When we last answered a rival or a resignation.
    pub(super) spoke: Option<Time>,
    /// After a stall: silent until then, unless another Active is heard first.
    pub(super) listening: Option<Listening>,
    /// Who resigned in our favour; until then, its adverts are stragglers that the resignation overtook.
    pub(super) predecessor: Option<(IpAddr, Time)>,
    /// Resigned, and serving on.
    pub(super) leaving: Option<Leaving>,
    /// Rare, so that it does not make all routers larger.
    pub(super) rival: Option<Box<Rival>>,
    pub(super) announcer: Announcer,
}

/// Another Active.
#[derive(Debug)]
pub(super) struct Rival {
    pub(super) source: IpAddr,
    /// When it was heard first.
    pub(super) first: Time,
    pub(super) last: Time,
}

impl Rival {
    pub(super) fn gone(&self, last: Time) -> Output {
        Output::Notice(Notice::RivalGone {
            source: self.source,
            lasted: last - self.first,
        })
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving {
    pub(super) began: Time,
    /// When the next resignation is due, while nobody has taken over.
    pub(super) next: Time,
    pub(super) every: Span,
    /// The end of it.
    pub(super) until: Time,
    pub(super) successor: Option<Heard>,
    pub(super) then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Stop,
    /// Do not preempt the successor for so long.
    Backup(Span),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Listening {
    pub(super) until: Time,
    pub(super) silence: Span,
}

impl Backup {
    /// Why it takes over.
    pub(super) fn reason(&self, now: Time) -> Reason {
        match (self.resigned, self.dead) {
            (Some(by), _) => Reason::Resigned(by),
            (None, Some(peer)) => Reason::Dead {
                peer,
                silence: now - self.heard,
            },
            (None, None) => match self.cut.filter(|_| self.cut == self.active) {
                Some(peer) => Reason::Cut {
                    peer,
                    silence: now - self.heard,
                },
                None => Reason::Silence(now - self.heard),
            },
        }
    }
}
