//! The end of a flow: what becomes of a load balancer and the children that the flow concerned.
//! Each function is one step's effect and harmless when it is done twice.

use super::flow::{Action, Item, Resource};
use super::list::{delete_tags, of};
use crate::db::entity::{
    health_monitor, l7policy, l7rule, listener, listener_statistics, load_balancer, member, pool,
};
use crate::db::now;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel,
    QueryFilter, QueryOrder,
};

macro_rules! set_status {
    ($db:expr, $entity:ident, $id:expr, $status:expr) => {{
        $entity::Entity::update_many()
            .col_expr($entity::Column::ProvisioningStatus, Expr::value($status))
            .col_expr($entity::Column::UpdatedAt, Expr::value(now()))
            .filter($entity::Column::Id.eq($id))
            .exec($db)
            .await?;
    }};
}

/// Sets the provisioning status of a child.
pub async fn set_provisioning_status(
    db: &impl ConnectionTrait,
    resource: Resource,
    id: &str,
    status: &str,
) -> Result<(), DbErr> {
    match resource {
        Resource::Listener => set_status!(db, listener, id, status),
        Resource::Pool => set_status!(db, pool, id, status),
        Resource::Member => set_status!(db, member, id, status),
        Resource::HealthMonitor => set_status!(db, health_monitor, id, status),
        Resource::L7Policy => set_status!(db, l7policy, id, status),
        Resource::L7Rule => set_status!(db, l7rule, id, status),
    }
    Ok(())
}

/// The flow succeeded: children become ACTIVE or go.
pub async fn children_done(db: &impl ConnectionTrait, items: &[Item]) -> Result<(), DbErr> {
    for item in items {
        match item.action {
            Action::Create | Action::Update | Action::Touch => {
                set_provisioning_status(db, item.resource, &item.id, "ACTIVE").await?;
                activate(db, item.resource, &item.id).await?;
            }
            Action::Delete => delete(db, item.resource, &item.id).await?,
        }
    }
    Ok(())
}

/// The flow failed for good: what it was about is in ERROR, its parents are as before.
pub async fn children_failed(db: &impl ConnectionTrait, items: &[Item]) -> Result<(), DbErr> {
    for item in items {
        let status = match item.action {
            Action::Touch => "ACTIVE",
            Action::Create | Action::Update | Action::Delete => "ERROR",
        };
        set_provisioning_status(db, item.resource, &item.id, status).await?;
    }
    Ok(())
}

/// Monitors, policies and rules have no health of their own: they are ONLINE when they are in
/// force. Members get theirs from heartbeats, or NO_MONITOR.
async fn activate(db: &impl ConnectionTrait, resource: Resource, id: &str) -> Result<(), DbErr> {
    macro_rules! online {
        ($entity:ident) => {{
            if let Some(row) = $entity::Entity::find_by_id(id.to_owned()).one(db).await? {
                let status = if row.enabled { "ONLINE" } else { "OFFLINE" };
                let mut row = row.into_active_model();
                row.operating_status = Set(status.to_owned());
                $entity::Entity::update(row).exec(db).await?;
            }
        }};
    }
    match resource {
        Resource::HealthMonitor => online!(health_monitor),
        Resource::L7Policy => online!(l7policy),
        Resource::L7Rule => online!(l7rule),
        Resource::Listener | Resource::Pool | Resource::Member => {}
    }
    Ok(())
}

