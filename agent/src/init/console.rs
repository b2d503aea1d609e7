//! Lines on the console, which a cloud shows as the console log. No logger: this must work with nothing mounted.

use std::fmt::Display;
use std::fs::File;
use std::io::Write as _;

/// Longest message, in lines: the tail of what an agent said.
const MAX_LINES: usize = 40;

/// Prints a message, each line with the time since boot and our name.
pub(super) fn say(message: impl Display) {
    let us = crate::clock::boot_us();
    let text = lines(&message.to_string(), us);
    let mut options = File::options();
    options.write(true);
    // /dev/console is the last `console=` of the kernel's command line: the serial port.
    let written = options
        .open("/dev/console")
        .and_then(|mut console| console.write_all(text.as_bytes()));
    if written.is_err()
        && let Ok(mut log) = options.open("/dev/kmsg")
    {
        let _ = log.write_all(text.as_bytes());
    }
}

/// Looks like the kernel's own lines. What could move a terminal's cursor shows as `?`.
fn lines(message: &str, us: u64) -> String {
    let (seconds, us) = (us / 1_000_000, us % 1_000_000);
    let mut text = String::new();
    for line in message.lines().take(MAX_LINES) {
        let clean = line.chars().map(|c| if c.is_control() { '?' } else { c });
        text.push_str(&format!("[{seconds:5}.{us:06}] amphora: "));
        text.extend(clean);
        // A terminal in raw mode needs both.
        text.push_str("\r\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn every_line_has_time_and_name_and_no_control_characters() {
        assert_eq!(
            lines("a\n\u{1b}[2Jb", 1_500_000),
            "[    1.500000] amphora: a\r\n[    1.500000] amphora: ?[2Jb\r\n"
        );
        assert_eq!(
            lines(&"x\n".repeat(100), 0).lines().count(),
            super::MAX_LINES
        );
    }
}
