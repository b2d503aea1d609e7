//! The two archives of a package: `ar` (deb(5)) around two of ustar (POSIX.1-1988), as dpkg-deb writes them. Owner is
//! root, the time is fixed, folders stand before what is in them.

use super::PackageError;
use std::collections::{BTreeMap, BTreeSet};

/// Of every file: 2026-11-30 00:00:00 UTC. Raised with the version; a newer one than the clock's would make dpkg warn.
pub(super) const TIME: u64 = 1_795_996_800;
const BLOCK: usize = 512;
/// tar files end at a multiple of it.
const RECORD: usize = 20 * BLOCK;
const MAX_NAME: usize = 100;
/// Eleven octal digits.
const MAX_SIZE: u64 = 1 << 33;

/// Folders of these files, without the root.
pub(super) fn folders<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let parents =
        paths.flat_map(|path| path.match_indices('/').filter_map(|(at, _)| path.get(..at)));
    parents.collect()
}

/// A tar file in the making.
#[derive(Debug, Default)]
pub(super) struct Tar {
    files: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Tar {
    /// Adds a file by its path from the root.
    pub(super) fn file(
        &mut self,
        path: &str,
        mode: u32,
        content: &[u8],
    ) -> Result<(), PackageError> {
        let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
        // `./` and the NUL.
        if path.len() + 3 > MAX_NAME || size >= MAX_SIZE {
            return Err(PackageError::TooLong(path.into()));
        }
        self.files.insert(path.into(), (mode, content.to_vec()));
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = header("./", 0o755, 0, b'5');
        let mut entries: BTreeMap<&str, Option<&(u32, Vec<u8>)>> = BTreeMap::new();
        entries.extend(
            folders(self.files.keys().map(String::as_str))
                .into_iter()
                .map(|f| (f, None)),
        );
        entries.extend(
            self.files
                .iter()
                .map(|(path, file)| (path.as_str(), Some(file))),
        );
        // A folder sorts before what is in it.
        for (path, file) in entries {
            match file {
                None => out.extend(header(&format!("./{path}/"), 0o755, 0, b'5')),
                Some((mode, content)) => {
                    out.extend(header(&format!("./{path}"), *mode, content.len(), b'0'));
                    out.extend_from_slice(content);
                    out.resize(out.len().next_multiple_of(BLOCK), 0);
                }
            }
        }
        out.resize((out.len() + 2 * BLOCK).next_multiple_of(RECORD), 0);
        out
    }
}

/// A header of ustar.
fn header(name: &str, mode: u32, size: usize, kind: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK);
    let mut field = |text: &str, width: usize| {
        let end = out.len() + width;
        out.extend(text.bytes().take(width));
        out.resize(end, 0);
    };
    field(name, MAX_NAME);
    field(&format!("{mode:07o}"), 8);
    field("0000000", 8);
    field("0000000", 8);
    field(&format!("{size:011o}"), 12);
    field(&format!("{TIME:011o}"), 12);
    // Its own sum counts as blanks.
    field("        ", 8);
    field(if kind == b'5' { "5" } else { "0" }, 1);
    field("", MAX_NAME);
    field("ustar", 6);
    field("00", 2);
    field("root", 32);
    field("root", 32);
    field("0000000", 8);
    field("0000000", 8);
    out.resize(BLOCK, 0);
    let sum: u32 = out.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    if let Some(place) = out.get_mut(148..156) {
        place.copy_from_slice(sum.as_bytes());
    }
    out
}

/// An ar file in the making.
#[derive(Debug)]
pub(super) struct Ar(Vec<u8>);

impl Default for Ar {
    fn default() -> Self {
        Self(b"!<arch>\n".to_vec())
    }
}

impl Ar {
    /// Adds a member; names have at most 15 bytes.
    pub(super) fn member(&mut self, name: &str, content: &[u8]) {
        let size = content.len();
        let header = format!(
            "{name:<16}{TIME:<12}{:<6}{:<6}{:<8}{size:<10}`\n",
            0, 0, "100644"
        );
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        if size % 2 == 1 {
            self.0.push(b'\n');
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}
