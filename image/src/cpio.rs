//! The "new ASCII" cpio format that Linux unpacks as initramfs (Documentation/driver-api/early-userspace/buffer-format).

use std::collections::BTreeMap;

const TRAILER: &str = "TRAILER!!!";
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
/// Entry sizes are 32 bits in this format.
const MAX_FILE: usize = u32::MAX as usize;

/// Why an archive could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpioError {
    /// A path is empty, absolute, or leaves the root.
    #[error("path {0:?}: write it relative to the root, without . or .. parts")]
    Path(String),
    /// A file is larger than the format can say.
    #[error("file {0:?} has more than 4 GiB: the initrd format cannot hold it")]
    TooLarge(String),
}

#[derive(Debug, Clone)]
enum Kind {
    Directory,
    File(Vec<u8>),
    Link(String),
    Device { major: u32, minor: u32 },
}

/// An archive in the making. Paths are kept sorted, parents are added, times are zero, owner is root.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, (u32, Kind)>,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory with `mode`, such as `0o755`.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<(), CpioError> {
        self.insert(path, mode, Kind::Directory)
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) -> Result<(), CpioError> {
        if content.len() > MAX_FILE {
            return Err(CpioError::TooLarge(path.into()));
        }
        self.insert(path, mode, Kind::File(content))
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<(), CpioError> {
        self.insert(path, 0o777, Kind::Link(target.into()))
    }

    /// Adds a character device, such as `dev/console` 5:1.
    pub fn device(
        &mut self,
        path: &str,
        mode: u32,
        major: u32,
        minor: u32,
    ) -> Result<(), CpioError> {
        self.insert(path, mode, Kind::Device { major, minor })
    }

    fn insert(&mut self, path: &str, mode: u32, kind: Kind) -> Result<(), CpioError> {
        let part_ok = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !path.split('/').all(part_ok) || path.contains('\0') || path == TRAILER {
            return Err(CpioError::Path(path.into()));
        }
        for (at, _) in path.match_indices('/') {
            let parent = || (0o755, Kind::Directory);
            self.entries
                .entry(path[..at].to_owned())
                .or_insert_with(parent);
        }
        self.entries.insert(path.to_owned(), (mode & 0o7777, kind));
        Ok(())
    }

    /// The archive's bytes, a multiple of 4.
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut inode = 0;
        for (path, (mode, kind)) in &self.entries {
            inode += 1;
            let (kind_bits, links, device, data): (u32, u32, (u32, u32), &[u8]) = match kind {
                Kind::Directory => (DIRECTORY, 2, (0, 0), &[]),
                Kind::File(content) => (FILE, 1, (0, 0), content),
                Kind::Link(target) => (LINK, 1, (0, 0), target.as_bytes()),
                Kind::Device { major, minor } => (CHARACTER_DEVICE, 1, (*major, *minor), &[]),
            };
            entry(&mut out, path, inode, kind_bits | mode, links, device, data);
        }
        entry(&mut out, TRAILER, 0, 0, 1, (0, 0), &[]);
        out
    }
}

fn entry(
    out: &mut Vec<u8>,
    path: &str,
    inode: u32,
    mode: u32,
    links: u32,
    device: (u32, u32),
    data: &[u8],
) {
    let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
    let fields = [
        inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
    ];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(data);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Archive {
        let mut archive = Archive::new();
        archive
            .file("etc/krater/agent.toml", 0o600, b"x = 1\n".to_vec())
            .unwrap();
        archive.file("init", 0o755, vec![7; 4_097]).unwrap();
        archive.link("bin/amphora", "../init").unwrap();
        archive.device("dev/console", 0o600, 5, 1).unwrap();
        archive
    }

    #[test]
    fn same_bytes_whatever_the_order_of_input() {
        let mut other = Archive::new();
        other.device("dev/console", 0o600, 5, 1).unwrap();
        other.link("bin/amphora", "../init").unwrap();
        other.file("init", 0o755, vec![7; 4_097]).unwrap();
        other
            .file("etc/krater/agent.toml", 0o600, b"x = 1\n".to_vec())
            .unwrap();
        let bytes = sample().finish();
        assert_eq!(bytes, other.finish());
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn paths_that_leave_the_root_are_refused() {
        for path in [
            "",
            "/init",
            "a//b",
            "../x",
            "a/./b",
            "a/..",
            "TRAILER!!!",
            "a\0b",
        ] {
            assert!(
                Archive::new().file(path, 0o644, vec![]).is_err(),
                "{path:?}"
            );
        }
    }

    /// A reader of its own: walks the entries as the kernel does.
    #[test]
    fn reads_back_entry_by_entry() {
        let bytes = sample().finish();
        let hex = |at: usize| u32::from_str_radix(str::from_utf8(&bytes[at..at + 8]).unwrap(), 16);
        let (mut at, mut seen) = (0, Vec::new());
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |n: usize| hex(at + 6 + 8 * n).unwrap();
            let (mode, size, name) = (field(1), field(6) as usize, field(11) as usize);
            let text = str::from_utf8(&bytes[at + 110..at + 110 + name - 1]).unwrap();
            if text == TRAILER {
                break;
            }
            seen.push((text.to_owned(), mode, size));
            at = (at + 110 + name).next_multiple_of(4) + size;
            at = at.next_multiple_of(4);
        }
        let expected = [
            ("bin", 0o040_755, 0),
            ("bin/amphora", 0o120_777, 7),
            ("dev", 0o040_755, 0),
            ("dev/console", 0o020_600, 0),
            ("etc", 0o040_755, 0),
            ("etc/krater", 0o040_755, 0),
            ("etc/krater/agent.toml", 0o100_600, 6),
            ("init", 0o100_755, 4_097),
        ];
        let expected: Vec<_> = expected.map(|(p, m, s)| (p.to_owned(), m, s)).into();
        assert_eq!(seen, expected);
    }
}
