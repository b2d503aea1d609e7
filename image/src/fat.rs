//! A FAT16 volume, written in one go: every file in one piece, times zero, no long names.
//!
//! Each file begins at a multiple of [`ALIGN`] of the disk, so that the same content within two files gives the same
//! clusters of a qcow2, which stores them once.

use crate::bytes::put;
use std::collections::BTreeMap;

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Where files begin: the cluster size of our qcow2 files.
pub const ALIGN: usize = crate::qcow2::CLUSTER;
const SECTORS_PER_CLUSTER: usize = 4;
const CLUSTER: usize = SECTOR * SECTORS_PER_CLUSTER;
const FATS: usize = 2;
const ROOT_ENTRIES: usize = 512;
const ROOT_SECTORS: usize = ROOT_ENTRIES * ENTRY / SECTOR;
const ENTRY: usize = 32;
/// With fewer clusters a volume is FAT12, with more FAT32; readers go by the number alone.
const CLUSTERS: std::ops::RangeInclusive<usize> = 4_085..=65_524;
const LAST: u16 = 0xffff;
const DIRECTORY: u8 = 0x10;
const VOLUME_LABEL: u8 = 0x08;
/// 1 January 1980, the first day that the format knows.
const DAY: [u8; 2] = [0x21, 0];

/// A file that stays as it is: hidden, system, read-only.
pub const SYSTEM_FILE: u8 = 0x07;
/// A file like any other.
pub const PLAIN_FILE: u8 = 0x20;

/// Why there is no volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatError {
    /// Not of the form `EFI/BOOT/BOOTX64.EFI`.
    #[error(
        "path {0:?} of the boot partition: write parts of at most 8.3 capital letters, digits, _ or -"
    )]
    Path(String),
    /// More than the volume holds.
    #[error("the boot partition of {sectors} sectors is too small for its files")]
    Full {
        /// Its size.
        sectors: usize,
    },
    /// Not a FAT16 volume.
    #[error("a boot partition of {0} sectors is not supported: 8 to 127 MiB")]
    Size(usize),
}

/// A file of the volume.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// Such as `EFI/BOOT/BOOTX64.EFI`.
    pub path: &'a str,
    /// What it holds.
    pub content: &'a [u8],
    /// [`SYSTEM_FILE`] or [`PLAIN_FILE`].
    pub attributes: u8,
}

/// A volume's place and name.
#[derive(Debug, Clone, Copy)]
pub struct Volume {
    /// Sectors before it on the disk.
    pub hidden: u32,
    /// Its own sectors.
    pub sectors: usize,
    /// Up to 11 capital letters.
    pub label: &'static str,
    /// Its serial number.
    pub serial: u32,
}

/// A written volume.
#[derive(Debug)]
pub struct Written {
    /// All sectors up to the last one in use; the rest of the volume is empty.
    pub bytes: Vec<u8>,
    /// Path → first sector, counted from the volume's beginning.
    pub places: BTreeMap<String, u32>,
}

struct Layout {
    reserved: usize,
    fat_sectors: usize,
    data: usize,
    clusters: usize,
}

impl Volume {
    /// The smallest volume in steps of 16 MiB that holds files of these sizes and is a quarter empty.
    pub fn sectors_for(sizes: &[usize]) -> usize {
        let step = 16 * 1024 * 1024;
        let files: usize = sizes.iter().map(|s| s.next_multiple_of(ALIGN)).sum();
        (files + files / 4 + (1 << 20)).next_multiple_of(step) / SECTOR
    }

    fn layout(&self) -> Result<Layout, FatError> {
        let all = self.sectors / SECTORS_PER_CLUSTER + 2;
        let fat_sectors = (all * 2).div_ceil(SECTOR);
        let fixed = FATS * fat_sectors + ROOT_SECTORS;
        // The data begins at a multiple of ALIGN of the disk; the reserved sectors fill up.
        let hidden = usize::try_from(self.hidden).map_err(|_| FatError::Size(self.sectors))?;
        let data = (hidden + 1 + fixed).next_multiple_of(ALIGN / SECTOR) - hidden;
        let clusters = self.sectors.saturating_sub(data) / SECTORS_PER_CLUSTER;
        if !CLUSTERS.contains(&clusters) || u32::try_from(self.sectors).is_err() {
            return Err(FatError::Size(self.sectors));
        }
        Ok(Layout {
            reserved: data - fixed,
            fat_sectors,
            data,
            clusters,
        })
    }

