//! What an operator does with the database file: look at it, copy it, put a copy back.
//!
//! A database server brings tools of its own for copies and for damage; its schema and rows are looked at here.

use super::server::Address;
use super::{Error, applied, known};
use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseBackend, DatabaseConnection, DbErr, Statement,
};
use serde::Serialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Faults that a report lists at most; a broken file can have millions.
const FAULTS: usize = 100;

/// What is in a database file and whether it is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file, or the name of a server's database.
    pub database: String,
    /// Newest migration in it; empty when there is none.
    pub schema: String,
    /// Newest migration of this program.
    pub known: String,
    /// Migrations that a start of this program would do, oldest first.
    pub missing: Vec<String>,
    /// Rows per table, by name.
    pub rows: Vec<(String, i64)>,
    /// What is wrong: pages that do not fit together, references to nothing. At most 100.
    pub faults: Vec<String>,
}

/// Why a file cannot take the place of the database.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It could not be read as a database of ours.
    #[error("{file} is not a database of krater")]
    Foreign {
        /// The file.
        file: PathBuf,
        /// What the database says.
        #[source]
        source: Error,
    },
    /// It has no migration of ours at all.
    #[error("{0} is a database, but not one of krater: it has none of its tables")]
    Empty(PathBuf),
    /// Its pages or references are broken.
    #[error("{file} is damaged: {fault}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The first fault.
        fault: String,
    },
    /// A file could not be copied or renamed. The database is as it was.
    #[error("{path}: the database is as it was")]
    File {
        /// What could not be written.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Looks at a database file, beside a running controller too. Changes nothing.
///
/// # Errors
/// The file is missing, unreadable or no SQLite database.
pub async fn check(file: &Path) -> Result<Report, Error> {
    let db = open(file).await?;
    let report = look(&db, file).await;
    db.close().await?;
    report
}

async fn look(db: &DatabaseConnection, file: &Path) -> Result<Report, Error> {
    let applied = applied(db).await?;
    let mut faults: Vec<String> = column(
        db,
        &format!("PRAGMA integrity_check({FAULTS})"),
        "integrity_check",
    )
    .await?
    .into_iter()
    .filter(|line| line != "ok")
    .collect();
    let dangling = db
        .query_all(statement("PRAGMA foreign_key_check".to_owned()))
        .await?;
    for row in dangling.iter().take(FAULTS.saturating_sub(faults.len())) {
        let table: String = row.try_get("", "table")?;
        let parent: String = row.try_get("", "parent")?;
        let id: Option<i64> = row.try_get("", "rowid")?;
        let id = id.map_or_else(|| "?".to_owned(), |id| id.to_string());
        faults.push(format!(
            "table {table}, row {id}: refers to a row of {parent} that does not exist"
        ));
    }
    let names = "SELECT name FROM sqlite_master WHERE type = 'table' \
                 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    let mut rows = Vec::new();
    for name in column(db, names, "name").await? {
        let quoted = name.replace('"', "\"\"");
        let count = format!("SELECT COUNT(*) AS count FROM \"{quoted}\"");
        let row = db.query_one(statement(count)).await?;
        let count = row.map_or(Ok(0), |row| row.try_get("", "count"))?;
        rows.push((name, count));
    }
    let mut report = report(file.display().to_string(), applied, rows);
    report.faults.splice(..0, faults);
    Ok(report)
}

/// Looks at the database of a server, beside running controllers too. Changes nothing. References to nothing it
/// does not let happen; what its disk does to pages its own tools find.
///
/// # Errors
/// It does not answer.
pub async fn check_server(address: &Address) -> Result<Report, Error> {
    let db = address.pool(1);
    let looked = look_at_server(&db, address).await;
    db.close().await?;
    looked
}

async fn look_at_server(db: &DatabaseConnection, address: &Address) -> Result<Report, Error> {
    let applied = applied(db).await?;
    let backend = db.get_database_backend();
    let (schema, quote) = match backend {
        DatabaseBackend::Postgres => ("current_schema()", '"'),
        _ => ("DATABASE()", '`'),
    };
    let names = format!(
        "SELECT table_name AS name FROM information_schema.tables \
         WHERE table_schema = {schema} AND table_type = 'BASE TABLE' ORDER BY 1"
    );
    let mut rows = Vec::new();
    for row in db.query_all(Statement::from_string(backend, names)).await? {
        let name: String = row.try_get("", "name")?;
        let doubled = name.replace(quote, &format!("{quote}{quote}"));
        let count = format!("SELECT COUNT(*) AS count FROM {quote}{doubled}{quote}");
        let row = db.query_one(Statement::from_string(backend, count)).await?;
        let count = row.map_or(Ok(0), |row| row.try_get("", "count"))?;
        rows.push((name, count));
    }
    Ok(report(address.name().to_owned(), applied, rows))
}

fn report(database: String, applied: Vec<String>, rows: Vec<(String, i64)>) -> Report {
    let known = known();
    let newer = applied.iter().find(|name| !known.contains(name));
    let faults = newer.map(|name| format!("migration {name} is of a newer program than this one"));
    Report {
        database,
        schema: applied.iter().max().cloned().unwrap_or_default(),
        missing: known
            .iter()
            .filter(|name| !applied.contains(name))
            .cloned()
            .collect(),
        known: known.last().cloned().unwrap_or_default(),
        faults: faults.into_iter().collect(),
        rows,
    }
}

/// Writes a consistent copy, beside a running controller too: mode 0600, synced, whole or not there.
///
/// # Errors
/// `to` exists already, its folder cannot be written, or the disk is full.
pub async fn backup(file: &Path, to: &Path) -> Result<(), Error> {
    let failed = |source: DbErr| Error::Backup {
        path: to.to_owned(),
        source,
    };
    let io = |error: io::Error| failed(DbErr::Custom(error.to_string()));
    if to.exists() {
        return Err(failed(DbErr::Custom(
            "the file exists already; it is not overwritten".to_owned(),
        )));
    }
    let temporary = beside(to, ".part");
    remove(&temporary).map_err(io)?;
    // SQLite writes into an empty file that exists, and keeps its mode.
    crate::files::write_private(&temporary, b"").map_err(io)?;
    let db = open(file).await?;
    let copied = vacuum_into(&db, &temporary).await;
    db.close().await?;
    let named = copied.and_then(|()| {
        let done = fs::File::open(&temporary)
            .and_then(|copy| copy.sync_all())
            // Unlike `rename`, a link never replaces a file that came meanwhile.
            .and_then(|()| fs::hard_link(&temporary, to))
            .and_then(|()| sync_folder(to));
        done.map_err(|error| DbErr::Custom(error.to_string()))
    });
    remove(&temporary).map_err(io)?;
    named.map_err(failed)
}

/// Puts `from` in the place of the database `file`; what was there stays beside it under the name that
/// is returned. The caller holds the controller's lock.
///
/// # Errors
/// See [`RestoreError`]. The database is as it was before.
pub async fn restore(file: &Path, from: &Path) -> Result<Option<PathBuf>, RestoreError> {
    let foreign = |source: Error| RestoreError::Foreign {
        file: from.to_owned(),
        source,
    };
    let report = check(from).await.map_err(foreign)?;
    if report.schema.is_empty() {
        return Err(RestoreError::Empty(from.to_owned()));
    }
    if let Some(fault) = report.faults.into_iter().next() {
        return Err(RestoreError::Damaged {
            file: from.to_owned(),
            fault,
        });
    }
    let fresh = beside(file, ".restored");
    let failed = |path: &Path, source: io::Error| RestoreError::File {
        path: path.to_owned(),
        source,
    };
    remove(&fresh).map_err(|error| failed(&fresh, error))?;
    // Through SQLite, so that a copy in write-ahead mode brings its log along.
    backup(from, &fresh).await.map_err(foreign)?;
    let kept = set_aside(file).map_err(|error| failed(file, error))?;
    fs::rename(&fresh, file)
        .and_then(|()| sync_folder(file))
        .map_err(|error| failed(file, error))?;
    Ok(kept)
}

/// Gives the present database, with its write-ahead log, a second name that is free.
fn set_aside(file: &Path) -> io::Result<Option<PathBuf>> {
    if !file.exists() {
        return Ok(None);
    }
    let mut number = 1_u32;
    let kept = loop {
        let name = beside(file, &format!(".replaced-{number}"));
        match fs::hard_link(file, &name) {
            Ok(()) => break name,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 10_000 => {
                number += 1
            }
            Err(error) => return Err(error),
        }
    };
    // Left by a controller that was killed: it belongs to the file that is set aside.
    for log in ["-wal", "-shm"] {
        match fs::rename(beside(file, log), beside(&kept, log)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(Some(kept))
}

/// For reading only: neither journal mode nor schema of the file change, as `Db::open_sqlite` would.
async fn open(file: &Path) -> Result<DatabaseConnection, Error> {
    let mut options = ConnectOptions::new("sqlite://");
    let file = file.to_owned();
    options
        .max_connections(1)
        .acquire_timeout(super::ACQUIRE_TIMEOUT)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |options| {
            options
                .filename(&file)
                .read_only(true)
                .busy_timeout(super::BUSY_TIMEOUT)
        });
    Ok(sea_orm::Database::connect(options).await?)
}

async fn vacuum_into(db: &DatabaseConnection, to: &Path) -> Result<(), DbErr> {
    let statement = Statement::from_sql_and_values(
        DatabaseBackend::Sqlite,
        "VACUUM INTO ?",
        [to.to_string_lossy().into_owned().into()],
    );
    db.execute(statement).await.map(drop)
}

fn statement(sql: String) -> Statement {
    Statement::from_string(DatabaseBackend::Sqlite, sql)
}

async fn column(db: &DatabaseConnection, sql: &str, name: &str) -> Result<Vec<String>, DbErr> {
    let rows = db.query_all(statement(sql.to_owned())).await?;
    rows.iter().map(|row| row.try_get("", name)).collect()
}

/// `krater.db` and `.part` give `krater.db.part`.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
