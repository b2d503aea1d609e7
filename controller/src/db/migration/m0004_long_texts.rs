//! MariaDB's TEXT ends at 64 KiB; what flows keep of a large load balancer is longer. The other engines' texts
//! have no such end.

use sea_orm::{ConnectionTrait, DatabaseBackend};
use sea_orm_migration::prelude::*;

/// See the module.
#[derive(Debug)]
pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0004_long_texts"
    }
}

/// Table, column, whether it can be null.
const COLUMNS: &[(&str, &str, bool)] = &[
    ("flow", "payload", false),
    ("flow", "error", true),
    ("flow_step", "output", false),
    ("flow_step", "error", true),
    ("listener", "allowed_cidrs", false),
    ("listener", "insert_headers", false),
];

#[allow(
    elided_lifetimes_in_paths,
    reason = "the trait's lifetimes are written so"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_connection().get_database_backend() != DatabaseBackend::MySql {
            return Ok(());
        }
        for (table, column, null) in COLUMNS {
            let mut definition = ColumnDef::new(Alias::new(*column));
            definition.custom(Alias::new("LONGTEXT"));
            if *null {
                definition.null();
            } else {
                definition.not_null();
            }
            let mut alter = Table::alter();
            alter.table(Alias::new(*table)).modify_column(definition);
            manager.alter_table(alter).await?;
        }
        Ok(())
    }
}
