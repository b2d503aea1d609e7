//! A port: one NIC with its fixed addresses.

use sea_orm::entity::prelude::*;

/// A port: one NIC with its fixed addresses.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "port")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Its network.
    pub network_id: String,
    /// Owner.
    pub project_id: String,
    /// Such as `octavia-lb-<id>`.
    pub name: String,
    /// `fa:16:3e:…`, unique.
    pub mac_address: String,
    /// `Octavia` for VIP ports, `compute:krater` for amphora NICs, empty when free.
    pub device_owner: String,
    /// `lb-<id>`, an amphora id, or empty.
    pub device_id: String,
    /// VIP ports are never bound: false.
    pub admin_state_up: bool,
    /// Unix milliseconds.
    pub created_at: i64,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
