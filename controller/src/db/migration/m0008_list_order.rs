//! Indexes in the order of lists: a page of a table with a hundred thousand rows reads a page.
//!
//! SQLite and MariaDB do not run a migration in a transaction: each step looks whether it was done, so
//! that one that was interrupted is completed by the next start.

use sea_orm_migration::prelude::*;

/// See the module.
#[derive(Debug)]
pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0008_list_order"
    }
}

/// Those that have a project are listed by it too.
const TABLES: [(&str, bool); 7] = [
    ("load_balancer", true),
    ("listener", true),
    ("pool", true),
    ("member", true),
    ("health_monitor", true),
    ("l7policy", true),
    ("amphora", false),
];

#[allow(
    elided_lifetimes_in_paths,
    reason = "the trait's lifetimes are written so"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, owned) in TABLES {
            index(manager, table, &["created_at", "id"]).await?;
            if owned {
                index(manager, table, &["project_id", "created_at", "id"]).await?;
                // The new one begins with what this one has, which each write had to keep up too.
                drop_index(manager, table, &format!("i_{table}_project_id")).await?;
            }
        }
        Ok(())
    }
}

async fn index(manager: &SchemaManager<'_>, table: &str, columns: &[&str]) -> Result<(), DbErr> {
    let name = format!("i_{table}_{}", columns.join("_"));
    if manager.has_index(table, &name).await? {
        return Ok(());
    }
    let mut index = Index::create();
    index.name(&name).table(Alias::new(table));
    for column in columns {
        index.col(Alias::new(*column));
    }
    manager.create_index(index).await
}

async fn drop_index(manager: &SchemaManager<'_>, table: &str, name: &str) -> Result<(), DbErr> {
    if !manager.has_index(table, name).await? {
        return Ok(());
    }
    let mut index = Index::drop();
    index.name(name).table(Alias::new(table));
    manager.drop_index(index).await
}
