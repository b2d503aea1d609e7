//! The demo's own folder, the processes that it started, and getting rid of both: after a normal end,
//! after Ctrl-C, and after a run that was killed.

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Name of the folders below the folder for temporary files.
const PREFIX: &str = "krater-demo-";
/// How long a process may take to end by itself.
const END_WITHIN: Duration = Duration::from_secs(5);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP are only remembered. Call it before any thread is started.
pub(super) fn catch_signals() -> anyhow::Result<()> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block().context("block signals")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while set.wait().is_ok() {
                INTERRUPTED.store(true, Ordering::SeqCst);
            }
        })?;
    Ok(())
}

/// Whether somebody wants the demo to end.
pub(super) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Folder, lock and children of one run.
#[derive(Debug)]
pub(super) struct Host {
    exe: PathBuf,
    folder: PathBuf,
    keep: bool,
    children: Vec<(String, Child)>,
    _lock: Flock<File>,
}

impl Host {
    /// Removes what killed runs left, then makes a new folder.
    pub(super) fn new(keep: bool) -> anyhow::Result<Self> {
        let exe = std::env::current_exe().context("the path of this program")?;
        let parent = std::env::temp_dir();
        let found = leftovers(&parent);
        for folder in found {
            remove(&exe, &folder)
                .with_context(|| format!("leftovers of an earlier run in {}", folder.display()))?;
        }
        let folder = parent.join(format!("{PREFIX}{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("make {}", folder.display()))?;
        let lock = lock(&folder)?.context("the new folder is locked by another process")?;
        Ok(Self {
            exe,
            folder,
            keep,
            children: Vec::new(),
            _lock: lock,
        })
    }

    /// This program.
    pub(super) fn exe(&self) -> &Path {
        &self.exe
    }

    /// Of the controller.
    pub(super) fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// A file of the demo's own.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// This program with other arguments, on our state folder.
    pub(super) fn krater(&self, args: &[&str]) -> Command {
        let mut command = krater(&self.exe, &self.state_dir(), args);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Starts it in a process group of its own, so that Ctrl-C reaches the demo alone, and remembers it
    /// in a file for the run that has to clean up after a kill.
    pub(super) fn spawn(&mut self, mut command: Command, name: &str) -> anyhow::Result<&mut Child> {
        let log = self.file(&format!("{name}.log"));
        let errors = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| log.display().to_string())?;
        let child = command
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", self.exe.display()))?;
        let started = krater_net::process::ProcessId::of(child.id())?.started;
        let mut list = File::options()
            .create(true)
            .append(true)
            .open(self.file("children"))?;
        writeln!(list, "{} {started}", child.id())?;
        self.children.push((name.to_owned(), child));
        let Some((_, child)) = self.children.last_mut() else {
            bail!("no child")
        };
        Ok(child)
    }

    /// The child of that name that was started last.
    pub(super) fn child(&mut self, name: &str) -> anyhow::Result<&mut Child> {
        let found = self.children.iter_mut().rev().find(|c| c.0 == name);
        found
            .map(|c| &mut c.1)
            .with_context(|| format!("{name} was not started"))
    }

    /// SIGTERM, then SIGKILL, then gone.
    pub(super) fn stop(&mut self, name: &str) -> anyhow::Result<()> {
        let place = self.children.iter().rposition(|c| c.0 == name);
        let Some(place) = place else {
            bail!("{name} was not started")
        };
        end(&mut self.children.remove(place).1);
        Ok(())
    }

    /// The end of a child's log, for an error.
    pub(super) fn tail(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.file(&format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n  ")
    }

    /// Ends everything and removes the folder; with `--keep` the system goes on and the folder stays.
    pub(super) fn finish(mut self) -> anyhow::Result<Option<PathBuf>> {
        if self.keep {
            for (name, mut child) in self.children.drain(..) {
                if name == "client" {
                    end(&mut child);
                }
            }
            return Ok(Some(self.folder.clone()));
        }
        self.clean()?;
        Ok(None)
    }

    fn clean(&mut self) -> anyhow::Result<()> {
        // The controller last: `krater net` children may still ask it for an address.
        for (_, child) in self.children.iter_mut().rev() {
            end(child);
        }
        self.children.clear();
        remove(&self.exe, &self.folder)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !self.keep && self.folder.exists() {
            // On the way out of an error, which says more than this one would.
            let _ = self.clean();
        }
    }
}

fn krater(exe: &Path, state_dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(exe);
    command.args(args).env("KRATER_STATE_DIR", state_dir);
    command
}

fn end(child: &mut Child) {
    let Some(pid) = i32::try_from(child.id()).ok().map(Pid::from_raw) else {
        return;
    };
    // A stopped process (sabotage) takes no SIGTERM before it goes on.
    for signal in [Signal::SIGTERM, Signal::SIGCONT] {
        let _ = kill(pid, signal);
    }
    let deadline = Instant::now() + END_WITHIN;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn lock(folder: &Path) -> anyhow::Result<Option<Flock<File>>> {
    let path = folder.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| path.display().to_string())?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

/// Folders of runs that no longer live. A kept one counts once its state folder is purged.
fn leftovers(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .filter(|path| !path.join("kept").exists() || !path.join("state").exists())
        .filter(|path| matches!(lock(path), Ok(Some(_))))
        .collect()
}

/// Ends what a run started and left, then the amphorae, then the folder.
fn remove(exe: &Path, folder: &Path) -> anyhow::Result<()> {
    let list = std::fs::read_to_string(folder.join("children")).unwrap_or_default();
    for (pid, started) in list.lines().filter_map(|line| line.split_once(' ')) {
        let (Ok(pid), Ok(started)) = (pid.parse(), started.parse()) else {
            continue;
        };
        let process = krater_net::process::ProcessId { pid, started };
        if process.is_alive() {
            let _ = process.signal(Signal::SIGKILL as i32);
            let _ = process.wait(END_WITHIN);
        }
    }
    let state = folder.join("state");
    if state.exists() {
        let output = krater(exe, &state, &["down", "--purge"])
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "`krater down --purge` on {}: {}",
                state.display(),
                said.trim()
            );
        }
    }
    std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_dead_runs_are_leftovers() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = parent.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (living, dead, kept) = (
            make("krater-demo-1"),
            make("krater-demo-2"),
            make("krater-demo-3"),
        );
        make("another");
        std::fs::write(kept.join("kept"), "").unwrap();
        std::fs::create_dir(kept.join("state")).unwrap();
        let held = lock(&living).unwrap().unwrap();
        assert_eq!(leftovers(parent.path()), [dead]);
        drop(held);
        assert_eq!(leftovers(parent.path()).len(), 2);
        std::fs::remove_dir(kept.join("state")).unwrap();
        assert_eq!(leftovers(parent.path()).len(), 3, "a purged one");
    }
}
