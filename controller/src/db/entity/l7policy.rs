//! An L7 policy.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

/// An L7 policy.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
#[sea_orm(table_name = "l7policy")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Its listener.
    pub listener_id: String,
    /// Owner.
    pub project_id: String,
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// admin_state_up.
    pub enabled: bool,
    /// REJECT, REDIRECT_TO_POOL, REDIRECT_TO_URL, REDIRECT_PREFIX.
    pub action: String,
    /// REDIRECT_TO_POOL only.
    pub redirect_pool_id: Option<String>,
    /// REDIRECT_TO_URL only.
    pub redirect_url: Option<String>,
    /// REDIRECT_PREFIX only.
    pub redirect_prefix: Option<String>,
    /// With URL and PREFIX.
    pub redirect_http_code: Option<i32>,
    /// 1 to n without gaps.
    pub position: i32,
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
