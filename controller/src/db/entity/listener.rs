//! A listener.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
#[sea_orm(table_name = "listener")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Its load balancer.
    pub load_balancer_id: String,
    /// Owner.
    pub project_id: String,
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// admin_state_up.
    pub enabled: bool,
    /// TCP, HTTP, HTTPS, TERMINATED_HTTPS.
    pub protocol: String,
    /// 1 to 65535.
    pub protocol_port: i32,
    /// -1 is unlimited.
    pub connection_limit: i32,
    /// Where traffic goes that no policy takes.
    pub default_pool_id: Option<String>,
    /// JSON object of header name to `true` or `false`.
    #[sea_orm(column_type = "Text")]
    pub insert_headers: String,
    /// JSON list of networks; `[]` admits all.
    #[sea_orm(column_type = "Text")]
    pub allowed_cidrs: String,
    /// Milliseconds.
    pub timeout_client_data: i32,
    /// Milliseconds.
    pub timeout_member_connect: i32,
    /// Milliseconds.
    pub timeout_member_data: i32,
    /// Milliseconds.
    pub timeout_tcp_inspect: i32,
    /// See model of states: PENDING_CREATE, ACTIVE, PENDING_UPDATE, PENDING_DELETE, ERROR.
    pub provisioning_status: String,
    /// ONLINE, DRAINING, OFFLINE, DEGRADED, ERROR, NO_MONITOR.
    pub operating_status: String,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds; null until the first change.
    pub updated_at: Option<i64>,
    /// JSON of `app::tls`; null without TLS.
    #[sea_orm(column_type = "Text", nullable)]
    #[serde(default)]
    pub tls: Option<String>,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
