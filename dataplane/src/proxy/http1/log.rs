//! Log lines about requests, few enough that a flood of bad requests is no flood of lines.

use krater_dataplane_core::http1::Refusal;
use krater_model::{ListenerId, MemberId};
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Lines per second and worker at info level; all others are at debug.
const PER_SECOND: u32 = 10;

thread_local! {
    static WINDOW: Cell<Option<(Instant, u32)>> = const { Cell::new(None) };
}

/// A request got an answer of ours.
pub(super) fn refusal(listener: ListenerId, client: SocketAddr, why: Refusal) {
    let status = why.status();
    if budget() {
        tracing::info!(%listener, client.addr = %client, status, reason = %why, "request refused");
    } else {
        tracing::debug!(%listener, client.addr = %client, status, reason = %why, "request refused");
    }
}

/// A response ended in the middle.
pub(super) fn broken(listener: ListenerId, member: MemberId, reason: &str) {
    if budget() {
        tracing::info!(%listener, %member, reason, "response cut short");
    } else {
        tracing::debug!(%listener, %member, reason, "response cut short");
    }
}

fn budget() -> bool {
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
