//! TLS towards members, with rustls as the member.

use crate::kit::*;
use crate::tls::{Ca, bundle, key_der};
use krater_model::control::MemberHealth;
use krater_model::state::*;
use krater_model::*;
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, StreamOwned};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a member is like.
struct Wanted<'a> {
    ca: &'a Ca,
    name: &'a str,
    clients: Option<&'a Ca>,
    versions: &'a [&'static rustls::SupportedProtocolVersion],
    alpn: &'a [&'a str],
}

/// A member that tells what name it was asked for, which version and cipher it speaks and whether a
/// client certificate came, and serves any number of requests.
fn member_of(wanted: &Wanted<'_>) -> SocketAddr {
    let (certificate, key, _) = wanted.ca.issue(wanted.name);
    let provider = Arc::new(krater_dataplane::tls::provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(wanted.versions)
        .unwrap();
    let builder = match wanted.clients {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(ca.roots()), provider)
                .build()
                .unwrap(),
        ),
    };
    let config = builder.with_single_cert(vec![certificate], key_der(&key));
    let mut config = config.unwrap();
    config.alpn_protocols = wanted
        .alpn
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let config = Arc::new(config);
    server(move |tcp| {
        let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(session, tcp);
        let mut request: Vec<u8> = Vec::new();
        let mut part = [0; 1024];
        loop {
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                match stream.read(&mut part) {
                    Ok(n @ 1..) => request.extend(&part[..n]),
                    _ => return,
                }
            }
            request.clear();
            let body = format!(
                "sni={} version={:?} cipher={:?} client={}{}",
                stream.conn.server_name().unwrap_or("-"),
                stream.conn.protocol_version().unwrap(),
                stream.conn.negotiated_cipher_suite().unwrap().suite(),
                stream.conn.peer_certificates().is_some(),
                stream
                    .conn
                    .alpn_protocol()
                    .map_or_else(String::new, |name| {
                        format!(" alpn={}", String::from_utf8_lossy(name))
                    }),
            );
            let length = body.len();
            // One record, so that a client gets it in one piece.
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
            let _gone = stream.write_all(answer.as_bytes());
            let _gone = stream.flush();
        }
    })
}

fn plain(ca: &Ca, name: &str) -> SocketAddr {
    member_of(&Wanted {
        ca,
        name,
        clients: None,
        versions: rustls::ALL_VERSIONS,
        alpn: &[],
    })
}

fn no_tls() -> PoolTls {
    PoolTls {
        certificate: None,
        ca: None,
        crl: None,
        versions: Vec::new(),
        ciphers: Vec::new(),
        alpn: Vec::new(),
    }
}

fn put(dataplane: &Dataplane, setup: &Setup, certificates: &[Certificate]) -> (u16, String) {
    let mut snapshot = dataplane.snapshot(vec![setup.lb.clone()]);
    snapshot.certificates = certificates.to_vec();
    dataplane.put(&snapshot)
}

/// Status and body of one request on a connection of its own.
fn get(setup: &Setup) -> (u16, String) {
    let mut stream = setup.connect();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (answer[9..12].parse().unwrap(), body.to_owned())
}

#[test]
fn without_a_ca_anything_goes_and_with_one_only_its_members() {
    let dataplane = Dataplane::start(2);
    let (ours, theirs) = (Ca::new(), Ca::new());
    let (good, bad) = (plain(&ours, "m.example"), plain(&theirs, "m.example"));
    let ca = bundle(&ours.0.pem());
    let certificates = [ca.clone()];
    for (member, verify, status) in [
        (bad, false, 200),
        (good, true, 200),
        (bad, true, 503),
        (echo(), false, 503), // negative control: it speaks no TLS
    ] {
        let mut setup = Setup::new(ListenerProtocol::Http, &[member]);
        let mut tls = no_tls();
        tls.ca = verify.then(|| ca.id.clone());
        setup.pool().tls = Some(tls);
        assert_eq!(put(&dataplane, &setup, &certificates).0, 200);
        let (got, body) = get(&setup);
        assert_eq!(got, status, "{body}");
        if status == 200 {
            assert!(body.starts_with("sni=- version=TLSv1_3"), "{body}");
        }
    }
    // A member that does not verify is passed over for one that does.
    let mut setup = Setup::new(ListenerProtocol::Http, &[bad, good]);
    setup.pool().tls = Some(PoolTls {
        ca: Some(ca.id.clone()),
        ..no_tls()
    });
    assert_eq!(put(&dataplane, &setup, &certificates).0, 200);
    assert_eq!(get(&setup).0, 200);
}

