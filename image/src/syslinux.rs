//! Installs SYSLINUX's BIOS loader into a FAT volume, as its installer does: a boot sector that knows where the loader's
//! first sector is, and a loader that knows where its other sectors are.
//!
//! Debian ships the loader only inside its installer program, as two arrays of that program's data; they are
//! cut out of it here, so that nothing has to be run.

use crate::bytes::{array, put, slice, u16_at, u32_at};
use crate::elf;
use crate::fat::SECTOR;

/// Marks the area of the loader that an installer fills in.
const MAGIC: u32 = 0x3eb2_02fe;
/// How the loader begins.
const BANNER: &[u8] = b"\r\nSYSLINUX ";
/// Where the loader is put in memory; a run of sectors must not cross a multiple of 64 KiB there.
const LOADED_AT: usize = 0x8000;
/// The loader's auxiliary data vector: two sectors with the same content behind the loader.
const VECTOR_SECTORS: usize = 2;
const VECTOR_MAGIC: [u32; 3] = [0x5a2d_2fa5, 0xa304_1767, 0xdd28_bf64];
/// Jump and maker's name, which come before the volume's own numbers, and the code behind them.
const BOOT_HEAD: usize = 11;
const BOOT_CODE: usize = 90;
/// An entry of the list of runs: where on the disk (64 bits), and how many sectors (16 bits).
const RUN: usize = 10;
/// Sizes that a loader may have.
const SIZES: std::ops::RangeInclusive<usize> = 16 * 1024..=256 * 1024;

/// Why the loader cannot be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SyslinuxError {
    /// The program does not hold it in the form that we know.
    #[error("the installer of package syslinux holds no {0} that we know; fix: pin syslinux 6.04")]
    Unknown(&'static str),
}

/// The loader as its installer holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    boot_sector: [u8; SECTOR],
    image: Vec<u8>,
}

/// A loader for one place on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Content of LDLINUX.SYS.
    pub file: Vec<u8>,
    boot_sector: [u8; SECTOR],
}

impl Loader {
    /// Cuts the loader out of the program `syslinux` of package `syslinux`.
    pub fn from_installer(program: &[u8]) -> Result<Self, SyslinuxError> {
        let data = section(program, ".data")?;
        let boot_sector = (0..data.len().saturating_sub(SECTOR))
            .step_by(4)
            .find_map(|at| {
                let sector: [u8; SECTOR] = array(data, at)?;
                let named = sector.get(3..11) == Some(b"SYSLINUX".as_slice());
                (sector.starts_with(&[0xeb]) && named && sector.ends_with(&[0x55, 0xaa]))
                    .then_some(sector)
            })
            .ok_or(SyslinuxError::Unknown("boot sector"))?;
        let begin = data
            .windows(BANNER.len())
            .position(|window| window == BANNER)
            .ok_or(SyslinuxError::Unknown("loader"))?;
        // Its length is a constant of the program: a number of whole sectors that its data has room for.
        let constants = section(program, ".rodata")?;
        let room = data.len() - begin;
        let length = constants
            .chunks_exact(4)
            .filter_map(|word| usize::try_from(u32_at(word, 0)?).ok())
            .filter(|n| SIZES.contains(n) && n % SECTOR == 0 && *n <= room)
            .max()
            .ok_or(SyslinuxError::Unknown("length of its loader"))?;
        let image = slice(data, begin, length).ok_or(SyslinuxError::Unknown("loader"))?;
        Ok(Self {
            boot_sector,
            image: image.to_vec(),
        })
    }

    /// Bytes of LDLINUX.SYS.
    pub fn file_size(&self) -> usize {
        self.image.len() + VECTOR_SECTORS * SECTOR
    }

    /// The loader for a file that lies in one piece from sector `first` of its volume on.
    pub fn install(&self, first: u32) -> Result<Installed, SyslinuxError> {
        self.patch(first)
            .ok_or(SyslinuxError::Unknown("area to fill in"))
    }

