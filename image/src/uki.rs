//! A unified kernel image: systemd's EFI stub with kernel, initrd and command line as sections of the same PE file
//! (UAPI specification "Unified Kernel Image"; PE/COFF as in Microsoft's "PE Format").

use crate::bytes::{put, slice, u16_at, u32_at};

const X86_64: u16 = 0x8664;
const PE32_PLUS: u16 = 0x20b;
/// Of the COFF header and of one entry of the section table.
const COFF: usize = 24;
const SECTION: usize = 40;
/// Contains initialised data, readable.
const DATA: u32 = 0x4000_0040;
/// Sections of this size begin at multiples of it, so that a qcow2 stores the kernel and the initrd of the image once.
const LARGE: usize = crate::fat::ALIGN;
/// Sections begin at pages, whatever the stub's own do: the kernel is used where it is loaded.
const PAGE: usize = 4_096;
/// More sections than any stub has.
const MAX_SECTIONS: usize = 64;

/// Why the stub cannot be extended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UkiError {
    /// Not the PE file that we know.
    #[error("the EFI stub is not a PE32+ file for x86-64, or cut off")]
    Format,
    /// It is signed: the signature would no longer hold.
    #[error("the EFI stub is signed; fix: pin the unsigned one of package systemd-boot-efi")]
    Signed,
    /// It has the section already.
    #[error("the EFI stub has a section {0:?} already")]
    Twice(String),
    /// No room for the table.
    #[error("the EFI stub has no room for {0} more sections in its header")]
    Room(usize),
    /// A name that the table cannot hold.
    #[error("section {0:?}: a name has at most 8 bytes and a section at most 4 GiB")]
    Section(String),
}

/// The stub with these sections behind its own, in this order. Kernels go last: they may grow in memory.
pub fn extend(stub: &[u8], sections: &[(&str, &[u8])]) -> Result<Vec<u8>, UkiError> {
    Stub::parse(stub)?.extend(stub, sections)
}

/// Where things are in the headers.
#[derive(Debug, Clone, Copy)]
struct Stub {
    coff: usize,
    optional: usize,
    table: usize,
    count: usize,
    section_alignment: usize,
    file_alignment: usize,
    headers: usize,
    /// First free address and file offset behind all sections.
    next_address: usize,
    next_offset: usize,
}

impl Stub {
    fn parse(stub: &[u8]) -> Result<Self, UkiError> {
        let found = Self::read(stub).ok_or(UkiError::Format)?;
        // Entry 4 of the data directories is the certificate table.
        let directories = u32_at(stub, found.optional + 108).ok_or(UkiError::Format)?;
        let signature = u32_at(stub, found.optional + 112 + 4 * 8);
        if directories > 4 && signature != Some(0) {
            return Err(UkiError::Signed);
        }
        Ok(found)
    }

    fn read(stub: &[u8]) -> Option<Self> {
        let number = |at| usize::try_from(u32_at(stub, at)?).ok();
        let coff = (stub.starts_with(b"MZ")).then(|| number(0x3c)).flatten()?;
        let magic = slice(stub, coff, 4)? == b"PE\0\0" && u16_at(stub, coff + 4)? == X86_64;
        let optional = coff + COFF;
        if !magic || u16_at(stub, optional)? != PE32_PLUS {
            return None;
        }
        let count = usize::from(u16_at(stub, coff + 6)?);
        let table = optional + usize::from(u16_at(stub, coff + 20)?);
        let (section_alignment, file_alignment) = (number(optional + 32)?, number(optional + 36)?);
        let good = |n: usize| n.is_power_of_two() && n <= LARGE;
        if count == 0 || count > MAX_SECTIONS || !good(section_alignment) || !good(file_alignment) {
            return None;
        }
        let (mut next_address, mut next_offset) = (0, 0);
        for n in 0..count {
            let at = table + n * SECTION;
            let (size, address) = (number(at + 8)?, number(at + 12)?);
            let (stored, offset) = (number(at + 16)?, number(at + 20)?);
            next_address = next_address.max(address.checked_add(size.max(stored))?);
            next_offset = next_offset.max(offset.checked_add(stored)?);
        }
        Some(Self {
            coff,
            optional,
            table,
            count,
            section_alignment,
            file_alignment,
            headers: number(optional + 60)?,
            next_address,
            next_offset,
        })
    }