#[test]
fn members_get_our_certificate_versions_and_ciphers() {
    let dataplane = Dataplane::start(1);
    let (ours, clients) = (Ca::new(), Ca::new());
    let member = member_of(&Wanted {
        ca: &ours,
        name: "m.example",
        clients: Some(&clients),
        versions: rustls::ALL_VERSIONS,
        alpn: &[],
    });
    let own = bundle(&clients.issue("krater.example").2);
    let certificates = [own.clone()];
    let mut setup = Setup::new(ListenerProtocol::Http, &[member]);
    setup.pool().tls = Some(no_tls());
    assert_eq!(put(&dataplane, &setup, &certificates).0, 200);
    assert_ne!(get(&setup).0, 200, "the member demands a certificate");
    setup.pool().tls = Some(PoolTls {
        certificate: Some(own.id.clone()),
        versions: vec![TlsVersion::Tls12],
        ciphers: vec!["ECDHE-ECDSA-AES256-GCM-SHA384".into()],
        ..no_tls()
    });
    assert_eq!(put(&dataplane, &setup, &certificates).0, 200);
    assert_eq!(
        get(&setup),
        (
            200,
            "sni=- version=TLSv1_2 cipher=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 client=true"
                .into()
        )
    );
    // A version that the member lacks.
    let old = member_of(&Wanted {
        ca: &ours,
        name: "m.example",
        clients: None,
        versions: &[&rustls::version::TLS12],
        alpn: &[],
    });
    let mut setup = Setup::new(ListenerProtocol::Http, &[old]);
    for (versions, status) in [
        (vec![TlsVersion::Tls13], 503),
        (vec![TlsVersion::Tls12, TlsVersion::Tls13], 200),
    ] {
        setup.pool().tls = Some(PoolTls {
            versions,
            ..no_tls()
        });
        assert_eq!(put(&dataplane, &setup, &[]).0, 200);
        assert_eq!(get(&setup).0, status);
    }
}

#[test]
fn members_are_offered_the_protocols_that_are_spoken() {
    let dataplane = Dataplane::start(1);
    let ours = Ca::new();
    let member = |alpn: &[&str]| {
        member_of(&Wanted {
            ca: &ours,
            name: "m.example",
            clients: None,
            versions: rustls::ALL_VERSIONS,
            alpn,
        })
    };
    let http = member(&["h2", "http/1.0", "http/1.1"]);
    let other = member(&["h2"]);
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    for (member, alpn, status, said) in [
        (http, vec![], 200, ""),
        (
            http,
            names(&["h2", "http/1.1", "http/1.0"]),
            200,
            " alpn=http/1.0",
        ),
        (http, names(&["http/1.1"]), 200, " alpn=http/1.1"),
        (http, names(&["h2"]), 200, ""),
        // Control: a member that speaks only another one ends the handshake (RFC 7301 section 3.2).
        (other, names(&["http/1.1"]), 503, ""),
    ] {
        let mut setup = Setup::new(ListenerProtocol::Http, &[member]);
        setup.pool().tls = Some(PoolTls {
            alpn: alpn.clone(),
            ..no_tls()
        });
        assert_eq!(put(&dataplane, &setup, &[]).0, 200);
        let (got, body) = get(&setup);
        assert_eq!(got, status, "{alpn:?}: {body}");
        let after = body
            .split_once("client=false")
            .map_or("", |(_, after)| after);
        assert_eq!(after, said, "{alpn:?}");
    }
}

