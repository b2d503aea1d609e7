//! The state machine's lock: a load balancer leaves ACTIVE in the transaction that enqueues the
//! flow, by compare-and-set, which every engine does without `SELECT … FOR UPDATE`.

use super::{AppState, Caller, Error};
use crate::db::entity::{listener, load_balancer, pool};
use crate::db::now;
use crate::db::query::before::Before;
use crate::db::query::flow::{self, Action, FlowKind, Item, NewFlow, Resource, Tree};
use crate::db::query::{graph, list};
use krater_model::LoadBalancerId;
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter};

/// Objects exist and serve.
pub const ACTIVE: &str = "ACTIVE";
/// Operator's help needed.
pub const ERROR: &str = "ERROR";
/// Being made.
pub const PENDING_CREATE: &str = "PENDING_CREATE";
/// Being changed.
pub const PENDING_UPDATE: &str = "PENDING_UPDATE";
/// Being removed.
pub const PENDING_DELETE: &str = "PENDING_DELETE";
/// Removed; the row waits for housekeeping.
pub const DELETED: &str = "DELETED";

/// Names that upstream gives to kinds in its texts.
pub const LOAD_BALANCER: &str = "Load Balancer";

/// The load balancer, unless it is deleted.
pub async fn load_balancer(
    db: &impl ConnectionTrait,
    id: &str,
) -> Result<load_balancer::Model, Error> {
    load_balancer::Entity::find_by_id(id.to_owned())
        .one(db)
        .await?
        .filter(|lb| lb.provisioning_status != DELETED)
        .ok_or_else(|| Error::not_found(LOAD_BALANCER, id))
}

/// Locks the row with this id until the transaction ends, if there is one: a write does that on every engine.
/// `same` is any of its columns, which keeps its value.
pub async fn hold<E: EntityTrait>(
    db: &impl ConnectionTrait,
    id_column: E::Column,
    same: E::Column,
    id: &str,
) -> Result<(), DbErr> {
    E::update_many()
        .col_expr(same, Expr::col(same).into())
        .filter(id_column.eq(id))
        .exec(db)
        .await?;
    Ok(())
}

/// The load balancer, unless it is deleted, locked until the transaction ends. Who changes what is below it holds it
/// before looking at anything: a database server lets two transactions look at the same time, and what the second one
/// saw is not true any more when its turn comes.
pub async fn held(db: &impl ConnectionTrait, id: &str) -> Result<load_balancer::Model, Error> {
    let (key, same) = (load_balancer::Column::Id, load_balancer::Column::CreatedAt);
    hold::<load_balancer::Entity>(db, key, same, id).await?;
    load_balancer(db, id).await
}

/// Takes the load balancer from one of `from` to `to`. Returns whether it was in one of them.
pub async fn take(
    db: &impl ConnectionTrait,
    id: &str,
    from: &[&str],
    to: &str,
) -> Result<bool, Error> {
    let done = load_balancer::Entity::update_many()
        .col_expr(load_balancer::Column::ProvisioningStatus, Expr::value(to))
        .col_expr(load_balancer::Column::UpdatedAt, Expr::value(now()))
        .filter(load_balancer::Column::Id.eq(id))
        .filter(load_balancer::Column::ProvisioningStatus.is_in(from.iter().copied()))
        .exec(db)
        .await?;
    Ok(done.rows_affected == 1)
}

/// For an operation on the load balancer itself: 409 `Invalid state …`.
pub async fn take_itself(
    db: &impl ConnectionTrait,
    id: &str,
    from: &[&str],
    to: &str,
) -> Result<(), Error> {
    if take(db, id, from, to).await? {
        return Ok(());
    }
    let lb = load_balancer(db, id).await?;
    let state = lb.provisioning_status;
    Err(Error::conflict(format!(
        "Invalid state {state} of loadbalancer resource {id}"
    )))
}

/// For an operation on a child: 409 `Load Balancer … is immutable …`.
pub async fn take_for_child(db: &impl ConnectionTrait, id: &str) -> Result<(), Error> {
    if take(db, id, &[ACTIVE], PENDING_UPDATE).await? {
        return Ok(());
    }
    load_balancer(db, id).await?;
    Err(Error::immutable(LOAD_BALANCER, id))
}

