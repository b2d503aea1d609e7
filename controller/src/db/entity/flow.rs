//! A run of a journaled flow.

use sea_orm::entity::prelude::*;

/// A run of a journaled flow.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "flow")]
pub struct Model {
    /// Identifier.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Such as `CreateLoadBalancer`.
    pub kind: String,
    /// The load balancer it holds.
    pub load_balancer_id: Option<String>,
    /// JSON, by kind.
    #[sea_orm(column_type = "Text")]
    pub payload: String,
    /// The API request that asked for it.
    pub request_id: String,
    /// PENDING, RUNNING, REVERTING, SUCCEEDED, REVERTED, FAILED.
    pub state: String,
    /// Index of the step that runs or runs next.
    pub current_step: i32,
    /// Times it was claimed.
    pub attempts: i32,
    /// Worker that runs it.
    pub claimed_by: Option<String>,
    /// The claim ends here unless renewed, Unix milliseconds.
    pub lease_until: Option<i64>,
    /// Not claimed earlier, Unix milliseconds.
    pub not_before: i64,
    /// Why it failed.
    #[sea_orm(column_type = "Text", nullable)]
    pub error: Option<String>,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds.
    pub updated_at: i64,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