#[test]
fn the_clients_server_name_goes_to_the_member_and_must_fit() {
    let dataplane = Dataplane::start(1);
    let ours = Ca::new();
    let member = plain(&ours, "a.example");
    let (ca, server) = (bundle(&ours.0.pem()), bundle(&ours.issue("a.example").2));
    let mut setup = Setup::new(ListenerProtocol::TerminatedHttps, &[member]);
    let mut listener = crate::tls::tls(&server);
    let other = bundle(&ours.issue("b.example").2);
    listener.sni_certificates = vec![other.id.clone()];
    setup.listener().tls = Some(listener);
    setup.pool().tls = Some(PoolTls {
        ca: Some(ca.id.clone()),
        ..no_tls()
    });
    assert_eq!(put(&dataplane, &setup, &[ca, server, other]).0, 200);
    let config = Arc::new(crate::tls::client_config(ours.roots(), None));
    let ask = |name: &str| crate::tls::get(&setup, &config, name).unwrap().0;
    for _ in 0..3 {
        let answer = ask("a.example");
        assert!(answer.contains("sni=a.example version=TLSv1_3"), "{answer}");
        // Nor is a kept connection that was made under the other name used.
        let answer = ask("b.example");
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }
}

#[test]
fn connections_are_kept_and_new_rules_end_their_use() {
    let dataplane = Dataplane::start(1);
    let (ours, theirs) = (Ca::new(), Ca::new());
    let ca = bundle(&ours.0.pem());
    let mut setup = Setup::new(ListenerProtocol::Http, &[plain(&theirs, "m.example")]);
    setup.pool().tls = Some(no_tls());
    assert_eq!(put(&dataplane, &setup, &[]).0, 200);
    let mut stream = setup.connect();
    let mut ask = || {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut part = [0; 4096];
        let n = stream.read(&mut part).unwrap();
        String::from_utf8_lossy(&part[9..n.min(12)]).into_owned()
    };
    for _ in 0..4 {
        assert_eq!(ask(), "200");
    }
    until("reuse is counted", || {
        (dataplane.metric("krater_dataplane_member_connections_reused_total") >= 2).then_some(())
    });
    setup.pool().tls = Some(PoolTls {
        ca: Some(ca.id.clone()),
        ..no_tls()
    });
    assert_eq!(put(&dataplane, &setup, &[ca]).0, 200);
    assert_eq!(ask(), "503", "the kept connection was not verified");
}

#[test]
fn bytes_of_a_tcp_listener_are_encrypted_too() {
    let dataplane = Dataplane::start(1);
    let ours = Ca::new();
    let ca = bundle(&ours.0.pem());
    let mut setup = Setup::tcp(&[plain(&ours, "m.example")]);
    setup.pool().tls = Some(PoolTls {
        ca: Some(ca.id.clone()),
        ..no_tls()
    });
    assert_eq!(put(&dataplane, &setup, &[ca]).0, 200);
    let mut stream = setup.connect();
    for _ in 0..2 {
        stream.write_all(b"x\r\n\r\n").unwrap();
        let mut part = [0; 4096];
        let n = stream.read(&mut part).unwrap();
        let text = String::from_utf8_lossy(&part[..n]);
        assert!(text.contains("sni=- version=TLSv1_3"), "{text}");
    }
}

