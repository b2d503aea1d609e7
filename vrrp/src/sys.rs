//! The only unsafe code of this crate: what `nix` and `socket2` do not have.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// CAP_NET_ADMIN
pub(crate) const CAP_NET_ADMIN: u32 = 12;
/// CAP_NET_RAW
pub(crate) const CAP_NET_RAW: u32 = 13;
/// The highest capability that any kernel knows has a number below this.
const CAP_END: u32 = 64;

/// A descriptor of this process that polls readable when it has ended.
pub(crate) fn own_pidfd() -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes over a descriptor that was inherited or received under this number.
///
/// Refuses a number that is not open. The caller must be the one who was given the descriptor.
pub(crate) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD takes an integer and touches no memory.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open (checked above), and was handed to us by SCM_RIGHTS or across exec: no
    // other value of this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes `command` start in a session of its own, with these descriptors inherited.
pub(crate) fn detach_with(command: &mut Command, inherited: &[BorrowedFd<'_>]) {
    let numbers: Vec<RawFd> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: the closure runs in the child between fork and exec; setsid and fcntl are
    // async-signal-safe (signal-safety(7)), and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            for fd in &numbers {
                if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// Keeps exactly `capabilities`, which survive exec, and can never gain more; with `uid` as that user. Answers whether it is:
/// one who was started with no other capabilities cannot become another user, and stays who it is with these.
/// Must run before the first thread: the capability calls act on the calling thread alone.
pub(crate) fn drop_privileges(uid: Option<u32>, capabilities: &[u32]) -> io::Result<bool> {
    for capability in (0..CAP_END).filter(|c| !capabilities.contains(c)) {
        // Fails for numbers that this kernel does not know, and only for these.
        let _ = prctl(libc::PR_CAPBSET_DROP, capability, 0);
    }
    prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
    let became = match uid.map_or(Ok(()), become_user) {
        Ok(()) => true,
        Err(nix::Error::EPERM) => false,
        Err(error) => return Err(error.into()),
    };
    set_capabilities(capabilities)?;
    for capability in capabilities {
        prctl(
            libc::PR_CAP_AMBIENT,
            u32::try_from(libc::PR_CAP_AMBIENT_RAISE).map_err(io::Error::other)?,
            *capability,
        )?;
    }
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    Ok(became)
}

fn become_user(uid: u32) -> nix::Result<()> {
    nix::unistd::setgroups(&[])?;
    let (gid, uid) = (
        nix::unistd::Gid::from_raw(uid),
        nix::unistd::Uid::from_raw(uid),
    );
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn set_capabilities(capabilities: &[u32]) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = CapHeader {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    for capability in capabilities {
        let bit = 1_u32 << (capability % 32);
        let half = usize::from(*capability >= 32);
        data[half].effective |= bit;
        data[half].permitted |= bit;
        data[half].inheritable |= bit;
    }
    // SAFETY: header and data have the layout of version 3 (capset(2)): a header and two records,
    // alive for the call, only read by the kernel.
    let rc = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn prctl(option: i32, second: u32, third: u32) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take integers only and touch no memory.
    let rc = unsafe {
        libc::prctl(
            option,
            libc::c_ulong::from(second),
            libc::c_ulong::from(third),
            zero,
            zero,
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Real-time scheduling for the calling thread alone; threads and children it starts get none.
pub(crate) fn prefer_this_thread() -> io::Result<()> {
    /// The lowest real-time priority: ahead of everything normal, behind the kernel's own threads.
    const PRIORITY: i32 = 1;
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameters are alive for the call and only read.
    if unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Locks what is mapped and what will be, each page when it is touched.
pub(crate) fn lock_memory() -> io::Result<()> {
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: takes an integer; no memory changes its content.
    if unsafe { libc::mlockall(flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The opposite.
pub(crate) fn unlock_memory() -> io::Result<()> {
    // SAFETY: takes nothing; no memory changes its content.
    if unsafe { libc::munlockall() } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
