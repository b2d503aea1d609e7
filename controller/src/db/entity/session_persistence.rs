//! Stickiness of a pool; no row: none.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

/// Stickiness of a pool; no row: none.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
#[sea_orm(table_name = "session_persistence")]
pub struct Model {
    /// Its pool.
    #[sea_orm(primary_key, auto_increment = false)]
    pub pool_id: String,
    /// SOURCE_IP.
    pub kind: String,
    /// APP_COOKIE only.
    pub cookie_name: Option<String>,
    /// Seconds.
    pub persistence_timeout: Option<i32>,
    /// Netmask.
    pub persistence_granularity: Option<String>,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