    fn patch(&self, first: u32) -> Option<Installed> {
        let (mut file, mut boot_sector) = (self.image.clone(), self.boot_sector);
        let sectors = file.len() / SECTOR;
        let words = file.len() / 4;
        let area = (0..file.len())
            .step_by(4)
            .find(|at| u32_at(&file, *at) == Some(MAGIC))?;
        let extended = usize::from(u16_at(&file, area + 22)?);
        let field = |n: usize| Some(usize::from(u16_at(&self.image, extended + 2 * n)?));
        let (vectors, runs, room) = (field(0)?, field(5)?, field(6)?);

        put(&mut boot_sector, field(7)?, &first.to_le_bytes())?;
        put(&mut boot_sector, field(8)?, &0_u32.to_le_bytes())?;

        put(
            &mut file,
            area + 8,
            &u16::try_from(sectors).ok()?.to_le_bytes(),
        )?;
        put(
            &mut file,
            area + 10,
            &u16::try_from(VECTOR_SECTORS).ok()?.to_le_bytes(),
        )?;
        put(
            &mut file,
            area + 12,
            &u32::try_from(words).ok()?.to_le_bytes(),
        )?;

        // The boot sector knows the first one.
        let list = list_of_runs(first.checked_add(1)?, sectors - 1, room)?;
        put(&mut file, runs, &list)?;
        let end = u64::from(first) + u64::try_from(sectors).ok()?;
        put(&mut file, vectors, &end.to_le_bytes())?;
        put(&mut file, vectors + 8, &(end + 1).to_le_bytes())?;

        // With its checksum in place, all words together give the magic number.
        put(&mut file, area + 16, &[0; 4])?;
        let sum = file
            .chunks_exact(4)
            .filter_map(|word| u32_at(word, 0))
            .fold(MAGIC, u32::wrapping_sub);
        put(&mut file, area + 16, &sum.to_le_bytes())?;

        let vector = empty_vector();
        file.extend_from_slice(&vector);
        file.extend_from_slice(&vector);
        Some(Installed { file, boot_sector })
    }
}

impl Installed {
    /// Makes the volume's boot sector one that starts the loader; the volume's own numbers stay.
    pub fn adopt(&self, volume: &mut [u8]) -> Result<(), SyslinuxError> {
        let parts = [(0, BOOT_HEAD), (BOOT_CODE, SECTOR)];
        for (from, to) in parts {
            let part = self.boot_sector.get(from..to).unwrap_or_default();
            put(volume, from, part).ok_or(SyslinuxError::Unknown("volume"))?;
        }
        Ok(())
    }
}

fn section<'a>(program: &'a [u8], name: &'static str) -> Result<&'a [u8], SyslinuxError> {
    elf::section(program, name)
        .ok()
        .flatten()
        .ok_or(SyslinuxError::Unknown("data"))
}

/// `count` sectors from `first` on, in runs that do not cross 64 KiB of memory, in a list of `room` entries.
fn list_of_runs(first: u32, count: usize, room: usize) -> Option<Vec<u8>> {
    let mut list = Vec::new();
    let (mut sector, mut left, mut memory) = (u64::from(first), count, LOADED_AT);
    while left > 0 {
        let until = (memory + 1).next_multiple_of(0x1_0000);
        // A run is shorter than 64 KiB.
        let length = left.min((until - memory) / SECTOR).min(0xffff / SECTOR);
        list.extend_from_slice(&sector.to_le_bytes());
        list.extend_from_slice(&u16::try_from(length).ok()?.to_le_bytes());
        sector += u64::try_from(length).ok()?;
        left -= length;
        memory += length * SECTOR;
    }
    if list.len() > room * RUN {
        return None;
    }
    list.resize(room * RUN, 0);
    Some(list)
}