#[test]
fn probes_speak_the_pools_tls() {
    let dataplane = Dataplane::start(1);
    let (ours, theirs) = (Ca::new(), Ca::new());
    let ca = bundle(&ours.0.pem());
    let code = |n| StatusCode::new(n).unwrap();
    let http = HealthCheck::Http(HttpCheck {
        method: "GET".into(),
        path: "/".into(),
        expected: vec![(code(200), code(200))],
        version: HttpVersion::Http11,
        host: None,
    });
    for check in [http, HealthCheck::Tcp] {
        let members = [plain(&ours, "m.example"), plain(&theirs, "m.example")];
        let mut setup = Setup::new(ListenerProtocol::Http, &members);
        setup.pool().health_monitor = Some(monitor(check));
        setup.pool().tls = Some(PoolTls {
            ca: Some(ca.id.clone()),
            ..no_tls()
        });
        assert_eq!(put(&dataplane, &setup, std::slice::from_ref(&ca)).0, 200);
        let ids: Vec<_> = setup.pool().members.iter().map(|m| m.id).collect();
        for (id, health) in ids.iter().zip([MemberHealth::Up, MemberHealth::Down]) {
            until("probed", || {
                (dataplane.member(*id).health == health).then_some(())
            });
        }
        let reason = dataplane.member(ids[1]).reason;
        assert!(reason.contains("TLS: "), "{reason}");
    }
}

#[test]
fn a_revoked_member_is_not_used() {
    use rcgen::{
        CertificateParams, CertificateRevocationListParams, KeyIdMethod, KeyPair,
        RevokedCertParams, SerialNumber, date_time_ymd,
    };
    let dataplane = Dataplane::start(1);
    let ours = Ca::new();
    let ca = bundle(&ours.0.pem());
    let member = |serial: u64| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["m.example".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &ours.0).unwrap().der().clone();
        let provider = Arc::new(krater_dataplane::tls::provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key_der(&key));
        crate::tls::https_server_with(Arc::new(config.unwrap()), "fine")
    };
    let crl = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2096, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(7_u64),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let crl = bundle(&crl.signed_by(&ours.0).unwrap().pem().unwrap());
    for (serial, with_crl, status) in [(7, false, 200), (7, true, 503), (8, true, 200)] {
        let mut setup = Setup::new(ListenerProtocol::Http, &[member(serial)]);
        setup.pool().tls = Some(PoolTls {
            ca: Some(ca.id.clone()),
            crl: with_crl.then(|| crl.id.clone()),
            ..no_tls()
        });
        assert_eq!(put(&dataplane, &setup, &[ca.clone(), crl.clone()]).0, 200);
        assert_eq!(get(&setup).0, status, "serial {serial}, CRL {with_crl}");
    }
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let dataplane = Dataplane::start(1);
    let ours = Ca::new();
    let ca = bundle(&ours.0.pem());
    let mut setup = Setup::new(ListenerProtocol::Http, &[plain(&ours, "m.example")]);
    let broken = bundle("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    for (tls, field) in [
        (
            PoolTls {
                ca: Some(broken.id.clone()),
                ..no_tls()
            },
            "pools[0].tls.ca",
        ),
        (
            PoolTls {
                certificate: Some(ca.id.clone()),
                ..no_tls()
            },
            "pools[0].tls.certificate",
        ),
        (
            PoolTls {
                crl: Some(ca.id.clone()),
                ..no_tls()
            },
            "pools[0].tls.crl",
        ),
        (
            PoolTls {
                ciphers: vec!["DHE-RSA-AES256-SHA".into()],
                ..no_tls()
            },
            "pools[0].tls.ciphers",
        ),
    ] {
        setup.pool().tls = Some(tls);
        let (status, body) = put(&dataplane, &setup, &[ca.clone(), broken.clone()]);
        assert!(status == 400 && body.contains(field), "{field}: {body}");
    }
    // After a reboot the agent may not have it yet: the pool serves nothing until it comes.
    setup.pool().tls = Some(PoolTls {
        ca: Some(ca.id.clone()),
        ..no_tls()
    });
    assert_eq!(put(&dataplane, &setup, &[]).0, 200);
    assert_eq!(get(&setup).0, 503);
    assert_eq!(put(&dataplane, &setup, &[ca]).0, 200);
    assert_eq!(get(&setup).0, 200);
}
