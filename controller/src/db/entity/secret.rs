//! A stored secret.

use sea_orm::entity::prelude::*;

/// A stored secret.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "secret")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Owner.
    pub project_id: String,
    /// Name.
    pub name: Option<String>,
    /// opaque, certificate, private, public, passphrase, symmetric.
    pub secret_type: String,
    /// What its owner says about it.
    pub algorithm: Option<String>,
    /// What its owner says about it.
    pub bit_length: Option<i32>,
    /// What its owner says about it.
    pub mode: Option<String>,
    /// Unix milliseconds; not given out afterwards.
    pub expiration: Option<i64>,
    /// Media type of the payload; null until there is one.
    pub content_type: Option<String>,
    /// Base64 of the payload sealed for `secret <id>`.
    #[sea_orm(column_type = "Text", nullable)]
    pub sealed: Option<String>,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds.
    pub updated_at: Option<i64>,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
