//! Gives memory back that only starting or applying needed. An amphora is idle nearly all of its life, and
//! there may be hundreds on a host.

use crate::sys;

/// Program text of this process that is mapped but unused is dropped (it comes back from the page cache
/// when it is used), and so are free pages of the heap.
pub(crate) fn give_back() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for line in maps.lines() {
        if let Some((start, end)) = text_mapping(line) {
            sys::drop_text(start, end);
        }
    }
    krater_net::resident::trim_heap();
}

/// The range of a mapping that holds nothing but program text, or the constants in front of it. Data that
/// was relocated differs from the file and is left alone; it lies behind the text.
fn text_mapping(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let of_a_file = fields.nth(2).is_some_and(|path| path.starts_with('/'));
    let constants = permissions == "r--p" && offset == "00000000";
    if !of_a_file || !(permissions == "r-xp" || constants) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_of_files() {
        let line = "55f8488f4000-55f849368000 r-xp 0037f000 fe:00 5574522    /a/amphora";
        assert_eq!(
            text_mapping(line),
            Some((0x55f8_488f_4000, 0x55f8_4936_8000))
        );
        for other in [
            "55f8488f4000-55f849368000 r--p 00e6e000 fe:00 5574522    /a/amphora",
            "55f8488f4000-55f849368000 rw-p 00000000 fe:00 5574522    /a/amphora",
            "55f84a443000-55f84a47c000 r-xp 00000000 00:00 0",
            "7ffde4152000-7ffde4154000 r-xp 00000000 00:00 0          [vdso]",
            "",
        ] {
            assert_eq!(text_mapping(other), None, "{other}");
        }
    }

    #[test]
    fn the_program_goes_on_after_it() {
        let text = "x".repeat(1_000_000);
        give_back();
        assert_eq!(text.len(), 1_000_000);
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..10).for_each(|_| give_back())))
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert!(krater_telemetry::metrics::resident_bytes(std::process::id()) > 0);
    }
}
