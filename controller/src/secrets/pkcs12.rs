//! PKCS#12 (RFC 7292) without a pass phrase, as Octavia's users store certificates: key, certificate and
//! chain in one file.
//!
//! What OpenSSL 3, Java and Python's cryptography write is read: nothing, or AES-CBC with PBKDF2 (PBES2), and
//! an HMAC. The older RC2 and Triple-DES are refused with the command that replaces them.

use super::der::{CONTEXT_0, CONTEXT_0_PRIMITIVE, Der, OCTET_STRING, OID, SEQUENCE, SET};
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptionContext, PaddedBlockDecryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;
use zeroize::Zeroizing;

/// Rounds of key derivation in one file, all together: Java's 10,000 and OpenSSL's 2,048 for each part are
/// far below, and half a second of one core is what a stranger can ask for.
const MAX_ROUNDS: u32 = 1_000_000;
/// Certificates in one file: a chain has four.
const MAX_CERTIFICATES: usize = 32;
/// Bags inside bags.
const MAX_DEPTH: usize = 4;

/// What was in a file.
#[derive(Debug, Default)]
pub struct Contents {
    /// The private key, PKCS#8 in DER.
    pub key: Option<Zeroizing<Vec<u8>>>,
    /// Certificates in DER, in the order of the file.
    pub certificates: Vec<Vec<u8>>,
}

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The bytes are not what RFC 7292 says.
    #[error("not PKCS#12 in DER: {0}")]
    Malformed(&'static str),
    /// Neither of the two forms of an empty pass phrase fits.
    #[error("the file is protected by a pass phrase, or damaged")]
    PassPhrase,
    /// Another way of protecting.
    #[error(
        "{0} is not supported: make the file anew by openssl pkcs12 -export -keypbe AES-256-CBC \
         -certpbe AES-256-CBC -macalg sha256 -passout pass:"
    )]
    Unsupported(&'static str),
    /// More than anybody needs.
    #[error("{0} is more than is read")]
    TooMuch(&'static str),
}

const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x06];
/// bagtypes without their last number.
const BAGS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01];
const X509_CERTIFICATE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x16, 0x01];
const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
/// HMACs without their last number (RFC 8018 appendix B.1).
const HMACS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02];
/// AES without its last number.
const AES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01];
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
/// SHA-2 without its last number.
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// Reads a file.
pub fn read(file: &[u8]) -> Result<Contents, Unreadable> {
    let bad = |what| move || Unreadable::Malformed(what);
    let mut outer = Der::new(file);
    let mut pfx = outer.inside(SEQUENCE).ok_or_else(bad("no SEQUENCE"))?;
    if pfx.number() != Some(3) {
        return Err(Unreadable::Malformed("the version is not 3"));
    }
    let mut safe = pfx.inside(SEQUENCE).ok_or_else(bad("authSafe"))?;
    if safe.take(OID) != Some(DATA) {
        return Err(Unreadable::Unsupported(
            "a file that is signed with a public key",
        ));
    }
    let mut content = safe.inside(CONTEXT_0).ok_or_else(bad("authSafe content"))?;
    let content = content
        .take(OCTET_STRING)
        .ok_or_else(bad("authSafe content"))?;
    let mut reader = Reader {
        rounds: 0,
        contents: Contents::default(),
    };
    if !pfx.is_empty() {
        let mac = pfx.inside(SEQUENCE).ok_or_else(bad("macData"))?;
        reader.check_mac(mac, content)?;
    }
    let mut parts = Der::new(content);
    let mut parts = parts
        .inside(SEQUENCE)
        .ok_or_else(bad("AuthenticatedSafe"))?;
    while !parts.is_empty() {
        let part = parts.inside(SEQUENCE).ok_or_else(bad("ContentInfo"))?;
        reader.part(part)?;
    }
    Ok(reader.contents)
}

struct Reader {
    rounds: u32,
    contents: Contents,
}

impl Reader {
    fn spend(&mut self, rounds: u32) -> Result<NonZeroU32, Unreadable> {
        self.rounds = self.rounds.saturating_add(rounds);
        if self.rounds > MAX_ROUNDS {
            return Err(Unreadable::TooMuch("the number of iterations"));
        }
        NonZeroU32::new(rounds).ok_or(Unreadable::Malformed("no iterations"))
    }

