//! Debian packages, read: an `ar` archive (deb(5)) whose member `data.tar.xz` holds the files.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};

const AR_MAGIC: &[u8] = b"!<arch>\n";
const AR_HEADER: usize = 60;
const BLOCK: usize = 512;
/// Longest path of an entry: PATH_MAX of Linux.
const MAX_PATH: usize = 4_096;
/// Most bytes that a package unpacks to. The largest that we read, a kernel's, has a tenth of it.
pub const MAX_UNPACKED: usize = 1 << 30;

/// Why a package cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// Not an `ar` archive, or cut off.
    #[error("not a Debian package: {0}; fix: download it again")]
    Ar(&'static str),
    /// A compression that we do not read.
    #[error(
        "not supported yet: member {0:?} of the package; only data.tar and data.tar.xz are read"
    )]
    Compression(String),
    /// The compressed data is broken.
    #[error("data.tar.xz cannot be unpacked; fix: download the package again")]
    Xz(#[source] std::io::Error),
    /// Larger than anything that we know.
    #[error("the package unpacks to more than {MAX_UNPACKED} bytes")]
    TooLarge,
    /// The archive inside is broken.
    #[error("data.tar of the package, at byte {at}: {what}")]
    Tar {
        /// Offset of the header.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// Regular files of a package by path (without `./`), those that `wanted` takes.
pub fn files(
    package: &[u8],
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Vec<u8>>, DebError> {
    let (name, data) = data_member(package)?;
    match name.as_str() {
        "data.tar" => untar(data, wanted),
        "data.tar.xz" => untar(&unxz(data).map_err(cause)?, wanted),
        _ => Err(DebError::Compression(name)),
    }
}

/// Unpacks an xz file.
pub fn unxz(data: &[u8]) -> Result<Vec<u8>, std::io::Error> {
    let mut out = Bounded(Vec::new());
    match lzma_rs::xz_decompress(&mut &*data, &mut out) {
        Ok(()) => Ok(out.0),
        Err(lzma_rs::error::Error::IoError(error)) => Err(error),
        Err(error) => Err(std::io::Error::new(ErrorKind::InvalidData, error)),
    }
}

/// Takes [`MAX_UNPACKED`] bytes.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_UNPACKED {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn cause(error: std::io::Error) -> DebError {
    if error.kind() == ErrorKind::FileTooLarge {
        DebError::TooLarge
    } else {
        DebError::Xz(error)
    }
}

/// The first member whose name begins with `data.tar`.
fn data_member(package: &[u8]) -> Result<(String, &[u8]), DebError> {
    let mut rest = package
        .strip_prefix(AR_MAGIC)
        .ok_or(DebError::Ar("it does not begin as an ar archive"))?;
    while !rest.is_empty() {
        let (header, after) = rest
            .split_at_checked(AR_HEADER)
            .ok_or(DebError::Ar("a header is cut off"))?;
        if header.get(58..) != Some(b"`\n".as_slice()) {
            return Err(DebError::Ar("a header ends wrongly"));
        }
        let text = |from: usize, to: usize| {
            let field = header.get(from..to).unwrap_or_default();
            String::from_utf8_lossy(field).trim().to_owned()
        };
        let size: usize = text(48, 58)
            .parse()
            .map_err(|_| DebError::Ar("a size is not a number"))?;
        let (data, after) = after
            .split_at_checked(size)
            .ok_or(DebError::Ar("a member is cut off"))?;
        let name = text(0, 16).trim_end_matches('/').to_owned();
        if name.starts_with("data.tar") {
            return Ok((name, data));
        }
        // Members begin at even offsets.
        rest = after.get(size % 2..).unwrap_or_default();
    }
    Err(DebError::Ar("it has no member data.tar"))
}

/// Regular files of a tar archive as dpkg-deb writes it: ustar headers, long names the GNU way.
fn untar(tar: &[u8], wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Vec<u8>>, DebError> {
    let mut found = BTreeMap::new();
    let mut at = 0;
    let mut long_name = None;
    while let Some(header) = tar.get(at..at + BLOCK) {
        if header.iter().all(|b| *b == 0) {
            return Ok(found);
        }
        let fault = |what| DebError::Tar { at, what };
        if checksum(header) != octal(header, 148, 156) {
            return Err(fault("the checksum of a header is wrong"));
        }
        let size = octal(header, 124, 136).ok_or_else(|| fault("a size is not an octal number"))?;
        let start = at + BLOCK;
        let content = start
            .checked_add(size)
            .and_then(|end| tar.get(start..end))
            .ok_or_else(|| fault("an entry is cut off"))?;
        match header.get(156).copied().unwrap_or_default() {
            b'L' => {
                if size > MAX_PATH {
                    return Err(fault("a name is longer than 4096 bytes"));
                }
                long_name = Some(text(content));
            }
            b'0' | 0 => {
                let name = long_name.take().unwrap_or_else(|| name(header));
                let path = name.strip_prefix("./").unwrap_or(&name);
                if wanted(path) {
                    found.insert(path.to_owned(), content.to_vec());
                }
            }
            // Extended headers could rename what follows; dpkg-deb does not write them.
            b'x' | b'g' => return Err(fault("not supported yet: pax headers")),
            _ => long_name = None,
        }
        at = start + size.next_multiple_of(BLOCK);
    }
    Err(DebError::Tar {
        at,
        what: "it ends without an empty block",
    })
}

/// The sum of a header's bytes, its own field taken as blanks.
fn checksum(header: &[u8]) -> Option<usize> {
    let sum = |bytes: Option<&[u8]>| Some(bytes?.iter().map(|b| usize::from(*b)).sum::<usize>());
    Some(sum(header.get(..148))? + 8 * usize::from(b' ') + sum(header.get(156..))?)
}

fn octal(header: &[u8], from: usize, to: usize) -> Option<usize> {
    let digits = text(header.get(from..to)?);
    usize::from_str_radix(digits.trim(), 8).ok()
}

fn name(header: &[u8]) -> String {
    let name = text(header.get(..100).unwrap_or_default());
    let prefix = match header.get(257..263) {
        Some(b"ustar\0") => text(header.get(345..500).unwrap_or_default()),
        _ => String::new(),
    };
    if prefix.is_empty() {
        name
    } else {
        format!("{prefix}/{name}")
    }
}

/// Bytes up to the first NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn entry(out: &mut Vec<u8>, name: &str, kind: u8, content: &[u8]) {
        let mut header = [0_u8; BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar  \0");
        let sum = checksum(&header).unwrap();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }

    /// A package with these files, its data not compressed.
    pub(crate) fn package(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = Vec::new();
        entry(&mut tar, "./", b'5', b"");
        for (path, content) in files {
            let path = format!("./{path}");
            if path.len() > 99 {
                entry(
                    &mut tar,
                    "././@LongLink",
                    b'L',
                    format!("{path}\0").as_bytes(),
                );
            }
            entry(&mut tar, &path[..path.len().min(99)], b'0', content);
        }
        tar.resize(tar.len() + 2 * BLOCK, 0);
        let mut out = AR_MAGIC.to_vec();
        for (name, data) in [
            ("debian-binary", b"2.0\n".as_slice()),
            ("control.tar.xz", b"odd"),
            ("data.tar", &tar),
        ] {
            let size = data.len();
            out.extend_from_slice(
                format!(
                    "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n",
                    0, 0, 0, "100644"
                )
                .as_bytes(),
            );
            out.extend_from_slice(data);
            out.resize(out.len().next_multiple_of(2), b'\n');
        }
        out
    }

    #[test]
    fn files_are_found_by_path_long_names_too() {
        let long = format!("lib/{}/x.ko", "d".repeat(150));
        let deb = package(&[
            ("boot/vmlinuz", b"kernel"),
            (&long, b"module"),
            ("usr/doc", b""),
        ]);
        let found = files(&deb, |path| !path.starts_with("usr/")).unwrap();
        let expected = BTreeMap::from([
            ("boot/vmlinuz".to_owned(), b"kernel".to_vec()),
            (long, b"module".to_vec()),
        ]);
        assert_eq!(found, expected);
    }

    #[test]
    fn broken_packages_are_refused_wherever_they_are_cut_or_changed() {
        let deb = package(&[("boot/vmlinuz", b"kernel")]);
        for length in 0..deb.len() - 2 * BLOCK {
            assert!(files(&deb[..length], |_| true).is_err(), "{length} bytes");
        }
        let mut changed = deb.clone();
        let at = deb.windows(6).position(|w| w == b"vmlinu").unwrap();
        changed[at] = b'w';
        let error = files(&changed, |_| true).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
    }

    #[test]
    fn other_compressions_are_refused_by_name() {
        let deb = package(&[("a", b"b")]);
        let at = deb.windows(8).position(|w| w == b"data.tar").unwrap();
        let mut other = deb;
        other[at..at + 11].copy_from_slice(b"data.tar.gz");
        let error = files(&other, |_| true).unwrap_err().to_string();
        assert!(
            error.contains("not supported yet: member \"data.tar.gz\""),
            "{error}"
        );
        other[at..at + 11].copy_from_slice(b"data.tar.xz");
        assert!(matches!(files(&other, |_| true), Err(DebError::Xz(_))));
    }
}
