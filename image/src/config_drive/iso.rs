//! ISO 9660 (ECMA-119) with the names and modes of Rock Ridge (IEEE P1282, SUSP 1.12 below it), as far as
//! Linux's isofs needs it. Pure; the same tree gives the same bytes.
//!
//! Rock Ridge rather than Joliet: it carries long lower-case names and file modes, and isofs reads it
//! without a table of characters (a module that an initrd may lack).
//!
//! | sector | what |
//! |---|---|
//! | 0 to 15 | nothing (system area) |
//! | 16, 17 | primary volume descriptor, end of descriptors |
//! | 18, 19 | path table in both byte orders |
//! | 20 | the extension's name, too long for a directory record |
//! | from 21 | folders, then files |

use krater_model::FieldError;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Bytes of a logical sector.
pub const SECTOR: usize = 2048;
/// Most files. With at most [`MAX_DEPTH`] folders each, all tables stay small.
pub const MAX_FILES: usize = 64;
/// Most folders: their path table must fit into one sector.
pub const MAX_FOLDERS: usize = 32;
/// Most bytes of all files: a config drive is read into memory.
pub const MAX_BYTES: usize = 4 << 20;
/// ECMA-119 6.8.2.1: eight levels, of which the root is one and the file another.
const MAX_DEPTH: usize = 6;
/// Longest name, so that a directory record stays below 256 bytes.
const MAX_NAME: usize = 64;

const PATH_TABLE_L: u32 = 18;
const PATH_TABLE_M: u32 = 19;
const EXTENSION: u32 = 20;
const FIRST_FREE: u32 = 21;

const ROOT: usize = 0;
/// S_IFDIR and S_IFREG with the rights of their owner alone: what is on the drive are secrets.
const MODE_FOLDER: u32 = 0o040_700;
const MODE_FILE: u32 = 0o100_600;

const RRIP: &str = "RRIP_1991A";
const RRIP_DESCRIPTION: &str =
    "THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS";
const RRIP_SOURCE: &str = "PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN PRIMARY VOLUME \
     DESCRIPTOR FOR CONTACT INFORMATION.";

/// Writes an image of this label with these files; `/` in a path divides folders.
///
/// # Errors
/// A label, a name, a number or a size that does not fit; the error names it.
pub fn write(
    label: &str,
    files: &BTreeMap<String, Zeroizing<Vec<u8>>>,
) -> Result<Zeroizing<Vec<u8>>, FieldError> {
    check(label, files)?;
    let mut tree = Tree::of(files)?;
    tree.place();
    Ok(tree.image(label))
}

fn check(label: &str, files: &BTreeMap<String, Zeroizing<Vec<u8>>>) -> Result<(), FieldError> {
    let refuse = |field: &str, why: String| Err(FieldError::new(field, why));
    if label.is_empty() || label.len() > 32 || !label.bytes().all(|c| c.is_ascii_graphic()) {
        return refuse(
            "label",
            format!("{label:?}: use 1 to 32 printable characters"),
        );
    }
    if files.len() > MAX_FILES {
        return refuse("files", format!("{}: use at most {MAX_FILES}", files.len()));
    }
    let total: usize = files.values().map(|bytes| bytes.len()).sum();
    if total > MAX_BYTES {
        return refuse("files", format!("{total} bytes: use at most {MAX_BYTES}"));
    }
    for path in files.keys() {
        let parts: Vec<&str> = path.split('/').collect();
        let plain = |part: &&str| {
            let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
            (1..=MAX_NAME).contains(&part.len())
                && ![".", ".."].contains(part)
                && part.bytes().all(allowed)
        };
        if parts.len() > MAX_DEPTH + 1 || !parts.iter().all(plain) {
            let why = format!(
                "use at most {MAX_DEPTH} folders and names of 1 to {MAX_NAME} letters, digits, '.', '_' and '-'"
            );
            return refuse("files", format!("{path:?}: {why}"));
        }
    }
    Ok(())
}

/// Paths below a folder, and contents.
type Inside<'a> = Vec<(&'a str, &'a [u8])>;

