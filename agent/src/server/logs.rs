//! `GET /2.0/logs`: the end of a process's log, and what follows.

use super::body::{self, Body};
use super::error::ApiError;
use bytes::Bytes;
use http::StatusCode;
use krater_model::FieldError;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Lines in one answer at most.
pub(crate) const MAX_LINES: usize = 10_000;
/// Bytes read from the end of a file: 10,000 lines of 100 bytes.
const MAX_TAIL: u64 = 1024 * 1024;
/// Followers at once; each is a file and a timer.
const FOLLOWERS: usize = 8;
const POLL: Duration = Duration::from_millis(200);
/// Bytes sent at once; a caller that does not read holds at most a few of these.
const CHUNK: usize = 32 * 1024;

static FOLLOWING: AtomicUsize = AtomicUsize::new(0);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    process: &'static str,
    lines: usize,
    follow: bool,
}

impl Query {
    /// Reads `process=agent&lines=100&follow=false`; each may be left out.
    pub(crate) fn parse(query: &str) -> Result<Self, FieldError> {
        let mut this = Self {
            process: "agent",
            lines: 100,
            follow: false,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "process" => this.process = process(value)?,
                "lines" => {
                    let lines = value.parse().ok().filter(|lines| *lines <= MAX_LINES);
                    this.lines = lines.ok_or_else(|| {
                        FieldError::new("lines", format!("{value:?}: use 0 to {MAX_LINES}"))
                    })?;
                }
                "follow" => {
                    this.follow = value.parse().map_err(|_| {
                        FieldError::new("follow", format!("{value:?}: use true or false"))
                    })?;
                }
                _ => {
                    let why = "is not known: use process, lines, follow";
                    return Err(FieldError::new(key, why));
                }
            }
        }
        Ok(this)
    }
}

/// A process that has a log.
pub(crate) fn process(name: &str) -> Result<&'static str, FieldError> {
    match name {
        "agent" => Ok("agent"),
        "dataplane" => Ok("dataplane"),
        "vrrp" => Ok("vrrp"),
        _ => {
            let why = format!("{name:?}: use agent, dataplane or vrrp");
            Err(FieldError::new("process", why))
        }
    }
}

/// Where a process logs.
pub(crate) fn file(log_dir: &Path, process: &str) -> PathBuf {
    match process {
        "agent" => log_dir.join("agent.log"),
        child => log_dir.join(child).join(format!("{child}.log")),
    }
}

/// The body of the answer.
pub(crate) fn answer(log_dir: &Path, query: &Query) -> Result<Body, ApiError> {
    let path = file(log_dir, query.process);
    let tail = tail(&path, query.lines);
    let (text, at) = tail.map_err(|error| {
        ApiError::internal("internal", format!("read {}: {error}", path.display()))
    })?;
    if !query.follow {
        return Ok(body::full(text));
    }
    if FOLLOWING.fetch_add(1, Ordering::Relaxed) >= FOLLOWERS {
        FOLLOWING.fetch_sub(1, Ordering::Relaxed);
        let why = format!("{FOLLOWERS} callers follow logs already");
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "internal",
            why,
        ));
    }
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        follow(&path, at, &text, &sender).await;
        FOLLOWING.fetch_sub(1, Ordering::Relaxed);
    });
    Ok(body::stream(receiver))
}

/// The last `lines` lines, with those of the predecessor when the file was just rotated; and how far the
/// file was read. A file that is not there is empty.
pub(crate) fn tail(path: &Path, lines: usize) -> io::Result<(Vec<u8>, Position)> {
    let (mut text, position) = end_of(path)?;
    let count = text.iter().filter(|c| **c == b'\n').count();
    if count < lines {
        let mut name = path.as_os_str().to_owned();
        name.push(".1");
        let (mut earlier, _) = end_of(Path::new(&name))?;
        earlier.append(&mut text);
        text = earlier;
    }
    let mut starts: VecDeque<usize> = VecDeque::with_capacity(lines + 1);
    let mut start = 0;
    for (at, _) in text.iter().enumerate().filter(|(_, c)| **c == b'\n') {
        starts.push_back(start);
        if starts.len() > lines {
            starts.pop_front();
        }
        start = at + 1;
    }
    // A line that is being written is complete in the next answer.
    text.truncate(start);
    let from = starts.front().copied().unwrap_or(start);
    Ok((text.split_off(from), position))
}

/// How far a file was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Position {
    inode: u64,
    offset: u64,
}