    fn extend(&self, stub: &[u8], sections: &[(&str, &[u8])]) -> Result<Vec<u8>, UkiError> {
        // What is behind the last section (symbols) is left out.
        let mut out = slice(stub, 0, self.next_offset)
            .ok_or(UkiError::Format)?
            .to_vec();
        let end = self.table + (self.count + sections.len()) * SECTION;
        if end > self.headers || self.headers > out.len() {
            return Err(UkiError::Room(sections.len()));
        }
        let (mut address, mut data) = (self.next_address, 0);
        let mut entries = Vec::new();
        for (name, content) in sections {
            let bad = || UkiError::Section((*name).to_owned());
            if self.has(stub, name) {
                return Err(UkiError::Twice((*name).to_owned()));
            }
            if name.is_empty() || name.len() > 8 {
                return Err(bad());
            }
            address = address.next_multiple_of(self.section_alignment.max(PAGE));
            let align = if content.len() >= LARGE {
                LARGE
            } else {
                self.file_alignment
            };
            let stored = content.len().next_multiple_of(self.file_alignment);
            let offset = out.len().next_multiple_of(align);
            out.resize(offset, 0);
            out.extend_from_slice(content);
            out.resize(offset + stored, 0);
            let mut entry = vec![0; SECTION];
            let numbers = [content.len(), address, stored, offset];
            put(&mut entry, 0, name.as_bytes()).ok_or_else(bad)?;
            for (n, number) in numbers.into_iter().enumerate() {
                let number = u32::try_from(number).map_err(|_| bad())?;
                put(&mut entry, 8 + 4 * n, &number.to_le_bytes()).ok_or_else(bad)?;
            }
            put(&mut entry, 36, &DATA.to_le_bytes()).ok_or_else(bad)?;
            entries.extend(entry);
            address += content.len();
            data += stored;
        }
        self.headers(&mut out, sections.len(), &entries, address, data)
            .ok_or(UkiError::Format)?;
        Ok(out)
    }

    fn headers(
        &self,
        out: &mut [u8],
        added: usize,
        entries: &[u8],
        end: usize,
        data: usize,
    ) -> Option<()> {
        put(out, self.table + self.count * SECTION, entries)?;
        let count = u16::try_from(self.count + added).ok()?;
        put(out, self.coff + 6, &count.to_le_bytes())?;
        // Time, place and number of symbols: none.
        put(out, self.coff + 8, &[0; 12])?;
        let initialised = u32_at(out, self.optional + 8)?.checked_add(u32::try_from(data).ok()?)?;
        put(out, self.optional + 8, &initialised.to_le_bytes())?;
        let size = u32::try_from(end.next_multiple_of(self.section_alignment)).ok()?;
        put(out, self.optional + 56, &size.to_le_bytes())?;
        // The checksum: firmware does not read it.
        put(out, self.optional + 64, &[0; 4])
    }

