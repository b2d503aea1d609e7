//! The children: started, adopted, waited for, started again.
//!
//! A child runs in a session of its own and outlives the agent. A restarted agent finds it by its control
//! socket (SO_PEERCRED), pins it with a pidfd and adopts it when it speaks our schema and is of our version. One of
//! another version is killed, or succeeded ([`succession`]) where the plan says so.
//! Each child has one task ([`Child::supervise`]); what it finds out is in a `watch` ([`Child::running`]) and
//! goes out as [`Event`]s.

mod backoff;
mod spawn;
mod succession;
mod watchdog;

use crate::control;
use crate::sys;
use backoff::Backoff;
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use serde::Deserialize;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
pub(crate) use succession::{DATAPLANE_ENDS, DRAIN_SLACK, VRRP_ENDS};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

/// A child that has not opened its control socket by then is killed and started again. Long enough for
/// a host where dozens of amphorae boot at once.
const START: Duration = Duration::from_secs(10);
/// How often the control socket of a starting child is tried.
const START_POLL: Duration = Duration::from_millis(5);
/// A living child answers its status in milliseconds; one that does not within this is not adopted.
const ADOPT: Duration = Duration::from_secs(2);

/// Which child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Dataplane,
    Vrrp,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Dataplane => "dataplane",
            Self::Vrrp => "vrrp",
        }
    }

    /// Relative to the run folder, which is the working folder: paths of sockets are short.
    pub(crate) fn socket(self) -> &'static Path {
        Path::new(match self {
            Self::Dataplane => "dataplane.sock",
            Self::Vrrp => "vrrp.sock",
        })
    }
}

/// How children are started.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where they serve; none: where we are.
    pub(crate) vip_netns: Option<PathBuf>,
    /// They write to our standard output, such as access logs.
    pub(crate) share_stdout: bool,
    pub(crate) log_dir: PathBuf,
    pub(crate) log_json: bool,
    pub(crate) workers: u16,
    /// Where the data plane's metrics can be read over TCP.
    pub(crate) metrics: Option<SocketAddr>,
    /// A child of another version is not killed: its successor takes over from it.
    pub(crate) succession: bool,
}

/// A living child.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) pid: u32,
    pub(crate) pidfd: Arc<OwnedFd>,
    /// The data plane's progress record, read-only.
    pub(crate) progress: Option<Arc<OwnedFd>>,
    pub(crate) adopted: bool,
}

/// What happened to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It answers on its control socket.
    Up(Kind),
    /// It ended.
    Down(Kind),
}

/// One supervised child.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) kind: Kind,
    plan: Plan,
    state: watch::Sender<Option<Running>>,
    starts: AtomicU32,
    /// With [`Plan::succession`]: the data plane of an earlier version, until it has ended.
    predecessor: Mutex<Option<Running>>,
}

/// The part of a child's status that adoption looks at.
#[derive(Deserialize)]
struct Identity {
    version: String,
    pid: u32,
}

impl Child {
    pub(crate) fn new(kind: Kind, plan: Plan) -> Self {
        Self {
            kind,
            plan,
            state: watch::Sender::new(None),
            starts: AtomicU32::new(0),
            predecessor: Mutex::default(),
        }
    }

    /// The child as it is now; changes can be waited for.
    pub(crate) fn running(&self) -> watch::Receiver<Option<Running>> {
        self.state.subscribe()
    }

    /// Times it was started by this agent.
    pub(crate) fn starts(&self) -> u32 {
        self.starts.load(Ordering::Relaxed)
    }

