//! The controller of Krater: the Octavia v2 API, journaled flows, health manager, housekeeping,
//! and the drivers that make amphorae out of namespaces and processes of this host.
//!
//! Layers: `http` → `app` → `db`; handlers hold no SQL. Decisions (`desired`, `health::evaluate`,
//! `failover::plan`) are pure; `flow` executes them step by step with a journal in the database.
//! The controller never depends on the data plane, vrrp or the agent: it knows `krater-model` alone.
#![forbid(unsafe_code)]

pub mod admin;
pub mod agent_client;
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod db;
pub mod demo;
pub mod desired;
pub mod drivers;
pub mod failover;
pub mod files;
pub mod flow;
pub mod health;
pub mod housekeeping;
pub mod http;
pub mod inventory;
pub mod pki;
pub mod reconcile;
pub mod secrets;
pub mod service;
pub mod time;
pub mod tokens;
pub mod up;
