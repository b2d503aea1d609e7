//! Log lines about requests, few enough that a flood of bad requests is no flood of lines.

use crate::proxy::budget;
use krater_dataplane_core::http1::Refusal;
use krater_model::{ListenerId, MemberId};
use std::net::SocketAddr;

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
