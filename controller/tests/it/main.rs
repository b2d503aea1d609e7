//! Tests of the API against a fresh database with a worker that ends every flow well, and of `krater net`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod access;
mod barbican;
mod clients;
mod common;
mod database_tls;
mod db_command;
mod engines;
mod flavors;
mod graph;
mod hostile;
mod https;
mod keystone;
mod lists;
mod members;
mod migrations;
mod model;
mod net_command;
mod noop;
mod persistence;
mod print_config;
mod process;
mod quota;
mod schemathesis;
mod secrets;
mod servers;
mod several;
mod shapes;
mod state_machine;
mod tls;
mod unsupported;
mod wire;
mod zones;
