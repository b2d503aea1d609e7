//! Makes a desired state effective: one at a time, wholly or not at all.
//!
//! Order: the ledger's new file is written (a full disk is found out here); NICs are placed and what is new
//! on them is added; the data plane takes its snapshot; vrrp takes its configuration; what is no longer
//! wanted is removed from the NICs; the ledger's new file is put in place. When any of it is refused, what
//! was done before it is undone.

mod execute;
pub(crate) mod plan;

pub(crate) use execute::{HOT_PLUG, LinkError, Links};

use crate::ledger::{self, Ledger, LedgerError, Restored};
use krater_model::FieldError;
use krater_model::control::{Applied, Snapshot, VrrpConfig};
use krater_model::state::{DesiredState, Interface, VirtualRouter};
use krater_model::units::Revision;
use krater_model::wire::agent::StateApplied;
use krater_net::link::LinkControl;
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// A desired state that is in force.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) state: DesiredState,
    /// SHA-256 of the whole document, hex.
    pub(crate) digest: String,
    /// All of it is effective and on disk. False after a restart without the seal key.
    pub(crate) complete: bool,
}

/// A child did not take its part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    /// The document is wrong; nothing changed in the child.
    #[error(transparent)]
    Field(FieldError),
    /// The child has a newer one. It took it, and the agent died before it wrote that down.
    #[error("it has a newer document: {0}")]
    Newer(String),
    /// It does not run or does not answer.
    #[error("{0}")]
    Failed(String),
}

/// Those who take parts of a state.
pub(crate) trait Family: Send + Sync {
    /// The data plane's part.
    fn snapshot(
        &self,
        snapshot: &Snapshot,
    ) -> impl Future<Output = Result<Applied, PushError>> + Send;
    /// vrrp's part.
    fn vrrp(&self, config: &VrrpConfig) -> impl Future<Output = Result<Applied, PushError>> + Send;
    /// The log level of all processes.
    fn level(&self, level: &str) -> impl Future<Output = Result<(), PushError>> + Send;
}

/// Why a desired state is not in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("revision {new} is older than {current}, which is in force: read /2.0/state")]
    Older { new: Revision, current: Revision },
    #[error("revision {0} is in force with other content: raise the generation")]
    Conflict(Revision),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Links(#[from] LinkError),
    #[error("{child}: {why}")]
    Child { child: &'static str, why: String },
    #[error("internal: {0}")]
    Internal(String),
}

/// What a new document is to the one in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    New,
    Same,
    Older,
    Conflict,
}

fn order(current: Option<&InForce>, revision: Revision, digest: &str) -> Order {
    let Some(current) = current else {
        return Order::New;
    };
    match revision.cmp(&current.state.revision()) {
        std::cmp::Ordering::Less => Order::Older,
        std::cmp::Ordering::Greater => Order::New,
        std::cmp::Ordering::Equal if digest != current.digest => Order::Conflict,
        std::cmp::Ordering::Equal if current.complete => Order::Same,
        // Again, with the secrets that were missing.
        std::cmp::Ordering::Equal => Order::New,
    }
}

/// Applies desired states.
#[derive(Debug)]
pub(crate) struct Applier<L, N, F> {
    current: watch::Sender<Option<Arc<InForce>>>,
    ledger: Arc<Ledger>,
    links: Links<L, N>,
    pub(crate) family: F,
    /// Address that the agent serves: its NIC is not to be claimed.
    listen: IpAddr,
    log_json: bool,
    /// Held for a whole apply.
    one_at_a_time: Mutex<()>,
    /// Held while children get a document, so that a re-push and an apply do not overtake each other.
    push: Mutex<()>,
}

impl<L: LinkControl, N: AsFd + Send + Sync, F: Family> Applier<L, N, F> {
    pub(crate) fn new(
        ledger: Ledger,
        links: Links<L, N>,
        family: F,
        listen: IpAddr,
        log_json: bool,
    ) -> Self {
        Self {
            current: watch::Sender::new(None),
            ledger: Arc::new(ledger),
            links,
            family,
            listen,
            log_json,
            one_at_a_time: Mutex::new(()),
            push: Mutex::new(()),
        }
    }

    /// The state in force.
    pub(crate) fn current(&self) -> Option<Arc<InForce>> {
        self.current.borrow().clone()
    }

