//! A non-blocking connection, plain or TLS, and what is still to be written to it.

use crate::pattern;
use rustls::Connection;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

/// Bytes of a body that are copied behind its head, so that both leave in one system call.
const TOGETHER: u64 = 64 * 1024;
/// Data bytes of a chunk of the chunked coding.
const CHUNK: u64 = 16 * 1024;
/// Outgoing bytes that a connection keeps at the most before it stops taking requests.
pub(crate) const MAX_OUT: usize = 1024 * 1024;

/// A connection.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

/// A connection with TLS.
#[derive(Debug)]
pub(crate) struct Tls {
    stream: TcpStream,
    session: Connection,
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream().as_fd()
    }
}

impl Transport {
    /// Starts to connect; the first write finds out how it ended.
    pub(crate) fn connect(to: SocketAddr, receive_buffer: Option<usize>) -> io::Result<TcpStream> {
        use socket2::{Domain, Protocol, Socket, Type};
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(size) = receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            result => result?,
        }
        Ok(socket.into())
    }

    /// With TLS on top when there is a session.
    pub(crate) fn new(stream: TcpStream, session: Option<Connection>) -> Self {
        match session {
            None => Self::Plain(stream),
            Some(session) => Self::Tls(Box::new(Tls { stream, session })),
        }
    }

    pub(crate) const fn stream(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &tls.stream,
        }
    }

    /// How the handshake was done, once it is done.
    pub(crate) fn handshake(&self) -> Option<rustls::HandshakeKind> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.session.handshake_kind(),
        }
    }

    /// 0 is the end of what the peer sends.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }

    /// Whether a read that filled less than its buffer has emptied the socket.
    pub(crate) const fn short_read_is_last(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    /// Sends what TLS still holds; an error of kind WouldBlock when the socket is full.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.flush(),
        }
    }

    /// Says that nothing follows.
    pub(crate) fn close(&mut self) {
        if let Self::Tls(tls) = self {
            tls.session.send_close_notify();
            let _peer_may_be_gone = tls.flush();
        }
    }
}

impl Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
            let got = self.session.read_tls(&mut self.stream)?;
            if let Err(error) = self.session.process_new_packets() {
                let _alert = self.flush();
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
            if self.session.wants_write() {
                match self.flush() {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
            if got == 0 {
                return self.session.reader().read(buffer);
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.session.writer().write(bytes)? {
            0 => {
                self.flush()?;
                // Only a handshake that is not done holds more than its limit now.
                match self.session.writer().write(bytes)? {
                    0 => Err(ErrorKind::WouldBlock.into()),
                    n => Ok(n),
                }
            }
            n => Ok(n),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.stream)?;
        }
        Ok(())
    }
}

/// What is still to be written: bytes, then perhaps a body of the pattern.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    at: usize,
    body: Option<Body>,
    /// Bytes handed to the connection so far, before encryption.
    pub(crate) sent: u64,
}

#[derive(Debug)]
struct Body {
    at: u64,
    left: u64,
    chunked: bool,
}

impl Outbox {
    /// Appends bytes. Not while a body is on its way ([`Outbox::streaming`]).
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends `length` bytes of the pattern, as they are or in the chunked coding.
    pub(crate) fn push_pattern(&mut self, length: u64, chunked: bool) {
        if chunked || length > TOGETHER {
            self.body = Some(Body {
                at: 0,
                left: length,
                chunked,
            });
            self.refill();
        } else {
            self.push(pattern::slice(0, length));
        }
    }

    /// A body is on its way: nothing else may be appended.
    pub(crate) const fn streaming(&self) -> bool {
        self.body.is_some()
    }

    /// Bytes that wait.
    pub(crate) const fn waiting(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Copies the next part of a body behind what waits; true when the whole body has left or is copied.
    fn refill(&mut self) -> bool {
        let Some(body) = &mut self.body else {
            return true;
        };
        if !body.chunked {
            let part = pattern::slice(body.at, body.left.min(TOGETHER));
            self.bytes.extend_from_slice(part);
            body.at += part.len() as u64;
            body.left -= part.len() as u64;
        } else {
            for _ in 0..4 {
                let part = pattern::slice(body.at, body.left.min(CHUNK));
                if part.is_empty() {
                    break;
                }
                self.bytes
                    .extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                self.bytes.extend_from_slice(part);
                self.bytes.extend_from_slice(b"\r\n");
                body.at += part.len() as u64;
                body.left -= part.len() as u64;
            }
            if body.left == 0 {
                self.bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        if body.left == 0 {
            self.body = None;
        }
        self.body.is_none()
    }

    /// Writes what the connection takes; true when nothing waits any more.
    pub(crate) fn flush(&mut self, to: &mut Transport) -> io::Result<bool> {
        loop {
            while self.at < self.bytes.len() {
                match to.write(&self.bytes[self.at..]) {
                    Ok(n) => {
                        self.at += n;
                        self.sent += n as u64;
                    }
                    Err(error) if blocks(&error) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            self.bytes.clear();
            self.at = 0;
            match &mut self.body {
                None => break,
                Some(body) if body.chunked => {
                    self.refill();
                }
                Some(body) => {
                    // Straight from the pattern, without a copy.
                    match to.write(pattern::slice(body.at, body.left)) {
                        Ok(n) => {
                            body.at += n as u64;
                            body.left -= n as u64;
                            self.sent += n as u64;
                        }
                        Err(error) if blocks(&error) => return Ok(false),
                        Err(error) => return Err(error),
                    }
                    if body.left == 0 {
                        self.body = None;
                    }
                }
            }
        }
        match to.flush() {
            Err(error) if blocks(&error) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Writes at most `limit` bytes: what a slow client does.
    pub(crate) fn trickle(&mut self, to: &mut Transport, limit: usize) -> io::Result<bool> {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
            self.refill();
        }
        let end = self.bytes.len().min(self.at + limit);
        match to.write(&self.bytes[self.at..end]) {
            Ok(n) => {
                self.at += n;
                self.sent += n as u64;
            }
            Err(error) if blocks(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
        match to.flush() {
            Err(error) if !blocks(&error) => return Err(error),
            _ => {}
        }
        Ok(self.at == self.bytes.len() && self.body.is_none())
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.at = 0;
        self.body = None;
    }
}

/// The socket is full, or not connected yet.
pub(crate) fn blocks(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::NotConnected
    )
}
