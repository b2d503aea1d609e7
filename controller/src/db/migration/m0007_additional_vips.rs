//! Further VIPs of a load balancer.
//!
//! SQLite and MariaDB do not run a migration in a transaction: each step looks whether it was done, so
//! that one that was interrupted is completed by the next start.

use sea_orm_migration::prelude::*;

/// See the module.
#[derive(Debug)]
pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0007_additional_vips"
    }
}

const BALANCER: &str = "load_balancer";
const COLUMN: &str = "additional_vips";

#[allow(
    elided_lifetimes_in_paths,
    reason = "the trait's lifetimes are written so"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.has_column(BALANCER, COLUMN).await? {
            return Ok(());
        }
        let mut balancer = Table::alter();
        balancer
            .table(Alias::new(BALANCER))
            .add_column(ColumnDef::new(Alias::new(COLUMN)).text().null());
        manager.alter_table(balancer).await
    }
}
