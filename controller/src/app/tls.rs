//! TLS of listeners and pools: references to secrets, and the copies that are made of them.
//!
//! **Copy at use.** When a reference is set, what it refers to is read, checked and copied, sealed; the
//! amphorae get the copy. So a secret that is removed afterwards takes nothing away from what is served,
//! and neither a failover nor a later change needs it.

use super::{AppState, Caller, Error};
use crate::db::query::bundle;
use crate::secrets::bundle::{self as bundles, Bundle, Refused};
use crate::secrets::vault::Vault;
use krater_model::Secret;
use sea_orm::ConnectionTrait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;
use zeroize::Zeroizing;

mod listener;
mod pool;
mod source;
mod words;

pub(super) use listener::prepare as prepare_listener;
pub use listener::{ListenerChange, ListenerTls};
pub(super) use pool::prepare as prepare_pool;
pub use pool::{PoolChange, PoolTls};
use source::payload;
pub use words::{ALPN, CIPHERS, VERSIONS, alpn, ciphers, versions};

/// Certificates by server name of one listener: more than that is a job for several.
pub const MAX_SNI: usize = 100;

/// What a reference refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Referred {
    /// A secret.
    Secret,
    /// A container.
    Container,
}

/// Kind and id of a reference: `http://…/v1/secrets/<uuid>` or `…/v1/containers/<uuid>`. Which server it
/// names is not looked at: there is one store. It is never a path of a file.
pub fn reference(text: &str) -> Option<(Referred, String)> {
    let url = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))?;
    let (before, id) = url.trim_end_matches('/').rsplit_once('/')?;
    let (_, kind) = before.rsplit_once('/')?;
    let id: Uuid = id.parse().ok()?;
    match kind {
        "secrets" => Some((Referred::Secret, id.to_string())),
        "containers" => Some((Referred::Container, id.to_string())),
        _ => None,
    }
}

/// What the references of an object were copied to: ids of bundles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Copies {
    /// By reference.
    pub certificates: BTreeMap<String, String>,
    /// Authorities.
    pub ca: Option<String>,
    /// Revocation lists.
    pub crl: Option<String>,
}

impl Copies {
    /// All ids.
    pub fn ids(&self) -> Vec<String> {
        let certificates = self.certificates.values();
        certificates
            .chain(&self.ca)
            .chain(&self.crl)
            .cloned()
            .collect()
    }
}

/// Ids of the copies that the text of a row uses.
pub fn used(text: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Any {
        copies: Copies,
    }
    serde_json::from_str::<Any>(text).map_or_else(|_| Vec::new(), |any| any.copies.ids())
}

/// Whom a copy is sealed for.
fn owner(id: &str) -> String {
    format!("tls bundle {id}")
}

/// The PEM of a copy.
pub fn open(vault: &Vault, row: &crate::db::entity::tls_bundle::Model) -> Option<Secret> {
    let bytes = vault.open_sealed(&row.sealed, &owner(&row.id))?;
    std::str::from_utf8(&bytes).ok().map(Secret::new)
}

/// Settings as the text of a row keeps them; `kind` and `id` are the row's.
fn settings<T: serde::de::DeserializeOwned>(
    kind: &str,
    id: &str,
    text: Option<&str>,
) -> Result<Option<T>, Error> {
    text.map(serde_json::from_str).transpose().map_err(|error| {
        tracing::error!(kind, id, %error, "the row's TLS is damaged");
        let text = format!("The {kind}'s TLS settings in the database are damaged.");
        Error::new(http::StatusCode::INTERNAL_SERVER_ERROR, text)
    })
}

/// References that a request sets. `None` keeps, `Some(None)` removes.
#[derive(Debug, Default)]
struct Set<'a> {
    certificates: Vec<&'a String>,
    ca: Option<Option<&'a String>>,
    crl: Option<Option<&'a String>>,
}

/// What they refer to, read and checked, before anything is locked.
#[derive(Debug, Default)]
pub struct Fetched {
    certificates: BTreeMap<String, Bundle>,
    ca: Option<Bundle>,
    crl: Option<Bundle>,
}

/// What one reference to a certificate leads to.
enum Stored {
    /// One payload with everything.
    Whole(Zeroizing<Vec<u8>>),
    /// A container: certificate, then intermediates, and the key.
    Parts(Vec<Zeroizing<Vec<u8>>>, Zeroizing<Vec<u8>>),
}

