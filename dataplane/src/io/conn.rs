//! A connection, plain or TLS, to a client or a member.

use super::tls_stream::TlsStream;
use crate::runtime::ListenerRuntime;
use crate::tls::Connector;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A stream socket. Payload bytes of a client's connection are counted here, so that statistics are
/// exact whatever a proxy does with them.
#[derive(Debug)]
pub struct Conn {
    stream: Stream,
    peer: SocketAddr,
    local: SocketAddr,
    meter: Option<Arc<ListenerRuntime>>,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<(TlsStream, TlsInfo)>),
}

/// By whose rules a connection to a member is encrypted, and under which name.
pub(crate) type TlsTo = (Arc<Connector>, Option<Box<str>>);

/// What is known of a client's TLS connection.
#[derive(Debug, Clone, Default)]
pub struct TlsInfo {
    /// The server name that the client asked for.
    pub sni: Option<String>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The client's certificate in DER, when it showed one. It was verified: a client whose
    /// certificate does not verify is refused in the handshake.
    pub client_certificate: Option<Vec<u8>>,
    /// The session is one that a ticket of an earlier connection brought back.
    pub resumed: bool,
    /// On a connection to a member.
    to: Option<TlsTo>,
}

impl TlsInfo {
    /// Of a client's connection.
    pub(crate) fn of_client(
        sni: Option<String>,
        version: &'static str,
        client_certificate: Option<Vec<u8>>,
        resumed: bool,
    ) -> Self {
        Self {
            sni,
            version,
            client_certificate,
            resumed,
            to: None,
        }
    }
}

impl Conn {
    /// A plain client connection of `listener`.
    pub(crate) fn client(
        tcp: TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        listener: Arc<ListenerRuntime>,
    ) -> Self {
        Self {
            stream: Stream::Plain(tcp),
            peer,
            local,
            meter: Some(listener),
        }
    }

    /// A TLS client connection of `listener`.
    pub(crate) fn tls_client(
        tls: TlsStream,
        info: TlsInfo,
        peer: SocketAddr,
        local: SocketAddr,
        listener: Arc<ListenerRuntime>,
    ) -> Self {
        Self {
            stream: Stream::Tls(Box::new((tls, info))),
            peer,
            local,
            meter: Some(listener),
        }
    }

    /// A plain connection to a member.
    pub(crate) fn member(tcp: TcpStream, peer: SocketAddr, local: SocketAddr) -> Self {
        Self {
            stream: Stream::Plain(tcp),
            peer,
            local,
            meter: None,
        }
    }

