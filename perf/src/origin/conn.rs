//! One connection of the origin.

use super::Counts;
use crate::framing::{Event, Head, Reader, Side};
use crate::pattern;
use crate::transport::{MAX_OUT, Outbox, Transport, blocks};
use crate::websocket::{self, Frames};
use anyhow::Context;
use nix::sys::epoll::EpollFlags;
use rustls::Connection;
use std::io::ErrorKind;
use std::net::TcpStream;

/// Longest body that is made, in bytes.
const MAX_BODY: u64 = 1 << 40;

/// What a port serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Http,
    Https,
    Echo,
    Bulk,
}

#[derive(Debug)]
enum Speaks {
    Http {
        reader: Reader,
        request: Option<Head>,
        body: u64,
        good: bool,
    },
    WebSocket {
        frames: Frames,
        payload: Vec<u8>,
    },
    Echo,
    Bulk {
        number: Vec<u8>,
    },
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    transport: Transport,
    out: Outbox,
    speaks: Speaks,
    /// Read but not looked at: the answers before are not sent yet.
    kept: Vec<u8>,
    /// Ends when the outbox is empty.
    closing: bool,
    /// The client sends no more.
    ending: bool,
}

impl Conn {
    pub(crate) fn new(stream: TcpStream, session: Option<Connection>, service: Service) -> Self {
        let speaks = match service {
            Service::Http | Service::Https => Speaks::Http {
                reader: Reader::new(Side::Requests),
                request: None,
                body: 0,
                good: true,
            },
            Service::Echo => Speaks::Echo,
            Service::Bulk => Speaks::Bulk { number: Vec::new() },
        };
        Self {
            transport: Transport::new(stream, session),
            out: Outbox::default(),
            speaks,
            kept: Vec::new(),
            closing: false,
            ending: false,
        }
    }

