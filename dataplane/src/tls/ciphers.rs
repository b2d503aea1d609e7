//! OpenSSL's names of cipher suites, as Octavia stores them.

use krater_model::FieldError;
use krater_model::state::TlsVersion;
use rustls::{CipherSuite, SupportedCipherSuite};

/// OpenSSL's name of each suite that exists here.
const NAMES: [(&str, CipherSuite); 9] = [
    (
        "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_AES_256_GCM_SHA384,
    ),
    (
        "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_128_GCM_SHA256,
    ),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// What came of a list.
pub(super) struct Chosen {
    /// In the order in which they are preferred.
    pub(super) suites: Vec<SupportedCipherSuite>,
    /// Names that do not exist here.
    pub(super) dropped: Vec<String>,
}

/// What of `wanted` exists in `available`, in the order of `wanted`; all, the cheapest first, when nothing is wanted. As
/// with OpenSSL's `ciphers`, a list without TLS 1.3 names leaves the TLS 1.3 suites alone. Refused
/// when nothing would be left of the list, or of a version that is the only one.
pub(super) fn choose(
    wanted: &[String],
    versions: &[TlsVersion],
    available: &[SupportedCipherSuite],
) -> Result<Chosen, FieldError> {
    if wanted.is_empty() {
        let mut suites = available.to_vec();
        // AES-128 is no less safe in TLS, and SHA-256 has instructions of its own where SHA-384 has none.
        suites.sort_by_key(|suite| !format!("{:?}", suite.suite()).contains("AES_128"));
        return Ok(Chosen {
            suites,
            dropped: Vec::new(),
        });
    }
    let named = |name: &String| {
        let (_, suite) = NAMES.iter().find(|(known, _)| known == name)?;
        available.iter().find(|a| a.suite() == *suite).copied()
    };
    let unknown = wanted.iter().filter(|name| named(name).is_none());
    let dropped: Vec<String> = unknown.cloned().collect();
    let mut suites: Vec<_> = wanted.iter().filter_map(named).collect();
    let refused = || {
        let known: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
        let why = format!(
            "none of {} can be used: use some of {}",
            wanted.join(":"),
            known.join(":")
        );
        FieldError::new("ciphers", why)
    };
    if suites.is_empty() {
        return Err(refused());
    }
    if !suites.iter().any(|s| s.tls13().is_some()) {
        suites.extend(available.iter().filter(|s| s.tls13().is_some()));
    }
    if versions == [TlsVersion::Tls12] && suites.iter().all(|s| s.tls13().is_some()) {
        return Err(refused());
    }
    if !dropped.is_empty() {
        tracing::info!(
            dropped = dropped.join(":"),
            "ciphers that do not exist here are left out"
        );
    }
    Ok(Chosen { suites, dropped })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str], versions: &[TlsVersion]) -> Result<Vec<CipherSuite>, FieldError> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let available = crate::tls::provider().cipher_suites;
        let chosen = choose(&wanted, versions, &available)?;
        let known = |name: &String| NAMES.iter().any(|(known, _)| known == name);
        let unknown: Vec<_> = wanted.iter().filter(|name| !known(name)).collect();
        assert_eq!(Vec::from_iter(&chosen.dropped), unknown);
        Ok(chosen.suites.iter().map(|s| s.suite()).collect())
    }

    #[test]
    fn what_the_model_names_exists() {
        let available = crate::tls::provider().cipher_suites;
        for (i, (name, tls13)) in krater_model::state::TLS_CIPHERS.into_iter().enumerate() {
            assert_eq!(NAMES[i].0, name);
            let suite = available.iter().find(|a| a.suite() == NAMES[i].1).unwrap();
            assert_eq!(suite.tls13().is_some(), tls13, "{name}");
        }
        assert_eq!(NAMES.len(), krater_model::state::TLS_CIPHERS.len());
    }

    #[test]
    fn octavias_default_list_loses_its_dhe_names() {
        let list = "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:\
                    DHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384:\
                    ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-SHA256";
        let list: Vec<_> = list.split(':').collect();
        assert_eq!(names(&list, &[]).unwrap().len(), 5);
    }

    #[test]
    fn order_is_kept_and_tls13_comes_by_itself() {
        let got = names(&["ECDHE-RSA-AES128-GCM-SHA256"], &[]).unwrap();
        assert_eq!(got[0], CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256);
        assert_eq!(got.len(), 4);
    }

    #[test]
    fn nothing_left_is_refused_by_name() {
        let error = names(&["DHE-RSA-AES256-GCM-SHA384"], &[]).unwrap_err();
        assert!(
            error.field == "ciphers" && error.why.contains("DHE-RSA-AES256"),
            "{error}"
        );
        assert!(names(&["TLS_AES_128_GCM_SHA256"], &[TlsVersion::Tls12]).is_err());
    }
}
