//! Where lines go. Writing never blocks and never fails for the caller.

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::unistd::ftruncate;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::MakeWriter;

/// How often it is checked that the open file is still the one of that name.
const SAME_FILE_CHECK: Duration = Duration::from_secs(1);
/// A pipe that polls writable takes this many bytes without blocking (pipe(7), PIPE_BUF).
const PIPE_CHUNK: usize = 4_096;

/// Where the lines of a process go.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    target: Arc<Mutex<Target>>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Target {
    Stderr,
    File(Rotating),
}

impl Sink {
    pub(crate) fn stderr() -> Self {
        Self::new(Target::Stderr)
    }

    pub(crate) fn file(path: &Path, max_bytes: u64, keep: u32) -> io::Result<Self> {
        Rotating::open(path, max_bytes, keep).map(|file| Self::new(Target::File(file)))
    }

    fn new(target: Target) -> Self {
        Self {
            target: Arc::new(Mutex::new(target)),
            dropped: Arc::default(),
        }
    }

    pub(crate) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    fn line(&self, line: &[u8]) {
        let mut target = match self.target.lock() {
            Ok(target) => target,
            Err(poisoned) => poisoned.into_inner(),
        };
        let written = match &mut *target {
            Target::Stderr => write_without_blocking(io::stderr().as_fd(), line),
            Target::File(file) => file.line(line, Instant::now()),
        };
        if written.is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = &'a Self;
    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// The formatter hands over one whole line per call.
impl Write for &Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error is shared with others, so it cannot be switched to non-blocking: ask first.
fn write_without_blocking(fd: BorrowedFd<'_>, line: &[u8]) -> io::Result<()> {
    let mut rest = line;
    while !rest.is_empty() {
        let mut ready = [PollFd::new(fd, PollFlags::POLLOUT)];
        let writable = poll(&mut ready, PollTimeout::ZERO)? == 1
            && ready[0]
                .revents()
                .is_some_and(|e| e.contains(PollFlags::POLLOUT));
        if !writable {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match nix::unistd::write(fd, &rest[..rest.len().min(PIPE_CHUNK)]) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// A file of bounded size with a bounded number of predecessors. All names are relative to a folder that
/// was opened once: the process may have lost the right to walk there by dropping its privileges.
#[derive(Debug)]
struct Rotating {
    dir: OwnedFd,
    name: String,
    max_bytes: u64,
    keep: u32,
    file: Option<File>,
    size: u64,
    /// The last line was cut by an error; the next one starts on a line of its own.
    torn: bool,
    checked: Instant,
}

impl Rotating {
    fn open(path: &Path, max_bytes: u64, keep: u32) -> io::Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let folder = parent.unwrap_or_else(|| Path::new("."));
        let dir = nix::fcntl::open(folder, flags, Mode::empty())?;
        let mut this = Self {
            dir,
            name,
            max_bytes,
            keep,
            file: None,
            size: 0,
            torn: false,
            checked: Instant::now(),
        };
        this.reopen()?;
        Ok(this)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.file = None;
        // O_NONBLOCK: a FIFO in the place of the file must not stop the process.
        let flags = OFlag::O_WRONLY
            | OFlag::O_APPEND
            | OFlag::O_CREAT
            | OFlag::O_CLOEXEC
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP;
        let file = File::from(openat(&self.dir, self.name.as_str(), flags, mode)?);
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn line(&mut self, line: &[u8], now: Instant) -> io::Result<()> {
        if now.saturating_duration_since(self.checked) >= SAME_FILE_CHECK {
            self.checked = now;
            if !self.is_same_file() {
                self.reopen()?;
            }
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        let bound = usize::try_from(self.max_bytes).unwrap_or(usize::MAX);
        let line = &line[..line.len().min(bound)];
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.size > 0 && self.size.saturating_add(length) > self.max_bytes {
            self.rotate()?;
        }
        let Some(file) = &mut self.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if self.torn {
            file.write_all(b"\n")?;
            self.size += 1;
        }
        self.torn = true;
        let mut rest = line;
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.size += u64::try_from(count).unwrap_or(0);
                    rest = &rest[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Nothing of the line is on disk: the file ends as it did.
                    self.torn = rest.len() != line.len();
                    return Err(error);
                }
            }
        }
        self.torn = false;
        Ok(())
    }

    fn is_same_file(&self) -> bool {
        let Some(open) = self.file.as_ref().and_then(|file| fstat(file).ok()) else {
            return false;
        };
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        fstatat(&self.dir, self.name.as_str(), flags)
            .is_ok_and(|named| (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino))
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.keep == 0 {
            if let Some(file) = &self.file {
                ftruncate(file, 0)?;
            }
            self.size = 0;
            return Ok(());
        }
        let nth = |n: u32| match n {
            0 => self.name.clone(),
            n => format!("{}.{n}", self.name),
        };
        for n in (0..self.keep).rev() {
            match renameat(&self.dir, nth(n).as_str(), &self.dir, nth(n + 1).as_str()) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.reopen()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn sizes(dir: &Path) -> Vec<(String, u64)> {
        let mut all: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|e| {
                (
                    e.file_name().into_string().unwrap(),
                    e.metadata().unwrap().len(),
                )
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn size_and_number_of_files_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let sink = Sink::file(&dir.path().join("a.log"), 100, 2).unwrap();
        for n in 0..100 {
            sink.line(format!("{n:09}\n").as_bytes());
        }
        let expect = ["a.log", "a.log.1", "a.log.2"].map(|name| (name.to_owned(), 100));
        assert_eq!(sizes(dir.path()), expect);
        let last = fs::read_to_string(dir.path().join("a.log")).unwrap();
        assert!(last.ends_with("000000099\n"));
        sink.line(&[b'x'; 1_000]);
        assert_eq!(sizes(dir.path())[0], ("a.log".to_owned(), 100));
        assert_eq!(sink.dropped().load(Ordering::Relaxed), 0);
    }

    #[test]
    fn without_predecessors_the_file_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let sink = Sink::file(&dir.path().join("a.log"), 25, 0).unwrap();
        for n in 0..7 {
            sink.line(format!("{n:09}\n").as_bytes());
        }
        assert_eq!(sizes(dir.path()), [("a.log".to_owned(), 10)]);
    }

    #[test]
    fn appends_after_a_restart_and_follows_a_moved_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        fs::write(&path, "before\n").unwrap();
        let mut file = Rotating::open(&path, 1_000, 1).unwrap();
        let start = Instant::now();
        file.line(b"one\n", start).unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        file.line(b"two\n", start + SAME_FILE_CHECK * 2).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        let moved = fs::read_to_string(dir.path().join("moved")).unwrap();
        assert_eq!(moved, "before\none\n");
    }

    #[test]
    fn a_full_disk_drops_and_counts_and_recovers() {
        // /dev/full answers every write with ENOSPC.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut file = Rotating::open(&path, 1_000, 1).unwrap();
        file.checked = Instant::now() + Duration::from_secs(3_600);
        let real = file.file.take();
        file.file = Some(File::options().write(true).open("/dev/full").unwrap());
        let sink = Sink::new(Target::File(file));
        sink.line(b"lost\n");
        assert_eq!(sink.dropped().load(Ordering::Relaxed), 1);
        if let Target::File(file) = &mut *sink.target.lock().unwrap() {
            file.file = real;
        }
        sink.line(b"kept\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept\n");
        assert_eq!(sink.dropped().load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_pipe_nobody_reads_does_not_block() {
        let (_reader, writer) = nix::unistd::pipe().unwrap();
        let line = [b'x'; 1_000];
        let written = (0..1_000)
            .take_while(|_| write_without_blocking(writer.as_fd(), &line).is_ok())
            .count();
        assert!(written < 1_000, "{written}");
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("a.log")).unwrap();
        assert!(Sink::file(&dir.path().join("a.log"), 100, 1).is_err());
    }
}