/// An entry of a folder.
#[derive(Debug)]
struct Entry<'a> {
    /// As Linux shows it.
    name: &'a str,
    /// As ECMA-119 wants it.
    identifier: Vec<u8>,
    what: What<'a>,
}

#[derive(Debug, Clone, Copy)]
enum What<'a> {
    /// Index into the folders.
    Folder(usize),
    File {
        bytes: &'a [u8],
        extent: u32,
    },
}

#[derive(Debug, Default)]
struct Folder<'a> {
    parent: usize,
    entries: Vec<Entry<'a>>,
    identifier: Vec<u8>,
    extent: u32,
    sectors: u32,
}

/// Folders in the order of the path table: by level, then parent, then identifier.
#[derive(Debug)]
struct Tree<'a> {
    folders: Vec<Folder<'a>>,
    sectors: u32,
}

impl<'a> Tree<'a> {
    fn of(files: &'a BTreeMap<String, Zeroizing<Vec<u8>>>) -> Result<Self, FieldError> {
        let mut folders = vec![Folder {
            identifier: vec![0],
            ..Folder::default()
        }];
        // Folder by folder, level by level: paths that begin with `prefix`, and what comes behind it.
        let all: Inside<'a> = files
            .iter()
            .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
            .collect();
        let mut inside = vec![all];
        let mut at = 0;
        while at < folders.len() {
            let rest = std::mem::take(&mut inside[at]);
            let mut below: BTreeMap<&'a str, Inside<'a>> = BTreeMap::new();
            let mut entries: Vec<Entry<'a>> = Vec::new();
            for (path, bytes) in rest {
                match path.split_once('/') {
                    Some((folder, rest)) => below.entry(folder).or_default().push((rest, bytes)),
                    None => entries.push(Entry {
                        name: path,
                        identifier: file_identifier(path, entries.len()),
                        what: What::File { bytes, extent: 0 },
                    }),
                }
            }
            if let Some(entry) = entries.iter().find(|entry| below.contains_key(entry.name)) {
                let why = format!("{:?} is a file and a folder", entry.name);
                return Err(FieldError::new("files", why));
            }
            let mut found: Vec<(Vec<u8>, &'a str, Inside<'a>)> = below
                .into_iter()
                .enumerate()
                .map(|(number, (name, rest))| (folder_identifier(name, number), name, rest))
                .collect();
            found.sort();
            for (identifier, name, rest) in found {
                let number = folders.len();
                if number == MAX_FOLDERS {
                    let why = format!("more than {MAX_FOLDERS} folders");
                    return Err(FieldError::new("files", why));
                }
                folders.push(Folder {
                    parent: at,
                    identifier: identifier.clone(),
                    ..Folder::default()
                });
                inside.push(rest);
                entries.push(Entry {
                    name,
                    identifier,
                    what: What::Folder(number),
                });
            }
            entries.sort_by(|a, b| a.identifier.cmp(&b.identifier));
            folders[at].entries = entries;
            at += 1;
        }
        Ok(Self {
            folders,
            sectors: 0,
        })
    }

    /// Gives everything its sectors.
    fn place(&mut self) {
        let mut next = FIRST_FREE;
        for number in 0..self.folders.len() {
            // Extents are not in yet, but they change no length.
            let sectors = sectors(self.records(number).len());
            let folder = &mut self.folders[number];
            (folder.extent, folder.sectors) = (next, sectors);
            next += sectors;
        }
        for folder in &mut self.folders {
            for entry in &mut folder.entries {
                if let What::File { bytes, extent } = &mut entry.what {
                    *extent = next;
                    next += sectors(bytes.len());
                }
            }
        }
        self.sectors = next;
    }

