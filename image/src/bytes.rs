//! Reading and writing little-endian numbers at byte offsets, without a panic.

/// `N` bytes at `at`.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

/// A 64-bit number that is a place in a file of ours.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(array(bytes, at)?)).ok()
}

/// `length` bytes at `at`.
pub(crate) fn slice(bytes: &[u8], at: usize, length: usize) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(length)?)
}

/// Writes `data` at `at`; nothing is written, and `None` given, when it does not fit.
pub(crate) fn put(bytes: &mut [u8], at: usize, data: &[u8]) -> Option<()> {
    bytes
        .get_mut(at..at.checked_add(data.len())?)?
        .copy_from_slice(data);
    Some(())
}
