//! What no safe crate of ours offers.
#![allow(unsafe_code)]

use nix::sys::epoll::{Epoll, EpollEvent};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;

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

/// The number under which a child finds the descriptor of [`inherit`].
pub(crate) const INHERITED: i32 = 3;

/// Lets a child inherit `fd` as descriptor [`INHERITED`].
pub(crate) fn inherit(command: &mut Command, fd: OwnedFd) -> io::Result<()> {
    // A number above INHERITED, so that dup2 copies (and clears close-on-exec) in every case.
    let high = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(INHERITED + 1))?;
    // SAFETY: the number was just opened for us, and nothing else knows it.
    let high = unsafe { OwnedFd::from_raw_fd(high) };
    let run = move || {
        // SAFETY: dup2 touches no memory; `high` lives as long as the closure.
        match unsafe { libc::dup2(high.as_raw_fd(), INHERITED) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: between fork and exec the closure only calls dup2, which is async-signal-safe.
    unsafe { command.pre_exec(run) };
    Ok(())
}

/// A timer of nanoseconds for an asynchronous loop, whose own has milliseconds.
#[derive(Debug)]
pub(crate) struct Timer(AsyncFd<Fd>);

#[derive(Debug)]
struct Fd(TimerFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        // SAFETY: the descriptor is owned by the value that is registered, which nothing takes out of it,
        // replaces or closes before it is dropped together with its registration.
        Ok(Self(unsafe { AsyncFd::register(Fd(fd)) }?))
    }

    pub(crate) async fn until(&self, at: Instant) -> io::Result<()> {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let after = Expiration::OneShot(TimeSpec::from_duration(left));
        self.0.get_ref().0.set(after, TimerSetTimeFlags::empty())?;
        let mut ready = self.0.readable().await?;
        ready.clear_ready();
        Ok(())
    }
}

/// `struct perf_event_attr` as its first version was (PERF_ATTR_SIZE_VER0): the kernel takes every size.
#[repr(C)]
#[derive(Debug, Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    address: u64,
}

const TRACEPOINT: u32 = 2;
/// Second bit of the flags: threads and processes that it starts count too.
const INHERIT: u64 = 1 << 1;
const CLOSE_ON_EXEC: libc::c_ulong = 8;

/// A counter of a tracepoint for one thread; a read gives eight bytes (perf_event_open(2)).
pub(crate) fn count_tracepoint(number: u64, thread: libc::pid_t) -> io::Result<OwnedFd> {
    let attributes = Attributes {
        kind: TRACEPOINT,
        size: u32::try_from(size_of::<Attributes>()).unwrap_or(0),
        config: number,
        flags: INHERIT,
        ..Attributes::default()
    };
    let (any_core, no_group) = (-1, -1);
    // SAFETY: `attributes` has the layout and the size that it names, and lives over the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            thread,
            any_core,
            no_group,
            CLOSE_ON_EXEC,
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just opened this descriptor for us.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// From now on a counter of a tracepoint counts only what `expression` says (perf_event_open(2)).
pub(crate) fn count_only(counter: &impl AsRawFd, expression: &CStr) -> io::Result<()> {
    /// `PERF_EVENT_IOC_SET_FILTER`: `_IOW('$', 6, char *)`.
    const SET_FILTER: libc::Ioctl = 0x4008_2406;
    // SAFETY: the descriptor is open and the expression, which ends with a zero, alive for the call; it is only read.
    let rc = unsafe { libc::ioctl(counter.as_raw_fd(), SET_FILTER, expression.as_ptr()) };
    match rc {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Real-time scheduling for the calling thread, an instrument: what it measures must not wait for others.
/// Without the privilege it stays what it is.
pub(crate) fn prefer_this_thread() -> io::Result<()> {
    /// Above vrrp's own.
    const PRIORITY: i32 = 10;
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameters are alive for the call and only read.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor of a process.
pub(crate) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
