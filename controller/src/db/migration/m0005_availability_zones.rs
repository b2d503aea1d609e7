//! Availability zones and their profiles, and the zone of a load balancer.
//!
//! SQLite and MariaDB do not run a migration in a transaction: each step looks whether it was done, so
//! that one that was interrupted is completed by the next start.

use sea_orm_migration::prelude::*;

/// See the module.
#[derive(Debug)]
pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0005_availability_zones"
    }
}

const ZONE: &str = "availability_zone";
const PROFILE: &str = "availability_zone_profile";
const BALANCER: &str = "load_balancer";

#[allow(
    elided_lifetimes_in_paths,
    reason = "the trait's lifetimes are written so"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let id = |name: &str| text(name, 36);
        let mut profile = Table::create();
        profile
            .table(Alias::new(PROFILE))
            .if_not_exists()
            .col(id("id").primary_key())
            .col(text("name", 255))
            .col(text("provider_name", 255))
            .col(
                ColumnDef::new(Alias::new("availability_zone_data"))
                    .text()
                    .not_null(),
            )
            .col(big("created_at"));
        manager.create_table(profile).await?;
        let mut zone = Table::create();
        zone.table(Alias::new(ZONE))
            .if_not_exists()
            // Its name.
            .col(text("id", 255).primary_key())
            .col(text("description", 255))
            .col(ColumnDef::new(Alias::new("enabled")).boolean().not_null())
            .col(id("availability_zone_profile_id"))
            .col(big("created_at"))
            .foreign_key(
                ForeignKey::create()
                    .name("fk_availability_zone_profile_id")
                    .from(Alias::new(ZONE), Alias::new("availability_zone_profile_id"))
                    .to(Alias::new(PROFILE), Alias::new("id"))
                    .on_delete(ForeignKeyAction::Restrict),
            );
        manager.create_table(zone).await?;
        if !manager.has_column(BALANCER, "availability_zone").await? {
            // No foreign key: SQLite would have to copy the table. `app::zone` holds the zone's row
            // while it is given to a load balancer or removed.
            let mut balancer = Table::alter();
            balancer.table(Alias::new(BALANCER)).add_column(
                ColumnDef::new(Alias::new("availability_zone"))
                    .string_len(255)
                    .null(),
            );
            manager.alter_table(balancer).await?;
        }
        for (name, table, column) in INDEXES {
            if manager.has_index(*table, *name).await? {
                continue;
            }
            let mut index = Index::create();
            index
                .name(*name)
                .table(Alias::new(*table))
                .col(Alias::new(*column));
            manager.create_index(index).await?;
        }
        Ok(())
    }
}

/// Name, table, column.
const INDEXES: &[(&str, &str, &str)] = &[
    (
        "i_availability_zone_profile_id",
        ZONE,
        "availability_zone_profile_id",
    ),
    (
        "i_load_balancer_availability_zone",
        BALANCER,
        "availability_zone",
    ),
];

fn text(name: &str, length: u32) -> ColumnDef {
    let mut column = ColumnDef::new(Alias::new(name));
    column.string_len(length).not_null();
    column
}

fn big(name: &str) -> ColumnDef {
    let mut column = ColumnDef::new(Alias::new(name));
    column.big_integer().not_null();
    column
}
