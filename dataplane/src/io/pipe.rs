//! The process's pipes for `splice(2)`.

use super::sys;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Pipes per process: an unprivileged uid gets 64 pipes of 1 MiB (`fs.pipe-user-pages-soft`), so more
/// would be 4 KiB each and slower than copying.
pub const PIPES: usize = 64;
/// Bytes in a pipe: `fs.pipe-max-size`.
pub const PIPE_SIZE: usize = 1 << 20;
/// Below this a pipe is slower than copying through a buffer.
const USEFUL: usize = 64 * 1024;

/// A bounded stock of large pipes, made before privileges are dropped.
#[derive(Debug)]
pub struct PipePool {
    idle: Mutex<Vec<Pipe>>,
    misses: AtomicU64,
    spliced: AtomicU64,
    copied: AtomicU64,
}

#[derive(Debug)]
struct Pipe {
    read: io::PipeReader,
    write: io::PipeWriter,
    size: usize,
}

impl PipePool {
    /// Makes `count` pipes; fewer when the kernel refuses. With none everything is copied.
    pub fn new(count: usize) -> Self {
        let pipes = (0..count.min(PIPES)).map_while(|_| Pipe::new().ok());
        Self {
            idle: Mutex::new(pipes.collect()),
            misses: AtomicU64::new(0),
            spliced: AtomicU64::new(0),
            copied: AtomicU64::new(0),
        }
    }

    /// Times that bytes were copied because no pipe was free.
    pub fn misses(&self) -> u64 {
        self.misses.load(Relaxed)
    }

    /// Bytes moved by `splice(2)`.
    pub fn spliced(&self) -> u64 {
        self.spliced.load(Relaxed)
    }

    /// Bytes moved through a buffer by relays.
    pub fn copied(&self) -> u64 {
        self.copied.load(Relaxed)
    }

    /// Pipes that are free now.
    pub fn idle(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn take(self: &Arc<Self>) -> Option<HeldPipe> {
        let pipe = self.lock().pop();
        if pipe.is_none() {
            self.misses.fetch_add(1, Relaxed);
        }
        Some(HeldPipe {
            pipe: Some(pipe?),
            holds: 0,
            pool: Arc::clone(self),
        })
    }

    pub(super) fn count_copied(&self, n: usize) {
        self.copied.fetch_add(n as u64, Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Pipe>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pipe in use. Goes back on drop, emptied first if a relay ended early.
#[derive(Debug)]
pub(super) struct HeldPipe {
    pipe: Option<Pipe>,
    holds: usize,
    pool: Arc<PipePool>,
}

impl HeldPipe {
    /// Bytes that were filled in and not drained.
    pub(super) fn holds(&self) -> usize {
        self.holds
    }

    /// Moves up to `len` bytes from a socket into the empty pipe.
    pub(super) fn fill(&mut self, from: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
        let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let n = sys::splice(from, pipe.write.as_fd(), len.min(pipe.size))?;
        self.holds += n;
        Ok(n)
    }

    /// Moves what the pipe holds to a socket.
    pub(super) fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let pipe = self.pipe.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let n = sys::splice(pipe.read.as_fd(), to, self.holds)?;
        self.holds -= n;
        self.pool.spliced.fetch_add(n as u64, Relaxed);
        Ok(n)
    }
}

impl Drop for HeldPipe {
    fn drop(&mut self) {
        let Some(mut pipe) = self.pipe.take() else {
            return;
        };
        let mut scratch = [0; 4096];
        while self.holds > 0 {
            let part = self.holds.min(scratch.len());
            match pipe.read.read(&mut scratch[..part]) {
                Ok(n) if n > 0 => self.holds -= n,
                _ => return, // a pipe that cannot be emptied is closed; copying goes on
            }
        }
        self.pool.lock().push(pipe);
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = io::pipe()?;
        let wanted = nix::fcntl::FcntlArg::F_SETPIPE_SZ(i32::try_from(PIPE_SIZE).unwrap_or(0));
        let size = nix::fcntl::fcntl(&write, wanted)?;
        let size = usize::try_from(size).unwrap_or(0);
        if size < USEFUL {
            return Err(io::Error::other("the kernel gives small pipes only"));
        }
        Ok(Self { read, write, size })
    }
}
