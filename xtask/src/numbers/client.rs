//! A client of the API that measures: one connection, no library.

use super::{BALANCERS, PATIENCE};
use crate::util::{Done, Failure};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The first text under a key; new objects have no children with one of their own.
pub(super) fn text(json: &str, key: &str) -> Result<String, Failure> {
    let found = || {
        let (_, rest) = json.split_once(&format!("\"{key}\":"))?;
        let (value, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
        Some(value.to_owned())
    };
    found().ok_or_else(|| format!("no {key} in {json}").into())
}

/// One connection, made again when the other side closes it.
pub(super) struct Client {
    address: SocketAddr,
    kept: Option<BufReader<TcpStream>>,
}

impl Client {
    pub(super) const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            kept: None,
        }
    }

    pub(super) fn must(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
        status: u16,
    ) -> Result<String, Failure> {
        let had = self.kept.is_some();
        let answer = match self.exchange(method, path, body) {
            // A kept connection may have been closed unnoticed.
            Err(_) if had => {
                self.kept = None;
                self.exchange(method, path, body)
            }
            other => other,
        };
        let (found, text) = answer.map_err(|error| format!("{method} {path}: {error}"))?;
        if found == status {
            return Ok(text);
        }
        Err(format!("{method} {path}: {found} {text}").into())
    }

    fn exchange(&mut self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = match self.kept.take() {
            Some(kept) => kept,
            None => {
                let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\ncontent-type: application/json\r\n\
             x-project-id: numbers\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes())?;
        let broken = || std::io::Error::other("no HTTP");
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status: u16 = status.ok_or_else(broken)?;
        let mut keep = line.starts_with("HTTP/1.1");
        let mut length = None;
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse::<usize>().ok(),
                "connection" => keep = !value.trim().eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        let mut bytes = vec![0; length.ok_or_else(broken)?];
        stream.read_exact(&mut bytes)?;
        self.kept = keep.then_some(stream);
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }

    pub(super) fn active(&mut self, balancer: &str) -> Done {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let shown = self.must("GET", &format!("{BALANCERS}/{balancer}"), "", 200)?;
            match text(&shown, "provisioning_status")?.as_str() {
                "ACTIVE" => return Ok(()),
                "ERROR" => return Err(format!("{balancer} is in ERROR").into()),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Err(format!("{balancer} does not become ACTIVE").into())
    }
}

#[cfg(test)]
mod unit {
    use super::text;

    #[test]
    fn texts_are_found_with_and_without_blanks() {
        for json in [
            "{\"a\":1,\"id\":\"x\",\"b\":[]}",
            "{\"listeners\": [], \"id\": \"x\"}",
        ] {
            assert_eq!(text(json, "id").unwrap(), "x");
        }
        assert!(text("{}", "id").is_err());
    }
}
