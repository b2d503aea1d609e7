//! Krater's data plane: clients ⇄ VIP:port ⇄ members.
//!
//! What belongs here: sockets, TLS, splice, workers, probes, the control socket; the decisions are in
//! `krater-dataplane-core`. What never will: netlink, the agent's or the controller's business.
//!
//! Threads: N workers ([`worker`]), and the control thread, which is the one that called [`run`]: it
//! serves the control socket, runs the probes, writes progress records and supervises the workers.

mod access_log;
mod apply;
pub mod clock;
mod control;
pub mod io;
mod listen;
mod metrics;
mod probe;
mod process;
pub mod proxy;
pub mod runtime;
pub mod tls;
pub mod upstream;
pub mod worker;

pub use process::StartError;

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

/// Changes the log level of the process; the text of an error says what is wrong with the level.
pub type SetLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Most workers: each address of each listener has a socket per worker, and the limit of open files
/// is 20,000 on common hosts.
pub const MAX_WORKERS: u16 = 64;

/// What the command line gives.
#[derive(Clone)]
pub struct Settings {
    /// Network namespace to enter; none stays.
    pub netns: Option<PathBuf>,
    /// Path of the control socket.
    pub control: PathBuf,
    /// User and group to become; none stays what it is (appliance started unprivileged, tests).
    pub uid: Option<u32>,
    /// Worker threads, 1 to [`MAX_WORKERS`].
    pub workers: u16,
    /// Loopback address and port where metrics can be read over HTTP, beside the control socket.
    pub metrics: Option<SocketAddr>,
    /// Descriptor that progress records are written to, inherited and owned from now on.
    pub progress_fd: Option<RawFd>,
    /// For status, such as `0.1.0 (0123456789ab)`.
    pub version: String,
    /// Changes the log level.
    pub log: SetLevel,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("netns", &self.netns)
            .field("control", &self.control)
            .field("uid", &self.uid)
            .field("workers", &self.workers)
            .field("metrics", &self.metrics)
            .field("progress_fd", &self.progress_fd)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Why the process ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not start.
    #[error("the data plane cannot start")]
    Start(#[from] StartError),
    /// The number of workers cannot be.
    #[error("workers {0} is out of range: use 1 to {MAX_WORKERS}")]
    Workers(u16),
    /// A thread or runtime could not be made.
    #[error("the data plane cannot start its threads")]
    Threads(#[source] std::io::Error),
}

/// Whether a snapshot would be taken, certificates, expressions and all, without any effect.
pub fn check(snapshot: &[u8]) -> Result<(), krater_model::FieldError> {
    apply::check(snapshot)
}

/// Runs the data plane until it is drained or told to stop (SIGTERM, SIGINT). Must be called before
/// any other thread exists, as namespace and privileges are those of the calling thread.
pub fn run(settings: Settings) -> Result<(), RunError> {
    if !(1..=MAX_WORKERS).contains(&settings.workers) {
        return Err(RunError::Workers(settings.workers));
    }
    if let Some(path) = &settings.netns {
        process::enter_netns(path)?;
    }
    let listener = process::bind_control(&settings.control)?;
    let metrics = settings.metrics.map(process::bind_metrics).transpose()?;
    let progress = settings.progress_fd.map(process::progress).transpose()?;
    let pipes = io::PipePool::new(io::PIPES);
    process::raise_file_limit()?;
    if let Some(uid) = settings.uid {
        process::drop_privileges(uid)?;
    }
    let shared = Arc::new(runtime::Shared::new(pipes));
    let workers = worker::Workers::start(Arc::clone(&shared), usize::from(settings.workers))
        .map_err(RunError::Threads)?;
    let context = control::Context {
        shared,
        version: settings.version,
        log: settings.log,
        own_uid: nix::unistd::Uid::effective().as_raw(),
    };
    control::serve(context, workers, listener, metrics, progress).map_err(RunError::Threads)
}
