//! Client of the amphora agents: HTTP/1.1 + JSON over mutual TLS.
//!
//! The peer's certificate must be of the server CA and name the amphora that is meant. One connection
//! per amphora is kept, so that a change costs no handshake; a request on a kept connection that turns
//! out dead is sent once more on a new one (every request of the agent API is idempotent).
//! Each call has a deadline. Cancel-safe: a dropped call drops its connection.

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use krater_model::wire::agent::{
    ErrorBody, Info, NewCertificate, REQUEST_ID, StateApplied, StateView, Status,
};
use krater_model::{AmphoraId, DesiredState, Secret};
use rustls_pki_types::ServerName;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Largest answer that is read, in bytes: `GET /2.0/state` of the largest document.
const MAX_ANSWER: usize = krater_model::state::MAX_DOCUMENT;
/// Connecting takes two round trips on a local network; a dead peer must not hold a flow for long.
const CONNECT: Duration = Duration::from_secs(2);
/// Reading calls are answered from memory.
const READ: Duration = Duration::from_secs(5);
/// Applying a state waits for NICs (3 s) and for both children.
const APPLY: Duration = Duration::from_secs(15);

/// Whom to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// Who must answer.
    pub amphora: AmphoraId,
    /// Where.
    pub at: SocketAddr,
}

/// A call failed.
#[derive(Debug, thiserror::Error)]
#[allow(
    clippy::error_impl_error,
    reason = "like std::io::Error: used with the name of its module in front"
)]
pub enum Error {
    /// No connection.
    #[error("amphora {amphora} at {at}: cannot connect")]
    Connect {
        /// Who.
        amphora: AmphoraId,
        /// Where.
        at: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Someone else answers, or the certificate is not good.
    #[error("amphora {amphora} at {at}: TLS refused")]
    Identity {
        /// Who was meant.
        amphora: AmphoraId,
        /// Where.
        at: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("amphora {amphora}: no answer to {what} within {deadline:?}")]
    Deadline {
        /// Who.
        amphora: AmphoraId,
        /// The request.
        what: &'static str,
        /// How long was waited.
        deadline: Duration,
    },
    /// The connection broke.
    #[error("amphora {amphora}: connection lost during {what}")]
    Lost {
        /// Who.
        amphora: AmphoraId,
        /// The request.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent refused.
    #[error("amphora {amphora} refused {what}: {status} {code}: {message}")]
    Refused {
        /// Who.
        amphora: AmphoraId,
        /// The request.
        what: &'static str,
        /// HTTP status.
        status: u16,
        /// Machine-readable code of [`ErrorBody`].
        code: String,
        /// Field and reason.
        message: String,
    },
    /// The answer is not what the protocol says.
    #[error("amphora {amphora}: answer to {what} not understood: {why}")]
    Answer {
        /// Who.
        amphora: AmphoraId,
        /// The request.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// Whether the same call can succeed later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Identity { .. }
            | Self::Deadline { .. }
            | Self::Lost { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            Self::Answer { .. } => false,
        }
    }

    /// Whether the amphora itself did not answer, as opposed to answering "no".
    pub fn unreachable(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::Identity { .. }
                | Self::Deadline { .. }
                | Self::Lost { .. }
        )
    }

    /// The agent's error code, when it answered with one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// What the controller asks of an agent. Implemented by [`Client`] and by a fake in the tests of flows.
pub trait AgentApi: Send + Sync + std::fmt::Debug {
    /// `GET /2.0/info`
    fn info<'a>(&'a self, to: Address, request_id: &'a str) -> BoxFuture<'a, Result<Info, Error>>;
    /// `PUT /2.0/state`
    fn put_state<'a>(
        &'a self,
        to: Address,
        state: &'a DesiredState,
    ) -> BoxFuture<'a, Result<StateApplied, Error>>;
    /// `GET /2.0/state`
    fn state<'a>(
        &'a self,
        to: Address,
        request_id: &'a str,
    ) -> BoxFuture<'a, Result<StateView, Error>>;
    /// `GET /2.0/status`
    fn status<'a>(
        &'a self,
        to: Address,
        request_id: &'a str,
    ) -> BoxFuture<'a, Result<Status, Error>>;
    /// `PUT /2.0/certificate`
    fn put_certificate<'a>(
        &'a self,
        to: Address,
        pem: &'a Secret,
        request_id: &'a str,
    ) -> BoxFuture<'a, Result<(), Error>>;
    /// The amphora is gone: its kept connection is closed.
    fn forget(&self, amphora: AmphoraId);
}

