//! Serves connections, by hyper itself: `axum::serve` takes any number of them and waits for ever for the head of a request,
//! so that who opens a thousand and says nothing has the API for himself.

use axum::Router;
use axum::body::Body;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

/// Connections at the same time; more wait in the listener's queue. Half of the 1,024 descriptors that a process may have
/// as hosts are shipped: the rest is for the database, agents and amphorae.
pub const CONNECTIONS: usize = 512;

/// Serves until it shall stop; requests that have begun then are answered. A head that does not arrive within `patience`
/// ends its connection; so long one may also wait for its next request.
pub async fn serve<L: Listener>(
    mut listener: L,
    routes: Router,
    patience: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let mut http = Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await.0)
        };
        let (Ok(place), io) = (tokio::select! {
            next = next => next,
            () = asked_to(&mut stop) => break,
        }) else {
            break;
        };
        while open.try_join_next().is_some() {}
        open.spawn(connection(
            http.clone(),
            io,
            routes.clone(),
            stop.clone(),
            place,
        ));
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

async fn asked_to(stop: &mut watch::Receiver<bool>) {
    // Whoever could ask is gone: it is the same.
    let _asked = stop.wait_for(|stop| *stop).await.is_ok();
}

async fn connection<I>(
    http: Builder,
    io: I,
    routes: Router,
    mut stop: watch::Receiver<bool>,
    place: OwnedSemaphorePermit,
) where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        routes.clone().oneshot(request.map(Body::new))
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = asked_to(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the API ended");
    }
    drop(place);
}