    fn image(&self, label: &str) -> Zeroizing<Vec<u8>> {
        let mut image = Zeroizing::new(vec![0; bytes_of(self.sectors)]);
        let mut put = |sector: u32, bytes: &[u8]| {
            let start = bytes_of(sector);
            image[start..start + bytes.len()].copy_from_slice(bytes);
        };
        put(16, &self.descriptor(label));
        put(17, b"\xffCD001\x01");
        put(
            PATH_TABLE_L,
            &self.path_table(u32::to_le_bytes, u16::to_le_bytes),
        );
        put(
            PATH_TABLE_M,
            &self.path_table(u32::to_be_bytes, u16::to_be_bytes),
        );
        put(EXTENSION, &extension());
        for (number, folder) in self.folders.iter().enumerate() {
            put(folder.extent, &self.records(number));
            for entry in &folder.entries {
                if let What::File { bytes, extent } = entry.what {
                    put(extent, bytes);
                }
            }
        }
        image
    }

    /// ECMA-119 8.4.
    fn descriptor(&self, label: &str) -> Vec<u8> {
        let mut out = Out::default();
        out.raw(b"\x01CD001\x01\0");
        out.text("LINUX", 32);
        out.text(label, 32);
        out.zeros(8);
        out.both32(self.sectors);
        out.zeros(32);
        out.both16(1); // volumes in the set
        out.both16(1); // number of this one
        out.both16(2048);
        let table = self.path_table(u32::to_le_bytes, u16::to_le_bytes).len();
        out.both32(u32::try_from(table).unwrap_or_default());
        out.raw(&PATH_TABLE_L.to_le_bytes());
        out.zeros(4);
        out.raw(&PATH_TABLE_M.to_be_bytes());
        out.zeros(4);
        let root = &self.folders[ROOT];
        out.raw(&record(
            &[0],
            root.extent,
            bytes_of(root.sectors),
            true,
            &[],
        ));
        for length in [128, 128, 128, 128, 37, 37, 37] {
            out.text("", length); // volume set, publisher, preparer, application, three files
        }
        out.raw(b"2000010100000000\0"); // made
        out.raw(b"2000010100000000\0"); // changed
        out.raw(b"0000000000000000\0"); // expires: never
        out.raw(b"0000000000000000\0"); // effective
        out.raw(&[1, 0]);
        out.bytes
    }

    /// ECMA-119 9.4.
    fn path_table(&self, long: fn(u32) -> [u8; 4], short: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let mut out = Out::default();
        for folder in &self.folders {
            out.raw(&[length8(folder.identifier.len()), 0]);
            out.raw(&long(folder.extent));
            out.raw(&short(u16::try_from(folder.parent + 1).unwrap_or_default()));
            out.raw(&folder.identifier);
            if !folder.identifier.len().is_multiple_of(2) {
                out.zeros(1);
            }
        }
        out.bytes
    }

    /// The records of a folder, none across a boundary of sectors, in whole sectors.
    fn records(&self, number: usize) -> Vec<u8> {
        let folder = &self.folders[number];
        let of = |number: usize| {
            let folder = &self.folders[number];
            (folder.extent, bytes_of(folder.sectors))
        };
        let mode = posix(MODE_FOLDER, 2);
        let (extent, size) = of(number);
        let own = if number == ROOT {
            [sharing(), mode.clone(), continued()].concat()
        } else {
            mode.clone()
        };
        let mut records = vec![record(&[0], extent, size, true, &own)];
        let (extent, size) = of(folder.parent);
        records.push(record(&[1], extent, size, true, &mode));
        for entry in &folder.entries {
            let (extent, size, is_folder) = match entry.what {
                What::Folder(number) => (of(number).0, of(number).1, true),
                What::File { bytes, extent } => (extent, bytes.len(), false),
            };
            let mode = if is_folder {
                mode.clone()
            } else {
                posix(MODE_FILE, 1)
            };
            let system_use = [mode, name(entry.name)].concat();
            records.push(record(
                &entry.identifier,
                extent,
                size,
                is_folder,
                &system_use,
            ));
        }
        let mut out: Vec<u8> = Vec::new();
        for record in records {
            if out.len() % SECTOR + record.len() > SECTOR {
                out.resize(out.len().next_multiple_of(SECTOR), 0);
            }
            out.extend(record);
        }
        out.resize(out.len().next_multiple_of(SECTOR), 0);
        out
    }
}

