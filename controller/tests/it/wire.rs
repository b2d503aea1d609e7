//! What clients can send that no client should, on the wire of a real process.

use crate::process::Controller;
use krater_controller::http::serve::CONNECTIONS;
use krater_e2e::client::is_silent;
use krater_e2e::wait;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

const LBS: &str = "/v2/lbaas/loadbalancers";
/// Larger than any body that is taken.
const LARGE: usize = 10 << 20;

fn connect(controller: &Controller) -> TcpStream {
    let stream = TcpStream::connect(controller.api.address).unwrap();
    stream.set_read_timeout(Some(wait::LONG)).unwrap();
    stream.set_write_timeout(Some(wait::LONG)).unwrap();
    stream
}

/// Sends bytes as they are, and nothing more; the whole answer, empty when the connection was reset.
fn send(controller: &Controller, bytes: &[u8]) -> String {
    let mut stream = connect(controller);
    // A server that has read enough closes: what it said before that counts.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn status(answer: &str) -> u16 {
    let number = answer.split(' ').nth(1).and_then(|text| text.parse().ok());
    number.unwrap_or(0)
}

fn patient(milliseconds: u32) -> (tempfile::TempDir, Controller) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("krater.toml");
    std::fs::write(&path, format!("[api]\ndeadline_ms = {milliseconds}\n")).unwrap();
    let controller = Controller::start(&["--config", path.to_str().unwrap()]);
    (dir, controller)
}

const HALF: &[u8] = b"GET /v2/lbaas/loadbalancers HTTP/1.1\r\nhost: a\r\n";

/// More clients than there are places send half a head.
#[test]
fn half_heads_keep_nobody_out() {
    let (_dir, controller) = patient(500);
    let mut halves: Vec<TcpStream> = (0..CONNECTIONS + 40)
        .map(|_| {
            let mut stream = connect(&controller);
            stream.write_all(HALF).unwrap();
            stream
        })
        .collect();
    controller.api.get(LBS);
    for half in &mut halves {
        // Closed, with a word or without.
        let mut rest = Vec::new();
        match half.read_to_end(&mut rest) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            Ok(_) => assert!(matches!(status(&String::from_utf8_lossy(&rest)), 0 | 408)),
        }
    }
}

/// The negative control: so many as there are places, and a controller that is patient.
#[test]
fn patience_keeps_others_out() {
    let (_dir, controller) = patient(600_000);
    let mut halves: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(&controller)).collect();
    // The last one is served, so all have a place.
    for half in &mut halves {
        half.write_all(HALF).unwrap();
    }
    let last = halves.last_mut().unwrap();
    last.write_all(b"\r\n").unwrap();
    let mut first = [0; 12];
    last.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    let mut outside = connect(&controller);
    outside.write_all(HALF).unwrap();
    outside.write_all(b"connection: close\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(is_silent(&outside), "there is no place");
    drop(halves.swap_remove(0));
    outside.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
}

#[test]
fn large_bodies_are_refused_and_leave_nothing() {
    let controller = Controller::start(&[]);
    let body = json!({"loadbalancer": {"name": "x".repeat(LARGE)}}).to_string();
    let head = format!("POST {LBS} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n");
    let whole = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let chunk = "x".repeat(64 << 10);
    let mut chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    for _ in 0..LARGE / chunk.len() {
        chunked.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    chunked.push_str("0\r\n\r\n");
    for bytes in [whole, chunked] {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let answer = send(&controller, bytes.as_bytes());
                    // Closed with most of the body unread, a connection may be reset before its answer is read.
                    assert!(matches!(status(&answer), 413 | 0), "{answer}");
                });
            }
        });
    }
    assert_eq!(controller.api.get(LBS)["loadbalancers"], json!([]));
    assert!(
        controller.memory_mib() < 150,
        "{} MiB",
        controller.memory_mib()
    );
}

/// Where a request ends must not be a matter of opinion, and what is no request is answered as such.
#[test]
fn framing_is_strict() {
    let controller = Controller::start(&[]);
    let post = format!("POST {LBS} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n");
    let nested = "GET /healthcheck HTTP/1.1\r\nhost: a\r\n\r\n";
    for (text, wanted) in [
        // The length counts for nothing beside chunks; hyper takes the chunks, and closes.
        (
            format!("{post}content-length: 6\r\ncontent-length: 7\r\n\r\n{{}}"),
            vec![400],
        ),
        (format!("{post}content-length: -1\r\n\r\n"), vec![400]),
        (format!("{post}content-length: 2, 3\r\n\r\n{{}}"), vec![400]),
        (
            format!("{post}transfer-encoding: chunked, gzip\r\n\r\n"),
            vec![400],
        ),
        (
            format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n"),
            vec![400, 413],
        ),
        (format!("{post} folded: a\r\n\r\n"), vec![400]),
        (format!("{post}a b: c\r\n\r\n"), vec![400]),
        ("GET / HTTP/1.1\r\nhost: a\0b\r\n\r\n".to_owned(), vec![400]),
        ("GET /\r\n\r\n".to_owned(), vec![400]),
        ("\x16\x03\x01\x02\x00\x01\x00\x01".to_owned(), vec![400, 0]),
        (
            format!(
                "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
                "y".repeat(1 << 20)
            ),
            vec![431, 400, 0],
        ),
    ] {
        let answer = send(&controller, text.as_bytes());
        let shown: String = text.chars().take(200).collect();
        assert!(wanted.contains(&status(&answer)), "{shown:?}: {answer}");
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            usize::from(status(&answer) != 0),
            "{answer}"
        );
    }
    // Both lengths: one answer, and what follows is no second request.
    let both =
        format!("{post}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n{nested}");
    let answer = send(&controller, both.as_bytes());
    assert!(status(&answer) == 400, "{answer}");
    assert_eq!(controller.api.get(LBS)["loadbalancers"], json!([]));
}

