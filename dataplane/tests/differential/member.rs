//! A member that notes what it receives and answers as the case says.

use crate::table::Reply;
use crate::wire::{Kind, Message, message};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
struct State {
    /// The client's address, which the proxies tell in X-Forwarded-For.
    client: String,
    replies: Vec<Reply>,
    received: Vec<Message>,
    /// Connections that are in the middle of a request.
    busy: usize,
}

/// A running member, for one case at a time.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Member {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let own = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let own = Arc::clone(&own);
                std::thread::spawn(move || {
                    let stream = stream.unwrap();
                    stream.set_nodelay(true).unwrap();
                    Connection {
                        stream,
                        state: &own,
                    }
                    .serve();
                });
            }
        });
        Self { address, state }
    }

    /// Forgets what was and answers `client` with `replies` from now on.
    pub(crate) fn begin(&self, client: IpAddr, replies: &[Reply]) {
        let mut state = self.state.0.lock().unwrap();
        state.client = client.to_string();
        state.replies = replies.to_vec();
        state.received.clear();
    }

    /// What it received, once no connection is in the middle of a request.
    pub(crate) fn received(&self, patience: Duration) -> Option<Vec<Message>> {
        let deadline = Instant::now() + patience;
        let mut state = self.state.0.lock().unwrap();
        while state.busy > 0 {
            let left = deadline.checked_duration_since(Instant::now())?;
            state = self.state.1.wait_timeout(state, left).unwrap().0;
        }
        Some(state.received.clone())
    }
}

struct Connection<'a> {
    stream: TcpStream,
    state: &'a (Mutex<State>, Condvar),
}

impl Connection<'_> {
    fn serve(mut self) {
        let mut bytes = Vec::new();
        loop {
            let Some(reply) = self.request(&mut bytes) else {
                return;
            };
            let sent = self.stream.write_all(&reply.bytes);
            if reply.reset {
                let socket = socket2::SockRef::from(&self.stream);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
                self.idle();
                return;
            }
            if reply.bytes.starts_with(b"HTTP/1.1 101 ") && sent.is_ok() {
                self.tunnel(&bytes);
                return;
            }
            if reply.close {
                let _gone = self.stream.shutdown(Shutdown::Write);
            }
            if bytes.is_empty() {
                self.idle();
            }
        }
    }

    /// Reads and notes one request; none when the connection ended.
    fn request(&mut self, bytes: &mut Vec<u8>) -> Option<Reply> {
        let mut place = None;
        let mut answered = None;
        loop {
            let head = bytes.windows(4).any(|w| w == b"\r\n\r\n");
            let whole = message(bytes, Kind::Request, false);
            if let Some((request, used)) = whole {
                let reply = answered
                    .take()
                    .unwrap_or_else(|| self.note(&mut place, request.clone()));
                self.amend(place, request);
                bytes.drain(..used);
                return Some(reply);
            }
            if head && place.is_none() {
                let (cut, _) = message(bytes, Kind::Request, true)?;
                let mut reply = self.note(&mut place, cut);
                if reply.early {
                    let _gone = self.stream.write_all(&reply.bytes);
                    reply.bytes.clear();
                }
                answered = Some(reply);
            }
            let mut buffer = [0; 16 * 1024];
            let n = self.stream.read(&mut buffer).unwrap_or(0);
            if n == 0 {
                if let Some((cut, _)) = message(bytes, Kind::Request, true) {
                    self.note(&mut place, cut.clone());
                    self.amend(place, cut);
                    self.idle();
                }
                return None;
            }
            if bytes.is_empty() {
                self.state.0.lock().unwrap().busy += 1;
            }
            bytes.extend_from_slice(&buffer[..n]);
        }
    }

    /// Gives the request its place among the received ones, and the answer that belongs there.
    ///
    /// The proxy may have given up a client before this member noticed: then its request is stale. One
    /// without X-Forwarded-For never is: no proxy sent it on as a request.
    fn note(&self, place: &mut Option<usize>, request: Message) -> Reply {
        let mut state = self.state.0.lock().unwrap();
        let forwarded = request.field("x-forwarded-for");
        if forwarded.is_some_and(|list| list.rsplit(", ").next() != Some(&state.client)) {
            *place = Some(usize::MAX);
        }
        let at = *place.get_or_insert(state.received.len());
        if at == state.received.len() {
            state.received.push(request);
        }
        state
            .replies
            .get(at)
            .cloned()
            .unwrap_or_else(Reply::of_nothing)
    }

    fn amend(&self, place: Option<usize>, request: Message) {
        let mut state = self.state.0.lock().unwrap();
        if let Some(slot) = place.and_then(|at| state.received.get_mut(at)) {
            *slot = request;
        }
    }

    /// Not in the middle of a request any more.
    fn idle(&self) {
        self.state.0.lock().unwrap().busy -= 1;
        self.state.1.notify_all();
    }

    /// After 101: every byte goes back, and is noted as the request's body.
    fn tunnel(&mut self, first: &[u8]) {
        let mut bytes = first.to_vec();
        let _gone = self.stream.write_all(first);
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = self.stream.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..n]);
            let _gone = self.stream.write_all(&buffer[..n]);
        }
        if let Some(last) = self.state.0.lock().unwrap().received.last_mut() {
            last.body = bytes;
        }
        let _gone = self.stream.shutdown(Shutdown::Write);
        self.idle();
    }
}
