//! A new version beside the old one. The data plane of another version serves on until its successor listens on the
//! same addresses (`SO_REUSEPORT`, same user) and has its document; then it accepts nothing more, and what is open there
//! may end by itself. vrrp cannot be two: the old one is told to end, which gives its addresses to the peer first.
//!
//! The old data plane's socket and pid file get other names: they are how it is found again when we end meanwhile.

use super::{Child, Kind, Running, kill_running, spawn, stop, watchdog};
use crate::{control, sys};
use http::Method;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

/// Relative to the run folder.
const SOCKET: &str = "dataplane-before.sock";
const PID_FILE: &str = "dataplane-before.pid";
/// A VIP is handed over within three seconds at most.
pub(crate) const VRRP_ENDS: Duration = Duration::from_secs(6);
/// A data plane that closes its connections at once.
pub(crate) const DATAPLANE_ENDS: Duration = Duration::from_secs(3);
/// What a data plane needs beyond a drain's deadline, to close what is left.
pub(crate) const DRAIN_SLACK: Duration = Duration::from_secs(3);
/// It answers on its control socket within this.
const ASK: Duration = Duration::from_secs(2);
/// How often a successor is looked at.
const LOOK: Duration = Duration::from_millis(5);

impl Child {
    fn before(&self) -> MutexGuard<'_, Option<Running>> {
        self.predecessor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a data plane of an earlier version serves still.
    pub(crate) fn has_predecessor(&self) -> bool {
        self.before().is_some()
    }

    /// Makes place for a child of this version.
    pub(super) async fn succeed(&self, old: Running) -> io::Result<()> {
        let (child, pid) = (self.kind.name(), old.pid);
        match self.kind {
            Kind::Vrrp => {
                tracing::info!(child, pid, "a child of another version ends");
                stop(&old, VRRP_ENDS).await
            }
            Kind::Dataplane => {
                // Two at a time at most.
                self.end_predecessor().await;
                fs::rename(self.kind.socket(), SOCKET)?;
                match fs::rename(spawn::pid_file(self.kind), PID_FILE) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                tracing::info!(
                    child,
                    pid,
                    "a child of another version serves until the next one does"
                );
                *self.before() = Some(old);
                Ok(())
            }
        }
    }

    /// Finds the data plane that an earlier run of ours left to drain.
    pub(super) fn find_predecessor(&self) {
        if self.kind != Kind::Dataplane {
            return;
        }
        let Some(process) = spawn::read(Path::new(PID_FILE)).filter(|process| process.is_alive())
        else {
            return;
        };
        match sys::pidfd_open(process.pid) {
            // The number is pinned now; it is still the same process.
            Ok(pidfd) if process.is_alive() => {
                *self.before() = Some(Running {
                    pid: process.pid,
                    pidfd: Arc::new(pidfd),
                    progress: None,
                    adopted: true,
                });
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, pid = process.pid, "not watched"),
        }
    }

    /// Waits until the child says that it serves what it was given; with a listener that cannot be opened it never does.
    pub(crate) async fn serves(&self, patience: Duration) {
        let ready = async {
            loop {
                let running = self.state.borrow().clone();
                let record = running.as_ref().and_then(watchdog::record);
                if record.is_some_and(|record| record.ready) {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(patience, ready).await.is_err() {
            let seconds = patience.as_secs();
            tracing::error!(seconds, "the new data plane does not serve everything yet");
        }
    }

    /// Ends the data plane of the earlier version: it accepts nothing more, and closes at the deadline what is left.
    pub(crate) async fn retire_predecessor(&self, deadline: Duration) {
        let Some(old) = self.before().clone() else {
            return;
        };
        let ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let body = serde_json::json!({ "deadline_ms": ms });
        tracing::info!(
            pid = old.pid,
            deadline_ms = ms,
            "draining the earlier version"
        );
        let asked = control::request(Path::new(SOCKET), Method::POST, "/drain", Some(&body), ASK);
        let ended = match asked.await {
            Ok(_) => tokio::time::timeout(deadline + DRAIN_SLACK, super::ended(&old)).await,
            Err(error) => {
                let reason = krater_model::report(&error);
                tracing::error!(reason, "the earlier version does not drain: it ends now");
                tokio::time::timeout(Duration::ZERO, std::future::pending::<String>()).await
            }
        };
        match ended {
            Ok(how) => tracing::info!(pid = old.pid, how, "the earlier version ended"),
            Err(_late) => {
                if let Err(error) = kill_running(&old).await {
                    tracing::error!(%error, "the earlier version was not ended");
                }
            }
        }
        self.forget(old.pid);
    }

    /// Ends it with all that is open there.
    pub(crate) async fn end_predecessor(&self) {
        let Some(old) = self.before().clone() else {
            return;
        };
        if let Err(error) = stop(&old, DATAPLANE_ENDS).await {
            tracing::error!(%error, "the earlier version was not ended");
        }
        self.forget(old.pid);
    }

    fn forget(&self, pid: u32) {
        let mut before = self.before();
        if before.as_ref().is_some_and(|old| old.pid == pid) {
            *before = None;
            for path in [SOCKET, PID_FILE] {
                // Left over, they name nobody.
                let _gone = fs::remove_file(path);
            }
        }
    }
}
