//! HTTP/1.1 towards other services of the cloud: one connection per call, each with a deadline.

use http::header::HOST;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use krater_model::FieldError;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest answer in bytes.
const MAX_ANSWER: usize = 1 << 20;
/// How long a call may take. Two of them fit into the deadline of a request.
const DEADLINE: Duration = Duration::from_secs(10);
/// Where distributions keep the authorities that they trust: Debian's and Red Hat's.
const SYSTEM_CA: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// Base address of a service.
#[derive(Clone)]
pub struct Service {
    text: String,
    host: String,
    port: u16,
    /// Path without a trailing slash.
    path: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({})", self.text)
    }
}

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Connection or TLS.
    #[error("{0} cannot be reached")]
    Connect(String, #[source] io::Error),
    /// The connection broke, or the answer is none.
    #[error("{0} broke the connection")]
    Lost(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time.
    #[error("{0} does not answer within {DEADLINE:?}")]
    Deadline(String),
}

/// A connection, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Service {
    /// Reads `http://HOST[:PORT][/PATH]` or `https://…`; `key` names it in errors. `ca_file` has the authorities of
    /// `https`, else those of the system count.
    ///
    /// # Errors
    /// No such address, no authorities.
    pub fn new(key: &str, text: &str, ca_file: Option<&Path>) -> Result<Self, FieldError> {
        let refuse = |why: String| FieldError::new(key.to_owned(), why);
        let uri: http::Uri = text
            .parse()
            .map_err(|error| refuse(format!("{text:?}: {error}")))?;
        let encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(refuse(format!("{text:?}: use http://… or https://…"))),
        };
        let authority = uri.authority().map(http::uri::Authority::as_str);
        if uri.query().is_some() || authority.is_none_or(|text| text.contains('@')) {
            return Err(refuse(format!(
                "{text:?}: use scheme, host, port and path alone"
            )));
        }
        let host = uri.host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16();
        let port = port.unwrap_or(if encrypted { 443 } else { 80 });
        let tls = if encrypted {
            let name = ServerName::try_from(host.clone());
            let name = name.map_err(|error| refuse(format!("{text:?}: {error}")))?;
            Some((connector(key, ca_file)?, name))
        } else {
            None
        };
        Ok(Self {
            text: text.trim_end_matches('/').to_owned(),
            host,
            port,
            path: uri.path().trim_end_matches('/').to_owned(),
            tls,
        })
    }

    /// As it was written, without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same with more path, unless it has it.
    #[must_use]
    pub fn below(mut self, path: &str) -> Self {
        if !self.path.ends_with(path) {
            self.path.push_str(path);
            self.text.push_str(path);
        }
        self
    }

    /// One exchange. `path` is below the base's.
    ///
    /// # Errors
    /// Not reached, broken, late. Any status is an answer.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Response<Bytes>, CallError> {
        let exchange = self.exchange(method, path, headers, body);
        tokio::time::timeout(DEADLINE, exchange)
            .await
            .unwrap_or_else(|_| Err(CallError::Deadline(self.text.clone())))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Response<Bytes>, CallError> {
        let lost = |error: Box<dyn std::error::Error + Send + Sync>| {
            CallError::Lost(self.text.clone(), error)
        };
        let stream = self.connect().await;
        let stream = stream.map_err(|error| CallError::Connect(self.text.clone(), error))?;
        let (mut sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| lost(error.into()))?;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.path))
            .header(HOST, self.authority());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body));
        let request = request.map_err(|error| lost(error.into()))?;
        let exchange = async {
            let answer = sender.send_request(request).await;
            let (head, body) = answer.map_err(|error| lost(error.into()))?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(lost)?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        let driving = async {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            // Its end is seen by the exchange too, which knows what it was about.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = exchange => answer,
            () = driving => Err(CallError::Deadline(self.text.clone())),
        }
    }

    /// `HOST:PORT`
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// A connection; the caller sets a deadline.
    ///
    /// # Errors
    /// Not reached, or another certificate than that of an authority.
    pub async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some((tls, name)) => Box::new(tls.connect(name.clone(), stream).await?),
        })
    }
}

fn connector(key: &str, ca_file: Option<&Path>) -> Result<TlsConnector, FieldError> {
    let refuse = |why: String| FieldError::new(key.to_owned(), why);
    let system = || {
        SYSTEM_CA
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
    };
    let file = ca_file.map(Path::to_owned).or_else(system);
    let file = file.ok_or_else(|| {
        refuse("https: this host has no authorities that it trusts; name a file as ca_file".into())
    })?;
    let at = |error: String| refuse(format!("{}: {error}", file.display()));
    let mut roots = rustls::RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(&file);
    for certificate in certificates.map_err(|error| at(error.to_string()))? {
        let certificate = certificate.map_err(|error| at(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| at(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(at("there is no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| at(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_named() {
        for (text, host, port, path) in [
            ("http://keystone.example", "keystone.example", 80, "/v3"),
            (
                "http://keystone.example:5000/v3/",
                "keystone.example",
                5000,
                "/v3",
            ),
            (
                "http://[2001:db8::1]:5000/identity",
                "2001:db8::1",
                5000,
                "/identity/v3",
            ),
        ] {
            let service = Service::new("k", text, None).unwrap().below("/v3");
            assert_eq!(service.host, host);
            assert_eq!(service.port, port);
            assert_eq!(service.path, path);
            assert!(service.as_str().ends_with(path), "{service:?}");
        }
        for text in [
            "",
            "keystone",
            "ftp://keystone",
            "http://user:secret@keystone",
            "http://keystone/?a=b",
        ] {
            let error = Service::new("keystone.url", text, None).unwrap_err();
            assert!(error.to_string().contains("keystone.url"), "{error}");
        }
        let none = Service::new("k", "https://keystone", Some(Path::new("/nonexistent")));
        assert!(none.unwrap_err().to_string().contains("/nonexistent"));
    }
}
