//! What users store → what amphorae take: PEM of leaf, chain and key, checked as the data plane will check it.
//!
//! A certificate that has ended is taken, as upstream's API does: whoever sets it up may want to see it.

use super::der::{Der, SEQUENCE};
use super::pkcs12;
use krater_model::{CertificateId, Secret};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use std::sync::Arc;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use zeroize::{Zeroize as _, Zeroizing};

/// Longest bundle in bytes: sealed and in base64 it fits a column of 64 KiB, and a chain of ten
/// certificates with RSA keys of 4,096 bits is a third of it.
pub const MAX_BUNDLE: usize = 45_000;

/// A bundle, content-addressed as in the desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// SHA-256 of the PEM.
    pub id: CertificateId,
    /// The PEM.
    pub pem: Secret,
}

/// Why something stored cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Neither PEM nor a PKCS#12 file that can be read.
    #[error("{0}")]
    Pkcs12(pkcs12::Unreadable),
    /// PEM, but not what is needed.
    #[error("{0}")]
    Unreadable(String),
    /// Nothing by which clients could know it.
    #[error("no common name and no DNS name")]
    NoName,
    /// The key is of another certificate.
    #[error("Key and x509 certificate do not match")]
    Mismatch,
    /// Not signed by the authority.
    #[error("not signed by the authority")]
    NotOfAuthority,
    /// Longer than [`MAX_BUNDLE`].
    #[error("the certificates and the key are more than {MAX_BUNDLE} bytes of PEM")]
    TooLong,
}

fn unreadable(why: impl std::fmt::Display) -> Refused {
    Refused::Unreadable(why.to_string())
}

/// The reader's own text repeats what it read, which may be a key.
fn not_pem(_error: rustls_pki_types::pem::Error) -> Refused {
    unreadable("not PEM")
}

/// Certificate, chain and key of one payload: PKCS#12, or PEM with all of them.
pub fn certificate(payload: &[u8]) -> Result<Bundle, Refused> {
    if is_pem(payload) {
        return from_parts(&[payload], payload);
    }
    let contents = pkcs12::read(payload).map_err(Refused::Pkcs12)?;
    let key = contents
        .key
        .ok_or_else(|| unreadable("the file holds no private key"))?;
    let certificates = contents.certificates.into_iter();
    let certificates = certificates.map(CertificateDer::from).collect();
    let key = PrivateKeyDer::Pkcs8(key.to_vec().into());
    assemble(certificates, key)
}

