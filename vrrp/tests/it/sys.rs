//! The unsafe code of these tests.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};

/// A pidfd of a child of ours.
pub(crate) fn pidfd(pid: u32) -> OwnedFd {
    let pid = i32::try_from(pid).unwrap();
    // SAFETY: pidfd_open takes two integers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).unwrap();
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just made it; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
