//! Whether a process has the CPU that it wants, from `/proc`: what tells a starving data plane from a
//! frozen one. The files are small, readable by everybody, and read only while progress is missing.

use krater_vrrp_proto::Span;
use std::fs;
use std::io;

/// Threads looked at: a data plane has one per CPU and a few more.
const MAX_THREADS: usize = 512;

/// A thread at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thread {
    id: u32,
    /// It runs or waits for a CPU; otherwise it sleeps, or is stopped.
    wants: bool,
    /// CPU time that it has had.
    ran: Span,
}

/// The threads of a process.
pub(crate) fn threads(pid: u32) -> io::Result<Vec<Thread>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))?.take(MAX_THREADS) {
        let folder = entry?.path();
        let read = |name: &str| fs::read_to_string(folder.join(name));
        // A thread may end between the two.
        let (Ok(stat), Ok(schedstat)) = (read("stat"), read("schedstat")) else {
            continue;
        };
        let id = folder.file_name().and_then(|name| name.to_str());
        found.extend(id.and_then(|id| thread(id, &stat, &schedstat)));
    }
    Ok(found)
}

fn thread(id: &str, stat: &str, schedstat: &str) -> Option<Thread> {
    // The name stands in parentheses and may hold any character.
    let (_, after) = stat.rsplit_once(") ")?;
    let nanoseconds: u64 = schedstat.split(' ').next()?.parse().ok()?;
    Some(Thread {
        id: id.parse().ok()?,
        wants: after.starts_with('R'),
        ran: Span::from_micros(nanoseconds / 1_000),
    })
}

/// How much of `time` the process was able to use: all of it when no thread wants a CPU, else what the
/// thread got that wants one and got least.
pub(crate) fn usable(before: &[Thread], after: &[Thread], time: Span) -> Span {
    let got = |thread: &Thread| {
        let earlier = before.iter().find(|earlier| earlier.id == thread.id)?;
        let micros = thread.ran.micros().saturating_sub(earlier.ran.micros());
        Some(Span::from_micros(micros))
    };
    let wanting = after.iter().filter(|thread| thread.wants);
    wanting
        .filter_map(got)
        .min()
        .map_or(time, |least| least.min(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(id: u32, wants: bool, millis: u32) -> Thread {
        Thread {
            id,
            wants,
            ran: Span::from_millis(millis),
        }
    }

    #[test]
    fn a_thread_that_wants_and_does_not_get_is_starving() {
        let time = Span::from_millis(20);
        let before = [at(1, true, 100), at(2, false, 5)];
        for (after, usable_ms) in [
            // Asleep or stopped: it does not want.
            ([at(1, false, 100), at(2, false, 5)], 20),
            // Waits for a CPU.
            ([at(1, true, 100), at(2, false, 5)], 0),
            ([at(1, true, 103), at(2, false, 9)], 3),
            // Spins.
            ([at(1, true, 120), at(2, false, 5)], 20),
            // One spins, the other starves.
            ([at(1, true, 120), at(2, true, 5)], 0),
        ] {
            let found = usable(&before, &after, time);
            assert_eq!(found, Span::from_millis(usable_ms), "{after:?}");
        }
        let new = [at(3, true, 1)];
        assert_eq!(usable(&before, &new, time), time, "not seen before");
    }

    #[test]
    fn names_may_hold_anything() {
        let found = thread("7", "7 (a) R b) S 1 7 7 0", "2500000 17 3\n").unwrap();
        assert_eq!(found.ran, Span::from_micros(2_500));
        assert!(!found.wants);
        assert_eq!(thread("7", "7 (a", "1 2 3"), None);
        assert_eq!(thread("7", "7 (a) R 1", "x"), None);
    }

    #[test]
    fn our_own_threads_are_found() {
        let found = threads(std::process::id()).unwrap();
        assert!(found.iter().any(|thread| thread.wants), "this one runs");
        assert!(threads(u32::MAX).is_err());
    }
}
