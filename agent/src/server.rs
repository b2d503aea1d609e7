//! The agent's REST server: HTTP/1.1 over mutual TLS (`krater_model::wire::agent`).
//!
//! One task per connection. Who the peer is was decided in the handshake; what arrives here is the
//! controller. Still everything is bounded: it may be broken.

mod body;
pub(crate) mod error;
pub(crate) mod logs;
mod routes;
pub(crate) mod tls;

use crate::agent::Agent;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use krater_telemetry::RateLimit;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Connections at once. Controllers keep one or two each.
const CONNECTIONS: usize = 64;
/// A handshake on a busy host over a slow network.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Until the head of a request is complete; also how long a kept-alive connection may be idle.
const HEAD: Duration = Duration::from_secs(60);
/// After accept failed (no descriptors), others get time to give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const BACKLOG: i32 = 128;

/// The socket to serve on. The address need not be there yet.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves for ever.
pub(crate) async fn run(agent: Arc<Agent>, listener: TcpListener, tls: rustls::ServerConfig) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let refused = Arc::new(RateLimit::new(5, Duration::from_secs(10)));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(held) = refused.pass(Instant::now()) {
                    tracing::warn!(%error, held, "accept failed");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            agent.metrics.connections_refused.inc();
            if let Some(held) = refused.pass(Instant::now()) {
                tracing::warn!(%peer, held, "connection refused: {CONNECTIONS} are open");
            }
            continue;
        };
        let (agent, acceptor) = (Arc::clone(&agent), acceptor.clone());
        let refused = Arc::clone(&refused);
        tokio::spawn(async move {
            connection(agent, acceptor, stream, peer, &refused).await;
            drop(place);
        });
    }
}

async fn connection(
    agent: Arc<Agent>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    refused: &RateLimit,
) {
    // A controller that died without a word is noticed.
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5));
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        failed => {
            let why = match failed {
                Ok(Err(error)) => krater_model::report(&error),
                _ => format!("not complete within {} s", HANDSHAKE.as_secs()),
            };
            agent.metrics.handshakes_refused.inc();
            if let Some(held) = refused.pass(Instant::now()) {
                tracing::warn!(%peer, why, held, "TLS handshake refused");
            }
            return;
        }
    };
    let service = service_fn(move |request| routes::handle(Arc::clone(&agent), peer, request));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, error = %krater_model::report(&error), "connection ended");
    }
}
