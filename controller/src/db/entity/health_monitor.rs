//! A health monitor; at most one of a pool.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

/// A health monitor; at most one of a pool.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
#[sea_orm(table_name = "health_monitor")]
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
    /// HTTP, HTTPS, PING, TCP, TLS-HELLO.
    pub kind: String,
    /// Seconds.
    pub delay: i32,
    /// Seconds.
    pub timeout: i32,
    /// Rise, 1 to 10.
    pub max_retries: i32,
    /// Fall, 1 to 10.
    pub max_retries_down: i32,
    /// HTTP and HTTPS only.
    pub http_method: Option<String>,
    /// HTTP and HTTPS only.
    pub url_path: Option<String>,
    /// HTTP and HTTPS only: `200`, `200,202` or `200-204`.
    pub expected_codes: Option<String>,
    /// `1.0` or `1.1`.
    pub http_version: Option<String>,
    /// Host header; needs 1.1.
    pub domain_name: Option<String>,
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
