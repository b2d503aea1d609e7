//! A client certificate as texts for headers and rules.

use crate::io::TlsInfo;
use krater_dataplane_core::exchange::ClientCertificate;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// The texts of the certificate that the client showed, if it showed one.
pub(super) fn of(tls: &TlsInfo) -> Option<Box<ClientCertificate>> {
    let der = tls.client_certificate.as_deref()?;
    // rustls verified it, so it parses; if not, rules see a certificate without names.
    let mut texts = ClientCertificate {
        sha1: sha1(der),
        ..ClientCertificate::default()
    };
    if let Ok((_, certificate)) = X509Certificate::from_der(der) {
        texts.subject_fields = fields(certificate.subject());
        texts.subject = one_line(&texts.subject_fields);
        texts.issuer = one_line(&fields(certificate.issuer()));
        texts.not_before = time(certificate.validity().not_before);
        texts.not_after = time(certificate.validity().not_after);
    }
    Some(Box::new(texts))
}

fn sha1(der: &[u8]) -> String {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, der);
    hash.as_ref().iter().map(|b| format!("{b:02X}")).collect()
}

/// OpenSSL's short names of what stands in distinguished names; others are shown by number, as HAProxy does.
const SHORT_NAMES: [(&str, &str); 25] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.45", "x500UniqueIdentifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("2.5.4.72", "role"),
    ("2.5.4.97", "organizationIdentifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

fn fields(name: &X509Name<'_>) -> Vec<(String, String)> {
    name.iter_attributes()
        .map(|attribute| {
            let oid = attribute.attr_type().to_id_string();
            let known = SHORT_NAMES.iter().find(|(number, _)| *number == oid);
            let key = known.map(|(_, short)| (*short).to_owned());
            (key.unwrap_or(oid), value(attribute))
        })
        .collect()
}

/// As UTF-8, whatever of X.520's DirectoryString it is.
fn value(attribute: &x509_parser::x509::AttributeTypeAndValue<'_>) -> String {
    use x509_parser::der_parser::asn1_rs::Tag;
    let any = attribute.attr_value();
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b));
    let wide = |width| {
        let letters = any.data.chunks(width).map(number);
        letters
            .map(|n| char::from_u32(n).unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect()
    };
    match any.tag() {
        Tag::BmpString => wide(2),
        Tag::UniversalString => wide(4),
        Tag::T61String => wide(1),
        _ => String::from_utf8_lossy(any.data).into_owned(),
    }
}

/// `/C=…/O=…/CN=…`, as HAProxy's `ssl_c_s_dn` prints it.
fn one_line(fields: &[(String, String)]) -> String {
    fields.iter().map(|(k, v)| format!("/{k}={v}")).collect()
}

/// `YYMMDDhhmmssZ`, as HAProxy's `ssl_c_notbefore` prints it.
fn time(time: x509_parser::time::ASN1Time) -> String {
    let t = time.to_datetime();
    format!(
        "{:02}{:02}{:02}{:02}{:02}{:02}Z",
        t.year().rem_euclid(100),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    )
}