/// Removes a child with everything below it.
pub async fn delete(db: &impl ConnectionTrait, resource: Resource, id: &str) -> Result<(), DbErr> {
    let one = [id.to_owned()];
    let mut gone = vec![id.to_owned()];
    match resource {
        Resource::Listener => {
            let policies = of::<l7policy::Entity>(db, l7policy::Column::ListenerId, &one).await?;
            let policies: Vec<String> = policies.into_iter().map(|row| row.id).collect();
            let rules = of::<l7rule::Entity>(db, l7rule::Column::L7policyId, &policies).await?;
            gone.extend(rules.into_iter().map(|row| row.id));
            gone.extend(policies);
            listener_statistics::Entity::delete_many()
                .filter(listener_statistics::Column::ListenerId.eq(id))
                .exec(db)
                .await?;
            listener::Entity::delete_by_id(id.to_owned())
                .exec(db)
                .await?;
        }
        Resource::Pool => {
            let members = of::<member::Entity>(db, member::Column::PoolId, &one).await?;
            gone.extend(members.into_iter().map(|row| row.id));
            let monitors =
                of::<health_monitor::Entity>(db, health_monitor::Column::PoolId, &one).await?;
            gone.extend(monitors.into_iter().map(|row| row.id));
            pool::Entity::delete_by_id(id.to_owned()).exec(db).await?;
        }
        Resource::Member => {
            member::Entity::delete_by_id(id.to_owned()).exec(db).await?;
        }
        Resource::HealthMonitor => {
            if let Some(row) = health_monitor::Entity::find_by_id(id.to_owned())
                .one(db)
                .await?
            {
                member::Entity::update_many()
                    .col_expr(member::Column::OperatingStatus, Expr::value("NO_MONITOR"))
                    .filter(member::Column::PoolId.eq(row.pool_id))
                    .exec(db)
                    .await?;
                health_monitor::Entity::delete_by_id(id.to_owned())
                    .exec(db)
                    .await?;
            }
        }
        Resource::L7Policy => {
            let rules = of::<l7rule::Entity>(db, l7rule::Column::L7policyId, &one).await?;
            gone.extend(rules.into_iter().map(|row| row.id));
            if let Some(row) = l7policy::Entity::find_by_id(id.to_owned()).one(db).await? {
                l7policy::Entity::delete_by_id(id.to_owned())
                    .exec(db)
                    .await?;
                reposition(db, &row.listener_id, None).await?;
            }
        }
        Resource::L7Rule => {
            l7rule::Entity::delete_by_id(id.to_owned()).exec(db).await?;
        }
    }
    delete_tags(db, &gone).await
}

/// Numbers a listener's policies 1..n; `put` takes one of them to a place first (none: the end).
pub async fn reposition(
    db: &impl ConnectionTrait,
    listener: &str,
    put: Option<(&str, Option<i32>)>,
) -> Result<(), DbErr> {
    let mut rows = l7policy::Entity::find()
        .filter(l7policy::Column::ListenerId.eq(listener))
        .order_by_asc(l7policy::Column::Position)
        .order_by_asc(l7policy::Column::CreatedAt)
        .order_by_asc(l7policy::Column::Id)
        .all(db)
        .await?;
    if let Some((id, place)) = put
        && let Some(at) = rows.iter().position(|row| row.id == id)
    {
        let row = rows.remove(at);
        let place = place.map_or(rows.len(), |place| {
            usize::try_from(place.max(1) - 1)
                .unwrap_or(usize::MAX)
                .min(rows.len())
        });
        rows.insert(place, row);
    }
    for (position, row) in (1_i32..).zip(rows) {
        if row.position != position {
            let mut row = row.into_active_model();
            row.position = Set(position);
            l7policy::Entity::update(row).exec(db).await?;
        }
    }
    Ok(())
}

/// The flow ended: the load balancer is free again. `status` is ACTIVE, or ERROR with a reason of
/// docs/operations.md.
pub async fn release(
    db: &impl ConnectionTrait,
    load_balancer_id: &str,
    status: &str,
    error_reason: Option<&str>,
) -> Result<(), DbErr> {
    use load_balancer::Column;
    load_balancer::Entity::update_many()
        .col_expr(Column::ProvisioningStatus, Expr::value(status))
        .col_expr(Column::LockedByFlow, Expr::value(None::<String>))
        .col_expr(
            Column::ErrorReason,
            Expr::value(error_reason.map(str::to_owned)),
        )
        .col_expr(Column::UpdatedAt, Expr::value(now()))
        .filter(Column::Id.eq(load_balancer_id))
        .exec(db)
        .await?;
    Ok(())
}

/// The load balancer is gone: its children go, its VIP port goes (or is given back to the user who
/// brought it), its row stays as DELETED.
pub async fn load_balancer_deleted(db: &impl ConnectionTrait, id: &str) -> Result<(), DbErr> {
    let one = [id.to_owned()];
    for row in of::<listener::Entity>(db, listener::Column::LoadBalancerId, &one).await? {
        delete(db, Resource::Listener, &row.id).await?;
    }
    for row in of::<pool::Entity>(db, pool::Column::LoadBalancerId, &one).await? {
        delete(db, Resource::Pool, &row.id).await?;
    }
    if let Some(lb) = load_balancer::Entity::find_by_id(id.to_owned())
        .one(db)
        .await?
    {
        if lb.vip_port_owned {
            super::network::delete_port(db, &lb.vip_port_id).await?;
        } else {
            super::network::set_device(db, &lb.vip_port_id, "", "").await?;
        }
    }
    load_balancer::Entity::update_many()
        .col_expr(
            load_balancer::Column::OperatingStatus,
            Expr::value("OFFLINE"),
        )
        .filter(load_balancer::Column::Id.eq(id))
        .exec(db)
        .await?;
    delete_tags(db, &one).await?;
    release(db, id, "DELETED", None).await
}