    fn has(&self, stub: &[u8], name: &str) -> bool {
        (0..self.count).any(|n| {
            let own = slice(stub, self.table + n * SECTION, 8).unwrap_or_default();
            own.strip_prefix(name.as_bytes())
                .is_some_and(|rest| rest.iter().all(|b| *b == 0))
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const AT: usize = 0x80;
    const OPTIONAL: usize = AT + 24;
    const TABLE: usize = OPTIONAL + 240;

    /// A stub with a section of code and one of data.
    pub(crate) fn stub() -> Vec<u8> {
        let mut out = vec![0; 0x800];
        out[..2].copy_from_slice(b"MZ");
        out[0x3c] = 0x80;
        out[AT..AT + 4].copy_from_slice(b"PE\0\0");
        out[AT + 4..AT + 6].copy_from_slice(&X86_64.to_le_bytes());
        out[AT + 6] = 2;
        out[AT + 8..AT + 12].fill(0x5a);
        out[AT + 20] = 240;
        let mut set = |at: usize, n: u32| out[at..at + 4].copy_from_slice(&n.to_le_bytes());
        set(OPTIONAL, u32::from(PE32_PLUS));
        set(OPTIONAL + 8, 0x200);
        set(OPTIONAL + 32, 0x1000);
        set(OPTIONAL + 36, 0x200);
        set(OPTIONAL + 56, 0x3000);
        set(OPTIONAL + 60, 0x400);
        set(OPTIONAL + 64, 77);
        set(OPTIONAL + 108, 16);
        for (n, address, offset) in [(0, 0x1000, 0x400), (1, 0x2000, 0x600)] {
            set(TABLE + n * 40 + 8, 0x180);
            set(TABLE + n * 40 + 12, address);
            set(TABLE + n * 40 + 16, 0x200);
            set(TABLE + n * 40 + 20, offset);
        }
        out[TABLE..TABLE + 5].copy_from_slice(b".text");
        out[TABLE + 40..TABLE + 45].copy_from_slice(b".sbat");
        out[0x400..0x800].fill(0xcc);
        out.extend_from_slice(b"symbols");
        out
    }

    #[test]
    fn sections_are_added_and_nothing_else_moves() {
        let kernel = vec![9; 200_000];
        let uki = extend(&stub(), &[(".cmdline", b"panic=10"), (".linux", &kernel)]).unwrap();
        let number = |at: usize| u32_at(&uki, at).unwrap() as usize;
        assert_eq!(u16_at(&uki, AT + 6), Some(4));
        assert_eq!((number(AT + 8), number(OPTIONAL + 64)), (0, 0));
        assert_eq!(uki[0x400..0x800], [0xcc; 0x400]);
        let mut last = 0x2180;
        for (n, name, content) in [
            (2, ".cmdline", b"panic=10".as_slice()),
            (3, ".linux", &kernel),
        ] {
            let at = TABLE + n * 40;
            assert!(uki[at..at + 8].starts_with(name.as_bytes()));
            let (size, address, offset) = (number(at + 8), number(at + 12), number(at + 20));
            assert_eq!(slice(&uki, offset, size), Some(content));
            assert!(address >= last && address % 0x1000 == 0);
            last = address + size;
        }
        assert_eq!(number(TABLE + 3 * 40 + 20) % LARGE, 0);
        assert_eq!(number(OPTIONAL + 56), last.next_multiple_of(0x1000));
        assert_eq!(number(OPTIONAL + 8), 0x200 + 0x200 + 200_192);
    }

    #[test]
    fn stubs_that_would_not_boot_are_refused() {
        let one = [(".linux", b"k".as_slice())];
        let good = stub();
        for length in 0..0x800 {
            assert!(extend(&good[..length], &one).is_err(), "{length} bytes");
        }
        let mut signed = good.clone();
        signed[OPTIONAL + 112 + 32] = 1;
        assert_eq!(extend(&signed, &one), Err(UkiError::Signed));
        let twice = extend(&good, &[(".sbat", b"")]);
        assert_eq!(twice, Err(UkiError::Twice(".sbat".into())));
        let names: Vec<String> = (0..14).map(|n| format!(".n{n}")).collect();
        let many: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), b"".as_slice())).collect();
        assert_eq!(extend(&good, &many), Err(UkiError::Room(14)));
        let long = extend(&good, &[(".toolong9", b"")]);
        assert_eq!(long, Err(UkiError::Section(".toolong9".into())));
        let mut arm = good.clone();
        arm[AT + 5] = 0xaa;
        assert_eq!(extend(&arm, &one), Err(UkiError::Format));
    }
}
