//! An L7 rule.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

/// An L7 rule.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
#[sea_orm(table_name = "l7rule")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Its policy.
    pub l7policy_id: String,
    /// Owner.
    pub project_id: String,
    /// admin_state_up.
    pub enabled: bool,
    /// HOST_NAME, PATH, FILE_TYPE, HEADER, COOKIE.
    pub kind: String,
    /// REGEX, STARTS_WITH, ENDS_WITH, CONTAINS, EQUAL_TO.
    pub compare_type: String,
    /// Name of header or cookie.
    pub key: Option<String>,
    /// What is compared with.
    pub value: String,
    /// The condition is negated.
    pub invert: bool,
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
