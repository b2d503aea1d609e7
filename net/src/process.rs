//! Processes in namespaces: starting one that outlives us, finding and ending what runs in one.

use crate::netns::{NetNs, NsId, helper, private_mounts};
use crate::sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, SigmaskHow};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Takes every signal again that whoever started us had blocked: a mask outlives `exec`, and a service that
/// inherited a blocked SIGTERM can only be killed. Call it before any thread is started.
pub fn unblock_signals() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Makes `command` start with no signal blocked. To unblock them in the thread that starts it would let one end
/// us there and then.
pub fn with_signals(command: &mut Command) -> &mut Command {
    sys::with_signals(command);
    command
}

/// Does something that a signal must not end halfway: one that comes meanwhile is taken afterwards. Only of use
/// while this is the only thread, or all others hold signals too.
pub fn holding_signals<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let done = work();
    before.thread_set_mask()?;
    Ok(done)
}

/// What to start.
#[derive(Debug)]
pub struct Detached<'a> {
    /// Program file.
    pub program: &'a Path,
    /// Arguments after the program's name.
    pub args: &'a [OsString],
    /// Network namespace.
    pub netns: &'a NetNs,
    /// File that gets standard error, appended; none: nowhere.
    pub stderr: Option<&'a Path>,
}

/// Descriptors that a detached process gets beside its standard error.
#[derive(Debug, Default)]
pub struct Descriptors<'a> {
    /// Standard input; none: nothing to read.
    pub stdin: Option<OwnedFd>,
    /// Standard output, and standard error too unless that has a file; none: nowhere.
    pub output: Option<OwnedFd>,
    /// Stay open, under the numbers that they have in the caller.
    pub keep: &'a [BorrowedFd<'a>],
}

/// Starts a process that belongs to nobody: own session, own mount namespace, the given network
/// namespace, no descriptor of ours, working folder `/`, an empty environment but `PATH`. It outlives the
/// caller. The caller keeps the [`Child`] only to reap it (`try_wait`).
pub fn spawn_detached(spec: &Detached<'_>) -> io::Result<Child> {
    spawn_detached_with(spec, Descriptors::default())
}

/// The same, with descriptors of the caller's choice.
pub fn spawn_detached_with(spec: &Detached<'_>, descriptors: Descriptors<'_>) -> io::Result<Child> {
    let with = |what: &str, path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
    };
    let stderr = match (spec.stderr, &descriptors.output) {
        (None, None) => Stdio::null(),
        (None, Some(output)) => output.try_clone()?.into(),
        (Some(path), _) => File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|error| with("open", path, error))?
            .into(),
    };
    let mut command = Command::new(spec.program);
    command
        .args(spec.args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(descriptors.stdin.map_or_else(Stdio::null, Stdio::from))
        .stdout(descriptors.output.map_or_else(Stdio::null, Stdio::from))
        .stderr(stderr);
    sys::in_new_session(&mut command);
    let keep = descriptors.keep.iter().map(AsRawFd::as_raw_fd).collect();
    sys::keep_open(&mut command, keep);
    // A child inherits the namespaces of the thread that forks it.
    helper(|| {
        setns(spec.netns, CloneFlags::CLONE_NEWNET)?;
        private_mounts()?;
        command
            .spawn()
            .map_err(|error| with("start", spec.program, error))
    })?
}

/// A process, safe against reuse of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub started: u64,
}

