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

fn fields(name: &X509Name<'_>) -> Vec<(String, String)> {
    name.iter_attributes()
        .map(|attribute| {
            let oid = attribute.attr_type();
            let registry = x509_parser::objects::oid_registry();
            let key = x509_parser::objects::oid2abbrev(oid, registry)
                .map_or_else(|_| oid.to_id_string(), str::to_owned);
            let value = attribute.as_str().unwrap_or_default();
            (key, value.to_owned())
        })
        .collect()
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
