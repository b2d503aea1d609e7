//! Schemas of earlier programs are brought up to date, on the engine that the suite runs on.

use crate::common::{SERVER, new_database};
use krater_controller::db::entity::{flow, flow_step, load_balancer, tag};
use krater_controller::db::migration::Migrator;
use krater_controller::db::server::Address;
use krater_controller::db::{self, Db};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, EntityTrait as _};
use sea_orm_migration::MigratorTrait as _;
use std::path::PathBuf;

/// A database that no program has opened yet.
struct Raw {
    dir: tempfile::TempDir,
    server: Option<Address>,
}

impl Raw {
    async fn new() -> Self {
        let server = match std::env::var(SERVER) {
            Ok(server) => Some(new_database(&server).await),
            Err(_) => None,
        };
        Self {
            dir: tempfile::tempdir().unwrap(),
            server,
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("krater.db")
    }

    /// As its program sees it.
    async fn open(&self) -> Db {
        match &self.server {
            Some(address) => Db::connect(address).await.unwrap(),
            None => Db::open_sqlite(&self.file()).await.unwrap(),
        }
    }

    /// Without any change to its schema.
    async fn connect(&self) -> DatabaseConnection {
        let file = format!("sqlite://{}?mode=rwc", self.file().display());
        let url = self.server.as_ref().map_or(file, ToString::to_string);
        let mut options = sea_orm::ConnectOptions::new(url);
        options.max_connections(1).sqlx_logging(false);
        sea_orm::Database::connect(options).await.unwrap()
    }

    /// With the first `steps` migrations, as a program made it that had no more.
    async fn migrated(&self, steps: u32) -> DatabaseConnection {
        if let Some(address) = &self.server {
            db::migrate_server(address, Some(steps)).await.unwrap();
            return self.connect().await;
        }
        let connection = self.connect().await;
        Migrator::up(&connection, Some(steps)).await.unwrap();
        connection
    }
}

const BALANCER: &str = "INSERT INTO load_balancer (id, project_id, name, description, enabled, topology, provider, \
     vip_address, vip_port_id, vip_subnet_id, vip_network_id, vip_port_owned, provisioning_status, \
     operating_status, created_at) VALUES ('lb', 'p', 'n', '', true, 'SINGLE', 'amphora', '', '', '', '', true, \
     'ACTIVE', 'ONLINE', 1)";
const FLOW: &str = "INSERT INTO flow (id, kind, load_balancer_id, payload, request_id, state, current_step, attempts, \
     not_before, created_at, updated_at) VALUES ('f', 'k', 'lb', 'null', 'r', 'SUCCEEDED', 1, 1, 0, 1, 1)";
const STEP: &str = "INSERT INTO flow_step (flow_id, position, name, state, output, attempts, started_at) \
     VALUES ('f', 0, 'push', 'DONE', 'null', 1, 1)";

/// From the first schema, from that of the release before this one, and from all others.
#[tokio::test]
async fn every_earlier_schema_is_brought_up_to_date_and_keeps_its_rows() {
    let all = u32::try_from(Migrator::migrations().len()).unwrap();
    for steps in 1..=all {
        let raw = Raw::new().await;
        let old = raw.migrated(steps).await;
        for statement in [BALANCER, FLOW, STEP] {
            old.execute_unprepared(statement).await.unwrap();
        }
        old.close().await.unwrap();
        let db = raw.open().await;
        let row = load_balancer::Entity::find_by_id("lb").one(db.read()).await;
        let row = row.unwrap().unwrap();
        assert_eq!((row.name.as_str(), row.enabled), ("n", true), "{steps}");
        let mut rows = flow_step::Entity::find().all(db.read()).await.unwrap();
        assert_eq!(rows.pop().unwrap().output, "null", "{steps}");
        // What flows keep of a large load balancer is longer than MariaDB's TEXT.
        let long = "x".repeat(1 << 20);
        for (table, column) in [("flow", "payload"), ("flow_step", "output")] {
            let statement = format!("UPDATE {table} SET {column} = '{long}'");
            db.write().execute_unprepared(&statement).await.unwrap();
        }
        let mut rows = flow::Entity::find().all(db.read()).await.unwrap();
        assert_eq!(rows.pop().unwrap().payload, long, "{steps}");
    }
}

/// MariaDB and SQLite commit each statement of a migration.
#[tokio::test]
async fn a_migration_that_was_interrupted_is_completed_by_the_next_start() {
    let raw = Raw::new().await;
    drop(raw.open().await);
    let broken = raw.connect().await;
    let index = match broken.get_database_backend() {
        sea_orm::DatabaseBackend::MySql => "DROP INDEX i_flow_state ON flow",
        _ => "DROP INDEX i_flow_state",
    };
    for statement in ["DELETE FROM seaql_migrations", "DROP TABLE tag", index] {
        broken.execute_unprepared(statement).await.unwrap();
    }
    broken.close().await.unwrap();
    let db = raw.open().await;
    assert_eq!(tag::Entity::find().all(db.read()).await.unwrap(), vec![]);
    let again = raw.connect().await;
    // It is there again, so it cannot be made.
    let made = again.execute_unprepared("CREATE INDEX i_flow_state ON flow (state)");
    assert!(made.await.is_err());
}

/// Names are compared as they are: neither case nor blanks nor accents are ignored.
#[tokio::test]
async fn texts_that_differ_are_different() {
    let raw = Raw::new().await;
    let db = raw.open().await;
    let tags = ["a", "A", "á", "a ", "ä", "ae"];
    for tag in tags {
        let statement = format!("INSERT INTO tag (resource_id, tag) VALUES ('r', '{tag}')");
        db.write().execute_unprepared(&statement).await.unwrap();
    }
    for tag in tags {
        let found = tag::Entity::find_by_id(("r".to_owned(), tag.to_owned()));
        let found = found.one(db.read()).await.unwrap().unwrap();
        assert_eq!(found.tag, tag);
    }
}
