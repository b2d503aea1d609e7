//! HTTP and HTTPS probes: one request, the status line of the answer decides.

use super::Failure;
use crate::io::Conn;
use crate::tls;
use krater_model::StatusCode;
use krater_model::state::{HttpCheck, HttpVersion};
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;

/// A status line is `HTTP/1.1 200 ` and a reason of any length; this much of it is looked at.
const STATUS_LINE: usize = 16;

/// Over plain TCP.
pub(super) async fn probe(mut conn: Conn, check: &HttpCheck) -> Result<String, Failure> {
    let address = conn.peer();
    let failed = |error: io::Error| Failure::of(&error);
    conn.write_all(request(check, address).as_bytes())
        .await
        .map_err(failed)?;
    let mut line = [0; STATUS_LINE];
    let mut filled = 0;
    while !is_enough(&line[..filled]) {
        match conn.read(&mut line[filled..]).await.map_err(failed)? {
            0 => break,
            n => filled += n,
        }
    }
    judge(&line[..filled], check)
}

/// Inside TLS, without verification of the member's certificate, as Octavia's HTTPS monitor does.
pub(super) async fn probe_tls(conn: Conn, check: &HttpCheck) -> Result<String, Failure> {
    let address = conn.peer();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let failed = |error: io::Error| match error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>())
    {
        Some(tls) => Failure::Member(format!("TLS handshake failed: {tls}")),
        None => Failure::of(&error),
    };
    let tcp = conn
        .into_plain()
        .ok_or_else(|| Failure::Own("not a plain connection".into()))?;
    let name = tls::client::server_name(check.host.as_deref(), address.ip());
    let config = tls::client::unverified().map_err(|e| Failure::Own(e.to_string()))?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let mut stream = connector.connect(name, tcp).await.map_err(failed)?;
    stream
        .write_all(request(check, address).as_bytes())
        .await
        .map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut line = [0; STATUS_LINE];
    let mut filled = 0;
    while !is_enough(&line[..filled]) {
        match stream.read(&mut line[filled..]).await {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(failed(error)),
        }
    }
    judge(&line[..filled], check)
}

fn request(check: &HttpCheck, address: SocketAddr) -> String {
    let version = match check.version {
        HttpVersion::Http10 => "1.0",
        HttpVersion::Http11 => "1.1",
    };
    let mut text = format!("{} {} HTTP/{version}\r\n", check.method, check.path);
    match (&check.host, check.version) {
        (Some(host), _) => {
            let _infallible = write!(text, "Host: {host}\r\n");
        }
        // RFC 9112 section 3.2: without a Host it would be a bad request. (HAProxy sends none.)
        (None, HttpVersion::Http11) => {
            let _infallible = write!(text, "Host: {address}\r\n");
        }
        (None, HttpVersion::Http10) => {}
    }
    text.push_str("Connection: close\r\n\r\n");
    text
}

fn is_enough(line: &[u8]) -> bool {
    line.len() >= "HTTP/1.1 200 ".len() || line.contains(&b'\n')
}

fn judge(line: &[u8], check: &HttpCheck) -> Result<String, Failure> {
    let Some(status) = status(line) else {
        return Err(Failure::Member(if line.is_empty() {
            "connection closed without an answer".into()
        } else {
            format!("not an HTTP answer: {:?}", String::from_utf8_lossy(line))
        }));
    };
    if check
        .expected
        .iter()
        .any(|(first, last)| (first..=last).contains(&&status))
    {
        return Ok(format!("HTTP {status}"));
    }
    let ranges = check
        .expected
        .iter()
        .map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        });
    let expected = ranges.collect::<Vec<_>>().join(",");
    Err(Failure::Member(format!(
        "HTTP {status}, expected {expected}"
    )))
}

fn status(line: &[u8]) -> Option<StatusCode> {
    let rest = line
        .strip_prefix(b"HTTP/1.")?
        .get(1..)?
        .strip_prefix(b" ")?;
    let (digits, after) = rest.split_at_checked(3)?;
    let ends = matches!(after.first(), None | Some(b' ' | b'\r' | b'\n'));
    let digits = std::str::from_utf8(digits).ok()?;
    let plain = ends && digits.bytes().all(|c| c.is_ascii_digit());
    plain.then_some(())?;
    StatusCode::new(digits.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: &[(u64, u64)]) -> HttpCheck {
        let code = |n| StatusCode::new(n).unwrap();
        HttpCheck {
            method: "GET".into(),
            path: "/health".into(),
            expected: expected.iter().map(|(a, b)| (code(*a), code(*b))).collect(),
            version: HttpVersion::Http11,
            host: Some("app.example".into()),
        }
    }

    #[test]
    fn request_text() {
        let mut check = check(&[(200, 200)]);
        let want = "GET /health HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n";
        let address = SocketAddr::from(([192, 0, 2, 1], 8080));
        assert_eq!(request(&check, address), want);
        check.host = None;
        assert!(request(&check, address).contains("\r\nHost: 192.0.2.1:8080\r\n"));
        check.version = HttpVersion::Http10;
        assert_eq!(
            request(&check, address),
            "GET /health HTTP/1.0\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn verdicts_name_what_was_expected() {
        let check = check(&[(200, 204), (301, 301)]);
        let reason = |line: &[u8]| match judge(line, &check) {
            Ok(reason) => format!("up: {reason}"),
            Err(Failure::Member(reason)) => format!("down: {reason}"),
            Err(Failure::Own(reason)) => reason,
        };
        assert_eq!(reason(b"HTTP/1.1 204 No"), "up: HTTP 204");
        assert_eq!(reason(b"HTTP/1.0 301\r\n"), "up: HTTP 301");
        assert_eq!(
            reason(b"HTTP/1.1 503 Se"),
            "down: HTTP 503, expected 200-204,301"
        );
        assert_eq!(reason(b""), "down: connection closed without an answer");
        for wrong in [
            &b"SSH-2.0-x\r\n"[..],
            b"HTTP/1.1 20",
            b"HTTP/1.1 2000",
            b"HTTP/1.1 +20 ",
        ] {
            assert!(
                reason(wrong).starts_with("down: not an HTTP answer"),
                "{wrong:?}"
            );
        }
    }
}
