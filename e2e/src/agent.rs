//! A client of an agent's API, with any certificate: what a stranger on the management network can do.

use crate::system::System;
use krater_net::netns::NetNs;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Certificate and key in PEM; none: no certificate is shown.
#[derive(Debug, Clone)]
pub struct Identity(Option<String>);

impl Identity {
    /// The controller's own, read from its state folder.
    ///
    /// # Panics
    /// When it is not there.
    pub fn controller(system: &System) -> Self {
        let path = pki(system).join("controller.pem");
        Self(Some(std::fs::read_to_string(path).expect("controller.pem")))
    }

    /// Certificate and key in one text.
    pub const fn from_pem(pem: String) -> Self {
        Self(Some(pem))
    }

    /// None.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Another name, signed by the right authority.
    ///
    /// # Panics
    /// When the authority cannot be read.
    pub fn other_name(system: &System, name: &str) -> Self {
        let read =
            |file: &str| std::fs::read_to_string(pki(system).join(file)).expect("the client CA");
        let key = KeyPair::from_pem(&read("client-ca.key")).expect("the client CA's key");
        let issuer = Issuer::from_ca_cert_pem(&read("client-ca.pem"), key).expect("the client CA");
        Self::issue(name, &issuer)
    }

    /// The right name, signed by nobody that is known.
    ///
    /// # Panics
    /// Never in practice: when no key can be made.
    pub fn foreign(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self::issue(name, &Issuer::new(params, key))
    }

    fn issue(name: &str, issuer: &Issuer<'_, KeyPair>) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, issuer).expect("a certificate");
        Self(Some(certificate.pem() + &key.serialize_pem()))
    }
}

fn pki(system: &System) -> PathBuf {
    system.state_dir().join("pki")
}

/// One agent.
#[derive(Debug)]
pub struct Agent {
    management: NetNs,
    address: IpAddr,
    server_name: String,
    roots: RootCertStore,
    /// Longest wait for an answer.
    patience: Duration,
}

/// Status and body.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Text.
    pub body: String,
}

impl Agent {
    /// The agent of an amphora as the API shows it.
    ///
    /// # Panics
    /// When the amphora has no management address.
    pub fn of(system: &System, amphora: &serde_json::Value) -> Self {
        let pins = crate::amphora::pins(system);
        let management = pins
            .iter()
            .find(|pin| pin.to_string_lossy().ends_with("-management"))
            .expect("the management network");
        let ca = std::fs::read_to_string(pki(system).join("server-ca.pem"));
        let address = crate::api::text(&amphora["lb_network_ip"]);
        Self::at(
            NetNs::open(management).expect("the management network"),
            address.parse().expect("lb_network_ip"),
            &crate::api::text(&amphora["id"]),
            &ca.expect("server-ca.pem"),
        )
    }

    /// The agent at an address that is reached from `netns`, with the authority (PEM) of its certificate.
    ///
    /// # Panics
    /// When the authority cannot be read.
    pub fn at(netns: NetNs, address: IpAddr, server_name: &str, ca: &str) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate.expect("PEM")).expect("a root");
        }
        Self {
            management: netns,
            address,
            server_name: server_name.to_owned(),
            roots,
            patience: ANSWER,
        }
    }

    /// Waits longer for answers: for one in an emulated machine.
    #[must_use]
    pub const fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// A TLS connection; the handshake is done.
    pub fn connect(
        &self,
        identity: &Identity,
    ) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let builder = ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(self.roots.clone());
        let config = match &identity.0 {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(io::Error::other)?;
                let key =
                    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(io::Error::other)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(io::Error::other)?
            }
        };
        let name = ServerName::try_from(self.server_name.clone()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let tcp = self.management.tcp_connect(
            (self.address, krater_model::wire::agent::PORT).into(),
            self.patience,
        )?;
        tcp.set_read_timeout(Some(self.patience))?;
        let mut stream = StreamOwned::new(connection, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    /// One request; an error is a broken connection.
    pub fn send(
        &self,
        identity: &Identity,
        method: &str,
        path: &str,
        body: &str,
    ) -> io::Result<Answer> {
        let mut stream = self.connect(identity)?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nx-request-id: req-e2e\r\ncontent-type: application/json\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            self.server_name,
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            // A peer that closes without close_notify; the answer has a length.
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof || bytes.is_empty() => {
                return Err(error);
            }
            _ => {}
        }
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text
            .split_once("\r\n\r\n")
            .ok_or_else(|| io::Error::other("no answer"))?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        Ok(Answer {
            status: status.ok_or_else(|| io::Error::other("no status"))?,
            body: body.to_owned(),
        })
    }

    /// `GET /2.0/state` as the controller.
    ///
    /// # Panics
    /// When it is not answered with 200.
    pub fn state(&self, system: &System) -> serde_json::Value {
        let answer = self
            .send(&Identity::controller(system), "GET", "/2.0/state", "")
            .expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).expect("JSON")
    }
}
