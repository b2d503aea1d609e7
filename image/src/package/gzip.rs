//! gzip (RFC 1952) without a time and a name: the compression that every dpkg reads.

use crate::gpt::crc32;

/// Level of `gzip -9`, as Debian's policy wants manual pages.
const LEVEL: u8 = 9;
/// Deflate, no flags, no time, best compression, Unix.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3];

pub(super) fn compress(data: &[u8]) -> Vec<u8> {
    let mut out = HEADER.to_vec();
    out.extend(miniz_oxide::deflate::compress_to_vec(data, LEVEL));
    out.extend_from_slice(&crc32(data).to_le_bytes());
    // The length modulo 2^32, as the format says.
    #[allow(clippy::cast_possible_truncation, reason = "modulo 2^32 is meant")]
    let length = data.len() as u32;
    out.extend_from_slice(&length.to_le_bytes());
    out
}
