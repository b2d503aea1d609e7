//! What an availability zone means to the provider.

use sea_orm::entity::prelude::*;

/// What an availability zone means to the provider.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "availability_zone_profile")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Name; not unique, as upstream's.
    pub name: String,
    /// As the client gave it.
    pub provider_name: String,
    /// JSON object as the client wrote it.
    #[sea_orm(column_type = "Text")]
    pub availability_zone_data: String,
    /// Unix milliseconds; orders lists, not shown.
    pub created_at: i64,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
