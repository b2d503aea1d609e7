//! TLS of a listener.

use super::words::{self, ALPN, DEFAULT_VERSIONS, owned};
use super::{Copies, Fetched, Set, fetch, settings};
use crate::app::{AppState, Caller, Error};
use crate::db::entity::listener as listener_row;
use krater_model::state::{Hsts, ListenerTls as Desired};
use krater_model::{CertificateId, FieldError};
use serde::{Deserialize, Serialize};

const TERMINATED: &str = "TERMINATED_HTTPS";

/// What a request says. `None` keeps; an inner `None` is null.
#[derive(Debug, Clone, Default)]
pub struct ListenerChange {
    /// default_tls_container_ref
    pub default_ref: Option<Option<String>>,
    /// sni_container_refs
    pub sni_refs: Option<Vec<String>>,
    /// client_ca_tls_container_ref
    pub client_ca_ref: Option<Option<String>>,
    /// client_crl_container_ref
    pub client_crl_ref: Option<Option<String>>,
    /// client_authentication
    pub client_authentication: Option<String>,
    /// tls_ciphers; null is the default.
    pub ciphers: Option<Option<String>>,
    /// tls_versions; null is the default.
    pub versions: Option<Option<Vec<String>>>,
    /// alpn_protocols; null is the default.
    pub alpn: Option<Option<Vec<String>>>,
    /// hsts_max_age
    pub hsts_max_age: Option<Option<i32>>,
    /// hsts_include_subdomains
    pub hsts_include_subdomains: Option<bool>,
    /// hsts_preload
    pub hsts_preload: Option<bool>,
}

/// What the row of a TERMINATED_HTTPS listener keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerTls {
    /// default_tls_container_ref
    pub default_ref: Option<String>,
    /// sni_container_refs
    pub sni_refs: Vec<String>,
    /// client_ca_tls_container_ref
    pub client_ca_ref: Option<String>,
    /// client_crl_container_ref
    pub client_crl_ref: Option<String>,
    /// NONE, OPTIONAL, MANDATORY
    pub client_authentication: String,
    /// OpenSSL's names.
    pub ciphers: String,
    /// TLSv1.2, TLSv1.3
    pub versions: Vec<String>,
    /// Names.
    pub alpn: Vec<String>,
    /// Seconds.
    pub hsts_max_age: Option<i32>,
    /// Directive `includeSubDomains`.
    pub hsts_include_subdomains: bool,
    /// Directive `preload`.
    pub hsts_preload: bool,
    /// What the references were copied to.
    pub copies: Copies,
}

impl Default for ListenerTls {
    fn default() -> Self {
        Self {
            default_ref: None,
            sni_refs: Vec::new(),
            client_ca_ref: None,
            client_crl_ref: None,
            client_authentication: "NONE".into(),
            ciphers: words::CIPHERS.into(),
            versions: owned(&DEFAULT_VERSIONS),
            alpn: owned(&ALPN),
            hsts_max_age: None,
            hsts_include_subdomains: false,
            hsts_preload: false,
            copies: Copies::default(),
        }
    }
}

/// Fetches what a change refers to, before anything is locked. `old` is the row, when there is one.
pub(in crate::app) async fn prepare(
    state: &AppState,
    caller: &Caller,
    change: &ListenerChange,
    old: Option<&listener_row::Model>,
) -> Result<Fetched, Error> {
    let old = match old {
        Some(row) => ListenerTls::of(row)?,
        None => None,
    };
    let set = Set {
        certificates: change
            .default_ref
            .iter()
            .flatten()
            .chain(change.sni_refs.iter().flatten())
            .collect(),
        ca: change.client_ca_ref.as_ref().map(Option::as_ref),
        crl: change.client_crl_ref.as_ref().map(Option::as_ref),
    };
    fetch(state, caller, set, old.as_ref().map(|old| &old.copies)).await
}

impl ListenerTls {
    /// Of a row.
    pub fn of(row: &listener_row::Model) -> Result<Option<Self>, Error> {
        settings("listener", &row.id, row.tls.as_deref())
    }

    /// What results from a change for a listener of this protocol; `None` where TLS does not end.
    pub fn changed(
        protocol: &str,
        old: Option<Self>,
        change: &ListenerChange,
        fetched: &Fetched,
    ) -> Result<Option<Self>, Error> {
        if protocol != TERMINATED {
            refuse_elsewhere(protocol, change)?;
            return Ok(None);
        }
        let default = Self::default();
        let old = old.unwrap_or_default();
        let c = change.clone();
        let mut new = Self {
            default_ref: c.default_ref.unwrap_or(old.default_ref),
            sni_refs: c.sni_refs.unwrap_or(old.sni_refs),
            client_ca_ref: c.client_ca_ref.unwrap_or(old.client_ca_ref),
            client_crl_ref: c.client_crl_ref.unwrap_or(old.client_crl_ref),
            client_authentication: c.client_authentication.unwrap_or(old.client_authentication),
            ciphers: c
                .ciphers
                .map_or(old.ciphers, |v| v.unwrap_or(default.ciphers)),
            versions: c
                .versions
                .map_or(old.versions, |v| v.unwrap_or(default.versions)),
            alpn: c.alpn.map_or(old.alpn, |v| v.unwrap_or(default.alpn)),
            hsts_max_age: c.hsts_max_age.unwrap_or(old.hsts_max_age),
            hsts_include_subdomains: c
                .hsts_include_subdomains
                .unwrap_or(old.hsts_include_subdomains),
            hsts_preload: c.hsts_preload.unwrap_or(old.hsts_preload),
            copies: old.copies,
        };
        new.check()?;
        let references: Vec<&String> = new.default_ref.iter().chain(&new.sni_refs).collect();
        let (ca, crl) = (new.client_ca_ref.is_some(), new.client_crl_ref.is_some());
        new.copies = fetched.copies(&references, ca, crl, &new.copies)?;
        Ok(Some(new))
    }

