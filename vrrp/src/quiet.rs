//! What may happen often is told rarely, each kind by itself: a flood of one must not hide another.

use krater_vrrp_proto::{DropReason, Notice, Span, Time};

/// Each kind is told at most this often per router; counters have them all.
const INTERVAL: Span = Span::from_millis(5_000);
const KINDS: usize = 7;

/// When each kind may be told again.
#[derive(Debug, Default)]
pub(crate) struct Quiet([Time; KINDS]);

impl Quiet {
    /// Whether to tell of a packet that was refused. Of these, one kind: who floods chooses the reason. Our own address in
    /// somebody's packet is a fault of the network, and told beside them.
    pub(crate) fn refused(&mut self, reason: DropReason, now: Time) -> bool {
        let kind = match reason {
            DropReason::OwnAddress => 1,
            _ => 0,
        };
        self.may(kind, now)
    }

    /// Whether to tell of this. What ends something, or answers an operator, is told always: it cannot be often.
    pub(crate) fn notice(&mut self, notice: &Notice, now: Time) -> bool {
        let kind = match notice {
            Notice::RivalGone { .. } | Notice::NoSuccessor { .. } => return true,
            Notice::RivalActive { .. } => 2,
            Notice::TwoOwners { .. } => 3,
            Notice::Stalled { .. } => 4,
            Notice::IntervalLearned { .. } => 5,
            Notice::AddressesDiffer { .. } => 6,
        };
        self.may(kind, now)
    }

    fn may(&mut self, kind: usize, now: Time) -> bool {
        let Some(until) = self.0.get_mut(kind) else {
            return true;
        };
        let may = now >= *until;
        if may {
            *until = now + INTERVAL;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_hides_no_other() {
        let at = |millis| Time::from_micros(1_000_000) + Span::from_millis(millis);
        let mut quiet = Quiet::default();
        let stalled = Notice::Stalled { late: Span::ZERO };
        let source = "192.0.2.1".parse().unwrap();
        let owners = Notice::TwoOwners { source };
        let mut told = 0;
        for millis in 0..12_000 {
            told += u32::from(quiet.refused(DropReason::Checksum, at(millis)));
            assert!(!quiet.refused(DropReason::Peer, at(millis)), "{millis}");
        }
        assert_eq!(told, 3);
        for (now, wanted) in [(12_000, true), (12_001, false), (17_000, true)] {
            assert_eq!(quiet.notice(&stalled, at(now)), wanted);
            assert_eq!(quiet.notice(&owners, at(now)), wanted);
            assert_eq!(quiet.refused(DropReason::OwnAddress, at(now)), wanted);
        }
        let waited = Span::ZERO;
        for _ in 0..2 {
            assert!(quiet.notice(&Notice::NoSuccessor { waited }, at(17_000)));
        }
    }
}
