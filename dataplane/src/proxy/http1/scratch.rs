//! Memory that only a request in flight needs, kept per worker between requests.

use crate::proxy::record::Record;
use krater_dataplane_core::http1::{RequestHead, ResponseHead};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Kept per worker; more in flight at once allocate.
const SPARE: usize = 64;

thread_local! {
    #[allow(clippy::vec_box, reason = "moved as a pointer, into a future that shall be small")]
    static POOL: RefCell<Vec<Box<Parts>>> = const { RefCell::new(Vec::new()) };
}

/// Heads as parsed, and heads as they go out.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) request: RequestHead,
    pub(super) response: ResponseHead,
    /// Head towards the member, or an answer of ours.
    pub(super) up: Vec<u8>,
    /// Head towards the client.
    pub(super) down: Vec<u8>,
    /// For the access log.
    pub(super) record: Record,
}

/// [`Parts`] that go back on drop.
#[derive(Debug)]
pub(super) struct Scratch(Option<Box<Parts>>);

impl Scratch {
    pub(super) fn take() -> Self {
        let spare = POOL.with_borrow_mut(Vec::pop);
        Self(Some(spare.unwrap_or_default()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(mut parts) = self.0.take() {
            parts.record = Record::default();
            // The thread may be ending: then it is freed.
            let _ = POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() < SPARE {
                    pool.push(parts);
                }
            });
        }
    }
}

impl Deref for Scratch {
    type Target = Parts;
    #[allow(clippy::expect_used, reason = "only drop takes it")]
    fn deref(&self) -> &Parts {
        self.0.as_deref().expect("taken by drop alone")
    }
}

impl DerefMut for Scratch {
    #[allow(clippy::expect_used, reason = "only drop takes it")]
    fn deref_mut(&mut self) -> &mut Parts {
        self.0.as_deref_mut().expect("taken by drop alone")
    }
}
