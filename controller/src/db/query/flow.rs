//! The queue of flows. A flow is enqueued in the transaction that makes its objects PENDING, so
//! that neither exists without the other.

use super::before::Before;
use crate::db::{entity::flow, now};
use krater_model::{FlowId, LoadBalancerId};
use sea_orm::{ActiveModelTrait, ActiveValue::Set, ConnectionTrait, DbErr};
use serde::{Deserialize, Serialize};

/// What kinds of flow there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FlowKind {
    /// Boot, plug, configure; payload [`Tree`] of the children of a single-call create.
    CreateLoadBalancer,
    /// Push the new state; payload [`Tree`] of no children, or null when only an amphora missed a state.
    UpdateLoadBalancer,
    /// Payload [`DeleteLoadBalancer`].
    DeleteLoadBalancer,
    /// Children were created, changed or shall go; payload [`Tree`].
    UpdateTree,
    /// Replace all amphorae one after another; payload null.
    FailoverLoadBalancer,
    /// Payload [`OneAmphora`].
    FailoverAmphora,
    /// Payload [`OneAmphora`].
    RotateCertificate,
    /// End one amphora that is in ERROR and free what it has; payload [`OneAmphora`].
    DeleteAmphora,
}

impl FlowKind {
    /// As the column has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateLoadBalancer => "CreateLoadBalancer",
            Self::UpdateLoadBalancer => "UpdateLoadBalancer",
            Self::DeleteLoadBalancer => "DeleteLoadBalancer",
            Self::UpdateTree => "UpdateTree",
            Self::FailoverLoadBalancer => "FailoverLoadBalancer",
            Self::FailoverAmphora => "FailoverAmphora",
            Self::RotateCertificate => "RotateCertificate",
            Self::DeleteAmphora => "DeleteAmphora",
        }
    }
}

impl std::str::FromStr for FlowKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "CreateLoadBalancer" => Self::CreateLoadBalancer,
            "UpdateLoadBalancer" => Self::UpdateLoadBalancer,
            "DeleteLoadBalancer" => Self::DeleteLoadBalancer,
            "UpdateTree" => Self::UpdateTree,
            "FailoverLoadBalancer" => Self::FailoverLoadBalancer,
            "FailoverAmphora" => Self::FailoverAmphora,
            "RotateCertificate" => Self::RotateCertificate,
            "DeleteAmphora" => Self::DeleteAmphora,
            other => return Err(format!("{other:?} is not a flow kind")),
        })
    }
}

/// Kinds of child objects of a load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// A listener.
    Listener,
    /// A pool.
    Pool,
    /// A member.
    Member,
    /// A health monitor.
    HealthMonitor,
    /// An L7 policy.
    #[serde(rename = "l7policy")]
    L7Policy,
    /// An L7 rule.
    #[serde(rename = "l7rule")]
    L7Rule,
}

/// What happens to a child when the flow succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Becomes ACTIVE.
    Create,
    /// Becomes ACTIVE.
    Update,
    /// Its row goes.
    Delete,
    /// A parent that is PENDING_UPDATE meanwhile; becomes ACTIVE, and stays so when the flow fails.
    Touch,
}

/// One child in a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Kind of child.
    pub resource: Resource,
    /// Its id.
    pub id: String,
    /// What happens to it.
    pub action: Action,
}

/// Payload of [`FlowKind::UpdateTree`], [`FlowKind::UpdateLoadBalancer`] and
/// [`FlowKind::CreateLoadBalancer`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tree {
    /// The children, in no particular order.
    pub items: Vec<Item>,
    /// The rows that the change alters, as they were.
    #[serde(default)]
    pub before: Before,
}

/// Payload of [`FlowKind::DeleteLoadBalancer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteLoadBalancer {
    /// Children go with it; without them there are none.
    pub cascade: bool,
}

/// Payload of the flows about one amphora.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneAmphora {
    /// Which.
    pub amphora_id: String,
}

/// A flow to enqueue.
#[derive(Debug, Clone)]
pub struct NewFlow {
    /// Its kind.
    pub kind: FlowKind,
    /// The load balancer it holds; none for a flow that concerns no load balancer.
    pub load_balancer_id: Option<LoadBalancerId>,
    /// By kind.
    pub payload: serde_json::Value,
    /// `req-<uuid>` of the API request, or one made by the health manager.
    pub request_id: String,
}

/// Inserts the flow and lets it hold its load balancer (`locked_by_flow`). The caller calls
/// [`Db::nudge`](crate::db::Db::nudge) after the commit.
pub async fn enqueue(db: &impl ConnectionTrait, new: NewFlow) -> Result<FlowId, DbErr> {
    let id = FlowId::random();
    let now = now();
    flow::ActiveModel {
        id: Set(id.to_string()),
        kind: Set(new.kind.as_str().to_owned()),
        load_balancer_id: Set(new.load_balancer_id.map(|id| id.to_string())),
        payload: Set(new.payload.to_string()),
        request_id: Set(new.request_id),
        state: Set("PENDING".to_owned()),
        current_step: Set(0),
        attempts: Set(0),
        claimed_by: Set(None),
        lease_until: Set(None),
        // At once, whatever this controller's clock says.
        not_before: Set(0),
        error: Set(None),
        created_at: Set(now),
        updated_at: Set(now),
    }
    .insert(db)
    .await?;
    if let Some(load_balancer) = new.load_balancer_id {
        use crate::db::entity::load_balancer::{Column, Entity};
        use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
        Entity::update_many()
            .col_expr(Column::LockedByFlow, Some(id.to_string()).into())
            .filter(Column::Id.eq(load_balancer.to_string()))
            .exec(db)
            .await?;
    }
    Ok(id)
}
