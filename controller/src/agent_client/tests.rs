use super::*;
use crate::pki::Pki;
use krater_model::SCHEMA;
use krater_model::wire::agent::CONTROLLER_NAME;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;
use tokio::net::TcpListener;

/// An agent that answers `GET /2.0/info` and counts connections and requests.
struct Agent {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Agent {
    /// Shows a certificate for `name`, closes a connection after `requests_per_connection`.
    async fn start(pki: &Pki, name: AmphoraId, requests_per_connection: usize) -> Self {
        let issued = pki.issue_amphora(name, SystemTime::now(), 30).unwrap();
        let pem = issued.pem.expose().as_bytes();
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(pki.client_ca_pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            provider.clone(),
        )
        .build()
        .unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(pem).unwrap()],
                PrivateKeyDer::from_pem_slice(pem).unwrap(),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(AtomicUsize::new(0));
        let counters = (connections.clone(), requests.clone());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, (connections, requests)) = (acceptor.clone(), counters.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let peer = tls.get_ref().1.peer_certificates().unwrap()[0].clone();
                    let (_, peer) = x509_parser::parse_x509_certificate(&peer).unwrap();
                    let names = format!("{:?}", peer.subject_alternative_name());
                    assert!(names.contains(CONTROLLER_NAME), "{names}");
                    connections.fetch_add(1, Ordering::SeqCst);
                    let served = Arc::new(AtomicUsize::new(0));
                    let service =
                        hyper::service::service_fn(move |request: http::Request<Incoming>| {
                            let (requests, served) = (requests.clone(), served.clone());
                            async move {
                                answer(name, &request, &requests, &served, requests_per_connection)
                            }
                        });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service)
                        .await;
                });
            }
        });
        Self {
            address,
            connections,
            requests,
        }
    }
}

fn answer(
    name: AmphoraId,
    request: &http::Request<Incoming>,
    requests: &AtomicUsize,
    served: &AtomicUsize,
    limit: usize,
) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    requests.fetch_add(1, Ordering::SeqCst);
    assert_eq!(request.headers()[REQUEST_ID], "req-1");
    let (status, body) = match request.uri().path() {
        "/2.0/info" => {
            let info = Info {
                amphora_id: name,
                version: "1".into(),
                schema: SCHEMA,
                boot_id: "b".into(),
                started_at: "s".into(),
                revision: None,
                certificate_expires: "2030-01-01T00:00:00Z".into(),
            };
            (200, serde_json::to_vec(&info).unwrap())
        }
        "/2.0/state" => {
            let error = ErrorBody {
                code: "older-revision".into(),
                field: Some("generation".into()),
                message: "1.2 is in force".into(),
            };
            (409, serde_json::to_vec(&error).unwrap())
        }
        _ => (500, b"no JSON".to_vec()),
    };
    let mut response = http::Response::builder().status(status);
    if served.fetch_add(1, Ordering::SeqCst) + 1 == limit {
        response = response.header("connection", "close");
    }
    Ok(response.body(Full::new(Bytes::from(body))).unwrap())
}

fn pki() -> (tempfile::TempDir, Pki) {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(&dir.path().join("pki"), SystemTime::now()).unwrap();
    (dir, pki)
}

fn client(pki: &Pki) -> Client {
    Client::new(Arc::new(HostDial), pki.client_tls().unwrap())
}

#[tokio::test]
async fn one_connection_serves_many_calls_and_a_closed_one_is_replaced() {
    let (_dir, pki) = pki();
    let id = AmphoraId::random();
    let agent = Agent::start(&pki, id, 5).await;
    let client = client(&pki);
    let to = Address {
        amphora: id,
        at: agent.address,
    };
    for _ in 0..5 {
        assert_eq!(client.info(to, "req-1").await.unwrap().amphora_id, id);
    }
    assert_eq!(agent.connections.load(Ordering::SeqCst), 1);
    client.info(to, "req-1").await.unwrap();
    assert_eq!(agent.connections.load(Ordering::SeqCst), 2);
    assert_eq!(agent.requests.load(Ordering::SeqCst), 6);
    client.forget(id);
    client.info(to, "req-1").await.unwrap();
    assert_eq!(agent.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn another_amphora_at_the_address_is_not_talked_to() {
    let (_dir, pki) = pki();
    let agent = Agent::start(&pki, AmphoraId::random(), usize::MAX).await;
    let to = Address {
        amphora: AmphoraId::random(),
        at: agent.address,
    };
    let error = client(&pki).info(to, "req-1").await.unwrap_err();
    assert!(matches!(error, Error::Identity { .. }), "{error:?}");
    assert_eq!(agent.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_foreign_authority_is_refused_on_both_sides() {
    let ((_a, ours), (_b, theirs)) = (pki(), pki());
    let id = AmphoraId::random();
    let agent = Agent::start(&theirs, id, usize::MAX).await;
    let to = Address {
        amphora: id,
        at: agent.address,
    };
    let error = client(&ours).info(to, "req-1").await.unwrap_err();
    assert!(error.unreachable() && error.retryable(), "{error:?}");
    assert_eq!(agent.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn refusals_keep_code_and_field() {
    let (_dir, pki) = pki();
    let id = AmphoraId::random();
    let agent = Agent::start(&pki, id, usize::MAX).await;
    let to = Address {
        amphora: id,
        at: agent.address,
    };
    let error = client(&pki).state(to, "req-1").await.unwrap_err();
    assert_eq!(error.code(), Some("older-revision"));
    assert!(!error.retryable() && !error.unreachable());
    assert!(
        error.to_string().contains("generation: 1.2 is in force"),
        "{error}"
    );
    let error = client(&pki).status(to, "req-1").await.unwrap_err();
    assert!(error.retryable(), "{error}");
}

#[tokio::test]
async fn nobody_there_is_a_retryable_error() {
    let (_dir, pki) = pki();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let to = Address {
        amphora: AmphoraId::random(),
        at,
    };
    let error = client(&pki).info(to, "req-1").await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(error.retryable());
}
