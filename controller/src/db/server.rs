//! Database servers: their addresses, what a session is set to, the lock around migrations.
//!
//! PostgreSQL and MariaDB do what SQLite's single writer does by itself with row locks that `app` and `flow` take
//! (`UPDATE … SET x = x`), so READ COMMITTED is what every session has: after a lock was waited for, the next
//! statement sees what its holder committed. Waits for locks are bounded, and so is a transaction that nobody
//! goes on with, because it holds locks.
//!
//! TLS is sqlx's, by rustls. What an address says about it is checked here first: sqlx takes a file of authorities and
//! verifies nothing with it unless the mode says so, and takes modes of libpq that it does not have.

use krater_model::FieldError;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbErr, RuntimeErr, SqlxMySqlConnector,
    SqlxPostgresConnector, Statement,
};
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Executor as _};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long a caller waits for a connection: a request is told sooner that the server is away than a client
/// gives up (60 s and more), and a server that starts again within this time is not noticed.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// What PostgreSQL's sessions are set to.
const POSTGRES_SESSION: &str = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED; \
     SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '60s'";
/// What MariaDB's sessions are set to. Without strictness it cuts what is too long.
const MARIADB_SESSION: [&str; 2] = [
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION innodb_lock_wait_timeout = 10, idle_transaction_timeout = 60, \
     sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')",
];
/// What a session is tried with before it is given out. A request that is given up while its `BEGIN` is on the way leaves a
/// transaction open that sqlx does not know of: a single statement that followed would never be committed.
const POSTGRES_TRY: &str = "BEGIN; ROLLBACK";
/// See [`POSTGRES_TRY`]. PostgreSQL would write a warning to its log.
const MARIADB_TRY: &str = "ROLLBACK";
/// Texts are compared as they are, case and trailing blanks included, as the other engines do. Not a `_bin` collation:
/// sqlx takes texts of those for bytes.
const MARIADB_COLLATION: &str =
    "ALTER DATABASE CHARACTER SET = utf8mb4 COLLATE = utf8mb4_uca1400_nopad_as_cs";
/// Of `pg_advisory_lock`, which is per database: "krater" in ASCII.
const POSTGRES_LOCK: i64 = 0x6b72_6174_6572;
/// Longest wait for the migrations of another controller.
const MIGRATION_SECONDS: u32 = 600;

/// Parameters that an address may have; others would be ignored.
const POSTGRES_PARAMETERS: [&str; 5] = ["host", "sslmode", "sslrootcert", "sslcert", "sslkey"];
const MARIADB_PARAMETERS: [&str; 5] = ["socket", "ssl-mode", "ssl-ca", "ssl-cert", "ssl-key"];

/// Where a database is: `postgres://USER:PASSWORD@HOST:PORT/DATABASE` or `mysql://…`. Neither printing nor logging
/// shows the password.
#[derive(Clone)]
pub struct Address {
    /// Without the password.
    shown: String,
    name: String,
    options: Options,
}

#[derive(Clone)]
enum Options {
    Postgres(PgConnectOptions),
    MariaDb(MySqlConnectOptions),
}

