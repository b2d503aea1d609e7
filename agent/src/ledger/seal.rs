//! The ledger's secrets, sealed, as hex digits.

use std::fmt::Write as _;
use std::io;
use zeroize::Zeroizing;

pub(crate) use krater_model::seal::SealKey;

/// Seals `plain`; the result can be opened only together with the same `context`.
pub(crate) fn seal(key: &SealKey, plain: &[u8], context: &[u8]) -> io::Result<String> {
    let sealed = key.seal(plain, context);
    sealed
        .map(|bytes| to_hex(&bytes))
        .ok_or_else(|| io::Error::other("sealing failed"))
}

/// Opens what [`seal`] made; none when the key or context differs, or digits were changed.
pub(crate) fn open(key: &SealKey, sealed: &str, context: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    key.open(&from_hex(sealed)?, context)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: &u8| {
        char::from(*c)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_that_are_changed_or_cut_open_nothing() {
        let key = SealKey::parse(&"0f".repeat(32)).unwrap();
        let sealed = seal(&key, b"secret", b"here").unwrap();
        assert_eq!(open(&key, &sealed, b"here").unwrap().as_slice(), b"secret");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(open(&key, &changed, b"here").is_none(), "digit {at}");
            assert!(open(&key, &sealed[..at], b"here").is_none(), "cut to {at}");
        }
        assert!(open(&key, "zz", b"here").is_none());
    }
}
