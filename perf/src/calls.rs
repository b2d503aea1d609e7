//! System calls of a process tree, counted by the kernel at its tracepoint `raw_syscalls/sys_enter`: a counter costs
//! the process a fraction of what `strace` does, which stops it at each call.

use crate::cpu;
use crate::sys;
use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::Read;

/// Where the kernel says which number its tracepoint has, once tracefs is there.
const TRACING: &str = "/sys/kernel/tracing";
const TRACEPOINT: &str = "events/raw_syscalls/sys_enter/id";

/// Counters of all threads of a process tree.
#[derive(Debug)]
pub(crate) struct Calls(Vec<File>);

impl Calls {
    /// Begins to count for these processes, their descendants, and what they start later.
    pub(crate) fn attach(tracepoint: u64, pids: &[u32]) -> anyhow::Result<Self> {
        Self::attach_to(tracepoint, pids, None)
    }

    /// The same for the one call that watches and forgets sockets, `epoll_ctl(2)`.
    pub(crate) fn attach_to_polling(tracepoint: u64, pids: &[u32]) -> anyhow::Result<Self> {
        Self::attach_to(tracepoint, pids, Some(&polling()?))
    }

    fn attach_to(tracepoint: u64, pids: &[u32], only: Option<&CStr>) -> anyhow::Result<Self> {
        let mut counters = Vec::new();
        for pid in cpu::tree(pids) {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"));
            for task in tasks.into_iter().flatten().flatten() {
                let name = task.file_name().to_string_lossy().into_owned();
                let counter = sys::count_tracepoint(tracepoint, name.parse()?)
                    .with_context(|| format!("count system calls of thread {name}"))?;
                if let Some(only) = only {
                    sys::count_only(&counter, only).context("count one system call")?;
                }
                counters.push(counter.into());
            }
        }
        if counters.is_empty() {
            bail!("no thread to count system calls of");
        }
        Ok(Self(counters))
    }

    /// So far.
    pub(crate) fn count(&mut self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for counter in &mut self.0 {
            let mut bytes = [0; 8];
            counter.read_exact(&mut bytes)?;
            sum += u64::from_ne_bytes(bytes);
        }
        Ok(sum)
    }
}

/// The tracepoint's number. Tracefs is mounted for a thread of our own when the host has not mounted it.
pub(crate) fn tracepoint() -> anyhow::Result<u64> {
    let read = || -> anyhow::Result<u64> {
        let path = format!("{TRACING}/{TRACEPOINT}");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        text.trim().parse().with_context(|| path)
    };
    if let Ok(number) = read() {
        return Ok(number);
    }
    let own = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
            .context("a private mount namespace")?;
        mount(
            Some("tracefs"),
            TRACING,
            Some("tracefs"),
            MsFlags::empty(),
            none,
        )
        .with_context(|| format!("mount tracefs at {TRACING}"))?;
        read()
    });
    own.join()
        .map_err(|_| anyhow::anyhow!("the thread that mounts tracefs ended"))?
}

/// What lets `epoll_ctl(2)` alone be counted.
fn polling() -> anyhow::Result<CString> {
    Ok(CString::new(format!("id == {}", libc::SYS_epoll_ctl))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_a_process_counts_and_no_other() {
        let number = tracepoint().unwrap();
        // Two calls per round, and nothing else is started.
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "while read n; do i=0; while [ $i -lt $n ]; do umask 22; umask; i=$((i+1)); done; echo; done"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut calls = Calls::attach(number, &[child.id()]).unwrap();
        let mut polling = Calls::attach_to_polling(number, &[child.id()]).unwrap();
        let before = calls.count().unwrap();
        {
            use std::io::{BufRead, BufReader, Write};
            let mut input = child.stdin.take().unwrap();
            let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
            input.write_all(b"100\n").unwrap();
            // The line after a hundred masks.
            while !output.next().unwrap().unwrap().is_empty() {}
        }
        let after = calls.count().unwrap();
        child.wait().unwrap();
        assert!(after - before >= 200, "{before} {after}");
        assert_eq!(polling.count().unwrap(), 0, "a shell watches no socket");
        let end = calls.count().unwrap();
        fs::read("/proc/self/stat").unwrap();
        assert_eq!(end, calls.count().unwrap(), "our own calls are not its");
        assert!(Calls::attach(number, &[]).is_err());
    }

    #[test]
    fn one_call_can_be_counted_alone() {
        use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
        let number = tracepoint().unwrap();
        let (read, _write) = std::io::pipe().unwrap();
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        // This thread alone: others of this process come and go with their tests.
        let own = sys::count_tracepoint(number, nix::unistd::gettid().as_raw()).unwrap();
        sys::count_only(&own, &polling().unwrap()).unwrap();
        let mut polling = Calls(vec![own.into()]);
        let before = polling.count().unwrap();
        for _ in 0..10 {
            epoll
                .add(&read, EpollEvent::new(EpollFlags::EPOLLIN, 0))
                .unwrap();
            epoll.delete(&read).unwrap();
            fs::read("/proc/self/stat").unwrap();
        }
        assert_eq!(polling.count().unwrap() - before, 20);
    }
}
