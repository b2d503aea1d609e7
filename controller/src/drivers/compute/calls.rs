//! What the local drivers share: a call runs on a thread that may block, one at a time for each amphora, and the
//! processes that were started are reaped when they end.

use super::Error;
use futures_util::future::BoxFuture;
use krater_model::AmphoraId;
use std::collections::HashMap;
use std::io;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Processes that this one started, to be reaped when they end.
    pub(super) children: Mutex<Vec<Child>>,
    /// One call at a time for each amphora: nothing is started twice, nor in an amphora that is being removed.
    pub(super) busy: Mutex<HashMap<AmphoraId, Arc<Mutex<()>>>>,
}

/// Runs `work` on a driver's inner part.
pub(super) fn call<D, T>(
    driver: &Arc<D>,
    what: &'static str,
    amphora: AmphoraId,
    work: impl FnOnce(&D) -> io::Result<T> + Send + 'static,
) -> BoxFuture<'static, Result<T, Error>>
where
    D: AsRef<Calls> + Send + Sync + 'static,
    T: Send + 'static,
{
    let driver = Arc::clone(driver);
    Box::pin(async move {
        let done = tokio::task::spawn_blocking(move || {
            let calls = (*driver).as_ref();
            calls.reap();
            let turn = calls.turn(amphora);
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            work(&driver)
        });
        let done = done
            .await
            .unwrap_or_else(|panic| Err(io::Error::other(panic)));
        done.map_err(|source| Error {
            amphora,
            what,
            // Repeating helps against everything but a missing program or right.
            retryable: !matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ),
            source: source.into(),
        })
    })
}

impl Calls {
    /// Remembers a process.
    pub(super) fn started(&self, child: Child) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.push(child);
    }

    /// Takes note of ended processes, so that they do not stay as zombies.
    pub(super) fn reap(&self) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    /// The lock of an amphora's calls.
    fn turn(&self, amphora: AmphoraId) -> Arc<Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(busy.entry(amphora).or_default())
    }
}
