//! Amphorae, as the operator sees them.

use super::lock::{self, ACTIVE, PENDING_UPDATE};
use super::{AppState, Caller, Error};
use crate::db::entity::{amphora, listener_statistics, load_balancer};
use crate::db::query::flow::{self, FlowKind, NewFlow, OneAmphora};
use crate::db::query::list::{self, Attribute, Kind, PageRequest};
use crate::transaction;
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect};

/// As upstream's texts name it.
pub const NAME: &str = "Amphora";

/// What lists can be filtered and sorted by. `name` is the id: the client looks amphorae up by it.
pub const ATTRIBUTES: &[Attribute] = &[
    ("id", "id", Kind::Text),
    ("name", "id", Kind::Text),
    ("loadbalancer_id", "load_balancer_id", Kind::Text),
    ("load_balancer_id", "load_balancer_id", Kind::Text),
    ("compute_id", "compute_id", Kind::Text),
    ("lb_network_ip", "lb_network_ip", Kind::Text),
    ("vrrp_ip", "vrrp_ip", Kind::Text),
    ("ha_ip", "ha_ip", Kind::Text),
    ("vrrp_port_id", "vrrp_port_id", Kind::Text),
    ("ha_port_id", "ha_port_id", Kind::Text),
    ("cert_expiration", "cert_expiration", Kind::Time),
    ("cert_busy", "cert_busy", Kind::Bool),
    ("role", "role", Kind::Text),
    ("status", "status", Kind::Text),
    ("vrrp_interface", "vrrp_interface", Kind::Text),
    ("vrrp_id", "vrrp_id", Kind::Int),
    ("vrrp_priority", "vrrp_priority", Kind::Int),
    ("cached_zone", "cached_zone", Kind::Text),
    ("image_id", "image_id", Kind::Text),
    ("compute_flavor", "compute_flavor", Kind::Text),
    ("created_at", "created_at", Kind::Time),
    ("updated_at", "updated_at", Kind::Time),
];

/// A page; deleted ones are hidden.
pub async fn list(state: &AppState, page: &PageRequest) -> Result<Vec<amphora::Model>, Error> {
    let mut page = page.clone();
    let mut scope = Condition::all().add(amphora::Column::Status.ne("DELETED"));
    if let Some(at) = page
        .filters
        .iter()
        .position(|(name, _)| name == "project_id")
    {
        let (_, project) = page.filters.remove(at);
        let of_project = load_balancer::Entity::find()
            .select_only()
            .column(load_balancer::Column::Id)
            .filter(load_balancer::Column::ProjectId.eq(project));
        let query = sea_orm::QueryTrait::into_query(of_project);
        scope = scope.add(amphora::Column::LoadBalancerId.in_subquery(query));
    }
    let db = state.db.read();
    Ok(list::page::<amphora::Entity>(db, ATTRIBUTES, &page, scope).await?)
}

/// One.
pub async fn show(state: &AppState, id: &str) -> Result<amphora::Model, Error> {
    find(state.db.read(), id).await
}

async fn find(db: &impl ConnectionTrait, id: &str) -> Result<amphora::Model, Error> {
    amphora::Entity::find_by_id(id.to_owned())
        .one(db)
        .await?
        .filter(|row| row.status != "DELETED")
        .ok_or_else(|| Error::not_found(NAME, id))
}

/// Counters of its listeners.
pub async fn stats(
    state: &AppState,
    id: &str,
) -> Result<(amphora::Model, Vec<listener_statistics::Model>), Error> {
    let row = show(state, id).await?;
    let stats = listener_statistics::Entity::find()
        .filter(listener_statistics::Column::AmphoraId.eq(id))
        .all(state.db.read())
        .await?;
    Ok((row, stats))
}

fn payload(id: &str) -> serde_json::Value {
    serde_json::json!(OneAmphora {
        amphora_id: id.to_owned(),
    })
}

/// Replaces one amphora.
pub async fn failover(state: &AppState, caller: &Caller, id: &str) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        let row = find(txn, id).await?;
        let lb = row
            .load_balancer_id
            .ok_or_else(|| Error::not_found(NAME, id))?;
        lock::take_itself(txn, &lb, &[ACTIVE], PENDING_UPDATE).await?;
        lock::enqueue(txn, caller, FlowKind::FailoverAmphora, &lb, payload(id)).await
    });
    state.db.nudge();
    done
}

/// Removes one that is in ERROR.
pub async fn delete(state: &AppState, caller: &Caller, id: &str) -> Result<(), Error> {
    let done: Result<(), Error> = transaction!(state.db, |txn| {
        find(txn, id).await?;
        let taken = amphora::Entity::update_many()
            .col_expr(amphora::Column::Status, Expr::value("PENDING_DELETE"))
            .filter(amphora::Column::Id.eq(id))
            .filter(amphora::Column::Status.eq("ERROR"))
            .exec(txn)
            .await?;
        if taken.rows_affected == 0 {
            return Err(Error::immutable(NAME, id));
        }
        let flow = NewFlow {
            kind: FlowKind::DeleteAmphora,
            load_balancer_id: None,
            payload: payload(id),
            request_id: caller.request_id.clone(),
        };
        flow::enqueue(txn, flow).await?;
        Ok(())
    });
    state.db.nudge();
    done
}
