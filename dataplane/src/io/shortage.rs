//! Which failures to connect are our own.

use krater_dataplane_core::shortage::Own;
use std::io;

/// What a failed `socket(2)`, `bind(2)`, `connect(2)` or `epoll_ctl(2)` lacked on our side; none when
/// the failure is the member's or the network's.
pub(crate) fn is_own(error: &io::Error) -> Option<Own> {
    match error.raw_os_error()? {
        libc::EMFILE | libc::ENFILE => Some(Own::Descriptors),
        // ENOSPC: the kernel's bound of epoll watches, which is one of memory.
        libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC => Some(Own::Memory),
        libc::EADDRNOTAVAIL => Some(Own::Ports),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_and_theirs() {
        let of = |code| is_own(&io::Error::from_raw_os_error(code));
        for (code, own) in [
            (libc::EMFILE, Own::Descriptors),
            (libc::ENFILE, Own::Descriptors),
            (libc::ENOMEM, Own::Memory),
            (libc::ENOBUFS, Own::Memory),
            (libc::ENOSPC, Own::Memory),
            (libc::EADDRNOTAVAIL, Own::Ports),
        ] {
            assert_eq!(of(code), Some(own), "{code}");
        }
        for code in [
            libc::ECONNREFUSED,
            libc::ECONNRESET,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::ETIMEDOUT,
            libc::EPIPE,
            libc::EAGAIN,
        ] {
            assert_eq!(of(code), None, "{code}");
        }
        // Made by us or a library, not by the kernel.
        for kind in [io::ErrorKind::AddrNotAvailable, io::ErrorKind::OutOfMemory] {
            assert_eq!(is_own(&kind.into()), None);
        }
    }
}