impl Address {
    /// For people: kind, database and place.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the tool that makes and restores copies is called.
    pub const fn dump_tool(&self) -> &'static str {
        match self.options {
            Options::Postgres(_) => "pg_dump and pg_restore",
            Options::MariaDb(_) => "mariadb-dump (mysqldump) and mariadb",
        }
    }

    /// A pool that connects when it is used. A server that goes away and comes back is found again: each connection
    /// is tried before it is given out.
    pub(super) fn pool(&self, connections: u32) -> DatabaseConnection {
        match &self.options {
            Options::Postgres(options) => {
                let pool = PgPoolOptions::new()
                    .max_connections(connections)
                    .acquire_timeout(ACQUIRE_TIMEOUT)
                    .test_before_acquire(false)
                    .before_acquire(|session, _| {
                        Box::pin(async move {
                            session.execute(POSTGRES_TRY).await?;
                            Ok(true)
                        })
                    })
                    .after_connect(|session, _| {
                        Box::pin(async move { session.execute(POSTGRES_SESSION).await.map(drop) })
                    })
                    .connect_lazy_with(options.clone());
                SqlxPostgresConnector::from_sqlx_postgres_pool(pool)
            }
            Options::MariaDb(options) => {
                let pool = MySqlPoolOptions::new()
                    .max_connections(connections)
                    .acquire_timeout(ACQUIRE_TIMEOUT)
                    .test_before_acquire(false)
                    .before_acquire(|session, _| {
                        Box::pin(async move {
                            session.execute(MARIADB_TRY).await?;
                            Ok(true)
                        })
                    })
                    .after_connect(|session, _| {
                        Box::pin(async move {
                            for statement in MARIADB_SESSION {
                                session.execute(statement).await?;
                            }
                            Ok(())
                        })
                    })
                    .connect_lazy_with(options.clone());
                SqlxMySqlConnector::from_sqlx_mysql_pool(pool)
            }
        }
    }

    /// Keeps other controllers from migrating until the only connection of this pool ends.
    pub(super) async fn lock_migrations(&self, single: &DatabaseConnection) -> Result<(), DbErr> {
        let backend = single.get_database_backend();
        let ask = |sql: String| single.query_one(Statement::from_string(backend, sql));
        match &self.options {
            Options::Postgres(_) => {
                ask(format!("SET lock_timeout = '{MIGRATION_SECONDS}s'")).await?;
                ask(format!("SELECT pg_advisory_lock({POSTGRES_LOCK})")).await?;
            }
            Options::MariaDb(_) => {
                let sql = format!(
                    "SELECT GET_LOCK(CONCAT('krater-', MD5(DATABASE())), {MIGRATION_SECONDS}) AS taken"
                );
                let row = ask(sql).await?;
                let taken: Option<i64> = row.map_or(Ok(None), |row| row.try_get("", "taken"))?;
                if taken != Some(1) {
                    let why = "another controller has been migrating the database for ten minutes";
                    return Err(DbErr::Custom(why.to_owned()));
                }
            }
        }
        Ok(())
    }

    /// What a database must be before its first table.
    pub(super) async fn prepare(&self, single: &DatabaseConnection) -> Result<(), DbErr> {
        let Options::MariaDb(_) = self.options else {
            return Ok(());
        };
        let backend = single.get_database_backend();
        let version = Statement::from_string(backend, "SELECT VERSION() AS version");
        let version = single.query_one(version).await?;
        let version: String =
            version.map_or(Ok(String::new()), |row| row.try_get("", "version"))?;
        if !version.contains("MariaDB") {
            return Err(DbErr::Custom(format!(
                "the server is version {version}, not MariaDB: not supported yet"
            )));
        }
        single.execute_unprepared(MARIADB_COLLATION).await.map(drop)
    }
}

impl FromStr for Address {
    type Err = FieldError;

    /// The text is never in the error: it may hold a password.
    fn from_str(text: &str) -> Result<Self, FieldError> {
        let refuse = |why: String| FieldError::new("database.url", why);
        let postgres = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| text.starts_with(scheme));
        if !postgres
            && !["mysql://", "mariadb://"]
                .iter()
                .any(|s| text.starts_with(s))
        {
            return Err(refuse(
                "use postgres://USER:PASSWORD@HOST/DATABASE or mysql://USER:PASSWORD@HOST/DATABASE"
                    .into(),
            ));
        }
        let known = if postgres {
            POSTGRES_PARAMETERS
        } else {
            MARIADB_PARAMETERS
        };
        let query = text.split_once('?').map_or("", |(_, query)| query);
        let mut parameters: Vec<(&str, &str)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&key) {
                let known = known.join(", ");
                return Err(refuse(format!("parameter {key:?}: use {known}")));
            }
            if parameters.iter().any(|(other, _)| *other == key) {
                return Err(refuse(format!("parameter {key:?} is given twice")));
            }
            parameters.push((key, value));
        }
        check_tls(postgres, &parameters).map_err(refuse)?;
        let wrong = |error: sqlx::Error| refuse(krater_model::report(&error));
        let (options, kind, database, place) = if postgres {
            let options: PgConnectOptions = text.parse().map_err(wrong)?;
            let options = options
                .application_name("krater")
                .disable_statement_logging();
            let place = match options.get_socket() {
                Some(socket) => socket.display().to_string(),
                None => format!("{}:{}", options.get_host(), options.get_port()),
            };
            let database = options.get_database().map(str::to_owned);
            (Options::Postgres(options), "PostgreSQL", database, place)
        } else {
            let options: MySqlConnectOptions = text.parse().map_err(wrong)?;
            let options = options.disable_statement_logging();
            let place = match options.get_socket() {
                Some(socket) => socket.display().to_string(),
                None => format!("{}:{}", options.get_host(), options.get_port()),
            };
            let database = options.get_database().map(str::to_owned);
            (Options::MariaDb(options), "MariaDB", database, place)
        };
        let database =
            database.ok_or_else(|| refuse("name the database after the host: …/krater".into()))?;
        Ok(Self {
            shown: without_password(text),
            name: format!("{kind} database {database} at {place}"),
            options,
        })
    }
}

