//! The TCP proxy: TCP listeners, and HTTPS passed through.
//!
//! accept → choose → connect (another member when that fails and nothing was sent) → PROXY header if
//! the pool wants one → bytes both ways. Cancel-safe: dropping the future closes both connections.

use super::record::Record;
use super::{Choosing, TRIES, Unreached, budget};
use crate::clock::{Clock, Key};
use crate::io::{self, Conn, IdleTimeouts, TunnelEnd};
use crate::runtime::{ListenerView, MemberGuard, PoolView, SelectInput};
use crate::worker::WorkerShared;
use krater_dataplane_core::http1::Refusal;
use krater_dataplane_core::persistence::Token;
use krater_model::{ListenerId, report};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Serves a client's connection to its end. Its task is woken by its `key` among [`WorkerShared::timers`]. No `async fn`, since that would keep its arguments twice.
pub fn serve(
    mut client: Conn,
    view: Arc<ListenerView>,
    worker: Rc<WorkerShared>,
    key: Key,
) -> impl Future<Output = ()> {
    let id = view.conf.id;
    let timeouts = view.conf.timeouts;
    let mut record = Record::default();
    record.begin(&view, Duration::ZERO);
    async move {
        // Boxed: what only the beginning needs, an idle connection does not carry along.
        let opening = Box::pin(open(&mut client, view, &worker, &mut record));
        let (guard, mut member) = match opening.await {
            Ok(open) => open,
            Err(reason) => {
                record.write_connection(&client, &worker);
                if budget() {
                    tracing::info!(listener.id = %id, client.addr = %client.peer(), reason, "closed");
                } else {
                    tracing::debug!(listener.id = %id, client.addr = %client.peer(), reason, "closed");
                }
                return;
            }
        };
        let mut clock = Clock::new(key);
        let idle = IdleTimeouts {
            client: timeouts.client_data.duration(),
            member: timeouts.member_data.duration(),
        };
        let end = io::tunnel(&mut client, &mut member, idle, &mut clock, &worker).await;
        record.tunneled(&end, idle.client_is_first());
        let address = guard.address();
        drop(guard);
        record.write_connection(&client, &worker);
        log_end(id, client.peer(), address, end);
    }
}

fn log_end(id: ListenerId, client: SocketAddr, member: SocketAddr, end: TunnelEnd) {
    let TunnelEnd { up, down, result } = end;
    match result {
        Ok(()) => {
            tracing::debug!(listener.id = %id, client.addr = %client, member.addr = %member, up, down, "done");
        }
        Err(error) => {
            let reason = report(&error);
            tracing::debug!(listener.id = %id, client.addr = %client, member.addr = %member, reason, "closed");
        }
    }
}

/// Until bytes can flow. An error says why they cannot.
async fn open(
    client: &mut Conn,
    view: Arc<ListenerView>,
    worker: &WorkerShared,
    record: &mut Record,
) -> Result<(MemberGuard, Conn), String> {
    let Some(pool) = view.default_pool().cloned() else {
        record.refused(Refusal::NoMember);
        return Err("no default pool".into());
    };
    record.pool(&pool);
    let timeouts = view.conf.timeouts;
    drop(view);
    let inspect = timeouts.tcp_inspect.duration();
    if !inspect.is_zero() {
        // Bytes, an error or the end of the time: each lets the connection go on.
        let _either = tokio::time::timeout(inspect, client.readable()).await;
    }
    let timeout = timeouts.member_connect.duration();
    reach(&pool, client, timeout, worker, record).await
}

/// Chooses and connects; another member when one cannot be reached, at most [`TRIES`] in all. An error
/// says why there is none.
async fn reach(
    pool: &PoolView,
    client: &Conn,
    timeout: Duration,
    worker: &WorkerShared,
    record: &mut Record,
) -> Result<(MemberGuard, Conn), String> {
    let (mut tried, mut short) = (Vec::new(), None);
    while tried.len() < TRIES {
        let input = SelectInput {
            client: client.peer(),
            exclude: &tried,
            token: Token::None,
        };
        let guard = match super::choose(pool, &input, timeout, client, record).await {
            Ok(guard) => guard,
            Err(Choosing::Nobody) => break,
            Err(Choosing::Refused(why)) => {
                record.refused(why);
                return Err(why.reason().into());
            }
            Err(Choosing::ClientGone) => {
                record.client_gone();
                return Err("the client is gone".into());
            }
        };
        let connecting = super::connect(client, None, pool, guard.address(), timeout, worker);
        match connecting.await {
            Ok(conn) => {
                guard.state().observe_success();
                record.connected();
                return Ok((guard, conn));
            }
            Err(Unreached::Own(own)) => {
                record.unreached();
                if !own.is_per_member() {
                    record.refused(Refusal::Own(own));
                    return Err(own.reason().into());
                }
                short = Some(own);
                tried.push(guard.id());
            }
            Err(Unreached::Member(reason)) => {
                record.unreached();
                super::failed(pool, &guard, &reason);
                tried.push(guard.id());
            }
        }
    }
    record.refused(super::nobody(short, &tried));
    Err(match short {
        Some(own) => own.reason().into(),
        None => format!("no member of pool {} can serve", pool.conf.id),
    })
}