/// Sets parents PENDING_UPDATE and lists them for the flow.
pub async fn touch_listeners(
    db: &impl ConnectionTrait,
    ids: Vec<String>,
    items: &mut Vec<Item>,
) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    listener::Entity::update_many()
        .col_expr(
            listener::Column::ProvisioningStatus,
            Expr::value(PENDING_UPDATE),
        )
        .col_expr(listener::Column::UpdatedAt, Expr::value(now()))
        .filter(listener::Column::Id.is_in(ids.clone()))
        .exec(db)
        .await?;
    items.extend(
        ids.into_iter()
            .map(|id| item(Resource::Listener, id, Action::Touch)),
    );
    Ok(())
}

/// Sets a pool PENDING_UPDATE and lists it for the flow.
pub async fn touch_pool(
    db: &impl ConnectionTrait,
    id: &str,
    items: &mut Vec<Item>,
) -> Result<(), Error> {
    pool::Entity::update_many()
        .col_expr(
            pool::Column::ProvisioningStatus,
            Expr::value(PENDING_UPDATE),
        )
        .col_expr(pool::Column::UpdatedAt, Expr::value(now()))
        .filter(pool::Column::Id.eq(id))
        .exec(db)
        .await?;
    items.push(item(Resource::Pool, id.to_owned(), Action::Touch));
    Ok(())
}

/// Listeners that send traffic to the pool by default or by a policy.
pub async fn listeners_using(db: &impl ConnectionTrait, pool: &str) -> Result<Vec<String>, Error> {
    use crate::db::entity::l7policy;
    let rows = listener::Entity::find()
        .filter(listener::Column::DefaultPoolId.eq(pool))
        .all(db)
        .await?;
    let mut ids: Vec<String> = rows.into_iter().map(|row| row.id).collect();
    let policies = l7policy::Entity::find()
        .filter(l7policy::Column::RedirectPoolId.eq(pool))
        .all(db)
        .await?;
    ids.extend(policies.into_iter().map(|row| row.listener_id));
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// Shorthand.
pub const fn item(resource: Resource, id: String, action: Action) -> Item {
    Item {
        resource,
        id,
        action,
    }
}

/// Enqueues the flow of a change of children. To be called last in `txn`, which holds the load balancer.
pub async fn enqueue_tree(
    state: &AppState,
    txn: &impl ConnectionTrait,
    caller: &Caller,
    load_balancer: &str,
    items: Vec<Item>,
) -> Result<(), Error> {
    let kind = FlowKind::UpdateTree;
    enqueue_change(state, txn, caller, kind, load_balancer, items).await
}

/// Enqueues the flow of a change that can be undone: what `txn` changed goes with it as it was.
pub async fn enqueue_change(
    state: &AppState,
    txn: &impl ConnectionTrait,
    caller: &Caller,
    kind: FlowKind,
    load_balancer: &str,
    items: Vec<Item>,
) -> Result<(), Error> {
    // Other connections see what is committed. Since `txn` took the load balancer when it was not held,
    // nobody else changed its rows meanwhile: that is how they were before `txn`.
    let committed = state.db.read();
    let missing = || Error::not_found(LOAD_BALANCER, load_balancer);
    let old = graph::load(committed, load_balancer).await?;
    let old = old.ok_or_else(missing)?;
    let new = graph::load(txn, load_balancer).await?.ok_or_else(missing)?;
    let mut before = Before::of(&old, &new);
    let mut tagged = vec![load_balancer.to_owned()];
    let known = items.iter().filter(|item| item.action != Action::Create);
    tagged.extend(known.map(|item| item.id.clone()));
    let (was, is) = (
        list::tags(committed, &tagged).await?,
        list::tags(txn, &tagged).await?,
    );
    before.note_tags(&tagged, was, is);
    let payload = serde_json::json!(Tree { items, before });
    enqueue(txn, caller, kind, load_balancer, payload).await
}

/// Enqueues a flow that holds a load balancer.
pub async fn enqueue(
    db: &impl ConnectionTrait,
    caller: &Caller,
    kind: FlowKind,
    load_balancer: &str,
    payload: serde_json::Value,
) -> Result<(), Error> {
    let load_balancer_id: LoadBalancerId = load_balancer
        .parse()
        .map_err(|_| Error::not_found(LOAD_BALANCER, load_balancer))?;
    flow::enqueue(
        db,
        NewFlow {
            kind,
            load_balancer_id: Some(load_balancer_id),
            payload,
            request_id: caller.request_id.clone(),
        },
    )
    .await?;
    Ok(())
}
