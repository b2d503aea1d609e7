//! The load generator against the origin, and against servers that do wrong.

use crate::kit::{Origin, PERF, good, load, total};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

/// A server that gives every request the same bytes; ends with the process.
fn server(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut stream, mut buffer, mut tail) = (stream, [0; 4_096], Vec::new());
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    tail.extend_from_slice(&buffer[..n]);
                    if tail.ends_with(b"\r\n\r\n") {
                        tail.clear();
                        if stream.write_all(answer).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

#[test]
fn client_and_origin_count_the_same_in_every_http_mode() {
    let mut origin = Origin::start(None);
    let base = format!("http://{}", origin.at("http"));
    let cases: [(&str, &[&str], u64); 10] = [
        ("/", &["--length", "0"], 0),
        ("/bytes/1024", &["--length", "1024", "--pattern"], 1_024),
        (
            "/bytes/1048576",
            &["--pattern", "--length", "1048576"],
            1 << 20,
        ),
        (
            "/chunked/100000",
            &["--pattern", "--length", "100000"],
            100_000,
        ),
        ("/bytes/1024", &["--close", "--pattern"], 1_024),
        ("/bytes/100", &["--pipeline", "16", "--pattern"], 100),
        ("/", &["--upload", "1024"], 1_024 + 11),
        ("/", &["--upload", "1048576"], (1 << 20) + 14),
        ("/", &["--upload", "300000", "--chunked"], 300_000 + 13),
        ("/bytes/64", &["--rate", "5000"], 64),
    ];
    for (path, more, each) in cases {
        let (requests, bytes) = (origin.count("requests"), origin.count("body_bytes"));
        let mut args = vec!["--requests", "64", "--connections", "4", "--duration", "60"];
        args.extend(more);
        let json = good(&format!("{base}{path}"), &args);
        let done = total(&json, "requests");
        let pipeline = if more.contains(&"--pipeline") { 16 } else { 1 };
        assert_eq!(done, 64 * pipeline, "{json}");
        assert_eq!(json["requests"].as_u64(), Some(done));
        assert_eq!(total(&json, "body_bytes"), done * each, "{path} {more:?}");
        assert_eq!(origin.count("requests") - requests, done);
        let served = origin.count("body_bytes") - bytes;
        assert_eq!(served, done * each, "{path} {more:?}");
        let connections = total(&json, "connections");
        if more.contains(&"--rate") {
            // In open loop a connection is opened only when the others are busy.
            assert!((1..=4).contains(&connections), "{connections}");
        } else {
            let expected = if more.contains(&"--close") { 64 } else { 4 };
            assert_eq!(connections, expected, "{path} {more:?}");
        }
    }
    assert_eq!(origin.count("bad"), 0);
}

#[test]
fn streams_datagrams_and_frames_come_back() {
    let mut origin = Origin::start(None);
    let bounds = [
        "--requests",
        "100",
        "--connections",
        "4",
        "--duration",
        "60",
    ];
    let with = |more: &[&'static str]| [&bounds[..], more].concat();
    let tcp = format!("tcp://{}", origin.at("echo"));
    for more in [
        &[][..],
        &["--close"],
        &["--size", "100000"],
        &["--rate", "9000"],
    ] {
        let json = good(&tcp, &with(more));
        assert_eq!(total(&json, "requests"), 100, "{more:?}");
    }
    assert_eq!(
        total(&good(&tcp, &with(&["--connect"])), "connections"),
        100
    );
    let json = good(
        &format!("tcp://{}", origin.at("bulk")),
        &with(&["--bulk", "3000000"]),
    );
    assert_eq!(total(&json, "body_bytes"), 300_000_000);
    let json = good(
        &format!("udp://{}", origin.at("udp")),
        &with(&["--size", "1400"]),
    );
    assert_eq!(total(&json, "requests") + total(&json, "lost"), 100);
    for size in ["64", "70000"] {
        let url = format!("ws://{}/x", origin.at("http"));
        let json = good(&url, &with(&["--size", size]));
        assert_eq!(total(&json, "requests"), 100);
        assert_eq!(total(&json, "connections"), 4);
    }
    assert_eq!(origin.count("bad"), 0);
}

#[test]
fn tls_is_full_or_resumed_as_asked_and_the_certificate_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        std::fs::write(path(name), format!("{cert}{key}")).unwrap();
    }
    let origin = Origin::start(Some(&path("a")));
    let url = format!("https://{}/bytes/1000", origin.at("https"));
    let run = [
        "--requests",
        "50",
        "--connections",
        "2",
        "--duration",
        "60",
        "--pattern",
    ];
    let with = |more: &[&str]| {
        let mut args = run.to_vec();
        args.extend(more);
        load(&url, &args)
    };
    let (code, json) = with(&["--close"]);
    assert_eq!(
        (code, total(&json, "full_handshakes")),
        (Some(0), 50),
        "{json}"
    );
    let (code, json) = with(&["--close", "--resume"]);
    assert_eq!(code, Some(0), "{json}");
    assert!(total(&json, "resumed") >= 46, "{json}");
    for offered in ["x25519", "hybrid"] {
        let (code, json) = with(&["--close", "--key-exchange", offered]);
        assert_eq!(
            (code, total(&json, "full_handshakes")),
            (Some(0), 50),
            "{json}"
        );
    }
    let (right, wrong) = (path("a"), path("b"));
    let (code, json) = with(&["--ca", right.to_str().unwrap()]);
    assert_eq!(
        (code, total(&json, "full_handshakes")),
        (Some(0), 2),
        "{json}"
    );
    let (code, json) = with(&["--ca", wrong.to_str().unwrap()]);
    assert_eq!((code, total(&json, "requests")), (Some(1), 0), "{json}");
    let large = format!("https://{}/chunked/1000000", origin.at("https"));
    good(
        &large,
        &["--requests", "20", "--duration", "60", "--pattern"],
    );
    let (code, json) = load(
        &large,
        &["--requests", "5", "--upload", "2000000", "--duration", "60"],
    );
    assert_eq!(code, Some(0), "{json}");
}

