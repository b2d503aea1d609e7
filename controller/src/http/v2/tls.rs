//! What requests say about TLS of listeners and pools.

use crate::app::Error;
use crate::app::tls::{ListenerChange, ListenerTls, MAX_SNI, PoolChange, PoolTls, alpn, versions};
use crate::http::body::{Body, Field, TEXT};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Longest list of ciphers, upstream's limit.
const MAX_CIPHERS: usize = 2_048;

type Words = Option<Option<Vec<String>>>;

/// A list of words, checked by itself; null is the default.
fn words(
    body: &Body,
    name: &str,
    check: fn(&[String]) -> Result<(), Error>,
) -> Result<Words, Error> {
    let list = body.list(name, |value| match value.as_str() {
        Some(text) if text.len() <= TEXT => Ok(text.to_owned()),
        _ => Err("Value should be string".into()),
    })?;
    let list = list.map(distinct);
    if let Field::Set(list) = &list {
        check(list)?;
    }
    Ok(list.change_or_clear())
}

/// Each once, in their order.
fn distinct(mut list: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    list.retain(|text| seen.insert(text.clone()));
    list
}

/// A reference; an empty text is none.
fn reference(body: &Body, name: &str) -> Result<Option<Option<String>>, Error> {
    let text = body.text(name, TEXT)?.change_or_clear();
    Ok(text.map(|text| text.filter(|text| !text.is_empty())))
}

/// The attributes of a listener, of a create as of an update.
pub(super) fn listener(body: &Body) -> Result<ListenerChange, Error> {
    let sni = body.list("sni_container_refs", |value| match value.as_str() {
        Some(text) if text.chars().count() <= TEXT => Ok(text.to_owned()),
        _ => Err(format!(
            "References of at most {TEXT} characters are expected"
        )),
    })?;
    let sni = sni.map(distinct);
    if let Field::Set(list) = &sni
        && list.len() > MAX_SNI
    {
        return Err(Error::validation(format!(
            "sni_container_refs: at most {MAX_SNI} are supported"
        )));
    }
    let modes = &["MANDATORY", "NONE", "OPTIONAL"];
    Ok(ListenerChange {
        default_ref: reference(body, "default_tls_container_ref")?,
        sni_refs: sni.change(Vec::new()),
        client_ca_ref: reference(body, "client_ca_tls_container_ref")?,
        client_crl_ref: reference(body, "client_crl_container_ref")?,
        client_authentication: body
            .choice("client_authentication", modes)?
            .change("NONE".into()),
        ciphers: body.text("tls_ciphers", MAX_CIPHERS)?.change_or_clear(),
        versions: words(body, "tls_versions", versions)?,
        alpn: words(body, "alpn_protocols", alpn)?,
        hsts_max_age: body.int("hsts_max_age", 0, i32::MAX)?.change_or_clear(),
        hsts_include_subdomains: body.bool("hsts_include_subdomains")?.change(false),
        hsts_preload: body.bool("hsts_preload")?.change(false),
    })
}

/// The attributes of a pool, of a create as of an update.
pub(super) fn pool(body: &Body) -> Result<PoolChange, Error> {
    Ok(PoolChange {
        enabled: body.bool("tls_enabled")?.change(false),
        certificate_ref: reference(body, "tls_container_ref")?,
        ca_ref: reference(body, "ca_tls_container_ref")?,
        crl_ref: reference(body, "crl_container_ref")?,
        ciphers: body.text("tls_ciphers", MAX_CIPHERS)?.change_or_clear(),
        versions: words(body, "tls_versions", versions)?,
        alpn: words(body, "alpn_protocols", alpn)?,
    })
}

/// Puts the attributes into what is shown of a listener.
pub(super) fn show_listener(tls: Option<ListenerTls>, shown: &mut Value) {
    let on = tls.is_some();
    let tls = tls.unwrap_or_default();
    let or_null = |value: Value| if on { value } else { Value::Null };
    shown["default_tls_container_ref"] = json!(tls.default_ref);
    shown["sni_container_refs"] = json!(tls.sni_refs);
    shown["client_ca_tls_container_ref"] = json!(tls.client_ca_ref);
    shown["client_crl_container_ref"] = json!(tls.client_crl_ref);
    shown["client_authentication"] = json!(tls.client_authentication);
    shown["tls_ciphers"] = or_null(json!(tls.ciphers));
    shown["tls_versions"] = or_null(json!(tls.versions));
    shown["alpn_protocols"] = or_null(json!(tls.alpn));
    shown["hsts_max_age"] = json!(tls.hsts_max_age);
    shown["hsts_include_subdomains"] = json!(tls.hsts_include_subdomains);
    shown["hsts_preload"] = json!(tls.hsts_preload);
}

/// Puts the attributes into what is shown of a pool.
pub(super) fn show_pool(tls: Option<PoolTls>, shown: &mut Value) {
    let tls = tls.unwrap_or_default();
    shown["tls_enabled"] = json!(tls.enabled);
    shown["tls_container_ref"] = json!(tls.certificate_ref);
    shown["ca_tls_container_ref"] = json!(tls.ca_ref);
    shown["crl_container_ref"] = json!(tls.crl_ref);
    shown["tls_ciphers"] = json!(tls.ciphers);
    shown["tls_versions"] = json!(tls.versions);
    shown["alpn_protocols"] = json!(tls.alpn);
}
