//! Embedded migrations, in order. One that was released is never changed. There was never an m0006: what counts is the order
//! of the list and that a name is used once.

use sea_orm_migration::prelude::*;

mod m0001_initial;
mod m0002_flavors;
mod m0003_secrets;
mod m0004_long_texts;
mod m0005_availability_zones;
mod m0007_additional_vips;
mod m0008_list_order;

/// Runs what is missing.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_initial::Migration),
            Box::new(m0002_flavors::Migration),
            Box::new(m0003_secrets::Migration),
            Box::new(m0004_long_texts::Migration),
            Box::new(m0005_availability_zones::Migration),
            Box::new(m0007_additional_vips::Migration),
            Box::new(m0008_list_order::Migration),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::{Migrator, MigratorTrait};

    #[test]
    fn names_ascend() {
        let migrations = Migrator::migrations();
        let names: Vec<&str> = migrations.iter().map(|one| one.name()).collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
    }
}
