//! Last sign of life of an amphora.

use sea_orm::entity::prelude::*;

/// Last sign of life of an amphora.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "amphora_health")]
pub struct Model {
    /// Whose.
    #[sea_orm(primary_key, auto_increment = false)]
    pub amphora_id: String,
    /// Unix milliseconds of the controller's clock.
    pub last_beat: i64,
    /// Of the last beat.
    pub boot_id: String,
    /// Of the last beat.
    pub seq: i64,
    /// A flow works on it: staleness is not looked at.
    pub busy: bool,
    /// From the last beat.
    pub dataplane_ready: bool,
    /// INITIALIZE, FAULT, BACKUP or ACTIVE.
    pub router_state: Option<String>,
    /// Of the state in force.
    pub epoch: i64,
    /// Of the state in force.
    pub generation: i64,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
