//! What each step does.
//!
//! A step has two halves: `run` has effects outside the database and may be repeated at any time;
//! `commit` changes rows in the transaction that also says "done" in the journal, so it happens once.
//! `undo` and `undo_commit` mirror them.

use super::World;
use super::kinds::{Action, Step};
use crate::agent_client::Address;
use crate::db::entity::{amphora, flow};
use crate::db::now;
use crate::db::query::flow::FlowKind;
use crate::db::query::graph::{self, Graph};
use crate::failover::plan::Role;
use krater_model::AmphoraId;
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

mod allocate;
mod amphorae;
mod certificate;
mod error;
mod push;
mod settle;

pub use error::{Reason, StepError};

/// What a step knows of its flow.
#[derive(Debug)]
pub struct Context {
    /// Drivers, database, agents.
    pub world: Arc<World>,
    /// The flow.
    pub id: String,
    /// Its kind.
    pub kind: FlowKind,
    /// Who runs it.
    pub worker: String,
    /// The API request that asked for it.
    pub request_id: String,
    /// By kind, see [`crate::db::query::flow`].
    pub payload: Value,
    /// The load balancer it holds.
    pub load_balancer_id: Option<String>,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Outputs of the steps that are done, by name.
    pub outputs: HashMap<String, Value>,
}

impl Context {
    /// From its row.
    pub fn new(
        world: Arc<World>,
        row: &flow::Model,
        kind: FlowKind,
        worker: &str,
        outputs: HashMap<String, Value>,
    ) -> Result<Self, String> {
        Ok(Self {
            world,
            id: row.id.clone(),
            kind,
            worker: worker.to_owned(),
            request_id: row.request_id.clone(),
            payload: serde_json::from_str(&row.payload).map_err(|e| e.to_string())?,
            load_balancer_id: row.load_balancer_id.clone(),
            created_at: row.created_at,
            outputs,
        })
    }

    fn load_balancer(&self) -> Result<&str, StepError> {
        self.load_balancer_id
            .as_deref()
            .ok_or_else(|| StepError::damaged("the flow names no load balancer"))
    }

    fn payload<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        serde_json::from_value(self.payload.clone())
            .map_err(|error| StepError::damaged(format!("payload: {error}")))
    }

    async fn graph(&self, db: &impl ConnectionTrait) -> Result<Graph, StepError> {
        let id = self.load_balancer()?;
        graph::load(db, id)
            .await?
            .ok_or_else(|| StepError::damaged(format!("load balancer {id} does not exist")))
    }

    /// Whether a round is over: who left has gone, who came serves. Its steps are not undone any more, for
    /// that would end amphorae that serve.
    fn is_settled(&self, round: usize) -> bool {
        let name = if round == 0 {
            "retire"
        } else {
            "retire-second"
        };
        self.outputs.get(name) == Some(&Value::Bool(true))
    }

    /// The plan of a round; empty in flows that do not replace amphorae.
    fn replacement(&self, round: usize) -> Replacement {
        let name = if round == 0 {
            "allocate"
        } else {
            "allocate-second"
        };
        self.outputs
            .get(name)
            .and_then(|value| serde_json::from_value(value.clone()).ok())
            .unwrap_or_default()
    }
}

/// Output of `Allocate`: what goes and what comes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replacement {
    /// Amphorae that go.
    pub leave: Vec<AmphoraId>,
    /// Amphorae that come.
    pub come: Vec<(AmphoraId, Role)>,
}

impl Replacement {
    fn leaves(&self, id: &str) -> bool {
        self.leave.iter().any(|leave| leave.to_string() == id)
    }

    fn comes(&self, id: &str) -> bool {
        self.come.iter().any(|(come, _)| come.to_string() == id)
    }
}

/// Effects outside the database.
pub async fn run(context: &Context, step: Step) -> Result<Value, StepError> {
    match step.action {
        Action::Allocate => allocate::run(context).await,
        Action::Boot => amphorae::boot(context, step.round).await,
        Action::Connect => amphorae::connect(context, step.round).await,
        Action::Fence => amphorae::fence(context, step.round).await,
        Action::Push => push::run(context, step.round).await,
        Action::Ready => amphorae::ready(context, step.round).await,
        Action::Retire => Ok(json!(true)),
        Action::Remove => Ok(Value::Null),
        Action::Finish => settle::unplug(context).await,
        Action::Stop => amphorae::stop(context).await,
        Action::Certificate => certificate::run(context).await,
        Action::End => amphorae::end_one(context).await,
    }
}

