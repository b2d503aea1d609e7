//! A qcow2 file (qemu's docs/interop/qcow2.rst, version 3) of a disk in memory.
//!
//! Empty clusters take no place, equal clusters are stored once (their reference count says how often they are used;
//! whoever writes to one gets a copy), and what can be compressed is.

use crate::bytes::put;
use std::collections::HashMap;

/// Bytes of a cluster.
pub const CLUSTER: usize = 64 * 1024;
const TABLE_ENTRIES: usize = CLUSTER / 8;
/// Reference counts of 16 bits in a cluster.
const COUNTS: usize = CLUSTER / 2;
const HEADER: usize = 104;
/// A cluster is stored compressed when that saves an eighth: reading it costs time at each boot.
const WORTH: usize = CLUSTER / 8 * 7;
const LEVEL: u8 = 9;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Where the number of sectors stands in the entry of a compressed cluster: 62 - (cluster bits - 8).
const SECTORS_AT: u32 = 54;

/// Why there is no file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Qcow2Error {
    /// The first level would need several clusters.
    #[error("a disk of {0} bytes is not supported: at most 4 TiB, in whole clusters of 64 KiB")]
    Size(usize),
    /// A cluster is used more often than can be counted.
    #[error("more than 65535 clusters of the disk are equal")]
    Count,
}

enum Stored<'a> {
    Plain(&'a [u8]),
    Packed(Vec<u8>),
}

/// The file for a disk with this content.
pub fn write(disk: &[u8]) -> Result<Vec<u8>, Qcow2Error> {
    let size = Qcow2Error::Size(disk.len());
    if disk.is_empty() || !disk.len().is_multiple_of(CLUSTER) {
        return Err(size);
    }
    let (stored, uses) = classify(disk);
    let tables = disk.len().div_ceil(CLUSTER * TABLE_ENTRIES);
    if tables > TABLE_ENTRIES {
        return Err(size);
    }
    // Header, first level, second level, table of counts, counts; then clusters as they are, then packed ones.
    let plain = stored
        .iter()
        .filter(|s| matches!(s, Stored::Plain(_)))
        .count();
    let packed: usize = stored
        .iter()
        .map(|s| match s {
            Stored::Plain(_) => 0,
            Stored::Packed(bytes) => bytes.len(),
        })
        .sum();
    let fixed = 3 + tables;
    let mut blocks = 1;
    while fixed + blocks + plain + packed.div_ceil(CLUSTER) > blocks * COUNTS {
        blocks += 1;
    }
    if blocks > TABLE_ENTRIES {
        return Err(size);
    }
    let data = fixed + blocks;
    let total = data + plain + packed.div_ceil(CLUSTER);
    let mut counts = vec![0_u16; total];
    counts.iter_mut().take(data).for_each(|count| *count = 1);

    let mut out = vec![0; total * CLUSTER];
    let (mut next_plain, mut next_packed) = (data * CLUSTER, (data + plain) * CLUSTER);
    let mut entries = Vec::new();
    for (content, users) in stored.iter().zip(&uses) {
        let (at, bytes) = match content {
            Stored::Plain(bytes) => (&mut next_plain, *bytes),
            Stored::Packed(bytes) => (&mut next_packed, bytes.as_slice()),
        };
        put(&mut out, *at, bytes).ok_or_else(|| size.clone())?;
        let place = u64::try_from(*at).map_err(|_| size.clone())?;
        let users = u16::try_from(users.len()).map_err(|_| Qcow2Error::Count)?;
        // A packed one takes whole sectors, which may be those of its neighbours too.
        let (first, last) = (*at / 512, (*at + bytes.len() - 1) / 512);
        entries.push(match content {
            Stored::Plain(_) if users == 1 => COPIED | place,
            Stored::Plain(_) => place,
            Stored::Packed(_) => COMPRESSED | ((last - first) as u64) << SECTORS_AT | place,
        });
        for cluster in first / (CLUSTER / 512)..=last / (CLUSTER / 512) {
            let count = counts.get_mut(cluster).ok_or_else(|| size.clone())?;
            *count = count.checked_add(users).ok_or(Qcow2Error::Count)?;
        }
        *at += bytes.len();
    }

    let mut set = |at: usize, data: &[u8]| put(&mut out, at, data).ok_or_else(|| size.clone());
    let at_cluster = |n: usize| ((n * CLUSTER) as u64).to_be_bytes();
    set(0, &header(disk.len(), tables, fixed - 1))?;
    for table in 0..tables {
        let entry = (COPIED | ((2 + table) * CLUSTER) as u64).to_be_bytes();
        set(CLUSTER + 8 * table, &entry)?;
    }
    for (entry, users) in entries.iter().zip(&uses) {
        for guest in users {
            set(2 * CLUSTER + 8 * guest, &entry.to_be_bytes())?;
        }
    }
    for block in 0..blocks {
        set(
            (fixed - 1) * CLUSTER + 8 * block,
            &at_cluster(fixed + block),
        )?;
    }
    for (cluster, count) in counts.iter().enumerate() {
        set(fixed * CLUSTER + 2 * cluster, &count.to_be_bytes())?;
    }
    Ok(out)
}

