//! What users store as certificates.

use krater_controller::secrets::bundle::{authorities, certificate, revocations};
use krater_controller::secrets::pkcs12;

/// Longest text of a refusal.
const REFUSAL: usize = 1_024;

/// PKCS#12 and PEM as certificate, authority and revocation list. What is accepted is accepted again in the form in
/// which amphorae get it, and stays the same.
pub(super) fn stored_certificate(data: &[u8]) {
    match certificate(data) {
        Ok(bundle) => {
            let again = certificate(bundle.pem.expose().as_bytes());
            assert_eq!(again.as_ref(), Ok(&bundle), "a bundle is its own source");
        }
        Err(refused) => assert!(refused.to_string().len() < REFUSAL, "a short refusal"),
    }
    if let Ok(bundle) = authorities(data) {
        let again = authorities(bundle.pem.expose().as_bytes());
        assert_eq!(
            again.as_ref(),
            Ok(&bundle),
            "authorities are their own source"
        );
        let _ = revocations(data, &bundle);
    }
}

/// The file format alone: also files without a private key.
pub(super) fn pkcs12_file(data: &[u8]) {
    match pkcs12::read(data) {
        Ok(contents) => assert!(contents.certificates.len() <= 32, "bounded"),
        Err(error) => assert!(!error.to_string().is_empty(), "a refusal says why"),
    }
}
