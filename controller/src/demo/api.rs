//! A plain client of the public REST API: one connection per request, std alone, so that nothing of
//! the controller's own code stands between the demo and the wire.

use anyhow::{Context, bail};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for one answer. A stopped controller must not stop the demo.
const ANSWER: Duration = Duration::from_secs(3);
/// Largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 4 * 1024 * 1024;

/// Where the API is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Api {
    pub(super) address: SocketAddr,
}

/// Status and body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Api {
    /// From `http://127.0.0.1:9876`.
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let host = url
            .strip_prefix("http://")
            .unwrap_or(url)
            .trim_end_matches('/');
        let address = host
            .parse()
            .with_context(|| format!("{url:?} is no http://ADDRESS:PORT"))?;
        Ok(Self { address })
    }

    /// Any status is an answer; only a broken connection is an error.
    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let what = || format!("{method} {path}");
        let mut stream = TcpStream::connect_timeout(&self.address, ANSWER).with_context(what)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{text}",
            self.address,
            text.len()
        );
        stream.write_all(request.as_bytes()).with_context(what)?;
        let mut answer = Vec::new();
        stream
            .take(MAX_ANSWER)
            .read_to_end(&mut answer)
            .with_context(what)?;
        parse(&answer).with_context(what)
    }

    /// A 2xx answer, or an error with the text of the API.
    pub(super) fn must(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let answer = self.send(method, path, body)?;
        if (200..300).contains(&answer.status) {
            return Ok(answer.body);
        }
        let said = answer
            .body
            .get("faultstring")
            .and_then(Value::as_str)
            .unwrap_or("no text");
        bail!("{method} {path}: {} {said}", answer.status)
    }

    /// A 2xx answer to a GET.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.must("GET", path, None)
    }
}

/// Status line, headers, body of `content-length` or to the end; the connection is closed after it.
fn parse(bytes: &[u8]) -> anyhow::Result<Answer> {
    let end = bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("the answer ended in its head")?;
    let (head, body) = bytes.split_at(end);
    let body = body.get(4..).unwrap_or_default();
    let head = std::str::from_utf8(head).context("the head is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok());
    let status = status.context("no status line")?;
    let mut length = body.len();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().context("content-length")?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("the API answered with transfer-encoding {}", value.trim());
        }
    }
    let body = body.get(..length).context("the answer ended in its body")?;
    let body = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(body).context("the body is not JSON")?
    };
    Ok(Answer { status, body })
}

/// `value[a][b]…` as text; empty when it is not there, so that a comparison fails and shows it.
pub(super) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter()
        .try_fold(value, |value, key| value.get(key))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_cut_at_their_length() {
        let answer =
            parse(b"HTTP/1.1 201 Created\r\nContent-Length: 7\r\n\r\n{\"a\":1}junk").unwrap();
        assert_eq!(answer.status, 201);
        assert_eq!(answer.body["a"], 1);
        assert_eq!(
            parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().body,
            Value::Null
        );
    }

    #[test]
    fn half_an_answer_is_an_error() {
        assert!(parse(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
        assert!(parse(b"").is_err());
    }
}
