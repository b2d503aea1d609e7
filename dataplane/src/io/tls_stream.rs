//! TLS over a socket, driven by readiness: rustls does the protocol, this file moves its records.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// One side of a TLS connection.
#[derive(Debug)]
pub(crate) struct TlsStream {
    tcp: TcpStream,
    session: Connection,
    /// The peer closed its direction, properly or not.
    eof: bool,
    /// What ends a server's handshake of TLS 1.3, its tickets, is still to be sent. It goes out with the answer to a
    /// request that is there already, else before one is waited for: a call less for each connection.
    tickets_wait: bool,
    /// What is written next ends our direction.
    is_last: bool,
}

impl TlsStream {
    /// Does a server's handshake. The caller bounds the time. A refusal is sent to the client as an
    /// alert.
    pub(crate) async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        Self::handshake(tcp, Connection::Server(session)).await
    }

    /// Does a client's handshake. The caller bounds the time.
    pub(crate) async fn connect(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Self::handshake(tcp, Connection::Client(session)).await
    }

    async fn handshake(tcp: TcpStream, session: Connection) -> io::Result<Self> {
        let mut stream = Self {
            tcp,
            session,
            eof: false,
            tickets_wait: false,
            is_last: false,
        };
        while stream.session.is_handshaking() {
            std::future::poll_fn(|cx| stream.poll_records(cx)).await?;
            if stream.eof && stream.session.is_handshaking() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if !stream.tickets_wait {
            std::future::poll_fn(|cx| stream.poll_flush(cx)).await?;
        }
        Ok(stream)
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub(crate) fn session(&self) -> &Connection {
        &self.session
    }

    /// The server name that a client asked for.
    pub(crate) fn asked_for(&self) -> Option<&str> {
        match &self.session {
            Connection::Server(session) => session.server_name(),
            Connection::Client(_) => None,
        }
    }

    /// Ready when plaintext or the end of the stream can be read.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.eof || self.has_plaintext()? {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_records(cx))?;
        }
    }

    /// Reads what is there; `WouldBlock` when nothing is, 0 at the end of the stream.
    pub(crate) fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.session.reader().read(buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.eof => Ok(0),
            // A peer that closes the socket without close_notify: the end, as for other proxies.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }

    /// Encrypts and sends. Takes more only after everything before is in the socket, so that a slow
    /// peer slows the sender.
    pub(crate) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !std::mem::take(&mut self.tickets_wait) {
            ready!(self.poll_flush(cx))?;
        }
        let taken = self.session.writer().write_vectored(parts)?;
        if self.is_last && taken == parts.iter().map(|part| part.len()).sum::<usize>() {
            self.session.send_close_notify();
        }
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    /// The next write, when it is taken whole, is the last one.
    pub(crate) fn say_last(&mut self) {
        self.is_last = true;
    }

    /// Ready when all records are in the socket.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut writer = Records(&self.tcp);
            match self.session.write_tls(&mut writer) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.tcp.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends close_notify and ends the write direction.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.send_close_notify();
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    /// Sends close_notify. Both directions stay open.
    pub(crate) fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.send_close_notify();
        self.poll_flush(cx)
    }

    /// Whether nothing decrypted is left to be read, and the peer has not ended.
    pub(crate) fn is_drained(&mut self) -> bool {
        matches!(self.has_plaintext(), Ok(false)) && !self.eof
    }

    fn has_plaintext(&mut self) -> io::Result<bool> {
        let state = self
            .session
            .process_new_packets()
            .map_err(io::Error::other)?;
        self.eof |= state.peer_has_closed();
        Ok(state.plaintext_bytes_to_read() > 0)
    }

    /// Reads and processes some records, and sends what the protocol answers.
    fn poll_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let handshaking = self.session.is_handshaking();
        if self.session.wants_write() {
            self.tickets_wait = false;
            match self.poll_flush(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // In a handshake the answer must go out before the next flight can come.
                Poll::Pending if handshaking => return Poll::Pending,
                _ => {}
            }
        }
        let tcp = &mut self.tcp;
        match self.session.read_tls(&mut Incoming { tcp, cx }) {
            Ok(0) => self.eof = true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
        if let Err(error) = self.session.process_new_packets() {
            // The alert is worth one attempt; the connection ends either way.
            let _alert = self.poll_flush(cx);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        if handshaking && !self.session.is_handshaking() && self.ends_with_tickets() {
            self.tickets_wait = true;
            return Poll::Ready(Ok(()));
        }
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Whether the peer needs nothing of the handshake any more (RFC 8446 section 4.6.1).
    fn ends_with_tickets(&self) -> bool {
        let version = self.session.protocol_version();
        matches!(self.session, Connection::Server(_))
            && version == Some(rustls::ProtocolVersion::TLSv1_3)
    }
}

/// What arrives, as rustls wants it: calls that say `WouldBlock`, after which the task is woken. It knows that a
/// read which did not fill the buffer emptied the socket.
struct Incoming<'a, 'b> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Read for Incoming<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut space = ReadBuf::new(buf);
        match Pin::new(&mut *self.tcp).poll_read(self.cx, &mut space) {
            Poll::Ready(Ok(())) => Ok(space.filled().len()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// Where records go, as rustls wants it: calls that say `WouldBlock`.
struct Records<'a>(&'a TcpStream);

impl Write for Records<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }
    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