/// ECMA-119 9.1.
fn record(identifier: &[u8], extent: u32, size: usize, folder: bool, system_use: &[u8]) -> Vec<u8> {
    let mut out = Out::default();
    out.zeros(2); // length, below; no extended attributes
    out.both32(extent);
    out.both32(u32::try_from(size).unwrap_or_default());
    out.raw(&[100, 1, 1, 0, 0, 0, 0]); // 2000-01-01
    out.raw(&[if folder { 2 } else { 0 }, 0, 0]);
    out.both16(1);
    out.raw(&[length8(identifier.len())]);
    out.raw(identifier);
    if identifier.len().is_multiple_of(2) {
        out.zeros(1);
    }
    out.raw(system_use);
    if !out.bytes.len().is_multiple_of(2) {
        out.zeros(1);
    }
    out.bytes[0] = length8(out.bytes.len());
    out.bytes
}

/// SUSP 5.3: system use sharing protocol, only in the root's own record.
fn sharing() -> Vec<u8> {
    b"SP\x07\x01\xbe\xef\0".to_vec()
}

/// SUSP 5.1: the rest is in another sector.
fn continued() -> Vec<u8> {
    let mut out = Out::default();
    out.raw(b"CE\x1c\x01");
    out.both32(EXTENSION);
    out.both32(0);
    out.both32(u32::try_from(extension().len()).unwrap_or_default());
    out.bytes
}

/// SUSP 5.5: names Rock Ridge; isofs uses no name of it before it has seen this.
fn extension() -> Vec<u8> {
    let parts = [RRIP, RRIP_DESCRIPTION, RRIP_SOURCE];
    let mut out = Out::default();
    out.raw(b"ER\0\x01");
    for part in parts {
        out.raw(&[length8(part.len())]);
    }
    out.raw(&[1]);
    for part in parts {
        out.raw(part.as_bytes());
    }
    out.bytes[2] = length8(out.bytes.len());
    out.bytes
}

/// RRIP 4.1.1: mode, links, owner, group.
fn posix(mode: u32, links: u32) -> Vec<u8> {
    let mut out = Out::default();
    out.raw(b"PX\x24\x01");
    for value in [mode, links, 0, 0] {
        out.both32(value);
    }
    out.bytes
}

/// RRIP 4.1.4: the name.
fn name(name: &str) -> Vec<u8> {
    let mut out = Out::default();
    out.raw(b"NM");
    out.raw(&[length8(5 + name.len()), 1, 0]);
    out.raw(name.as_bytes());
    out.bytes
}

/// `NAME.EXT;1` of at most 8.3 characters that are allowed, different for each number of a folder.
fn file_identifier(name: &str, number: usize) -> Vec<u8> {
    let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let base = allowed(base, 4);
    let extension = allowed(extension, 3);
    format!("{base}{number:04}.{extension};1").into_bytes()
}

/// The same for folders.
fn folder_identifier(name: &str, number: usize) -> Vec<u8> {
    format!("{}{number:04}", allowed(name, 4)).into_bytes()
}

fn allowed(name: &str, length: usize) -> String {
    let allow = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    name.chars().take(length).map(allow).collect()
}

fn sectors(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(SECTOR)).unwrap_or_default()
}

fn bytes_of(sectors: u32) -> usize {
    usize::try_from(sectors).unwrap_or_default() * SECTOR
}

/// Lengths that [`check`] and the constants keep below 256.
fn length8(length: usize) -> u8 {
    u8::try_from(length).unwrap_or_default()
}

#[derive(Debug, Default)]
struct Out {
    bytes: Vec<u8>,
}

impl Out {
    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    /// Filled with spaces.
    fn text(&mut self, text: &str, length: usize) {
        let end = self.bytes.len() + length;
        self.raw(text.as_bytes());
        self.bytes.resize(end, b' ');
    }

