//! System calls that no safe crate offers. The only `unsafe` of the data path.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Moves up to `len` bytes between a socket and a pipe without copying. Never blocks on the pipe;
/// the socket must be non-blocking.
pub(super) fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    let null = std::ptr::null_mut();
    // SAFETY: both descriptors are borrowed, so they are open during the call; offsets are null, as
    // pipes and sockets demand; the call touches no memory of ours.
    // JUSTIFICATION: nix's wrapper needs the same two descriptors and hides EAGAIN in its own type.
    let moved = unsafe { libc::splice(from.as_raw_fd(), null, to.as_raw_fd(), null, len, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}
