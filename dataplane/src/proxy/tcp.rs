//! The TCP proxy: TCP listeners, and HTTPS passed through.
//!
//! accept → choose → connect (another member when that fails and nothing was sent) → PROXY header if
//! the pool wants one → bytes both ways. Cancel-safe: dropping the future closes both connections.

use super::TRIES;
use crate::io::{self, Conn, IdleTimeouts, RelayError};
use crate::runtime::{ListenerView, MemberGuard, PoolView, SelectInput, select};
use crate::worker::WorkerShared;
use krater_model::report;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Serves a client's connection to its end.
pub async fn serve(mut client: Conn, view: Arc<ListenerView>, worker: Rc<WorkerShared>) {
    let (id, timeouts, pool) = (
        view.conf.id,
        view.conf.timeouts,
        view.default_pool().cloned(),
    );
    drop(view);
    let peer = client.peer();
    let Some(pool) = pool else {
        tracing::info!(listener.id = %id, client.addr = %peer, reason = "no default pool", "closed");
        return;
    };
    let inspect = timeouts.tcp_inspect.duration();
    if !inspect.is_zero() {
        // Bytes, an error or the end of the time: each lets the connection go on.
        let _either = tokio::time::timeout(inspect, client.readable()).await;
    }
    let connect_timeout = timeouts.member_connect.duration();
    let Some((guard, mut member)) = reach(&pool, peer, connect_timeout, &worker).await else {
        let reason = "no member can serve";
        tracing::info!(listener.id = %id, client.addr = %peer, pool.id = %pool.conf.id, reason, "closed");
        return;
    };
    if let Err(error) = super::announce(&client, None, &mut member, pool.conf.protocol).await {
        let reason = report(&error);
        tracing::debug!(listener.id = %id, client.addr = %peer, member.addr = %guard.address(), reason, "closed");
        return;
    }
    drop(pool);
    let idle = IdleTimeouts {
        client: timeouts.client_data.duration(),
        member: timeouts.member_data.duration(),
    };
    let end = io::tunnel(&mut client, &mut member, idle, &worker).await;
    let member = guard.address();
    match end {
        Ok((up, down)) => {
            tracing::debug!(listener.id = %id, client.addr = %peer, member.addr = %member, up, down, "done");
        }
        Err(error @ RelayError::Idle(_)) => {
            tracing::debug!(listener.id = %id, client.addr = %peer, member.addr = %member, reason = %error, "closed");
        }
        Err(error) => {
            let reason = report(&error);
            tracing::debug!(listener.id = %id, client.addr = %peer, member.addr = %member, reason, "closed");
        }
    }
}

/// Chooses and connects; another member when one cannot be reached, at most [`TRIES`] in all.
pub async fn reach(
    pool: &PoolView,
    client: SocketAddr,
    timeout: Duration,
    worker: &WorkerShared,
) -> Option<(MemberGuard, Conn)> {
    let mut tried = Vec::new();
    while tried.len() < TRIES {
        let input = SelectInput {
            client,
            exclude: &tried,
        };
        let guard = select(pool, &input)?;
        match worker.shared.connect(guard.address(), timeout).await {
            Ok(conn) => return Some((guard, conn)),
            Err(error) => {
                guard.state().count_failure();
                tracing::warn!(member.id = %guard.id(), reason = report(&error), "connect failed");
                tried.push(guard.id());
            }
        }
    }
    None
}
