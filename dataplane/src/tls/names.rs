//! Choosing a certificate by server name.

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Exact name, then wildcard for one label, then the default. The first certificate of a name wins.
#[derive(Debug)]
pub(super) struct Resolver {
    default: Arc<CertifiedKey>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// Without `*.`
    wildcard: HashMap<String, Arc<CertifiedKey>>,
}

impl Resolver {
    pub(super) fn new(default: Arc<CertifiedKey>) -> Self {
        let mut resolver = Self {
            default: Arc::clone(&default),
            exact: HashMap::new(),
            wildcard: HashMap::new(),
        };
        // The default wins for its own names; one without names still is the default.
        let _unnamed = resolver.add(default);
        resolver
    }

    pub(super) fn add(&mut self, key: Arc<CertifiedKey>) -> Result<(), String> {
        let leaf = key.cert.first().ok_or("holds no certificate")?;
        let names = names(leaf)?;
        if names.is_empty() {
            return Err("the certificate has neither a DNS name nor a common name".into());
        }
        for name in names {
            let (map, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcard, parent.to_owned()),
                None => (&mut self.exact, name),
            };
            map.entry(name).or_insert_with(|| Arc::clone(&key));
        }
        Ok(())
    }

    fn find(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let by_name = name.and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let parent = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(parent)
        });
        by_name.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.find(hello.server_name())))
    }
}

/// DNS names of a certificate, or its common name when it has none, in lower case.
fn names(der: &[u8]) -> Result<Vec<String>, String> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|e| format!("not an X.509 certificate: {e}"))?;
    let mut names = Vec::new();
    if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
        for name in &alternatives.value.general_names {
            if let GeneralName::DNSName(name) = name {
                names.push(name.to_ascii_lowercase());
            }
        }
    }
    if names.is_empty() {
        let common = certificate.subject().iter_common_name().next();
        names.extend(
            common
                .and_then(|n| n.as_str().ok())
                .map(str::to_ascii_lowercase),
        );
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(names: &[&str]) -> Arc<CertifiedKey> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let chain = vec![made.cert.der().clone()];
        Arc::new(CertifiedKey::from_der(chain, key.unwrap(), &crate::tls::provider()).unwrap())
    }

    #[test]
    fn exact_then_one_label_wildcard_then_default() {
        let (default, wild, exact) = (
            key(&["d.example"]),
            key(&["*.Example.com"]),
            key(&["www.example.com"]),
        );
        let mut resolver = Resolver::new(Arc::clone(&default));
        resolver.add(Arc::clone(&wild)).unwrap();
        resolver.add(Arc::clone(&exact)).unwrap();
        for (name, want) in [
            (Some("www.example.com"), &exact),
            (Some("WWW.example.com."), &exact),
            (Some("api.example.com"), &wild),
            (Some("a.b.example.com"), &default),
            (Some("example.com"), &default),
            (Some("d.example"), &default),
            (None, &default),
        ] {
            assert!(Arc::ptr_eq(resolver.find(name), want), "{name:?}");
        }
    }
}
