//! Counters of a listener at one amphora.

use sea_orm::entity::prelude::*;

/// Counters of a listener at one amphora.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "listener_statistics")]
pub struct Model {
    /// Where.
    #[sea_orm(primary_key, auto_increment = false)]
    pub amphora_id: String,
    /// Which.
    #[sea_orm(primary_key, auto_increment = false)]
    pub listener_id: String,
    /// From clients.
    pub bytes_in: i64,
    /// To clients.
    pub bytes_out: i64,
    /// Open now.
    pub active_connections: i64,
    /// Accepted.
    pub total_connections: i64,
    /// Refused for the client's fault.
    pub request_errors: i64,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
