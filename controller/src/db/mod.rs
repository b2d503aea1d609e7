//! The database: connections, transactions with retry, migrations, row types, queries.
//!
//! SQLite (the default) has one writer connection and separate readers, WAL and
//! `synchronous=FULL`: what a client was told is on disk. PostgreSQL and MariaDB ([`server`]) have a pool for
//! each too: a transaction that reads beside itself never waits for another one's connection.
//! Only `app`, `flow`, `health` and `failover` call in here; handlers hold no SQL.

use sea_orm::{
    ConnectionTrait, DatabaseBackend, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait,
    RuntimeErr, SqlxSqliteConnector, TransactionTrait,
};
use sqlx::sqlite::{SqliteConnection, SqliteTransactionManager as SqliteTransactions};
use sqlx::{ConnectOptions as _, Connection as _, TransactionManager};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

pub mod entity;
pub mod maintenance;
pub mod migration;
pub mod query;
pub mod server;

/// Readers of SQLite: lists of clients, the health manager and flows read at the same time; more
/// connections than that only cost memory, because reads take well under a millisecond.
const SQLITE_READERS: u32 = 4;
/// How long SQLite waits for a lock of another process (`krater db`, a backup).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for a connection before it gets an error instead of a hung request.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections to a database server, per controller, for transactions and for reads beside them.
const SERVER_WRITERS: u32 = 16;
const SERVER_READERS: u32 = 8;
/// Times a transaction is tried again after a busy database, deadlock or serialization failure.
pub const TRIES: u32 = 8;

/// Why the database cannot be used.
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as std::io::Error"
)]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement or the connection failed.
    #[error("database")]
    Sql(#[from] DbErr),
    /// Written by a newer program.
    #[error(
        "the database has schema {found}, this program knows up to {known}: use the newer program, \
         or restore the backup that its migration made"
    )]
    Newer {
        /// Newest migration in the database.
        found: String,
        /// Newest migration of this program.
        known: String,
    },
    /// A copy failed. Before a migration: the migration was not begun.
    #[error("no copy of the database was written to {path}")]
    Backup {
        /// Where it would have been.
        path: PathBuf,
        /// Why.
        #[source]
        source: DbErr,
    },
}

/// Whether a failed transaction may succeed when it is tried again.
pub trait Retriable {
    /// Busy, deadlock, serialization failure.
    fn retriable(&self) -> bool;
}

/// Whether the disk that holds the database is full.
pub fn is_full(error: &DbErr) -> bool {
    if let Some(code) = server::code(error) {
        return code == server::Code::Full;
    }
    let text = error.to_string();
    ["database or disk is full", "No space left on device"]
        .iter()
        .any(|sign| text.contains(sign))
}

impl Retriable for DbErr {
    fn retriable(&self) -> bool {
        if let Some(code) = server::code(self) {
            return code == server::Code::Contended;
        }
        let text = self.to_string();
        // SQLITE_BUSY and SQLITE_LOCKED.
        ["database is locked", "database table is locked"]
            .iter()
            .any(|sign| text.contains(sign))
    }
}

impl Retriable for Error {
    fn retriable(&self) -> bool {
        matches!(self, Self::Sql(error) if error.retriable())
    }
}

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    writer: DatabaseConnection,
    reader: DatabaseConnection,
    flows: Arc<Notify>,
    name: Arc<str>,
}

impl Db {
    /// Opens the SQLite file, makes it when it is missing, and brings its schema up to date.
    /// Before a migration of an existing file a copy is left beside it (`krater.db.before-<migration>`).
    pub async fn open_sqlite(file: &Path) -> Result<Self, Error> {
        let existed = file.exists();
        let writer = sqlite(file, 1, false).await?;
        let backup = existed.then(|| file.to_owned());
        migrate(&writer, backup.as_deref(), None).await?;
        let reader = sqlite(file, SQLITE_READERS, true).await?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self {
            writer,
            reader,
            flows: Arc::default(),
            name: format!("SQLite database {name}").into(),
        })
    }

    /// Connects to a database server and brings the schema up to date. Controllers that start at the same time do
    /// that one after another.
    pub async fn connect(address: &server::Address) -> Result<Self, Error> {
        migrate_server(address, None).await?;
        Ok(Self {
            writer: address.pool(SERVER_WRITERS),
            reader: address.pool(SERVER_READERS),
            flows: Arc::default(),
            name: address.name().into(),
        })
    }

    /// What people call it: kind, database and place.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For reads outside a transaction.
    pub fn read(&self) -> &DatabaseConnection {
        &self.reader
    }

    /// For single statements that write and whose failure does not matter: only [`transaction!`](crate::transaction) tries
    /// again what met another writer.
    pub fn write(&self) -> &DatabaseConnection {
        &self.writer
    }

    /// Begins a transaction that may write. Callers use [`transaction!`](crate::transaction).
    pub async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        self.writer.begin().await
    }

    /// Notified after a commit that enqueued a flow. A worker waits on it, and also looks from time
    /// to time, because another controller's enqueue is not seen here.
    pub fn flows(&self) -> &Notify {
        &self.flows
    }

    /// To be called after the commit of a transaction that enqueued flows.
    pub fn nudge(&self) {
        self.flows.notify_waiters();
        self.flows.notify_one();
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), DbErr> {
        entity::meta::Entity::find()
            .one(&self.reader)
            .await
            .map(drop)
    }
}