/// Refuses what would be taken and have no effect, and what of TLS sqlx lacks. The texts name parameters and fixed words.
fn check_tls(postgres: bool, parameters: &[(&str, &str)]) -> Result<(), String> {
    let value = |name: &str| {
        let found = parameters.iter().find(|(key, _)| *key == name);
        found
            .map(|(_, value)| *value)
            .filter(|value| !value.is_empty())
    };
    let [mode, ca, cert, key] = if postgres {
        ["sslmode", "sslrootcert", "sslcert", "sslkey"]
    } else {
        ["ssl-mode", "ssl-ca", "ssl-cert", "ssl-key"]
    };
    // Words of the mode: no TLS, perhaps, not verified, verified.
    let modes = if postgres {
        ["disable", "prefer", "require", "verify-full"]
    } else {
        ["DISABLED", "PREFERRED", "REQUIRED", "VERIFY_IDENTITY"]
    };
    let [_, _, unverified, verified] = modes;
    let is = |word: &str| value(mode).is_some_and(|wanted| wanted.eq_ignore_ascii_case(word));
    if value(mode).is_some() && !modes.into_iter().any(is) {
        let modes = modes.join(", ");
        return Err(format!("{mode}: not supported yet; use {modes}"));
    }
    if value(ca).is_some() && !is(verified) {
        return Err(format!("{ca} has an effect only with {mode}={verified}"));
    }
    let sure = is(unverified) || is(verified);
    for (one, other) in [(cert, key), (key, cert)] {
        if value(one).is_some() && value(other).is_none() {
            return Err(format!("{one} needs {other}"));
        }
        if value(one).is_some() && !sure {
            let words = format!("{unverified} or {verified}");
            return Err(format!("{one} has an effect only with {mode}={words}"));
        }
    }
    let on_socket = |place: &str| place.starts_with(['/', '%']);
    if postgres && sure && value("host").is_some_and(on_socket) {
        return Err(format!(
            "{mode}: PostgreSQL has no TLS on a Unix socket; name its host instead"
        ));
    }
    Ok(())
}

/// `scheme://user:password@rest` without `:password`.
fn without_password(text: &str) -> String {
    let cut = || {
        let (scheme, rest) = text.split_once("://")?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (credentials, host) = authority.rsplit_once('@')?;
        let user = credentials.split(':').next().unwrap_or_default();
        Some(format!("{scheme}://{user}@{host}{rest}"))
    };
    cut().unwrap_or_else(|| text.to_owned())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.shown)
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.shown == other.shown
    }
}

impl Eq for Address {}

/// What a server's error code says; codes, because servers translate their texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// A lock, a deadlock or a serialization failure: the same transaction may succeed when it is tried again.
    Contended,
    /// No place on its disk.
    Full,
    /// Anything else.
    Other,
}

