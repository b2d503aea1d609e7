//! Quotas: limits of a project, and the check that concurrent creators cannot pass together.
//!
//! Use is counted, not kept: a counter could drift. The row of the project is written first, which
//! locks it on every engine until the transaction ends. Limits are enforced with and without
//! authentication (upstream skips them under `noauth`); the default is unlimited.

use super::Error;
use super::lock::DELETED;
use crate::db::entity::{
    health_monitor, l7policy, l7rule, listener, load_balancer, member, pool, quota,
};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DbErr, EntityTrait, PaginatorTrait,
    QueryFilter, QueryOrder,
};

/// What quotas count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Load balancers.
    LoadBalancer,
    /// Listeners.
    Listener,
    /// Pools.
    Pool,
    /// Members.
    Member,
    /// Health monitors.
    HealthMonitor,
    /// L7 policies.
    L7Policy,
    /// L7 rules.
    L7Rule,
}

impl Counted {
    /// As upstream's text says it.
    const fn name(self) -> &'static str {
        match self {
            Self::LoadBalancer => "Load Balancer",
            Self::Listener => "Listener",
            Self::Pool => "Pool",
            Self::Member => "Member",
            Self::HealthMonitor => "Health Monitor",
            Self::L7Policy => "L7 Policy",
            Self::L7Rule => "L7 Rule",
        }
    }

    const fn limit(self, row: &quota::Model) -> Option<i32> {
        match self {
            Self::LoadBalancer => row.load_balancer,
            Self::Listener => row.listener,
            Self::Pool => row.pool,
            Self::Member => row.member,
            Self::HealthMonitor => row.health_monitor,
            Self::L7Policy => row.l7policy,
            Self::L7Rule => row.l7rule,
        }
    }

    async fn used(self, db: &impl ConnectionTrait, project: &str) -> Result<u64, DbErr> {
        macro_rules! count {
            ($entity:ident) => {
                $entity::Entity::find()
                    .filter($entity::Column::ProjectId.eq(project))
                    .filter($entity::Column::ProvisioningStatus.ne(DELETED))
                    .count(db)
                    .await
            };
        }
        match self {
            Self::LoadBalancer => count!(load_balancer),
            Self::Listener => count!(listener),
            Self::Pool => count!(pool),
            Self::Member => count!(member),
            Self::HealthMonitor => count!(health_monitor),
            Self::L7Policy => count!(l7policy),
            Self::L7Rule => count!(l7rule),
        }
    }
}

/// Refuses when `more` objects would exceed the project's limit. Call it before inserting them.
pub async fn check(
    db: &impl ConnectionTrait,
    project: &str,
    what: Counted,
    more: u64,
) -> Result<(), Error> {
    let row = locked_row(db, project).await?;
    let Some(limit) = what.limit(&row).filter(|limit| *limit >= 0) else {
        return Ok(());
    };
    let used = what.used(db, project).await?;
    if used + more > u64::from(limit.unsigned_abs()) {
        return Err(Error::quota(what.name()));
    }
    Ok(())
}

/// The project's row, made when it is missing, locked until the transaction ends.
async fn locked_row(db: &impl ConnectionTrait, project: &str) -> Result<quota::Model, Error> {
    let updated = quota::Entity::update_many()
        .col_expr(
            quota::Column::Revision,
            Expr::col(quota::Column::Revision).add(1),
        )
        .filter(quota::Column::ProjectId.eq(project))
        .exec(db)
        .await?;
    if updated.rows_affected == 0 {
        insert_empty(db, project).await?;
    }
    row(db, project)
        .await?
        .ok_or_else(|| Error::Sql(DbErr::RecordNotFound(project.to_owned())))
}

async fn insert_empty(db: &impl ConnectionTrait, project: &str) -> Result<(), Error> {
    let empty = quota::ActiveModel {
        project_id: Set(project.to_owned()),
        load_balancer: Set(None),
        listener: Set(None),
        pool: Set(None),
        member: Set(None),
        health_monitor: Set(None),
        l7policy: Set(None),
        l7rule: Set(None),
        revision: Set(0),
    };
    quota::Entity::insert(empty)
        .on_conflict(
            OnConflict::column(quota::Column::ProjectId)
                .update_column(quota::Column::Revision)
                .to_owned(),
        )
        .exec_without_returning(db)
        .await?;
    Ok(())
}

/// The stored limits of a project.
pub async fn row(db: &impl ConnectionTrait, project: &str) -> Result<Option<quota::Model>, Error> {
    Ok(quota::Entity::find_by_id(project.to_owned())
        .one(db)
        .await?)
}

/// All stored rows, by project.
pub async fn rows(db: &impl ConnectionTrait) -> Result<Vec<quota::Model>, Error> {
    Ok(quota::Entity::find()
        .order_by_asc(quota::Column::ProjectId)
        .all(db)
        .await?)
}

/// New limits; `None` keeps one, `Some(None)` sets it to the default.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Load balancers.
    pub load_balancer: Option<Option<i32>>,
    /// Listeners.
    pub listener: Option<Option<i32>>,
    /// Pools.
    pub pool: Option<Option<i32>>,
    /// Members.
    pub member: Option<Option<i32>>,
    /// Health monitors.
    pub health_monitor: Option<Option<i32>>,
    /// L7 policies.
    pub l7policy: Option<Option<i32>>,
    /// L7 rules.
    pub l7rule: Option<Option<i32>>,
}

/// Stores limits and returns the row.
pub async fn set(
    db: &impl ConnectionTrait,
    project: &str,
    limits: &Limits,
) -> Result<quota::Model, Error> {
    let old = locked_row(db, project).await?;
    let new = quota::Model {
        load_balancer: limits.load_balancer.unwrap_or(old.load_balancer),
        listener: limits.listener.unwrap_or(old.listener),
        pool: limits.pool.unwrap_or(old.pool),
        member: limits.member.unwrap_or(old.member),
        health_monitor: limits.health_monitor.unwrap_or(old.health_monitor),
        l7policy: limits.l7policy.unwrap_or(old.l7policy),
        l7rule: limits.l7rule.unwrap_or(old.l7rule),
        ..old
    };
    let active: quota::ActiveModel = new.clone().into();
    use sea_orm::ActiveModelTrait;
    quota::Entity::update(active.reset_all()).exec(db).await?;
    Ok(new)
}

/// Back to the defaults; 404 when the project has no row.
pub async fn reset(db: &impl ConnectionTrait, project: &str) -> Result<(), Error> {
    if row(db, project).await?.is_none() {
        return Err(Error::not_found("Quotas", project));
    }
    let defaults = Limits {
        load_balancer: Some(None),
        listener: Some(None),
        pool: Some(None),
        member: Some(None),
        health_monitor: Some(None),
        l7policy: Some(None),
        l7rule: Some(None),
    };
    set(db, project, &defaults).await?;
    Ok(())
}
