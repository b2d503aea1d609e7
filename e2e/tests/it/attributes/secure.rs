//! TLS of listeners and of pools: one load balancer, a change after the other, each seen in a handshake or in an answer, and its opposite too.

use super::{Changes, Seen};
use crate::story::Story;
use crate::tls::{Ca, Cert, NAME, Session, get, store, terminated};
use krater_e2e::client;
use krater_e2e::place::Place;
use krater_e2e::system::System;
use krater_e2e::wait;
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CipherSuite, ClientConfig, ProtocolVersion, RootCertStore, ServerConfig, ServerConnection,
    StreamOwned,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const AES_128: (&str, CipherSuite) = (
    "TLS_AES_128_GCM_SHA256",
    CipherSuite::TLS13_AES_128_GCM_SHA256,
);
const AES_256: (&str, CipherSuite) = (
    "TLS_AES_256_GCM_SHA384",
    CipherSuite::TLS13_AES_256_GCM_SHA384,
);

/// A member that speaks TLS and answers what its session is like: version, suite, ALPN name, whether the client showed a
/// certificate.
struct Member {
    place: Place,
    ended: Arc<AtomicBool>,
}

impl Member {
    fn start(system: &System, address: &str, cert: &Cert, clients: &Ca) -> Self {
        let place = Place::new(system, "tenant", address);
        let listener = place.listen(443).expect("listen on port 443");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(clients.pem.as_bytes()).expect("PEM");
        roots.add(root).expect("a root");
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .allow_unauthenticated()
            .build()
            .expect("a verifier");
        let key = PrivateKeyDer::from_pem_slice(cert.key.as_bytes()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![CertificateDer::from(cert.der.clone())], key)
            .expect("a pair");
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
        let (config, ended) = (Arc::new(config), Arc::new(AtomicBool::new(false)));
        let own = Arc::clone(&ended);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if own.load(Ordering::SeqCst) {
                    return;
                }
                let config = Arc::clone(&config);
                std::thread::spawn(move || serve(stream, config));
            }
        });
        Self { place, ended }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = self.place.connect((self.place.address, 443).into());
    }
}

/// Until the peer goes away.
fn serve(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    let session = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut tls = StreamOwned::new(session, stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            tls.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let alpn = tls.conn.alpn_protocol().map(String::from_utf8_lossy);
        let body = format!(
            "{:?} {:?} {} shown={}",
            tls.conn.protocol_version().expect("after the handshake"),
            tls.conn
                .negotiated_cipher_suite()
                .expect("after the handshake")
                .suite(),
            alpn.unwrap_or_else(|| "-".into()),
            tls.conn.peer_certificates().is_some(),
        );
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        tls.write_all(head.as_bytes())?;
        tls.flush()?;
    }
}

#[test]
fn each_change_is_seen_in_handshakes() {
    let story = Story::single();
    let changes = Changes::new(&story);
    listener(&story, &changes);
    pool(&story, &changes);
    changes.are_all_of(&[Seen::Secure]);
}

