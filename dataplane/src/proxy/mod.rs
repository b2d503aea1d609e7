//! One driver per protocol. Each takes an accepted connection to its end.

mod budget;
pub(crate) mod front;
pub mod http1;
mod record;
pub mod tcp;

use crate::io::{Conn, ConnectError};
use crate::runtime::{MemberGuard, PoolView, SelectInput, Selected, Turn, TurnError, select};
use crate::worker::WorkerShared;
use budget::budget;
use krater_dataplane_core::http1::Refusal;
use krater_dataplane_core::proxy_protocol;
use krater_dataplane_core::shortage::Own;
use krater_model::state::PoolProtocol;
use krater_model::{MemberId, report};
use record::Record;
use std::net::SocketAddr;
use std::time::Duration;

/// Members that are tried for a connection or request: HAProxy's `retries 3` with `option redispatch`.
pub const TRIES: usize = 4;

/// Why a member was not reached. Nothing of the client's was sent.
#[derive(Debug)]
enum Unreached {
    /// The fault is ours: it must not count as the member's.
    Own(Own),
    /// The member's, or that of the way there: the text of a log line.
    Member(String),
}

impl From<ConnectError> for Unreached {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Own { own, .. } => Self::Own(own),
            other => Self::Member(report(&other)),
        }
    }
}

/// Why there is no member for a client.
#[derive(Debug)]
enum Choosing {
    /// None can serve.
    Nobody,
    /// All that could are at their limits.
    Refused(Refusal),
    /// It gave up while it waited.
    ClientGone,
}

/// Chooses a member of `pool`. While all are at their limits `client` waits, for as long as the pool says or
/// as a connect may take.
async fn choose(
    pool: &PoolView,
    input: &SelectInput<'_>,
    connect_timeout: Duration,
    client: &Conn,
    record: &mut Record,
) -> Result<MemberGuard, Choosing> {
    let guard = match select(pool, input) {
        Selected::Member(guard) => Ok(guard),
        Selected::Nobody => Err(Choosing::Nobody),
        Selected::QueueFull => Err(Choosing::Refused(Refusal::QueueFull)),
        Selected::Wait(turn) => {
            record.queued(turn.ahead(), turn.is_for_one());
            let timeout = pool.conf.queue.timeout.unwrap_or(connect_timeout);
            // Boxed: nearly all connections never wait.
            Box::pin(wait(turn, timeout, client)).await
        }
    }?;
    record.chosen(&guard);
    Ok(guard)
}

async fn wait(turn: Turn, timeout: Duration, client: &Conn) -> Result<MemberGuard, Choosing> {
    tokio::select! {
        biased;
        came = turn.wait(timeout) => came.map_err(|error| match error {
            TurnError::Late => Choosing::Refused(Refusal::QueueTimeout),
            TurnError::Nobody => Choosing::Nobody,
        }),
        () = client.failed() => Err(Choosing::ClientGone),
    }
}

/// A connection to the member at `address` that a request or bytes can be written to: connected,
/// the client announced, TLS done, each within `timeout`.
async fn connect(
    client: &Conn,
    common_name: Option<&str>,
    pool: &PoolView,
    address: SocketAddr,
    timeout: Duration,
    worker: &WorkerShared,
) -> Result<Conn, Unreached> {
    let mut conn = worker.connect(address, timeout).await?;
    announce(client, common_name, &mut conn, pool.conf.protocol)
        .await
        .map_err(|error| Unreached::Member(report(&error)))?;
    let Some(connector) = pool.connector() else {
        return Ok(conn);
    };
    connector
        .connect(conn, sni(client), timeout)
        .await
        .map_err(|error| Unreached::Member(format!("TLS: {}", report(&error))))
}

/// Why nobody serves once all that may be tried were: what we were short of towards some, if anything.
fn nobody(short: Option<Own>, tried: &[MemberId]) -> Refusal {
    match short {
        Some(own) => Refusal::Own(own),
        None if tried.is_empty() => Refusal::NoMember,
        None => Refusal::ConnectFailed,
    }
}

/// A connect to a member failed.
fn failed(pool: &PoolView, guard: &MemberGuard, reason: &str) {
    guard.state().count_failure();
    tracing::debug!(member.id = %guard.id(), reason, "connect failed");
    if guard.state().observe_failure(pool.conf.failures_in_a_row) {
        pool.runtime.changed();
        tracing::info!(
            member.id = %guard.id(),
            member.addr = %guard.address(),
            pool.id = %pool.conf.id,
            old = "Up",
            new = "Down",
            reason = "too many failures of traffic in a row",
            "member health changed"
        );
    }
}

/// The server name that a client asked for.
fn sni(client: &Conn) -> Option<&str> {
    client.tls()?.sni.as_deref()
}

/// Tells a member who its client is, if its pool speaks the PROXY protocol. Must be the first bytes.
async fn announce(
    client: &Conn,
    common_name: Option<&str>,
    member: &mut Conn,
    protocol: PoolProtocol,
) -> std::io::Result<()> {
    let header = match protocol {
        PoolProtocol::Proxy => proxy_protocol::v1(client.peer(), client.local()),
        PoolProtocol::Proxyv2 => {
            let tls = client.tls().map(|tls| proxy_protocol::Tls {
                version: tls.version,
                has_certificate: tls.client_certificate.is_some(),
                common_name,
            });
            proxy_protocol::v2(client.peer(), client.local(), tls)
        }
        PoolProtocol::Tcp | PoolProtocol::Http | PoolProtocol::Https => return Ok(()),
    };
    member.write_all(&header).await
}
