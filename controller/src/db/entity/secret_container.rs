//! References to secrets, under names.

use sea_orm::entity::prelude::*;

/// References to secrets, under names.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "secret_container")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Owner.
    pub project_id: String,
    /// Name.
    pub name: Option<String>,
    /// generic, rsa, certificate.
    pub kind: String,
    /// JSON list of pairs: name and id of a secret.
    #[sea_orm(column_type = "Text")]
    pub secrets: String,
    /// Unix milliseconds.
    pub created_at: i64,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
