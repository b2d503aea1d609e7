//! A flavor: the name by which users choose a flavor profile.

use sea_orm::entity::prelude::*;

/// A flavor: the name by which users choose a flavor profile.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "flavor")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Unique.
    pub name: String,
    /// Free text.
    pub description: String,
    /// New load balancers may use it.
    pub enabled: bool,
    /// What it means.
    pub flavor_profile_id: String,
    /// Unix milliseconds; orders lists, not shown.
    pub created_at: i64,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