/// Makes TCP connections into the management network.
pub trait Dial: Send + Sync + std::fmt::Debug {
    /// Connects; the caller sets the deadline.
    fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;
}

/// Connects from the namespace the process is in.
#[derive(Debug, Clone, Copy)]
pub struct HostDial;

impl Dial for HostDial {
    fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(to))
    }
}

type Sender = SendRequest<Full<Bytes>>;

/// The real client.
pub struct Client {
    dial: Arc<dyn Dial>,
    tls: TlsConnector,
    /// Idle connections. Bounded by the amphorae that exist: [`AgentApi::forget`] removes the others.
    kept: Mutex<HashMap<Address, Sender>>,
    /// Deadlines are so many times those above.
    patience: u32,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

struct Call<'a> {
    to: Address,
    method: http::Method,
    path: &'a str,
    what: &'static str,
    request_id: &'a str,
    body: Bytes,
    deadline: Duration,
}

impl Client {
    /// A client with this identity and trust.
    pub fn new(dial: Arc<dyn Dial>, tls: Arc<rustls::ClientConfig>) -> Self {
        Self {
            dial,
            tls: TlsConnector::from(tls),
            kept: Mutex::default(),
            patience: 1,
        }
    }

    /// The same for agents on slow machines: every deadline is so many times as long.
    #[must_use]
    pub fn patient(self, times: u32) -> Self {
        Self {
            patience: times.max(1),
            ..self
        }
    }

    /// `GET /2.0/logs`: the answer's body as it comes. Has its own connection, so that following logs
    /// does not delay changes. `query` is the query string without `?`.
    pub async fn logs(
        &self,
        to: Address,
        query: &str,
        request_id: &str,
    ) -> Result<Incoming, Error> {
        let path = format!("/2.0/logs?{query}");
        let call = Call {
            to,
            method: http::Method::GET,
            path: &path,
            what: "GET logs",
            request_id,
            body: Bytes::new(),
            deadline: READ * self.patience,
        };
        let within = async {
            let mut sender = self.connect(to).await?;
            let answer = sender
                .send_request(call.request()?)
                .await
                .map_err(|e| call.lost(e))?;
            if answer.status().is_success() {
                return Ok(answer.into_body());
            }
            let status = answer.status();
            let bytes = call.read(answer.into_body()).await?;
            Err(call.refused(status, &bytes))
        };
        call.limit(within).await
    }

    async fn call(&self, call: Call<'_>) -> Result<Bytes, Error> {
        call.limit(self.exchange(&call)).await
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<Bytes, Error> {
        let kept = self.lock().remove(&call.to);
        if let Some(mut sender) = kept
            && sender.ready().await.is_ok()
        {
            // A kept connection may have died unnoticed: one more try on a new one.
            if let Ok(answer) = sender.send_request(call.request()?).await {
                return self.finish(call, sender, answer).await;
            }
        }
        let mut sender = self.connect(call.to).await?;
        let answer = sender
            .send_request(call.request()?)
            .await
            .map_err(|e| call.lost(e))?;
        self.finish(call, sender, answer).await
    }

    async fn finish(
        &self,
        call: &Call<'_>,
        sender: Sender,
        answer: http::Response<Incoming>,
    ) -> Result<Bytes, Error> {
        let status = answer.status();
        let bytes = call.read(answer.into_body()).await?;
        if !sender.is_closed() {
            self.lock().insert(call.to, sender);
        }
        if status.is_success() {
            Ok(bytes)
        } else {
            Err(call.refused(status, &bytes))
        }
    }

    async fn connect(&self, to: Address) -> Result<Sender, Error> {
        let Address { amphora, at } = to;
        let refuse = |source| Error::Connect {
            amphora,
            at,
            source,
        };
        let connect = CONNECT * self.patience;
        let tcp = tokio::time::timeout(connect, self.dial.dial(at))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(refuse)?;
        tcp.set_nodelay(true).map_err(refuse)?;
        // A peer whose links were cut never answers; a kept connection to it must fail soon.
        socket2::SockRef::from(&tcp)
            .set_tcp_user_timeout(Some(connect))
            .map_err(refuse)?;
        let name = ServerName::try_from(amphora.to_string())
            .map_err(|error| refuse(io::Error::other(error)))?;
        let tls = tokio::time::timeout(connect, self.tls.connect(name, tcp))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| Error::Identity {
                amphora,
                at,
                source,
            })?;
        let (sender, connection) = handshake(TokioIo::new(tls))
            .await
            .map_err(|error| refuse(io::Error::other(error)))?;
        // Ends when the sender is dropped or the peer closes.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%amphora, %error, "agent connection ended");
            }
        });
        Ok(sender)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Address, Sender>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_json<T: DeserializeOwned>(
        &self,
        to: Address,
        path: &'static str,
        what: &'static str,
        request_id: &str,
    ) -> Result<T, Error> {
        let call = Call {
            to,
            method: http::Method::GET,
            path,
            what,
            request_id,
            body: Bytes::new(),
            deadline: READ * self.patience,
        };
        parse(to, what, &self.call(call).await?)
    }
}

