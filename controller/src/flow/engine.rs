//! Runs flows: claims, leases, retries with back-off, undoing.

use super::World;
use super::crash::Point;
use super::kinds::{self, Step};
use super::steps::{self, Context, Reason, StepError};
use crate::db::Retriable;
use crate::db::entity::flow;
use crate::db::query::flow::FlowKind;
use crate::db::query::journal::{self, Lost, state};
use crate::transaction;
use sea_orm::DbErr;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// How long a worker's claim lasts without renewal. Long against a stalled disk, short against the
/// patience of who waits for another controller to take over.
const LEASE: Duration = Duration::from_secs(30);
/// Renewed this often: three tries within a lease.
const RENEW: Duration = Duration::from_secs(10);
/// How often the queue is looked at without a nudge: flows of other controllers, back-offs that ended.
const POLL: Duration = Duration::from_millis(500);
/// First pause between two tries of a step; doubles up to `Settings::max_back_off`.
const FIRST_BACK_OFF: Duration = Duration::from_millis(20);
/// A step that can succeed later is tried so often at least, even when one try alone used up the
/// budget: on a starving host a slow first answer must not undo a load balancer.
const MIN_TRIES: u32 = 2;

/// Why a flow's run ended early. Nothing is lost: the journal says where to go on.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// The database does not answer.
    #[error("journal")]
    Sql(#[from] DbErr),
    /// Another worker has it.
    #[error("journal")]
    Lost(#[from] Lost),
    /// The row is not one of ours.
    #[error("flow {id} cannot be run: {why}")]
    Damaged {
        /// Which.
        id: String,
        /// Why.
        why: String,
    },
}

/// Error of the transaction that commits a step.
#[derive(Debug, thiserror::Error)]
enum CommitError {
    #[error(transparent)]
    Sql(#[from] DbErr),
    #[error(transparent)]
    Lost(#[from] Lost),
    #[error(transparent)]
    Step(#[from] StepError),
}

impl Retriable for CommitError {
    fn retriable(&self) -> bool {
        match self {
            Self::Sql(error) => error.retriable(),
            Self::Lost(error) => error.retriable(),
            Self::Step(_) => false,
        }
    }
}

/// Which way a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Back,
}

impl Way {
    /// Before the effect, after it, and before the commit.
    const fn points(self) -> [Point; 3] {
        match self {
            Self::Forward => Point::FORWARD,
            Self::Back => Point::BACK,
        }
    }
}

/// Claims flows and runs them.
#[derive(Debug, Clone)]
pub struct Worker {
    world: Arc<World>,
    /// Unique per start of a controller.
    name: Arc<str>,
    permits: Arc<Semaphore>,
    permits_total: u32,
}

impl Worker {
    /// A worker that runs up to `parallel` flows at the same time.
    pub fn new(world: Arc<World>, name: &str, parallel: usize) -> Self {
        let permits_total = u32::try_from(parallel).unwrap_or(u32::MAX);
        Self {
            world,
            name: name.into(),
            permits: Arc::new(Semaphore::new(parallel)),
            permits_total,
        }
    }

    /// Until `stop` says true. What runs then is left to its journal: the next start goes on with it.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut running = tokio::task::JoinSet::new();
        loop {
            let nudged = self.world.db.flows().notified();
            match self.claim_all(&mut running).await {
                Ok(()) => {}
                Err(error) => tracing::error!(
                    error = krater_model::report(&error),
                    "the queue of flows cannot be read"
                ),
            }
            while running.try_join_next().is_some() {}
            tokio::select! {
                () = nudged => {}
                () = tokio::time::sleep(POLL) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        // A flow that is about to end may end; the others are cut, which is a crash for them.
        let all = self.permits.acquire_many(self.permits_total);
        let _ = tokio::time::timeout(Duration::from_secs(2), all).await;
        running.shutdown().await;
    }

    async fn claim_all(&self, running: &mut tokio::task::JoinSet<()>) -> Result<(), DbErr> {
        if self.permits.available_permits() == 0 {
            return Ok(());
        }
        for candidate in journal::claimable(self.world.db.read()).await? {
            let Ok(permit) = self.permits.clone().try_acquire_owned() else {
                break;
            };
            let Some(row) = self.claim(&candidate.id).await? else {
                continue;
            };
            let worker = self.clone();
            running.spawn(async move {
                worker.run_claimed(row).await;
                drop(permit);
                // More may wait than there were permits.
                worker.world.db.nudge();
            });
        }
        Ok(())
    }

    async fn claim(&self, id: &str) -> Result<Option<flow::Model>, DbErr> {
        let lease = lease_ms();
        transaction!(self.world.db, |txn| {
            let Some(row) = journal::claim(txn, id, &self.name, lease).await? else {
                return Ok(None);
            };
            // The first step's beginning is in the journal with the claim: one commit less.
            if let (state::PENDING, Some(first)) = (row.state.as_str(), first_step(&row)) {
                journal::begin_step(txn, id, 0, first.name, state::RUNNING).await?;
                journal::advance(txn, id, &self.name, 0, state::RUNNING, None)
                    .await
                    .map_err(|error| DbErr::Custom(error.to_string()))?;
            }
            Ok::<_, DbErr>(Some(row))
        })
    }

    /// Runs what this worker claimed, and renews the lease meanwhile.
    async fn run_claimed(&self, row: flow::Model) {
        let id = row.id.clone();
        let renewing = async {
            loop {
                tokio::time::sleep(RENEW).await;
                let renewed: Result<(), Lost> = transaction!(self.world.db, |txn| {
                    journal::renew(txn, &id, &self.name, lease_ms()).await
                });
                match renewed {
                    Err(Lost::Lease(_)) => return,
                    Err(error) => tracing::warn!(
                        flow = id,
                        error = krater_model::report(&error),
                        "lease not renewed"
                    ),
                    Ok(()) => {}
                }
            }
        };
        let outcome = tokio::select! {
            outcome = self.run_flow(&row) => outcome,
            () = renewing => Err(Lost::Lease(id.clone()).into()),
        };
        if let Err(error) = outcome {
            tracing::error!(
                flow = id,
                error = krater_model::report(&error),
                "flow interrupted; it goes on later"
            );
            // Not at once: what interrupted it may still be there.
            let released: Result<(), DbErr> = transaction!(self.world.db, |txn| {
                journal::release(txn, &id, &self.name, 1_000).await
            });
            if let Err(error) = released {
                tracing::warn!(flow = id, %error, "not released: it goes on when the lease ends");
            }
        }
    }

    async fn run_flow(&self, row: &flow::Model) -> Result<(), Interrupted> {
        let damaged = |why: String| Interrupted::Damaged {
            id: row.id.clone(),
            why,
        };
        let kind: FlowKind = row.kind.parse().map_err(damaged)?;
        let steps = kinds::steps(kind);
        let journaled = journal::steps(self.world.db.read(), &row.id).await?;
        let outputs: HashMap<String, Value> = journaled
            .iter()
            .filter_map(|step| Some((step.name.clone(), serde_json::from_str(&step.output).ok()?)))
            .collect();
        let mut context =
            Context::new(self.world.clone(), row, kind, &self.name, outputs).map_err(damaged)?;
        let started = Instant::now();
        if row.attempts > 1 {
            tracing::info!(
                flow = row.id,
                kind = row.kind,
                step = row.current_step,
                request_id = row.request_id,
                "flow goes on after an interruption"
            );
        }
        let mut position = usize::try_from(row.current_step).unwrap_or_default();
        if row.state != state::REVERTING {
            while let Some(step) = steps.get(position).copied() {
                match self
                    .attempt(&context, steps, position, Way::Forward)
                    .await?
                {
                    Ok(output) => {
                        context.outputs.insert(step.name.to_owned(), output);
                        position += 1;
                    }
                    Err(error) => {
                        self.turn_back(&context, step, position, &error).await?;
                        break;
                    }
                }
            }
            if position >= steps.len() {
                tracing::info!(
                    flow = row.id,
                    kind = row.kind,
                    request_id = row.request_id,
                    milliseconds = started.elapsed().as_millis(),
                    "flow succeeded"
                );
                self.world.db.nudge();
                return Ok(());
            }
        }
        self.undo(&context, steps, position).await
    }

    /// One step, forward or back, with its retries. The inner error: it cannot be done.
    async fn attempt(
        &self,
        context: &Context,
        steps: &[Step],
        position: usize,
        way: Way,
    ) -> Result<Result<Value, StepError>, Interrupted> {
        let Some(step) = steps.get(position) else {
            return Ok(Ok(Value::Null));
        };
        let crash = &self.world.crash;
        let [before, ..] = way.points();
        crash.pass(context.kind, step.name, before).await;
        let begun = Instant::now();
        let settings = &self.world.settings;
        let deadline = begun
            + match way {
                Way::Forward => settings.step_budget,
                Way::Back => settings.undo_budget,
            };
        let mut pause = FIRST_BACK_OFF;
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.once(context, steps, position, way).await? {
                Ok(output) => {
                    tracing::debug!(
                        flow = context.id,
                        step = step.name,
                        ?way,
                        request_id = context.request_id,
                        milliseconds = begun.elapsed().as_millis(),
                        "step done"
                    );
                    return Ok(Ok(output));
                }
                Err(error) => error,
            };
            tracing::warn!(
                flow = context.id,
                step = step.name,
                ?way,
                request_id = context.request_id,
                error = error.text,
                retryable = error.retryable,
                "step failed"
            );
            let over = tries >= MIN_TRIES && Instant::now() + pause >= deadline;
            if !error.retryable || over {
                return Ok(Err(error));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(settings.max_back_off);
        }
    }

    async fn once(
        &self,
        context: &Context,
        steps: &[Step],
        position: usize,
        way: Way,
    ) -> Result<Result<Value, StepError>, Interrupted> {
        let Some(step) = steps.get(position).copied() else {
            return Ok(Ok(Value::Null));
        };
        let crash = &self.world.crash;
        let effect = match way {
            Way::Forward => steps::run(context, step).await,
            Way::Back => steps::undo(context, step).await,
        };
        let effect = match effect {
            Ok(_) if way == Way::Forward && crash.fails(context.kind, step.name) => {
                return Ok(Err(StepError::permanent(Reason::InjectedFault, step.name)));
            }
            Ok(effect) => effect,
            Err(error) => return Ok(Err(error)),
        };
        let [_, after, _] = way.points();
        crash.pass(context.kind, step.name, after).await;
        let done = match way {
            Way::Forward => self.commit(context, steps, position, &effect).await,
            Way::Back => {
                self.commit_undo(context, step, position, &effect, true)
                    .await
            }
        };
        match done {
            Ok(output) => Ok(Ok(output)),
            Err(CommitError::Sql(error)) => Err(error.into()),
            Err(CommitError::Lost(error)) => Err(error.into()),
            Err(CommitError::Step(error)) => Ok(Err(error)),
        }
    }

    async fn commit(
        &self,
        context: &Context,
        steps: &[Step],
        position: usize,
        effect: &Value,
    ) -> Result<Value, CommitError> {
        let Some(step) = steps.get(position).copied() else {
            return Ok(Value::Null);
        };
        let (here, there) = (index(position), index(position + 1));
        let id = context.id.as_str();
        transaction!(self.world.db, |txn| {
            journal::fence(txn, id, &self.name).await?;
            let output = steps::commit(context, step, effect, txn).await?;
            journal::end_step(txn, id, here, "DONE", Some(&output), None).await?;
            journal::advance(txn, id, &self.name, there, state::RUNNING, None).await?;
            match steps.get(position + 1) {
                Some(next) => {
                    journal::begin_step(txn, id, there, next.name, "RUNNING").await?;
                }
                None => journal::end(txn, id, &self.name, state::SUCCEEDED).await?,
            }
            let crash = &self.world.crash;
            crash
                .pass(context.kind, step.name, Point::Uncommitted)
                .await;
            Ok(output)
        })
    }

    async fn turn_back(
        &self,
        context: &Context,
        step: Step,
        position: usize,
        error: &StepError,
    ) -> Result<(), Interrupted> {
        let (id, here) = (context.id.as_str(), index(position));
        let text = format!("{}: {}", step.name, error.text);
        tracing::error!(
            flow = id,
            kind = context.kind.as_str(),
            request_id = context.request_id,
            error = text,
            "flow turns back"
        );
        let done: Result<(), Lost> = transaction!(self.world.db, |txn| {
            journal::end_step(txn, id, here, "FAILED", None, Some(&error.text)).await?;
            journal::advance(txn, id, &self.name, here, state::REVERTING, Some(&text)).await?;
            let crash = &self.world.crash;
            crash.pass(context.kind, step.name, Point::TurnBack).await;
            Ok(())
        });
        Ok(done?)
    }

    /// Undoes the steps from `position` down to the first, which settles the statuses.
    async fn undo(
        &self,
        context: &Context,
        steps: &[Step],
        position: usize,
    ) -> Result<(), Interrupted> {
        let last = steps.len().saturating_sub(1);
        for position in (0..=position.min(last)).rev() {
            let Some(step) = steps.get(position).copied() else {
                continue;
            };
            let Err(error) = self.attempt(context, steps, position, Way::Back).await? else {
                continue;
            };
            tracing::error!(
                flow = context.id,
                step = step.name,
                request_id = context.request_id,
                error = error.text,
                "step not undone; housekeeping removes what is left"
            );
            let given_up = self.commit_undo(context, step, position, &Value::Null, false);
            match given_up.await {
                Ok(_) => {}
                Err(CommitError::Sql(error)) => return Err(error.into()),
                Err(CommitError::Lost(error)) => return Err(error.into()),
                Err(CommitError::Step(error)) => {
                    return Err(Interrupted::Damaged {
                        id: context.id.clone(),
                        why: error.text,
                    });
                }
            }
        }
        Ok(())
    }

    /// Says that a step is undone, or that it cannot be; after the first one the flow ends.
    async fn commit_undo(
        &self,
        context: &Context,
        step: Step,
        position: usize,
        effect: &Value,
        clean: bool,
    ) -> Result<Value, CommitError> {
        let id = context.id.as_str();
        let outcome = if clean { "UNDONE" } else { "FAILED" };
        transaction!(self.world.db, |txn| {
            journal::fence(txn, id, &self.name).await?;
            steps::undo_commit(context, step, effect, txn).await?;
            journal::end_step(txn, id, index(position), outcome, None, None).await?;
            if let Some(before) = position.checked_sub(1) {
                let before = index(before);
                journal::advance(txn, id, &self.name, before, state::REVERTING, None).await?;
            } else {
                let row = journal::find(txn, id).await?;
                let reason = row.and_then(|row| row.error);
                steps::failed(context, reason.as_deref().unwrap_or("unknown"), txn).await?;
                let steps = journal::steps(txn, id).await?;
                let end = if steps.iter().all(|step| step.state == "UNDONE") {
                    state::REVERTED
                } else {
                    state::FAILED
                };
                journal::end(txn, id, &self.name, end).await?;
            }
            let crash = &self.world.crash;
            crash
                .pass(context.kind, step.name, Point::UndoUncommitted)
                .await;
            Ok(Value::Null)
        })
    }

    /// Claims and runs flows one after another until none can be claimed. For tests.
    #[cfg(test)]
    pub(crate) async fn drain(&self) -> Result<usize, Interrupted> {
        let mut ran = 0;
        loop {
            let rows = journal::claimable(self.world.db.read()).await?;
            let Some(row) = rows.first() else {
                return Ok(ran);
            };
            if let Some(row) = self.claim(&row.id).await? {
                self.run_flow(&row).await?;
                ran += 1;
            }
        }
    }
}

fn first_step(row: &flow::Model) -> Option<&'static Step> {
    let kind: FlowKind = row.kind.parse().ok()?;
    kinds::steps(kind).first()
}

fn index(position: usize) -> i32 {
    i32::try_from(position).unwrap_or(i32::MAX)
}

fn lease_ms() -> i64 {
    i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX)
}
