//! Hostile requests over real sockets: whatever a client sends, the member never receives a request
//! that the client did not plainly send.

use super::kit::*;
use krater_dataplane_core::http1::Fault;
use std::sync::{Arc, Mutex};

type Case = (&'static str, &'static str, &'static [u8], Fault);

const CASES: &[Case] = include!("../../../core/testdata/hostile.rs");

/// A member that keeps every byte and answers whatever looks like the end of a head.
fn recorder() -> (Member, Arc<Mutex<Vec<u8>>>) {
    let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
    let kept = Arc::clone(&seen);
    let member = Member::new(move |connection, _| {
        use std::io::{Read, Write};
        let mut stream = connection.stream;
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut bytes) {
            kept.lock().unwrap().extend_from_slice(&bytes[..n]);
            if bytes[..n].windows(9).any(|w| w == b"GET /good") {
                let _ = stream.write_all(&ok("good"));
            }
        }
    });
    (member, seen)
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack
        .windows(needle.len())
        .filter(|w| *w == needle)
        .count()
}

#[test]
fn no_second_request_reaches_the_member() {
    let (member, seen) = recorder();
    let plane = Plane::with(&[member.address]);
    for (id, clause, raw, fault) in CASES {
        seen.lock().unwrap().clear();
        let mut client = plane.client();
        client.send(raw).finish();
        let answer = String::from_utf8_lossy(&client.rest()).into_owned();
        let wanted = format!("HTTP/1.1 {} ", fault.status());
        assert!(
            answer.starts_with(&wanted),
            "{id} (RFC {clause}): {answer:?}"
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{id}: {answer}");
        let seen = seen.lock().unwrap();
        // The head of a request whose body turns out bad may have gone out: once, and no more.
        let heads = count(&seen, b" HTTP/1.1\r\n");
        let body_fault = id.starts_with("chunk-");
        assert!(
            heads <= usize::from(body_fault),
            "{id}: {:?}",
            String::from_utf8_lossy(&seen)
        );
        assert_eq!(
            count(&seen, b"0\r\n\r\n"),
            0,
            "{id}: no body looks complete"
        );
    }
    assert_eq!(
        plane.stats().request_errors,
        u64::try_from(CASES.len()).unwrap()
    );
}

#[test]
fn nor_behind_a_good_request() {
    let (member, seen) = recorder();
    let plane = Plane::with(&[member.address]);
    for (id, clause, raw, fault) in CASES {
        if raw.starts_with(b"\r\n\r\n") {
            continue; // two empty lines after a request are two requests' worth of nothing
        }
        seen.lock().unwrap().clear();
        let mut client = plane.client();
        client
            .send([b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n", *raw].concat())
            .finish();
        let answer = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(
            answer.starts_with("HTTP/1.1 200 "),
            "{id} (RFC {clause}): {answer:?}"
        );
        let second = format!("goodHTTP/1.1 {} ", fault.status());
        assert!(answer.contains(&second), "{id} (RFC {clause}): {answer:?}");
        let seen = seen.lock().unwrap();
        let heads = count(&seen, b" HTTP/1.1\r\n");
        assert!(heads <= 1 + usize::from(id.starts_with("chunk-")), "{id}");
    }
}
