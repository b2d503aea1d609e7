//! A tag of any resource.

use sea_orm::entity::prelude::*;

/// A tag of any resource.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "tag")]
pub struct Model {
    /// Whose.
    #[sea_orm(primary_key, auto_increment = false)]
    pub resource_id: String,
    /// Text.
    #[sea_orm(primary_key, auto_increment = false)]
    pub tag: String,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
