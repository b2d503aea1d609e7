//! `krater db`: check, backup, restore and migrate the database of a state folder; of a database server only what its
//! own tools do not do.

use super::{StateDir, client};
use crate::db::Db;
use crate::db::maintenance::{self, Report};
use crate::db::server::Address;
use crate::drivers::layout::Layout;
use crate::inventory;
use anyhow::{Context as _, anyhow, bail};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `krater db`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    state: StateDir,
    /// The database of a server instead of the state folder's: postgres://… or mysql://…, as the controller has it.
    #[arg(
        long,
        env = "KRATER_DATABASE",
        hide_env_values = true,
        value_name = "URL"
    )]
    database: Option<Address>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say which schema the database has and whether it is whole; the controller may run.
    ///
    /// Exit code 1 when something is wrong.
    Check {
        /// Another file, such as a backup, instead of the state folder's database.
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Write a consistent copy; the controller may run.
    ///
    /// The copy holds the database alone. The private CA (pki/) and heartbeat.key of the state folder belong to
    /// a whole backup: without them amphorae are not recognised and are replaced.
    Backup {
        /// The copy. An existing file is not overwritten.
        #[arg(value_name = "FILE")]
        to: PathBuf,
    },
    /// Put a copy in the place of the database; the controller must not run.
    ///
    /// The copy is checked first. The database that is replaced stays beside it (krater.db.replaced-N). At the next start
    /// the controller ends amphorae that the copy does not know and replaces those that are gone; the others take what the
    /// copy says with the next change of their load balancer.
    Restore {
        /// What `krater db backup` wrote.
        #[arg(value_name = "FILE")]
        from: PathBuf,
    },
    /// Bring the schema to this program's; the controller must not run. A start does it too.
    ///
    /// A copy of the old database stays beside it (krater.db.before-MIGRATION).
    Migrate,
    /// Say that the host whose controller made the amphorae of a server's database is gone for good: the next start of this
    /// state folder's controller makes all of them anew. Two controllers that run must not both believe it.
    TakeOver,
}

/// Runs `krater db`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let folder = &args.state.state_dir;
    let file = folder.join("krater.db");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    if let Some(address) = &args.database {
        return of_server(&runtime, address, folder, args.command);
    }
    match args.command {
        Command::Check { file: other, json } => {
            let file = existing(other.unwrap_or(file))?;
            let report = runtime
                .block_on(maintenance::check(&file))
                .map_err(|error| {
                    // The layers between repeat each other's text.
                    let error = anyhow::Error::new(error);
                    anyhow!("{}: {}", file.display(), error.root_cause())
                })?;
            show(&report, json)
        }
        Command::Backup { to } => {
            let file = existing(file)?;
            runtime.block_on(maintenance::backup(&file, &to))?;
            let bytes = std::fs::metadata(&to)?.len();
            client::print(&format!("{}: {bytes} bytes\n", to.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Restore { from } => {
            let from = existing(from)?;
            let _lock = stopped(folder)?;
            let kept = runtime.block_on(maintenance::restore(&file, &from))?;
            let mut text = format!("{}: restored from {}\n", file.display(), from.display());
            if let Some(kept) = kept {
                text.push_str(&format!("what was there: {}\n", kept.display()));
            }
            client::print(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::TakeOver => {
            bail!(
                "the amphorae of a state folder's own database are its own: name a server's by --database"
            )
        }
        Command::Migrate => {
            let file = existing(file)?;
            let _lock = stopped(folder)?;
            let report = runtime.block_on(async {
                let before = maintenance::check(&file).await?;
                drop(Db::open_sqlite(&file).await?);
                anyhow::Ok(before)
            })?;
            migrated(&report)
        }
    }
}

/// The same for a database server.
fn of_server(
    runtime: &tokio::runtime::Runtime,
    address: &Address,
    folder: &Path,
    command: Command,
) -> anyhow::Result<ExitCode> {
    let unusable = || format!("the {} cannot be used", address.name());
    let refuse = |what: &str| {
        bail!(
            "krater db {what} is for the file of a state folder: for the {} use {}",
            address.name(),
            address.dump_tool()
        )
    };
    match command {
        Command::Check { file: Some(_), .. } => {
            bail!("FILE and --database name two databases: leave one out")
        }
        Command::Check { file: None, json } => {
            let report = runtime.block_on(maintenance::check_server(address));
            show(&report.with_context(unusable)?, json)
        }
        Command::Backup { .. } => refuse("backup"),
        Command::Restore { .. } => refuse("restore"),
        Command::TakeOver => {
            let layout = Layout::create(folder)?;
            let _lock = stopped(layout.state_dir())?;
            let before = runtime.block_on(async {
                let db = Db::connect(address).await.with_context(unusable)?;
                anyhow::Ok(inventory::take_over(&db, layout.instance()).await?)
            })?;
            let before = before.unwrap_or_else(|| "none".to_owned());
            client::print(&format!("{before} → {}\n", layout.instance()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Migrate => {
            let before = runtime.block_on(async {
                let before = maintenance::check_server(address).await?;
                drop(Db::connect(address).await?);
                anyhow::Ok(before)
            });
            migrated(&before.with_context(unusable)?)
        }
    }
}

fn show(report: &Report, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        client::print_json(report)?;
    } else {
        client::print(&screen(report))?;
    }
    Ok(if report.faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn migrated(before: &Report) -> anyhow::Result<ExitCode> {
    client::print(&if before.missing.is_empty() {
        format!(
            "schema {} is this program's: nothing to do\n",
            before.schema
        )
    } else {
        let from = if before.schema.is_empty() {
            "none"
        } else {
            &before.schema
        };
        let count = before.missing.len();
        format!("schema {from} → {} ({count} migrations)\n", before.known)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn existing(file: PathBuf) -> anyhow::Result<PathBuf> {
    if !file.is_file() {
        bail!(
            "{}: no such file; --state-dir names the folder of the controller",
            file.display()
        );
    }
    Ok(file)
}

/// The lock of the state folder: no controller runs, and none starts.
fn stopped(folder: &Path) -> anyhow::Result<impl Sized + use<>> {
    crate::up::lock(&folder.join("lock"))
}

fn screen(report: &Report) -> String {
    let schema = if report.missing.is_empty() {
        "this program's".to_owned()
    } else {
        format!(
            "a start of this program migrates: {}",
            report.missing.join(", ")
        )
    };
    let mut out = format!(
        "{}\nschema {} ({schema})\n\n",
        report.database,
        if report.schema.is_empty() {
            "none"
        } else {
            &report.schema
        },
    );
    let mut rows = vec![vec!["TABLE".to_owned(), "ROWS".to_owned()]];
    let count = |(name, rows): &(String, i64)| vec![name.clone(), rows.to_string()];
    rows.extend(report.rows.iter().map(count));
    out.push_str(&client::table(&rows));
    out.push('\n');
    if report.faults.is_empty() {
        out.push_str("whole: no fault found\n");
    } else {
        for fault in &report.faults {
            out.push_str(&format!("fault: {fault}\n"));
        }
        out.push_str("restore a backup (krater db restore FILE; of a server with its own tools)\n");
    }
    out
}
