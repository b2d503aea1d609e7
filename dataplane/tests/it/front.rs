//! Front ends that name their clients in a PROXY protocol header.

use crate::kit::*;
use krater_dataplane_core::proxy_protocol::{v1, v2};
use krater_model::state::*;
use std::io::{Read, Write};
use std::net::SocketAddr;

/// A member that shows the request that it got.
fn mirror() -> SocketAddr {
    server(|mut stream| {
        let mut request: Vec<u8> = Vec::new();
        let mut part = [0; 1024];
        while !request.windows(4).any(|w| w == b"\r\n\r\n") {
            match stream.read(&mut part) {
                Ok(n @ 1..) => request.extend(&part[..n]),
                _ => return,
            }
        }
        let length = request.len();
        let head =
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        let _gone = stream.write_all(&[head.as_bytes(), &request].concat());
    })
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Everything that comes back for `bytes`.
fn ask(setup: &Setup, bytes: &[u8]) -> String {
    let mut stream = setup.connect();
    let _gone = stream.write_all(bytes);
    let answer = std::iter::from_fn(|| byte(&mut stream)).collect();
    String::from_utf8(answer).unwrap()
}

fn http(fronts: &[&str]) -> Setup {
    let mut setup = Setup::new(ListenerProtocol::Http, &[mirror()]);
    let listener = setup.listener();
    listener.insert_headers = vec![InsertHeader::XForwardedFor, InsertHeader::XForwardedPort];
    listener.options.proxy_protocol_from = fronts.iter().map(|f| f.parse().unwrap()).collect();
    setup
}

fn named() -> (SocketAddr, SocketAddr) {
    let (client, local) = ("198.51.100.7:4321", "203.0.113.9:8443");
    (client.parse().unwrap(), local.parse().unwrap())
}

#[test]
fn a_front_end_names_its_client() {
    let dataplane = Dataplane::start(2);
    let setup = http(&["127.0.0.0/8"]);
    setup.apply(&dataplane);
    let (client, local) = named();
    for header in [v1(client, local), v2(client, local, None)] {
        let answer = ask(&setup, &[&header[..], REQUEST].concat());
        assert!(
            answer.contains("\r\nX-Forwarded-For: 198.51.100.7\r\n"),
            "{answer}"
        );
        assert!(
            answer.contains("\r\nX-Forwarded-Port: 8443\r\n"),
            "{answer}"
        );
    }
    // It speaks for itself.
    let answer = ask(&setup, &[b"PROXY UNKNOWN\r\n", REQUEST].concat());
    assert!(
        answer.contains("\r\nX-Forwarded-For: 127.0.0.1\r\n"),
        "{answer}"
    );
    // Without a header, with half of one, or with a wrong one nothing is served.
    let wrong = [b"PROXY TCP4 1.2.3.4 1.2.3.4 x 2\r\n", REQUEST].concat();
    let before = dataplane.metric("krater_dataplane_proxy_header_errors_total");
    assert_eq!(before, 0);
    assert_eq!(ask(&setup, REQUEST), "");
    assert_eq!(ask(&setup, &wrong), "");
    let mut half = setup.connect();
    half.write_all(b"PROXY TCP4 1").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(byte(&mut half), None);
    until("all are counted", || {
        (dataplane.metric("krater_dataplane_proxy_header_errors_total") == 3).then_some(())
    });
}

#[test]
fn a_stranger_is_not_believed() {
    let dataplane = Dataplane::start(1);
    let setup = http(&["192.0.2.0/24"]);
    setup.apply(&dataplane);
    let (client, local) = named();
    let answer = ask(&setup, &[&v1(client, local)[..], REQUEST].concat());
    assert!(
        answer.starts_with("HTTP/1.1 400"),
        "a header is no request: {answer}"
    );
    let answer = ask(&setup, REQUEST);
    assert!(
        answer.contains("\r\nX-Forwarded-For: 127.0.0.1\r\n"),
        "{answer}"
    );
}

#[test]
fn limits_look_at_the_named_client() {
    let dataplane = Dataplane::start(2);
    let mut setup = Setup::tcp(&[named_echo(b'x')]);
    let listener = setup.listener();
    listener.options.proxy_protocol_from = vec!["127.0.0.0/8".parse().unwrap()];
    listener.options.connections_per_client = Some(1);
    listener.allowed_cidrs = vec!["198.51.100.0/24".parse().unwrap()];
    setup.apply(&dataplane);
    let local = named().1;
    let open = |client: &str| {
        let mut stream = setup.connect();
        let header = v2(client.parse().unwrap(), local, None);
        stream.write_all(&header).unwrap();
        stream
    };
    let mut first = open("198.51.100.1:1");
    assert_eq!(
        byte(&mut first),
        Some(b'x'),
        "allowed, though its front end is not"
    );
    assert_eq!(byte(&mut open("198.51.100.1:2")), None, "its second");
    assert_eq!(
        byte(&mut open("198.51.100.2:1")),
        Some(b'x'),
        "another client"
    );
    assert_eq!(byte(&mut open("192.0.2.1:1")), None, "not allowed");
    assert_eq!(
        dataplane.metric("krater_dataplane_refused_clients_total"),
        1
    );
    assert_eq!(
        dataplane.metric("krater_dataplane_limited_clients_total"),
        1
    );
    drop(first);
    until("its place came back", || {
        (byte(&mut open("198.51.100.1:3")) == Some(b'x')).then_some(())
    });
}
