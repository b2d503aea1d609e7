//! Requests and responses on their way, in every shape.

use super::kit::*;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Answers with the request's body.
fn echo() -> Member {
    Member::answering(|request| ok(&request.body))
}

#[test]
fn connections_are_kept_on_both_sides() {
    let member = Member::text("hello");
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    for _ in 0..20 {
        let answer = client.get("/a?b");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
        assert_eq!(answer.field("connection"), None);
    }
    assert_eq!(member.connections(), 1, "one client, one member connection");
    for request in member.requests() {
        assert_eq!(request.start(), "GET /a?b HTTP/1.1");
        assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(request.field("connection"), None);
    }
}

#[test]
fn a_first_request_that_can_be_sent_again_uses_any_connection() {
    let member = Member::text("hello");
    let mut plane = Plane::start(1);
    plane.pools = vec![pool(1, &[member.address])];
    plane.listener["default_pool"] = uuid(1).into();
    plane.apply();
    for n in 0..20 {
        assert_eq!(plane.client().get(&format!("/{n}")).text(), "hello");
    }
    assert_eq!(member.connections(), 1, "20 clients, one member connection");
}

#[test]
fn another_first_request_uses_proved_connections_only() {
    let member = Member::text("hello");
    let mut plane = Plane::start(1);
    plane.pools = vec![pool(1, &[member.address])];
    plane.listener["default_pool"] = uuid(1).into();
    plane.apply();
    let post = || {
        let mut client = plane.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.response().unwrap().text(), "hello");
        client
    };
    post();
    let mut second = post();
    assert_eq!(
        member.connections(),
        2,
        "the first one has not proved itself"
    );
    second.get("/3");
    assert_eq!(member.connections(), 2);
    post();
    assert_eq!(member.connections(), 2, "now one has");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let member = Member::answering(|request| ok(request.start()));
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    let mut all = String::new();
    for n in 0..50 {
        all += &format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    }
    client.send(all);
    for n in 0..50 {
        assert_eq!(
            client.response().unwrap().text(),
            format!("POST /{n} HTTP/1.1")
        );
    }
}

#[test]
fn bodies_of_every_size_and_framing_arrive_whole() {
    let member = echo();
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    for length in [0, 1, 100, 16_000, 16_384, 40_000, 1 << 20, (3 << 20) + 7] {
        let body = noise(length);
        let mut sender = client.stream.try_clone().unwrap();
        let sent = body.clone();
        let upload = std::thread::spawn(move || {
            use std::io::Write;
            write!(
                sender,
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
            )
            .unwrap();
            sender.write_all(&sent).unwrap();
        });
        let answer = client.response().unwrap();
        upload.join().unwrap();
        assert!(answer.body == body, "{length} bytes with Content-Length");

        let mut sender = client.stream.try_clone().unwrap();
        let sent = body.clone();
        let upload = std::thread::spawn(move || {
            use std::io::Write;
            write!(
                sender,
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            .unwrap();
            for (i, part) in sent.chunks(77_777).enumerate() {
                write!(sender, "{:x};n={i}\r\n", part.len()).unwrap();
                sender.write_all(part).unwrap();
                sender.write_all(b"\r\n").unwrap();
            }
            sender.write_all(b"0\r\nX-Trailer: t\r\n\r\n").unwrap();
        });
        let answer = client.response().unwrap();
        upload.join().unwrap();
        assert!(answer.body == body, "{length} bytes chunked");
    }
    // Large bodies took the short way.
    let spliced = plane.metric("krater_dataplane_spliced_bytes_total");
    assert!(spliced > 2 * (3 << 20), "{spliced}");
}

#[test]
fn chunked_responses_keep_the_connection() {
    let member = Member::answering(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n"
            .to_vec()
    });
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    for _ in 0..3 {
        let answer = client.get("/");
        assert_eq!(
            (answer.text().as_str(), answer.field("trailer")),
            ("abcde", Some("T"))
        );
    }
    assert_eq!(member.connections(), 1);
}

#[test]
fn an_old_client_gets_no_chunks() {
    let member = Member::answering(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n".to_vec()
    });
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let answer = client.response().unwrap();
    assert_eq!(
        (answer.text().as_str(), answer.field("connection")),
        ("abcde", Some("close"))
    );
    assert_eq!(answer.field("transfer-encoding"), None);
    assert_eq!(member.requests()[0].start(), "GET / HTTP/1.1");
}

#[test]
fn an_old_client_may_keep_its_connection() {
    let member = Member::text("x");
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(
            client.response().unwrap().field("connection"),
            Some("keep-alive")
        );
    }
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(
        client.response().unwrap().field("connection"),
        Some("close")
    );
    assert!(client.rest().is_empty());
}