/// Text of clients goes back as it came, and into logs and metrics not at all or as one line.
#[test]
fn text_of_clients_stays_text() {
    let controller = Controller::start(&[]);
    let hostile = [
        "\"} 1\u{2028}krater_up{x=\"",
        "%s%n${jndi:ldap://x}{{7*7}}<script>",
        "\u{202e}gnp.exe\u{200d}\u{fffe}",
        "'; DROP TABLE load_balancer; --",
        "\u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467}",
    ];
    for name in hostile {
        let body = json!({"loadbalancer": {"name": name, "vip_subnet_id": "0b5e6a4e-0000-4000-8000-000000000001",
            "tags": [name], "description": format!("{name}\nsecond line")}});
        let made = controller.api.create("loadbalancers", &body);
        let path = format!("{LBS}/{}", made["id"].as_str().unwrap());
        let shown = &controller.api.get(&path)["loadbalancer"];
        assert_eq!(shown["name"], name);
        assert_eq!(shown["tags"], json!([name]));
    }
    // What is no text of one line is none.
    for name in ["a\nb", "a\rb", "\u{0}", "\u{85}", "\u{1b}[31m", "\u{7f}"] {
        let body = json!({"loadbalancer": {"name": name}});
        let answer = controller.api.send("POST", LBS, Some(&body)).unwrap();
        assert_eq!(answer.status, 400, "{name:?}");
        let tagged = json!({"loadbalancer": {"tags": [name]}});
        let answer = controller.api.send("POST", LBS, Some(&tagged)).unwrap();
        assert_eq!(answer.status, 400, "{name:?}");
    }
    let metrics = controller.api.get("/metrics");
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("krater_"), "{metrics}");
    let log = controller.log();
    assert!(log.contains("api request"));
    for text in hostile {
        assert!(!metrics.contains(text), "{text}");
    }
    let plain = |c: char| c == '\n' || c == '\u{1b}' || !c.is_control();
    assert!(log.chars().all(plain), "a control character is in the log");
    // Links are made of the path as it came.
    let answer = controller
        .api
        .raw("GET", &format!("{LBS}?limit=1"), &[], b"")
        .unwrap();
    let links = &answer.body["loadbalancers_links"];
    assert!(
        links[0]["href"]
            .as_str()
            .unwrap()
            .contains("limit=1&marker="),
        "{links}"
    );
}

/// Of a key that is named twice the last counts, as with upstream's parser, for rights as for what is done; numbers beyond
/// all bounds and other encodings are refused.
#[test]
fn odd_json_is_read_in_one_way() {
    let controller = Controller::start(&[]);
    let post = |body: &[u8]| {
        let kind = [("content-type", "application/json")];
        controller.api.raw("POST", LBS, &kind, body).unwrap()
    };
    let subnet = "0b5e6a4e-0000-4000-8000-000000000001";
    let twice = format!(
        r#"{{"loadbalancer": 1, "loadbalancer": {{"name": "a", "name": "b", "vip_subnet_id": "{subnet}"}}}}"#
    );
    let made = post(twice.as_bytes());
    assert_eq!(
        (made.status, &made.body["loadbalancer"]["name"]),
        (201, &json!("b"))
    );
    let lb = made.body["loadbalancer"]["id"].as_str().unwrap().to_owned();
    controller.active(&format!("loadbalancers/{lb}"), "loadbalancer");
    let digits = "9".repeat(400);
    for number in [
        "1e400",
        "-1e400",
        &digits,
        "18446744073709551616",
        "9223372036854775808",
        "1E-400",
        "0x50",
        "٨٠",
        "NaN",
    ] {
        for quote in ["", "\""] {
            let body = format!(
                r#"{{"listener": {{"loadbalancer_id": "{lb}", "protocol": "HTTP", "protocol_port": {quote}{number}{quote}}}}}"#
            );
            let kind = [("content-type", "application/json")];
            let answer = controller
                .api
                .raw("POST", "/v2/lbaas/listeners", &kind, body.as_bytes());
            let answer = answer.unwrap();
            assert_eq!(answer.status, 400, "{number}: {}", answer.body);
        }
    }
    let utf16: Vec<u8> = twice.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let latin1 = b"{\"loadbalancer\": {\"name\": \"Gr\xf6\xdfe\"}}".to_vec();
    let bom = format!("\u{feff}{twice}").into_bytes();
    let surrogate = br#"{"loadbalancer": {"name": "\ud800"}}"#.to_vec();
    let deep = format!(
        "{{\"loadbalancer\": {}{}}}",
        "[".repeat(300_000),
        "]".repeat(300_000)
    )
    .into_bytes();
    for body in [utf16, latin1, bom, surrogate, deep] {
        assert_eq!(post(&body).status, 400);
    }
    let gzip = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    let answer = controller
        .api
        .raw("POST", LBS, &gzip, b"\x1f\x8b\x08\x00")
        .unwrap();
    assert!([400, 415].contains(&answer.status));
    let all: Value = controller.api.get(LBS);
    assert_eq!(all["loadbalancers"].as_array().unwrap().len(), 1);
}
