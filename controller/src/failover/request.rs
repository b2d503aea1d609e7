//! Asks for a failover on behalf of the controller itself: the health manager, adoption at start.

use crate::db::entity::load_balancer;
use crate::db::query::flow::{self, FlowKind, NewFlow, OneAmphora};
use crate::db::{Db, Retriable};
use crate::transaction;
use krater_model::LoadBalancerId;
use sea_orm::{ColumnTrait, Condition, DbErr, EntityTrait, QueryFilter};
use serde_json::{Value, json};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Replace one amphora.
    Amphora(String),
    /// Replace all of them; missing ones are made.
    LoadBalancer,
    /// Make the amphorae that are missing.
    Fill,
    /// Push the newest state again.
    Push,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Sql(#[from] DbErr),
}

impl Retriable for Error {
    fn retriable(&self) -> bool {
        let Self::Sql(error) = self;
        error.retriable()
    }
}

/// Locks the load balancer and enqueues the flow, when the load balancer is mutable or in ERROR.
/// Returns the request id, or `None` when another flow holds it: that flow, or the next look at the
/// amphora, sees to it.
pub async fn enqueue(
    db: &Db,
    load_balancer_id: &str,
    request: &Request,
    why: &str,
) -> Result<Option<String>, DbErr> {
    let Ok(id) = load_balancer_id.parse::<LoadBalancerId>() else {
        return Err(DbErr::Custom(format!("{load_balancer_id:?} is not an id")));
    };
    let (kind, payload) = match request {
        Request::Amphora(amphora_id) => {
            let one = OneAmphora {
                amphora_id: amphora_id.clone(),
            };
            (FlowKind::FailoverAmphora, json!(one))
        }
        // An id that no amphora has: nobody goes, and what is missing comes.
        Request::Fill => {
            let one = OneAmphora {
                amphora_id: uuid::Uuid::nil().to_string(),
            };
            (FlowKind::FailoverAmphora, json!(one))
        }
        Request::LoadBalancer => (FlowKind::FailoverLoadBalancer, Value::Null),
        Request::Push => (FlowKind::UpdateLoadBalancer, Value::Null),
    };
    let request_id = format!("req-{}", uuid::Uuid::new_v4());
    // Pushing does not repair what is in ERROR.
    let allowed: &[&str] = match request {
        Request::Push => &["ACTIVE"],
        _ => &["ACTIVE", "ERROR"],
    };
    let done: Result<bool, Error> = transaction!(db, |txn| {
        let locked = load_balancer::Entity::update_many()
            .col_expr(
                load_balancer::Column::ProvisioningStatus,
                "PENDING_UPDATE".into(),
            )
            .filter(
                Condition::all()
                    .add(load_balancer::Column::Id.eq(load_balancer_id))
                    .add(load_balancer::Column::ProvisioningStatus.is_in(allowed.to_vec()))
                    .add(load_balancer::Column::LockedByFlow.is_null()),
            )
            .exec(txn)
            .await?;
        if locked.rows_affected == 0 {
            return Ok(false);
        }
        let new = NewFlow {
            kind,
            load_balancer_id: Some(id),
            payload: payload.clone(),
            request_id: request_id.clone(),
        };
        flow::enqueue(txn, new).await?;
        Ok(true)
    });
    match done {
        Ok(true) => {
            tracing::warn!(
                load_balancer = load_balancer_id,
                flow = kind.as_str(),
                request_id,
                why,
                "flow asked for"
            );
            db.nudge();
            Ok(Some(request_id))
        }
        Ok(false) => Ok(None),
        Err(Error::Sql(error)) => Err(error),
    }
}
