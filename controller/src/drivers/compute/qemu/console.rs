//! The console of a machine: what its serial port says, in two files of bounded size.
//!
//! A process of its own reads it, because machines outlive the controller and their consoles must not stop: a guest
//! whose serial port nobody reads waits. It ends with its machine.

use crate::files;
use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Subcommand of this program that writes a console.
pub const COMMAND: &str = "console-writer";
/// Size at which a file makes room for the next. Two are kept: half a boot log at least, 1 MiB at most.
pub const MAX_FILE: u64 = 512 * 1024;
/// Consoles of machines that are gone that are kept: why the last ones did not boot or died is asked afterwards.
pub const KEPT: usize = 8;
/// How much of the end an error quotes, in bytes.
const TAIL: u64 = 400;

/// Where the older half is.
pub fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Moves the console of a machine that goes to `to`, whose folder keeps the newest [`KEPT`]. None there is fine. Its
/// writer may still live: it goes on in the moved file.
pub fn keep(from: &Path, to: &Path) -> io::Result<()> {
    if !from.exists() {
        return Ok(());
    }
    let folder = to.parent().ok_or(io::ErrorKind::InvalidInput)?;
    files::private_dir(folder)?;
    match fs::rename(older(from), older(to)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(from, to)?;
    let mut kept = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            kept.push((entry.metadata()?.modified()?, path));
        }
    }
    kept.sort();
    let excess = kept.len().saturating_sub(KEPT);
    for (_, path) in kept.into_iter().take(excess) {
        let _ = fs::remove_file(older(&path));
        fs::remove_file(&path)?;
    }
    Ok(())
}

/// Writes what it reads until there is no more. A full disk costs lines, not the machine: it goes on reading.
pub fn copy(mut from: impl Read, path: &Path) -> io::Result<()> {
    let mut log = Log {
        path: path.to_owned(),
        file: None,
        size: 0,
    };
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if log.write(buffer.get(..count).unwrap_or_default()).is_err() {
            log.file = None;
        }
    }
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: Option<File>,
    size: u64,
}

impl Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.open()?;
        if self.size > 0 && self.size.saturating_add(more) > MAX_FILE {
            fs::rename(&self.path, older(&self.path))?;
            self.file = None;
        }
        let mut file = self.open()?;
        file.write_all(bytes)?;
        self.size = self.size.saturating_add(more);
        Ok(())
    }

    fn open(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            let mut options = File::options();
            let file = options.create(true).append(true).mode(0o600);
            let file = file.open(&self.path)?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        self.file
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The end of a console as text, for an error.
pub fn tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    printable(&read().unwrap_or_default())
}

/// What a terminal may be shown: a guest's console can hold sequences that do things to it.
pub fn printable(bytes: &[u8]) -> String {
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|c| harmless(*c))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(path: &Path) -> [u64; 2] {
        [path.to_owned(), older(path)].map(|path| fs::metadata(path).map_or(0, |meta| meta.len()))
    }

    #[test]
    fn two_files_are_kept_and_neither_grows_beyond_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let line = |number: usize| format!("{number:063}\n");
        let text: String = (0..40_000).map(line).collect();
        copy(text.as_bytes(), &path).unwrap();
        let [new, old] = sizes(&path);
        assert!((1..=MAX_FILE).contains(&new) && (MAX_FILE / 2..=MAX_FILE).contains(&old));
        let both = [fs::read(older(&path)).unwrap(), fs::read(&path).unwrap()].concat();
        assert!(
            text.as_bytes().ends_with(&both),
            "nothing is lost but the beginning"
        );
        // Another start goes on in the same files.
        copy(&b"again\n"[..], &path).unwrap();
        assert_eq!(sizes(&path), [new + 6, old]);
        assert!(tail(&path).ends_with("again\n"));
        assert_eq!(tail(&dir.path().join("none")), "");
    }

    #[test]
    fn a_folder_that_is_gone_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        copy(&[b'x'; 100_000][..], &dir.path().join("none/console.log")).unwrap();
    }

    #[test]
    fn the_newest_of_those_that_are_gone_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("console.log");
        let to = |number: usize| dir.path().join(format!("consoles/{number}.log"));
        keep(&from, &to(0)).unwrap();
        for number in 0..=KEPT {
            fs::write(&from, number.to_string()).unwrap();
            fs::write(older(&from), "older").unwrap();
            let made = std::time::SystemTime::UNIX_EPOCH
                + std::time::Duration::from_secs(u64::try_from(number).unwrap());
            File::options()
                .write(true)
                .open(&from)
                .unwrap()
                .set_modified(made)
                .unwrap();
            keep(&from, &to(number)).unwrap();
        }
        assert!(!to(0).exists() && !older(&to(0)).exists());
        for number in 1..=KEPT {
            assert_eq!(fs::read_to_string(to(number)).unwrap(), number.to_string());
            assert!(older(&to(number)).exists());
        }
        assert!(!from.exists() && !older(&from).exists());
    }

    #[test]
    fn what_a_terminal_would_obey_is_left_out() {
        assert_eq!(printable(b"a\x1b[2Jb\r\n\tc\xff\x07"), "a[2Jb\n\tc\u{fffd}");
    }
}