/// What is stored, and which clusters of the disk each one is.
fn classify(disk: &[u8]) -> (Vec<Stored<'_>>, Vec<Vec<usize>>) {
    let mut known: HashMap<&[u8], usize> = HashMap::new();
    let (mut stored, mut uses) = (Vec::new(), Vec::<Vec<usize>>::new());
    for (guest, content) in disk.chunks(CLUSTER).enumerate() {
        if content.iter().all(|b| *b == 0) {
            continue;
        }
        let index = *known.entry(content).or_insert_with(|| {
            let packed = miniz_oxide::deflate::compress_to_vec(content, LEVEL);
            stored.push(if packed.len() <= WORTH {
                Stored::Packed(packed)
            } else {
                Stored::Plain(content)
            });
            uses.push(Vec::new());
            stored.len() - 1
        });
        if let Some(users) = uses.get_mut(index) {
            users.push(guest);
        }
    }
    (stored, uses)
}

fn header(size: usize, tables: usize, count_table: usize) -> Vec<u8> {
    let wide = |n: usize| (n as u64).to_be_bytes();
    let short = |n: usize| u32::try_from(n).unwrap_or_default().to_be_bytes();
    let mut out = [
        b"QFI\xfb".as_slice(),
        &short(3),
        &[0; 12],
        &short(16),
        &wide(size),
        &[0; 4],
        &short(tables),
        &wide(CLUSTER),
        &wide(count_table * CLUSTER),
        &short(1),
        // No snapshots, no features.
        &[0; 4 + 8 + 24],
        &short(4),
        &short(HEADER),
    ]
    .concat();
    // The list of header extensions ends at once.
    out.extend_from_slice(&[0; 8]);
    out
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "files of some MiB")]
mod tests {
    use super::*;

