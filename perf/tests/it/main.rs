//! Runs the real binary.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod kit;
mod load;
mod run;
mod vrrp;
