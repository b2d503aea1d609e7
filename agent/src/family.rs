//! The children as the rest of the agent sees them: documents go in, status comes out.

use crate::apply::{Family, PushError};
use crate::control::{self, ControlError};
use crate::second_path::SecondPath;
use crate::supervise::{Child, Event, Kind, Plan};
use crate::track;
use http::{Method, StatusCode};
use krater_model::FieldError;
use krater_model::control::{Applied, DataplaneStatus, Snapshot, VrrpConfig, VrrpStatus};
use krater_telemetry::LogControl;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A child that is being started may take this long until a document waits no longer for it.
const UP: Duration = Duration::from_secs(5);
/// The largest document, compiled on a slow and busy host.
const PUSH: Duration = Duration::from_secs(15);
const LEVEL: Duration = Duration::from_secs(2);

/// Data plane and vrrp.
#[derive(Debug)]
pub(crate) struct Children {
    pub(crate) dataplane: Child,
    pub(crate) vrrp: Child,
    second_path: SecondPath,
    log: LogControl,
}

impl Children {
    pub(crate) fn new(plan: Plan, log: LogControl) -> Self {
        Self {
            dataplane: Child::new(Kind::Dataplane, plan.clone()),
            vrrp: Child::new(Kind::Vrrp, plan),
            second_path: SecondPath::default(),
            log,
        }
    }

    pub(crate) const fn child(&self, kind: Kind) -> &Child {
        match kind {
            Kind::Dataplane => &self.dataplane,
            Kind::Vrrp => &self.vrrp,
        }
    }

    /// Keeps a child alive for ever.
    pub(crate) async fn supervise(self: Arc<Self>, kind: Kind, events: mpsc::Sender<Event>) {
        let level = || self.log.level().to_lowercase();
        self.child(kind).supervise(level, events).await;
    }

    pub(crate) async fn dataplane_status(
        &self,
        deadline: Duration,
    ) -> Result<DataplaneStatus, ControlError> {
        control::get(Kind::Dataplane.socket(), "/status", deadline).await
    }

    pub(crate) async fn vrrp_status(&self, deadline: Duration) -> Result<VrrpStatus, ControlError> {
        control::get(Kind::Vrrp.socket(), "/status", deadline).await
    }

    /// Hands vrrp what it needs to watch the data plane, when both live.
    pub(crate) fn track(&self) -> std::io::Result<()> {
        let dataplane = self.dataplane.running().borrow().clone();
        let vrrp = self.vrrp.running().borrow().is_some();
        match dataplane {
            Some(dataplane) if vrrp => track::hand_over(&dataplane),
            _ => Ok(()),
        }
    }

    /// Waits for a child that is being started.
    async fn is_up(&self, kind: Kind) -> Result<(), PushError> {
        let mut running = self.child(kind).running();
        let up = running.wait_for(Option::is_some);
        match tokio::time::timeout(UP, up).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(PushError::Failed("does not run: see its log".into())),
        }
    }

    async fn put(
        &self,
        kind: Kind,
        path: &str,
        document: &(impl Serialize + Sync),
    ) -> Result<Applied, PushError> {
        self.is_up(kind).await?;
        let body = Some(document);
        match control::json(kind.socket(), Method::PUT, path, body, PUSH).await {
            Ok(applied) => Ok(applied),
            Err(ControlError::Refused { status, refusal }) => Err(match status {
                StatusCode::BAD_REQUEST => {
                    PushError::Field(FieldError::new(refusal.field, refusal.message))
                }
                StatusCode::CONFLICT => PushError::Newer(refusal.message),
                _ => PushError::Failed(refusal.message),
            }),
            Err(error) => Err(PushError::Failed(krater_model::report(&error))),
        }
    }
}

impl Family for Arc<Children> {
    async fn snapshot(&self, snapshot: &Snapshot) -> Result<Applied, PushError> {
        self.put(Kind::Dataplane, "/snapshot", snapshot).await
    }

    async fn vrrp(&self, config: &VrrpConfig) -> Result<Applied, PushError> {
        self.is_up(Kind::Vrrp).await?;
        self.second_path.supply(config);
        self.put(Kind::Vrrp, "/config", config).await
    }

    async fn level(&self, level: &str) -> Result<(), PushError> {
        self.log.set_level(level).map_err(PushError::Field)?;
        let body = serde_json::json!({ "level": level });
        for kind in [Kind::Dataplane, Kind::Vrrp] {
            // A child that does not run gets the level when it is started.
            if self.child(kind).running().borrow().is_none() {
                continue;
            }
            control::request(kind.socket(), Method::PUT, "/log-level", Some(&body), LEVEL)
                .await
                .map_err(|error| {
                    let why = krater_model::report(&error);
                    PushError::Failed(format!("{}: {why}", kind.name()))
                })?;
        }
        Ok(())
    }
}