    fn be64(bytes: &[u8], at: usize) -> u64 {
        u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn be32(bytes: &[u8], at: usize) -> usize {
        u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    /// A reader of its own: goes by the header, and counts the references as `qemu-img check` does.
    fn read(file: &[u8]) -> Vec<u8> {
        assert_eq!(&file[..8], b"QFI\xfb\0\0\0\x03");
        assert_eq!(
            (be32(file, 20), be32(file, 96), be32(file, 100)),
            (16, 4, 104)
        );
        let size = be64(file, 24) as usize;
        let mut disk = vec![0; size];
        let mut counts = vec![0_u16; file.len() / CLUSTER];
        let mut count = |from: usize, bytes: usize| {
            let clusters = from / CLUSTER..=(from + bytes - 1) / CLUSTER;
            counts[clusters].iter_mut().for_each(|count| *count += 1);
        };
        count(0, CLUSTER);
        let first = be64(file, 40) as usize;
        count(first, CLUSTER);
        let mut copied = Vec::new();
        for table in 0..be32(file, 36) {
            let entry = be64(file, first + 8 * table);
            assert_eq!(entry >> 63, 1);
            let second = (entry & !COPIED) as usize;
            count(second, CLUSTER);
            for n in 0..TABLE_ENTRIES {
                let entry = be64(file, second + 8 * n);
                let guest = (table * TABLE_ENTRIES + n) * CLUSTER;
                if entry == 0 {
                    continue;
                }
                let content = if entry & COMPRESSED != 0 {
                    assert_eq!(entry & COPIED, 0);
                    let at = (entry & ((1 << SECTORS_AT) - 1)) as usize;
                    let sectors = (entry >> SECTORS_AT & 0xff) as usize + 1;
                    let end = at / 512 * 512 + sectors * 512;
                    count(at / 512 * 512, sectors * 512);
                    miniz_oxide::inflate::decompress_slice_iter_to_slice(
                        &mut disk[guest..guest + CLUSTER],
                        std::iter::once(&file[at..end]),
                        false,
                        true,
                    )
                    .unwrap();
                    continue;
                } else {
                    let at = (entry & !COPIED) as usize;
                    count(at, CLUSTER);
                    copied.push((at / CLUSTER, entry & COPIED != 0));
                    &file[at..at + CLUSTER]
                };
                disk[guest..guest + CLUSTER].copy_from_slice(content);
            }
        }
        let table = be64(file, 48) as usize;
        count(table, be32(file, 56) * CLUSTER);
        let mut written = Vec::new();
        for n in 0..TABLE_ENTRIES {
            let block = be64(file, table + 8 * n) as usize;
            if block == 0 {
                break;
            }
            count(block, CLUSTER);
            let block = &file[block..block + CLUSTER];
            written.extend(block.chunks(2).map(|b| u16::from_be_bytes([b[0], b[1]])));
        }
        written.truncate(counts.len());
        assert_eq!(written, counts, "reference counts");
        for (cluster, flag) in copied {
            assert_eq!(flag, counts[cluster] == 1, "cluster {cluster}");
        }
        disk
    }

    /// Bytes that no compressor shortens.
    fn noise(clusters: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        (0..clusters * CLUSTER / 8).flat_map(|_| next()).collect()
    }

    #[test]
    fn empty_equal_and_compressible_clusters_take_little_and_read_back() {
        let text: Vec<u8> = (0..CLUSTER * 2)
            .map(|n| b"amphora, krater"[n % 15])
            .collect();
        let disk = [noise(3, 5), vec![0; 9 * CLUSTER], noise(2, 5), text].concat();
        let file = write(&disk).unwrap();
        assert_eq!(read(&file), disk);
        // Header, two levels, two of counts; three of noise; one for all that was compressed.
        assert_eq!(file.len(), (5 + 3 + 1) * CLUSTER);
    }

    #[test]
    fn packed_clusters_may_cross_a_boundary() {
        let mut disk = noise(40, 9);
        for cluster in disk.chunks_mut(CLUSTER) {
            cluster[20_000..].fill(3);
        }
        let file = write(&disk).unwrap();
        assert_eq!(read(&file), disk);
        assert!(file.len() < 20 * CLUSTER, "{}", file.len());
    }

    #[test]
    fn a_disk_of_more_than_one_table() {
        let mut disk = vec![0; (TABLE_ENTRIES + 2) * CLUSTER];
        disk[..CLUSTER].copy_from_slice(&noise(1, 3));
        let end = disk.len() - CLUSTER;
        disk[end..].copy_from_slice(&noise(1, 4));
        assert_eq!(read(&write(&disk).unwrap()), disk);
    }

    #[test]
    fn broken_sizes_are_refused() {
        assert_eq!(write(&[]), Err(Qcow2Error::Size(0)));
        assert_eq!(write(&[1; 512]), Err(Qcow2Error::Size(512)));
    }
}
