//! Members and clients that fail, stall, or talk nonsense.

use super::kit::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

#[test]
fn nobody_serves() {
    let plane = Plane::with(&[]);
    let answer = plane.client().get("/");
    assert_eq!((answer.status(), answer.field("connection")), (503, None));
    let plane = Plane::with(&[nobody(), nobody()]);
    let mut client = plane.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").status(), 503, "the connection lives on");
    }
}

#[test]
fn another_member_is_tried_when_a_connect_fails() {
    let member = Member::text("x");
    let plane = Plane::with(&[nobody(), member.address, nobody()]);
    let mut client = plane.client();
    for _ in 0..12 {
        assert_eq!(client.get("/").status(), 200);
    }
}

/// A member that takes a request on a kept connection and closes without an answer.
fn forgetful(requests: Arc<AtomicUsize>) -> Member {
    Member::new(move |mut connection, _| {
        connection.request();
        requests.fetch_add(1, SeqCst);
        connection.send(ok("first"));
        if connection.request().is_some() {
            requests.fetch_add(1, SeqCst);
            connection.reset();
        }
    })
}

#[test]
fn a_kept_connection_that_breaks_is_replaced_once() {
    let requests = Arc::new(AtomicUsize::new(0));
    let member = forgetful(Arc::clone(&requests));
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    assert_eq!(client.get("/1").text(), "first");
    assert_eq!(
        client.get("/2").text(),
        "first",
        "sent again on a fresh connection"
    );
    assert_eq!((member.connections(), requests.load(SeqCst)), (2, 3));
}

/// Whose connection it was makes no difference: a client that came just now sees nothing of it either.
#[test]
fn a_kept_connection_that_breaks_under_a_first_request_is_replaced() {
    let requests = Arc::new(AtomicUsize::new(0));
    let member = forgetful(Arc::clone(&requests));
    let mut plane = Plane::start(1);
    plane.pools = vec![pool(1, &[member.address])];
    plane.listener["default_pool"] = uuid(1).into();
    plane.apply();
    for _ in 0..2 {
        assert_eq!(plane.client().get("/").text(), "first");
    }
    assert_eq!((member.connections(), requests.load(SeqCst)), (2, 3));
}

#[test]
fn what_must_not_be_sent_twice_is_not() {
    let requests = Arc::new(AtomicUsize::new(0));
    let member = forgetful(Arc::clone(&requests));
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    assert_eq!(client.get("/1").text(), "first");
    client.send("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().unwrap().status(), 502);
    assert_eq!(requests.load(SeqCst), 2);
}

#[test]
fn a_kept_connection_that_was_closed_is_not_used() {
    let member = Member::new(|mut connection, _| {
        connection.request();
        connection.send(ok("bye"));
    });
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    for n in 1..=10 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        let status = client.response().unwrap().status();
        // The close may still be on its way when the next request comes.
        assert!(status == 200 || status == 502, "request {n}: {status}");
    }
}

#[test]
fn nonsense_from_a_member_is_502() {
    let endless = format!("HTTP/1.1 200 OK\r\nA: {}\r\n", "x".repeat(20_000));
    let cases: Vec<(&str, String)> = vec![
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n".into()),
        ("a head without end", endless),
        ("closed in the head", "HTTP/1.1 200 OK\r\nA: b\r\n".into()),
        ("closed at once", String::new()),
        (
            "both framings",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .into(),
        ),
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef".into(),
        ),
        (
            "101 unasked",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".into(),
        ),
        (
            "bad first chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".into(),
        ),
        (
            "interim without end",
            "HTTP/1.1 100 Continue\r\n\r\n".repeat(100),
        ),
    ];
    for (what, bytes) in cases {
        let member = Member::new(move |mut connection, _| {
            connection.request();
            connection.send(&bytes);
        });
        let plane = Plane::with(&[member.address]);
        let mut client = plane.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut answer = client.response().unwrap();
        while answer.status() == 100 {
            answer = client.response().unwrap();
        }
        assert_eq!(answer.status(), 502, "{what}");
        assert_eq!(
            plane.stats().request_errors,
            0,
            "{what}: not the client's fault"
        );
    }
}

#[test]
fn bytes_after_a_response_never_reach_another_client() {
    let member = Member::new(|mut connection, _| {
        while connection.request().is_some() {
            connection.send([&ok("mine")[..], &ok("poison")[..]].concat());
        }
    });
    let mut plane = Plane::start(1);
    plane.pools = vec![pool(1, &[member.address])];
    plane.listener["default_pool"] = uuid(1).into();
    plane.apply();
    for _ in 0..5 {
        let mut client = plane.client();
        assert_eq!(client.get("/").text(), "mine");
        assert_eq!(client.get("/").text(), "mine");
    }
}

#[test]
fn a_member_that_dies_in_the_body_is_noticed() {
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let member = Member::new(move |mut connection, _| {
            connection.request();
            connection.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nabcde"));
        });
        let plane = Plane::with(&[member.address]);
        let mut client = plane.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.head().unwrap().status(), 200);
        let rest = client.rest();
        assert!(b"5\r\nabcde".starts_with(&rest), "{rest:?}");
    }
}

#[test]
fn a_silent_member_is_504() {
    let member = Member::new(|mut connection, _| {
        connection.request();
        connection.rest();
    });
    let mut plane = Plane::with(&[member.address]);
    plane.listener["timeouts"] = serde_json::json!(
        {"client_data": 50_000, "member_connect": 5_000, "member_data": 100, "tcp_inspect": 0}
    );
    plane.apply();
    assert_eq!(plane.client().get("/").status(), 504);
}

#[test]
fn a_slow_client_is_408() {
    let member = Member::answering(|request| ok(&request.body));
    let mut plane = Plane::with(&[member.address]);
    plane.listener["timeouts"] = serde_json::json!(
        {"client_data": 100, "member_connect": 5_000, "member_data": 50_000, "tcp_inspect": 0}
    );
    plane.apply();
    let mut client = plane.client();
    client.send("GET / HTTP/1.1\r\nHo");
    assert_eq!(client.response().unwrap().status(), 408, "in the head");
    let mut client = plane.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
    assert_eq!(client.response().unwrap().status(), 408, "in the body");
    assert_eq!(plane.stats().request_errors, 2);
    let mut client = plane.client();
    assert!(client.rest().is_empty(), "an idle one is closed silently");
    assert_eq!(plane.stats().request_errors, 2);
}

#[test]
fn a_body_cut_short_never_looks_whole() {
    for body in [
        "Content-Length: 10\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let member = Member::answering(|_| ok("whole"));
        let plane = Plane::with(&[member.address]);
        let mut client = plane.client();
        client
            .send(format!("POST / HTTP/1.1\r\nHost: a\r\n{body}"))
            .finish();
        let rest = String::from_utf8(client.rest()).unwrap();
        assert!(
            rest.is_empty() || rest.starts_with("HTTP/1.1 400 "),
            "{rest}"
        );
        assert!(member.requests().is_empty());
    }
}

#[test]
fn our_own_answers_have_their_statuses() {
    let member = Member::text("x");
    let plane = Plane::with(&[member.address]);
    let huge = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(17_000)
    );
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405),
        (huge.as_str(), 431),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            501,
        ),
    ] {
        let mut client = plane.client();
        client.send(request);
        let answer = client.response().unwrap();
        assert_eq!(
            (answer.status(), answer.field("connection")),
            (status, Some("close"))
        );
        assert!(client.rest().is_empty());
    }
    assert!(member.requests().is_empty());
}