    /// ECMA-119 7.2.3: both byte orders.
    fn both16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
        self.raw(&value.to_be_bytes());
    }

    /// ECMA-119 7.3.3.
    fn both32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
        self.raw(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> BTreeMap<String, Zeroizing<Vec<u8>>> {
        let file = |path: &&str| ((*path).to_owned(), Zeroizing::new(path.as_bytes().to_vec()));
        paths.iter().map(file).collect()
    }

    #[test]
    fn lengths_are_those_of_the_standard() {
        assert_eq!(extension().len(), 237);
        assert_eq!((RRIP_DESCRIPTION.len(), RRIP_SOURCE.len()), (84, 135));
        assert_eq!((sharing().len(), continued().len()), (7, 28));
        assert_eq!(posix(0, 0).len(), 36);
        assert_eq!(record(&[0], 0, 0, true, &[]).len(), 34);
        let longest = name(&"x".repeat(MAX_NAME));
        let longest = [posix(0, 0), longest].concat();
        assert!(record(b"ABCD0000.EXT;1", 0, 0, false, &longest).len() < 256);
        let most = MAX_FOLDERS * (8 + folder_identifier("name", 9_999).len() + 1);
        assert!(most <= SECTOR, "{most}");
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let long = "x".repeat(65);
        for (paths, named) in [
            (vec!["a/../b"], "\"a/../b\""),
            (vec!["a//b"], "\"a//b\""),
            (vec![""], "\"\""),
            (vec!["a b"], "\"a b\""),
            (vec!["a", "a/b"], "\"a\" is a file and a folder"),
            (vec!["1/2/3/4/5/6/7/8"], "at most 6 folders"),
            (vec![long.as_str()], "1 to 64"),
        ] {
            let error = write("x", &tree(&paths)).unwrap_err().to_string();
            assert!(error.contains(named), "{paths:?}: {error}");
        }
        for label in ["", "with space", &"x".repeat(33)] {
            let error = write(label, &tree(&[])).unwrap_err().to_string();
            assert!(error.contains("label"), "{error}");
        }
        let many: Vec<String> = (0..=MAX_FILES).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(write("x", &tree(&many)).is_err());
        let folders: Vec<String> = (0..MAX_FOLDERS).map(|n| format!("{n}/f")).collect();
        let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
        assert!(write("x", &tree(&folders)).is_err());
        let large = Zeroizing::new(vec![0; MAX_BYTES + 1]);
        assert!(write("x", &BTreeMap::from([("a".to_owned(), large)])).is_err());
    }

    /// Sector 16 of a small image, byte for byte: where other programs look.
    #[test]
    fn the_descriptor_is_as_written_down() {
        let image = write("config-2", &tree(&["f"])).unwrap();
        assert_eq!(image.len(), 23 * SECTOR);
        let descriptor = &image[16 * SECTOR..17 * SECTOR];
        assert_eq!(&descriptor[..8], b"\x01CD001\x01\0");
        assert_eq!(&descriptor[40..72], b"config-2                        ");
        assert_eq!(&descriptor[80..88], &[23, 0, 0, 0, 0, 0, 0, 23]);
        assert_eq!(&descriptor[120..132], &[1, 0, 0, 1, 1, 0, 0, 1, 0, 8, 8, 0]);
        assert_eq!(&descriptor[132..140], &[10, 0, 0, 0, 0, 0, 0, 10]);
        assert_eq!(&descriptor[140..144], &[18, 0, 0, 0]);
        assert_eq!(&descriptor[148..152], &[0, 0, 0, 19]);
        assert_eq!(
            &descriptor[156..190],
            &[
                34, 0, 21, 0, 0, 0, 0, 0, 0, 21, 0, 8, 0, 0, 0, 0, 8, 0, 100, 1, 1, 0, 0, 0, 0, 2,
                0, 0, 1, 0, 0, 1, 1, 0
            ]
        );
        assert_eq!(&descriptor[813..830], b"2000010100000000\0");
        assert_eq!(descriptor[881], 1);
        assert!(descriptor[883..].iter().all(|byte| *byte == 0));
        assert_eq!(&image[17 * SECTOR..17 * SECTOR + 7], b"\xffCD001\x01");
        assert_eq!(
            &image[18 * SECTOR..18 * SECTOR + 10],
            &[1, 0, 21, 0, 0, 0, 1, 0, 0, 0]
        );
        assert_eq!(&image[22 * SECTOR..22 * SECTOR + 2], b"f\0");
    }
}
