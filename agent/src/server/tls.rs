//! TLS of the agent's server: who may call, and which certificate is shown.

use crate::clock;
use krater_model::FieldError;
use krater_model::wire::agent::CONTROLLER_NAME;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};
use std::sync::{Arc, PoisonError, RwLock};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The one function that chooses the TLS library's provider.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The certificate that the agent shows, and how long it is valid.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    key: Arc<CertifiedKey>,
    /// Unix seconds.
    pub(crate) not_after: i64,
}

impl Identity {
    /// Reads leaf, intermediates and key from PEM. The key must fit, the leaf must be valid now and
    /// must have `name` as a DNS name.
    pub(crate) fn parse(pem: &str, name: &str) -> Result<Self, FieldError> {
        let wrong = |why: String| FieldError::new("pem", why);
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| wrong(format!("certificates not understood: {error}")))?;
        let leaf = chain
            .first()
            .ok_or_else(|| wrong("holds no certificate: put the leaf first".into()))?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| wrong(format!("private key not understood: {error}")))?;
        let (not_before, not_after) = check_leaf(leaf, name).map_err(wrong)?;
        let now = i64::try_from(clock::unix_ms() / 1_000).unwrap_or(i64::MAX);
        // A clock that is a little behind must not make a new certificate unusable; rustls does not look
        // at our own certificate.
        if now > not_after || now + 86_400 < not_before {
            let (from, to) = (clock::rfc3339(not_before), clock::rfc3339(not_after));
            return Err(wrong(format!("valid from {from} to {to}, not now")));
        }
        let key = CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| wrong(format!("key and certificate do not fit: {error}")))?;
        Ok(Self {
            key: Arc::new(key),
            not_after,
        })
    }
}

fn check_leaf(leaf: &[u8], name: &str) -> Result<(i64, i64), String> {
    let (_, leaf) = X509Certificate::from_der(leaf)
        .map_err(|error| format!("leaf certificate not understood: {error}"))?;
    let names = leaf.subject_alternative_name().ok().flatten();
    let has = names.is_some_and(|names| {
        let same = |n: &GeneralName<'_>| matches!(n, GeneralName::DNSName(n) if *n == name);
        names.value.general_names.iter().any(same)
    });
    if !has {
        return Err(format!(
            "the leaf has no DNS name {name}: make it for this amphora"
        ));
    }
    let validity = leaf.validity();
    Ok((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}

/// The certificate in use; exchanged while connections are open.
#[derive(Debug)]
pub(crate) struct Shown(RwLock<Identity>);

impl Shown {
    pub(crate) const fn new(identity: Identity) -> Self {
        Self(RwLock::new(identity))
    }

    pub(crate) fn set(&self, identity: Identity) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    pub(crate) fn not_after(&self) -> i64 {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .not_after
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let identity = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&identity.key))
    }
}

/// TLS 1.2 and 1.3; a client certificate of `client_ca` with the controller's name.
pub(crate) fn server_config(client_ca: &str, shown: Arc<Shown>) -> Result<ServerConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(client_ca.as_bytes()) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| format!("no usable CA certificate: {error}"))?;
    let controller = ServerName::try_from(CONTROLLER_NAME).map_err(|error| error.to_string())?;
    let verifier = Arc::new(OnlyController { chain, controller });
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map(|config| {
            config
                .with_client_cert_verifier(verifier)
                .with_cert_resolver(shown)
        })
        .map_err(|error| error.to_string())
}

/// The chain is right *and* the name is the controller's: another client of the same CA is refused in
/// the handshake.
#[derive(Debug)]
struct OnlyController {
    chain: Arc<dyn ClientCertVerifier>,
    controller: ServerName<'static>,
}

impl ClientCertVerifier for OnlyController {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(leaf)?, &self.controller)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn pem(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> String {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        format!("{}{}", certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn an_identity_must_be_ours_and_whole() {
        let good = pem(&["amp"], |_| {});
        let identity = Identity::parse(&good, "amp").unwrap();
        assert!(identity.not_after > 1_700_000_000);
        let other = pem(&["amp"], |_| {});
        let (certificate, _) = good.split_at(good.find("-----BEGIN PRIVATE").unwrap());
        let (_, key) = other.split_at(other.find("-----BEGIN PRIVATE").unwrap());
        let old = pem(&["amp"], |params| {
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        });
        for (text, expect) in [
            (String::new(), "holds no certificate"),
            (certificate.to_owned(), "private key not understood"),
            (format!("{certificate}{key}"), "do not fit"),
            (pem(&["other"], |_| {}), "no DNS name amp"),
            (old, "not now"),
        ] {
            let error = Identity::parse(&text, "amp").unwrap_err().to_string();
            assert!(
                error.starts_with("pem: ") && error.contains(expect),
                "{error}"
            );
        }
    }
}