impl Call<'_> {
    fn request(&self) -> Result<http::Request<Full<Bytes>>, Error> {
        http::Request::builder()
            .method(self.method.clone())
            .uri(self.path)
            .header(http::header::HOST, self.to.amphora.to_string())
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(REQUEST_ID, self.request_id)
            .body(Full::new(self.body.clone()))
            .map_err(|error| self.answer(error.to_string()))
    }

    async fn limit<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(self.deadline, work)
            .await
            .unwrap_or_else(|_| {
                Err(Error::Deadline {
                    amphora: self.to.amphora,
                    what: self.what,
                    deadline: self.deadline,
                })
            })
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, Error> {
        match Limited::new(body, MAX_ANSWER).collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(source) => Err(Error::Lost {
                amphora: self.to.amphora,
                what: self.what,
                source,
            }),
        }
    }

    fn lost(&self, error: hyper::Error) -> Error {
        Error::Lost {
            amphora: self.to.amphora,
            what: self.what,
            source: error.into(),
        }
    }

    fn answer(&self, why: String) -> Error {
        Error::Answer {
            amphora: self.to.amphora,
            what: self.what,
            why,
        }
    }

    fn refused(&self, status: http::StatusCode, body: &[u8]) -> Error {
        let (code, message) = match serde_json::from_slice::<ErrorBody>(body) {
            Ok(error) => (
                error.code,
                match error.field {
                    Some(field) => format!("{field}: {}", error.message),
                    None => error.message,
                },
            ),
            Err(_) => (
                "unknown".into(),
                String::from_utf8_lossy(body.get(..200).unwrap_or(body)).into_owned(),
            ),
        };
        Error::Refused {
            amphora: self.to.amphora,
            what: self.what,
            status: status.as_u16(),
            code,
            message,
        }
    }
}

fn parse<T: DeserializeOwned>(to: Address, what: &'static str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Answer {
        amphora: to.amphora,
        what,
        why: error.to_string(),
    })
}

fn json<T: serde::Serialize>(to: Address, what: &'static str, value: &T) -> Result<Bytes, Error> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Error::Answer {
            amphora: to.amphora,
            what,
            why: error.to_string(),
        })
}

impl AgentApi for Client {
    fn info<'a>(&'a self, to: Address, request_id: &'a str) -> BoxFuture<'a, Result<Info, Error>> {
        Box::pin(self.read_json(to, "/2.0/info", "GET info", request_id))
    }

    fn put_state<'a>(
        &'a self,
        to: Address,
        state: &'a DesiredState,
    ) -> BoxFuture<'a, Result<StateApplied, Error>> {
        Box::pin(async move {
            let what = "PUT state";
            let call = Call {
                to,
                method: http::Method::PUT,
                path: "/2.0/state",
                what,
                request_id: &state.request_id,
                body: json(to, what, state)?,
                deadline: APPLY * self.patience,
            };
            parse(to, what, &self.call(call).await?)
        })
    }

    fn state<'a>(
        &'a self,
        to: Address,
        request_id: &'a str,
    ) -> BoxFuture<'a, Result<StateView, Error>> {
        Box::pin(self.read_json(to, "/2.0/state", "GET state", request_id))
    }

    fn status<'a>(
        &'a self,
        to: Address,
        request_id: &'a str,
    ) -> BoxFuture<'a, Result<Status, Error>> {
        Box::pin(self.read_json(to, "/2.0/status", "GET status", request_id))
    }

    fn put_certificate<'a>(
        &'a self,
        to: Address,
        pem: &'a Secret,
        request_id: &'a str,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let what = "PUT certificate";
            let body = json(to, what, &NewCertificate { pem: pem.clone() })?;
            let call = Call {
                to,
                method: http::Method::PUT,
                path: "/2.0/certificate",
                what,
                request_id,
                body,
                deadline: READ * self.patience,
            };
            self.call(call).await.map(drop)?;
            // The next call shows that the new certificate is in use.
            self.forget(to.amphora);
            Ok(())
        })
    }

    fn forget(&self, amphora: AmphoraId) {
        self.lock().retain(|address, _| address.amphora != amphora);
    }
}

#[cfg(test)]
mod tests;
