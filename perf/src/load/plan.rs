//! What one exchange is: bytes to send and the answer that must come.

use super::args::Args;
use super::target::{Scheme, Target};
use crate::{pattern, websocket};
use anyhow::bail;

/// Largest payload of an exchange: a run is bounded by time, but one exchange is not.
const MAX_PAYLOAD: u64 = 1 << 40;
/// Largest payload that is sent from memory.
const MAX_SMALL: u64 = 1024 * 1024;
/// Deepest pipeline.
const MAX_PIPELINE: u32 = 128;

/// The kind of exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A request and its answer.
    Http { status: u16, length: Option<u64> },
    /// `n` bytes come back as they were sent.
    Echo(u64),
    /// The number `n` is sent, `n` bytes of the pattern come.
    Bulk(u64),
    /// A connection is made, and that is all.
    Connect,
    /// A frame of `n` bytes comes back.
    WebSocket(u64),
}

/// Everything that is the same for all connections.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) kind: Kind,
    /// Sent once on a new connection; its answer must be 101.
    pub(crate) opening: Option<Vec<u8>>,
    /// Sent for each exchange.
    pub(crate) request: Vec<u8>,
    /// Follows the request: bytes of the pattern, chunked or not.
    pub(crate) upload: Option<(u64, bool)>,
    /// Exchanges that are sent at once.
    pub(crate) pipeline: u32,
    /// A new connection for each exchange.
    pub(crate) close: bool,
    /// The body of answers must be the pattern.
    pub(crate) pattern: bool,
}

impl Plan {
    pub(crate) fn new(args: &Args) -> anyhow::Result<Self> {
        let target = Target::parse(&args.url)?;
        if args.pipeline == 0 || args.pipeline > MAX_PIPELINE {
            bail!("--pipeline {}: use 1 to {MAX_PIPELINE}", args.pipeline);
        }
        if args.pipeline > 1 && (args.close || args.upload.is_some() || args.rate.is_some()) {
            bail!("--pipeline: goes with neither --close nor --upload nor --rate");
        }
        let http = target.scheme == Scheme::Http;
        let only = |given: bool, option: &str, what: &str, good: bool| {
            if given && !good {
                bail!("{option}: only for {what}; leave it out");
            }
            Ok(())
        };
        only(
            args.upload.is_some(),
            "--upload",
            "http:// and https://",
            http,
        )?;
        only(
            args.chunked && args.upload.is_none(),
            "--chunked",
            "--upload",
            false,
        )?;
        only(
            args.length.is_some(),
            "--length",
            "http:// and https://",
            http,
        )?;
        only(args.pattern, "--pattern", "http:// and https://", http)?;
        only(args.status != 200, "--status", "http:// and https://", http)?;
        let stream = target.scheme == Scheme::Tcp;
        only(args.bulk.is_some(), "--bulk", "tcp:// and tls://", stream)?;
        only(args.connect, "--connect", "tcp://", stream && !target.tls)?;
        only(
            args.size.is_some(),
            "--size",
            "tcp://, tls://, udp:// and ws://",
            !http,
        )?;
        only(args.half, "--half", "http:// and https://", http)?;
        if args.half && (args.upload.is_some() || args.pipeline > 1) {
            bail!("--half: goes with neither --upload nor --pipeline");
        }
        only(args.resume && !target.tls, "--resume", "TLS", false)?;
        only(args.ca.is_some() && !target.tls, "--ca", "TLS", false)?;
        let offered = args.key_exchange.is_some();
        only(offered && !target.tls, "--key-exchange", "TLS", false)?;
        let size = args.size.unwrap_or(64);
        if size == 0 || size > MAX_SMALL {
            bail!("--size {size}: use 1 to {MAX_SMALL} bytes");
        }
        if args.upload.is_some_and(|n| n > MAX_PAYLOAD)
            || args.bulk.is_some_and(|n| n > MAX_PAYLOAD)
        {
            bail!("--upload, --bulk: use at most {MAX_PAYLOAD} bytes");
        }
        let kind = match target.scheme {
            Scheme::Http => Kind::Http {
                status: args.status,
                length: args.length,
            },
            Scheme::WebSocket => Kind::WebSocket(size),
            Scheme::Tcp if args.connect => Kind::Connect,
            Scheme::Tcp => args.bulk.map_or(Kind::Echo(size), Kind::Bulk),
            Scheme::Udp => Kind::Echo(size),
        };
        let request = match &kind {
            Kind::Http { .. } => head(&target, args),
            Kind::Echo(n) => payload(*n),
            Kind::Bulk(n) => n.to_be_bytes().to_vec(),
            Kind::WebSocket(n) => websocket::frame(&payload(*n), true),
            Kind::Connect => Vec::new(),
        };
        let pipelined = request.repeat(usize::try_from(args.pipeline)?);
        Ok(Self {
            opening: (target.scheme == Scheme::WebSocket)
                .then(|| websocket::opening(&target.host, &target.path)),
            kind,
            request: pipelined,
            upload: args.upload.map(|n| (n, args.chunked)),
            pipeline: args.pipeline,
            close: args.close || args.connect,
            pattern: args.pattern,
            target,
        })
    }
}

impl Plan {
    /// The request in two parts, cut within its head.
    pub(crate) fn halves(&self) -> (&[u8], &[u8]) {
        self.request.split_at(self.request.len() / 2)
    }
}

/// The first `n` bytes of the pattern.
pub(crate) fn payload(n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < n {
        let at = bytes.len() as u64;
        bytes.extend_from_slice(pattern::slice(at, n - at));
    }
    bytes
}

fn head(target: &Target, args: &Args) -> Vec<u8> {
    let method = if args.upload.is_some() { "POST" } else { "GET" };
    let body = match args.upload {
        Some(_) if args.chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        Some(n) => format!("Content-Length: {n}\r\n"),
        None => String::new(),
    };
    let connection = if args.close {
        "Connection: close\r\n"
    } else {
        ""
    };
    format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\n{body}{connection}\r\n",
        target.path, target.host
    )
    .into_bytes()
}
