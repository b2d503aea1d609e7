//! Memory of the process: locked where that is permitted, and no more of it than is used.
//!
//! What is paged out under memory pressure comes back from a disk, in the middle of a takeover. Locked is what was touched
//! (MCL_ONFAULT), not the whole program file. An unprivileged process may lock as much as RLIMIT_MEMLOCK says, and
//! counted is all that is mapped: with a limit, an allocation could fail later. So it is lifted while the process is
//! root, and where that is not permitted nothing is locked.

use crate::sys;
use krater_model::control::Granted;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::{debug, warn};

/// Whether it is locked, shared by those who tell and who change it.
#[derive(Debug, Clone)]
pub(crate) struct Memory(Arc<Mutex<Granted>>);

impl Memory {
    /// Locks it. To be called before privileges are dropped.
    pub(crate) fn lock() -> Self {
        let locked = match lift_limit() {
            Ok(()) => lock(),
            Err(why) => Granted::No(why),
        };
        if let Granted::No(why) = &locked {
            warn!(
                why,
                "memory is not locked: under memory pressure takeovers may be late"
            );
        }
        Self(Arc::new(Mutex::new(locked)))
    }

    /// Whether it is.
    pub(crate) fn locked(&self) -> Granted {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Gives back what only starting or a change needed.
    pub(crate) fn rest(&self) {
        let mut locked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lockable = *locked == Granted::Yes;
        // Locked pages cannot be given back.
        if lockable && let Err(error) = sys::unlock_memory() {
            debug!(%error, "memory stays");
            return;
        }
        if let Err(error) = krater_net::resident::give_back() {
            debug!(%error, "memory stays");
        }
        if lockable {
            *locked = lock();
            if let Granted::No(why) = &*locked {
                warn!(why, "memory is not locked any more");
            }
        }
    }
}

fn lock() -> Granted {
    match sys::lock_memory() {
        Ok(()) => Granted::Yes,
        Err(error) => Granted::No(format!("mlockall: {error}")),
    }
}

fn lift_limit() -> Result<(), String> {
    const LIMIT: Resource = Resource::RLIMIT_MEMLOCK;
    let limits = getrlimit(LIMIT).map_err(|error| format!("RLIMIT_MEMLOCK: {error}"))?;
    let (soft, hard) = limits;
    if soft == RLIM_INFINITY {
        return Ok(());
    }
    setrlimit(LIMIT, RLIM_INFINITY, RLIM_INFINITY).map_err(|error| {
        format!(
            "RLIMIT_MEMLOCK is {hard} bytes and cannot be lifted ({error}): start it with an unlimited one"
        )
    })
}
