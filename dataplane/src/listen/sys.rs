//! Registering a listening socket that several owners share.
#![allow(unsafe_code)]

use super::WorkerSocket;
use std::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a worker's socket with the worker's runtime, for accepting.
pub(super) fn register(socket: WorkerSocket) -> io::Result<AsyncFd<WorkerSocket>> {
    // SAFETY: the descriptor stays open and the same for the life of `socket`, because it holds an
    // `Arc` of its owner, which never replaces its sockets.
    // JUSTIFICATION: tokio's safe listener accepts before it can be asked whether a place is free.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(Into::into)
}
