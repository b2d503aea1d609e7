//! The key manager's API (Barbican v1), as far as certificates for listeners and pools need it, so that
//! the unmodified `openstack secret` commands work. Served below `/v1`, and at the root too: without
//! Keystone the client takes its one endpoint for the service's own.

use super::call::{Call, object};
use super::envelope::{ok, with_status};
use crate::app::secret::{
    self as app, MAX_PAGE, MAX_PAYLOAD, MAX_REFERENCES, New, NewContainer, Page, Payload,
};
use crate::app::{AppState, Error, tls};
use crate::db::entity::{secret, secret_container};
use crate::db::now;
use crate::http::body::{Body, Field, TEXT};
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use base64::Engine as _;
use http::{StatusCode, header};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

/// The client asks for this service's versions by it.
const VERSION_HEADER: &str = "openstack-api-version";
/// Media types of payloads.
pub(super) const BINARY: &[&str] = &[
    "application/octet-stream",
    "application/pkcs8",
    "application/pkix-cert",
];
pub(super) const PLAIN: &str = "text/plain";
pub(super) const SECRET_TYPES: &[&str] = &[
    "certificate",
    "opaque",
    "passphrase",
    "private",
    "public",
    "symmetric",
];
const CREATE: &[&str] = &[
    "name",
    "secret_type",
    "algorithm",
    "bit_length",
    "mode",
    "expiration",
    "payload",
    "payload_content_type",
    "payload_content_encoding",
];
/// Kind of container, names that it must have, names that it may have.
const CONTAINERS: &[(&str, &[&str], &[&str])] = &[
    (
        "certificate",
        &["certificate"],
        &["private_key", "private_key_passphrase", "intermediates"],
    ),
    (
        "rsa",
        &["public_key", "private_key"],
        &["private_key_passphrase"],
    ),
    ("generic", &[], &[]),
];

/// Refusals have Barbican's body, not Octavia's.
pub(super) struct Refusal(Error);

impl<E: Into<Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.0.status();
        let text = match &self.0 {
            Error::Refused(_, text) => text.clone(),
            Error::Sql(error) => {
                tracing::error!(error = %krater_model::report(error), "database failed");
                "The database does not answer. Please try again.".to_owned()
            }
        };
        let title = status.canonical_reason().unwrap_or("Refused");
        let body = json!({"code": status.as_u16(), "title": title, "description": text});
        with_status(status, body)
    }
}

type Answer = Result<Response, Refusal>;

/// Nobody's secrets are kept where nobody looks for them.
async fn elsewhere(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match &state.barbican {
        None => next.run(request).await,
        Some(barbican) => {
            let text = format!("Secrets are kept by the key manager at {}.", barbican.url());
            Refusal(Error::new(StatusCode::NOT_FOUND, text)).into_response()
        }
    }
}

/// All routes; none of them does anything when another key manager has the secrets.
pub(super) fn guarded(state: &AppState) -> Router<AppState> {
    routes().route_layer(axum::middleware::from_fn_with_state(
        state.clone(),
        elsewhere,
    ))
}

fn routes() -> Router<AppState> {
    let mut all = Router::new().route("/v1", get(version));
    for root in ["", "/v1"] {
        all = all
            .route(&format!("{root}/secrets"), get(list).post(create))
            .route(
                &format!("{root}/secrets/{{id}}"),
                get(show).put(fill).delete(delete),
            )
            .route(&format!("{root}/secrets/{{id}}/payload"), get(payload))
            .route(
                &format!("{root}/containers"),
                get(list_containers).post(create_container),
            )
            .route(
                &format!("{root}/containers/{{id}}"),
                get(show_container).delete(delete_container),
            );
        for (path, what) in [
            ("orders", "orders"),
            ("cas", "cas"),
            ("secret-stores", "secret-stores"),
            ("secrets/{id}/acl", "acl"),
            ("secrets/{id}/metadata", "metadata"),
            ("secrets/{id}/consumers", "consumers"),
            ("containers/{id}/acl", "acl"),
            ("containers/{id}/consumers", "consumers"),
        ] {
            let refuse = move || async move { Refusal(not_supported(what)) };
            all = all.route(&format!("{root}/{path}"), any(refuse));
        }
    }
    all
}

fn not_supported(what: &str) -> Error {
    let text = format!("not supported yet: {what}");
    Error::new(StatusCode::NOT_IMPLEMENTED, text)
}

/// Whether the client that asks for versions means this service.
pub(super) fn is_meant(call: &Call) -> bool {
    call.header(VERSION_HEADER)
        .is_some_and(|value| value.starts_with("key-manager"))
}

/// What `/` answers to such a client. STABLE is what a Barbican without microversions says.
pub(super) fn versions(call: &Call) -> Response {
    ok(json!({"versions": [described(call)]}))
}

