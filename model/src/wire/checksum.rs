//! The Internet checksum (RFC 1071): the complement of a one's complement sum of 16-bit words.

/// Adds bytes to a sum; all but the last part of a message have an even length.
#[must_use]
#[inline]
pub fn sum(bytes: &[u8], start: u64) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let whole: u64 = words
        .by_ref()
        .map(|word| match word {
            [high, low] => u64::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        })
        .sum();
    let odd = words.remainder().first().map_or(0, |b| u64::from(*b) << 8);
    start + whole + odd
}

/// Folds the carries of a sum into 16 bits. Over a message with its checksum: 0xffff.
#[must_use]
#[inline]
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}
