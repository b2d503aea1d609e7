//! Drivers: one trait each, one file per driver, a fake beside them.

pub mod compute;
pub mod network;
