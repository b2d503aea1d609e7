//! Journal of a flow: one row per step that began.

use sea_orm::entity::prelude::*;

/// Journal of a flow: one row per step that began.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "flow_step")]
pub struct Model {
    /// Whose.
    #[sea_orm(primary_key, auto_increment = false)]
    pub flow_id: String,
    /// From 0.
    #[sea_orm(primary_key, auto_increment = false)]
    pub position: i32,
    /// Name of the step.
    pub name: String,
    /// RUNNING, DONE, FAILED, UNDONE.
    pub state: String,
    /// JSON that later steps read.
    #[sea_orm(column_type = "Text")]
    pub output: String,
    /// Times it was begun.
    pub attempts: i32,
    /// Why it failed.
    #[sea_orm(column_type = "Text", nullable)]
    pub error: Option<String>,
    /// Unix milliseconds.
    pub started_at: i64,
    /// Unix milliseconds.
    pub finished_at: Option<i64>,
}

/// Joins are written out in the queries.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
