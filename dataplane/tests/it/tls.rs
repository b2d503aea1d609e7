//! TLS termination, with rustls as the client.

use crate::kit::*;
use krater_model::control::ListenerState;
use krater_model::state::*;
use krater_model::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

pub(crate) struct Ca(pub(crate) CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn issue(&self, name: &str) -> (CertificateDer<'static>, KeyPair, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
        (certificate.der().clone(), key, pem)
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    /// A list in PEM of the certificate with this serial number, which was revoked when the year `from` began. It is
    /// good from then until the year `until` begins.
    pub(crate) fn revoking(&self, serial: u64, from: i32, until: i32) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(from, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(from, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

pub(crate) fn bundle(pem: &str) -> Certificate {
    Certificate {
        id: CertificateId::of(pem.as_bytes()),
        pem: Secret::new(pem),
    }
}

pub(crate) fn key_der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

/// A member that speaks HTTP inside TLS.
pub(crate) fn https_server(body: &'static str) -> SocketAddr {
    let (certificate, key, _) = Ca::new().issue("member.example");
    let provider = Arc::new(krater_dataplane::tls::provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key_der(&key))
        .unwrap();
    https_server_with(Arc::new(config), body)
}

/// The same with a configuration of the caller's.
pub(crate) fn https_server_with(config: Arc<ServerConfig>, body: &'static str) -> SocketAddr {
    server(move |tcp| {
        let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(session, tcp);
        let mut request = [0; 1024];
        if stream.read(&mut request).unwrap_or(0) > 0 {
            let length = body.len();
            let _gone = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            stream.conn.send_close_notify();
            let _gone = stream.flush();
        }
    })
}

/// A member that speaks plain HTTP and shows the request it got.
pub(crate) fn mirror() -> SocketAddr {
    server(|mut stream| {
        let mut request = Vec::new();
        let mut part = [0; 1024];
        while !request.windows(4).any(|w| w == b"\r\n\r\n") {
            match stream.read(&mut part) {
                Ok(n) if n > 0 => request.extend(&part[..n]),
                _ => return,
            }
        }
        let length = request.len();
        let _gone = write!(
            stream,
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        let _gone = stream.write_all(&request);
    })
}

pub(crate) fn tls(certificate: &Certificate) -> ListenerTls {
    ListenerTls {
        default_certificate: certificate.id.clone(),
        sni_certificates: Vec::new(),
        versions: Vec::new(),
        ciphers: Vec::new(),
        alpn: Vec::new(),
        client_authentication: ClientAuthentication::None,
        client_ca: None,
        client_crl: None,
        hsts: None,
    }
}

pub(crate) type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

pub(crate) fn client_config(roots: RootCertStore, identity: Option<Identity>) -> ClientConfig {
    let provider = Arc::new(krater_dataplane::tls::provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(vec![certificate], key)
            .unwrap(),
    }
}

/// One request; the answer, and the finished session.
pub(crate) fn get(
    setup: &Setup,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<(String, StreamOwned<ClientConnection, TcpStream>)> {
    let request = "GET / HTTP/1.1\r\nHost: x.example\r\nConnection: close\r\n\r\n";
    ask(setup, config, name, request)
}

/// The answer to `request` until the connection ends, and the finished session.
fn ask(
    setup: &Setup,
    config: &Arc<ClientConfig>,
    name: &str,
    request: &str,
) -> std::io::Result<(String, StreamOwned<ClientConnection, TcpStream>)> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let session = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = StreamOwned::new(session, setup.connect());
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok((answer, stream))
}

fn put(dataplane: &Dataplane, setup: &Setup, certificates: &[Certificate]) -> (u16, String) {
    let mut snapshot = dataplane.snapshot(vec![setup.lb.clone()]);
    snapshot.certificates = certificates.to_vec();
    dataplane.put(&snapshot)
}

fn terminated(certificate: &Certificate) -> Setup {
    let mut setup = Setup::new(ListenerProtocol::TerminatedHttps, &[mirror()]);
    setup.listener().tls = Some(tls(certificate));
    setup
}

#[test]
fn certificates_by_name_versions_and_alpn() {
    let dataplane = Dataplane::start(2);
    let ca = Ca::new();
    let (default, wild) = (
        bundle(&ca.issue("d.example").2),
        bundle(&ca.issue("*.w.example").2),
    );
    let mut setup = terminated(&default);
    setup.listener().tls.as_mut().unwrap().sni_certificates = vec![wild.id.clone()];
    setup.listener().tls.as_mut().unwrap().alpn = vec!["h2".into(), "http/1.1".into()];
    setup.listener().insert_headers = vec![InsertHeader::XForwardedProto];
    let both = [default, wild];
    assert_eq!(put(&dataplane, &setup, &both).0, 200);
    let mut config = client_config(ca.roots(), None);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    for name in ["d.example", "a.w.example", "b.w.example"] {
        let (answer, stream) = get(&setup, &config, name).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("X-Forwarded-Proto: https\r\n"), "{answer}");
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(
            stream.conn.protocol_version(),
            Some(rustls::ProtocolVersion::TLSv1_3)
        );
        let group = stream.conn.negotiated_key_exchange_group().unwrap();
        assert_eq!(
            group.name(),
            rustls::NamedGroup::X25519MLKEM768,
            "post-quantum preferred"
        );
    }
    assert!(
        get(&setup, &config, "other.example").is_err(),
        "the default's name is checked"
    );
    let (_, second) = get(&setup, &config, "d.example").unwrap();
    assert_eq!(
        second.conn.handshake_kind(),
        Some(rustls::HandshakeKind::Resumed)
    );
    // Only TLS 1.2, one cipher; connections of before do not matter.
    let tls = setup.listener().tls.as_mut().unwrap();
    tls.versions = vec![TlsVersion::Tls12];
    tls.ciphers = vec![
        "DHE-RSA-AES256-SHA256".into(),
        "ECDHE-ECDSA-CHACHA20-POLY1305".into(),
    ];
    let id = setup.listener().id;
    assert_eq!(dataplane.listener(id).dropped_ciphers, [""; 0]);
    assert_eq!(put(&dataplane, &setup, &both).0, 200);
    let dropped = dataplane.listener(id).dropped_ciphers;
    assert_eq!(dropped, ["DHE-RSA-AES256-SHA256"]);
    let (_, stream) = get(&setup, &config, "d.example").unwrap();
    let suite = stream.conn.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(
        suite,
        rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
    );
}

/// The operator's order counts, not the client's, as with HAProxy; without one the cheapest comes first.
#[test]
fn the_order_of_ciphers_is_the_operators() {
    use rustls::CipherSuite::*;
    let dataplane = Dataplane::start(1);
    let ca = Ca::new();
    let default = bundle(&ca.issue("d.example").2);
    let mut setup = terminated(&default);
    // A client that wants AES-256 most, and one that wants ChaCha20 most.
    let wants = |suite: rustls::CipherSuite| {
        let mut provider = krater_dataplane::tls::provider();
        provider.cipher_suites.sort_by_key(|s| s.suite() != suite);
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(ca.roots())
            .with_no_client_auth();
        Arc::new(config)
    };
    for (ciphers, version, expected) in [
        (&[][..], TlsVersion::Tls13, TLS13_AES_128_GCM_SHA256),
        (
            &[],
            TlsVersion::Tls12,
            TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ),
        (
            &["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"],
            TlsVersion::Tls13,
            TLS13_AES_256_GCM_SHA384,
        ),
        (
            &["TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"],
            TlsVersion::Tls13,
            TLS13_CHACHA20_POLY1305_SHA256,
        ),
        (
            &[
                "ECDHE-ECDSA-AES256-GCM-SHA384",
                "ECDHE-ECDSA-AES128-GCM-SHA256",
            ],
            TlsVersion::Tls12,
            TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        ),
    ] {
        let tls = setup.listener().tls.as_mut().unwrap();
        tls.versions = vec![version];
        tls.ciphers = ciphers.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(
            put(&dataplane, &setup, std::slice::from_ref(&default)).0,
            200
        );
        for wanted in [TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256] {
            let (_, stream) = get(&setup, &wants(wanted), "d.example").unwrap();
            let suite = stream.conn.negotiated_cipher_suite().unwrap().suite();
            assert_eq!(suite, expected, "{ciphers:?} for a client of {wanted:?}");
        }
    }
}

#[test]
fn client_certificates() {
    let dataplane = Dataplane::start(2);
    let (ca, clients, strangers) = (Ca::new(), Ca::new(), Ca::new());
    let server = bundle(&ca.issue("d.example").2);
    let client_ca = bundle(&clients.0.pem());
    let identity = |ca: &Ca| {
        let (certificate, key, _) = ca.issue("client.example");
        Some((certificate, key_der(&key)))
    };
    let mut setup = terminated(&server);
    setup.listener().insert_headers = vec![InsertHeader::XSslClientHasCert];
    let certificates = [server, client_ca.clone()];
    let none = Arc::new(client_config(ca.roots(), None));
    let good = Arc::new(client_config(ca.roots(), identity(&clients)));
    let bad = Arc::new(client_config(ca.roots(), identity(&strangers)));
    let tried = |setup: &Setup, config| get(setup, config, "d.example").map(|(answer, _)| answer);
    assert_eq!(put(&dataplane, &setup, &certificates).0, 200);
    assert!(tried(&setup, &none).is_ok(), "a ticket is stored here");
    for (mode, without) in [
        (ClientAuthentication::Optional, true),
        (ClientAuthentication::Mandatory, false),
    ] {
        let tls = setup.listener().tls.as_mut().unwrap();
        tls.client_authentication = mode;
        tls.client_ca = Some(client_ca.id.clone());
        assert_eq!(put(&dataplane, &setup, &certificates).0, 200);
        let answer = tried(&setup, &good).unwrap();
        assert!(answer.contains("X-SSL-Client-Has-Cert: 1\r\n"), "{answer}");
        assert_eq!(
            tried(&setup, &none).is_ok(),
            without,
            "{mode:?}: also not by an old ticket"
        );
        assert!(tried(&setup, &bad).is_err());
    }
}

#[test]
fn any_worker_resumes_a_session_by_its_ticket_and_it_is_counted() {
    let dataplane = Dataplane::start(4);
    let ca = Ca::new();
    let server = bundle(&ca.issue("d.example").2);
    let setup = terminated(&server);
    assert_eq!(put(&dataplane, &setup, &[server]).0, 200);
    let metric = |name| dataplane.metric(&format!("krater_dataplane_{name}_total"));
    let counted = |all, resumed| {
        until("handshakes counted", || {
            let now = (metric("handshakes"), metric("resumed_handshakes"));
            (now == (all, resumed)).then_some(())
        });
    };
    let config = Arc::new(client_config(ca.roots(), None));
    for n in 0..12 {
        get(&setup, &config, "d.example").unwrap();
        counted(n + 1, n);
    }
    // Who keeps no tickets begins anew each time.
    let mut forgetful = client_config(ca.roots(), None);
    forgetful.resumption = rustls::client::Resumption::disabled();
    let forgetful = Arc::new(forgetful);
    for n in 0..3 {
        get(&setup, &forgetful, "d.example").unwrap();
        counted(13 + n, 11);
    }
    assert_eq!(metric("failed_handshakes"), 0);
}

#[test]
fn rules_look_at_the_clients_certificate() {
    let dataplane = Dataplane::start(2);
    let (ca, clients) = (Ca::new(), Ca::new());
    let (server, client_ca) = (bundle(&ca.issue("d.example").2), bundle(&clients.0.pem()));
    let identity = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let shown = params.signed_by(&key, &clients.0).unwrap();
        Some((shown.der().clone(), key_der(&key)))
    };
    let config = |identity| Arc::new(client_config(ca.roots(), identity));
    let (none, alice, bob) = (
        config(None),
        config(identity("alice")),
        config(identity("bob")),
    );
    let mut setup = terminated(&server);
    let tls = setup.listener().tls.as_mut().unwrap();
    tls.client_authentication = ClientAuthentication::Optional;
    tls.client_ca = Some(client_ca.id.clone());
    let certificates = [server, client_ca];
    let cn = || L7Subject::SslDnField { key: "CN".into() };
    let has = L7Subject::SslConnHasCert;
    let verify = L7Subject::SslVerifyResult;
    // Subject, comparison, value, negated; whether none, alice, bob are rejected.
    for (subject, compare, value, invert, rejected) in [
        (
            has.clone(),
            L7Compare::EqualTo,
            "true",
            false,
            [false, true, true],
        ),
        (has, L7Compare::EqualTo, "True", true, [true, false, false]),
        (
            verify.clone(),
            L7Compare::EqualTo,
            "0",
            false,
            [true, true, true],
        ),
        (
            verify,
            L7Compare::EqualTo,
            "1",
            false,
            [false, false, false],
        ),
        (
            cn(),
            L7Compare::EqualTo,
            "alice",
            false,
            [false, true, false],
        ),
        (
            cn(),
            L7Compare::StartsWith,
            "bo",
            false,
            [false, false, true],
        ),
        (
            cn(),
            L7Compare::Regex,
            "^(alice|bob)$",
            true,
            [true, false, false],
        ),
        (
            L7Subject::SslDnField { key: "O".into() },
            L7Compare::Contains,
            "alice",
            false,
            [false, false, false],
        ),
    ] {
        let rule = L7Rule {
            id: L7RuleId::random(),
            enabled: true,
            subject,
            compare,
            value: value.into(),
            invert,
        };
        let shown = format!("{rule:?}");
        setup.listener().l7_policies = vec![L7Policy {
            id: L7PolicyId::random(),
            enabled: true,
            position: 1,
            action: L7Action::Reject,
            rules: vec![rule],
        }];
        assert_eq!(put(&dataplane, &setup, &certificates).0, 200);
        let got = [&none, &alice, &bob].map(|config| {
            get(&setup, config, "d.example")
                .unwrap()
                .0
                .starts_with("HTTP/1.1 403")
        });
        assert_eq!(got, rejected, "{shown}");
    }
}

#[test]
fn revoked_client_certificates() {
    let dataplane = Dataplane::start(1);
    let (ca, clients) = (Ca::new(), Ca::new());
    let issue = |serial: u64| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &clients.0).unwrap();
        Arc::new(client_config(
            ca.roots(),
            Some((certificate.der().clone(), key_der(&key))),
        ))
    };
    let crl = bundle(&clients.revoking(7, 2026, 2096));
    let (server, client_ca) = (bundle(&ca.issue("d.example").2), bundle(&clients.0.pem()));
    let mut setup = terminated(&server);
    let tls = setup.listener().tls.as_mut().unwrap();
    tls.client_authentication = ClientAuthentication::Mandatory;
    tls.client_ca = Some(client_ca.id.clone());
    tls.client_crl = Some(crl.id.clone());
    let certificates = [server, client_ca, crl];
    let (status, body) = put(&dataplane, &setup, &certificates);
    assert_eq!(status, 200, "{body}");
    assert!(get(&setup, &issue(7), "d.example").is_err());
    assert!(get(&setup, &issue(8), "d.example").is_ok());
    // One that is none is refused by its field.
    let broken = bundle("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    setup.listener().tls.as_mut().unwrap().client_crl = Some(broken.id.clone());
    let [server, client_ca, _] = certificates;
    let (status, body) = put(&dataplane, &setup, &[server, client_ca, broken]);
    assert!(status == 400 && body.contains("tls.client_crl"), "{body}");
}

#[test]
fn a_missing_certificate_keeps_one_listener_down_until_it_comes() {
    let dataplane = Dataplane::start(1);
    let ca = Ca::new();
    let certificate = bundle(&ca.issue("d.example").2);
    let mut setup = terminated(&certificate);
    let id = setup.listener().id;
    assert_eq!(put(&dataplane, &setup, &[]).0, 200);
    let state = dataplane.listener(id).state;
    assert!(matches!(&state, ListenerState::Failed(why) if why.starts_with("certificate-missing")));
    assert_eq!(dataplane.request("GET", "/readyz", b"").0, 503);
    assert_eq!(put(&dataplane, &setup, &[certificate]).0, 200);
    let config = Arc::new(client_config(ca.roots(), None));
    assert!(get(&setup, &config, "d.example").is_ok());
    assert_eq!(dataplane.request("GET", "/readyz", b"").0, 200);
}

#[test]
fn broken_certificates_are_refused_by_field() {
    let dataplane = Dataplane::start(1);
    let ca = Ca::new();
    let (_, _, good) = ca.issue("d.example");
    let (_, _, other) = ca.issue("e.example");
    let (certificate, key) = good.split_once("-----BEGIN PRIVATE").unwrap();
    let key = format!("-----BEGIN PRIVATE{key}");
    let (_, other_key) = other.split_once("-----BEGIN PRIVATE").unwrap();
    let cases = [
        ("no PEM at all".to_owned(), "no certificate"),
        (certificate.to_owned(), "private key"),
        (key.clone(), "no certificate"),
        (
            format!("{certificate}-----BEGIN PRIVATE{other_key}"),
            "together",
        ),
        (certificate.replace('A', "!") + &key, "PEM"),
        (good[..good.len() / 3].to_owned(), ""),
    ];
    for (pem, why) in cases {
        let broken = bundle(&pem);
        let setup = terminated(&broken);
        let (status, body) = put(&dataplane, &setup, &[broken]);
        assert_eq!(status, 400, "{body}");
        assert!(
            body.contains("load_balancers[0].listeners[0].tls.default_certificate")
                && body.contains(why),
            "{body}"
        );
        assert!(!body.contains("PRIVATE KEY"), "{body}");
    }
    let mut setup = terminated(&bundle(&good));
    setup.listener().tls.as_mut().unwrap().ciphers = vec!["DHE-RSA-AES256-SHA256".into()];
    let (status, body) = put(&dataplane, &setup, &[bundle(&good)]);
    assert!(status == 400 && body.contains("tls.ciphers"), "{body}");
}

#[test]
fn members_of_http_pools_are_told_of_their_client() {
    use krater_dataplane_core::proxy_protocol::{Tls, v1, v2};
    let dataplane = Dataplane::start(2);
    let (send, got) = std::sync::mpsc::sync_channel(4);
    let raw = server(move |mut stream| {
        let mut all = Vec::new();
        let mut part = [0; 1024];
        while !all.ends_with(b"\r\n\r\n") || all.len() < 40 {
            match stream.read(&mut part) {
                Ok(n) if n > 0 => all.extend(&part[..n]),
                _ => return,
            }
        }
        send.send(all).unwrap();
        let _gone = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
    });
    let ca = Ca::new();
    let certificate = bundle(&ca.issue("d.example").2);
    let mut setup = Setup::new(ListenerProtocol::TerminatedHttps, &[raw]);
    setup.listener().tls = Some(tls(&certificate));
    let told = Tls {
        version: "TLSv1.3",
        has_certificate: false,
        common_name: None,
    };
    for (protocol, header) in [
        (
            PoolProtocol::Proxy,
            &(|c, l| v1(c, l)) as &dyn Fn(_, _) -> Vec<u8>,
        ),
        (PoolProtocol::Proxyv2, &|c, l| v2(c, l, Some(told))),
    ] {
        setup.pool().protocol = protocol;
        assert_eq!(
            put(&dataplane, &setup, std::slice::from_ref(&certificate)).0,
            200
        );
        let config = Arc::new(client_config(ca.roots(), None));
        let (answer, stream) = get(&setup, &config, "d.example").unwrap();
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        let got = got.recv_timeout(PATIENCE).unwrap();
        let want = header(
            stream.sock.local_addr().unwrap(),
            stream.sock.peer_addr().unwrap(),
        );
        assert_eq!(&got[..want.len()], want);
        assert!(got[want.len()..].starts_with(b"GET / HTTP/1.1\r\n"));
    }
    // With a certificate its name is told too.
    let clients = Ca::new();
    let client_ca = bundle(&clients.0.pem());
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "c.example");
    let shown = params.signed_by(&key, &clients.0).unwrap();
    let listener = setup.listener().tls.as_mut().unwrap();
    listener.client_authentication = ClientAuthentication::Mandatory;
    listener.client_ca = Some(client_ca.id.clone());
    assert_eq!(put(&dataplane, &setup, &[certificate, client_ca]).0, 200);
    let identity = Some((shown.der().clone(), key_der(&key)));
    let config = Arc::new(client_config(ca.roots(), identity));
    let (_, stream) = get(&setup, &config, "d.example").unwrap();
    let told = Tls {
        version: "TLSv1.3",
        has_certificate: true,
        common_name: Some("c.example"),
    };
    let (client, local) = (stream.sock.local_addr(), stream.sock.peer_addr());
    let want = v2(client.unwrap(), local.unwrap(), Some(told));
    let got = got.recv_timeout(PATIENCE).unwrap();
    assert_eq!(&got[..want.len()], want);
}

#[test]
fn strict_transport_security_is_in_every_answer() {
    let dataplane = Dataplane::start(1);
    let ca = Ca::new();
    let certificate = bundle(&ca.issue("d.example").2);
    let config = Arc::new(client_config(ca.roots(), None));
    let certificates = [certificate.clone()];
    // A member that sends one of its own, and nobody: then the answer is ours.
    let own = server(|mut stream| {
        let _request = stream.read(&mut [0; 1024]);
        let _gone = stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nStrict-Transport-Security: max-age=1\r\n\r\n",
        );
    });
    for (member, status) in [(own, "200"), (refusing(), "503")] {
        let mut setup = Setup::new(ListenerProtocol::TerminatedHttps, &[member]);
        setup.listener().tls = Some(tls(&certificate));
        for (hsts, want) in [
            (None, None),
            (Some((false, false)), Some("max-age=300;")),
            (Some((true, false)), Some("max-age=300; includeSubDomains;")),
            (
                Some((true, true)),
                Some("max-age=300; includeSubDomains; preload;"),
            ),
        ] {
            setup.listener().tls.as_mut().unwrap().hsts =
                hsts.map(|(include_subdomains, preload)| Hsts {
                    max_age: 300,
                    include_subdomains,
                    preload,
                });
            assert_eq!(put(&dataplane, &setup, &certificates).0, 200);
            let (answer, _) = get(&setup, &config, "d.example").unwrap();
            assert_eq!(&answer[9..12], status, "{answer}");
            let fields: Vec<_> = answer
                .lines()
                .filter_map(|line| line.strip_prefix("Strict-Transport-Security: "))
                .collect();
            let kept = (status == "200").then_some("max-age=1");
            assert_eq!(fields, Vec::from_iter(want.or(kept)), "{answer}");
        }
    }
}