/// None: there is no such thing.
async fn stored(state: &AppState, caller: &Caller, text: &str) -> Result<Option<Stored>, Error> {
    let id = match reference(text) {
        None => return Ok(None),
        Some((Referred::Secret, id)) => {
            return Ok(payload(state, caller, &id).await?.map(Stored::Whole));
        }
        Some((Referred::Container, id)) => id,
    };
    let Some(secrets) = source::container(state, caller, &id).await? else {
        return Ok(None);
    };
    let named = |name: &str| secrets.iter().find(|(known, _)| known == name);
    if named("private_key_passphrase").is_some() {
        return Err(Error::not_supported(
            "private_key_passphrase of a container",
        ));
    }
    let (Some((_, certificate)), Some((_, key))) = (named("certificate"), named("private_key"))
    else {
        return Ok(None);
    };
    let (Some(certificate), Some(key)) = (
        payload(state, caller, certificate).await?,
        payload(state, caller, key).await?,
    ) else {
        return Ok(None);
    };
    let mut chain = vec![certificate];
    if let Some((_, id)) = named("intermediates") {
        match payload(state, caller, id).await? {
            Some(intermediates) => chain.push(intermediates),
            None => return Ok(None),
        }
    }
    Ok(Some(Stored::Parts(chain, key)))
}

async fn one(
    state: &AppState,
    caller: &Caller,
    text: &str,
) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    match reference(text) {
        Some((Referred::Secret, id)) => payload(state, caller, &id).await,
        _ => Ok(None),
    }
}

/// Reads and checks what is set. `old` is what the object has now.
async fn fetch(
    state: &AppState,
    caller: &Caller,
    set: Set<'_>,
    old: Option<&Copies>,
) -> Result<Fetched, Error> {
    let removed_or_kept = |set: Option<Option<&String>>| !matches!(set, Some(Some(_)));
    if set.certificates.is_empty() && removed_or_kept(set.ca) && removed_or_kept(set.crl) {
        return Ok(Fetched::default());
    }
    let mut bad: Vec<&str> = Vec::new();
    let mut certificates = Vec::new();
    for text in &set.certificates {
        match stored(state, caller, text).await? {
            Some(found) => certificates.push(((*text).clone(), found)),
            None => bad.push(text),
        }
    }
    let mut ca = None;
    let mut crl = None;
    for (set, into) in [(set.ca, &mut ca), (set.crl, &mut crl)] {
        if let Some(Some(text)) = set {
            match one(state, caller, text).await? {
                Some(found) => *into = Some(found),
                None => bad.push(text),
            }
        }
    }
    if !bad.is_empty() {
        return Err(unretrievable(&bad));
    }
    // What stays is checked against what changes.
    let kept = |set: Option<Option<&String>>, id: Option<&String>| match set {
        None => id.cloned(),
        Some(_) => None,
    };
    let kept_ca = kept(set.ca, old.and_then(|old| old.ca.as_ref()));
    let kept_crl = kept(set.crl, old.and_then(|old| old.crl.as_ref()));
    let rows = bundle::load(
        state.db.read(),
        kept_ca.clone().into_iter().chain(kept_crl.clone()),
    );
    let rows = rows.await?;
    let copy = |id: Option<String>| {
        let row = rows.iter().find(|row| Some(&row.id) == id.as_ref())?;
        let pem = open(&state.vault, row)?;
        Some(Zeroizing::new(pem.expose().as_bytes().to_vec()))
    };
    let (ca_set, crl_set) = (ca.is_some(), crl.is_some());
    let ca = ca.or_else(|| copy(kept_ca));
    let crl = crl.or_else(|| copy(kept_crl));
    // Key derivation of PKCS#12 takes its time: not on a thread that serves others.
    let checked = tokio::task::spawn_blocking(move || -> Result<Fetched, Error> {
        let mut fetched = Fetched::default();
        for (text, found) in certificates {
            let made = match &found {
                Stored::Whole(payload) => bundles::certificate(payload),
                Stored::Parts(chain, key) => {
                    let chain: Vec<&[u8]> = chain.iter().map(|part| part.as_slice()).collect();
                    bundles::from_parts(&chain, key)
                }
            };
            let made = made.map_err(|refused| certificate_refused(&text, &refused))?;
            fetched.certificates.insert(text, made);
        }
        let Some(ca) = ca else {
            return Ok(fetched);
        };
        let authorities = bundles::authorities(&ca).map_err(|e| ca_refused(&e))?;
        if let Some(crl) = crl {
            let crl = bundles::revocations(&crl, &authorities).map_err(|e| crl_refused(&e))?;
            fetched.crl = crl_set.then_some(crl);
        }
        fetched.ca = ca_set.then_some(authorities);
        Ok(fetched)
    });
    checked.await.map_err(|_| {
        let text = "Reading the certificates failed.";
        Error::new(http::StatusCode::INTERNAL_SERVER_ERROR, text)
    })?
}

