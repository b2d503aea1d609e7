//! A network of the local inventory.

use sea_orm::entity::prelude::*;

/// A network of the local inventory.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "network")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Shown to clients; not unique.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Bytes.
    pub mtu: i32,
    /// Not shown by the API (the management network).
    pub internal: bool,
    /// Unix milliseconds.
    pub created_at: i64,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
