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

/// The command may lock little memory, and not lift that limit.
pub(crate) fn limit_locked_memory(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    const CAP_SYS_RESOURCE: libc::c_ulong = 24;
    // SAFETY: between fork and exec only two system calls are made, with integers and a structure that lives over them.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 65_536,
                rlim_max: 65_536,
            };
            if libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) != 0
                || libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
