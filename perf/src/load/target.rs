//! Where the load goes, and what is asked there.

use anyhow::{Context, bail};
use std::net::SocketAddr;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    WebSocket,
    Tcp,
    Udp,
}

/// A server.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    pub(crate) tls: bool,
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    pub(crate) path: String,
}

impl Target {
    /// From `SCHEME://ADDRESS[:PORT][/PATH]`. Names are not resolved: a measurement should not hold DNS.
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        let wrong = || {
            format!(
                "URL {url:?}: write http://, https://, ws://, wss://, tcp://, tls:// or udp://, an IP \
                 address with port, and a path"
            )
        };
        let (scheme, rest) = url.split_once("://").with_context(wrong)?;
        let (scheme, tls, port) = match scheme {
            "http" => (Scheme::Http, false, Some(80)),
            "https" => (Scheme::Http, true, Some(443)),
            "ws" => (Scheme::WebSocket, false, Some(80)),
            "wss" => (Scheme::WebSocket, true, Some(443)),
            "tcp" => (Scheme::Tcp, false, None),
            "tls" => (Scheme::Tcp, true, None),
            "udp" => (Scheme::Udp, false, None),
            _ => bail!(wrong()),
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let address = match (host.parse::<SocketAddr>(), port) {
            (Ok(address), _) => address,
            (Err(_), Some(port)) => format!("{host}:{port}").parse().with_context(wrong)?,
            (Err(error), None) => return Err(error).with_context(wrong),
        };
        let http = matches!(scheme, Scheme::Http | Scheme::WebSocket);
        if !http && !matches!(path, "" | "/") {
            bail!("URL {url:?}: a path has no meaning here; leave it out");
        }
        // A byte that ends the request line would make another request of it.
        if path.bytes().any(|b| b <= b' ' || b == 0x7f) {
            bail!("URL {url:?}: the path holds white space or control characters: encode them");
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            scheme,
            tls,
            address,
            host: host.to_owned(),
            path: path.to_owned(),
        })
    }
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
        assert_eq!(Target::parse("wss://[::1]").unwrap().address.port(), 443);
        assert!(Target::parse("tls://127.0.0.1:5").unwrap().tls);
        for wrong in [
            "ftp://127.0.0.1/",
            "http://example/",
            "127.0.0.1",
            "http://",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:7/x",
            "http://127.0.0.1/a b",
            "http://127.0.0.1/a\r\nX:y",
        ] {
            assert!(Target::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
