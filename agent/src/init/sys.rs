//! System calls of PID 1 that no safe library has.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `MODULE_INIT_COMPRESSED_FILE` of finit_module(2).
const COMPRESSED: libc::c_int = 4;
/// Bytes of entropy that one call adds: what the kernel's generator needs to be ready is 32.
const SEED: usize = 512;

/// Loads a kernel module.
pub(super) fn load_module(file: &File, compressed: bool) -> io::Result<()> {
    let flags = if compressed { COMPRESSED } else { 0 };
    // SAFETY: the descriptor is open and the parameters are a C string, both for the time of the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    check(rc)
}

/// Argument of `RNDADDENTROPY` (random(4)).
#[repr(C)]
struct Pool {
    bits: libc::c_int,
    bytes: libc::c_int,
    data: [u8; SEED],
}

/// Gives the kernel's random generator bytes that count as random. More than 512 are not used.
pub(super) fn add_entropy(random: &File, seed: &[u8]) -> io::Result<()> {
    let mut pool = Pool {
        bits: 0,
        bytes: 0,
        data: [0; SEED],
    };
    for (place, byte) in pool.data.iter_mut().zip(seed) {
        *place = *byte;
        pool.bytes += 1;
        pool.bits += 8;
    }
    // RNDADDENTROPY is _IOW('R', 3, int[2]).
    const REQUEST: libc::c_ulong = 0x4008_5203;
    // SAFETY: `pool` has the layout that random(4) gives, says how many bytes of it are filled, and outlives the call.
    let rc = unsafe { libc::ioctl(random.as_raw_fd(), REQUEST as _, &raw const pool) };
    zeroize::Zeroize::zeroize(&mut pool.data);
    check(rc.into())
}

/// The hardware clock, as `struct rtc_time` (rtc(4)).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct RtcTime {
    pub(super) second: libc::c_int,
    pub(super) minute: libc::c_int,
    pub(super) hour: libc::c_int,
    pub(super) day: libc::c_int,
    /// 0 is January.
    pub(super) month: libc::c_int,
    /// Since 1900.
    pub(super) year: libc::c_int,
    unused: [libc::c_int; 3],
}

/// Reads the hardware clock.
pub(super) fn read_rtc(rtc: &File) -> io::Result<RtcTime> {
    // RTC_RD_TIME is _IOR('p', 9, struct rtc_time).
    const REQUEST: libc::c_ulong = 0x8024_7009;
    let mut time = RtcTime::default();
    // SAFETY: `time` has the layout that rtc(4) gives, nine ints, and outlives the call.
    let rc = unsafe { libc::ioctl(rtc.as_raw_fd(), REQUEST as _, &raw mut time) };
    check(rc.into())?;
    Ok(time)
}

/// Sets the time-out of a watchdog; returns the one that it took.
pub(super) fn watchdog_timeout(watchdog: &File, seconds: libc::c_int) -> io::Result<libc::c_int> {
    // WDIOC_SETTIMEOUT is _IOWR('W', 6, int).
    const REQUEST: libc::c_ulong = 0xc004_5706;
    let mut value = seconds;
    // SAFETY: the request reads and writes one int, which outlives the call.
    let rc = unsafe { libc::ioctl(watchdog.as_raw_fd(), REQUEST as _, &raw mut value) };
    check(rc.into())?;
    Ok(value)
}

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Restart,
    PowerOff,
}

/// Ends the machine at once: what is not synced is lost. Returns only when the kernel refuses.
pub(super) fn reboot(end: End) -> io::Error {
    let command = match end {
        End::Restart => libc::RB_AUTOBOOT,
        End::PowerOff => libc::RB_POWER_OFF,
    };
    // SAFETY: reboot takes an integer and touches no memory of ours.
    unsafe { libc::reboot(command) };
    io::Error::last_os_error()
}

/// Ctrl-Alt-Del sends SIGINT to PID 1 instead of restarting the machine at once.
pub(super) fn catch_ctrl_alt_del() -> io::Result<()> {
    // SAFETY: reboot takes an integer and touches no memory of ours.
    let rc = unsafe { libc::reboot(libc::RB_DISABLE_CAD) };
    check(rc.into())
}

/// Makes `command` start in a session of its own, with its standard input as controlling terminal if it is one.
pub(super) fn in_new_session(command: &mut Command, terminal: bool) {
    // SAFETY: the closure runs in the child between fork and exec and calls only setsid and ioctl, which are
    // async-signal-safe (signal-safety(7)), and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            if terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

fn check(rc: libc::c_long) -> io::Result<()> {
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
