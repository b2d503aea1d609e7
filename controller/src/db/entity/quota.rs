//! Limits of a project; null means the default. What is in use is counted, so it cannot drift.

use sea_orm::entity::prelude::*;

/// Limits of a project; null means the default. What is in use is counted, so it cannot drift.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "quota")]
pub struct Model {
    /// Whose.
    #[sea_orm(primary_key, auto_increment = false)]
    pub project_id: String,
    /// Limit, -1 is unlimited.
    pub load_balancer: Option<i32>,
    /// Limit, -1 is unlimited.
    pub listener: Option<i32>,
    /// Limit, -1 is unlimited.
    pub pool: Option<i32>,
    /// Limit, -1 is unlimited.
    pub member: Option<i32>,
    /// Limit, -1 is unlimited.
    pub health_monitor: Option<i32>,
    /// Limit, -1 is unlimited.
    pub l7policy: Option<i32>,
    /// Limit, -1 is unlimited.
    pub l7rule: Option<i32>,
    /// Grows with each reservation: the write locks the row on every engine.
    pub revision: i64,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
