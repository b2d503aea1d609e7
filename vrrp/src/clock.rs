//! The only place that reads clocks.

use krater_vrrp_proto::{Span, Time};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Now, on the clock of the machine: CLOCK_BOOTTIME, because silence during a suspend is silence.
pub(crate) fn now() -> Time {
    Time::from_micros(micros(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()))
}

/// Milliseconds since 1970, by a clock that is set now and then.
pub(crate) fn unix_ms() -> u64 {
    micros(clock_gettime(ClockId::CLOCK_REALTIME).ok()) / 1_000
}

/// Turns a receive timestamp of the kernel (CLOCK_REALTIME) into our clock. A clock that was set
/// meanwhile cannot yield the future.
pub(crate) fn from_realtime(stamp: TimeSpec) -> Time {
    let real = Time::from_micros(micros(clock_gettime(ClockId::CLOCK_REALTIME).ok()));
    let age = real - Time::from_micros(micros(Some(stamp)));
    Time::from_micros(now().micros().saturating_sub(age.micros()))
}

/// As timerfd wants it.
pub(crate) fn timespec(time: Time) -> TimeSpec {
    TimeSpec::from_duration(Duration::from(Span::from_micros(time.micros())))
}

fn micros(time: Option<TimeSpec>) -> u64 {
    time.map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
        let nanos = u64::try_from(time.tv_nsec()).unwrap_or_default();
        seconds.saturating_mul(1_000_000) + nanos / 1_000
    })
}
