//! The power button, the watchdog, and the orderly end of the machine.

use super::console::say;
use super::sys;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

/// The watchdog restarts the machine when PID 1 has not shown itself for so long.
const WATCHDOG_SECONDS: i32 = 60;
/// How often it shows itself.
pub(super) const PET_EVERY: Duration = Duration::from_secs(10);
/// `struct input_event` on 64 bits: a time of 16 bytes, type, code, value.
const EVENT: usize = 24;
const EV_KEY: u16 = 1;
/// KEY_POWER and KEY_SLEEP's neighbour KEY_POWER2.
const POWER_KEYS: [u16; 2] = [116, 0x164];
/// Input devices that are listened to.
const MAX_INPUTS: usize = 16;

/// The input devices, one of which is the ACPI power button.
pub(super) fn buttons() -> Vec<File> {
    let entries = fs::read_dir("/dev/input").into_iter().flatten();
    let paths = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        path.file_name()?
            .to_str()?
            .starts_with("event")
            .then_some(path)
    });
    paths
        .filter_map(|path| {
            let mut options = File::options();
            options.read(true).custom_flags(libc::O_NONBLOCK);
            options.open(path).ok()
        })
        .take(MAX_INPUTS)
        .collect()
}

/// Whether the power button was pressed; reads what is there. An error: the device is gone.
pub(super) fn pressed(device: &mut File) -> io::Result<bool> {
    let mut buffer = [0; EVENT * 16];
    let length = match device.read(&mut buffer) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        read => read?,
    };
    let events = buffer.get(..length).unwrap_or_default();
    Ok(events.chunks_exact(EVENT).any(is_power_key))
}

fn is_power_key(event: &[u8]) -> bool {
    let number = |at: usize| {
        let bytes = event.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_ne_bytes(bytes))
    };
    let pressed = event
        .get(20..24)
        .is_some_and(|value| value == 1_i32.to_ne_bytes());
    pressed && number(16) == Some(EV_KEY) && number(18).is_some_and(|key| POWER_KEYS.contains(&key))
}

/// A hardware watchdog, where the machine has one.
#[derive(Debug)]
pub(super) struct Watchdog {
    device: File,
    due: Instant,
}

impl Watchdog {
    /// Opens it, which starts it.
    pub(super) fn open() -> Option<Self> {
        let device = File::options().write(true).open("/dev/watchdog").ok()?;
        match sys::watchdog_timeout(&device, WATCHDOG_SECONDS) {
            Ok(seconds) => say(format_args!(
                "watchdog: restarts the machine after {seconds} s of silence"
            )),
            Err(error) => say(format_args!("watchdog: with its own time-out: {error}")),
        }
        Some(Self {
            device,
            due: Instant::now(),
        })
    }

    /// Shows that PID 1 lives, when it is time.
    pub(super) fn pet(&mut self) {
        if Instant::now() >= self.due {
            self.due = Instant::now() + PET_EVERY;
            if let Err(error) = self.device.write_all(&[0]) {
                say(format_args!("watchdog: {error}"));
            }
        }
    }

    /// Stops it: the machine goes off and shall not be restarted. Drivers without that are restarted by it.
    pub(super) fn close(mut self) {
        let _ = self.device.write_all(b"V");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        [
            &[0; 16][..],
            &kind.to_ne_bytes(),
            &code.to_ne_bytes(),
            &value.to_ne_bytes(),
        ]
        .concat()
    }

    #[test]
    fn the_power_key_pressed_and_nothing_else() {
        assert!(is_power_key(&event(EV_KEY, 116, 1)));
        for other in [
            event(EV_KEY, 116, 0), // released
            event(EV_KEY, 30, 1),  // the letter a
            event(0, 116, 1),
            vec![],
        ] {
            assert!(!is_power_key(&other));
        }
    }
}