fn described(call: &Call) -> Value {
    json!({
        "id": "v1", "status": "STABLE", "updated": "2015-04-28T00:00:00Z",
        "links": [{"rel": "self", "href": format!("{}/v1/", call.base)}],
        "media-types": [{
            "base": "application/json",
            "type": "application/vnd.openstack.key-manager-v1+json",
        }],
    })
}

async fn version(call: Call) -> Response {
    ok(json!({"version": described(&call)}))
}

fn secret_ref(call: &Call, id: &str) -> String {
    format!("{}/v1/secrets/{id}", call.base)
}

fn container_ref(call: &Call, id: &str) -> String {
    format!("{}/v1/containers/{id}", call.base)
}

fn time(millis: i64) -> String {
    crate::time::format(millis)
}

fn render(call: &Call, row: &secret::Model) -> Value {
    let mut shown = json!({
        "secret_ref": secret_ref(call, &row.id),
        "name": row.name.as_ref().unwrap_or(&row.id),
        "status": "ACTIVE",
        "secret_type": row.secret_type,
        "algorithm": row.algorithm,
        "bit_length": row.bit_length,
        "mode": row.mode,
        "expiration": row.expiration.map(time),
        "creator_id": null,
        "created": time(row.created_at),
        "updated": time(row.updated_at.unwrap_or(row.created_at)),
        "consumers": [],
    });
    if let Some(content_type) = &row.content_type {
        shown["content_types"] = json!({"default": content_type});
    }
    shown
}

fn render_container(call: &Call, row: &secret_container::Model) -> Value {
    let secrets: Vec<Value> = app::references(row)
        .iter()
        .map(|(name, id)| json!({"name": name, "secret_ref": secret_ref(call, id)}))
        .collect();
    json!({
        "container_ref": container_ref(call, &row.id),
        "name": row.name.as_ref().unwrap_or(&row.id),
        "status": "ACTIVE",
        "type": row.kind,
        "secret_refs": secrets,
        "consumers": [],
        "creator_id": null,
        "created": time(row.created_at),
        "updated": time(row.created_at),
    })
}

/// Base64 as people paste it: with line breaks.
fn decoded(text: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let text: Zeroizing<String> =
        Zeroizing::new(text.chars().filter(|c| !c.is_ascii_whitespace()).collect());
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_bytes());
    let bytes = bytes.map_err(|_| {
        Error::bad("Invalid base64 string in payload: payload_content_encoding is base64.")
    })?;
    Ok(Zeroizing::new(bytes))
}

fn checked(content_type: &str, bytes: Zeroizing<Vec<u8>>) -> Result<Payload, Error> {
    if bytes.is_empty() {
        return Err(Error::bad("Provided payload is empty."));
    }
    if bytes.len() > MAX_PAYLOAD {
        return Err(Error::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("Provided information too large to process: at most {MAX_PAYLOAD} bytes."),
        ));
    }
    Ok(Payload {
        content_type: content_type.to_owned(),
        bytes,
    })
}

/// The media type without parameters; `text/plain` only as UTF-8.
fn media_type(text: &str) -> Result<&'static str, Error> {
    let lower = text.to_ascii_lowercase();
    let (kind, parameter) = lower.split_once(';').unwrap_or((&lower, ""));
    let charset = parameter
        .trim()
        .trim_start_matches("charset=")
        .trim_matches('"');
    let kind = kind.trim();
    match BINARY.iter().find(|known| **known == kind) {
        Some(known) => Ok(known),
        None if kind == PLAIN && ["", "utf-8", "utf8"].contains(&charset) => Ok(PLAIN),
        None => Err(Error::bad(format!(
            "payload_content_type {text} is not supported: use {PLAIN} or {}",
            BINARY.join(", ")
        ))),
    }
}

