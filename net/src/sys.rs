//! The only unsafe code of this crate.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
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

/// Makes `command` start with these descriptors open under the numbers that they have here.
pub(crate) fn keep_open(command: &mut Command, numbers: Vec<RawFd>) {
    // SAFETY: the closure runs in the child between fork and exec and calls only fcntl, which is
    // async-signal-safe (signal-safety(7)); it reads a list that exists already and allocates nothing. A number
    // that is not open is refused by the kernel.
    unsafe {
        command.pre_exec(move || {
            for number in &numbers {
                if libc::fcntl(*number, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// Makes a new tap device of this name out of an open `/dev/net/tun`.
pub(crate) fn set_tap(file: &File, name: &str) -> io::Result<()> {
    let bytes = name.as_bytes();
    // SAFETY: an ifreq is plain integers and arrays of them, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero: the end.
    if bytes.is_empty() || bytes.len() >= request.ifr_name.len() || bytes.contains(&0) {
        let text = format!("{name:?} is no name of an interface: 1 to 15 bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
    request.ifr_ifru.ifru_flags = i16::from_ne_bytes(
        u16::try_from(flags)
            .map_err(io::Error::other)?
            .to_ne_bytes(),
    );
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call; the descriptor is open.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
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