impl Fetched {
    /// The copies that result: the new ones, and of the old ones those that are still referred to.
    fn copies(
        &self,
        references: &[&String],
        has_ca: bool,
        has_crl: bool,
        old: &Copies,
    ) -> Result<Copies, Error> {
        let mut copies = Copies::default();
        for text in references {
            let new = self
                .certificates
                .get(*text)
                .map(|bundle| bundle.id.to_string());
            let id = new.or_else(|| old.certificates.get(*text).cloned());
            let id = id.ok_or_else(|| unretrievable(&[text]))?;
            copies.certificates.insert((*text).clone(), id);
        }
        let either = |new: &Option<Bundle>, old: &Option<String>| {
            new.as_ref()
                .map(|b| b.id.to_string())
                .or_else(|| old.clone())
        };
        copies.ca = either(&self.ca, &old.ca).filter(|_| has_ca);
        copies.crl = either(&self.crl, &old.crl).filter(|_| has_crl);
        Ok(copies)
    }

    /// Stores what was fetched; `old` is what goes out of use, perhaps.
    pub async fn keep(
        &self,
        state: &AppState,
        txn: &impl ConnectionTrait,
        old: &Copies,
    ) -> Result<(), Error> {
        bundle::touch(txn, old.ids()).await?;
        let all = self.certificates.values().chain(&self.ca).chain(&self.crl);
        for made in all {
            let id = made.id.to_string();
            let sealed = state
                .vault
                .seal(made.pem.expose().as_bytes(), &owner(&id))
                .ok_or_else(|| {
                    Error::new(http::StatusCode::INTERNAL_SERVER_ERROR, "Sealing failed.")
                })?;
            bundle::keep(txn, &id, sealed).await?;
        }
        Ok(())
    }
}

/// With the list as upstream prints it.
fn unretrievable(references: &[impl AsRef<str>]) -> Error {
    let quoted: Vec<String> = references
        .iter()
        .map(|text| format!("'{}'", text.as_ref()))
        .collect();
    Error::bad(format!(
        "Could not retrieve certificate: [{}]",
        quoted.join(", ")
    ))
}

fn certificate_refused(reference: &str, refused: &Refused) -> Error {
    match refused {
        Refused::Pkcs12(error) => Error::bad(format!(
            "The PKCS12 bundle is unreadable. Please check the PKCS12 bundle validity. In addition, make \
             sure it does not require a pass phrase. Error: {error}"
        )),
        Refused::NoName => {
            Error::bad("No CN or DNSName(s) found in certificate. The certificate is invalid.")
        }
        Refused::Mismatch => Error::validation(refused),
        other => Error::validation(format!("certificate {reference}: {other}")),
    }
}

fn ca_refused(refused: &Refused) -> Error {
    Error::validation(format!(
        "The client authentication CA certificate is invalid. It must be a valid x509 PEM format \
         certificate. Error: {refused}"
    ))
}

fn crl_refused(refused: &Refused) -> Error {
    match refused {
        Refused::NotOfAuthority => Error::validation(
            "The CRL specified is not valid for client certificate authority reference supplied.",
        ),
        other => Error::validation(format!(
            "The client authentication certificate revocation list is invalid. It must be a valid x509 PEM \
             format certificate revocation list. Error: {other}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_urls_that_end_in_an_id() {
        let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
        for (kind, word) in [
            (Referred::Secret, "secrets"),
            (Referred::Container, "containers"),
        ] {
            for base in [
                "http://h:9876/v1",
                "https://h/key-manager/v1",
                "http://[::1]:9",
            ] {
                let text = format!("{base}/{word}/{id}");
                assert_eq!(reference(&text), Some((kind, id.into())), "{text}");
                assert_eq!(reference(&format!("{text}/")), Some((kind, id.into())));
            }
        }
        for wrong in [
            id.to_owned(),
            String::new(),
            format!("/v1/secrets/{id}"),
            format!("file:///secrets/{id}"),
            format!("http://secrets/{id}"),
            format!("http://h/v1/secrets/{id}/payload"),
            format!("http://h/v1/orders/{id}"),
            "http://h/v1/secrets/../../etc/passwd".to_owned(),
            "http://h/v1/secrets/x".to_owned(),
        ] {
            assert_eq!(reference(&wrong), None, "{wrong}");
        }
    }
}