    /// Does what can be done now; false when the connection is over.
    pub(crate) fn drive(
        &mut self,
        flags: EpollFlags,
        buffer: &mut [u8],
        counts: &mut Counts,
    ) -> anyhow::Result<bool> {
        // The end of the stream may have come with the data, and then brings no event of its own.
        self.ending |= flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP);
        let secure = matches!(self.transport, Transport::Tls(_));
        if (self.busy() || secure) && !self.out.flush(&mut self.transport)? {
            return Ok(true);
        }
        loop {
            if !self.kept.is_empty() {
                let kept = std::mem::take(&mut self.kept);
                self.input(&kept, counts)?;
                if !self.out.flush(&mut self.transport)? {
                    return Ok(true);
                }
                continue;
            }
            if self.closing {
                self.transport.close();
                return Ok(false);
            }
            let n = match self.transport.read(buffer) {
                Err(error) if blocks(&error) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            };
            if n == 0 {
                self.transport.close();
                return Ok(false);
            }
            let short = self.transport.short_read_is_last() && n < buffer.len();
            self.input(&buffer[..n], counts)?;
            if self.busy() && !self.out.flush(&mut self.transport)? {
                return Ok(true);
            }
            if short && !self.ending && self.kept.is_empty() && !self.closing {
                return Ok(true);
            }
        }
    }

    const fn busy(&self) -> bool {
        self.out.waiting() > 0 || self.out.streaming()
    }

    /// Takes input as long as answers find room; the rest is kept.
    fn input(&mut self, bytes: &[u8], counts: &mut Counts) -> anyhow::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() || self.unfinished() {
            if self.closing {
                return Ok(());
            }
            if self.out.streaming() || self.out.waiting() > MAX_OUT {
                self.kept.extend_from_slice(rest);
                return Ok(());
            }
            match &mut self.speaks {
                Speaks::Http { .. } => {
                    if !self.http(&mut rest, counts)? {
                        return Ok(());
                    }
                }
                Speaks::WebSocket { frames, payload } => {
                    let event = frames.next(&mut rest, &mut |b| payload.extend_from_slice(b))?;
                    if event == websocket::Event::End {
                        counts.requests += 1;
                        counts.body_bytes += payload.len() as u64;
                        self.out.push(&websocket::frame(payload, false));
                        payload.clear();
                    }
                }
                Speaks::Echo => {
                    counts.body_bytes += rest.len() as u64;
                    self.out.push(rest);
                    rest = &[];
                }
                Speaks::Bulk { number } => {
                    let n = rest.len().min(8 - number.len());
                    number.extend_from_slice(&rest[..n]);
                    rest = &rest[n..];
                    if let Some(number) = number.first_chunk::<8>() {
                        let length = u64::from_be_bytes(*number).min(MAX_BODY);
                        counts.requests += 1;
                        counts.body_bytes += length;
                        self.out.push_pattern(length, false);
                        self.speaks = Speaks::Bulk { number: Vec::new() };
                    }
                }
            }
        }
        Ok(())
    }

    /// A request head was read whose end, without further input, is still to be noticed.
    const fn unfinished(&self) -> bool {
        matches!(
            self.speaks,
            Speaks::Http {
                request: Some(_),
                ..
            }
        )
    }

    /// One event of the request stream; false when more input is needed.
    fn http(&mut self, rest: &mut &[u8], counts: &mut Counts) -> anyhow::Result<bool> {
        let Speaks::Http {
            reader,
            request,
            body,
            good,
        } = &mut self.speaks
        else {
            return Ok(false);
        };
        let event = reader.next(rest, &mut |part| {
            *good = *good && pattern::matches(*body, part);
            *body += part.len() as u64;
        })?;
        match event {
            Event::More => return Ok(false),
            Event::Head(head) if head.upgrade => {
                let key = head
                    .websocket
                    .context("an upgrade without Sec-WebSocket-Key")?;
                let accept = websocket::accept(&key);
                self.out.push(
                    format!(
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                         Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                    )
                    .as_bytes(),
                );
                self.speaks = Speaks::WebSocket {
                    frames: Frames::default(),
                    payload: Vec::new(),
                };
            }
            Event::Head(head) => {
                if head.expects {
                    self.out.push(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                (*body, *good) = (0, true);
                *request = Some(head);
            }
            Event::End => {
                let (body, good) = (*body, *good);
                let Some(head) = request.take() else {
                    return Ok(false);
                };
                self.answer(&head, body, good, counts);
            }
        }
        Ok(true)
    }

    fn answer(&mut self, head: &Head, body: u64, good: bool, counts: &mut Counts) {
        counts.forwarded += u64::from(head.forwarded);
        if head.path == "/health" {
            counts.probes += 1;
        } else {
            counts.requests += 1;
        }
        let close = if head.close {
            "Connection: close\r\n"
        } else {
            ""
        };
        self.closing = head.close;
        let number = |prefix: &str| -> Option<u64> {
            let text = head.path.strip_prefix(prefix)?;
            let digits = text.split('?').next().unwrap_or_default();
            digits.parse().ok().filter(|n| *n <= MAX_BODY)
        };
        if head.method == "POST" {
            counts.body_bytes += body;
            counts.bad += u64::from(!good);
            let (status, text) = match good {
                true => ("200 OK", format!("{body} bytes\n")),
                false => ("400 Bad Request", "not the pattern\n".to_owned()),
            };
            let length = text.len();
            counts.body_bytes += length as u64;
            self.out.push(
                format!("HTTP/1.1 {status}\r\n{close}Content-Length: {length}\r\n\r\n{text}")
                    .as_bytes(),
            );
        } else if let Some(n) = number("/chunked/") {
            counts.body_bytes += n;
            let text = format!("HTTP/1.1 200 OK\r\n{close}Transfer-Encoding: chunked\r\n\r\n");
            self.out.push(text.as_bytes());
            self.out.push_pattern(n, true);
        } else {
            let n = number("/bytes/").unwrap_or(0);
            counts.body_bytes += n;
            let text = format!("HTTP/1.1 200 OK\r\n{close}Content-Length: {n}\r\n\r\n");
            self.out.push(text.as_bytes());
            self.out.push_pattern(n, false);
        }
    }
}
