//! The journal: claims of flows by workers, and which step of a flow runs.
//!
//! A claim is a compare-and-set on the flow's row with a lease. Every later write names the worker in
//! its WHERE clause: a worker that lost its lease changes nothing ([`Lost`]). Leases begin and end by the database's
//! clock, so that controllers whose clocks differ agree.

use crate::db::entity::{flow, flow_step, load_balancer};
use crate::db::{Retriable, now};
use sea_orm::sea_query::{Expr, OnConflict, SimpleExpr};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, DatabaseBackend, DbErr, EntityTrait,
    QueryFilter, QueryOrder, QuerySelect,
};

/// State of a flow, as its column has it.
pub mod state {
    /// Waits for a worker.
    pub const PENDING: &str = "PENDING";
    /// A worker runs its steps.
    pub const RUNNING: &str = "RUNNING";
    /// A step failed; what was done is being undone.
    pub const REVERTING: &str = "REVERTING";
    /// All steps are done.
    pub const SUCCEEDED: &str = "SUCCEEDED";
    /// Everything was undone.
    pub const REVERTED: &str = "REVERTED";
    /// Something could not be undone; housekeeping removes what is left.
    pub const FAILED: &str = "FAILED";
    /// Not ended.
    pub const OPEN: [&str; 3] = [PENDING, RUNNING, REVERTING];
}

/// Claims tried per round; the queue is looked at again at once when more were claimed.
const BATCH: u64 = 64;

/// Why the journal could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The statement failed.
    #[error("database")]
    Sql(#[from] DbErr),
    /// Another worker has the flow now.
    #[error("the lease of flow {0} is lost")]
    Lease(String),
}

impl Retriable for Lost {
    fn retriable(&self) -> bool {
        matches!(self, Self::Sql(error) if error.retriable())
    }
}

/// Flows that a worker may claim now, oldest first.
pub async fn claimable(db: &impl ConnectionTrait) -> Result<Vec<flow::Model>, DbErr> {
    flow::Entity::find()
        .filter(free(&clock(db)))
        .order_by_asc(flow::Column::CreatedAt)
        .order_by_asc(flow::Column::Id)
        .limit(BATCH)
        .all(db)
        .await
}

/// The database's time in Unix milliseconds. A file has none of its own.
fn clock(db: &impl ConnectionTrait) -> SimpleExpr {
    match db.get_database_backend() {
        DatabaseBackend::Sqlite => Expr::value(now()),
        DatabaseBackend::Postgres => {
            Expr::cust("CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)")
        }
        DatabaseBackend::MySql => Expr::cust("CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)"),
    }
}

fn free(now: &SimpleExpr) -> Condition {
    Condition::all()
        .add(flow::Column::State.is_in(state::OPEN))
        .add(Expr::col(flow::Column::NotBefore).lte(now.clone()))
        .add(
            Condition::any()
                .add(flow::Column::ClaimedBy.is_null())
                .add(Expr::col(flow::Column::LeaseUntil).lt(now.clone())),
        )
}

/// Takes a flow. `None` when another worker was faster.
pub async fn claim(
    db: &impl ConnectionTrait,
    id: &str,
    worker: &str,
    lease_ms: i64,
) -> Result<Option<flow::Model>, DbErr> {
    let at = clock(db);
    let result = flow::Entity::update_many()
        .col_expr(flow::Column::ClaimedBy, Some(worker.to_owned()).into())
        .col_expr(flow::Column::LeaseUntil, at.clone().add(lease_ms))
        .col_expr(
            flow::Column::Attempts,
            Expr::col(flow::Column::Attempts).add(1),
        )
        .col_expr(flow::Column::UpdatedAt, now().into())
        .filter(flow::Column::Id.eq(id))
        .filter(free(&at))
        .exec(db)
        .await?;
    if result.rows_affected == 0 {
        return Ok(None);
    }
    flow::Entity::find_by_id(id.to_owned()).one(db).await
}

/// Renews the lease.
pub async fn renew(
    db: &impl ConnectionTrait,
    id: &str,
    worker: &str,
    lease_ms: i64,
) -> Result<(), Lost> {
    let result = flow::Entity::update_many()
        .col_expr(flow::Column::LeaseUntil, clock(db).add(lease_ms))
        .filter(flow::Column::Id.eq(id))
        .filter(flow::Column::ClaimedBy.eq(worker))
        .exec(db)
        .await?;
    held(id, result.rows_affected)
}

/// Proves in the caller's transaction that `worker` still holds the flow, and locks its row.
pub async fn fence(db: &impl ConnectionTrait, id: &str, worker: &str) -> Result<(), Lost> {
    let result = flow::Entity::update_many()
        .col_expr(flow::Column::UpdatedAt, now().into())
        .filter(flow::Column::Id.eq(id))
        .filter(flow::Column::ClaimedBy.eq(worker))
        .exec(db)
        .await?;
    held(id, result.rows_affected)
}

fn held(id: &str, rows: u64) -> Result<(), Lost> {
    if rows == 1 {
        Ok(())
    } else {
        Err(Lost::Lease(id.to_owned()))
    }
}

/// Frees the claims of an instance, whose workers' names begin with it. Only for a controller that holds the instance's
/// state folder: whoever made them is dead. Those of other instances end with their leases.
pub async fn release_all(db: &impl ConnectionTrait, instance: &str) -> Result<u64, DbErr> {
    let result = flow::Entity::update_many()
        .col_expr(flow::Column::ClaimedBy, Option::<String>::None.into())
        .col_expr(flow::Column::LeaseUntil, Option::<i64>::None.into())
        .filter(flow::Column::State.is_in(state::OPEN))
        .filter(flow::Column::ClaimedBy.starts_with(format!("{instance}-")))
        .exec(db)
        .await?;
    Ok(result.rows_affected)
}