    /// RFC 7292 section 5.1 with the key of appendix B.2, for both forms of an empty pass phrase: some
    /// write the two zero bytes that end a BMPString, some nothing.
    fn check_mac(&mut self, mut mac: Der<'_>, content: &[u8]) -> Result<(), Unreadable> {
        let bad = || Unreadable::Malformed("macData");
        let mut info = mac.inside(SEQUENCE).ok_or_else(bad)?;
        let mut algorithm = info.inside(SEQUENCE).ok_or_else(bad)?;
        let hash = algorithm.take(OID).ok_or_else(bad)?;
        let expected = info.take(OCTET_STRING).ok_or_else(bad)?;
        let salt = mac.take(OCTET_STRING).ok_or_else(bad)?;
        let rounds = match mac.is_empty() {
            true => 1,
            false => mac.number().ok_or_else(bad)?,
        };
        let (hash, algorithm) = match hash {
            SHA1 => (
                &digest::SHA1_FOR_LEGACY_USE_ONLY,
                hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            ),
            hash => match hash.strip_prefix(SHA2) {
                Some([1]) => (&digest::SHA256, hmac::HMAC_SHA256),
                Some([2]) => (&digest::SHA384, hmac::HMAC_SHA384),
                Some([3]) => (&digest::SHA512, hmac::HMAC_SHA512),
                Some([4]) => (&digest::SHA224, hmac::HMAC_SHA224),
                _ => return Err(Unreadable::Unsupported("the MAC's algorithm")),
            },
        };
        for pass_phrase in [&[0, 0][..], &[]] {
            let rounds = self.spend(rounds)?;
            let key = mac_key(hash, pass_phrase, salt, rounds)?;
            let key = hmac::Key::new(algorithm, &key);
            if hmac::verify(&key, content, expected).is_ok() {
                return Ok(());
            }
        }
        Err(Unreadable::PassPhrase)
    }

    fn part(&mut self, mut part: Der<'_>) -> Result<(), Unreadable> {
        let bad = || Unreadable::Malformed("ContentInfo");
        let kind = part.take(OID).ok_or_else(bad)?;
        let mut content = part.inside(CONTEXT_0).ok_or_else(bad)?;
        if kind == DATA {
            let plain = content.take(OCTET_STRING).ok_or_else(bad)?;
            return self.bags(plain, 0);
        }
        if kind != ENCRYPTED_DATA {
            return Err(Unreadable::Unsupported(
                "content that is encrypted for a public key",
            ));
        }
        let mut encrypted = content.inside(SEQUENCE).ok_or_else(bad)?;
        encrypted.number().ok_or_else(bad)?;
        let mut info = encrypted.inside(SEQUENCE).ok_or_else(bad)?;
        info.take(OID).ok_or_else(bad)?;
        let algorithm = info.inside(SEQUENCE).ok_or_else(bad)?;
        let text = info.take(CONTEXT_0_PRIMITIVE).ok_or_else(bad)?;
        let plain = self.decrypt(algorithm, text)?;
        self.bags(&plain, 0)
    }

    fn bags(&mut self, contents: &[u8], depth: usize) -> Result<(), Unreadable> {
        let bad = || Unreadable::Malformed("SafeContents");
        if depth > MAX_DEPTH {
            return Err(Unreadable::TooMuch("the depth of bags"));
        }
        let mut outer = Der::new(contents);
        let mut bags = outer.inside(SEQUENCE).ok_or_else(bad)?;
        while !bags.is_empty() {
            let mut bag = bags.inside(SEQUENCE).ok_or_else(bad)?;
            let kind = bag.take(OID).ok_or_else(bad)?;
            let value = bag.take(CONTEXT_0).ok_or_else(bad)?;
            if !bag.is_empty() {
                bag.take(SET).ok_or_else(bad)?;
            }
            match kind.strip_prefix(BAGS) {
                Some([1]) => self.key(Zeroizing::new(value.to_vec()))?,
                Some([2]) => {
                    let mut outer = Der::new(value);
                    let mut shrouded = outer.inside(SEQUENCE).ok_or_else(bad)?;
                    let algorithm = shrouded.inside(SEQUENCE).ok_or_else(bad)?;
                    let text = shrouded.take(OCTET_STRING).ok_or_else(bad)?;
                    let key = self.decrypt(algorithm, text)?;
                    self.key(key)?;
                }
                Some([3]) => {
                    let mut outer = Der::new(value);
                    let mut certificate = outer.inside(SEQUENCE).ok_or_else(bad)?;
                    if certificate.take(OID) != Some(X509_CERTIFICATE) {
                        return Err(Unreadable::Unsupported("a certificate that is not X.509"));
                    }
                    let mut value = certificate.inside(CONTEXT_0).ok_or_else(bad)?;
                    let der = value.take(OCTET_STRING).ok_or_else(bad)?;
                    if self.contents.certificates.len() >= MAX_CERTIFICATES {
                        return Err(Unreadable::TooMuch("the number of certificates"));
                    }
                    self.contents.certificates.push(der.to_vec());
                }
                // Revocation lists and secrets of others.
                Some([4 | 5]) => {}
                Some([6]) => self.bags(value, depth + 1)?,
                _ => return Err(Unreadable::Malformed("a bag of unknown kind")),
            }
        }
        Ok(())
    }

