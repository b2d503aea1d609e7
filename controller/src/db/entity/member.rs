//! A member of a pool.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

/// A member of a pool.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
#[sea_orm(table_name = "member")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Its pool.
    pub pool_id: String,
    /// Owner.
    pub project_id: String,
    /// Name.
    pub name: String,
    /// admin_state_up.
    pub enabled: bool,
    /// As the client wrote it: members are keyed on the text.
    pub address: String,
    /// 1 to 65535.
    pub protocol_port: i32,
    /// 0 to 256; 0 drains.
    pub weight: i32,
    /// Used only when every other member is down.
    pub backup: bool,
    /// Where it is reached; null: through the VIP's subnet.
    pub subnet_id: Option<String>,
    /// Probes go here instead.
    pub monitor_address: Option<String>,
    /// Probes go here instead.
    pub monitor_port: Option<i32>,
    /// See model of states: PENDING_CREATE, ACTIVE, PENDING_UPDATE, PENDING_DELETE, ERROR.
    pub provisioning_status: String,
    /// ONLINE, DRAINING, OFFLINE, DEGRADED, ERROR, NO_MONITOR.
    pub operating_status: String,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds; null until the first change.
    pub updated_at: Option<i64>,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
