//! Pure: which amphorae go and which roles come.

use crate::config::Topology;
use krater_model::AmphoraId;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// What an amphora is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Role {
    /// Priority 100.
    Master,
    /// Priority 90.
    Backup,
    /// Alone.
    Standalone,
}

impl Role {
    /// As in the database and Octavia's API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Master => "MASTER",
            Self::Backup => "BACKUP",
            Self::Standalone => "STANDALONE",
        }
    }

    /// VRRP priority.
    pub const fn priority(self) -> u8 {
        match self {
            Self::Master | Self::Standalone => crate::desired::MASTER_PRIORITY,
            Self::Backup => crate::desired::BACKUP_PRIORITY,
        }
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "MASTER" => Ok(Self::Master),
            "BACKUP" => Ok(Self::Backup),
            "STANDALONE" => Ok(Self::Standalone),
            other => Err(format!("{other:?} is not an amphora role")),
        }
    }
}

/// An amphora that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// Which.
    pub id: AmphoraId,
    /// None: damaged, never kept.
    pub role: Option<Role>,
    /// Its agent answers.
    pub alive: bool,
    /// It holds the VIP.
    pub owner: bool,
    /// Made by this flow.
    pub fresh: bool,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Fill roles that are missing.
    Fill,
    /// Replace one.
    Replace(AmphoraId),
    /// Replace all, first round: those without the VIP.
    First,
    /// Replace all, second round: those that the first round left.
    Second,
}

/// What goes and what comes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// These end.
    pub leave: Vec<AmphoraId>,
    /// These roles are made.
    pub come: Vec<Role>,
}

/// The roles of a topology.
pub const fn roles(topology: Topology) -> &'static [Role] {
    match topology {
        Topology::Single => &[Role::Standalone],
        Topology::ActiveStandby => &[Role::Master, Role::Backup],
    }
}

/// Decides. Of two amphorae with the same role (a flow that was undone half-way) the later one goes.
pub fn plan(topology: Topology, existing: &[Existing], want: Want) -> Plan {
    let goes = |amphora: &Existing| match want {
        Want::Fill => false,
        Want::Replace(id) => amphora.id == id,
        Want::First => {
            let survivor = existing
                .iter()
                .find(|a| a.owner && a.alive)
                .or_else(|| existing.iter().find(|a| a.alive))
                .filter(|_| topology == Topology::ActiveStandby && existing.len() > 1);
            !amphora.fresh && survivor.is_none_or(|survivor| survivor.id != amphora.id)
        }
        Want::Second => !amphora.fresh,
    };
    let mut missing = roles(topology).to_vec();
    let mut leave = Vec::new();
    for amphora in existing {
        let place = amphora
            .role
            .filter(|_| !goes(amphora))
            .and_then(|role| missing.iter().position(|m| *m == role));
        match place {
            Some(place) => {
                missing.remove(place);
            }
            None => leave.push(amphora.id),
        }
    }
    Plan {
        leave,
        come: missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn id(n: u128) -> AmphoraId {
        AmphoraId(Uuid::from_u128(n))
    }

    fn amphora(n: u128, role: Role, alive: bool, owner: bool) -> Existing {
        Existing {
            id: id(n),
            role: Some(role),
            alive,
            owner,
            fresh: false,
        }
    }

    fn pair() -> [Existing; 2] {
        [
            amphora(1, Role::Master, true, true),
            amphora(2, Role::Backup, true, false),
        ]
    }

    #[test]
    fn create_makes_what_the_topology_wants_once() {
        let all = |existing: &[Existing], topology| plan(topology, existing, Want::Fill);
        assert_eq!(
            all(&[], Topology::ActiveStandby).come,
            [Role::Master, Role::Backup]
        );
        assert_eq!(all(&[], Topology::Single).come, [Role::Standalone]);
        assert_eq!(all(&pair(), Topology::ActiveStandby), Plan::default());
        assert_eq!(
            all(&pair()[..1], Topology::ActiveStandby).come,
            [Role::Backup]
        );
    }

    #[test]
    fn one_is_replaced_in_its_role() {
        let plan = plan(Topology::ActiveStandby, &pair(), Want::Replace(id(1)));
        assert_eq!((plan.leave, plan.come), (vec![id(1)], vec![Role::Master]));
    }

    #[test]
    fn replacing_one_also_fills_what_was_missing() {
        let plan = plan(Topology::ActiveStandby, &pair()[..1], Want::Replace(id(1)));
        assert_eq!(plan.come, [Role::Master, Role::Backup]);
    }

    #[test]
    fn replacing_all_keeps_the_owner_for_the_second_round() {
        let topology = Topology::ActiveStandby;
        let first = plan(topology, &pair(), Want::First);
        assert_eq!((first.leave, first.come), (vec![id(2)], vec![Role::Backup]));
        let mut after = vec![pair()[0].clone(), amphora(3, Role::Backup, true, false)];
        after[1].fresh = true;
        let second = plan(topology, &after, Want::Second);
        assert_eq!(
            (second.leave, second.come),
            (vec![id(1)], vec![Role::Master])
        );
        after[0] = amphora(4, Role::Master, true, true);
        after[0].fresh = true;
        assert_eq!(plan(topology, &after, Want::Second), Plan::default());
    }

    #[test]
    fn dead_ones_go_in_the_first_round() {
        let both = pair().map(|mut amphora| {
            (amphora.alive, amphora.owner) = (false, false);
            amphora
        });
        let plan = plan(Topology::ActiveStandby, &both, Want::First);
        assert_eq!(plan.leave, [id(1), id(2)]);
        assert_eq!(plan.come, [Role::Master, Role::Backup]);
    }

    #[test]
    fn a_single_one_goes_in_the_first_round() {
        let single = [amphora(1, Role::Standalone, true, true)];
        let plan = plan(Topology::Single, &single, Want::First);
        assert_eq!(
            (plan.leave, plan.come),
            (vec![id(1)], vec![Role::Standalone])
        );
    }

    #[test]
    fn a_surplus_or_damaged_amphora_goes() {
        let mut three = pair().to_vec();
        three.push(amphora(3, Role::Backup, true, false));
        let surplus = plan(Topology::ActiveStandby, &three, Want::Fill);
        assert_eq!((surplus.leave, surplus.come), (vec![id(3)], vec![]));
        let mut damaged = pair().to_vec();
        damaged[1].role = None;
        let plan = plan(Topology::ActiveStandby, &damaged, Want::Fill);
        assert_eq!((plan.leave, plan.come), (vec![id(2)], vec![Role::Backup]));
    }
}
