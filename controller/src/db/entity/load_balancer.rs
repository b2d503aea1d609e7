//! A load balancer. Deleted ones stay as DELETED rows until housekeeping.

use sea_orm::entity::prelude::*;
use serde::{Deserialize, Serialize};

/// A load balancer. Deleted ones stay as DELETED rows until housekeeping.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize, Deserialize)]
#[sea_orm(table_name = "load_balancer")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Owner.
    pub project_id: String,
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// admin_state_up.
    pub enabled: bool,
    /// SINGLE or ACTIVE_STANDBY.
    pub topology: String,
    /// As the client gave it; `amphora` by default.
    pub provider: String,
    /// Flavor that it was made with.
    pub flavor_id: Option<String>,
    /// Name of the zone that it was made in.
    pub availability_zone: Option<String>,
    /// Canonical text.
    pub vip_address: String,
    /// Port that reserves the VIP.
    pub vip_port_id: String,
    /// Subnet of the VIP.
    pub vip_subnet_id: String,
    /// Network of the VIP.
    pub vip_network_id: String,
    /// Further VIPs, which the port has too: JSON of `app::vip::More`. Null: none.
    #[sea_orm(column_type = "Text", nullable)]
    pub additional_vips: Option<String>,
    /// The port was made by us and goes with the load balancer.
    pub vip_port_owned: bool,
    /// Flow that holds the load balancer; null when mutable.
    pub locked_by_flow: Option<String>,
    /// Why it is in ERROR, one of docs/operations.md.
    #[sea_orm(column_type = "Text", nullable)]
    pub error_reason: Option<String>,
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