#[test]
fn idle_and_slow_clients_get_their_answers() {
    let origin = Origin::start(None);
    let url = format!("http://{}/bytes/10", origin.at("http"));
    let json = good(
        &url,
        &["--idle", "--connections", "200", "--duration", "0.2"],
    );
    assert_eq!(total(&json, "connections"), 200);
    assert_eq!(total(&json, "requests"), 400);
    let half = ["--idle", "--half", "--connections", "200"];
    let json = good(&url, &[&half[..], &["--duration", "0.2"]].concat());
    assert_eq!(total(&json, "connections"), 200);
    assert_eq!(total(&json, "requests"), 200);
    let slow = ["--slow", "2000", "--connections", "5", "--requests", "5"];
    let json = good(&url, &[&slow[..], &["--duration", "60"]].concat());
    assert_eq!(total(&json, "requests"), 5);
    // What was begun when the time is over is counted on both sides.
    let mut origin = Origin::start(None);
    let url = format!("http://{}/bytes/3000", origin.at("http"));
    let slow = [
        "--slow",
        "4000",
        "--connections",
        "8",
        "--pattern",
        "--duration",
        "0.2",
    ];
    let json = good(&url, &slow);
    assert_eq!(total(&json, "requests"), 8);
    assert_eq!(origin.count("requests"), 8);
    // A server that drops idle connections is found out.
    let dropping = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", dropping.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in dropping.incoming().flatten() {
            let _head = stream.read(&mut [0; 4_096]);
            let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let (code, json) = load(&url, &["--idle", "--connections", "3", "--duration", "0.5"]);
    assert_eq!(code, Some(1), "{json}");
    assert!(
        json["first_error"]
            .as_str()
            .unwrap()
            .contains("3 connections"),
        "{json}"
    );
    // So is one that answers half a request, or none.
    let half = [
        "--idle",
        "--half",
        "--connections",
        "3",
        "--duration",
        "0.5",
    ];
    let (code, json) = load(&url, &half);
    assert_eq!(code, Some(1), "{json}");
}

#[test]
fn wrong_answers_are_errors_and_fail_the_run() {
    let answers: [(&[u8], &[&str]); 5] = [
        (b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n", &[]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", &[]),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
            &["--pattern"],
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
            &["--length", "3"],
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab",
            &[],
        ),
    ];
    for (answer, more) in answers {
        let url = format!("http://{}/", server(answer));
        let bounds = ["--requests", "5", "--connections", "1", "--duration", "60"];
        let (code, json) = load(&url, &[&bounds[..], more].concat());
        let errors = json["errors"].as_u64();
        assert_eq!((code, errors), (Some(1), Some(5)), "{more:?} {json}");
    }
}

