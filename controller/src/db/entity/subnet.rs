//! A subnet of a network.

use sea_orm::entity::prelude::*;

/// A subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "subnet")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Its network.
    pub network_id: String,
    /// Shown to clients; not unique.
    pub name: String,
    /// Network form, such as `192.0.2.0/24`.
    pub cidr: String,
    /// Router of the subnet.
    pub gateway_ip: Option<String>,
    /// Unix milliseconds.
    pub created_at: i64,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
