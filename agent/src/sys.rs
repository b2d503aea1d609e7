//! The only unsafe code of this crate: pidfds, and what happens between fork and exec.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The number under which a child finds the descriptor that it inherits.
pub(crate) const INHERITED_FD: i32 = 3;

/// A descriptor that polls readable when process `pid` has ended.
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits for a descriptor with tokio. Must be called inside a runtime.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor from here until it is dropped, by the AsyncFd.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

/// Sends a signal to the process behind a pidfd.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open for the time of the call; a null siginfo is allowed.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            none,
            0,
        )
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes `command` start in a session of its own, with descriptor number `inherit` as [`INHERITED_FD`].
pub(crate) fn in_new_session(command: &mut Command, inherit: Option<i32>) {
    // SAFETY: the closure runs in the child between fork and exec and calls only setsid, dup2 and fcntl,
    // which are async-signal-safe (signal-safety(7)), and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            let rc = match inherit {
                None => 0,
                // dup2 onto itself would leave close-on-exec set.
                Some(INHERITED_FD) => libc::fcntl(INHERITED_FD, libc::F_SETFD, 0),
                Some(fd) => libc::dup2(fd, INHERITED_FD),
            };
            if rc < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// Unmaps the pages of a mapping of program text; they are read from the file again when they are used.
pub(crate) fn drop_text(start: usize, end: usize) {
    let start = std::ptr::without_provenance_mut(start);
    // SAFETY: the caller read the range in /proc/self/maps as private, executable, not writable and of a
    // file. No page of it was ever written, so what comes back is what was there. A running program's
    // file cannot be written (ETXTBSY), a replaced one keeps its inode. Should the mapping be gone
    // meanwhile, as nothing here unloads libraries, the call fails and changes nothing.
    let _ = unsafe { libc::madvise(start, end.saturating_sub(start.addr()), libc::MADV_DONTNEED) };
}