#[test]
fn members_learn_of_the_clients_certificate() {
    let dataplane = Dataplane::start(1);
    let (ca, clients) = (Ca::new(), Ca::new());
    let (server, client_ca) = (bundle(&ca.issue("d.example").2), bundle(&clients.0.pem()));
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in [
        (rcgen::DnType::CountryName, "DE"),
        (rcgen::DnType::OrganizationName, "Org"),
        (rcgen::DnType::CommonName, "c.example"),
    ] {
        params.distinguished_name.push(kind, value);
    }
    params.not_before = date_time_ymd(2025, 1, 2);
    params.not_after = date_time_ymd(2049, 3, 4);
    let shown = params.signed_by(&key, &clients.0).unwrap();
    let sha1 = {
        use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, shown.der());
        let hex = hash.as_ref().iter().map(|byte| format!("{byte:02X}"));
        hex.collect::<String>()
    };
    let identity = Some((shown.der().clone(), key_der(&key)));
    let with = Arc::new(client_config(ca.roots(), identity));
    let without = Arc::new(client_config(ca.roots(), None));
    let mut setup = terminated(&server);
    setup.listener().insert_headers = vec![
        InsertHeader::XSslClientVerify,
        InsertHeader::XSslClientHasCert,
        InsertHeader::XSslClientDn,
        InsertHeader::XSslClientCn,
        InsertHeader::XSslIssuer,
        InsertHeader::XSslClientSha1,
        InsertHeader::XSslClientNotBefore,
        InsertHeader::XSslClientNotAfter,
    ];
    let tls = setup.listener().tls.as_mut().unwrap();
    tls.client_authentication = ClientAuthentication::Optional;
    tls.client_ca = Some(client_ca.id.clone());
    assert_eq!(put(&dataplane, &setup, &[server, client_ca]).0, 200);
    let values = [
        ("Verify", "0", "0"),
        ("Has-Cert", "1", "0"),
        ("DN", "/C=DE/O=Org/CN=c.example", ""),
        ("CN", "c.example", ""),
        ("SHA1", &sha1, ""),
        ("Not-Before", "250102000000Z", ""),
        ("Not-After", "490304000000Z", ""),
    ];
    // A client's own claims never pass, whether it has a certificate or not.
    let claims = values.map(|(name, ..)| format!("x-ssl-client-{name}: forged\r\n"));
    let request = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}X-SSL-Issuer: forged\r\n\r\n",
        claims.concat()
    );
    for (config, has) in [(&with, true), (&without, false)] {
        let answer = ask(&setup, config, "d.example", &request).unwrap().0;
        assert!(!answer.contains("forged"), "{answer}");
        for (name, shown, none) in values {
            let value = if has { shown } else { none };
            let line = format!("\r\nX-SSL-Client-{name}: {value}\r\n");
            assert!(answer.contains(&line), "no {line:?} in {answer}");
        }
        let issuer = if has {
            "/CN=rcgen self signed cert"
        } else {
            ""
        };
        let line = format!("\r\nX-SSL-Issuer: {issuer}\r\n");
        assert!(answer.contains(&line), "no {line:?} in {answer}");
    }
}