    /// Keeps the child alive for ever. Dropping this leaves the child alone. `level` is asked at each start.
    pub(crate) async fn supervise(
        &self,
        level: impl Fn() -> String,
        events: mpsc::Sender<Event>,
    ) -> io::Error {
        let name = self.kind.name();
        let mut backoff = Backoff::default();
        let mut adopted = match self.adopt().await {
            Ok(running) => running,
            Err(error) => {
                tracing::warn!(child = name, error = %error, "not adopted");
                None
            }
        };
        loop {
            let born = Instant::now();
            let running = match adopted.take() {
                Some(running) => Ok(running),
                None => self.start(&level()).await,
            };
            match running {
                Ok(running) => {
                    let (pid, adopted) = (running.pid, running.adopted);
                    tracing::info!(child = name, pid, adopted, "child is up");
                    self.state.send_replace(Some(running.clone()));
                    if events.send(Event::Up(self.kind)).await.is_err() {
                        return io::Error::other("the agent is ending");
                    }
                    let how = tokio::select! {
                        how = ended(&running) => how,
                        why = watchdog::bites(self.kind, &running) => {
                            tracing::error!(child = name, pid, why, "killing a frozen child");
                            match kill_running(&running).await {
                                Ok(()) => "frozen, killed".into(),
                                Err(error) => format!("frozen, not killed: {error}"),
                            }
                        }
                    };
                    self.state.send_replace(None);
                    let lived_ms = u64::try_from(born.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::error!(child = name, pid, lived_ms, how, "child ended");
                    if events.send(Event::Down(self.kind)).await.is_err() {
                        return io::Error::other("the agent is ending");
                    }
                }
                Err(error) => tracing::error!(child = name, error = %error, "child not started"),
            }
            tokio::time::sleep(backoff.after(born.elapsed())).await;
        }
    }

    /// Finds the child that an earlier agent started. One that does not fit is killed, also when it does not
    /// listen any more: a second data plane would get a share of the connections.
    async fn adopt(&self) -> io::Result<Option<Running>> {
        if self.plan.succession {
            self.find_predecessor();
        }
        let found = self.listening().await;
        let (adopted, why) = match found {
            Ok(Some((pid, pidfd))) => self.examine(pid, pidfd).await?,
            Ok(None) => (None, "does not listen on its control socket".to_owned()),
            Err(error) => (
                None,
                format!("does not accept on its control socket: {error}"),
            ),
        };
        let started = spawn::recorded(self.kind);
        let mine = adopted.as_ref().map(|running| running.pid);
        if let Some(process) = started.filter(|p| Some(p.pid) != mine && p.is_alive()) {
            let (child, pid) = (self.kind.name(), process.pid);
            tracing::warn!(
                child,
                pid,
                why,
                "killing a child that an earlier agent started"
            );
            let pidfd = sys::pidfd_open(pid)?;
            // The number is pinned now; it is still the same process.
            if process.is_alive() {
                kill(pidfd).await?;
            }
        }
        Ok(adopted)
    }

    /// Whether the process on the control socket can be adopted, or why it was killed.
    async fn examine(&self, pid: u32, pidfd: OwnedFd) -> io::Result<(Option<Running>, String)> {
        let progress = match self.kind {
            Kind::Dataplane => spawn::progress_of(pid).map(|fd| Some(Arc::new(fd))),
            Kind::Vrrp => Ok(None),
        };
        let identity = control::get::<Identity>(self.kind.socket(), "/status", ADOPT).await;
        let refused = match (identity, progress) {
            (Err(error), _) => krater_model::report(&error),
            (_, Err(error)) => format!("its progress record: {error}"),
            (Ok(identity), _) if identity.pid != pid => format!("it says it is {}", identity.pid),
            (Ok(identity), Ok(progress))
                if self.plan.succession && identity.version != krater_telemetry::version() =>
            {
                let why = format!("it runs {}", identity.version);
                self.succeed(Running {
                    pid,
                    pidfd: Arc::new(pidfd),
                    progress,
                    adopted: true,
                })
                .await?;
                return Ok((None, why));
            }
            (Ok(identity), _) if identity.version != krater_telemetry::version() => {
                format!("it runs {}", identity.version)
            }
            (Ok(_), Ok(progress)) => {
                let running = Running {
                    pid,
                    pidfd: Arc::new(pidfd),
                    progress,
                    adopted: true,
                };
                return Ok((Some(running), String::new()));
            }
        };
        tracing::warn!(child = self.kind.name(), pid, refused, "replacing a child");
        kill(pidfd).await?;
        Ok((None, refused))
    }

    /// Who listens on the control socket.
    async fn listening(&self) -> io::Result<Option<(u32, OwnedFd)>> {
        let stream = match UnixStream::connect(self.kind.socket()).await {
            Ok(stream) => stream,
            Err(error)
                if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused]
                    .contains(&error.kind()) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let pid = stream
            .peer_cred()?
            .pid()
            .and_then(|pid| u32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| io::Error::other("control socket of another pid namespace"))?;
        // The peer lived when it listened; that it still does, and is no successor with the same number,
        // is known when it answers after the pidfd was opened.
        match sys::pidfd_open(pid) {
            Ok(pidfd) => Ok(Some((pid, pidfd))),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Starts it and waits until it answers.
    async fn start(&self, level: &str) -> io::Result<Running> {
        let (pid, progress) = spawn::spawn(self.kind, &self.plan, level)?;
        self.starts.fetch_add(1, Ordering::Relaxed);
        let running = Running {
            pid,
            pidfd: Arc::new(sys::pidfd_open(pid)?),
            progress: progress.map(Arc::new),
            adopted: false,
        };
        let ready = async {
            loop {
                if matches!(self.listening().await, Ok(Some((found, _))) if found == pid) {
                    return;
                }
                tokio::time::sleep(START_POLL).await;
            }
        };
        tokio::select! {
            () = ready => Ok(running),
            how = ended(&running) => Err(io::Error::other(format!(
                "{how} before it answered: see its log {}",
                spawn::log_file(&self.plan, self.kind).display(),
            ))),
            () = tokio::time::sleep(START) => {
                kill_running(&running).await?;
                Err(io::Error::other(format!("no answer within {} s", START.as_secs())))
            }
        }
    }
}

/// Waits for the end of a child; reaps it when it is ours.
pub(crate) async fn ended(running: &Running) -> String {
    let pidfd = match running.pidfd.try_clone().and_then(sys::readable) {
        Ok(pidfd) => pidfd,
        Err(error) => return format!("cannot be watched: {error}"),
    };
    if let Err(error) = pidfd.readable().await.map(drop) {
        return format!("cannot be watched: {error}");
    }
    let id = Id::PIDFd(running.pidfd.as_fd());
    match waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(WaitStatus::Exited(_, code)) => format!("exit status {code}"),
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("killed by {signal}"),
        Ok(other) => format!("{other:?}"),
        Err(Errno::ECHILD) => "adopted, its status is not ours to know".into(),
        Err(errno) => errno.to_string(),
    }
}

/// Ends a child in order, and within `patience` in any case. Nobody must supervise it any more.
pub(crate) async fn stop(running: &Running, patience: Duration) -> io::Result<()> {
    match sys::pidfd_signal(running.pidfd.as_fd(), libc::SIGTERM) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        other => other?,
    }
    match tokio::time::timeout(patience, ended(running)).await {
        Ok(_how) => Ok(()),
        Err(_late) => kill_running(running).await,
    }
}

async fn kill(pidfd: OwnedFd) -> io::Result<()> {
    kill_running(&Running {
        pid: 0,
        pidfd: Arc::new(pidfd),
        progress: None,
        adopted: true,
    })
    .await
}

async fn kill_running(running: &Running) -> io::Result<()> {
    match sys::pidfd_signal(running.pidfd.as_fd(), libc::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
        _ => {
            ended(running).await;
            Ok(())
        }
    }
}