/// Runs a block in one transaction: `transaction!(db, |txn| { …; Ok(value) })`, where the block's
/// error type is given by the context and implements [`Retriable`] and `From<DbErr>`.
///
/// The block may run several times: it must have no effect outside `txn`. An error rolls everything
/// back. Dropping the future rolls back too.
#[macro_export]
macro_rules! transaction {
    ($db:expr, |$txn:ident| $body:block) => {{
        let mut tries = 0_u32;
        loop {
            tries += 1;
            let attempt = async {
                let transaction = $db.begin().await?;
                let value = {
                    let $txn = &transaction;
                    let body = async { $body };
                    body.await
                };
                match value {
                    Ok(value) => {
                        transaction.commit().await?;
                        Ok(value)
                    }
                    Err(error) => {
                        // Its failure says less than what failed, and the pool closes the connection.
                        if let Err(failed) = transaction.rollback().await {
                            tracing::debug!(error = %failed, "not rolled back");
                        }
                        Err(error)
                    }
                }
            };
            match attempt.await {
                Err(error)
                    if tries < $crate::db::TRIES && $crate::db::Retriable::retriable(&error) =>
                {
                    $crate::db::back_off(tries).await;
                }
                result => break result,
            }
        }
    }};
}

/// Waits before the next try: 2, 4, 8, … ms.
pub async fn back_off(tries: u32) {
    tokio::time::sleep(Duration::from_millis(1 << tries.min(8))).await;
}

/// Now, in Unix milliseconds, as rows hold it.
pub fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or_default()
}

async fn sqlite(
    file: &Path,
    connections: u32,
    read_only: bool,
) -> Result<DatabaseConnection, Error> {
    use sqlx::sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
    };
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(!read_only)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging();
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .after_release(|connection, _| Box::pin(is_outside_transactions(connection)))
        .connect_with(options)
        .await
        .map_err(|error| DbErr::Conn(RuntimeErr::SqlxError(error)))?;
    Ok(SqlxSqliteConnector::from_sqlx_sqlite_pool(pool))
}

/// Whether a released connection may be used again. On a full disk or an I/O error SQLite ends the
/// transaction by itself, the ROLLBACK that follows fails, and sqlx goes on to count it as open: later
/// transactions become savepoints in one that nobody commits. Such a connection is closed.
async fn is_outside_transactions(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // A rollback of a dropped transaction is in the queue before this.
    connection.ping().await?;
    let depth = <SqliteTransactions as TransactionManager>::get_transaction_depth(connection);
    if depth > 0 {
        tracing::warn!("a database connection was closed: its transaction ended in an error");
    }
    Ok(depth == 0)
}

/// Names of the migrations of this program, oldest first.
fn known() -> Vec<String> {
    use sea_orm_migration::MigratorTrait;
    migration::Migrator::migrations()
        .iter()
        .map(|migration| migration.name().to_owned())
        .collect()
}

/// The newest schema that this program knows: the name of its last migration.
pub fn schema() -> String {
    known().pop().unwrap_or_default()
}

/// Brings the schema of a server's database up to date, or only the next `steps` of its migrations, while no other
/// controller does.
pub async fn migrate_server(address: &server::Address, steps: Option<u32>) -> Result<(), Error> {
    let single = address.pool(1);
    let migrated = async {
        address.lock_migrations(&single).await?;
        if missing(&single).await? {
            address.prepare(&single).await?;
        }
        migrate(&single, None, steps).await
    };
    let migrated = migrated.await;
    // Frees the lock.
    single.close().await?;
    migrated
}

async fn migrate(
    connection: &DatabaseConnection,
    file: Option<&Path>,
    steps: Option<u32>,
) -> Result<(), Error> {
    use sea_orm_migration::MigratorTrait;
    let known = known();
    let applied = applied(connection).await?;
    if let Some(found) = applied.iter().find(|name| !known.contains(name)) {
        return Err(Error::Newer {
            found: found.clone(),
            known: known.last().cloned().unwrap_or_default(),
        });
    }
    let next = known.iter().find(|name| !applied.contains(name));
    if let (Some(file), Some(next), false) = (file, next, applied.is_empty()) {
        backup(connection, file, next).await?;
    }
    migration::Migrator::up(connection, steps).await?;
    Ok(())
}

/// Whether a migration of this program is still to be done.
async fn missing(connection: &DatabaseConnection) -> Result<bool, DbErr> {
    let applied = applied(connection).await?;
    Ok(known().iter().any(|name| !applied.contains(name)))
}

/// Names of the migrations in the database; empty when it is new.
async fn applied(connection: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    use sea_orm_migration::{SchemaManager, seaql_migrations};
    let manager = SchemaManager::new(connection);
    if !manager.has_table("seaql_migrations").await? {
        return Ok(Vec::new());
    }
    let rows = seaql_migrations::Entity::find().all(connection).await?;
    Ok(rows.into_iter().map(|row| row.version).collect())
}

async fn backup(connection: &DatabaseConnection, file: &Path, next: &str) -> Result<(), Error> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".before-{next}"));
    let path = PathBuf::from(name);
    if path.exists() {
        return Ok(()); // An earlier attempt got this far; its copy is the older, better one.
    }
    let statement = sea_orm::Statement::from_sql_and_values(
        DatabaseBackend::Sqlite,
        "VACUUM INTO ?",
        [path.to_string_lossy().into_owned().into()],
    );
    connection
        .execute(statement)
        .await
        .map_err(|source| Error::Backup { path, source })?;
    Ok(())
}

#[cfg(test)]
mod tests;