fn listener(story: &Story, changes: &Changes<'_>) {
    let (ca, clients, strangers) = (Ca::new("servers"), Ca::new("clients"), Ca::new("strangers"));
    let (first, second, third) = (
        ca.issue(NAME, 1),
        ca.issue(NAME, 2),
        ca.issue("third.example.test", 3),
    );
    let (alice, stranger) = (clients.issue("alice", 4), strangers.issue("bob", 5));
    let id = terminated(
        story,
        json!({"default_tls_container_ref": store(story, &first.bundle())}),
    );
    let path = format!("listeners/{id}");
    let put = |body: Value| changes.put("listener", &path, body);
    // A session that goes on is that of the certificate, version and cipher that it began with.
    let mut anybody = (*ca.client(None, rustls::ALL_VERSIONS)).clone();
    anybody.resumption = rustls::client::Resumption::disabled();
    let anybody = Arc::new(anybody);
    wait::for_condition("the listener serves", || {
        get(story, &anybody, "/").is_ok_and(|(status, _)| status == 200)
    });
    let session = |name: &str, config: &Arc<ClientConfig>| {
        let mut session = Session::open(&story.client, story.at(443), name, config)?;
        session.get("/").map(|_| session)
    };
    let open = |name: &str, config: &Arc<ClientConfig>| session(name, config).expect("a session");

    assert!(open(NAME, &anybody).certificate() == first.der);
    put(json!({"default_tls_container_ref": store(story, &second.bundle())}));
    assert!(open(NAME, &anybody).certificate() == second.der);
    assert!(
        session("third.example.test", &anybody).is_err(),
        "nobody has that name"
    );
    put(json!({"sni_container_refs": [store(story, &third.bundle())]}));
    assert_eq!(
        open("third.example.test", &anybody).certificate(),
        third.der
    );
    put(json!({"sni_container_refs": null}));
    assert!(session("third.example.test", &anybody).is_err());

    let only = |version: &'static rustls::SupportedProtocolVersion| {
        session(NAME, &ca.client(None, &[version])).is_ok()
    };
    let both = || [only(&rustls::version::TLS12), only(&rustls::version::TLS13)];
    assert_eq!(both(), [true, true]);
    put(json!({"tls_versions": ["TLSv1.2"]}));
    assert_eq!(both(), [true, false]);
    put(json!({"tls_versions": ["TLSv1.3"]}));
    assert_eq!(both(), [false, true]);
    put(json!({"tls_versions": null}));
    assert_eq!(both(), [true, true]);

    let suite = || {
        let session = open(NAME, &anybody);
        session
            .0
            .conn
            .negotiated_cipher_suite()
            .expect("a suite")
            .suite()
    };
    for (name, wanted) in [AES_256, AES_128] {
        put(json!({"tls_ciphers": name}));
        assert_eq!(suite(), wanted);
    }
    put(json!({"tls_ciphers": null}));

    let alpn = |offered: &[&str]| {
        let mut config = (*anybody).clone();
        config.alpn_protocols = offered
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let session = session(NAME, &Arc::new(config)).ok()?;
        Some(session.0.conn.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(
        alpn(&["http/1.0", "http/1.1"]),
        Some(Some(b"http/1.1".to_vec()))
    );
    put(json!({"alpn_protocols": ["http/1.0"]}));
    assert_eq!(
        alpn(&["http/1.0", "http/1.1"]),
        Some(Some(b"http/1.0".to_vec()))
    );
    assert_eq!(alpn(&["http/1.1"]), None, "no name in common");
    put(json!({"alpn_protocols": null}));
    assert_eq!(
        alpn(&["http/1.0", "http/1.1"]),
        Some(Some(b"http/1.1".to_vec()))
    );

    let hsts = || {
        let (_, text) = get(story, &anybody, "/").expect("an answer");
        let lower = text.to_ascii_lowercase();
        let line = lower
            .lines()
            .find_map(|l| l.strip_prefix("strict-transport-security: "));
        let parts = line.unwrap_or_default().split(';').map(str::trim);
        let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        parts.join("; ")
    };
    assert_eq!(hsts(), "");
    put(json!({"hsts_max_age": 60}));
    assert_eq!(hsts(), "max-age=60");
    put(json!({"hsts_include_subdomains": true}));
    assert_eq!(hsts(), "max-age=60; includesubdomains");
    put(json!({"hsts_preload": true}));
    assert_eq!(hsts(), "max-age=60; includesubdomains; preload");
    put(json!({"hsts_max_age": null, "hsts_include_subdomains": false, "hsts_preload": false}));
    assert_eq!(hsts(), "");

    let shows = |cert: &Cert| session(NAME, &ca.client(Some(cert), rustls::ALL_VERSIONS)).is_ok();
    let let_in = || {
        [
            session(NAME, &anybody).is_ok(),
            shows(&alice),
            shows(&stranger),
        ]
    };
    put(json!({"client_ca_tls_container_ref": store(story, &clients.pem)}));
    assert_eq!(let_in(), [true, true, true], "nobody is asked");
    put(json!({"client_authentication": "MANDATORY"}));
    assert_eq!(let_in(), [false, true, false]);
    put(json!({"client_authentication": "OPTIONAL"}));
    assert_eq!(let_in(), [true, true, false]);
    put(json!({"client_ca_tls_container_ref": store(story, &strangers.pem)}));
    assert_eq!(let_in(), [true, false, true]);
    put(json!({"client_ca_tls_container_ref": store(story, &clients.pem)}));
    put(json!({"client_crl_container_ref": store(story, &clients.crl(4))}));
    assert_eq!(let_in(), [true, false, false], "revoked");
    put(json!({"client_crl_container_ref": store(story, &clients.crl(44))}));
    assert_eq!(let_in(), [true, true, false], "somebody else is");
    put(json!({"client_crl_container_ref": null, "client_authentication": "NONE"}));
    assert_eq!(let_in(), [true, true, true]);
}

fn pool(story: &Story, changes: &Changes<'_>) {
    let (ours, theirs, clients) = (Ca::new("members"), Ca::new("others"), Ca::new("clients"));
    let address = "192.0.2.231";
    let cert = ours.issue("m.example.test", 21);
    let _member = Member::start(&story.system, address, &cert, &clients);
    let id = story.create("pools", json!({"pool": {
        "name": "tls", "loadbalancer_id": story.load_balancer, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
    }}));
    let subnet = story.system.api.subnet("tenant-subnet");
    story.create(
        &format!("pools/{id}/members"),
        json!({"member": {
            "name": "m", "address": address, "protocol_port": 443, "subnet_id": subnet,
        }}),
    );
    let to_it = json!({"listener": {"default_pool_id": id}});
    story.change("PUT", &format!("listeners/{}", story.listener), Some(to_it));
    let path = format!("pools/{id}");
    let put = |body: Value| changes.put("pool", &path, body);
    let seen = || {
        let answer = client::get(&story.client, story.at(80), "/").expect("an answer");
        (answer.status, answer.text())
    };
    let is = |version: ProtocolVersion, suite: CipherSuite, alpn: &str, shown: bool| {
        assert_eq!(
            seen(),
            (200, format!("{version:?} {suite:?} {alpn} shown={shown}"))
        );
    };
    let v13 = ProtocolVersion::TLSv1_3;
    assert_ne!(seen().0, 200, "a TLS server takes no plain request");
    put(json!({"tls_enabled": true}));
    is(v13, AES_128.1, "http/1.1", false);
    for (name, wanted) in [AES_256, AES_128] {
        put(json!({"tls_ciphers": name}));
        is(v13, wanted, "http/1.1", false);
    }
    put(json!({"tls_ciphers": null, "alpn_protocols": ["http/1.0"]}));
    is(v13, AES_128.1, "http/1.0", false);
    put(json!({"alpn_protocols": null, "tls_versions": ["TLSv1.2"]}));
    let v12 = seen();
    assert!(
        v12.0 == 200 && v12.1.starts_with("TLSv1_2 ") && v12.1.contains(" http/1.1 "),
        "{v12:?}"
    );
    put(json!({"tls_versions": null}));
    put(json!({"tls_container_ref": store(story, &clients.issue("krater", 22).bundle())}));
    is(v13, AES_128.1, "http/1.1", true);
    put(json!({"tls_container_ref": null}));
    is(v13, AES_128.1, "http/1.1", false);
    put(json!({"ca_tls_container_ref": store(story, &theirs.pem)}));
    assert_eq!(seen().0, 503, "somebody else's member");
    put(json!({"ca_tls_container_ref": store(story, &ours.pem)}));
    is(v13, AES_128.1, "http/1.1", false);
    put(json!({"crl_container_ref": store(story, &ours.crl(21))}));
    assert_eq!(seen().0, 503, "revoked");
    put(json!({"crl_container_ref": store(story, &ours.crl(22))}));
    is(v13, AES_128.1, "http/1.1", false);
    put(json!({"tls_enabled": false}));
    assert_ne!(seen().0, 200);
}