/// The code of a server's error; none: it is not one of a server.
pub(super) fn code(error: &DbErr) -> Option<Code> {
    let (DbErr::Conn(RuntimeErr::SqlxError(error))
    | DbErr::Exec(RuntimeErr::SqlxError(error))
    | DbErr::Query(RuntimeErr::SqlxError(error))) = error
    else {
        return None;
    };
    let error = error.as_database_error()?;
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return Some(match error.number() {
            // ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK, ER_CHECKREAD (the row changed since it was read).
            1205 | 1213 | 1020 => Code::Contended,
            // ER_DISK_FULL, ER_RECORD_FILE_FULL.
            1021 | 1114 => Code::Full,
            _ => Code::Other,
        });
    }
    error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?;
    Some(match error.code().as_deref() {
        // serialization_failure, deadlock_detected, lock_not_available.
        Some("40001" | "40P01" | "55P03") => Code::Contended,
        Some("53100") => Code::Full,
        _ => Code::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_named_without_its_password() {
        for (text, shown, name) in [
            (
                "postgres://k:s%40cret@db.example:6432/krater?sslmode=require",
                "postgres://k@db.example:6432/krater?sslmode=require",
                "PostgreSQL database krater at db.example:6432",
            ),
            (
                "mysql://k:secret@db.example/lb",
                "mysql://k@db.example/lb",
                "MariaDB database lb at db.example:3306",
            ),
            (
                "postgres://k@localhost/krater?host=/run/postgresql",
                "postgres://k@localhost/krater?host=/run/postgresql",
                "PostgreSQL database krater at /run/postgresql",
            ),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.name(), name);
            assert!(!format!("{address:?}").contains("cret"), "{address:?}");
        }
    }

    #[test]
    fn tls_is_taken_in_the_words_of_each_server() {
        for text in [
            "postgres://k@h/d?sslmode=disable",
            "postgres://k@h/d?sslmode=verify-full",
            "postgres://k@h/d?sslmode=verify-full&sslrootcert=/ca&sslcert=/c&sslkey=/k",
            "postgres://k@h/d?sslmode=prefer&host=/run/postgresql",
            "mysql://k@h/d?ssl-mode=VERIFY_IDENTITY&ssl-ca=/ca&ssl-cert=/c&ssl-key=/k",
            "mysql://k@h/d?ssl-mode=required&ssl-cert=/c&ssl-key=/k",
            "mysql://k@h/d?ssl-mode=PREFERRED&socket=/run/mysqld.sock",
        ] {
            text.parse::<Address>().unwrap();
        }
    }

    #[test]
    fn refusals_say_what_to_write_and_nothing_secret() {
        for (text, said) in [
            ("sqlite:///tmp/secret", "postgres://USER"),
            ("secret", "postgres://USER"),
            ("postgres://k:secret@h/krater?ssl=1", "parameter \"ssl\""),
            (
                "mysql://k:secret@h/krater?charset=latin1",
                "parameter \"charset\"",
            ),
            ("mysql://k:secret@h", "name the database"),
            ("postgres://k:secret@h:port/krater", "port"),
            (
                "postgres://k:secret@h/d?sslmode=allow",
                "sslmode: not supported yet; use disable, prefer, require, verify-full",
            ),
            (
                "postgres://k:secret@h/d?sslmode=verify-ca",
                "sslmode: not supported yet",
            ),
            (
                "postgres://k:secret@h/d?sslmode=secret",
                "sslmode: not supported yet",
            ),
            (
                "mysql://k:secret@h/d?ssl-mode=VERIFY_CA",
                "ssl-mode: not supported yet; use DISABLED",
            ),
            (
                "postgres://k:secret@h/d?sslrootcert=/ca",
                "sslrootcert has an effect only with sslmode=verify-full",
            ),
            (
                "postgres://k:secret@h/d?sslmode=require&sslrootcert=/ca",
                "sslrootcert has an effect only with",
            ),
            (
                "mysql://k:secret@h/d?ssl-mode=REQUIRED&ssl-ca=/ca",
                "ssl-ca has an effect only with ssl-mode=VERIFY_IDENTITY",
            ),
            (
                "postgres://k:secret@h/d?sslmode=require&sslcert=/c",
                "sslcert needs sslkey",
            ),
            (
                "mysql://k:secret@h/d?ssl-mode=REQUIRED&ssl-key=/c",
                "ssl-key needs ssl-cert",
            ),
            (
                "mysql://k:secret@h/d?ssl-cert=/c&ssl-key=/k",
                "ssl-cert has an effect only with ssl-mode=REQUIRED or VERIFY_IDENTITY",
            ),
            (
                "postgres://k:secret@h/d?sslmode=prefer&sslmode=require",
                "\"sslmode\" is given twice",
            ),
            (
                "postgres://k:secret@h/d?host=/run&sslmode=require",
                "no TLS on a Unix socket",
            ),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
