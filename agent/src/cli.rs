//! The command line.
#![allow(clippy::print_stderr, reason = "this is what a command line is for")]

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let (version, schema) = (krater_telemetry::version(), krater_model::SCHEMA);
    format!("{version} schema {schema}")
});

/// Load balancer appliance: agent, data plane and VRRP.
#[derive(Debug, Parser)]
#[command(name = "amphora", version = VERSION.as_str())]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the agent: serves a controller, starts and supervises the data plane and vrrp.
    Agent {
        /// agent.toml of the config drive.
        #[arg(long)]
        config: PathBuf,
    },
    /// Run an appliance: what its file says, without a controller. SIGHUP reads the file anew.
    Run {
        /// amphora.toml
        #[arg(long)]
        config: PathBuf,
        /// Start this process only; the file's other part is checked and not used.
        #[arg(long)]
        only: Option<Only>,
    },
    /// Run the data plane alone.
    Dataplane(DataplaneArgs),
    /// Run VRRP alone.
    Vrrp(VrrpArgs),
    /// Watches a vrrp process; started by it.
    #[command(hide = true)]
    VrrpGuard(GuardArgs),
    /// Check a file without effect.
    Check {
        /// An agent.toml, or a desired state (JSON).
        #[arg(required_unless_present = "config", conflicts_with = "config")]
        file: Option<PathBuf>,
        /// An appliance's amphora.toml.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Ask the processes of an amphora on this host.
    Ctl(CtlArgs),
    /// Process 1 of the amphora image; its kernel starts it.
    Init,
    /// Write manual pages and shell completions, made of this command line; packages do.
    #[command(hide = true)]
    Docs {
        /// Folder for them.
        #[arg(long)]
        out: PathBuf,
    },
}

/// A part of an appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Only {
    Dataplane,
    Vrrp,
}

/// What both children are given.
#[derive(Debug, Args)]
pub(crate) struct ChildArgs {
    /// Pinned network namespace to run in; without it, the one that it was started in.
    #[arg(long)]
    pub(crate) netns: Option<PathBuf>,
    /// User and group id to run as; without it, those that started it.
    #[arg(long)]
    pub(crate) uid: Option<u32>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// How a process logs.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Rotated log file; standard error without it.
    #[arg(long)]
    pub(crate) log_file: Option<PathBuf>,
    /// error, warn, info, debug or trace.
    #[arg(long, default_value = "info")]
    pub(crate) log_level: String,
    /// JSON lines.
    #[arg(long)]
    pub(crate) log_json: bool,
}

/// Inherited descriptors.
#[derive(Debug, Args)]
pub(crate) struct GuardArgs {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[arg(long)]
    pub(crate) pidfd: i32,
    #[arg(long)]
    pub(crate) will: i32,
    #[arg(long)]
    pub(crate) lock: Option<i32>,
}

#[derive(Debug, Args)]
pub(crate) struct DataplaneArgs {
    #[command(flatten)]
    pub(crate) common: ChildArgs,
    /// Control socket to make.
    #[arg(long)]
    pub(crate) control: PathBuf,
    /// Worker threads.
    #[arg(long)]
    pub(crate) workers: u16,
    /// Loopback address and port where Prometheus reads metrics.
    #[arg(long)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Inherited descriptor of the progress record.
    #[arg(long)]
    pub(crate) progress_fd: Option<i32>,
}

#[derive(Debug, Args)]
pub(crate) struct VrrpArgs {
    /// An appliance's amphora.toml: the same as `run --only vrrp --config FILE`.
    #[arg(long, conflicts_with_all = ["control", "track", "netns", "uid"])]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: ChildArgs,
    /// Control socket to make.
    #[arg(long, required_unless_present = "config")]
    pub(crate) control: Option<PathBuf>,
    /// Socket on which the agent hands over what to watch of the data plane.
    #[arg(long, required_unless_present = "config")]
    pub(crate) track: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// run_dir of agent.toml.
    #[arg(long)]
    pub(crate) run_dir: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: CtlCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CtlCommand {
    /// Processes, listeners and members.
    Status,
    /// Counters of listeners.
    Stats,
    /// Virtual routers: their state, their events, or a handover to the peer.
    Vrrp {
        #[command(subcommand)]
        command: Option<VrrpCommand>,
    },
    /// The end of a log.
    Logs {
        /// Whose.
        #[arg(long, default_value = "agent")]
        process: LogProcess,
        /// How many lines, at most 10000.
        #[arg(long, default_value_t = 100)]
        lines: usize,
    },
    /// A member, as long as the data plane runs: snapshots do not change it back.
    Member {
        #[command(subcommand)]
        command: MemberCommand,
    },
    /// Read an appliance's file anew. What is wrong with it is said, and changes nothing.
    Reload,
    /// End an appliance: the VIPs go to the peer, nothing more is accepted, what is open may end by itself.
    Drain {
        /// Milliseconds until what is still open is closed. None: drain_timeout of the file.
        #[arg(long)]
        timeout: Option<u64>,
    },
    /// Put the program that is installed now in the place of the running one: its data plane listens beside the old one
    /// before that one drains for drain_timeout of the file. Done when the new one serves; a program that does not take
    /// the file is refused, and nothing changes.
    Upgrade,
    /// Open the files of access logs anew, after they were moved away (logrotate). Done when it returns.
    ReopenLogs,
    /// Set the log level of the data plane and vrrp (of the agent: PUT /2.0/log-level).
    LogLevel {
        /// error, warn, info, debug or trace.
        level: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Take a member out of balancing, or bring it back.
    Set {
        /// Its id, or its name if no other member has it.
        id: String,
        /// drain: no new clients. maint: nothing at all. ready: neither. weight: another share of the load.
        what: MemberSetting,
        /// With weight: 0 to 256. None: what is configured.
        weight: Option<u16>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MemberSetting {
    Drain,
    Maint,
    Ready,
    Weight,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VrrpCommand {
    /// State of each virtual router (also without a subcommand).
    Status,
    /// Give the VIP to the peer: it takes over before this side lets go. Fails when none does.
    Handover {
        /// This virtual router only.
        #[arg(long)]
        vrid: Option<u8>,
        /// On this interface only.
        #[arg(long)]
        interface: Option<String>,
        /// Seconds in which a router that preempts does not take it back.
        #[arg(long, default_value_t = 60)]
        hold: u32,
    },
    /// Report what came out of a check of yours; virtual routers that track it go by it.
    Check {
        /// Its name in `track_checks`.
        name: String,
        /// What came out.
        result: CheckResult,
    },
    /// What happened: one line, or with --json one object, for each event.
    Events {
        /// Events after the one with this number.
        #[arg(long, default_value_t = 0)]
        since: u64,
        /// Go on until interrupted, also when vrrp starts anew: its events are numbered from 1 then.
        #[arg(long)]
        follow: bool,
        /// Leave out what happened before.
        #[arg(long, conflicts_with = "since", requires = "follow")]
        new: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckResult {
    Up,
    Down,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogProcess {
    Agent,
    Dataplane,
    Vrrp,
}

/// Prints an error with its causes.
pub(crate) fn complain(error: &anyhow::Error) {
    eprintln!("amphora: {}", krater_model::report(error.as_ref()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_version_names_commit_and_schema() {
        let text = VERSION.as_str();
        assert!(
            text.contains(krater_telemetry::commit()) && text.ends_with("schema 1"),
            "{text}"
        );
    }
}
