//! The least HTTP/1.1 client that checks its answers: status, Content-Length, and nothing beyond it.

use anyhow::{Context, bail};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest answer head that is read, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Where to send requests.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    pub(crate) path: String,
}

impl Target {
    /// From `http://ADDRESS[:PORT]/PATH`. Names are not resolved: a measurement should not hold DNS.
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        let Some(rest) = url.strip_prefix("http://") else {
            bail!("URL {url:?}: not supported yet: schemes other than http://");
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let wrong = || format!("URL {url:?}: write http://ADDRESS:PORT/PATH with an IP address");
        let address = match host.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => format!("{host}:80").parse().with_context(wrong)?,
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            address,
            host: host.to_owned(),
            path: path.to_owned(),
        })
    }

    /// The request's bytes.
    pub(crate) fn request(&self, close: bool) -> Vec<u8> {
        let connection = if close { "Connection: close\r\n" } else { "" };
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\n{connection}\r\n",
            self.path, self.host
        )
        .into_bytes()
    }
}

/// One client connection with its buffer.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(target: &Target) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target.address)
            .await
            .context("connect")?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(16 * 1024),
        })
    }

    /// Sends a request and reads the whole answer; gives the length of the body.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<usize> {
        self.stream.write_all(request).await.context("write")?;
        self.buffer.clear();
        let (head, length) = loop {
            if self
                .stream
                .read_buf(&mut self.buffer)
                .await
                .context("read")?
                == 0
            {
                bail!(
                    "connection closed after {} bytes of an answer",
                    self.buffer.len()
                );
            }
            if let Some(head) = find_head(&self.buffer) {
                break (head, content_length(&self.buffer[..head])?);
            }
            if self.buffer.len() > MAX_HEAD {
                bail!("the answer's head is longer than {MAX_HEAD} bytes");
            }
        };
        let mut have = self.buffer.len() - head;
        while have < length {
            self.buffer.clear();
            match self
                .stream
                .read_buf(&mut self.buffer)
                .await
                .context("read body")?
            {
                0 => bail!("connection closed after {have} of {length} bytes of a body"),
                n => have += n,
            }
        }
        if have > length {
            bail!("{} bytes more than Content-Length says", have - length);
        }
        Ok(length)
    }
}

fn find_head(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| at + 4)
}

fn content_length(head: &[u8]) -> anyhow::Result<usize> {
    let text = std::str::from_utf8(head).context("the answer's head is not text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        bail!("answer {status:?}, expected 200");
    }
    let value = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| value.trim())
        .context("not supported yet: answers without Content-Length")?;
    value
        .parse()
        .with_context(|| format!("Content-Length {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let target = Target::parse("http://127.0.0.1:8080/a?b").unwrap();
        assert_eq!(
            (target.address.port(), target.path.as_str()),
            (8080, "/a?b")
        );
        assert_eq!(Target::parse("http://[::1]").unwrap().address.port(), 80);
        for wrong in [
            "https://127.0.0.1/",
            "http://example/",
            "127.0.0.1",
            "http://",
        ] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn answers_are_checked() {
        assert_eq!(
            content_length(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n").unwrap(),
            3
        );
        assert!(content_length(b"HTTP/1.1 503 x\r\nContent-Length: 3\r\n\r\n").is_err());
        assert!(content_length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