impl ProcessId {
    /// The process that has this number now.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started = parse_started(&stat)
            .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat cannot be read")))?;
        Ok(Self { pid, started })
    }

    /// Whether it still runs (and is no zombie).
    pub fn is_alive(self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == self) && !is_zombie(self.pid)
    }

    /// Its command line.
    pub fn command_line(self) -> io::Result<Vec<OsString>> {
        use std::os::unix::ffi::OsStringExt;
        let bytes = std::fs::read(format!("/proc/{}/cmdline", self.pid))?;
        let parts = bytes.split(|byte| *byte == 0);
        let mut words: Vec<_> = parts
            .map(|part| OsString::from_vec(part.to_vec()))
            .collect();
        words.pop(); // the text ends with a zero byte
        Ok(words)
    }

    /// Sends a signal, unless the number belongs to another process by now; none there is fine.
    pub fn signal(self, signal: i32) -> io::Result<()> {
        let Some(pidfd) = self.open()? else {
            return Ok(());
        };
        match sys::pidfd_send_signal(&pidfd, signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            result => result,
        }
    }

    /// Waits until it has ended; false when it still runs after `timeout`.
    pub fn wait(self, timeout: Duration) -> io::Result<bool> {
        match self.open()? {
            None => Ok(true),
            Some(pidfd) => ended_within(&pidfd, timeout),
        }
    }

    /// A pidfd of exactly this process; none when it is gone.
    fn open(self) -> io::Result<Option<OwnedFd>> {
        let number = i32::try_from(self.pid).map_err(io::Error::other)?;
        let pidfd = match sys::pidfd_open(number) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            result => result?,
        };
        // Only now is the number pinned: look again whose it is.
        Ok(Self::of(self.pid)
            .is_ok_and(|now| now == self)
            .then_some(pidfd))
    }
}

fn parse_started(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything, even spaces and parentheses.
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

fn ended_within(pidfd: &OwnedFd, timeout: Duration) -> io::Result<bool> {
    let end = Instant::now() + timeout;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX);
        let mut set = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut set, PollTimeout::from(millis)) {
            Ok(0) if left > Duration::from_millis(u64::from(millis)) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// All processes whose network namespace is one of `namespaces`, but the caller's own.
pub fn processes_in(namespaces: &[NsId]) -> io::Result<Vec<(ProcessId, NsId)>> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // What vanishes while we look is not there; zombies have no namespace any more.
        let path: PathBuf = ["/proc", &pid.to_string(), "ns/net"].iter().collect();
        let Ok(meta) = std::fs::metadata(&path) else {
            continue;
        };
        let netns = NsId {
            device: meta.dev(),
            inode: meta.ino(),
        };
        if pid != own
            && namespaces.contains(&netns)
            && let Ok(process) = ProcessId::of(pid)
        {
            found.push((process, netns));
        }
    }
    Ok(found)
}

/// Kills (SIGKILL) all processes in `namespaces` and waits until they are gone, also those that are
/// forked meanwhile. Returns how many. An error of kind TimedOut when some still live after `timeout`.
pub fn kill_all_in(namespaces: &[NsId], timeout: Duration) -> io::Result<usize> {
    let end = Instant::now() + timeout;
    let mut killed = 0;
    loop {
        let processes = processes_in(namespaces)?;
        if processes.is_empty() {
            return Ok(killed);
        }
        for (process, _) in &processes {
            process.signal(libc::SIGKILL)?;
            killed += 1;
        }
        for (process, _) in &processes {
            if !process.wait(end.saturating_duration_since(Instant::now()))? {
                let text = format!("process {} does not die of SIGKILL", process.pid);
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
        if Instant::now() > end {
            let text = "processes are started faster than they are killed";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_any_name() {
        let tail = (3..=30)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .join(" ");
        for name in ["a", "a b", ") (", "))"] {
            assert_eq!(parse_started(&format!("7 ({name}) {tail}")), Some(22));
        }
        assert_eq!(parse_started("7 (x"), None);
    }

    #[test]
    fn an_own_process_is_alive_and_one_with_another_start_time_is_not() {
        let me = ProcessId::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        let other = ProcessId {
            started: me.started + 1,
            ..me
        };
        assert!(!other.is_alive());
        other.signal(libc::SIGKILL).unwrap(); // or this test ends here
        assert!(other.wait(Duration::ZERO).unwrap());
        assert!(!me.wait(Duration::ZERO).unwrap());
    }
}