fn empty_vector() -> [u8; SECTOR] {
    let mut vector = [0; SECTOR];
    let [begin, sum, end] = VECTOR_MAGIC;
    // All words between the sum and the end are zero, so that the sum is the magic number itself.
    for (at, word) in [(0, begin), (4, sum), (SECTOR - 4, end)] {
        put(&mut vector, at, &word.to_le_bytes()).unwrap_or_default();
    }
    vector
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small offsets")]
pub(crate) mod tests {
    use super::*;
    use crate::bytes::u64_at;

    const AREA: usize = 0x28;
    const EXTENDED: usize = 0x100;
    const RUNS: usize = 0x200;
    const VECTORS: usize = 0x120;

    /// A program as Debian's, with a loader of 40 KiB.
    pub(crate) fn installer() -> Vec<u8> {
        let mut boot = vec![0x90; SECTOR];
        boot[0] = 0xeb;
        boot[3..11].copy_from_slice(b"SYSLINUX");
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        let mut image: Vec<u8> = (0..40_960_u32)
            .map(|n| (n * 7 / 5).to_le_bytes()[0])
            .collect();
        image[..BANNER.len()].copy_from_slice(BANNER);
        image[AREA..AREA + 4].copy_from_slice(&MAGIC.to_le_bytes());
        image[AREA + 22..AREA + 24].copy_from_slice(&(EXTENDED as u16).to_le_bytes());
        for (n, value) in [VECTORS, 0, 0, 0, 0, RUNS, 8, 0x5c, 0x62]
            .into_iter()
            .enumerate()
        {
            image[EXTENDED + 2 * n..][..2].copy_from_slice(&(value as u16).to_le_bytes());
        }
        let data = [vec![1; 32], boot, image, vec![2; 64]].concat();
        let constants = [512_u32, 40_960, 7].map(u32::to_le_bytes).concat();
        elf::tests::file(&[(".rodata", &constants), (".data", &data)], 1)
    }

    #[test]
    fn an_installed_loader_finds_all_its_sectors() {
        let loader = Loader::from_installer(&installer()).unwrap();
        assert_eq!(loader.file_size(), 40_960 + 1_024);
        let installed = loader.install(5_000).unwrap();
        let file = &installed.file;
        assert_eq!(file.len(), loader.file_size());
        assert_eq!(u16_at(file, AREA + 8), Some(80));
        assert_eq!(u16_at(file, AREA + 10), Some(2));
        assert_eq!(u32_at(file, AREA + 12), Some(10_240));
        let words = file[..40_960].chunks(4).map(|w| u32_at(w, 0).unwrap());
        assert_eq!(words.fold(0, u32::wrapping_add), MAGIC);
        let mut sectors = Vec::new();
        for run in file[RUNS..RUNS + 8 * RUN].chunks(RUN) {
            let (at, length) = (
                u64_at(run, 0).unwrap(),
                usize::from(u16_at(run, 8).unwrap()),
            );
            let memory = LOADED_AT + sectors.len() * SECTOR;
            if length > 0 {
                assert_eq!(memory >> 16, (memory + length * SECTOR - 1) >> 16);
            }
            sectors.extend(at..at + length);
        }
        assert_eq!(sectors, (5_001..5_080).collect::<Vec<_>>());
        assert_eq!(u64_at(file, VECTORS), Some(5_080));
        assert_eq!(u64_at(file, VECTORS + 8), Some(5_081));
        assert_eq!(file[40_960..41_472], file[41_472..]);
    }

    #[test]
    fn the_volumes_own_numbers_stay() {
        let loader = Loader::from_installer(&installer()).unwrap();
        let mut volume = vec![7; 2 * SECTOR];
        loader.install(5_000).unwrap().adopt(&mut volume).unwrap();
        assert_eq!(volume[3..11], *b"SYSLINUX");
        assert!(volume[11..90].iter().all(|b| *b == 7));
        assert_eq!(u32_at(&volume, 0x5c), Some(5_000));
        assert_eq!(u32_at(&volume, 0x62), Some(0));
        assert_eq!(volume[510..512], [0x55, 0xaa]);
        assert!(volume[512..].iter().all(|b| *b == 7));
    }

    #[test]
    fn another_program_is_refused() {
        let good = installer();
        let at = good
            .windows(4)
            .position(|w| w == MAGIC.to_le_bytes())
            .unwrap();
        let mut other = good.clone();
        other[at] ^= 1;
        let error = Loader::from_installer(&other).unwrap().install(9);
        assert_eq!(error, Err(SyslinuxError::Unknown("area to fill in")));
        for text in [b"SYSLINUX\x90".as_slice(), BANNER] {
            let mut other = good.clone();
            let at = other.windows(text.len()).position(|w| w == text).unwrap();
            other[at + 2] = b'x';
            assert!(Loader::from_installer(&other).is_err());
        }
        assert!(Loader::from_installer(b"MZ").is_err());
    }
}
