//! Clock, random numbers, name, parameters of the kernel.

use super::console::say;
use super::sys;
use krater_model::guest::meta_data::MetaData;
use nix::time::{ClockId, clock_gettime, clock_settime};
use std::fs::{self, File};
use std::io;

/// 2025-01-01: no program of ours is older, and no certificate is valid before it.
const EARLIEST: i64 = 1_735_689_600;
/// The system clock follows the hardware clock, which a hypervisor keeps right, when it is off by more.
const TOLERANCE: i64 = 2;

/// Parameters of the guest: the management namespace is the first one, and what is set here for all namespaces
/// is what upstream's amphora sets.
const PARAMETERS: &[(&str, &str)] = &[
    // Descriptors: two per connection, and room for both.
    ("fs/nr_open", "2600000"),
    ("fs/file-max", "2600000"),
    // A panic of the kernel ends after ten seconds in a restart, as the command line says; a thread of the kernel
    // that is broken is no state to serve in.
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/kptr_restrict", "2"),
    ("kernel/dmesg_restrict", "1"),
    ("net/core/netdev_max_backlog", "5000"),
    // Management NIC and those that wait for the agent: no router of a tenant's network may configure them.
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/autoconf", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
];

/// Sets the kernel's parameters.
pub(super) fn parameters() {
    for (name, value) in PARAMETERS {
        if let Err(error) = parameter(name, value) {
            say(format_args!("parameter {name}: {error}"));
        }
    }
}

/// Sets one.
pub(super) fn parameter(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/{name}"), value)
}

/// Sets the clock when the kernel did not, and says when nobody knows the time.
pub(super) fn set() {
    let now = system();
    if now >= EARLIEST {
        return;
    }
    match hardware().map(|time| (time, clock_settime(ClockId::CLOCK_REALTIME, spec(time)))) {
        Ok((time, Ok(()))) if time >= EARLIEST => {}
        outcome => say(format_args!(
            "the clock says {}, before this program was made ({outcome:?}): certificates will be refused as not \
             valid yet; give the machine a hardware clock",
            crate::clock::rfc3339(system())
        )),
    }
}

/// Follows the hardware clock: nothing else tells a guest the time.
pub(super) fn follow() {
    let Ok(time) = hardware() else {
        return; // said at the start
    };
    let off = time - system();
    // A hardware clock that lost its battery or its host is not to be followed.
    if off.abs() <= TOLERANCE || time < EARLIEST {
        return;
    }
    let set = clock_settime(ClockId::CLOCK_REALTIME, spec(time));
    say(format_args!(
        "the clock was {off} s off the hardware clock: set {set:?}"
    ));
}

const fn spec(seconds: i64) -> nix::sys::time::TimeSpec {
    nix::sys::time::TimeSpec::new(seconds, 0)
}

fn system() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |time| time.tv_sec())
}

/// Seconds since 1970 by the hardware clock, which runs in UTC.
fn hardware() -> io::Result<i64> {
    let time = sys::read_rtc(&File::open("/dev/rtc0")?)?;
    let [year, month, day] = [time.year + 1900, time.month + 1, time.day].map(i64::from);
    let [hour, minute, second] = [time.hour, time.minute, time.second].map(i64::from);
    Ok(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days since 1970 of a date in the Gregorian calendar, by years that begin in March.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Name and random bytes that the host gives.
pub(super) fn identity(meta: &MetaData) {
    if let Some(name) = &meta.hostname
        && let Err(error) = nix::unistd::sethostname(name)
    {
        say(format_args!("host name {name}: {error}"));
    }
    if meta.random_seed.is_empty() {
        return;
    }
    // The host is trusted with private keys, so with random bytes too.
    let seeded = File::options()
        .write(true)
        .open("/dev/urandom")
        .and_then(|random| sys::add_entropy(&random, &meta.random_seed));
    if let Err(error) = seeded {
        say(format_args!(
            "the host's random bytes are not used: {error}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::days;

    #[test]
    fn days_are_those_of_the_other_direction() {
        for (date, expect) in [
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 11_016),
            ((2024, 2, 29), 19_782),
            ((2100, 1, 1), 47_482),
        ] {
            assert_eq!(days(date.0, date.1, date.2), expect);
            let text = crate::clock::rfc3339(expect * 86_400);
            let (year, month, day) = date;
            assert_eq!(text, format!("{year:04}-{month:02}-{day:02}T00:00:00Z"));
        }
    }
}
