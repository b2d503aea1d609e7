//! Versions, ciphers and ALPN names, with upstream's texts and defaults.

use crate::app::Error;
use krater_model::state::TLS_CIPHERS;

/// Versions that exist in Octavia, oldest first. Those before TLS 1.2 do not exist here.
pub const VERSIONS: [&str; 5] = ["SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];
const MINIMUM: &str = "TLSv1.2";
/// What a listener or pool has that was given none.
pub(super) const DEFAULT_VERSIONS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];
/// Upstream's default, OWASP's list B. The names that do not exist here are left out by the data plane.
pub const CIPHERS: &str = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:\
ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:\
ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:\
DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:DHE-RSA-CHACHA20-POLY1305";
/// Names that a listener or pool may be given, and upstream's default.
pub const ALPN: [&str; 3] = ["h2", "http/1.1", "http/1.0"];

/// A list of versions.
pub fn versions(list: &[String]) -> Result<(), Error> {
    if list.is_empty() {
        return Err(Error::validation(
            "Empty TLS version list. Either specify at least one TLS version or remove this parameter to \
             use the default.",
        ));
    }
    let index = |word: &str| VERSIONS.iter().position(|known| *known == word);
    let picked = |wanted: &dyn Fn(&str) -> bool| -> Vec<&str> {
        list.iter()
            .map(String::as_str)
            .filter(|word| wanted(word))
            .collect()
    };
    let unknown = picked(&|word| index(word).is_none());
    if !unknown.is_empty() {
        return Err(Error::validation(format!(
            "Invalid TLS versions: {}",
            unknown.join(", ")
        )));
    }
    let old = picked(&|word| index(word) < index(MINIMUM));
    if !old.is_empty() {
        return Err(Error::validation(format!(
            "Requested TLS versions are less than the minimum: {} < {MINIMUM}",
            old.join(", ")
        )));
    }
    Ok(())
}

/// ALPN names.
pub fn alpn(list: &[String]) -> Result<(), Error> {
    if list.is_empty() {
        return Err(Error::validation(
            "Empty ALPN protocol list. Either specify at least one ALPN protocol or remove this parameter \
             to use the default.",
        ));
    }
    let known = |word: &&String| ALPN.contains(&word.as_str());
    let unknown: Vec<&str> = list
        .iter()
        .filter(|w| !known(w))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        return Err(Error::validation(format!(
            "Invalid ALPN protocol: {}",
            unknown.join(", ")
        )));
    }
    Ok(())
}

/// A list in OpenSSL's names, of which the data plane can use some with these versions.
pub fn ciphers(text: &str, versions: &[String]) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-+!:@=_.".contains(c);
    if text.is_empty() || !text.chars().all(plain) {
        return Err(Error::validation(
            "Invalid characters in cipher string. Only alphanumeric, -, +, !, :, @, =, _, and . are allowed.",
        ));
    }
    let only_12 = versions == [MINIMUM];
    let usable = |name: &str| {
        let known = TLS_CIPHERS.iter().find(|(known, _)| *known == name);
        known.is_some_and(|(_, tls13)| !(only_12 && *tls13))
    };
    if split(text).any(usable) {
        return Ok(());
    }
    let names: Vec<&str> = TLS_CIPHERS.iter().map(|(name, _)| *name).collect();
    Err(Error::validation(format!(
        "none of the ciphers {text} can be used with these TLS versions: use some of {}",
        names.join(":")
    )))
}

/// The names of a list.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(':').filter(|name| !name.is_empty())
}

pub(super) fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_texts() {
        let versions = |list: &[&str]| versions(&owned(list)).map_err(|e| e.to_string());
        assert_eq!(versions(&["TLSv1.3", "TLSv1.2"]), Ok(()));
        let text = versions(&["TLSv1", "TLSv1.1", "TLSv1.2"]).unwrap_err();
        assert!(
            text.ends_with("less than the minimum: TLSv1, TLSv1.1 < TLSv1.2"),
            "{text}"
        );
        let text = versions(&["TLSv1.4"]).unwrap_err();
        assert_eq!(text, "Validation failure: Invalid TLS versions: TLSv1.4");
        assert!(versions(&[]).is_err());
        assert!(alpn(&owned(&ALPN)).is_ok());
        assert!(alpn(&owned(&["spdy/3"])).is_err() && alpn(&[]).is_err());
        let both = owned(&DEFAULT_VERSIONS);
        assert!(ciphers(CIPHERS, &both).is_ok());
        assert!(ciphers("TLS_AES_128_GCM_SHA256", &both).is_ok());
        assert!(ciphers("TLS_AES_128_GCM_SHA256", &owned(&["TLSv1.2"])).is_err());
        for wrong in ["", "DHE-RSA-AES256-SHA256", "a b", "HIGH\n"] {
            assert!(ciphers(wrong, &both).is_err(), "{wrong:?}");
        }
    }
}