fn open(path: &Path) -> io::Result<Option<File>> {
    // The folder belongs to an unprivileged child: it must not lead us elsewhere or stop us.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other("not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn end_of(path: &Path) -> io::Result<(Vec<u8>, Position)> {
    let Some(mut file) = open(path)? else {
        return Ok((Vec::new(), Position::default()));
    };
    let size = file.metadata()?.len();
    let from = size.saturating_sub(MAX_TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.by_ref().take(MAX_TAIL).read_to_end(&mut text)?;
    if from > 0 {
        // The first line is cut.
        let first = text
            .iter()
            .position(|c| *c == b'\n')
            .map_or(text.len(), |at| at + 1);
        text.drain(..first);
    }
    let complete = text
        .iter()
        .rposition(|c| *c == b'\n')
        .map_or(0, |at| at + 1);
    let cut = u64::try_from(text.len() - complete).unwrap_or(0);
    let position = Position {
        inode: file.metadata()?.ino(),
        offset: file.stream_position()? - cut,
    };
    Ok((text, position))
}

async fn follow(path: &Path, mut at: Position, first: &[u8], sender: &mpsc::Sender<Bytes>) {
    for chunk in first.chunks(CHUNK) {
        if sender.send(Bytes::copy_from_slice(chunk)).await.is_err() {
            return;
        }
    }
    loop {
        match news(path, &mut at) {
            Ok(text) if text.is_empty() => {
                tokio::select! {
                    () = tokio::time::sleep(POLL) => {}
                    () = sender.closed() => return,
                }
            }
            Ok(text) => {
                if sender.send(text.into()).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "log not followed any more");
                return;
            }
        }
    }
}

/// What was written since `at`, at most a chunk.
fn news(path: &Path, at: &mut Position) -> io::Result<Vec<u8>> {
    let Some(mut file) = open(path)? else {
        return Ok(Vec::new());
    };
    let meta = file.metadata()?;
    if meta.ino() != at.inode {
        // Rotated: first the rest of the old file, then the new one from its start.
        let mut name = path.as_os_str().to_owned();
        name.push(".1");
        if let Some(mut old) = open(Path::new(&name))?
            && old.metadata()?.ino() == at.inode
        {
            let rest = read_on(&mut old, at)?;
            if !rest.is_empty() {
                return Ok(rest);
            }
        }
        *at = Position {
            inode: meta.ino(),
            offset: 0,
        };
    } else if meta.len() < at.offset {
        at.offset = 0;
    }
    read_on(&mut file, at)
}

fn read_on(file: &mut File, at: &mut Position) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at.offset))?;
    let mut text = Vec::new();
    let most = u64::try_from(CHUNK).unwrap_or(u64::MAX);
    file.take(most).read_to_end(&mut text)?;
    at.offset += u64::try_from(text.len()).unwrap_or(0);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn queries() {
        let query = Query::parse("").unwrap();
        assert_eq!(
            (query.process, query.lines, query.follow),
            ("agent", 100, false)
        );
        let query = Query::parse("process=vrrp&lines=5&follow=true").unwrap();
        assert_eq!(
            (query.process, query.lines, query.follow),
            ("vrrp", 5, true)
        );
        for wrong in [
            "process=../x",
            "lines=10001",
            "lines=-1",
            "follow=1",
            "x=1",
            "lines",
        ] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tails_over_a_rotation_and_whole_lines_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        assert_eq!(tail(&path, 5).unwrap().0, b"");
        fs::write(dir.path().join("a.log.1"), "1\n2\n3\n").unwrap();
        fs::write(&path, "4\n5\nhal").unwrap();
        assert_eq!(tail(&path, 3).unwrap().0, b"3\n4\n5\n");
        assert_eq!(tail(&path, 1).unwrap().0, b"5\n");
        assert_eq!(tail(&path, 0).unwrap().0, b"");
        assert_eq!(tail(&path, 99).unwrap().0, b"1\n2\n3\n4\n5\n");
    }

    #[test]
    fn follows_through_a_rotation_without_loss() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        fs::write(&path, "1\nhal").unwrap();
        let (_, mut at) = tail(&path, 1).unwrap();
        assert_eq!(news(&path, &mut at).unwrap(), b"hal");
        fs::write(&path, "1\nhalf\n2\n").unwrap();
        assert_eq!(news(&path, &mut at).unwrap(), b"f\n2\n");
        assert_eq!(news(&path, &mut at).unwrap(), b"");
        fs::write(&path, "1\nhalf\n2\n3\n").unwrap();
        fs::rename(&path, dir.path().join("a.log.1")).unwrap();
        fs::write(&path, "4\n").unwrap();
        assert_eq!(news(&path, &mut at).unwrap(), b"3\n");
        assert_eq!(news(&path, &mut at).unwrap(), b"4\n");
    }

    #[test]
    fn a_child_cannot_lead_the_reader_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(tail(&path, 5).is_err());
    }

    #[test]
    fn a_long_file_is_cut_at_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        fs::write(&path, "0123456789\n".repeat(200_000)).unwrap();
        let (text, _) = tail(&path, 10_000).unwrap();
        assert_eq!(text.len(), 110_000);
        assert!(text.starts_with(b"0123456789\n"));
    }
}
