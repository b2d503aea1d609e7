//! An amphora.

use sea_orm::entity::prelude::*;

/// An amphora.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "amphora")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Whom it serves.
    pub load_balancer_id: Option<String>,
    /// Name at the compute driver.
    pub compute_id: Option<String>,
    /// BOOTING, ALLOCATED, READY, PENDING_CREATE, PENDING_DELETE, DELETED, ERROR, FAILOVER_STOPPED.
    pub status: String,
    /// MASTER, BACKUP or STANDALONE.
    pub role: Option<String>,
    /// Management address.
    pub lb_network_ip: Option<String>,
    /// Management port.
    pub mgmt_port_id: Option<String>,
    /// MAC address of the management NIC.
    pub mgmt_mac: Option<String>,
    /// Its own address on the VIP's network.
    pub vrrp_ip: Option<String>,
    /// The VIP.
    pub ha_ip: Option<String>,
    /// Port of `vrrp_ip`.
    pub vrrp_port_id: Option<String>,
    /// Port of the VIP.
    pub ha_port_id: Option<String>,
    /// MAC address of the VIP NIC.
    pub vrrp_mac: Option<String>,
    /// Name of the VIP NIC.
    pub vrrp_interface: Option<String>,
    /// Virtual router identifier.
    pub vrrp_id: Option<i32>,
    /// 100 or 90.
    pub vrrp_priority: Option<i32>,
    /// End of validity of its certificate, Unix milliseconds.
    pub cert_expiration: Option<i64>,
    /// A rotation runs.
    pub cert_busy: bool,
    /// Placement.
    pub cached_zone: Option<String>,
    /// Image or build that it runs.
    pub image_id: Option<String>,
    /// Size.
    pub compute_flavor: Option<String>,
    /// Of the newest state allocated for it.
    pub epoch_desired: i64,
    /// Of the newest state allocated for it.
    pub generation_desired: i64,
    /// Of the newest state it acknowledged.
    pub epoch_applied: i64,
    /// Of the newest state it acknowledged.
    pub generation_applied: i64,
    /// SHA-256 of the newest state's content.
    pub revision_digest: Option<String>,
    /// Why it is in ERROR.
    #[sea_orm(column_type = "Text", nullable)]
    pub error_reason: Option<String>,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds.
    pub updated_at: Option<i64>,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
