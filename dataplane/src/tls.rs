//! TLS towards clients and members: from PEM and names to rustls configurations.

mod ciphers;
pub(crate) mod client;
mod member;
mod names;

pub use member::Connector;

use crate::io::{Conn, TlsInfo, TlsStream};
use crate::runtime::ListenerRuntime;
use krater_model::state::{ClientAuthentication, ListenerTls, TlsVersion};
use krater_model::{CertificateId, FieldError, Secret};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{
    NoServerSessionStorage, ProducesTickets, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A handshake that is not done by then ends: three round trips of the slowest networks and a lost
/// packet fit.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);

/// The one place that chooses the provider. Hybrid post-quantum key exchange is preferred.
pub fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// A listener's TLS, ready.
pub struct Terminator {
    config: Arc<ServerConfig>,
    tickets: Arc<dyn ProducesTickets>,
    dropped: Vec<String>,
}

impl fmt::Debug for Terminator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Terminator")
    }
}

/// Why a listener's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A certificate is not there (yet): the listener stays down.
    #[error("certificate {0} is missing")]
    Missing(CertificateId),
    /// Something is wrong with the configuration: the snapshot is refused.
    #[error(transparent)]
    Invalid(#[from] FieldError),
}

impl Terminator {
    /// Sets up TLS. Ticket keys are taken over from `old` unless what clients must show changed: a
    /// ticket stands for a client that was verified under the old rules.
    pub fn new(
        tls: &ListenerTls,
        certificates: &HashMap<CertificateId, Secret>,
        old: Option<(&ListenerTls, &Self)>,
    ) -> Result<Self, SetupError> {
        let pem = |id: &CertificateId| {
            let pem = certificates.get(id);
            pem.ok_or_else(|| SetupError::Missing(id.clone()))
        };
        let mut provider = provider();
        let chosen = ciphers::choose(&tls.ciphers, &tls.versions, &provider.cipher_suites)?;
        provider.cipher_suites = chosen.suites;
        let provider = Arc::new(provider);
        let key = |field: &str, id| certified_key(field, pem(id)?, &provider);
        let default = Arc::new(key("default_certificate", &tls.default_certificate)?);
        let mut resolver = names::Resolver::new(default);
        for (i, id) in tls.sni_certificates.iter().enumerate() {
            let field = format!("sni_certificates[{i}]");
            let key = Arc::new(key(&field, id)?);
            resolver
                .add(key)
                .map_err(|why| FieldError::new(field, why))?;
        }
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(&tls.versions))
            .map_err(|e| FieldError::new("versions", e.to_string()))?;
        let builder = match tls.client_authentication {
            ClientAuthentication::None => builder.with_no_client_auth(),
            wanted => {
                let Some(ca) = &tls.client_ca else {
                    return Err(FieldError::new(
                        "client_ca",
                        "required with client_authentication",
                    )
                    .into());
                };
                let crl = tls.client_crl.as_ref().map(pem).transpose()?;
                let optional = wanted == ClientAuthentication::Optional;
                builder.with_client_cert_verifier(verifier(pem(ca)?, crl, optional, &provider)?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        let same_clients = |old: &ListenerTls| {
            old.client_authentication == tls.client_authentication
                && old.client_ca == tls.client_ca
                && old.client_crl == tls.client_crl
        };
        let tickets = match old {
            Some((conf, old)) if same_clients(conf) => Arc::clone(&old.tickets),
            _ => rustls::crypto::aws_lc_rs::Ticketer::new()
                .map_err(|e| FieldError::new("tickets", e.to_string()))?,
        };
        config.ticketer = Arc::clone(&tickets);
        // The operator's order counts, as with HAProxy without `prefer-client-ciphers`.
        config.ignore_client_order = true;
        // Tickets are enough, and hold no memory of ours.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.alpn_protocols = offered(&tls.alpn);
        if config.alpn_protocols.is_empty() && !tls.alpn.is_empty() {
            config.alpn_protocols.push(b"http/1.1".to_vec());
        }
        Ok(Self {
            config: Arc::new(config),
            tickets,
            dropped: chosen.dropped,
        })
    }

    /// Names of ciphers that were asked for and do not exist here.
    pub(crate) fn dropped_ciphers(&self) -> &[String] {
        &self.dropped
    }

    /// Does the handshake on an accepted connection. The caller bounds its time by [`HANDSHAKE`].
    pub(crate) async fn accept(
        &self,
        tcp: tokio::net::TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        listener: Arc<ListenerRuntime>,
    ) -> io::Result<Conn> {
        let stream = TlsStream::accept(tcp, Arc::clone(&self.config)).await?;
        let session = stream.session();
        let version = match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let leaf = session.peer_certificates().and_then(|chain| chain.first());
        let sni = stream.asked_for().map(str::to_owned);
        let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let info = TlsInfo::of_client(sni, version, leaf.map(|leaf| leaf.to_vec()), resumed);
        Ok(Conn::tls_client(stream, info, peer, local, listener))
    }
}

/// ALPN names that are offered: h2 is accepted in the configuration and not offered before HTTP/2 exists.
fn offered(names: &[String]) -> Vec<Vec<u8>> {
    let offered = names.iter().filter(|name| *name != "h2");
    offered.map(|name| name.clone().into_bytes()).collect()
}

fn versions(wanted: &[TlsVersion]) -> Vec<&'static SupportedProtocolVersion> {
    let all = [
        (TlsVersion::Tls13, &rustls::version::TLS13),
        (TlsVersion::Tls12, &rustls::version::TLS12),
    ];
    let wanted = all
        .iter()
        .filter(|(v, _)| wanted.is_empty() || wanted.contains(v));
    wanted.map(|(_, version)| *version).collect()
}

fn certified_key(
    field: &str,
    pem: &Secret,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, SetupError> {
    let (chain, key) = chain_and_key(field, pem)?;
    CertifiedKey::from_der(chain, key, provider).map_err(|e| {
        let why = format!("certificate and key are not usable together: {e}");
        SetupError::Invalid(FieldError::new(field, why))
    })
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn chain_and_key(field: &str, pem: &Secret) -> Result<Identity, SetupError> {
    let invalid = |why: String| SetupError::Invalid(FieldError::new(field, why));
    let bytes = pem.expose().as_bytes();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|e| invalid(format!("not PEM: {e}")))?;
    if chain.is_empty() {
        return Err(invalid(
            "holds no certificate: PEM of leaf, intermediates and key is needed".into(),
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(bytes)
        .map_err(|e| invalid(format!("holds no usable private key: {e}")))?;
    Ok((chain, key))
}

/// The authorities in a bundle.
fn roots(field: &str, ca: &Secret) -> Result<Arc<RootCertStore>, SetupError> {
    let invalid = |why: String| SetupError::Invalid(FieldError::new(field, why));
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(ca.expose().as_bytes()) {
        let root = root.map_err(|e| invalid(format!("not PEM: {e}")))?;
        roots.add(root).map_err(|e| invalid(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(invalid("holds no certificate".into()));
    }
    Ok(Arc::new(roots))
}

/// The revocation lists in a bundle.
fn crls(
    field: &str,
    crl: &Secret,
) -> Result<Vec<CertificateRevocationListDer<'static>>, SetupError> {
    let invalid = |why: String| SetupError::Invalid(FieldError::new(field, why));
    let crls: Vec<_> = CertificateRevocationListDer::pem_slice_iter(crl.expose().as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| invalid(format!("not PEM: {e}")))?;
    if crls.is_empty() {
        return Err(invalid("holds no revocation list".into()));
    }
    Ok(crls)
}

fn verifier(
    ca: &Secret,
    crl: Option<&Secret>,
    optional: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, SetupError> {
    let roots = roots("client_ca", ca)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    if let Some(crl) = crl {
        // A list that is out of date says nothing of who was revoked since: as with HAProxy nobody enters.
        builder = builder
            .with_crls(crls("client_crl", crl)?)
            .enforce_revocation_expiration();
    }
    if optional {
        builder = builder.allow_unauthenticated();
    }
    builder
        .build()
        .map_err(|error| of_builder(&error, ["client_ca", "client_crl"]))
}

/// Which of authorities and revocation lists is wrong.
fn of_builder(error: &VerifierBuilderError, [ca, crl]: [&str; 2]) -> SetupError {
    let field = match error {
        VerifierBuilderError::InvalidCrl(_) => crl,
        _ => ca,
    };
    SetupError::Invalid(FieldError::new(field, error.to_string()))
}
