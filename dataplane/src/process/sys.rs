//! Capabilities and inherited descriptors: no safe crate of ours offers them.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// linux/capability.h
const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Owns a descriptor that the parent process opened for us.
pub(super) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: F_GETFD touches no memory; a closed number is an error, not undefined.
    // JUSTIFICATION: a number from the command line has no owner that a safe type could borrow from.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open (just checked), it was opened by the parent for this very use,
    // and nothing else in this process knows its number.
    // JUSTIFICATION: this is the one way to take ownership of an inherited descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let close_on_exec = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    nix::fcntl::fcntl(&fd, close_on_exec)?;
    Ok(fd)
}

/// No capability but CAP_NET_BIND_SERVICE can ever be gained again, whatever is executed.
pub(super) fn bound_capabilities() -> io::Result<()> {
    for capability in (0..64).filter(|c| *c != CAP_NET_BIND_SERVICE) {
        // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory of ours.
        // JUSTIFICATION: nix has no wrapper for it.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EINVAL) => Ok(()), // past the kernel's last capability
                _ => Err(error),
            };
        }
    }
    Ok(())
}

/// Permitted, effective, inheritable and ambient: CAP_NET_BIND_SERVICE alone.
pub(super) fn keep_only_bind_service() -> io::Result<()> {
    let bit = 1 << CAP_NET_BIND_SERVICE;
    let mut header = Header {
        version: CAP_VERSION_3,
        pid: 0,
    };
    let low = Data {
        effective: bit,
        permitted: bit,
        inheritable: bit,
    };
    let high = Data {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    };
    let data = [low, high];
    // SAFETY: version 3 reads one header and two data structs, laid out as in linux/capability.h;
    // both live until the call returns.
    // JUSTIFICATION: libc has no wrapper for capset, nix has none either.
    if unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let raise = libc::PR_CAP_AMBIENT_RAISE;
    // SAFETY: takes numbers and touches no memory of ours.
    // JUSTIFICATION: nix has no wrapper for ambient capabilities.
    if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, CAP_NET_BIND_SERVICE, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
