//! Metrics over TCP, for a Prometheus on this host: `/metrics`, `/healthz` and `/readyz`, and nothing else.
//! Loopback only, as whoever reaches it may read.

use super::Control;
use super::server;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Scrapers at a time: one or two are usual.
const CONNECTIONS: usize = 16;
/// A scraper's connection ends after this long, whatever it does.
const LONGEST: Duration = Duration::from_secs(30);

/// Accepts until the control thread ends.
pub(super) async fn serve(control: Rc<Control>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "metrics port");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let control = Rc::clone(&control);
        tokio::task::spawn_local(async move {
            let _place = place;
            let service = hyper::service::service_fn(move |request| {
                let answer = server::read_only(&control, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // A scraper that fails or stalls is its own problem.
            let _end = tokio::time::timeout(LONGEST, connection).await;
        });
    }
}
