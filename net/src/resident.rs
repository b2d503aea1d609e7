//! Giving back the pages of the program file that only start-up needed.
//!
//! The `amphora` binary is large, and the kernel maps 64 KiB around each page that is touched: after
//! start-up half of the file counts as resident in every process of an amphora, although an idle one
//! uses a tenth. What is given back costs a minor fault when it is needed again.

use crate::sys;
use std::io;
use std::ops::Range;

/// Unmaps the clean, read-only pages of files from this process; they come back by themselves on use.
/// Call it once, when everything has started. Returns the bytes that were resident in them.
pub fn release_startup_pages() -> io::Result<u64> {
    let mut released = 0;
    for mapping in clean(&std::fs::read_to_string("/proc/self/smaps")?) {
        sys::forget_clean_pages(mapping.addresses)?;
        released += mapping.resident;
    }
    Ok(released)
}

/// Gives back what only starting, or a change, needed: [`release_startup_pages`], and [`trim_heap`] also when that fails.
pub fn give_back() -> io::Result<u64> {
    let released = release_startup_pages();
    trim_heap();
    released
}

/// Gives the free pages of the heap back.
pub fn trim_heap() {
    sys::trim_heap();
}

#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    addresses: Range<usize>,
    resident: u64,
}

/// The private mappings of files that cannot be written and hold no page of our own, such as code
/// and constants, but not the relocated ones.
fn clean(smaps: &str) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    // Whether the mapping whose fields are being read is still a candidate.
    let mut candidate = false;
    for line in smaps.lines() {
        if let Some(header) = header(line) {
            candidate = header.is_some();
            found.extend(header);
        } else if candidate {
            let field = |name| kilobytes(line, name);
            if let (Some(bytes), Some(last)) = (field("Rss:"), found.last_mut()) {
                last.resident = bytes;
            }
            // Dirty pages are no reason to stop: they are the file's, just not written to disk yet.
            if field("Anonymous:").is_some_and(|bytes| bytes > 0) {
                found.pop();
                candidate = false;
            }
        }
    }
    found
}

/// None: not a header. Some(None): the header of a mapping that is left alone.
fn header(line: &str) -> Option<Option<Mapping>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let addresses = address(start)?..address(end)?;
    let read_only = matches!(words.next()?, "r-xp" | "r--p");
    // Offset, device, inode, path.
    let path = words.nth(3).unwrap_or_default();
    Some((read_only && path.starts_with('/')).then_some(Mapping {
        addresses,
        resident: 0,
    }))
}

fn kilobytes(line: &str, name: &str) -> Option<u64> {
    let value = line.strip_prefix(name)?.trim().strip_suffix(" kB")?;
    value.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clean_read_only_file_mappings() {
        let mapping = |header: &str, anonymous: u32| {
            format!(
                "{header}\nSize: 8 kB\nRss:  8 kB\nPrivate_Dirty: 8 kB\n\
                 Anonymous: {anonymous} kB\nVmFlags: rd ex mr\n"
            )
        };
        let smaps = [
            mapping("1000-3000 r--p 00000000 fe:01 42   /usr/bin/amphora", 0),
            mapping("3000-5000 r-xp 00002000 fe:01 42   /usr/bin/amphora", 0),
            mapping("5000-7000 r--p 00004000 fe:01 42   /usr/bin/amphora", 4), // relocated
            mapping("7000-9000 rw-p 00006000 fe:01 42   /usr/bin/amphora", 0),
            mapping("9000-b000 r--s 00000000 00:01 7    /memfd:progress", 0),
            mapping("b000-d000 r--p 00000000 00:00 0", 0),
            mapping("7fff0000-7fff2000 r-xp 00000000 00:00 0   [vdso]", 0),
        ]
        .concat();
        let found = clean(&smaps);
        let addresses: Vec<_> = found.iter().map(|m| m.addresses.clone()).collect();
        assert_eq!(addresses, [0x1000..0x3000, 0x3000..0x5000]);
        assert!(found.iter().all(|mapping| mapping.resident == 8 * 1024));
    }

    #[test]
    fn the_program_goes_on_with_less() {
        let released = release_startup_pages().unwrap();
        assert!(released > 0);
        // All of this code was just given back, and works.
        let text: String = (0..100).map(|n| format!("{n:x}")).collect();
        assert!(text.starts_with("0123456789abcdef10"));
    }
}
