//! HTTPS of the API: a certificate and its key from files, TLS 1.2 and 1.3. Handshakes run beside one another, so that a
//! client that says nothing keeps nobody waiting.

use krater_model::FieldError;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at the same time; more wait in the listener's queue.
const HANDSHAKES: usize = 256;

/// Certificate and key of the API.
///
/// # Errors
/// A file that cannot be read or has none, a key of another certificate. Names the configuration's key.
pub fn load(certificate: &Path, key: &Path) -> Result<Arc<rustls::ServerConfig>, FieldError> {
    let refuse = |name: &str, path: &Path, why: String| {
        FieldError::new(format!("api.{name}"), format!("{}: {why}", path.display()))
    };
    let bad = |why: String| refuse("tls_cert", certificate, why);
    let chain = CertificateDer::pem_file_iter(certificate).map_err(|e| bad(e.to_string()))?;
    let chain: Vec<_> = chain
        .collect::<Result<_, _>>()
        .map_err(|error| bad(error.to_string()))?;
    if chain.is_empty() {
        return Err(bad("there is no certificate in it".to_owned()));
    }
    // Its text is a secret: what is wrong with it is told without it.
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| refuse("tls_key", key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| refuse("tls_key", key, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Gives connections whose handshake is done.
#[derive(Debug)]
pub struct TlsListener {
    accepted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: SocketAddr,
}

impl TlsListener {
    /// Accepts from now on; ends when it is dropped.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn new(listener: TcpListener, config: Arc<rustls::ServerConfig>) -> io::Result<Self> {
        let local = listener.local_addr()?;
        let (give, accepted) = mpsc::channel(HANDSHAKES);
        tokio::spawn(accept(listener, TlsAcceptor::from(config), give));
        Ok(Self { accepted, local })
    }
}

async fn accept(
    mut listener: TcpListener,
    tls: TlsAcceptor,
    give: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(turn) = handshakes.clone().acquire_owned().await else {
            return;
        };
        let next = axum::serve::Listener::accept(&mut listener);
        let (stream, from) = tokio::select! {
            next = next => next,
            () = give.closed() => return,
        };
        let (tls, give) = (tls.clone(), give.clone());
        tokio::spawn(async move {
            let _turn = turn;
            match timeout(HANDSHAKE, tls.accept(stream)).await {
                Ok(Ok(stream)) => drop(give.send((stream, from)).await),
                Ok(Err(error)) => tracing::debug!(%from, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%from, "TLS handshake took too long"),
            }
        });
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // The accepting task ends after this listener only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}