    /// A TLS connection to a member.
    pub(crate) fn tls_member(
        tls: TlsStream,
        to: TlsTo,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Self {
        let info = TlsInfo {
            to: Some(to),
            ..TlsInfo::default()
        };
        Self {
            stream: Stream::Tls(Box::new((tls, info))),
            peer,
            local,
            meter: None,
        }
    }

    /// Whether a connection to a member is as one made now would be: plain, or encrypted by the same
    /// rules and under the same name.
    pub(crate) fn suits(&self, tls: Option<&Arc<Connector>>, sni: Option<&str>) -> bool {
        let of_this = match &self.stream {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => stream.1.to.as_ref(),
        };
        match (of_this, tls) {
            (None, None) => true,
            (Some((made_by, name)), Some(tls)) => {
                Arc::ptr_eq(made_by, tls) && name.as_deref() == sni
            }
            _ => false,
        }
    }

    /// The other end. IPv4-mapped addresses are IPv4.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// This end.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// TLS facts; none on a plain connection.
    pub fn tls(&self) -> Option<&TlsInfo> {
        match &self.stream {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => Some(&tls.1),
        }
    }

    /// The socket when bytes on it are payload, so that `splice(2)` can be used.
    pub(super) fn plain(&self) -> Option<&TcpStream> {
        match &self.stream {
            Stream::Plain(tcp) => Some(tcp),
            Stream::Tls(_) => None,
        }
    }

    /// The bare socket of a plain connection.
    pub(crate) fn into_plain(self) -> Option<TcpStream> {
        match self.stream {
            Stream::Plain(tcp) => Some(tcp),
            Stream::Tls(_) => None,
        }
    }

    /// Ready when [`Self::try_read`] has something to say.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(tcp) => tcp.poll_read_ready(cx),
            Stream::Tls(tls) => tls.0.poll_readable(cx),
        }
    }

    /// Waits, holding no buffer, until [`Self::try_read`] has something to say. Cancel-safe.
    pub async fn readable(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// Waits until the connection is broken, as by a reset. An end of the peer's stream is no break.
    /// Cancel-safe.
    pub(crate) async fn failed(&self) {
        let tcp = match &self.stream {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.0.tcp(),
        };
        // Its own failure would be that of the runtime, which ends.
        let _ready = tcp.ready(Interest::ERROR).await;
    }

    /// Reads what is there: `WouldBlock` when nothing is, 0 at the end of the stream.
    pub fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = match &mut self.stream {
            Stream::Plain(tcp) => tcp.try_read(buf),
            Stream::Tls(tls) => tls.0.try_read(buf),
        }?;
        self.count_in(n);
        Ok(n)
    }

    /// Reads at least one byte, or 0 at the end of the stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Stream::Plain(tcp) = &mut self.stream {
            // Unlike `try_read`, this knows that a read which did not fill the buffer emptied the
            // socket: the next poll waits without a system call that would say so again.
            let mut space = ReadBuf::new(buf);
            ready!(Pin::new(tcp).poll_read(cx, &mut space))?;
            let n = space.filled().len();
            self.count_in(n);
            return Poll::Ready(Ok(n));
        }
        loop {
            match self.try_read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_readable(cx))?;
                }
                other => return Poll::Ready(other),
            }
        }
    }

    /// Reads at least one byte, or 0 at the end of the stream. Cancel-safe. Prefer [`Self::readable`]
    /// where a connection may be idle.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// The next write, when it is taken whole, is the last one: TLS's close_notify goes with it.
    pub fn say_last(&mut self) {
        if let Stream::Tls(tls) = &mut self.stream {
            tls.0.say_last();
        }
    }

    /// Writes some of `parts`.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let n = match &mut self.stream {
            Stream::Plain(tcp) => loop {
                match tcp.try_write_vectored(parts) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(tcp.poll_write_ready(cx))?;
                    }
                    other => break other?,
                }
            },
            Stream::Tls(tls) => ready!(tls.0.poll_write_vectored(cx, parts))?,
        };
        self.count_out(n);
        Poll::Ready(Ok(n))
    }

    /// Writes all of `parts` with as few system calls as the socket allows, and flushes.
    pub async fn write_all_vectored(&mut self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match poll_fn(|cx| self.poll_write_vectored(cx, parts)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => IoSlice::advance_slices(&mut parts, n),
            }
        }
        self.flush().await
    }

    /// Writes all of `bytes` and flushes.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all_vectored(&mut [IoSlice::new(bytes)]).await
    }

    /// Ready when everything written is in the socket.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(tls) => tls.0.poll_flush(cx),
        }
    }

    /// Waits until everything written is in the socket.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Ends the write direction; the read direction lives on.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => tls.0.poll_shutdown(cx),
        }
    }

    /// Ends the write direction; the read direction lives on.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// Says what must be said before the connection is closed: TLS's close_notify.
    pub fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(tls) => tls.0.poll_farewell(cx),
        }
    }

    /// Whether nothing is there to be read, not even the end of the stream. Asks the kernel: what has
    /// arrived may not have been reported yet.
    pub fn is_quiet(&mut self) -> bool {
        let quiet = self.drained().map(peek);
        matches!(quiet, Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Like [`Self::is_quiet`], but as of the kernel's last report: no call unless there is news.
    pub fn was_quiet(&mut self) -> bool {
        let news = |tcp: &TcpStream| tcp.try_io(Interest::READABLE, || peek(tcp));
        let quiet = self.drained().map(news);
        matches!(quiet, Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The socket, unless something that was read from it before is left.
    fn drained(&mut self) -> Option<&TcpStream> {
        match &mut self.stream {
            Stream::Plain(tcp) => Some(tcp),
            // What has been decrypted is not in the socket any more.
            Stream::Tls(tls) => tls.0.is_drained().then(|| tls.0.tcp()),
        }
    }

    /// Makes the coming close a reset, so that the peer sees that something is missing.
    pub fn reset_on_close(&self) {
        let tcp = match &self.stream {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.0.tcp(),
        };
        // It can only fail when the connection is gone already.
        let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
    }

    /// Counts payload that left or entered by a way around [`Self::try_read`] and the writes.
    pub(super) fn count_in(&self, n: usize) {
        if let Some(listener) = &self.meter {
            listener.stats.add_in(n as u64);
        }
    }

    /// See [`Self::count_in`].
    pub(super) fn count_out(&self, n: usize) {
        if let Some(listener) = &self.meter {
            listener.stats.add_out(n as u64);
        }
    }
}

fn peek(tcp: &TcpStream) -> io::Result<usize> {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    socket2::SockRef::from(tcp).peek(&mut byte)
}
