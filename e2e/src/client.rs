//! HTTP clients: single requests, and workers that keep requests in flight and count what goes wrong.

use crate::backend::pattern;
use crate::place::Place;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest wait for a part of an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Status, head and body.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that is used again.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// From a place to an address.
    pub fn open(place: &Place, to: SocketAddr) -> io::Result<Self> {
        let stream = place.connect(to)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// One request and its answer.
    pub fn request(&mut self, head: &str, body: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(head.as_bytes())?;
        self.stream.write_all(body)?;
        self.answer()
    }

    /// Bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Exactly so many bytes.
    pub fn read(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.more()?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn more(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed")),
            n => {
                self.buffer.extend_from_slice(&piece[..n]);
                Ok(())
            }
        }
    }

    /// Reads an answer with a content-length (or none).
    pub fn answer(&mut self) -> io::Result<Answer> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            self.more()?;
        };
        let head = String::from_utf8_lossy(&self.read(end)?).into_owned();
        let bad = || io::Error::other(format!("not an answer: {head:?}"));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or_else(bad)?;
        let length = head
            .to_ascii_lowercase()
            .lines()
            .find_map(|l| {
                l.strip_prefix("content-length:")?
                    .trim()
                    .parse::<usize>()
                    .ok()
            })
            .unwrap_or(0);
        let body = self.read(length)?;
        Ok(Answer { status, head, body })
    }
}

/// A request head.
pub fn head(method: &str, path: &str, host: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{more}\r\n")
}

/// One request on a new connection.
pub fn get(place: &Place, to: SocketAddr, path: &str) -> io::Result<Answer> {
    get_host(place, to, path, &to.to_string())
}

/// One request on a new connection, for a host.
pub fn get_host(place: &Place, to: SocketAddr, path: &str, host: &str) -> io::Result<Answer> {
    Connection::open(place, to)?.request(&head("GET", path, host, "connection: close\r\n"), b"")
}

/// Whether nothing came, and the connection is open.
///
/// # Panics
/// When it is no socket any more.
pub fn is_silent(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let silent = stream
        .peek(&mut [0])
        .is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).expect("a socket");
    silent
}

/// Who answers `count` requests; what is not a 200 is counted under its status or error.
pub fn spread(place: &Place, to: SocketAddr, path: &str, count: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..count {
        let who = match get(place, to, path) {
            Ok(answer) if answer.status == 200 => answer.text(),
            Ok(answer) => format!("status {}", answer.status),
            Err(error) => format!("error {error}"),
        };
        *counts.entry(who).or_default() += 1;
    }
    counts
}

/// What a worker does over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Requests on one connection, which must never be closed.
    KeepAlive,
    /// A connection for each request.
    New,
    /// 1 MiB down and 1 MiB up, on one connection.
    Large,
    /// Messages through an upgraded connection.
    WebSocket,
}

/// A worker in a thread of its own.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Vec<String>>,
}

impl Load {
    /// Starts it; `allowed` are the names of members that may answer.
    pub fn start(place: Arc<Place>, to: SocketAddr, kind: Kind, allowed: &[&str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let allowed: Vec<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
        let (stop2, done2) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut faults = Vec::new();
            while !stop2.load(Ordering::SeqCst) {
                if let Err(error) = work(&place, to, kind, &allowed, &stop2, &done2) {
                    faults.push(format!(
                        "{kind:?} after {} answers: {error}",
                        done2.load(Ordering::SeqCst)
                    ));
                    if faults.len() > 20 {
                        break;
                    }
                }
            }
            faults
        });
        Self { stop, done, thread }
    }

    /// Answers so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// Ends it; what went wrong.
    ///
    /// # Panics
    /// When its thread panicked.
    pub fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("a worker panicked")
    }
}

/// Works until it is told to stop, or until something goes wrong: a closed connection too.
fn work(
    place: &Place,
    to: SocketAddr,
    kind: Kind,
    allowed: &[String],
    stop: &AtomicBool,
    done: &AtomicU64,
) -> io::Result<()> {
    const SIZE: usize = 1 << 20;
    let wrong = |what: String| Err(io::Error::other(what));
    let host = to.to_string();
    let mut connection = Connection::open(place, to)?;
    if kind == Kind::WebSocket {
        let more = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
            sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let answer = connection.request(&head("GET", "/ws", &host, more), b"")?;
        if answer.status != 101 {
            return wrong(format!("upgrade answered {}", answer.status));
        }
    }
    let large = vec![b'x'; SIZE];
    while !stop.load(Ordering::SeqCst) {
        let number = done.load(Ordering::SeqCst);
        match kind {
            Kind::WebSocket => {
                let message = format!("message {number:>12}");
                connection.write(message.as_bytes())?;
                let back = connection.read(message.len())?;
                if back != message.as_bytes() {
                    return wrong(format!("another message came back: {back:?}"));
                }
            }
            Kind::KeepAlive | Kind::New => {
                let more = if kind == Kind::New {
                    "connection: close\r\n"
                } else {
                    ""
                };
                let answer = connection.request(&head("GET", "/", &host, more), b"")?;
                if answer.status != 200 || !allowed.contains(&answer.text()) {
                    return wrong(format!("{} {}", answer.status, answer.text()));
                }
            }
            Kind::Large => {
                let answer =
                    connection.request(&head("GET", &format!("/size/{SIZE}"), &host, ""), b"")?;
                if answer.status != 200
                    || !allowed
                        .iter()
                        .any(|name| answer.body == pattern(name, SIZE))
                {
                    return wrong(format!("{} {} bytes", answer.status, answer.body.len()));
                }
                let length = format!("content-length: {SIZE}\r\n");
                let answer = connection.request(&head("POST", "/", &host, &length), &large)?;
                if answer.status != 200
                    || !allowed
                        .iter()
                        .any(|n| answer.text() == format!("{n} {SIZE}"))
                {
                    return wrong(format!("{} {}", answer.status, answer.text()));
                }
            }
        }
        done.fetch_add(1, Ordering::SeqCst);
        if kind == Kind::New {
            return Ok(());
        }
    }
    Ok(())
}
