//! Drivers: one trait each, one file per driver, a fake beside them.

use std::time::Duration;

pub mod compute;
pub mod layout;
pub mod network;
pub mod noop;
#[cfg(test)]
pub(crate) mod testing;

/// How long processes may take to die of SIGKILL: long disk waits included.
pub(crate) const KILL_WITHIN: Duration = Duration::from_secs(20);
