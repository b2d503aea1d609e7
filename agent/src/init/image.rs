//! What the image says of itself, and the shell of its debug variant.

use super::console::say;
use super::sys;
use nix::unistd::Pid;
use serde::Deserialize;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

const FILE: &str = "/etc/krater-image.json";
const BUSYBOX: &str = "/bin/busybox";
/// The serial port, on which the shell is.
const TERMINAL: &str = "/dev/ttyS0";
/// A word of the kernel's command line, in the debug variant alone: PID 1 panics, to see what happens then.
const PANIC: &str = "krater.panic";

/// See [`FILE`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Image {
    name: String,
    version: String,
    kernel: String,
    variant: String,
}

impl Image {
    /// Reads it; an image without one is nameless, and no debug variant.
    pub(super) fn read() -> Self {
        let read = || -> io::Result<Self> { Ok(serde_json::from_slice(&fs::read(FILE)?)?) };
        read().unwrap_or_else(|error| {
            say(format_args!("{FILE}: {error}"));
            Self::default()
        })
    }

    /// What it is, for the first line on the console.
    pub(super) fn shown(&self) -> String {
        let running = nix::sys::utsname::uname().map_or_else(
            |_| String::new(),
            |names| names.release().to_string_lossy().into_owned(),
        );
        let built = if self.kernel.is_empty() || self.kernel == running {
            String::new()
        } else {
            format!(" (its modules are of {})", self.kernel)
        };
        format!(
            "program {}, image {} {} {}, Linux {running}{built}",
            krater_telemetry::version(),
            self.name,
            self.version,
            self.variant
        )
    }

    /// The variant with a shell, for those who look for what is wrong with an image.
    pub(super) fn is_debug(&self) -> bool {
        self.variant == "debug"
    }

    /// Panics when the command line asks for it.
    pub(super) fn panic_on_demand(&self) {
        let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let asked = line.split_ascii_whitespace().any(|word| word == PANIC);
        assert!(!(self.is_debug() && asked), "asked for by {PANIC}");
    }

    /// Starts the shell of the debug variant on the serial port.
    pub(super) fn shell(&self) -> Option<Pid> {
        if !self.is_debug() || !Path::new(BUSYBOX).exists() {
            return None;
        }
        match shell() {
            Ok(pid) => Some(pid),
            Err(error) => {
                say(format_args!("no shell on {TERMINAL}: {error}"));
                None
            }
        }
    }
}

fn shell() -> io::Result<Pid> {
    let terminal = File::options().read(true).write(true).open(TERMINAL)?;
    let mut command = Command::new(BUSYBOX);
    command
        .arg("sh")
        .env_clear()
        .env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
        .env("TERM", "vt100")
        .env("PS1", "amphora# ")
        .current_dir("/")
        .stdin(Stdio::from(terminal.try_clone()?))
        .stdout(Stdio::from(terminal.try_clone()?))
        .stderr(Stdio::from(terminal));
    sys::in_new_session(&mut command, true);
    krater_net::process::with_signals(&mut command);
    let child = command.spawn()?;
    Ok(Pid::from_raw(
        i32::try_from(child.id()).map_err(io::Error::other)?,
    ))
}
