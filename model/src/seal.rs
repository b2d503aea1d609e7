//! Sealing of secrets at rest: AES-256-GCM under a key that its owner keeps apart from what it seals.

use crate::{FieldError, Secret};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use std::fmt;
use zeroize::Zeroizing;

/// A key that seals. Nonces are random; far fewer than 2^32 texts are ever sealed under one key.
pub struct SealKey {
    seal: RandomizedNonceKey,
    derive: hmac::Key,
}

impl SealKey {
    /// Reads 64 hex digits.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let wrong = || FieldError::new("seal_key", "the file must hold 64 hex digits");
        let text = text.trim();
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(32));
        for at in (0..64).step_by(2) {
            let pair = text.get(at..at + 2).ok_or_else(wrong)?;
            bytes.push(u8::from_str_radix(pair, 16).map_err(|_| wrong())?);
        }
        Ok(Self {
            seal: RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| wrong())?,
            derive: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
        })
    }

    /// Seals `plain`; the result can be opened only together with the same `context`. None when the
    /// library fails, which it does only without randomness.
    pub fn seal(&self, plain: &[u8], context: &[u8]) -> Option<Vec<u8>> {
        let mut text = plain.to_vec();
        let nonce = self
            .seal
            .seal_in_place_append_tag(Aad::from(context), &mut text)
            .ok()?;
        let mut out = nonce.as_ref().to_vec();
        out.append(&mut text);
        Some(out)
    }

    /// Opens what [`seal`](Self::seal) made; none when the key or context differs, or bytes were changed.
    pub fn open(&self, sealed: &[u8], context: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(sealed.to_vec());
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self
            .seal
            .open_in_place(nonce, Aad::from(context), text)
            .ok()?;
        Some(Zeroizing::new(plain.to_vec()))
    }
}

impl SealKey {
    /// 64 hex digits that only the holder of the key can make: the same for the same purpose, and for another one
    /// as good as random.
    pub fn derive(&self, purpose: &str) -> Secret {
        let tag = hmac::sign(&self.derive, format!("krater derive {purpose}").as_bytes());
        let digits = tag.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Secret::new(digits.collect::<String>())
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_it_sealed() {
        let key = SealKey::parse(&"0f".repeat(32)).unwrap();
        let sealed = key.seal(b"secret", b"here").unwrap();
        assert_eq!(key.open(&sealed, b"here").unwrap().as_slice(), b"secret");
        assert!(key.open(&sealed, b"there").is_none());
        let other = SealKey::parse(&"0e".repeat(32)).unwrap();
        assert!(other.open(&sealed, b"here").is_none());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open(&changed, b"here").is_none(), "byte {at}");
            assert!(key.open(&sealed[..at], b"here").is_none(), "cut to {at}");
        }
        assert_ne!(
            sealed,
            key.seal(b"secret", b"here").unwrap(),
            "nonces differ"
        );
    }

    #[test]
    fn derived_secrets_differ_by_key_and_purpose() {
        let [one, two] = ["0f", "0e"].map(|digits| SealKey::parse(&digits.repeat(32)).unwrap());
        assert_eq!(one.derive("a"), one.derive("a"));
        assert_ne!(one.derive("a"), one.derive("b"));
        assert_ne!(one.derive("a"), two.derive("a"));
        assert_eq!(one.derive("a").expose().len(), 64);
    }

    #[test]
    fn wrong_keys_are_refused_without_showing_them() {
        for wrong in ["", "0f", &"zz".repeat(32), &"é".repeat(32)] {
            let error = SealKey::parse(wrong).unwrap_err().to_string();
            assert_eq!(error, "seal_key: the file must hold 64 hex digits");
        }
    }
}
