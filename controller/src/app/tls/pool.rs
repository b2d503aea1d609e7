//! TLS from a pool to its members.

use super::listener::named;
use super::words::{self, ALPN, DEFAULT_VERSIONS, owned};
use super::{Copies, Fetched, Set, fetch, settings};
use crate::app::{AppState, Caller, Error};
use crate::db::entity::pool as pool_row;
use krater_model::state::PoolTls as Desired;
use krater_model::{CertificateId, FieldError};
use serde::{Deserialize, Serialize};

/// What a request says. `None` keeps; an inner `None` is null.
#[derive(Debug, Clone, Default)]
pub struct PoolChange {
    /// tls_enabled
    pub enabled: Option<bool>,
    /// tls_container_ref
    pub certificate_ref: Option<Option<String>>,
    /// ca_tls_container_ref
    pub ca_ref: Option<Option<String>>,
    /// crl_container_ref
    pub crl_ref: Option<Option<String>>,
    /// tls_ciphers; null is the default.
    pub ciphers: Option<Option<String>>,
    /// tls_versions; null is the default.
    pub versions: Option<Option<Vec<String>>>,
    /// alpn_protocols; null is the default.
    pub alpn: Option<Option<Vec<String>>>,
}

/// What the row of a pool keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolTls {
    /// tls_enabled; the rest waits for it.
    pub enabled: bool,
    /// tls_container_ref
    pub certificate_ref: Option<String>,
    /// ca_tls_container_ref
    pub ca_ref: Option<String>,
    /// crl_container_ref
    pub crl_ref: Option<String>,
    /// OpenSSL's names; a default once TLS is on.
    pub ciphers: Option<String>,
    /// TLSv1.2, TLSv1.3; a default once TLS is on.
    pub versions: Option<Vec<String>>,
    /// Names; a default once TLS is on.
    pub alpn: Option<Vec<String>>,
    /// What the references were copied to.
    pub copies: Copies,
}

/// Fetches what a change refers to, before anything is locked. `old` is the row, when there is one.
pub(in crate::app) async fn prepare(
    state: &AppState,
    caller: &Caller,
    change: &PoolChange,
    old: Option<&pool_row::Model>,
) -> Result<Fetched, Error> {
    let old = match old {
        Some(row) => PoolTls::of(row)?,
        None => None,
    };
    let set = Set {
        certificates: change.certificate_ref.iter().flatten().collect(),
        ca: change.ca_ref.as_ref().map(Option::as_ref),
        crl: change.crl_ref.as_ref().map(Option::as_ref),
    };
    fetch(state, caller, set, old.as_ref().map(|old| &old.copies)).await
}

impl PoolTls {
    /// Of a row.
    pub fn of(row: &pool_row::Model) -> Result<Option<Self>, Error> {
        settings("pool", &row.id, row.tls.as_deref())
    }

    /// What results from a change for a pool of this protocol; `None` when there is nothing to keep.
    pub fn changed(
        protocol: &str,
        old: Option<Self>,
        change: &PoolChange,
        fetched: &Fetched,
    ) -> Result<Option<Self>, Error> {
        let old = old.unwrap_or_default();
        let c = change.clone();
        let mut new = Self {
            enabled: c.enabled.unwrap_or(old.enabled),
            certificate_ref: c.certificate_ref.unwrap_or(old.certificate_ref),
            ca_ref: c.ca_ref.unwrap_or(old.ca_ref),
            crl_ref: c.crl_ref.unwrap_or(old.crl_ref),
            ciphers: c.ciphers.unwrap_or(old.ciphers),
            versions: c.versions.unwrap_or(old.versions),
            alpn: c.alpn.unwrap_or(old.alpn),
            copies: old.copies,
        };
        if new.crl_ref.is_some() && new.ca_ref.is_none() {
            return Err(Error::validation(
                "A CA certificate reference is required to specify a revocation list.",
            ));
        }
        if new.enabled && protocol == "HTTPS" {
            return Err(Error::validation(
                "tls_enabled is invalid while the pool protocol is 'HTTPS', which passes the client's TLS \
                 through: use HTTP, TCP, PROXY or PROXYV2.",
            ));
        }
        if new.enabled {
            new.ciphers.get_or_insert_with(|| words::CIPHERS.into());
            new.versions.get_or_insert_with(|| owned(&DEFAULT_VERSIONS));
            new.alpn.get_or_insert_with(|| owned(&ALPN));
        }
        if let Some(versions) = &new.versions {
            words::versions(versions)?;
        }
        if let Some(alpn) = &new.alpn {
            words::alpn(alpn)?;
        }
        if let Some(ciphers) = &new.ciphers {
            words::ciphers(ciphers, new.versions.as_deref().unwrap_or_default())?;
        }
        let references: Vec<&String> = new.certificate_ref.iter().collect();
        let (ca, crl) = (new.ca_ref.is_some(), new.crl_ref.is_some());
        new.copies = fetched.copies(&references, ca, crl, &new.copies)?;
        Ok(Some(new).filter(|new| *new != Self::default()))
    }

    /// As text of the row.
    pub fn to_text(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// For the desired state; `None` while it is off.
    pub fn desired(&self) -> Result<Option<Desired>, FieldError> {
        if !self.enabled {
            return Ok(None);
        }
        let id = |text: &String| -> Result<CertificateId, FieldError> {
            CertificateId::try_from(text.clone()).map_err(|why| FieldError::new("tls", why))
        };
        let ciphers = self.ciphers.as_deref().unwrap_or_default();
        Ok(Some(Desired {
            certificate: self
                .copies
                .certificates
                .values()
                .next()
                .map(id)
                .transpose()?,
            ca: self.copies.ca.as_ref().map(id).transpose()?,
            crl: self.copies.crl.as_ref().map(id).transpose()?,
            versions: named(
                "tls.versions",
                &self.versions.as_deref().unwrap_or_default(),
            )?,
            ciphers: words::split(ciphers).map(str::to_owned).collect(),
            alpn: self.alpn.clone().unwrap_or_default(),
        }))
    }
}
