//! Adoption: what the database says exists, against what exists on the host.
//!
//! The plan is pure. It runs at every start, before flows do, and again with housekeeping. Amphorae that
//! a flow works on are left to the flow.

use crate::db::Db;
use crate::db::entity::{amphora, load_balancer};
use crate::drivers::compute::{Compute, Instance};
use crate::failover::request::{self, Request};
use futures_util::future::join_all;
use krater_model::{AmphoraId, report};
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter};
use std::collections::{BTreeMap, BTreeSet};

/// A row of an amphora, as far as adoption needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Which.
    pub id: AmphoraId,
    /// Whom it serves; none: it is of no use.
    pub load_balancer_id: Option<String>,
    /// Its load balancer is held by a flow.
    pub held: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Live on as they are.
    pub adopt: Vec<AmphoraId>,
    /// Their agent does not run.
    pub restart: Vec<AmphoraId>,
    /// Load balancer → its amphorae that are lost.
    pub rebuild: BTreeMap<String, Vec<AmphoraId>>,
    /// Nobody knows them.
    pub remove: Vec<AmphoraId>,
}

/// Compares rows that are not DELETED with what exists.
pub fn plan(known: &[Known], instances: &[Instance]) -> Plan {
    let mut plan = Plan::default();
    for row in known {
        let Some(load_balancer) = row.load_balancer_id.as_ref().filter(|_| !row.held) else {
            continue;
        };
        match instances.iter().find(|i| i.amphora == row.id) {
            Some(found) if found.intact && found.agent_alive => plan.adopt.push(row.id),
            Some(found) if found.intact => plan.restart.push(row.id),
            _ => {
                let lost = plan.rebuild.entry(load_balancer.clone()).or_default();
                lost.push(row.id);
            }
        }
    }
    let names: BTreeSet<AmphoraId> = known.iter().map(|row| row.id).collect();
    let unknown = instances
        .iter()
        .map(|i| i.amphora)
        .filter(|id| !names.contains(id));
    plan.remove = unknown.collect();
    plan
}

/// Plans and executes. What fails is logged and tried again at the next run.
pub async fn run(db: &Db, compute: &dyn Compute) -> Result<Plan, DbErr> {
    // Instances first: one that a flow makes meanwhile is then not taken for an orphan, because its
    // row was there before.
    let instances = match compute.list().await {
        Ok(instances) => instances,
        Err(error) => {
            tracing::error!(error = report(&error), "amphorae cannot be listed");
            return Ok(Plan::default());
        }
    };
    let plan = plan(&known(db).await?, &instances);
    join_all(plan.restart.iter().map(|id| async move {
        match compute.restart_agent(*id).await {
            Ok(()) => tracing::warn!(amphora = %id, "agent was dead: started again"),
            Err(error) => tracing::error!(error = report(&error), "agent not started"),
        }
    }))
    .await;
    join_all(plan.remove.iter().map(|id| async move {
        match compute.delete(*id).await {
            Ok(()) => tracing::warn!(amphora = %id, "orphan removed"),
            Err(error) => tracing::error!(error = report(&error), "orphan not removed"),
        }
    }))
    .await;
    for (load_balancer, lost) in &plan.rebuild {
        let request = match lost.as_slice() {
            [one] => Request::Amphora(one.to_string()),
            _ => Request::LoadBalancer,
        };
        request::enqueue(
            db,
            load_balancer,
            &request,
            "the amphora is not on this host",
        )
        .await?;
    }
    Ok(plan)
}

async fn known(db: &Db) -> Result<Vec<Known>, DbErr> {
    let rows = amphora::Entity::find()
        .filter(amphora::Column::Status.ne("DELETED"))
        .all(db.read())
        .await?;
    let held: BTreeSet<String> = load_balancer::Entity::find()
        .filter(load_balancer::Column::LockedByFlow.is_not_null())
        .all(db.read())
        .await?
        .into_iter()
        .map(|row| row.id)
        .collect();
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(Known {
                id: row.id.parse().ok()?,
                held: row
                    .load_balancer_id
                    .as_ref()
                    .is_some_and(|id| held.contains(id)),
                load_balancer_id: row.load_balancer_id,
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn id(n: u128) -> AmphoraId {
        AmphoraId(Uuid::from_u128(n))
    }

    fn known(n: u128, held: bool) -> Known {
        Known {
            id: id(n),
            load_balancer_id: Some("lb".into()),
            held,
        }
    }

    fn instance(n: u128, agent_alive: bool, intact: bool) -> Instance {
        Instance {
            amphora: id(n),
            compute_id: n.to_string(),
            agent_alive,
            intact,
        }
    }

    #[test]
    fn each_case_once() {
        let rows = [
            known(1, false),
            known(2, false),
            known(3, false),
            known(4, false),
            known(5, true),
        ];
        let instances = [
            instance(1, true, true),
            instance(2, false, true),
            instance(3, false, false),
            instance(5, false, true),
            instance(6, true, true),
        ];
        let plan = plan(&rows, &instances);
        assert_eq!(plan.adopt, [id(1)]);
        assert_eq!(plan.restart, [id(2)]);
        assert_eq!(plan.rebuild["lb"], [id(3), id(4)], "rebooted, and gone");
        assert_eq!(plan.remove, [id(6)]);
    }

    #[test]
    fn after_a_reboot_everything_is_rebuilt_and_nothing_else_happens() {
        let plan = plan(&[known(1, false), known(2, false)], &[]);
        assert_eq!(plan.rebuild["lb"].len(), 2);
        assert!(plan.adopt.is_empty() && plan.remove.is_empty());
    }
}
