//! The agent as a child of PID 1.

use super::console::say;
use super::{Fault, RUN, sys};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What the config drive brings for it.
const CONFIG: &str = "/etc/krater/agent.toml";
/// What upstream's controller brings instead.
const UPSTREAM: &str = "/etc/octavia/amphora-agent.conf";
/// Bytes of its last words that are shown.
const LAST_WORDS: u64 = 2_048;

/// The running agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) pid: Pid,
    pub(super) started: Instant,
}

/// Whether the config drive brought what an agent needs.
pub(super) fn check() -> Result<(), Fault> {
    if Path::new(CONFIG).exists() {
        return Ok(());
    }
    let why = if Path::new(UPSTREAM).exists() {
        format!(
            "the config drive is of upstream Octavia's controller: {UPSTREAM} is not supported yet. Missing: {CONFIG}, \
             and the certificates that it names"
        )
    } else {
        format!(
            "the config drive has no {CONFIG}: see docs/image.md for the files that it must have"
        )
    };
    Err(Fault::new("config-drive", why))
}

fn words() -> PathBuf {
    Path::new(RUN).join("agent.stderr")
}

/// Starts it. It logs to files of its own; what it says before it can is kept for [`last_words`].
pub(super) fn start() -> io::Result<Agent> {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["agent", "--config", CONFIG])
        .env_clear()
        .env("PATH", "/")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(words())?);
    sys::in_new_session(&mut command, false);
    let child = command.spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    // Reaped with all others, by number.
    drop(child);
    say(format_args!("agent started, process {pid}"));
    Ok(Agent {
        pid,
        started: Instant::now(),
    })
}

impl Agent {
    /// Asks it to end.
    pub(super) fn stop(&self) {
        let _ = kill(self.pid, Signal::SIGTERM);
    }
}

/// The end of what the last agent wrote to standard error: why it ended.
pub(super) fn last_words() -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(words())?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS)))?;
        let mut bytes = Vec::new();
        file.take(LAST_WORDS).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    read().unwrap_or_default()
}

/// The port on which the agent listens, once it does: nobody else listens in the management namespace.
pub(super) fn port() -> Option<u16> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| listener(&fs::read_to_string(table).ok()?))
}

/// The port of the first listening socket in a table of the kernel.
fn listener(table: &str) -> Option<u16> {
    const LISTEN: &str = "0A";
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (local, state) = (fields.nth(1)?, fields.nth(1)?);
        let (_, port) = local.split_once(':').filter(|_| state == LISTEN)?;
        u16::from_str_radix(port, 16).ok()
    })
}

/// All processes whose command line has `word` as their subcommand.
pub(super) fn processes(word: &str) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let second = line.split(|byte| *byte == 0).nth(1)?;
            (pid != 1 && second == word.as_bytes()).then(|| Pid::from_raw(pid))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::listener;

    #[test]
    fn a_listening_socket_is_known_by_its_state() {
        let head =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";
        let busy =
            "   0: 0F02000A:24E3 0202000A:9C40 01 00000000:00000000 00:00000000 00000000     0\n";
        let listens =
            "   1: 0F02000A:24E3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n";
        assert_eq!(listener(&format!("{head}{busy}")), None);
        assert_eq!(listener(&format!("{head}{busy}{listens}")), Some(9_443));
        assert_eq!(listener(""), None);
    }
}
