//! Registering a listening socket that several owners share, and accepting from it.
#![allow(unsafe_code)]

use super::WorkerSocket;
use socket2::{SockAddr, Socket};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a worker's socket with the worker's runtime, for accepting.
pub(super) fn register(socket: WorkerSocket) -> io::Result<AsyncFd<WorkerSocket>> {
    // SAFETY: the descriptor stays open and the same for the life of `socket`, because it holds an
    // `Arc` of its owner, which never replaces its sockets.
    // JUSTIFICATION: tokio's safe listener accepts before it can be asked whether a place is free.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(Into::into)
}

/// Accepts a connection that does not block and is closed on exec.
pub(super) fn accept(socket: &Socket) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `storage` and `length` describe room for any address, and accept4 fills in both; a number
    // that is not negative is a descriptor that was just opened for us.
    // JUSTIFICATION: the safe ways set the flags afterwards, with two system calls each.
    let (accepted, peer) = unsafe {
        SockAddr::try_init(|storage, length| {
            match libc::accept4(socket.as_raw_fd(), storage.cast(), length, flags) {
                fd @ 0.. => Ok(OwnedFd::from_raw_fd(fd)),
                _ => Err(io::Error::last_os_error()),
            }
        })
    }?;
    let peer = peer.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((accepted.into(), peer))
}
