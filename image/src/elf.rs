//! The little of ELF that an image needs: a section by its name, and whether a program is static.

use crate::bytes::{slice, u16_at, u32_at, u64_at};

const X86_64: u16 = 62;
const INTERPRETER: u32 = 3;

/// Why a file is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Another format, another machine, or cut off.
    #[error("not an ELF file for x86-64, or cut off")]
    Format,
    /// It needs a loader and libraries, which the image does not have.
    #[error(
        "dynamically linked: the image has no loader, and a package no libraries; fix: build it with `cargo xtask image` or `cargo xtask deb`"
    )]
    Dynamic,
}

/// Refuses everything but a program that runs by itself.
pub fn check_static(program: &[u8]) -> Result<(), ElfError> {
    let headers = table(program, 0x20, 0x36, 0x38).ok_or(ElfError::Format)?;
    let mut loads = false;
    for header in headers.chunks(entry_size(program, 0x36)) {
        match u32_at(header, 0).ok_or(ElfError::Format)? {
            INTERPRETER => return Err(ElfError::Dynamic),
            1 => loads = true,
            _ => {}
        }
    }
    if loads { Ok(()) } else { Err(ElfError::Format) }
}

/// The content of the section `name`, if there is one.
pub fn section<'a>(file: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, ElfError> {
    find(file, name).ok_or(ElfError::Format)
}

fn find<'a>(file: &'a [u8], wanted: &str) -> Option<Option<&'a [u8]>> {
    let headers = table(file, 0x28, 0x3a, 0x3c)?;
    let size = entry_size(file, 0x3a);
    let content = |header: &[u8]| slice(file, u64_at(header, 0x18)?, u64_at(header, 0x20)?);
    let names = headers
        .chunks(size)
        .nth(usize::from(u16_at(file, 0x3e)?))
        .and_then(content)?;
    for header in headers.chunks(size) {
        let name = names.get(usize::try_from(u32_at(header, 0)?).ok()?..)?;
        if name.starts_with(wanted.as_bytes()) && name.get(wanted.len()) == Some(&0) {
            return content(header).map(Some);
        }
    }
    Some(None)
}

/// A table whose place, entry size and length stand at these offsets of the file header.
fn table(file: &[u8], place: usize, entry: usize, count: usize) -> Option<&[u8]> {
    let class_and_order = file.strip_prefix(b"\x7fELF")?.get(..2)?;
    if class_and_order != [2, 1] || u16_at(file, 0x12)? != X86_64 {
        return None;
    }
    let (size, count) = (u16_at(file, entry)?, u16_at(file, count)?);
    // Both kinds of entries are longer than what is read of them.
    if size < 0x28 {
        return None;
    }
    slice(
        file,
        u64_at(file, place)?,
        usize::from(size) * usize::from(count),
    )
}

fn entry_size(file: &[u8], at: usize) -> usize {
    usize::from(u16_at(file, at).unwrap_or_default().max(1))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file with these sections and one program header of the given kind.
    pub(crate) fn file(sections: &[(&str, &[u8])], program_header: u32) -> Vec<u8> {
        let mut names = vec![0];
        let mut data = Vec::new();
        let mut headers = vec![0; 64];
        let base = 64 + 56;
        let add = |headers: &mut Vec<u8>, name: usize, at: usize, size: usize| {
            let mut header = [0_u8; 64];
            header[..4].copy_from_slice(&u32::try_from(name).unwrap().to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            headers.extend_from_slice(&header);
        };
        for (name, content) in sections {
            add(&mut headers, names.len(), base + data.len(), content.len());
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            data.extend_from_slice(content);
        }
        add(&mut headers, 0, base + data.len(), names.len());
        data.extend_from_slice(&names);
        let mut out = vec![0; 64];
        out[..6].copy_from_slice(b"\x7fELF\x02\x01");
        out[0x12..0x14].copy_from_slice(&X86_64.to_le_bytes());
        out[0x20] = 64;
        out[0x28..0x30].copy_from_slice(&((base + data.len()) as u64).to_le_bytes());
        out[0x36] = 56;
        out[0x38] = 1;
        out[0x3a] = 64;
        out[0x3c] = u8::try_from(sections.len() + 2).unwrap();
        out[0x3e] = u8::try_from(sections.len() + 1).unwrap();
        out.extend_from_slice(&program_header.to_le_bytes());
        out.resize(base, 0);
        out.extend_from_slice(&data);
        out.extend_from_slice(&headers);
        out
    }

    #[test]
    fn sections_are_found_by_their_whole_name() {
        let elf = file(&[(".modinfo", b"x=y"), (".mod", b"z")], 1);
        assert_eq!(section(&elf, ".modinfo"), Ok(Some(b"x=y".as_slice())));
        assert_eq!(section(&elf, ".mod"), Ok(Some(b"z".as_slice())));
        assert_eq!(section(&elf, ".modi"), Ok(None));
        for length in 0..elf.len() {
            assert_eq!(section(&elf[..length], ".modinfo"), Err(ElfError::Format));
        }
    }

    #[test]
    fn only_a_static_program_for_this_machine_passes() {
        assert_eq!(check_static(&file(&[], 1)), Ok(()));
        assert_eq!(check_static(&file(&[], 3)), Err(ElfError::Dynamic));
        assert_eq!(check_static(&file(&[], 2)), Err(ElfError::Format));
        assert_eq!(check_static(b"#!/bin/sh\n"), Err(ElfError::Format));
        let mut arm = file(&[], 1);
        arm[0x12] = 183;
        assert_eq!(check_static(&arm), Err(ElfError::Format));
    }

    /// The program that runs this test is a dynamic one, or a static one: both are read.
    #[test]
    fn a_real_program_is_read() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_ne!(check_static(&own), Err(ElfError::Format));
        assert!(
            section(&own, ".text")
                .unwrap()
                .is_some_and(|t| t.len() > 1_000)
        );
    }
}