/// Gives a flow back, to be claimed again after some milliseconds.
pub async fn release(
    db: &impl ConnectionTrait,
    id: &str,
    worker: &str,
    pause_ms: i64,
) -> Result<(), DbErr> {
    flow::Entity::update_many()
        .col_expr(flow::Column::ClaimedBy, Option::<String>::None.into())
        .col_expr(flow::Column::LeaseUntil, Option::<i64>::None.into())
        .col_expr(flow::Column::NotBefore, clock(db).add(pause_ms))
        .filter(flow::Column::Id.eq(id))
        .filter(flow::Column::ClaimedBy.eq(worker))
        .exec(db)
        .await?;
    Ok(())
}

/// Moves a flow to a step and a state.
pub async fn advance(
    db: &impl ConnectionTrait,
    id: &str,
    worker: &str,
    step: i32,
    state: &str,
    error: Option<&str>,
) -> Result<(), Lost> {
    let mut update = flow::Entity::update_many()
        .col_expr(flow::Column::CurrentStep, step.into())
        .col_expr(flow::Column::State, state.into())
        .col_expr(flow::Column::UpdatedAt, now().into());
    if let Some(error) = error {
        update = update.col_expr(flow::Column::Error, Some(error.to_owned()).into());
    }
    let result = update
        .filter(flow::Column::Id.eq(id))
        .filter(flow::Column::ClaimedBy.eq(worker))
        .exec(db)
        .await?;
    held(id, result.rows_affected)
}

/// Ends a flow: the claim ends, and so does its hold on the load balancer.
pub async fn end(
    db: &impl ConnectionTrait,
    id: &str,
    worker: &str,
    state: &str,
) -> Result<(), Lost> {
    let result = flow::Entity::update_many()
        .col_expr(flow::Column::State, state.into())
        .col_expr(flow::Column::ClaimedBy, Option::<String>::None.into())
        .col_expr(flow::Column::LeaseUntil, Option::<i64>::None.into())
        .col_expr(flow::Column::UpdatedAt, now().into())
        .filter(flow::Column::Id.eq(id))
        .filter(flow::Column::ClaimedBy.eq(worker))
        .exec(db)
        .await?;
    held(id, result.rows_affected)?;
    load_balancer::Entity::update_many()
        .col_expr(
            load_balancer::Column::LockedByFlow,
            Option::<String>::None.into(),
        )
        .filter(load_balancer::Column::LockedByFlow.eq(id))
        .exec(db)
        .await?;
    Ok(())
}

/// Writes that a step begins (again).
pub async fn begin_step(
    db: &impl ConnectionTrait,
    flow_id: &str,
    position: i32,
    name: &str,
    state: &str,
) -> Result<(), DbErr> {
    let row = flow_step::ActiveModel {
        flow_id: Set(flow_id.to_owned()),
        position: Set(position),
        name: Set(name.to_owned()),
        state: Set(state.to_owned()),
        output: Set("null".to_owned()),
        attempts: Set(1),
        error: Set(None),
        started_at: Set(now()),
        finished_at: Set(None),
    };
    // The output of an earlier run stays: an undo reads it.
    flow_step::Entity::insert(row)
        .on_conflict(
            OnConflict::columns([flow_step::Column::FlowId, flow_step::Column::Position])
                .update_columns([flow_step::Column::State, flow_step::Column::Name])
                .value(
                    flow_step::Column::Attempts,
                    Expr::col((flow_step::Entity, flow_step::Column::Attempts)).add(1),
                )
                .to_owned(),
        )
        .exec(db)
        .await?;
    Ok(())
}

/// Writes how a step ended.
pub async fn end_step(
    db: &impl ConnectionTrait,
    flow_id: &str,
    position: i32,
    state: &str,
    output: Option<&serde_json::Value>,
    error: Option<&str>,
) -> Result<(), DbErr> {
    let mut update = flow_step::Entity::update_many()
        .col_expr(flow_step::Column::State, state.into())
        .col_expr(flow_step::Column::FinishedAt, Some(now()).into());
    if let Some(output) = output {
        update = update.col_expr(flow_step::Column::Output, output.to_string().into());
    }
    if let Some(error) = error {
        update = update.col_expr(flow_step::Column::Error, Some(error.to_owned()).into());
    }
    update
        .filter(flow_step::Column::FlowId.eq(flow_id))
        .filter(flow_step::Column::Position.eq(position))
        .exec(db)
        .await?;
    Ok(())
}

/// The steps of a flow that began, in order.
pub async fn steps(
    db: &impl ConnectionTrait,
    flow_id: &str,
) -> Result<Vec<flow_step::Model>, DbErr> {
    flow_step::Entity::find()
        .filter(flow_step::Column::FlowId.eq(flow_id))
        .order_by_asc(flow_step::Column::Position)
        .all(db)
        .await
}

/// Flows, newest first; `open_only` leaves out what has ended.
pub async fn list(
    db: &impl ConnectionTrait,
    open_only: bool,
    limit: u64,
) -> Result<Vec<flow::Model>, DbErr> {
    let mut query = flow::Entity::find();
    if open_only {
        query = query.filter(flow::Column::State.is_in(state::OPEN));
    }
    query
        .order_by_desc(flow::Column::CreatedAt)
        .order_by_desc(flow::Column::Id)
        .limit(limit)
        .all(db)
        .await
}

/// One flow.
pub async fn find(db: &impl ConnectionTrait, id: &str) -> Result<Option<flow::Model>, DbErr> {
    flow::Entity::find_by_id(id.to_owned()).one(db).await
}