/// Changes of rows, with the journal's "done". Returns the step's output.
pub async fn commit(
    context: &Context,
    step: Step,
    effect: &Value,
    txn: &DatabaseTransaction,
) -> Result<Value, StepError> {
    match step.action {
        Action::Allocate => return allocate::commit(context, step.round, effect, txn).await,
        Action::Boot => amphorae::booted(effect, txn).await?,
        Action::Push => push::commit(effect, txn).await?,
        Action::Retire => settle::retire(context, step.round, txn).await?,
        Action::Finish => settle::finish(context, effect, txn).await?,
        Action::Remove => settle::remove(context, txn).await?,
        Action::Certificate => certificate::commit(effect, txn).await?,
        Action::End => settle::forget(txn, &[amphorae::only_one(context)?]).await?,
        Action::Connect | Action::Fence | Action::Ready | Action::Stop => {}
    }
    Ok(effect.clone())
}

/// Takes effects back. Harmless when there were none.
pub async fn undo(context: &Context, step: Step) -> Result<Value, StepError> {
    if context.is_settled(step.round) {
        return Ok(Value::Null);
    }
    match step.action {
        Action::Boot => amphorae::unboot(context, step.round).await,
        Action::Push => push::undo(context, step.round).await,
        Action::Fence => {
            let gone = amphorae::gone(context, context.replacement(step.round).leave).await?;
            let restored = push::restore(context, step.round, &gone).await?;
            Ok(json!({ "gone": gone, "restored": restored }))
        }
        Action::Stop => {
            let ids = amphorae::all(context).await?;
            Ok(json!({ "gone": amphorae::gone(context, ids).await? }))
        }
        _ => Ok(Value::Null),
    }
}

/// Takes rows back, in the transaction that says "undone". `effect` is what `undo` gave, null when it
/// could not.
pub async fn undo_commit(
    context: &Context,
    step: Step,
    effect: &Value,
    txn: &DatabaseTransaction,
) -> Result<(), StepError> {
    if context.is_settled(step.round) {
        return Ok(());
    }
    match step.action {
        Action::Allocate => allocate::undo_commit(context, step.round, txn).await,
        Action::Push => push::undo_commit(context, effect, txn).await,
        // Ended amphorae do not come back.
        Action::Fence | Action::Stop => {
            let gone: Vec<String> =
                serde_json::from_value(effect["gone"].clone()).unwrap_or_default();
            settle::forget(txn, &gone).await?;
            push::undo_commit(context, &effect["restored"], txn).await
        }
        Action::Certificate => certificate::undo_commit(context, txn).await,
        // It can be deleted again.
        Action::End => Ok(set_status(txn, vec![amphorae::only_one(context)?], "ERROR").await?),
        _ => Ok(()),
    }
}

/// The flow was undone: statuses say so.
pub async fn failed(
    context: &Context,
    reason: &str,
    txn: &DatabaseTransaction,
) -> Result<(), StepError> {
    settle::failed(context, reason, txn).await
}

/// Where an amphora's agent is.
pub fn address(row: &amphora::Model) -> Result<Address, StepError> {
    let ip = row.lb_network_ip.as_deref().unwrap_or_default();
    Ok(Address {
        amphora: parse("amphora id", &row.id)?,
        at: SocketAddr::new(
            parse("management address", ip)?,
            krater_model::wire::agent::PORT,
        ),
    })
}

fn parse<T: FromStr<Err: Display>>(what: &str, text: &str) -> Result<T, StepError> {
    text.parse()
        .map_err(|error: T::Err| StepError::damaged(format!("{what} {text:?}: {error}")))
}

async fn set_status(
    txn: &DatabaseTransaction,
    ids: Vec<String>,
    status: &str,
) -> Result<(), DbErr> {
    use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _};
    amphora::Entity::update_many()
        .col_expr(amphora::Column::Status, status.into())
        .col_expr(amphora::Column::UpdatedAt, Some(now()).into())
        .filter(amphora::Column::Id.is_in(ids))
        .exec(txn)
        .await
        .map(drop)
}
