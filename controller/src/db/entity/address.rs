//! An address that is taken; the key makes a double allocation impossible.

use sea_orm::entity::prelude::*;

/// An address that is taken; the key makes a double allocation impossible.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "address")]
pub struct Model {
    /// Its subnet.
    #[sea_orm(primary_key, auto_increment = false)]
    pub subnet_id: String,
    /// Canonical text.
    #[sea_orm(primary_key, auto_increment = false)]
    pub ip_address: String,
    /// The port that has it.
    pub port_id: String,
    /// Order among the port's fixed addresses.
    pub position: i32,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
