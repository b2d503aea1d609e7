//! The command line: one module per subcommand, each with `Args` and `run(args)`.
//!
//! `run` is called before any thread exists, so that it may enter namespaces; it makes its own
//! runtime when it needs one. What it prints goes to stdout, what it logs to stderr.
#![allow(
    clippy::print_stderr,
    reason = "the one place that reports a failed command"
)]

use crate::config::{Acceleration, Qemu};
use anyhow::Context as _;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

mod client;
pub mod console;
pub mod db;
pub mod doctor;
pub mod down;
pub mod flows;
pub mod image;
pub mod logs;
pub mod net;
pub mod openapi;
pub mod status;

/// State folder of a controller on this host.
#[derive(Debug, Clone, clap::Args)]
pub struct StateDir {
    /// Folder that holds database, private CA and amphorae.
    #[arg(
        long,
        env = "KRATER_STATE_DIR",
        default_value = "/var/lib/krater",
        value_name = "DIR"
    )]
    pub state_dir: PathBuf,
}

/// Virtual machines, for `--compute qemu`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Machines {
    /// Folder that `krater image build` made, for --compute qemu.
    #[arg(long, env = "KRATER_IMAGE", value_name = "DIR")]
    pub image: Option<PathBuf>,
    /// The QEMU program, for --compute qemu. [default: qemu-system-x86_64 in PATH]
    #[arg(long, env = "KRATER_QEMU", value_name = "FILE")]
    pub qemu_binary: Option<PathBuf>,
    /// Acceleration, for --compute qemu; auto takes KVM where it runs the image, else TCG. [default: auto]
    #[arg(long, value_enum, env = "KRATER_ACCEL")]
    pub accel: Option<Acceleration>,
}

impl Machines {
    /// Over what a file says.
    pub fn over(&self, config: &mut Qemu) {
        if let Some(image) = &self.image {
            config.image = Some(image.clone());
        }
        if let Some(binary) = &self.qemu_binary {
            config.binary.clone_from(binary);
        }
        if let Some(accel) = self.accel {
            config.accel = accel;
        }
    }
}

/// A running controller.
#[derive(Debug, Clone, clap::Args)]
pub struct Endpoint {
    /// Address of the controller's API.
    #[arg(
        long,
        env = "KRATER_ENDPOINT",
        default_value = "http://127.0.0.1:9876",
        value_name = "URL"
    )]
    pub endpoint: String,
    /// Authorities of the API's certificate, for https://…; without it those that the host trusts.
    #[arg(long, env = "KRATER_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let (version, schema) = (krater_telemetry::version(), krater_telemetry::SCHEMA);
    let database = crate::db::schema();
    format!("{version} schema {schema} database {database}")
});

/// Krater: a load balancer that speaks OpenStack Octavia's API.
#[derive(Debug, Parser)]
#[command(name = "krater", version = VERSION.as_str(), propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a load balancer coming up, balancing, and surviving the death of its active amphora.
    Demo(crate::demo::Args),
    /// Check, copy, restore or migrate the database.
    Db(db::Args),
    /// Check whether this host can run Krater, and say what to do where it cannot.
    Doctor(doctor::Args),
    /// Stop the controller and end its amphorae.
    Down(down::Args),
    /// Build the image that amphorae boot as virtual machines.
    Image(image::Args),
    /// Run a command or a small server on a network of ours.
    Net(net::Args),
    /// Print the OpenAPI document of the REST API, or what it does not support yet.
    Openapi(openapi::Args),
    /// Show roles, load balancers, amphorae, running flows and certificates.
    Status(status::Args),
    /// Show what the controller is doing.
    Flows(flows::Args),
    /// Show the logs of an amphora.
    Logs(logs::Args),
    /// Show what the serial port of an amphora said that is a virtual machine of this host.
    Console(console::Args),
    /// Write a machine's console down.
    #[command(name = crate::drivers::compute::qemu::console::COMMAND, hide = true)]
    ConsoleWriter(console::WriterArgs),
    /// Show certificates and when they end.
    Certs(status::CertsArgs),
    /// Start the system and stay: API, worker, health manager and housekeeping in one process.
    Up(crate::up::Args),
    /// Start some of the roles of `krater up`.
    Controller(crate::up::ControllerArgs),
}

/// Parses the command line and runs the subcommand.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = krater_net::process::unblock_signals()
        .context("unblock signals")
        .and_then(|()| run(cli.command));
    outcome.unwrap_or_else(|error| {
        eprintln!("krater: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => crate::demo::run(args),
        Command::Db(args) => db::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Down(args) => down::run(args),
        Command::Image(args) => image::run(args),
        Command::Net(args) => net::run(args),
        Command::Openapi(args) => Ok(openapi::run(&args)),
        Command::Status(args) => status::run(args),
        Command::Flows(args) => flows::run(args),
        Command::Logs(args) => logs::run(args),
        Command::Console(args) => console::run(args),
        Command::ConsoleWriter(args) => console::write(&args),
        Command::Certs(args) => status::certs(args),
        Command::Up(args) => crate::up::run(args),
        Command::Controller(args) => crate::up::run_controller(args),
    }
}
