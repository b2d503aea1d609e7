//! Stored secrets, their containers, and TLS of listeners and pools.
//!
//! SQLite and MariaDB do not run a migration in a transaction: each step looks whether it was done, so
//! that one that was interrupted is completed by the next start.

use sea_orm_migration::prelude::*;

/// See the module.
#[derive(Debug)]
pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0003_secrets"
    }
}

const SECRET: &str = "secret";
const CONTAINER: &str = "secret_container";
const BUNDLE: &str = "tls_bundle";

#[allow(
    elided_lifetimes_in_paths,
    reason = "the trait's lifetimes are written so"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let column = |name: &str| ColumnDef::new(Alias::new(name));
        let mut secret = Table::create();
        secret
            .table(Alias::new(SECRET))
            .if_not_exists()
            .col(column("id").string_len(36).not_null().primary_key())
            .col(column("project_id").string_len(255).not_null())
            .col(column("name").string_len(255))
            .col(column("secret_type").string_len(36).not_null())
            .col(column("algorithm").string_len(255))
            .col(column("bit_length").integer())
            .col(column("mode").string_len(255))
            .col(column("expiration").big_integer())
            .col(column("content_type").string_len(255))
            .col(column("sealed").text())
            .col(column("created_at").big_integer().not_null())
            .col(column("updated_at").big_integer());
        manager.create_table(secret).await?;
        let mut container = Table::create();
        container
            .table(Alias::new(CONTAINER))
            .if_not_exists()
            .col(column("id").string_len(36).not_null().primary_key())
            .col(column("project_id").string_len(255).not_null())
            .col(column("name").string_len(255))
            .col(column("kind").string_len(36).not_null())
            .col(column("secrets").text().not_null())
            .col(column("created_at").big_integer().not_null());
        manager.create_table(container).await?;
        let mut bundle = Table::create();
        bundle
            .table(Alias::new(BUNDLE))
            .if_not_exists()
            .col(column("id").string_len(64).not_null().primary_key())
            .col(column("sealed").text().not_null())
            .col(column("created_at").big_integer().not_null());
        manager.create_table(bundle).await?;
        for table in ["listener", "pool"] {
            if !manager.has_column(table, "tls").await? {
                let mut change = Table::alter();
                change
                    .table(Alias::new(table))
                    .add_column(column("tls").text().null());
                manager.alter_table(change).await?;
            }
        }
        Ok(())
    }
}
