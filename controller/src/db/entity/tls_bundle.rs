//! Certificates, keys and revocation lists that listeners and pools use: copies, made when they were set, so
//! that what is served does not depend on the secret that it came from.

use sea_orm::entity::prelude::*;

/// One copy.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "tls_bundle")]
pub struct Model {
    /// SHA-256 of the PEM, as in the desired state.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Base64 of the PEM sealed for `tls bundle <id>`.
    #[sea_orm(column_type = "Text")]
    pub sealed: String,
    /// Unix milliseconds.
    pub created_at: i64,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