/// From the PEM parts of a certificate container; `chain` begins with the certificate itself.
pub fn from_parts(chain: &[&[u8]], key: &[u8]) -> Result<Bundle, Refused> {
    let mut certificates = Vec::new();
    for part in chain {
        let before = certificates.len();
        for certificate in CertificateDer::pem_slice_iter(part) {
            certificates.push(certificate.map_err(not_pem)?);
        }
        // A part that would have no effect, such as PKCS#7, is not taken.
        if certificates.len() == before {
            return Err(unreadable(
                "certificate and intermediates must be X.509 certificates in PEM",
            ));
        }
    }
    if find(key, b"ENCRYPTED PRIVATE KEY") || find(key, b"Proc-Type: 4,ENCRYPTED") {
        return Err(unreadable(
            "the private key is protected by a pass phrase: store it without",
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| unreadable("no usable private key: an unencrypted key in PEM is needed"))?;
    assemble(certificates, key)
}

/// The certificates of authorities.
pub fn authorities(payload: &[u8]) -> Result<Bundle, Refused> {
    let mut roots = RootCertStore::empty();
    let mut pem = String::new();
    for root in CertificateDer::pem_slice_iter(payload) {
        let root = root.map_err(not_pem)?;
        write(&mut pem, "CERTIFICATE", &root);
        roots.add(root).map_err(unreadable)?;
    }
    if roots.is_empty() {
        return Err(unreadable("no certificate in it"));
    }
    finish(pem)
}

/// Revocation lists, each signed by one of the `authorities`.
pub fn revocations(payload: &[u8], authorities: &Bundle) -> Result<Bundle, Refused> {
    let authority_pem = authorities.pem.expose().as_bytes();
    let of_authority: Vec<_> = CertificateDer::pem_slice_iter(authority_pem)
        .filter_map(Result::ok)
        .collect();
    let mut lists = Vec::new();
    let mut pem = String::new();
    for list in CertificateRevocationListDer::pem_slice_iter(payload) {
        let list = list.map_err(not_pem)?;
        if !of_authority.iter().any(|ca| signed_by(&list, ca)) {
            return Err(Refused::NotOfAuthority);
        }
        write(&mut pem, "X509 CRL", &list);
        lists.push(list);
    }
    if lists.is_empty() {
        return Err(unreadable("no certificate revocation list in it"));
    }
    // As the data plane will set it up.
    let mut roots = RootCertStore::empty();
    for ca in of_authority {
        roots.add(ca).map_err(unreadable)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
        .with_crls(lists)
        .build()
        .map_err(unreadable)?;
    finish(pem)
}

fn is_pem(payload: &[u8]) -> bool {
    find(payload, b"-----BEGIN ")
}

fn find(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

fn assemble(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Bundle, Refused> {
    let provider = default_provider();
    if certificates.is_empty() {
        return Err(unreadable("no certificate in it"));
    }
    let mut refusal = Refused::Mismatch;
    let leaf = certificates.iter().position(|certificate| {
        match CertifiedKey::from_der(vec![certificate.clone()], key.clone_key(), &provider) {
            Ok(_) => true,
            Err(rustls::Error::InconsistentKeys(_)) => false,
            Err(error) => {
                refusal = unreadable(error);
                false
            }
        }
    });
    let leaf = leaf.ok_or(refusal)?;
    let mut rest = certificates;
    let mut chain = vec![rest.remove(leaf)];
    if !named(&chain[0])? {
        return Err(Refused::NoName);
    }
    // RFC 5246 section 7.4.2: each certificate is followed by its issuer's. Files are in any order.
    while let Some(next) = chain.last().and_then(|last| issuer_among(last, &rest)) {
        chain.push(rest.remove(next));
    }
    chain.append(&mut rest);
    let mut pem = String::new();
    for certificate in &chain {
        write(&mut pem, "CERTIFICATE", certificate);
    }
    let (label, der) = match &key {
        PrivateKeyDer::Pkcs1(key) => ("RSA PRIVATE KEY", key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => ("EC PRIVATE KEY", key.secret_sec1_der()),
        _ => ("PRIVATE KEY", key.secret_der()),
    };
    write(&mut pem, label, der);
    finish(pem)
}

fn finish(mut pem: String) -> Result<Bundle, Refused> {
    if pem.len() > MAX_BUNDLE {
        pem.zeroize();
        return Err(Refused::TooLong);
    }
    Ok(Bundle {
        id: CertificateId::of(pem.as_bytes()),
        pem: Secret::new(pem),
    })
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Refused> {
    let parsed = X509Certificate::from_der(der);
    let (_, certificate) = parsed.map_err(|_| unreadable("Could not read X509 from PEM"))?;
    Ok(certificate)
}

fn named(der: &[u8]) -> Result<bool, Refused> {
    let certificate = parse(der)?;
    let dns = |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(_));
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    Ok(certificate.subject().iter_common_name().next().is_some()
        || alternatives.is_some_and(|names| names.value.general_names.iter().any(dns)))
}

fn issuer_among(of: &[u8], others: &[CertificateDer<'_>]) -> Option<usize> {
    let of = parse(of).ok()?;
    if of.issuer().as_raw() == of.subject().as_raw() {
        return None;
    }
    others.iter().position(|other| {
        parse(other).is_ok_and(|other| other.subject().as_raw() == of.issuer().as_raw())
    })
}

/// Whether a signed object (RFC 5280 section 5.1.1: text, algorithm, signature) is signed by the key of a
/// certificate.
fn signed_by(object: &[u8], ca: &[u8]) -> bool {
    let verified = || {
        let mut outer = Der::new(object);
        let mut object = outer.inside(SEQUENCE)?;
        let text = object.any()?.whole;
        let algorithm = object.take(SEQUENCE)?;
        let signature = object.bits()?;
        let ca = parse(ca).ok()?;
        let mut key = Der::new(ca.public_key().raw);
        let mut key = key.inside(SEQUENCE)?;
        let kind = key.take(SEQUENCE)?;
        let key = key.bits()?;
        let provider = default_provider();
        let mut known = provider.signature_verification_algorithms.all.iter();
        known.find(|known| {
            known.signature_alg_id().as_ref() == algorithm
                && known.public_key_alg_id().as_ref() == kind
                && known.verify_signature(key, text, signature).is_ok()
        })
    };
    verified().is_some()
}

/// RFC 7468.
fn write(pem: &mut String, label: &str, der: &[u8]) {
    use base64::Engine as _;
    let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    // Grown at once: what a growing text leaves behind is not cleared.
    pem.reserve(text.len() + text.len() / 64 + 2 * label.len() + 40);
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
        KeyIdMethod, KeyPair, SerialNumber, date_time_ymd,
    };

    fn ca(name: &str) -> (String, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::CrlSign,
        ];
        let pem = params.self_signed(&key).unwrap().pem();
        (pem, Issuer::new(params, key))
    }

    fn crl(issuer: &Issuer<'_, KeyPair>) -> String {
        CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2036, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(issuer)
        .unwrap()
        .pem()
        .unwrap()
    }

    fn leaf(names: &[&str], issuer: &Issuer<'_, KeyPair>) -> (String, String) {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let pem = params.signed_by(&key, issuer).unwrap().pem();
        (pem, key.serialize_pem())
    }

    #[test]
    fn the_leaf_comes_first_and_its_issuer_next() {
        let (root, issuer) = ca("root");
        let (stranger, _) = ca("stranger");
        let (cert, key) = leaf(&["www.example.com"], &issuer);
        let mixed = format!("{stranger}{root}{key}{cert}");
        let bundle = certificate(mixed.as_bytes()).unwrap();
        let clean = |pem: &str| pem.replace("\r\n", "\n");
        let expected = clean(&format!("{cert}{root}{stranger}{key}"));
        assert_eq!(bundle.pem.expose(), expected);
        assert_eq!(bundle.id, CertificateId::of(expected.as_bytes()));
        let parts = from_parts(
            &[cert.as_bytes(), root.as_bytes(), stranger.as_bytes()],
            key.as_bytes(),
        );
        assert_eq!(parts, Ok(bundle));
    }

    #[test]
    fn what_cannot_serve_is_refused() {
        let (root, issuer) = ca("root");
        let (cert, key) = leaf(&["a.example"], &issuer);
        let (_, other) = leaf(&["b.example"], &issuer);
        let (nameless, nameless_key) = leaf(&[], &issuer);
        let both = |a: &str, b: &str| certificate(format!("{a}{b}").as_bytes());
        assert_eq!(both(&cert, &other), Err(Refused::Mismatch));
        assert_eq!(both(&nameless, &nameless_key), Err(Refused::NoName));
        assert!(matches!(both(&root, ""), Err(Refused::Unreadable(_))));
        assert!(matches!(both("", &key), Err(Refused::Unreadable(_))));
        assert!(matches!(certificate(b"0\x82"), Err(Refused::Pkcs12(_))));
        let protected = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let text = both(&cert, &protected).unwrap_err().to_string();
        assert!(text.contains("pass phrase"), "{text}");
        let (cert, key) = (cert.as_bytes(), key.as_bytes());
        let pkcs7 = b"-----BEGIN PKCS7-----\nMAA=\n-----END PKCS7-----\n";
        let text = from_parts(&[cert, pkcs7], key).unwrap_err().to_string();
        assert!(text.contains("X.509"), "{text}");
        assert!(from_parts(&[cert, root.as_bytes()], key).is_ok());
        let long = root.repeat(MAX_BUNDLE / root.len() + 1);
        assert_eq!(authorities(long.as_bytes()), Err(Refused::TooLong));
    }

    #[test]
    fn a_revocation_list_must_be_of_the_authority() {
        let (root, issuer) = ca("root");
        let (_, stranger) = ca("root");
        let authority = authorities(root.as_bytes()).unwrap();
        let good = crl(&issuer);
        assert!(revocations(good.as_bytes(), &authority).is_ok());
        // Of the same name, but of another key.
        let forged = revocations(crl(&stranger).as_bytes(), &authority);
        assert_eq!(forged, Err(Refused::NotOfAuthority));
        for wrong in [root.as_bytes(), b"", b"x"] {
            assert!(revocations(wrong, &authority).is_err());
        }
        assert!(authorities(good.as_bytes()).is_err());
    }
}
