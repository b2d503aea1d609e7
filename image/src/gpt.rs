//! A partition table: one EFI system partition that BIOS loaders find too (UEFI 2.10, 5.3).

use crate::bytes::put;
use crate::fat::SECTOR;

/// First sector of the partition: 1 MiB, where everybody aligns.
pub const FIRST: u32 = 2_048;
/// Sectors behind the partition: the second copy of the table.
pub const BEHIND: usize = 33;
const ENTRIES: u32 = 128;
const ENTRY: u32 = 128;
/// Bytes of a header that count for its sum.
const HEADER: u32 = 92;
/// Sectors of the table.
const TABLE: usize = 32;
/// Bytes of code that a master boot record has room for.
const BOOT_CODE: usize = 440;
/// Attribute bit 2: gptmbr.bin boots from a partition that has it.
const LEGACY_BIOS_BOOTABLE: u64 = 1 << 2;
/// C12A7328-F81F-11D2-BA4B-00C04FC93EC9, an EFI system partition, as it stands on disk.
const SYSTEM_PARTITION: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xc0, 0x4f, 0xc9, 0x3e, 0xc9,
];
/// Fixed, so that two builds are equal: "KRATER-AMPHORA-", then 1 for the disk and 2 for the partition.
const DISK: [u8; 16] = *b"KRATER-AMPHORA-1";
const PARTITION: [u8; 16] = *b"KRATER-AMPHORA-2";
const NAME: &str = "amphora";

/// Why there is no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GptError {
    /// The code of the master boot record is too long.
    #[error("gptmbr.bin has {0} bytes; a master boot record has room for 440")]
    BootCode(usize),
    /// The partition does not fit, or nothing would.
    #[error("a disk of {0} sectors has no room for the boot partition")]
    Size(usize),
}

/// Head and tail of a disk of `sectors`: what stands before [`FIRST`] and in the last [`BEHIND`] sectors.
pub fn write(sectors: usize, boot_code: &[u8]) -> Result<(Vec<u8>, Vec<u8>), GptError> {
    if boot_code.len() > BOOT_CODE {
        return Err(GptError::BootCode(boot_code.len()));
    }
    let wide = |n: usize| u64::try_from(n).map_err(|_| GptError::Size(sectors));
    let first = usize::try_from(FIRST).map_err(|_| GptError::Size(sectors))?;
    let last = sectors
        .checked_sub(BEHIND + 1)
        .filter(|last| *last > first)
        .ok_or(GptError::Size(sectors))?;
    let mut entries = vec![0; TABLE * SECTOR];
    let name: Vec<u8> = NAME.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let entry = [
        SYSTEM_PARTITION.as_slice(),
        &PARTITION,
        &u64::from(FIRST).to_le_bytes(),
        &wide(last)?.to_le_bytes(),
        &LEGACY_BIOS_BOOTABLE.to_le_bytes(),
        &name,
    ]
    .concat();
    let fits = put(&mut entries, 0, &entry);
    let header = |own: usize, other: usize, at: usize| -> Result<Vec<u8>, GptError> {
        let mut out = vec![0; SECTOR];
        let mut text = [
            b"EFI PART".as_slice(),
            &[0, 0, 1, 0],
            &HEADER.to_le_bytes(),
            &[0; 8],
            &wide(own)?.to_le_bytes(),
            &wide(other)?.to_le_bytes(),
            &wide(2 + TABLE)?.to_le_bytes(),
            &wide(last)?.to_le_bytes(),
            &DISK,
            &wide(at)?.to_le_bytes(),
            &ENTRIES.to_le_bytes(),
            &ENTRY.to_le_bytes(),
            &crc32(&entries).to_le_bytes(),
        ]
        .concat();
        let sum = crc32(&text).to_le_bytes();
        put(&mut text, 16, &sum).ok_or(GptError::Size(sectors))?;
        put(&mut out, 0, &text).ok_or(GptError::Size(sectors))?;
        Ok(out)
    };
    let mut head = vec![0; first * SECTOR];
    let parts = [
        (0, protective(sectors, boot_code)),
        (SECTOR, header(1, sectors - 1, 2)?),
        (2 * SECTOR, entries.clone()),
    ];
    let all = parts
        .into_iter()
        .map(|(at, part)| put(&mut head, at, &part));
    if fits.is_none() || all.collect::<Option<Vec<()>>>().is_none() {
        return Err(GptError::Size(sectors));
    }
    let backup = header(sectors - 1, 1, sectors - 1 - TABLE)?;
    let tail = [entries, backup].concat();
    Ok((head, tail))
}

/// A master boot record that keeps old tools from the disk, with the code that finds the partition.
fn protective(sectors: usize, boot_code: &[u8]) -> Vec<u8> {
    let mut out = boot_code.to_vec();
    out.resize(BOOT_CODE, 0);
    out.extend_from_slice(b"KRAT\0\0");
    let length = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    out.extend_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    out.extend_from_slice(&length.to_le_bytes());
    out.resize(510, 0);
    out.extend_from_slice(&[0x55, 0xaa]);
    out
}

/// CRC-32 as in Ethernet and zip.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            let mask = (sum & 1).wrapping_neg();
            sum = (sum >> 1) ^ (0xedb8_8320 & mask);
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{slice, u32_at, u64_at};

    #[test]
    fn the_check_value_of_crc32() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn both_tables_hold_together() {
        let sectors = 64 * 2_048;
        let (head, tail) = write(sectors, &[0x33; 440]).unwrap();
        assert_eq!((head.len(), tail.len()), (2_048 * 512, 33 * 512));
        let last = sectors - 34;
        for (own, header, entries) in [
            (1, &head[512..604], &head[1_024..17_408]),
            (
                sectors - 1,
                &tail[32 * 512..32 * 512 + 92],
                &tail[..32 * 512],
            ),
        ] {
            let mut zeroed = header.to_vec();
            zeroed[16..20].fill(0);
            assert_eq!(u32_at(header, 16), Some(crc32(&zeroed)));
            assert_eq!(u32_at(header, 88), Some(crc32(entries)));
            assert_eq!(u64_at(header, 24), Some(own));
            assert_eq!(u64_at(header, 32), Some(sectors - own));
            assert_eq!(u64_at(header, 40), Some(34));
            assert_eq!(u64_at(header, 48), Some(last));
            assert_eq!(u64_at(entries, 32), Some(2_048));
            assert_eq!(u64_at(entries, 40), Some(last));
            assert_eq!(u64_at(entries, 48), Some(4));
        }
        assert_eq!(slice(&head, 0, 440), Some([0x33; 440].as_slice()));
        assert_eq!(head[446 + 4], 0xee);
        assert_eq!(head[510..512], [0x55, 0xaa]);
        assert_eq!(u64_at(&head, 512 + 72), Some(2));
        assert_eq!(u64_at(&tail, 32 * 512 + 72), Some(sectors - 33));
    }

    #[test]
    fn impossible_disks_are_refused() {
        assert_eq!(write(4_096, &[0; 441]), Err(GptError::BootCode(441)));
        assert_eq!(write(2_081, &[]), Err(GptError::Size(2_081)));
    }
}