#[test]
fn responses_without_body() {
    let member = Member::answering(|request| match request.start().split(' ').nth(1) {
        Some("/204") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        Some("/304") => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n".to_vec(),
    });
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    for _ in 0..3 {
        assert_eq!(client.get("/204").status(), 204);
        assert_eq!(client.get("/304").field("content-length"), Some("99"));
        client.send("HEAD /200 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.head().unwrap().field("content-length"), Some("99"));
    }
    assert_eq!(member.connections(), 1);
}

#[test]
fn a_body_until_close_ends_with_the_connection() {
    let member = Member::new(|mut connection, _| {
        connection.head();
        connection
            .send("HTTP/1.0 200 OK\r\n\r\n")
            .send(noise(200_000));
    });
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    let answer = client.get("/");
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(answer.body == noise(200_000));
}

#[test]
fn continue_comes_from_the_member() {
    let member = Member::new(|mut connection, _| {
        while let Some(request) = connection.head() {
            assert_eq!(request.field("expect"), Some("100-continue"));
            connection.send("HTTP/1.1 100 Continue\r\n\r\n");
            connection.send("HTTP/1.1 103 Early Hints\r\nLink: </s>\r\n\r\n");
            let body = connection.read_exact(5);
            connection.send(ok(body));
        }
    });
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    for _ in 0..2 {
        client.send(
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        );
        assert_eq!(client.response().unwrap().status(), 100);
        client.send("hello");
        assert_eq!(client.response().unwrap().field("link"), Some("</s>"));
        assert_eq!(client.response().unwrap().text(), "hello");
    }
}

#[test]
fn an_early_answer_reaches_the_client() {
    let member = Member::new(|mut connection, _| {
        connection.head();
        connection
            .send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
    });
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n");
    client.send(noise(100_000));
    let answer = client.response().unwrap();
    assert_eq!((answer.status(), answer.text().as_str()), (413, "big"));
}

#[test]
fn a_response_streams_while_the_request_does() {
    let member = Member::new(|mut connection, _| {
        connection.head();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
        for _ in 0..10 {
            let byte = connection.read_exact(1);
            connection.send(byte);
        }
        while connection.request().is_some() {
            connection.send(ok("next"));
        }
    });
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 200);
    for byte in b"0123456789" {
        client.send([*byte]);
        assert_eq!(client.read_exact(1), [*byte]);
    }
    assert_eq!(client.get("/").text(), "next", "both connections live on");
}

#[test]
fn websockets_pass_with_half_close() {
    let member = Member::new(|mut connection, _| {
        let request = connection.head().unwrap();
        assert_eq!(request.field("upgrade"), Some("websocket"));
        assert_eq!(request.field("connection"), Some("upgrade"));
        // The first frame rides with the head.
        connection.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhi");
        let all = connection.rest();
        connection.send(&all);
    });
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    let answer = client.response().unwrap();
    assert_eq!(
        (answer.status(), answer.field("upgrade")),
        (101, Some("websocket"))
    );
    assert_eq!(answer.field("connection"), Some("upgrade"));
    assert_eq!(client.read_exact(2), b"hi");
    let frames = noise(500_000);
    client.send(&frames).finish();
    assert!(client.rest() == frames, "echoed after the client's end");
}

#[test]
fn an_upgrade_that_is_refused_is_a_response() {
    let member = Member::text("no");
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    for _ in 0..2 {
        client.send(
            "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        assert_eq!(client.response().unwrap().text(), "no");
    }
    assert_eq!(member.connections(), 1);
}

#[test]
fn a_client_that_ends_its_direction_still_gets_its_answer() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let member = Member::new(move |mut connection, _| {
        connection.request();
        held.lock().unwrap().recv().unwrap();
        connection.send(ok("late"));
    });
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").finish();
    until("the request", || member.connections() == 1);
    release.send(()).unwrap();
    assert_eq!(client.response().unwrap().text(), "late");
}

#[test]
fn a_client_that_resets_cancels_the_request() {
    let (tell, told) = mpsc::channel();
    let tell = Arc::new(Mutex::new(tell));
    let member = Member::new(move |mut connection, _| {
        connection.request();
        tell.lock().unwrap().send("request").unwrap();
        assert!(connection.rest().is_empty());
        tell.lock().unwrap().send("end").unwrap();
    });
    let plane = Plane::with(&[member.address]);
    let mut client = plane.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "request");
    client.reset();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "end");
}

#[test]
fn statistics_are_exact() {
    let member = Member::text("hello");
    let plane = Plane::with(&[member.address]);
    let before = plane.stats();
    let mut client = plane.client();
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = ok("hello").len();
    for _ in 0..10 {
        client.send(request);
        client.response().unwrap();
    }
    let large = noise(1 << 20);
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        large.len()
    ));
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        large.len()
    )
    .len();
    client.send(&large);
    client.response().unwrap();
    let sent = u64::try_from(10 * request.len() + head + large.len()).unwrap();
    let received = u64::try_from(11 * answer).unwrap();
    // Bytes are counted when the system call returns, which may be after the client has them.
    until("the counters", || {
        let now = plane.stats();
        now.bytes_in - before.bytes_in == sent && now.bytes_out - before.bytes_out == received
    });
    let after = plane.stats();
    assert_eq!(after.total_connections - before.total_connections, 1);
    client.send("BAD\r\n\r\n").rest();
    assert_eq!(plane.stats().request_errors - after.request_errors, 1);
}

#[test]
fn reuse_buffers_and_splicing_can_be_watched() {
    let large = noise(200_000);
    let body = large.clone();
    let member = Member::answering(move |_| ok(&body));
    let plane = Plane::with(&[member.address]);
    let metric = |name: &str| plane.metric(&format!("krater_dataplane_{name}"));
    let mut client = plane.client();
    for _ in 0..5 {
        assert!(client.get("/").body == large);
    }
    until("four of five requests on a kept connection", || {
        metric("member_connections_reused_total") == 4 && metric("member_connections_kept") == 1
    });
    assert_eq!(member.connections(), 1);
    let (spliced, whole) = (metric("spliced_bytes_total"), 5 * 200_000);
    assert!(spliced > whole / 2 && spliced <= whole, "{spliced}");
    until("no buffer in an idle data plane", || {
        metric("buffers_held") == 0
    });
    // Half a head has to be kept somewhere.
    client.send("GET / HTTP/1.1\r\nHo");
    until("a buffer for half a head", || metric("buffers_held") == 1);
    drop(client);
    until("no buffer after the client", || metric("buffers_held") == 0);
}
