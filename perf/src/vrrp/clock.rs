//! What the instruments of a measurement share: one clock, and a word that ends their threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Microseconds since it was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// Tells a thread to end, at the latest when dropped: a measurement that fails leaves none behind.
#[derive(Debug, Default)]
pub(crate) struct End(Arc<AtomicBool>);

impl End {
    /// The thread's side of it.
    pub(crate) fn told(&self) -> impl Fn() -> bool + Send + 'static {
        let told = Arc::clone(&self.0);
        move || told.load(Ordering::SeqCst)
    }

    pub(crate) fn tell(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.tell();
    }
}
