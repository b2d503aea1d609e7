//! The only unsafe code of this crate.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A descriptor that polls readable when process `pid` has ended.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to the process behind a pidfd.
pub(crate) fn pidfd_send_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
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

/// Makes `command` start in a session of its own.
pub(crate) fn in_new_session(command: &mut Command) {
    // SAFETY: the closure runs in the child between fork and exec and calls only setsid, which is
    // async-signal-safe (signal-safety(7)) and allocates nothing.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
    }
}

/// Makes `command` start with no signal blocked, whatever the thread that starts it has blocked.
pub(crate) fn with_signals(command: &mut Command) {
    // SAFETY: the closure runs in the child between fork and exec and calls only pthread_sigmask, which is
    // async-signal-safe (signal-safety(7)) and allocates nothing.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::signal::SigSet::empty().thread_set_mask()?));
    }
}

/// Hands a netlink socket to tokio. Must be called inside a tokio runtime with I/O enabled.
pub(crate) fn tokio_netlink(socket: netlink_sys::Socket) -> io::Result<netlink_sys::TokioSocket> {
    // The conversion below panics without a runtime: refuse it here.
    tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    socket.set_non_blocking(true)?;
    // SAFETY: `into_raw_fd` gives up the ownership that `from_raw_fd` takes over.
    Ok(unsafe { netlink_sys::TokioSocket::from_raw_fd(socket.into_raw_fd()) })
}

/// The address that binds a packet socket to an interface, or that sends a packet there to a MAC address.
pub(crate) fn link_address(
    index: i32,
    ethertype: u16,
    to: Option<[u8; 6]>,
) -> io::Result<socket2::SockAddr> {
    // SAFETY: a sockaddr_ll is smaller than the zeroed, aligned sockaddr_storage that `try_init`
    // hands us, and all its fields are plain integers; the length set is its size.
    let (_, address) = unsafe {
        socket2::SockAddr::try_init(|storage, length| {
            let ll = storage.cast::<libc::sockaddr_ll>();
            (*ll).sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
            (*ll).sll_protocol = ethertype.to_be();
            (*ll).sll_ifindex = index;
            if let Some(to) = to {
                (*ll).sll_halen = 6;
                (*ll).sll_addr = [to[0], to[1], to[2], to[3], to[4], to[5], 0, 0];
            }
            *length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
            Ok(())
        })
    }?;
    Ok(address)
}

/// Registers a netlink socket with tokio for reading. Must be called inside a tokio runtime with I/O
/// enabled.
pub(crate) fn watch_socket(
    socket: netlink_sys::Socket,
) -> io::Result<tokio::io::unix::AsyncFd<netlink_sys::Socket>> {
    tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    socket.set_non_blocking(true)?;
    // SAFETY: a netlink_sys::Socket owns its descriptor, returns the same one until it is dropped,
    // and the AsyncFd owns the socket.
    unsafe { tokio::io::unix::AsyncFd::register(socket) }.map_err(Into::into)
}

/// Unmaps the pages of a private file mapping that cannot be written and that has no page of its own.
pub(crate) fn forget_clean_pages(addresses: std::ops::Range<usize>) -> io::Result<()> {
    let length = addresses.end.saturating_sub(addresses.start);
    let start = std::ptr::with_exposed_provenance_mut::<libc::c_void>(addresses.start);
    // SAFETY: MADV_DONTNEED on such a mapping only drops page table entries: every page is still what
    // the file says (nothing was written: the mapping is not writable and holds no anonymous page),
    // so that the next access reads the same bytes. A mapping that is gone by now gives ENOMEM.
    if unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives free heap pages back to the kernel.
pub(crate) fn trim_heap() {
    // SAFETY: malloc_trim touches only the allocator's own state, under its lock.
    let _ = unsafe { libc::malloc_trim(0) };
}