    /// Tells when the state in force changes.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Arc<InForce>>> {
        self.current.subscribe()
    }

    /// Makes `state` effective.
    pub(crate) async fn apply(&self, state: DesiredState) -> Result<StateApplied, ApplyError> {
        let _one = self.one_at_a_time.lock().await;
        let revision = state.revision();
        if state.amphora_id != self.ledger.amphora() {
            let why = format!("{} but this is {}", state.amphora_id, self.ledger.amphora());
            return Err(FieldError::new("amphora_id", why).into());
        }
        let digest = ledger::digest(&state).map_err(|e| ApplyError::Internal(e.to_string()))?;
        let current = self.current();
        match order(current.as_deref(), revision, &digest) {
            Order::New => {}
            Order::Same => {
                return Ok(StateApplied {
                    revision,
                    changed: false,
                    steps: Vec::new(),
                });
            }
            Order::Conflict => return Err(ApplyError::Conflict(revision)),
            Order::Older => {
                let current = current.map(|c| c.state.revision()).unwrap_or_default();
                return Err(ApplyError::Older {
                    new: revision,
                    current,
                });
            }
        }
        if state.logging.json != self.log_json {
            let why = format!("{}: set log_json in agent.toml instead", state.logging.json);
            return Err(FieldError::new("logging.json", why).into());
        }
        plan::refuse(&state, &self.links.management_nics(self.listen).await?)?;
        let next = Arc::new(InForce {
            state,
            digest,
            complete: true,
        });
        let (ledger, writing) = (Arc::clone(&self.ledger), Arc::clone(&next));
        let prepared =
            tokio::task::spawn_blocking(move || ledger.prepare(&writing.state, &writing.digest))
                .await
                .map_err(|error| ApplyError::Internal(error.to_string()))??;
        let mut steps = Vec::new();
        self.effect(current.as_deref(), &next, &mut steps).await?;
        let committed = tokio::task::spawn_blocking(move || prepared.commit())
            .await
            .map_err(|error| ApplyError::Internal(error.to_string()))?;
        if let Err(error) = committed {
            // It is effective; only the disk does not know. The same document again writes it again.
            let incomplete = InForce {
                state: next.state.clone(),
                digest: next.digest.clone(),
                complete: false,
            };
            self.current.send_replace(Some(Arc::new(incomplete)));
            return Err(error.into());
        }
        steps.push("ledger".into());
        Ok(StateApplied {
            revision,
            changed: true,
            steps,
        })
    }

    async fn effect(
        &self,
        current: Option<&InForce>,
        next: &Arc<InForce>,
        steps: &mut Vec<String>,
    ) -> Result<(), ApplyError> {
        let before = current.map_or(&[][..], |c| c.state.interfaces.as_slice());
        let desired = next.state.interfaces.as_slice();
        let grown = async {
            let plan = self.links.place(before, desired, steps).await?;
            self.links.execute(&plan.grow, steps).await?;
            Ok::<_, LinkError>(plan.shrink)
        };
        let shrink = match grown.await {
            Ok(shrink) => shrink,
            Err(error) => {
                self.undo_links(before, desired).await;
                return Err(error.into());
            }
        };
        let pushing = self.push.lock().await;
        if let Err(error) = self.family.snapshot(&next.state.snapshot()).await {
            drop(pushing);
            self.undo_links(before, desired).await;
            return Err(refused("dataplane", error));
        }
        steps.push("dataplane".into());
        if let Err(error) = self.family.vrrp(&next.state.vrrp_config()).await {
            // One that only failed to answer gets it by the next attempt; the data plane keeps it.
            if let PushError::Field(_) = error {
                self.undo_snapshot(current, next.state.revision()).await;
                drop(pushing);
                self.undo_links(before, desired).await;
            }
            return Err(refused("vrrp", error));
        }
        steps.push("vrrp".into());
        self.current.send_replace(Some(Arc::clone(next)));
        drop(pushing);
        let level = &next.state.logging.level;
        if current.is_none_or(|c| c.state.logging.level != *level) {
            match self.family.level(level).await {
                Ok(()) => steps.push(format!("log level {level}")),
                Err(error) => tracing::warn!(%error, "log level not set everywhere"),
            }
        }
        self.links.execute(&shrink, steps).await?;
        Ok(())
    }

    /// Brings the NICs back to what they were before. What fails here is logged; the next apply tries again.
    async fn undo_links(&self, before: &[Interface], tried: &[Interface]) {
        let mut done = Vec::new();
        let undo = async {
            let plan = self.links.place_present(tried, before, &mut done).await?;
            self.links.execute(&plan.grow, &mut done).await?;
            self.links.execute(&plan.shrink, &mut done).await
        };
        if let Err(error) = undo.await {
            tracing::error!(error = %krater_model::report(&error), "interfaces not rolled back");
        }
    }

    /// The old content under the refused revision: the data plane takes nothing older than what it has.
    async fn undo_snapshot(&self, current: Option<&InForce>, refused: Revision) {
        let mut snapshot = match current {
            Some(current) => current.state.snapshot(),
            None => Snapshot {
                schema: krater_model::SCHEMA,
                revision: refused,
                request_id: "rollback".into(),
                load_balancers: Vec::new(),
                certificates: Vec::new(),
            },
        };
        snapshot.revision = refused;
        if let Err(error) = self.family.snapshot(&snapshot).await {
            tracing::error!(%error, "snapshot not rolled back");
        }
    }

    /// Takes over what the ledger kept. Called before anything is served, so that no older document gets in.
    pub(crate) fn load(&self) {
        match self.ledger.restore() {
            Ok(Some(restored)) => {
                let Restored {
                    state,
                    digest,
                    complete,
                } = restored;
                tracing::info!(revision = %state.revision(), complete, "restored from the ledger");
                self.current.send_replace(Some(Arc::new(InForce {
                    state,
                    digest,
                    complete,
                })));
            }
            Ok(None) => {}
            Err(error) => {
                let error = krater_model::report(&error);
                tracing::error!(error, "waiting for the controller");
            }
        }
    }

    /// Makes the NICs what the loaded state says. The children get their parts when they are up.
    pub(crate) async fn restore_links(&self) {
        let _one = self.one_at_a_time.lock().await;
        let Some(current) = self.current() else {
            return;
        };
        let interfaces = current.state.interfaces.as_slice();
        let mut done = Vec::new();
        let configure = async {
            let plan = self.links.place(interfaces, interfaces, &mut done).await?;
            self.links.execute(&plan.grow, &mut done).await?;
            self.links.execute(&plan.shrink, &mut done).await
        };
        if let Err(error) = configure.await {
            let error = krater_model::report(&error);
            tracing::error!(error, "interfaces are not as the ledger says");
        }
    }

    /// Gives the data plane its part of the state in force, after it was started.
    pub(crate) async fn push_snapshot(&self) -> Result<Option<Applied>, PushError> {
        let _pushing = self.push.lock().await;
        let Some(current) = self.current() else {
            return Ok(None);
        };
        let mut snapshot = current.state.snapshot();
        if !current.complete {
            // Room for the same document with its secrets, which is other content to the data plane.
            let generation = &mut snapshot.revision.generation;
            generation.0 = generation.0.saturating_sub(1);
        }
        self.family.snapshot(&snapshot).await.map(Some)
    }

    /// Gives vrrp its part of the state in force, after it was started.
    pub(crate) async fn push_vrrp(&self) -> Result<Option<Applied>, PushError> {
        let _pushing = self.push.lock().await;
        let Some(current) = self.current() else {
            return Ok(None);
        };
        let mut config = current.state.vrrp_config();
        if !current.complete {
            // A router whose password is sealed away stays down until the controller sends it; with it
            // the same document is other content to vrrp.
            let sealed =
                |r: &VirtualRouter| r.password.as_ref().is_some_and(|p| p.expose().is_empty());
            config.routers.retain(|router| !sealed(router));
            // One whose liveness key is sealed away goes without the session.
            for router in &mut config.routers {
                router.liveness = router
                    .liveness
                    .take()
                    .filter(|liveness| !liveness.key.expose().is_empty());
            }
            let generation = &mut config.revision.generation;
            generation.0 = generation.0.saturating_sub(1);
        }
        self.family.vrrp(&config).await.map(Some)
    }
}

fn refused(child: &'static str, error: PushError) -> ApplyError {
    match error {
        PushError::Field(field) => ApplyError::Field(field),
        other => ApplyError::Child {
            child,
            why: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests;