    fn key(&mut self, key: Zeroizing<Vec<u8>>) -> Result<(), Unreadable> {
        if self.contents.key.replace(key).is_some() {
            return Err(Unreadable::TooMuch("a second private key"));
        }
        Ok(())
    }

    /// PBES2 of RFC 8018 section 6.2, with the empty pass phrase.
    fn decrypt(
        &mut self,
        mut algorithm: Der<'_>,
        text: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
        let bad = || Unreadable::Malformed("the parameters of the encryption");
        if algorithm.take(OID) != Some(PBES2) {
            return Err(Unreadable::Unsupported("encryption other than AES (PBES2)"));
        }
        let mut parameters = algorithm.inside(SEQUENCE).ok_or_else(bad)?;
        let mut derivation = parameters.inside(SEQUENCE).ok_or_else(bad)?;
        if derivation.take(OID) != Some(PBKDF2) {
            return Err(Unreadable::Unsupported(
                "a key derivation other than PBKDF2",
            ));
        }
        let mut derivation = derivation.inside(SEQUENCE).ok_or_else(bad)?;
        let salt = derivation.take(OCTET_STRING).ok_or_else(bad)?;
        let rounds = derivation.number().ok_or_else(bad)?;
        let _length = derivation.number(); // Optional, and implied by the cipher.
        let hash = match derivation.inside(SEQUENCE) {
            None => pbkdf2::PBKDF2_HMAC_SHA1,
            Some(mut hash) => match hash.take(OID).ok_or_else(bad)?.strip_prefix(HMACS) {
                Some([7]) => pbkdf2::PBKDF2_HMAC_SHA1,
                Some([9]) => pbkdf2::PBKDF2_HMAC_SHA256,
                Some([10]) => pbkdf2::PBKDF2_HMAC_SHA384,
                Some([11]) => pbkdf2::PBKDF2_HMAC_SHA512,
                _ => return Err(Unreadable::Unsupported("the hash of the key derivation")),
            },
        };
        let mut scheme = parameters.inside(SEQUENCE).ok_or_else(bad)?;
        let (cipher, length): (&'static Algorithm, usize) =
            match scheme.take(OID).ok_or_else(bad)?.strip_prefix(AES) {
                Some([2]) => (&AES_128, 16),
                Some([22]) => (&AES_192, 24),
                Some([42]) => (&AES_256, 32),
                _ => {
                    return Err(Unreadable::Unsupported(
                        "encryption other than AES in CBC mode",
                    ));
                }
            };
        let iv = scheme.take(OCTET_STRING).ok_or_else(bad)?;
        let iv = <[u8; 16]>::try_from(iv).map_err(|_| bad())?;
        let rounds = self.spend(rounds)?;
        let mut key = Zeroizing::new(vec![0; length]);
        pbkdf2::derive(hash, rounds, salt, b"", &mut key);
        let key = UnboundCipherKey::new(cipher, &key).map_err(|_| bad())?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(|_| bad())?;
        let mut plain = Zeroizing::new(text.to_vec());
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        let length = match key.decrypt(&mut plain, context) {
            Ok(plain) => plain.len(),
            Err(_) => return Err(Unreadable::PassPhrase),
        };
        plain.truncate(length);
        Ok(plain)
    }
}

/// Key material of RFC 7292 appendix B.2 with ID 3. One round of its outer loop is enough: the key is as
/// long as the hash.
fn mac_key(
    hash: &'static digest::Algorithm,
    pass_phrase: &[u8],
    salt: &[u8],
    rounds: NonZeroU32,
) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let block = hash.block_len();
    // Repeated to a whole number of blocks.
    let filled = |text: &[u8]| -> Vec<u8> {
        let length = text.len().div_ceil(block) * block;
        text.iter().copied().cycle().take(length).collect()
    };
    let mut context = digest::Context::new(hash);
    context.update(&vec![3; block]);
    context.update(&filled(salt));
    context.update(&filled(pass_phrase));
    let mut value = context.finish();
    for _ in 1..rounds.get() {
        value = digest::digest(hash, value.as_ref());
    }
    Ok(Zeroizing::new(value.as_ref().to_vec()))
}
