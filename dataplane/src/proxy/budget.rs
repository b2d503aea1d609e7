//! Log lines about single connections and requests: a flood of them is no flood of lines.

use std::cell::Cell;
use std::time::Duration;
use tokio::time::Instant;

/// Lines per second and worker at info level; all others are at debug.
const PER_SECOND: u32 = 10;

thread_local! {
    static WINDOW: Cell<Option<(Instant, u32)>> = const { Cell::new(None) };
}

/// Whether a line may be at info level.
pub(super) fn budget() -> bool {
    let now = Instant::now();
    WINDOW.with(|window| match window.get() {
        Some((start, lines)) if now.duration_since(start) < Duration::from_secs(1) => {
            window.set(Some((start, lines.saturating_add(1))));
            lines < PER_SECOND
        }
        _ => {
            window.set(Some((now, 1)));
            true
        }
    })
}