#[test]
fn open_loop_shows_what_closed_loop_hides() {
    // Answers the first request after 300 ms, all others at once.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut stream, mut first) = (stream, true);
            while let Ok(1..) = stream.read(&mut [0; 4_096]) {
                if std::mem::take(&mut first) {
                    std::thread::sleep(std::time::Duration::from_millis(300));
                }
                let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    let run = [
        "--connections",
        "1",
        "--requests",
        "100",
        "--duration",
        "60",
    ];
    let closed = good(&url, &run);
    let open = good(&url, &[&run[..], &["--rate", "1000"]].concat());
    // All hundred were due within 100 ms, while the server slept: each waited 200 ms at least.
    assert!(open["p50_ms"].as_f64().unwrap() >= 200.0, "{open}");
    assert!(closed["max_ms"].as_f64().unwrap() >= 300.0, "{closed}");
    assert!(closed["p50_ms"].as_f64().unwrap() < open["p50_ms"].as_f64().unwrap());
}

#[test]
fn a_server_that_is_silent_or_gone_ends_the_run_with_errors() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let bounds = ["--connections", "2", "--requests", "2", "--duration", "60"];
    let (code, json) = load(&url, &[&bounds[..], &["--timeout", "0.3"]].concat());
    assert_eq!(
        (code, json["errors"].as_u64()),
        (Some(1), Some(2)),
        "{json}"
    );
    drop(silent);
    let (code, json) = load(&url, &bounds);
    assert_eq!(
        (code, json["errors"].as_u64()),
        (Some(1), Some(2)),
        "{json}"
    );
    let why = json["first_error"].as_str().unwrap();
    assert!(why.contains("connect to 127.0.0.1"), "{why}");
}

#[test]
fn options_without_effect_are_refused() {
    let here = "127.0.0.1:9";
    for (url, wrong) in [
        (format!("http://{here}/"), &["--connections", "0"][..]),
        (format!("http://{here}/"), &["--duration", "0"]),
        (format!("http://{here}/"), &["--rate=-1"]),
        (format!("http://{here}/"), &["--size", "5"]),
        (format!("http://{here}/"), &["--bulk", "5"]),
        (format!("http://{here}/"), &["--chunked"]),
        (format!("http://{here}/"), &["--resume"]),
        (format!("http://{here}/"), &["--key-exchange", "x25519"]),
        (format!("http://{here}/"), &["--pipeline", "4", "--close"]),
        (format!("tcp://{here}"), &["--upload", "5"]),
        (format!("tcp://{here}"), &["--pattern"]),
        (format!("udp://{here}"), &["--close"]),
        (format!("udp://{here}"), &["--http2"]),
        (format!("tcp://{here}"), &["--http2"]),
        (format!("http://{here}/"), &["--streams", "2"]),
        (format!("http://{here}/"), &["--streams", "0", "--http2"]),
        (format!("http://{here}/"), &["--close", "--http2"]),
        (format!("http://{here}/"), &["--resume", "--http2"]),
        (format!("http://{here}/"), &["--half"]),
        (format!("tcp://{here}"), &["--half", "--idle"]),
        (format!("udp://{here}"), &["--size", "4"]),
        (format!("ftp://{here}/"), &[]),
    ] {
        let output = Command::new(PERF)
            .args(["load", &url])
            .args(wrong)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{url} {wrong:?}: {text}");
        let option = wrong
            .first()
            .map_or("URL", |w| w.split('=').next().unwrap());
        assert!(text.contains(option), "{text}");
    }
}

/// An HTTP/2 server that answers with this status and body, one connection after the other.
fn http2_server(status: u16, body: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((_, mut answer))) = connection.accept().await {
                        let head = http::Response::builder().status(status).body(()).unwrap();
                        let mut out = answer.send_response(head, false).unwrap();
                        out.send_data(bytes::Bytes::from_static(body), true)
                            .unwrap();
                    }
                });
            }
        });
    });
    address
}

#[test]
fn http2_answers_are_checked_and_wrong_ones_fail_the_run() {
    let bounds = [
        "--http2",
        "--requests",
        "90",
        "--duration",
        "60",
        "--connections",
        "3",
    ];
    let run = |status, body, more: &[&str]| {
        let url = format!("http://{}/", http2_server(status, body));
        load(&url, &[&bounds[..], more].concat())
    };
    for more in [&["--streams", "8"][..], &["--rate", "5000"], &[]] {
        let (code, json) = run(200, b"ab", &[more, &["--length", "2"]].concat());
        assert_eq!(code, Some(0), "{json}");
        assert_eq!(total(&json, "requests"), 90);
        assert_eq!(total(&json, "body_bytes"), 180);
        assert_eq!(total(&json, "connections"), 3);
    }
    for (status, body, more) in [
        (503, &b""[..], &[][..]),
        (200, b"ab", &["--pattern"]),
        (200, b"ab", &["--length", "3"]),
    ] {
        let (code, json) = run(status, body, more);
        let errors = json["errors"].as_u64();
        assert_eq!((code, errors), (Some(1), Some(90)), "{more:?} {json}");
    }
    // A server that speaks HTTP/1.1 is no HTTP/2 server.
    let origin = Origin::start(None);
    let url = format!("http://{}/bytes/1", origin.at("http"));
    let short = ["--http2", "--duration", "0.3", "--timeout", "0.2"];
    let (code, json) = load(&url, &short);
    assert_eq!(code, Some(1), "{json}");
}
