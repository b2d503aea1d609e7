//! TLS of the load generator's side.

use super::args::{Args, KeyExchange};
use anyhow::Context;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, Connection, DigitallySignedStruct, SignatureScheme};
use std::net::SocketAddr;
use std::sync::Arc;

/// Tickets that are kept.
const TICKETS: usize = 4_096;

/// Makes sessions.
#[derive(Debug)]
pub(crate) struct Sessions(Arc<ClientConfig>);

impl Sessions {
    pub(crate) fn new(args: &Args) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(config(args)?)))
    }

    pub(crate) fn client(&self, to: SocketAddr) -> anyhow::Result<Connection> {
        let name = ServerName::from(to.ip());
        Ok(ClientConnection::new(Arc::clone(&self.0), name)?.into())
    }
}

/// Versions, trust and resumption as the command line says.
pub(super) fn config(args: &Args) -> anyhow::Result<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    if let Some(offered) = args.key_exchange {
        use aws_lc_rs::kx_group::{X25519, X25519MLKEM768};
        provider.kx_groups = match offered {
            KeyExchange::X25519 => vec![X25519],
            KeyExchange::Hybrid => vec![X25519MLKEM768, X25519],
        };
    }
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let mut config = match &args.ca {
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(path)
                .with_context(|| format!("--ca {}", path.display()))?
            {
                roots.add(certificate.with_context(|| format!("--ca {}", path.display()))?)?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth(),
    };
    config.resumption = if args.resume {
        Resumption::in_memory_sessions(TICKETS)
    } else {
        Resumption::disabled()
    };
    Ok(config)
}

/// Accepts any certificate, but checks that its owner has the key: the work of a handshake is done.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
