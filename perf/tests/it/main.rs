//! Runs the real binary against small servers on loopback.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

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

fn load(url: &str, more: &[&str]) -> (Option<i32>, serde_json::Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_krater-perf"))
        .args(["load", url, "--json", "--duration", "20"])
        .args(more)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), json)
}

#[test]
fn counts_every_request_and_byte() {
    let address = server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    for extra in [
        &["--requests", "200", "--connections", "4"][..],
        &["--requests", "50", "--close"],
    ] {
        let (code, json) = load(&format!("http://{address}/"), extra);
        assert_eq!(code, Some(0), "{json}");
        let requests = json["requests"].as_u64().unwrap();
        assert_eq!(requests.to_string(), extra[1]);
        assert_eq!(json["body_bytes"].as_u64().unwrap(), 5 * requests);
    }
}

#[test]
fn wrong_answers_are_errors_and_fail_the_run() {
    for answer in [
        &b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
    ] {
        let address = server(answer);
        let more = ["--requests", "5", "--connections", "1"];
        let (code, json) = load(&format!("http://{address}/"), &more);
        assert_eq!(
            (code, json["errors"].as_u64()),
            (Some(1), Some(5)),
            "{json}"
        );
    }
}

#[test]
fn what_is_not_built_is_refused() {
    for command in ["run", "compare", "report"] {
        let output = Command::new(env!("CARGO_BIN_EXE_krater-perf"))
            .arg(command)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("not supported yet"));
    }
}
