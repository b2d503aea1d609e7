//! Names by which users choose a zone profile.

use sea_orm::entity::prelude::*;

/// Names by which users choose a zone profile.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "availability_zone")]
pub struct Model {
    /// Its name: it has no other identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Free text.
    pub description: String,
    /// New load balancers may use it.
    pub enabled: bool,
    /// What it means.
    pub availability_zone_profile_id: String,
    /// Unix milliseconds; orders lists, not shown.
    pub created_at: i64,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
