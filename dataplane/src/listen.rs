//! Listening sockets. The process owns them, not a worker: N `SO_REUSEPORT` sockets per address, one
//! for each worker, for as long as the address is served, whatever becomes of a worker.

mod sys;

use crate::runtime::ListenerView;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// Connections that wait per socket to be accepted; the kernel caps it at `net.core.somaxconn`.
/// 4096 is that cap's default.
const BACKLOG: i32 = 4096;
/// A client connection that was silent for so long is asked whether its client still exists: longer
/// than the default time-out of clients, which ends most silent ones first.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// And again so long after a question without an answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Questions without an answer that end the connection: two minutes after the client's last sign of
/// life.
const KEEPALIVE_PROBES: u32 = 4;

/// An address with its sockets.
#[derive(Debug)]
pub(crate) struct Bound {
    /// What was asked for; port 0 stays 0.
    pub(crate) address: SocketAddr,
    sockets: Vec<Socket>,
    /// Set when the address is no longer served: what still waits to be accepted is served so.
    retired: OnceLock<Arc<ListenerView>>,
}

impl Bound {
    /// Opens one socket per worker. All or none.
    pub(crate) fn open(address: SocketAddr, workers: usize) -> io::Result<Arc<Self>> {
        let first = listen(address)?;
        // With port 0 (tests) the others must follow the first.
        let actual = first.local_addr()?.as_socket().unwrap_or(address);
        let mut sockets = vec![first];
        while sockets.len() < workers {
            sockets.push(listen(actual)?);
        }
        Ok(Arc::new(Self {
            address,
            sockets,
            retired: OnceLock::new(),
        }))
    }

    /// The socket of worker `index`.
    pub(crate) fn of_worker(self: &Arc<Self>, index: usize) -> WorkerSocket {
        WorkerSocket {
            bound: Arc::clone(self),
            index,
        }
    }

    /// The address is no longer served; `last` serves what waits.
    pub(crate) fn retire(&self, last: Arc<ListenerView>) {
        let _already = self.retired.set(last);
    }

    pub(crate) fn retired(&self) -> Option<&Arc<ListenerView>> {
        self.retired.get()
    }
}

/// A worker's socket of an address, as tokio wants it. Dropping it closes nothing.
#[derive(Debug)]
pub(crate) struct WorkerSocket {
    bound: Arc<Bound>,
    index: usize,
}

impl WorkerSocket {
    /// For waiting in the worker's runtime.
    pub(crate) fn register(self) -> io::Result<AsyncFd<Self>> {
        sys::register(self)
    }

    /// Accepts one connection: non-blocking, close-on-exec.
    pub(crate) fn accept(&self) -> io::Result<(std::net::TcpStream, SocketAddr)> {
        let socket = self.socket().ok_or(io::ErrorKind::NotFound)?;
        let (stream, peer) = sys::accept(socket)?;
        Ok((
            stream,
            SocketAddr::new(peer.ip().to_canonical(), peer.port()),
        ))
    }

    fn socket(&self) -> Option<&Socket> {
        self.bound.sockets.get(self.index)
    }
}

impl AsRawFd for WorkerSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket().map_or(-1, AsRawFd::as_raw_fd)
    }
}

/// A TCP socket that does not block, for an address on which others may listen beside us: other workers, a successor.
pub(crate) fn shared_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = shared_socket(address)?;
    // A Backup listens before it owns the VIP.
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    // Inherited by accepted sockets: no call per connection.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, fcntl};

    #[test]
    fn accepted_sockets_inherit_keepalive_and_nodelay() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = listen(address.parse().unwrap()).unwrap();
            let at = listener.local_addr().unwrap().as_socket().unwrap();
            let _client = std::net::TcpStream::connect(at).unwrap();
            listener.set_nonblocking(false).unwrap();
            let (accepted, _) = sys::accept(&listener).unwrap();
            let flags = |what| fcntl(&accepted, what).unwrap();
            assert_ne!(flags(FcntlArg::F_GETFL) & libc::O_NONBLOCK, 0);
            assert_ne!(flags(FcntlArg::F_GETFD) & libc::FD_CLOEXEC, 0);
            let accepted = Socket::from(accepted);
            assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
            let times = (
                accepted.tcp_keepalive_time().unwrap(),
                accepted.tcp_keepalive_interval().unwrap(),
                accepted.tcp_keepalive_retries().unwrap(),
            );
            let expected = (Duration::from_secs(60), Duration::from_secs(15), 4);
            assert_eq!(times, expected, "{address}");
        }
    }
}