    /// Writes the volume with these files; directories are made as the paths say.
    pub fn write(&self, files: &[File<'_>]) -> Result<Written, FatError> {
        let layout = self.layout()?;
        let full = FatError::Full {
            sectors: self.sectors,
        };
        let mut tree = Tree::new(files)?;
        let mut fat: Vec<u16> = vec![0xfff8, LAST];
        for directory in &mut tree.directories {
            directory.cluster = chain(&mut fat, 1, 1);
        }
        let align = ALIGN / CLUSTER;
        let mut starts = Vec::new();
        for file in files {
            let count = file.content.len().div_ceil(CLUSTER);
            starts.push(chain(&mut fat, count, align));
        }
        if fat.len() > layout.clusters + 2 {
            return Err(full);
        }
        let place = |cluster: usize| layout.data + (cluster - 2) * SECTORS_PER_CLUSTER;
        let mut bytes = vec![0; (layout.data + (fat.len() - 2) * SECTORS_PER_CLUSTER) * SECTOR];
        let parts = [
            (0, self.boot_sector(&layout)),
            (layout.reserved, table(&fat)),
            (layout.reserved + layout.fat_sectors, table(&fat)),
            (layout.data - ROOT_SECTORS, self.root(&tree, files, &starts)),
        ];
        let directories = tree.directories.iter().map(|d| {
            let text = d.bytes(&tree, files, &starts);
            (place(d.cluster), text)
        });
        for (sector, part) in parts.into_iter().chain(directories) {
            put(&mut bytes, sector * SECTOR, &part).ok_or_else(|| full.clone())?;
        }
        let mut places = BTreeMap::new();
        for (file, start) in files.iter().zip(&starts) {
            if *start == 0 {
                continue;
            }
            let sector = place(*start);
            put(&mut bytes, sector * SECTOR, file.content).ok_or_else(|| full.clone())?;
            places.insert(
                file.path.to_owned(),
                u32::try_from(sector).map_err(|_| full.clone())?,
            );
        }
        Ok(Written { bytes, places })
    }

    fn boot_sector(&self, layout: &Layout) -> Vec<u8> {
        let mut sector = vec![0; SECTOR];
        let mut set = |at: usize, data: &[u8]| put(&mut sector, at, data).unwrap_or_default();
        let small = |n: usize| u16::try_from(n).unwrap_or_default().to_le_bytes();
        set(0, &[0xeb, 0x3c, 0x90]);
        set(3, b"KRATER  ");
        set(11, &small(SECTOR));
        set(13, &small(SECTORS_PER_CLUSTER)[..1]);
        set(14, &small(layout.reserved));
        set(16, &small(FATS)[..1]);
        set(17, &small(ROOT_ENTRIES));
        set(21, &[0xf8]);
        set(22, &small(layout.fat_sectors));
        // Sectors per track and heads: readers of today count sectors.
        set(24, &small(63));
        set(26, &small(255));
        set(28, &self.hidden.to_le_bytes());
        set(
            32,
            &u32::try_from(self.sectors)
                .unwrap_or_default()
                .to_le_bytes(),
        );
        set(36, &[0x80, 0, 0x29]);
        set(39, &self.serial.to_le_bytes());
        set(43, &padded(self.label));
        set(54, b"FAT16   ");
        set(510, &[0x55, 0xaa]);
        sector
    }

    fn root(&self, tree: &Tree, files: &[File<'_>], starts: &[usize]) -> Vec<u8> {
        let mut out = entry(&padded(self.label), VOLUME_LABEL, 0, 0);
        tree.children("", files, starts, &mut out);
        out
    }
}

/// Adds a chain of clusters that begins at a multiple of `align` of them; none for nothing.
fn chain(fat: &mut Vec<u16>, count: usize, align: usize) -> usize {
    if count == 0 {
        return 0;
    }
    // Clusters are numbered from two on.
    let start = (fat.len() - 2).next_multiple_of(align) + 2;
    fat.resize(start, 0);
    for next in start + 1..start + count {
        fat.push(u16::try_from(next).unwrap_or(LAST));
    }
    fat.push(LAST);
    start
}

fn table(fat: &[u16]) -> Vec<u8> {
    fat.iter()
        .flat_map(|cluster| cluster.to_le_bytes())
        .collect()
}

struct Directory {
    path: String,
    cluster: usize,
}

struct Tree {
    directories: Vec<Directory>,
}

impl Tree {
    fn new(files: &[File<'_>]) -> Result<Self, FatError> {
        let mut directories: Vec<Directory> = Vec::new();
        for file in files {
            let bad = || FatError::Path(file.path.into());
            if !file.path.split('/').all(|part| short(part).is_some()) {
                return Err(bad());
            }
            for (at, _) in file.path.match_indices('/') {
                let path = file.path.get(..at).ok_or_else(bad)?;
                if !directories.iter().any(|d| d.path == path) {
                    directories.push(Directory {
                        path: path.into(),
                        cluster: 0,
                    });
                }
            }
        }
        let tree = Self { directories };
        // Two entries of each directory are its own and its parent's; a directory has one cluster.
        let room = CLUSTER / ENTRY - 2;
        let parents = tree.directories.iter().map(|d| d.path.as_str());
        for parent in parents.chain([""]) {
            let paths = tree.directories.iter().map(|d| d.path.as_str());
            let count = paths
                .chain(files.iter().map(|f| f.path))
                .filter(|path| parent_of(path) == parent)
                .count();
            if count > room {
                return Err(FatError::Path(format!("{parent}/*")));
            }
        }
        Ok(tree)
    }

    fn cluster(&self, path: &str) -> usize {
        let found = self.directories.iter().find(|d| d.path == path);
        found.map_or(0, |d| d.cluster)
    }

    fn children(&self, parent: &str, files: &[File<'_>], starts: &[usize], out: &mut Vec<u8>) {
        for directory in self
            .directories
            .iter()
            .filter(|d| parent_of(&d.path) == parent)
        {
            let name = short(leaf(&directory.path)).unwrap_or([b' '; 11]);
            out.extend(entry(&name, DIRECTORY, directory.cluster, 0));
        }
        for (file, start) in files.iter().zip(starts) {
            if parent_of(file.path) == parent {
                let name = short(leaf(file.path)).unwrap_or([b' '; 11]);
                out.extend(entry(&name, file.attributes, *start, file.content.len()));
            }
        }
    }
}

impl Directory {
    fn bytes(&self, tree: &Tree, files: &[File<'_>], starts: &[usize]) -> Vec<u8> {
        let mut out = entry(&padded("."), DIRECTORY, self.cluster, 0);
        let parent = tree.cluster(parent_of(&self.path));
        out.extend(entry(&padded(".."), DIRECTORY, parent, 0));
        tree.children(&self.path, files, starts, &mut out);
        out
    }
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn leaf(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, leaf)| leaf)
}

fn padded(text: &str) -> [u8; 11] {
    let mut out = [b' '; 11];
    for (to, from) in out.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    out
}

/// `LDLINUX.SYS` as a directory writes it: eight letters and three.
fn short(name: &str) -> Option<[u8; 11]> {
    let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
    let good = |part: &str, most: usize| {
        let letter = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b"_-".contains(&b);
        part.len() <= most && part.bytes().all(letter)
    };
    if stem.is_empty() || !good(stem, 8) || !good(extension, 3) {
        return None;
    }
    let mut out = padded(stem);
    put(&mut out, 8, extension.as_bytes())?;
    Some(out)
}

fn entry(name: &[u8; 11], attributes: u8, cluster: usize, size: usize) -> Vec<u8> {
    let mut out = vec![0; ENTRY];
    let mut set = |at: usize, data: &[u8]| put(&mut out, at, data).unwrap_or_default();
    set(0, name);
    set(11, &[attributes]);
    for date in [16, 18, 24] {
        set(date, &DAY);
    }
    set(
        26,
        &u16::try_from(cluster).unwrap_or_default().to_le_bytes(),
    );
    set(28, &u32::try_from(size).unwrap_or_default().to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{slice, u16_at, u32_at};

    const VOLUME: Volume = Volume {
        hidden: 2_048,
        sectors: 16 * 2_048,
        label: "KRATER",
        serial: 0x4b52_4154,
    };

    /// A reader of its own, which goes by the boot sector alone.
    fn read(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let number = |at| usize::from(u16_at(bytes, at).unwrap());
        let (reserved, fat_sectors) = (number(14), number(22));
        assert_eq!((number(11), bytes[13], bytes[16]), (512, 4, 2));
        let root = (reserved + 2 * fat_sectors) * SECTOR;
        let (first, second) = bytes[reserved * SECTOR..root].split_at(fat_sectors * SECTOR);
        assert_eq!(first, second, "the copies of the table");
        let data = root + number(17) * 32;
        let mut found = BTreeMap::new();
        let mut folders = vec![(String::new(), bytes[root..data].to_vec())];
        while let Some((path, entries)) = folders.pop() {
            for entry in entries.chunks(32).take_while(|e| e[0] != 0) {
                let part = |b: &[u8]| str::from_utf8(b).unwrap().trim_end().to_owned();
                let (stem, extension) = (part(&entry[..8]), part(&entry[8..11]));
                if entry[11] & VOLUME_LABEL != 0 || stem.starts_with('.') {
                    continue;
                }
                let dot = if extension.is_empty() { "" } else { "." };
                let name = format!("{path}{stem}{dot}{extension}");
                let size = u32_at(entry, 28).unwrap() as usize;
                let mut content = Vec::new();
                let mut cluster = u16_at(entry, 26).unwrap();
                while (2..0xfff8).contains(&cluster) {
                    let at = data + (usize::from(cluster) - 2) * 2_048;
                    content.extend_from_slice(slice(bytes, at, 2_048).unwrap());
                    cluster = u16_at(first, 2 * usize::from(cluster)).unwrap();
                }
                if entry[11] & DIRECTORY != 0 {
                    folders.push((name + "/", content));
                } else {
                    content.truncate(size);
                    assert_eq!(
                        content.len(),
                        size,
                        "{name}: its chain is as long as its size"
                    );
                    found.insert(name, content);
                }
            }
        }
        found
    }

    #[test]
    fn what_is_written_is_read_back() {
        let large: Vec<u8> = (0..300_001_u32).map(|n| (n / 7).to_le_bytes()[0]).collect();
        let files = [
            ("LDLINUX.SYS", b"loader".as_slice()),
            ("EFI/BOOT/BOOTX64.EFI", &large),
            ("EMPTY", b""),
            ("VMLINUZ", &large[1..]),
        ];
        let written = VOLUME
            .write(&files.map(|(path, content)| File {
                path,
                content,
                attributes: PLAIN_FILE,
            }))
            .unwrap();
        let expected = files.map(|(path, content)| (path.to_owned(), content.to_vec()));
        assert_eq!(read(&written.bytes), BTreeMap::from(expected));
        for (path, content) in files.iter().filter(|f| !f.1.is_empty()) {
            let at = written.places[*path] as usize * SECTOR;
            assert_eq!(slice(&written.bytes, at, content.len()), Some(*content));
            assert_eq!((at + 2_048 * SECTOR) % ALIGN, 0, "{path}");
        }
        assert!(!written.places.contains_key("EMPTY"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let file = |path, content| File {
            path,
            content,
            attributes: PLAIN_FILE,
        };
        for path in [
            "",
            "a",
            "TOOLONGNAME",
            "A.LONG",
            "A//B",
            "/A",
            "..",
            ".",
            "A B",
            "Ä",
        ] {
            let error = VOLUME.write(&[file(path, b"")]).unwrap_err();
            assert_eq!(error, FatError::Path(path.into()));
        }
        let large = vec![1; 16 << 20];
        let error = VOLUME.write(&[file("A", &large)]).unwrap_err();
        assert!(matches!(error, FatError::Full { .. }), "{error}");
        for sectors in [0, 4 * 2_048, 200 * 2_048] {
            let volume = Volume { sectors, ..VOLUME };
            assert_eq!(volume.write(&[]).unwrap_err(), FatError::Size(sectors));
        }
    }

    #[test]
    fn a_size_for_files_holds_them() {
        for size in [0, 1, 13 << 20, 15 << 20, 60 << 20] {
            let content = vec![7; size];
            let volume = Volume {
                sectors: Volume::sectors_for(&[size]),
                ..VOLUME
            };
            let file = File {
                path: "A",
                content: &content,
                attributes: PLAIN_FILE,
            };
            volume.write(&[file]).unwrap();
        }
    }
}
