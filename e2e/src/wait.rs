//! Waiting for conditions. Tests never sleep for a time and hope.

use std::time::{Duration, Instant};

/// Long enough for anything that works on a loaded machine; only broken things take it.
pub const LONG: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks until there is something.
///
/// # Panics
/// When there is nothing after [`LONG`].
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(LONG, what, look)
}

/// Looks until there is something.
///
/// # Panics
/// When there is nothing after `limit`.
pub fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: not after {} s",
            limit.as_secs()
        );
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Looks until it holds.
///
/// # Panics
/// When it does not hold after [`LONG`].
pub fn for_condition(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || holds().then_some(()));
}
