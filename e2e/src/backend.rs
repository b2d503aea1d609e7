//! A member: a small HTTP/1.1 server in a namespace, one thread per connection.
//!
//! | request | answer |
//! |---|---|
//! | `GET /…` | the member's name |
//! | `GET /size/N` | N bytes of the member's pattern |
//! | `POST /…` | `<name> <length of the body>` |
//! | `GET /headers` | the request head as it arrived |
//! | `GET /slow/MS` | the name, after that time |
//! | `GET /status/N` | the name, with this status |
//! | with `upgrade: websocket` | 101 to the key of RFC 6455's example, then every byte comes back |

use crate::place::Place;
use crate::system::System;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A running member; stops listening when dropped.
#[derive(Debug)]
pub struct Backend {
    /// Where it is.
    pub place: Place,
    /// What it answers.
    pub name: String,
    shared: Arc<Shared>,
    port: u16,
}

#[derive(Debug)]
struct Shared {
    name: String,
    status: AtomicU16,
    requests: AtomicUsize,
    /// By path: how many, and the head of the last one.
    asked: Mutex<HashMap<String, (usize, String)>>,
    ended: AtomicBool,
}

impl Backend {
    /// Starts a member on network `tenant`, port 80.
    ///
    /// # Panics
    /// When the address cannot be had.
    pub fn start(system: &System, address: &str, name: &str) -> Self {
        Self::at(Place::new(system, "tenant", address), 80, name)
    }

    /// Starts a member at a place.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn at(place: Place, port: u16, name: &str) -> Self {
        let listener = place.listen(port).expect("listen");
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            status: AtomicU16::new(200),
            requests: AtomicUsize::new(0),
            asked: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &own));
        Self {
            place,
            name: name.to_owned(),
            shared,
            port,
        }
    }

    /// The status of all later answers, probes included.
    pub fn set_status(&self, status: u16) {
        self.shared.status.store(status, Ordering::SeqCst);
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Requests for this path so far.
    pub fn asked(&self, path: &str) -> usize {
        self.asked_for(path).0
    }

    /// Head of the last request for this path; empty when there was none.
    pub fn last_head(&self, path: &str) -> String {
        self.asked_for(path).1
    }

    fn asked_for(&self, path: &str) -> (usize, String) {
        let asked = self.shared.asked.lock();
        let asked = asked.unwrap_or_else(PoisonError::into_inner);
        asked.get(path).cloned().unwrap_or_default()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the accept loop, which sees that it is over.
        let _ = self.place.connect((self.place.address, self.port).into());
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        if let Ok(stream) = stream {
            let shared = Arc::clone(shared);
            std::thread::spawn(move || serve(stream, &shared));
        }
    }
}

/// A client that goes away ends the thread; nothing else does.
fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    while !shared.ended.load(Ordering::SeqCst) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if input.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let lower = head.to_ascii_lowercase();
        let header = |name: &str| {
            let line = lower
                .lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.trim().to_owned())
        };
        if header("upgrade").as_deref() == Some("websocket") {
            out.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")?;
            let mut buffer = [0; 4_096];
            loop {
                match input.read(&mut buffer)? {
                    0 => return Ok(()),
                    n => out.write_all(&buffer[..n])?,
                }
            }
        }
        let mut length = header("content-length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0_u64);
        io::copy(&mut (&mut input).take(length), &mut io::sink())?;
        if header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            length = chunked(&mut input)?;
        }
        let mut words = head.split(' ');
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        {
            let mut asked = shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let of_path = asked.entry(path.to_owned()).or_default();
            *of_path = (of_path.0 + 1, head.clone());
        }
        let number = |prefix: &str| {
            path.strip_prefix(prefix)
                .and_then(|n| n.parse::<usize>().ok())
        };
        let body = match (method, path) {
            ("POST" | "PUT", _) => format!("{} {length}", shared.name).into_bytes(),
            (_, "/headers") => head.clone().into_bytes(),
            _ => match (number("/size/"), number("/slow/")) {
                (Some(size), _) => pattern(&shared.name, size),
                (_, Some(millis)) => {
                    std::thread::sleep(Duration::from_millis(millis as u64));
                    shared.name.clone().into_bytes()
                }
                _ => shared.name.clone().into_bytes(),
            },
        };
        let status = match number("/status/") {
            Some(status) => u16::try_from(status).unwrap_or(500),
            None => shared.status.load(Ordering::SeqCst),
        };
        let closes = header("connection").as_deref() == Some("close");
        let connection = if closes { "connection: close\r\n" } else { "" };
        let answer = format!(
            "HTTP/1.1 {status} Status\r\n{connection}content-length: {}\r\n\r\n",
            body.len()
        );
        out.write_all(answer.as_bytes())?;
        if method != "HEAD" {
            out.write_all(&body)?;
        }
        if closes {
            return Ok(());
        }
    }
    Ok(())
}

fn chunked(input: &mut impl BufRead) -> io::Result<u64> {
    let mut total = 0;
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        io::copy(&mut input.take(size + 2), &mut io::sink())?;
        if size == 0 {
            return Ok(total);
        }
        total += size;
    }
}

/// What `/size/N` answers: the name, again and again, so that mixed answers are seen.
pub fn pattern(name: &str, size: usize) -> Vec<u8> {
    name.bytes().cycle().take(size).collect()
}
