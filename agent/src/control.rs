//! Client of the children's control sockets: one request per connection, each with a deadline.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use krater_model::control::{MAX_BODY, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// A request to a child failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("connect to {socket}")]
    Connect {
        socket: String,
        #[source]
        source: io::Error,
    },
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    #[error("{status}: {}: {}", refusal.field, refusal.message)]
    Refused {
        status: StatusCode,
        refusal: Refusal,
    },
    #[error("answer not understood: {0}")]
    Protocol(String),
}

fn protocol(error: impl std::fmt::Display) -> ControlError {
    ControlError::Protocol(error.to_string())
}

/// Sends `body` as JSON and returns the body of a 2xx answer.
pub(crate) async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&(impl Serialize + Sync)>,
    deadline: Duration,
) -> Result<Bytes, ControlError> {
    let body = match body {
        Some(body) => Bytes::from(serde_json::to_vec(body).map_err(protocol)?),
        None => Bytes::new(),
    };
    match tokio::time::timeout(deadline, exchange(socket, method, path, body)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(ControlError::Late(deadline)),
    }
}

/// The same for a JSON answer.
pub(crate) async fn json<R: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&(impl Serialize + Sync)>,
    deadline: Duration,
) -> Result<R, ControlError> {
    let answer = request(socket, method, path, body, deadline).await?;
    serde_json::from_slice(&answer).map_err(protocol)
}

/// `GET path` as JSON.
pub(crate) async fn get<R: DeserializeOwned>(
    socket: &Path,
    path: &str,
    deadline: Duration,
) -> Result<R, ControlError> {
    json(socket, Method::GET, path, None::<&()>, deadline).await
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, ControlError> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|source| ControlError::Connect {
        socket: socket.display().to_string(),
        source,
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(protocol)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "amphora")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(protocol)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(protocol)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY);
        let body = body.collect().await.map_err(protocol)?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let refusal = serde_json::from_slice(&body).unwrap_or_else(|_| Refusal {
            field: "request".into(),
            message: String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned(),
        });
        Err(ControlError::Refused { status, refusal })
    };
    tokio::pin!(answer);
    // The connection is driven here and ends with this future: no task is left behind.
    tokio::select! {
        result = &mut answer => result,
        driven = connection => match driven {
            Ok(()) => answer.await,
            Err(error) => Err(protocol(error)),
        },
    }
}
