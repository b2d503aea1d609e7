//! The system call that nix does not have.
#![allow(unsafe_code)]

use nix::sys::epoll::{Epoll, EpollEvent};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Waits for events with a time-out of nanoseconds: epoll_wait's milliseconds are too coarse for a
/// schedule of 20,000 requests per second.
pub(crate) fn wait(
    epoll: &Epoll,
    events: &mut [EpollEvent],
    timeout: Duration,
) -> io::Result<usize> {
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(i32::try_from(timeout.subsec_nanos()).unwrap_or(0)),
    };
    let room = i32::try_from(events.len()).unwrap_or(i32::MAX);
    // SAFETY: `events` is valid for writing `room` entries (EpollEvent is repr(transparent) over
    // libc::epoll_event), `time` lives over the call, no signal mask is passed.
    let ready = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.0.as_raw_fd(),
            events.as_mut_ptr(),
            room,
            &raw const time,
            std::ptr::null::<libc::sigset_t>(),
            0_usize,
        )
    };
    match usize::try_from(ready) {
        Ok(ready) => Ok(ready),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            error => Err(error),
        },
    }
}
