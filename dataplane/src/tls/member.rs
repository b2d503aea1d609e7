//! TLS towards members: what a pool demands of them, and what it shows them.
//!
//! As with HAProxy's `verify required` and `sni ssl_fc_sni`: the chain must lead to the pool's CA; the
//! name must fit only when the client named one. Without a CA nothing is verified.

use super::client::Anything;
use super::{
    SetupError, chain_and_key, ciphers, crls, of_builder, offered, provider, roots, versions,
};
use crate::io::{Conn, TlsStream};
use krater_model::state::PoolTls;
use krater_model::{CertificateId, FieldError, Secret};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A pool's TLS, ready.
pub struct Connector {
    config: Arc<ClientConfig>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

/// The same set-up, not an equal one.
impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Connector {
    /// Sets up TLS.
    pub fn new(
        tls: &PoolTls,
        certificates: &HashMap<CertificateId, Secret>,
    ) -> Result<Self, SetupError> {
        let pem = |id: &CertificateId| {
            let pem = certificates.get(id);
            pem.ok_or_else(|| SetupError::Missing(id.clone()))
        };
        let mut provider = provider();
        provider.cipher_suites =
            ciphers::choose(&tls.ciphers, &tls.versions, &provider.cipher_suites)?.suites;
        let provider = Arc::new(provider);
        let verifier: Arc<dyn ServerCertVerifier> = match &tls.ca {
            None => Arc::new(Anything(Arc::clone(&provider))),
            Some(ca) => {
                let roots = roots("ca", pem(ca)?)?;
                let mut builder =
                    WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
                if let Some(crl) = &tls.crl {
                    builder = builder
                        .with_crls(crls("crl", pem(crl)?)?)
                        .enforce_revocation_expiration();
                }
                let verifier = builder.build();
                let verifier = verifier.map_err(|error| of_builder(&error, ["ca", "crl"]))?;
                Arc::new(NameIfKnown(verifier))
            }
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(&tls.versions))
            .map_err(|e| FieldError::new("versions", e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &tls.certificate {
            None => builder.with_no_client_auth(),
            Some(id) => {
                let (chain, key) = chain_and_key("certificate", pem(id)?)?;
                builder.with_client_auth_cert(chain, key).map_err(|e| {
                    let why = format!("certificate and key are not usable together: {e}");
                    FieldError::new("certificate", why)
                })?
            }
        };
        config.alpn_protocols = offered(&tls.alpn);
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// Does the handshake on a connection to a member, within `timeout` (zero: none). `sni` is the name
    /// that the client asked for.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        conn: Conn,
        sni: Option<&str>,
        timeout: Duration,
    ) -> io::Result<Conn> {
        let (peer, local) = (conn.peer(), conn.local());
        let Some(tcp) = conn.into_plain() else {
            return Err(io::Error::other("TLS inside TLS"));
        };
        let name = super::client::server_name(sni, peer.ip());
        let handshake = TlsStream::connect(tcp, Arc::clone(&self.config), name);
        let stream = if timeout.is_zero() {
            handshake.await?
        } else {
            match tokio::time::timeout(timeout, handshake).await {
                Ok(stream) => stream?,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        };
        let to = (Arc::clone(self), sni.map(Into::into));
        Ok(Conn::tls_member(stream, to, peer, local))
    }
}

/// Verifies the chain always, and the name when the client named one: else the name is an address.
#[derive(Debug)]
struct NameIfKnown(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for NameIfKnown {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self
            .0
            .verify_server_cert(end_entity, intermediates, name, ocsp, now)
        {
            // The name is the last that is looked at: the chain was good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if matches!(name, ServerName::IpAddress(_)) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