    fn check(&self) -> Result<(), Error> {
        if self.default_ref.is_none() && self.sni_refs.is_empty() {
            return Err(Error::validation(format!(
                "An SNI or default certificate container reference must be provided for {TERMINATED} \
                 protocol listeners."
            )));
        }
        if self.client_authentication != "NONE" && self.client_ca_ref.is_none() {
            return Err(Error::validation(format!(
                "Client authentication setting {} requires a client CA container reference.",
                self.client_authentication
            )));
        }
        if self.client_crl_ref.is_some() && self.client_ca_ref.is_none() {
            return Err(Error::validation(
                "A client authentication CA reference is required to specify a client authentication \
                 revocation list.",
            ));
        }
        if (self.hsts_include_subdomains || self.hsts_preload) && self.hsts_max_age.is_none() {
            return Err(Error::validation(
                "HSTS configuration options hsts_include_subdomains and hsts_preload only make sense if \
                 hsts_max_age is set as well.",
            ));
        }
        words::versions(&self.versions)?;
        words::alpn(&self.alpn)?;
        words::ciphers(&self.ciphers, &self.versions)
    }

    /// As text of the row.
    pub fn to_text(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// For the desired state.
    pub fn desired(&self) -> Result<Desired, FieldError> {
        let id = |field: &str, text: &str| -> Result<CertificateId, FieldError> {
            CertificateId::try_from(text.to_owned()).map_err(|why| FieldError::new(field, why))
        };
        let certificate = |reference: &String| {
            let copy = self.copies.certificates.get(reference);
            let copy =
                copy.ok_or_else(|| FieldError::new("tls", "a certificate was not copied"))?;
            id("tls.certificates", copy)
        };
        let mut certificates = self.default_ref.iter().chain(&self.sni_refs);
        // As upstream's list of certificates: without a default the first one is it.
        let default = certificates.next().map(certificate);
        let default =
            default.ok_or_else(|| FieldError::new("tls", "there is no certificate"))??;
        let mut sni_certificates = Vec::new();
        for reference in certificates {
            let copy = certificate(reference)?;
            if copy != default && !sni_certificates.contains(&copy) {
                sni_certificates.push(copy);
            }
        }
        // An authority waits until clients are asked for certificates.
        let asks = self.client_authentication != "NONE";
        let asked = |copy: &'_ Option<String>| copy.as_deref().filter(|_| asks).map(str::to_owned);
        Ok(Desired {
            default_certificate: default,
            sni_certificates,
            versions: named("tls.versions", &self.versions)?,
            ciphers: words::split(&self.ciphers).map(str::to_owned).collect(),
            alpn: self.alpn.clone(),
            client_authentication: named("tls.client_authentication", &self.client_authentication)?,
            client_ca: asked(&self.copies.ca)
                .map(|text| id("tls.client_ca", &text))
                .transpose()?,
            client_crl: asked(&self.copies.crl)
                .map(|text| id("tls.client_crl", &text))
                .transpose()?,
            hsts: self.hsts_max_age.map(|max_age| Hsts {
                max_age: max_age.unsigned_abs(),
                include_subdomains: self.hsts_include_subdomains,
                preload: self.hsts_preload,
            }),
        })
    }
}

/// What of a change needs TLS to end at the listener.
fn refuse_elsewhere(protocol: &str, change: &ListenerChange) -> Result<(), Error> {
    let references = [
        &change.default_ref,
        &change.client_ca_ref,
        &change.client_crl_ref,
    ];
    if references.iter().any(|r| matches!(r, Some(Some(_))))
        || change
            .sni_refs
            .as_ref()
            .is_some_and(|refs| !refs.is_empty())
    {
        return Err(Error::validation(format!(
            "Certificate container references are not allowed on {protocol} protocol listeners."
        )));
    }
    if let Some(wanted) = change
        .client_authentication
        .as_ref()
        .filter(|w| *w != "NONE")
    {
        return Err(Error::validation(format!(
            "Client authentication setting {wanted} requires a client CA container reference."
        )));
    }
    if matches!(change.hsts_max_age, Some(Some(_)))
        || change.hsts_include_subdomains == Some(true)
        || change.hsts_preload == Some(true)
    {
        return Err(Error::validation(format!(
            "The HSTS feature can only be used for listeners using the {TERMINATED} protocol."
        )));
    }
    let words = [
        ("tls_ciphers", matches!(change.ciphers, Some(Some(_)))),
        ("tls_versions", matches!(change.versions, Some(Some(_)))),
        ("alpn_protocols", matches!(change.alpn, Some(Some(_)))),
    ];
    match words.iter().find(|(_, given)| *given) {
        // Upstream stores it; nothing would come of it.
        Some((name, _)) => Err(Error::validation(format!(
            "{name} can only be used for listeners using the {TERMINATED} protocol."
        ))),
        None => Ok(()),
    }
}

pub(super) fn named<T: serde::de::DeserializeOwned>(
    field: &str,
    value: &impl Serialize,
) -> Result<T, FieldError> {
    serde_json::from_value(serde_json::json!(value))
        .map_err(|error| FieldError::new(field, error.to_string()))
}
