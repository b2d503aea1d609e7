//! Journaled flows: lists of idempotent steps that survive the death of the controller.
//!
//! Before a step runs, the journal in the database says so; its output and what it changes in the
//! database are committed in one transaction with the journal's "done". A controller that is killed
//! anywhere leaves a row that says where; the next one (or another one, when the lease ends) begins
//! that step again. A step that cannot succeed is undone with all before it.
//!
//! | module | what |
//! |---|---|
//! | [`kinds`] | which flow has which steps |
//! | [`engine`] | claims, leases, retries, undoing, crash points |
//! | [`steps`] | what each step does, commits and undoes |
//!
//! Tasks: one dispatcher ([`engine::Worker::run`]) and one task per claimed flow, bounded by
//! `controller.workers`. Cancel-safe: dropping a flow's future anywhere is the same as a crash there.

use crate::agent_client::AgentApi;
use crate::db::Db;
use crate::desired::Common;
use crate::drivers::compute::Compute;
use crate::pki::Pki;
use std::sync::Arc;
use std::time::Duration;

pub mod crash;
pub mod engine;
pub mod kinds;
pub mod steps;

#[cfg(test)]
mod tests;

/// What flows work with.
#[derive(Debug)]
pub struct World {
    /// Rows, journal, queue.
    pub db: Db,
    /// Makes and ends amphorae.
    pub compute: Arc<dyn Compute>,
    /// Talks to their agents.
    pub agents: Arc<dyn AgentApi>,
    /// Issues their certificates.
    pub pki: Arc<Pki>,
    /// What is the same in every desired state.
    pub common: Common,
    /// Numbers.
    pub settings: Settings,
    /// Where the process shall die, for tests.
    pub crash: Arc<dyn crash::CrashPoints>,
}

/// Numbers of the flows.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Validity of new amphora certificates.
    pub certificate_days: u32,
    /// Worker threads of each amphora's data plane. None: one per CPU.
    pub amphora_workers: Option<u16>,
    /// How long one step is tried again before the flow is undone.
    pub step_budget: Duration,
    /// How long undoing one step is tried again before it is left to housekeeping.
    pub undo_budget: Duration,
    /// How long an amphora may take to boot until its agent answers.
    pub boot_timeout: Duration,
    /// How long a pair may take to elect an owner of the VIP.
    pub ready_timeout: Duration,
    /// Longest pause between two tries.
    pub max_back_off: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            certificate_days: 30,
            amphora_workers: None,
            step_budget: Duration::from_secs(20),
            undo_budget: Duration::from_secs(20),
            boot_timeout: Duration::from_secs(30),
            ready_timeout: Duration::from_secs(10),
            max_back_off: Duration::from_secs(1),
        }
    }
}