pub(super) fn created(map: Map<String, Value>) -> Result<New, Error> {
    let body = Body::new(Value::Object(map), "secret".into(), CREATE)?;
    let encoding = body.text("payload_content_encoding", TEXT)?.value();
    let content_type = body.text("payload_content_type", TEXT)?.value();
    let payload = match (body.raw("payload"), &content_type) {
        (Field::Set(Value::String(payload)), Some(content_type)) => {
            let kind = media_type(content_type)?;
            let bytes = match (kind, encoding.as_deref()) {
                (PLAIN, None) => Zeroizing::new(payload.clone().into_bytes()),
                (PLAIN, Some(_)) => {
                    return Err(Error::bad(
                        "payload_content_encoding must not be specified when \
                         payload_content_type is text.",
                    ));
                }
                (_, Some("base64")) => decoded(payload)?,
                _ => {
                    return Err(Error::bad(
                        "payload_content_encoding must be base64 when payload_content_type is \
                         binary.",
                    ));
                }
            };
            Some(checked(kind, bytes)?)
        }
        (Field::Set(Value::String(_)), None) => {
            let text = "payload_content_type must be supplied when payload is supplied.";
            return Err(Error::bad(text));
        }
        (Field::Set(_), _) => return Err(Error::bad("payload must be a string.")),
        (_, Some(_)) => {
            let text = "payload must be provided when payload_content_type is supplied.";
            return Err(Error::bad(text));
        }
        (_, None) => None,
    };
    let expiration = match body.text("expiration", TEXT)?.value() {
        None => None,
        Some(text) => {
            let end = expiration(&text).filter(|end| *end > now());
            let why = "A moment in the future is expected, such as 2030-01-31T12:00:00.";
            Some(end.ok_or_else(|| Error::input("expiration", &text, why))?)
        }
    };
    Ok(New {
        name: body
            .text("name", TEXT)?
            .value()
            .filter(|name| !name.is_empty()),
        secret_type: body
            .choice("secret_type", SECRET_TYPES)?
            .value()
            .unwrap_or_else(|| "opaque".into()),
        algorithm: body.text("algorithm", TEXT)?.value(),
        bit_length: body.int("bit_length", 1, i32::MAX)?.value(),
        mode: body.text("mode", TEXT)?.value(),
        expiration,
        payload,
    })
}

/// As the client writes moments: with or without fraction and zone; the zone is UTC.
fn expiration(text: &str) -> Option<i64> {
    let text = text.strip_suffix("+00:00").unwrap_or(text);
    let whole = text.split('.').next().unwrap_or_default();
    crate::time::parse(whole)
}

/// A container as its owner describes it.
pub(super) fn created_container(map: Map<String, Value>) -> Result<NewContainer, Error> {
    let known = ["name", "type", "secret_refs"];
    let body = Body::new(Value::Object(map), "container".into(), &known)?;
    let kinds: Vec<&str> = CONTAINERS.iter().map(|(kind, ..)| *kind).collect();
    let kind = body.choice("type", &kinds)?;
    let kind = body.required("type", kind)?;
    let mut secrets: Vec<(String, String)> = Vec::new();
    for reference in body.objects("secret_refs", &["name", "secret_ref"])? {
        let name = reference.text("name", TEXT)?.or_default();
        let whole = reference.text("secret_ref", TEXT)?;
        let whole = reference.required("secret_ref", whole)?;
        let Some((tls::Referred::Secret, id)) = tls::reference(&whole) else {
            let why = "The reference of a secret is expected.";
            return Err(Error::input("secret_ref", &whole, why));
        };
        if secrets.iter().any(|(known, _)| *known == name) {
            return Err(Error::bad(format!(
                "Duplicate reference name '{name}' is not allowed."
            )));
        }
        secrets.push((name, id));
    }
    if secrets.len() > MAX_REFERENCES {
        return Err(Error::bad(format!(
            "secret_refs: at most {MAX_REFERENCES} are kept"
        )));
    }
    let rules = CONTAINERS.iter().find(|(known, ..)| *known == kind);
    if let Some((_, must, may)) = rules.filter(|(_, must, _)| !must.is_empty()) {
        let has = |name: &&str| secrets.iter().any(|(known, _)| known == name);
        if let Some(absent) = must.iter().find(|name| !has(name)) {
            return Err(Error::bad(format!(
                "The minimum required reference names are {} for type '{kind}': {absent} is missing.",
                must.join(", ")
            )));
        }
        let unknown = |name: &str| !must.contains(&name) && !may.contains(&name);
        if let Some((name, _)) = secrets.iter().find(|(name, _)| unknown(name)) {
            return Err(Error::bad(format!(
                "The reference name '{name}' is not supported for type '{kind}'."
            )));
        }
    }
    Ok(NewContainer {
        name: body
            .text("name", TEXT)?
            .value()
            .filter(|name| !name.is_empty()),
        kind,
        secrets,
    })
}

async fn create(call: Call) -> Answer {
    let new = created(call.json("secret")?)?;
    let id = app::create(&call.state, &call.caller, &new).await?;
    let body = json!({"secret_ref": secret_ref(&call, &id)});
    Ok(with_status(StatusCode::CREATED, body))
}

