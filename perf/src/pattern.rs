//! The bytes of every body: known to both ends, so that an answer is compared and not believed.

use std::sync::LazyLock;

/// Prime, so that no power of two of lost or repeated bytes goes unnoticed.
const PERIOD: usize = 65_521;
/// Longest slice that is handed out at once.
pub(crate) const SLICE: usize = 256 * 1024;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let period: Vec<u8> = (0..PERIOD)
        .map(|_| {
            // xorshift64: any sequence without short periods does.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect();
    period
        .iter()
        .copied()
        .cycle()
        .take(PERIOD + SLICE)
        .collect()
});

/// At most [`SLICE`] of the `length` bytes that follow position `at`.
pub(crate) fn slice(at: u64, length: u64) -> &'static [u8] {
    #[allow(clippy::cast_possible_truncation, reason = "smaller than PERIOD")]
    let start = (at % PERIOD as u64) as usize;
    let length = usize::try_from(length).map_or(SLICE, |n| n.min(SLICE));
    &BYTES[start..start + length]
}

/// Whether `bytes` are what stands at position `at`.
pub(crate) fn matches(mut at: u64, bytes: &[u8]) -> bool {
    bytes.chunks(SLICE).all(|part| {
        let good = slice(at, part.len() as u64) == part;
        at += part.len() as u64;
        good
    })
}

#[cfg(test)]
mod tests {
    use super::{PERIOD, SLICE, matches, slice};

    #[test]
    fn slices_join_and_faults_show() {
        let mut long = Vec::new();
        while long.len() < 3 * SLICE {
            long.extend_from_slice(slice(long.len() as u64, 100_000));
        }
        assert!(matches(0, &long) && matches(PERIOD as u64, &long));
        for fault in [0, 5, SLICE, long.len() - 1] {
            long[fault] ^= 1;
            assert!(!matches(0, &long), "{fault}");
            long[fault] ^= 1;
        }
        assert!(!matches(4_096, &long) && !matches(65_536, &long));
    }
}
