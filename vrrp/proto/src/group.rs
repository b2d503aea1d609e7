//! Sync groups: virtual routers that are Active on the same host together, such as one for each family or
//! for each side of an appliance. Peers must have the same groups.
//!
//! | what happens | rule |
//! |---|---|
//! | a member is at fault | all are ([`crate::Fault::SyncGroup`], by the caller) |
//! | a member hears an Active and follows it | Active members resign and are Backups too |
//! | the Active of a member resigned | it did so for its whole group: all take over |
//! | the Active of a member is silent | it is ready, and waits until all others are ready or Active |
//!
//! The fourth rule spares a host whose link is lost, and which can resign on the other one only, the time
//! that its silence takes. The last one is where this differs from keepalived, which takes all over as soon as one member does:
//! when only one of two networks is cut, the Active is alive and still heard on the other one. There it
//! wins the election, which takes the whole group back, until the cut network is silent for long enough
//! again, and so on for as long as the cut lasts. Who is alive keeps everything here; who is not is silent
//! everywhere, or its fault makes it resign.

/// Where a member of a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Initialize or Fault.
    Down,
    /// Backup that has heard no Active yet, or whose Active resigned less than Skew_Time ago.
    Waits,
    /// Backup of an Active.
    Follows,
    /// Backup whose Active_Down_Timer fired.
    Ready,
    /// Backup whose timer fired because the Active resigned.
    Released,
    /// Active.
    Active,
    /// Active that resigned and serves until a successor was heard.
    Leaves,
}

/// What the members of a group shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Stay,
    /// Who is Backup takes over.
    TakeOver,
    /// Who is Active resigns.
    GiveUp,
}

/// Decides for the members of one group.
pub fn decide(members: impl Iterator<Item = Standing>) -> Verdict {
    let (mut active, mut follows, mut ready, mut released) = (false, false, false, false);
    let (mut waits, mut busy) = (false, false);
    for member in members {
        match member {
            Standing::Active => active = true,
            Standing::Follows => follows = true,
            Standing::Ready => ready = true,
            Standing::Released => released = true,
            Standing::Waits => waits = true,
            Standing::Down | Standing::Leaves => busy = true,
        }
    }
    if active && follows {
        Verdict::GiveUp
    } else if !busy && (released || (ready && !follows && !waits)) {
        Verdict::TakeOver
    } else {
        Verdict::Stay
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::*;
    use super::*;

    #[test]
    fn all_pairs() {
        let all = [Down, Waits, Follows, Ready, Released, Active, Leaves];
        for a in all {
            for b in all {
                let wanted = match (a, b) {
                    (Active, Follows) | (Follows, Active) => Verdict::GiveUp,
                    (Ready, Ready | Active) | (Active, Ready) => Verdict::TakeOver,
                    (Released, Down | Leaves) | (Down | Leaves, Released) => Verdict::Stay,
                    (Released, _) | (_, Released) => Verdict::TakeOver,
                    _ => Verdict::Stay,
                };
                assert_eq!(decide([a, b].into_iter()), wanted, "{a:?}, {b:?}");
            }
        }
    }

    #[test]
    fn of_three_the_last_one_counts() {
        assert_eq!(decide([Ready, Ready, Follows].into_iter()), Verdict::Stay);
        assert_eq!(
            decide([Ready, Active, Follows].into_iter()),
            Verdict::GiveUp
        );
        assert_eq!(
            decide([Ready, Active, Ready].into_iter()),
            Verdict::TakeOver
        );
        assert_eq!(decide([Ready].into_iter()), Verdict::TakeOver);
        assert_eq!(decide([].into_iter()), Verdict::Stay);
    }
}