async fn fill(Path(id): Path<String>, call: Call) -> Answer {
    let content_type = call
        .header(header::CONTENT_TYPE.as_str())
        .unwrap_or_default();
    let kind = media_type(content_type)?;
    let encoded = call.header(header::CONTENT_ENCODING.as_str());
    let bytes = match encoded.map(str::to_ascii_lowercase).as_deref() {
        None | Some("") => Zeroizing::new(call.bytes().to_vec()),
        Some("base64") if kind != PLAIN => {
            let text = std::str::from_utf8(call.bytes())
                .map_err(|_| Error::bad("The body is not base64."))?;
            decoded(text)?
        }
        Some(other) => {
            let text = format!("Content-Encoding {other} is not supported for {kind}.");
            return Err(Error::bad(text).into());
        }
    };
    if kind == PLAIN && std::str::from_utf8(&bytes).is_err() {
        return Err(Error::bad("The body is not UTF-8.").into());
    }
    app::fill(&call.state, &id, &checked(kind, bytes)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn show(Path(id): Path<String>, call: Call) -> Answer {
    let row = app::show(&call.state, &id).await?;
    Ok(ok(render(&call, &row)))
}

async fn payload(Path(id): Path<String>, call: Call) -> Answer {
    let payload = app::payload(&call.state, &id, None).await?;
    let wanted = call.header(header::ACCEPT.as_str()).unwrap_or("*/*");
    let fits = |range: &str| {
        let range = range.split(';').next().unwrap_or_default().trim();
        let family = payload.content_type.split('/').next().unwrap_or_default();
        range == "*/*" || range == payload.content_type || range == format!("{family}/*")
    };
    if !wanted.split(',').any(fits) {
        let text = format!(
            "The secret can be given out as {} only.",
            payload.content_type
        );
        return Err(Error::new(StatusCode::NOT_ACCEPTABLE, text).into());
    }
    let headers = [
        (header::CONTENT_TYPE, payload.content_type.clone()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, payload.bytes.to_vec()).into_response())
}

async fn delete(Path(id): Path<String>, call: Call) -> Answer {
    app::delete(&call.state, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn page(call: &Call, kind: &str) -> Result<Page, Error> {
    let number = |name: &str, default: u64| match call.value(name) {
        None | Some("") => Ok(default),
        Some(text) => text
            .parse()
            .map_err(|_| Error::input(name, text, "A number is expected.")),
    };
    let text = |name: &str| call.value(name).map(str::to_owned);
    for (name, _) in &call.query {
        if !["limit", "offset", "name", "project_id", kind].contains(&name.as_str()) {
            return Err(not_supported(name));
        }
    }
    Ok(Page {
        limit: number("limit", 10)?.min(MAX_PAGE),
        offset: number("offset", 0)?.min(u64::from(u32::MAX)),
        name: text("name"),
        project: text("project_id"),
        kind: text(kind),
    })
}

fn listed(call: &Call, plural: &str, page: &Page, items: Vec<Value>, total: u64) -> Response {
    let link = |offset: u64| {
        let limit = page.limit;
        format!("{}/v1/{plural}?limit={limit}&offset={offset}", call.base)
    };
    let mut body = json!({plural: items, "total": total});
    if page.limit > 0 && page.offset.saturating_add(page.limit) < total {
        body["next"] = json!(link(page.offset + page.limit));
    }
    if page.offset > 0 {
        body["previous"] = json!(link(page.offset.saturating_sub(page.limit)));
    }
    ok(body)
}

async fn list(call: Call) -> Answer {
    let page = page(&call, "secret_type")?;
    let (rows, total) = app::list(&call.state, &page).await?;
    let items = rows.iter().map(|row| render(&call, row)).collect();
    Ok(listed(&call, "secrets", &page, items, total))
}

async fn create_container(call: Call) -> Answer {
    let new = created_container(call.json("container")?)?;
    let id = app::create_container(&call.state, &call.caller, &new).await?;
    let body = json!({"container_ref": container_ref(&call, &id)});
    Ok(with_status(StatusCode::CREATED, body))
}

async fn show_container(Path(id): Path<String>, call: Call) -> Answer {
    let row = app::show_container(&call.state, &id).await?;
    Ok(ok(render_container(&call, &row)))
}

async fn list_containers(call: Call) -> Answer {
    let page = page(&call, "type")?;
    let (rows, total) = app::list_containers(&call.state, &page).await?;
    let items = rows
        .iter()
        .map(|row| render_container(&call, row))
        .collect();
    Ok(listed(&call, "containers", &page, items, total))
}

async fn delete_container(Path(id): Path<String>, call: Call) -> Answer {
    app::delete_container(&call.state, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Reads a body as the handlers do, for the fuzz target.
pub(super) fn read(what: &str, bytes: &[u8]) -> Option<Result<String, Error>> {
    match what {
        "secret-create" => {
            let read = object(bytes, "secret").and_then(created);
            Some(read.map(|read| format!("{read:?}")))
        }
        "container-create" => {
            let read = object(bytes, "container").and_then(created_container);
            Some(read.map(|read| format!("{read:?}")))
        }
        _ => None,
    }
}
