//! Every limit of HTTP/1.1, over sockets: one below, at it, and one above.

use super::kit::*;
use krater_dataplane_core::http1::chunked::{MAX_EXTENSION, MAX_EXTENSIONS, MAX_TRAILERS};
use krater_dataplane_core::http1::{MAX_FIELDS, MAX_HEAD};

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The status that each request gets on a connection of its own.
fn statuses(plane: &Plane, requests: impl IntoIterator<Item = String>) -> Vec<u16> {
    let status = |request: String| {
        let mut client = plane.client();
        client.send(request);
        client.response().map_or(0, |answer| answer.status())
    };
    requests.into_iter().map(status).collect()
}

/// One below the limit, the limit, one above.
fn around(limit: usize) -> [usize; 3] {
    [limit - 1, limit, limit + 1]
}

#[test]
fn size_and_count_of_a_requests_head() {
    let member = Member::text("x");
    let plane = Plane::with(&[member.address]);
    let sized = |size: usize| {
        let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "x".repeat(size - frame)
        )
    };
    assert_eq!(sized(100).len(), 100);
    assert_eq!(
        statuses(&plane, around(MAX_HEAD).map(sized)),
        [200, 200, 431]
    );
    // The target alone, and behind another request, where the buffer is partly used.
    let target = |size: usize| {
        let frame = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".len();
        format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
            "x".repeat(size - frame)
        )
    };
    assert_eq!(
        statuses(&plane, around(MAX_HEAD).map(target)),
        [200, 200, 431]
    );
    let second = around(MAX_HEAD).map(|size| {
        let mut client = plane.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n\r\n{}", sized(size)));
        assert_eq!(client.response().unwrap().status(), 200);
        client.response().unwrap().status()
    });
    assert_eq!(second, [200, 200, 431]);
    let fields = |count: usize| {
        let more = "X: y\r\n".repeat(count - 1); // Host is one
        format!("GET / HTTP/1.1\r\nHost: a\r\n{more}\r\n")
    };
    assert_eq!(
        statuses(&plane, around(MAX_FIELDS).map(fields)),
        [200, 200, 431]
    );
    let method = |length: usize| format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(length));
    assert_eq!(statuses(&plane, around(24).map(method)), [200, 200, 400]);
    let port = |digits: usize| format!("GET / HTTP/1.1\r\nHost: a:{}\r\n\r\n", "1".repeat(digits));
    assert_eq!(statuses(&plane, around(5).map(port)), [200, 200, 400]);
    let length = |digits: usize| {
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {:0digits$}\r\n\r\nx",
            1
        )
    };
    assert_eq!(statuses(&plane, around(19).map(length)), [200, 200, 400]);
    assert_eq!(
        member.requests().len(),
        6 * 2 + 5,
        "what was refused reached nobody"
    );
}

#[test]
fn parts_of_a_chunked_body() {
    let member = Member::text("x");
    let plane = Plane::with(&[member.address]);
    let size = |digits: usize| format!("{CHUNKED}{:0digits$}\r\nx\r\n0\r\n\r\n", 1);
    assert_eq!(statuses(&plane, around(15).map(size)), [200, 200, 400]);
    let extension =
        |length: usize| format!("{CHUNKED}1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(length - 1));
    let limit = usize::from(MAX_EXTENSION);
    assert_eq!(
        statuses(&plane, around(limit).map(extension)),
        [200, 200, 400]
    );
    let extensions = |total: usize| {
        let each = 128;
        let chunk = |length: usize| format!("1;{}\r\nx\r\n", "x".repeat(length - 1));
        let many = chunk(each).repeat(total / each - 1);
        format!("{CHUNKED}{many}{}0\r\n\r\n", chunk(each + total % each))
    };
    let limit = usize::try_from(MAX_EXTENSIONS).unwrap();
    // `total / each` differs below the limit: the last chunk makes up for it.
    assert_eq!(
        statuses(&plane, around(limit).map(extensions)),
        [200, 200, 400]
    );
    let trailers = |size: usize| {
        format!(
            "{CHUNKED}0\r\nX:{}\r\n\r\n",
            "x".repeat(size - "X:\r".len())
        )
    };
    let limit = usize::from(MAX_TRAILERS);
    assert_eq!(
        statuses(&plane, around(limit).map(trailers)),
        [200, 200, 431]
    );
}

#[test]
fn size_and_count_of_a_members_head() {
    let answers: Vec<(usize, u16)> = around(MAX_HEAD).into_iter().zip([200, 200, 502]).collect();
    for (size, status) in answers {
        let member = Member::answering(move |_| {
            let frame = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: \r\n\r\n".len();
            let filling = "x".repeat(size - frame);
            format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {filling}\r\n\r\n").into_bytes()
        });
        let plane = Plane::with(&[member.address]);
        assert_eq!(plane.client().get("/").status(), status, "{size} bytes");
    }
    let answers: Vec<(usize, u16)> = around(MAX_FIELDS)
        .into_iter()
        .zip([200, 200, 502])
        .collect();
    for (count, status) in answers {
        let member = Member::answering(move |_| {
            let more = "X: y\r\n".repeat(count - 1);
            format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{more}\r\n").into_bytes()
        });
        let plane = Plane::with(&[member.address]);
        assert_eq!(plane.client().get("/").status(), status, "{count} fields");
    }
    for (count, status) in [(15, 200), (16, 200), (17, 502)] {
        let member = Member::answering(move |_| {
            [b"HTTP/1.1 102 Processing\r\n\r\n".repeat(count), ok("x")].concat()
        });
        let plane = Plane::with(&[member.address]);
        let mut client = plane.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let interim = (0..count.min(16)).filter(|_| client.head().unwrap().status() == 102);
        assert_eq!(interim.count(), count.min(16));
        assert_eq!(
            client.response().unwrap().status(),
            status,
            "{count} interim answers"
        );
    }
}
