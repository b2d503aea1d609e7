//! `/healthmonitors`

use super::load_balancer::admin_state;
use super::{page_answer, time};
use crate::app::Error;
use crate::app::health_monitor::{self as app, Change, New, View};
use crate::db::entity::health_monitor;
use crate::http::body::{Body, Field, TEXT};
use crate::http::call::Call;
use crate::http::envelope::{ok, with_status};
use crate::http::openapi::{Resource, STANDING};
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Map, Value, json};

/// Longest delay and time-out in seconds: what fits the data plane's 24 days in milliseconds.
pub(in crate::http) const MAX_SECONDS: i32 = 2_073_600;

/// Attributes of a create.
pub(super) const CREATE: &[&str] = &[
    "name",
    "admin_state_up",
    "tags",
    "project_id",
    "tenant_id",
    "pool_id",
    "type",
    "delay",
    "timeout",
    "max_retries",
    "max_retries_down",
    "http_method",
    "url_path",
    "expected_codes",
    "http_version",
    "domain_name",
];
const UPDATE: &[&str] = &[
    "name",
    "admin_state_up",
    "tags",
    "delay",
    "timeout",
    "max_retries",
    "max_retries_down",
    "http_method",
    "url_path",
    "expected_codes",
    "http_version",
    "domain_name",
];

/// For the OpenAPI document.
pub(super) const RESOURCE: Resource = Resource {
    root: "healthmonitor",
    plural: "healthmonitors",
    path: "/healthmonitors",
    create: CREATE,
    update: UPDATE,
    required: &["pool_id", "type", "delay", "timeout", "max_retries"],
    choices: &[("type", TYPES), ("http_method", METHODS)],
    shown: &[
        &["id", "name"],
        STANDING,
        &[
            "type",
            "delay",
            "timeout",
            "max_retries",
            "max_retries_down",
            "http_method",
            "url_path",
            "expected_codes",
            "pools",
            "http_version",
            "domain_name",
        ],
    ],
};
const TYPES: &[&str] = &[
    "HTTP",
    "HTTPS",
    "PING",
    "SCTP",
    "TCP",
    "TLS-HELLO",
    "UDP-CONNECT",
];
const METHODS: &[&str] = &[
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

/// A monitor as the API shows it.
pub(super) fn render_row(row: &health_monitor::Model, tags: &[String]) -> Value {
    let version = row
        .http_version
        .as_deref()
        .and_then(|text| text.parse::<f64>().ok());
    json!({
        "id": row.id,
        "name": row.name,
        "type": row.kind,
        "delay": row.delay,
        "timeout": row.timeout,
        "max_retries": row.max_retries,
        "max_retries_down": row.max_retries_down,
        "http_method": row.http_method,
        "url_path": row.url_path,
        "expected_codes": row.expected_codes,
        "admin_state_up": row.enabled,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "pools": [{"id": row.pool_id}],
        "provisioning_status": row.provisioning_status,
        "operating_status": row.operating_status,
        "created_at": time(row.created_at),
        "updated_at": row.updated_at.map(time),
        "tags": tags,
        "http_version": version,
        "domain_name": row.domain_name,
    })
}

fn render(view: &View) -> Value {
    render_row(&view.row, &view.tags)
}

fn checked(
    body: &Body,
    name: &str,
    max: usize,
    good: impl Fn(&str) -> bool,
    why: &str,
) -> Result<Field<String>, Error> {
    match body.text(name, max)? {
        Field::Set(text) if !good(&text) => Err(Error::input(name, text, why)),
        other => Ok(other),
    }
}

fn url_path(body: &Body) -> Result<Field<String>, Error> {
    let good = |text: &str| text.starts_with('/') && text.bytes().all(|c| c.is_ascii_graphic());
    checked(
        body,
        "url_path",
        TEXT,
        good,
        "Value must be a valid URL Path string",
    )
}

fn expected_codes(body: &Body) -> Result<Field<String>, Error> {
    let code = |text: &str| {
        let text = text.trim();
        text.len() == 3
            && text
                .parse::<u16>()
                .is_ok_and(|code| (100..=599).contains(&code))
    };
    let good = |text: &str| match text.split_once('-') {
        Some((low, high)) => code(low) && code(high) && low <= high,
        None => text.split(',').all(code),
    };
    let why = "Value should be a code (200), a list of codes (200,202) or a range (200-204)";
    checked(body, "expected_codes", 64, good, why)
}

fn domain_name(body: &Body) -> Result<Field<String>, Error> {
    let label = |text: &str| {
        let plain = text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        (1..=63).contains(&text.len()) && plain && !text.starts_with('-') && !text.ends_with('-')
    };
    let good = |text: &str| text.strip_suffix('.').unwrap_or(text).split('.').all(label);
    checked(
        body,
        "domain_name",
        TEXT,
        good,
        "Value must be a valid host name",
    )
}

fn http_version(body: &Body) -> Result<Field<String>, Error> {
    let value = match body.raw("http_version") {
        Field::Absent => return Ok(Field::Absent),
        Field::Null => return Ok(Field::Null),
        Field::Set(value) => value,
    };
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => String::new(),
    };
    match text.as_str() {
        "1" | "1.0" => Ok(Field::Set("1.0".to_owned())),
        "1.1" => Ok(Field::Set("1.1".to_owned())),
        _ => Err(Error::input(
            "http_version",
            value,
            "Value should be one of: 1.0, 1.1",
        )),
    }
}

/// A definition.
pub(super) fn parse(body: &Body) -> Result<New, Error> {
    let kind = body.choice("type", TYPES)?;
    let delay = body.int("delay", 1, MAX_SECONDS)?;
    let timeout = body.int("timeout", 1, MAX_SECONDS)?;
    let retries = body.int("max_retries", 1, 10)?;
    body.uuid("pool_id")?;
    Ok(New {
        pool_id: String::new(),
        name: body.text("name", TEXT)?.or_default(),
        enabled: admin_state(body)?,
        kind: body.required("type", kind)?,
        delay: body.required("delay", delay)?,
        timeout: body.required("timeout", timeout)?,
        max_retries: body.required("max_retries", retries)?,
        max_retries_down: body.int("max_retries_down", 1, 10)?.or(3),
        http_method: body.choice("http_method", METHODS)?.value(),
        url_path: url_path(body)?.value(),
        expected_codes: expected_codes(body)?.value(),
        http_version: http_version(body)?.value(),
        domain_name: domain_name(body)?.value(),
        tags: body.tags()?.or_default(),
    })
}

pub(super) async fn list(call: Call) -> Result<Response, Error> {
    let page = call.page()?;
    let views = app::list(&call.state, &page).await?;
    let items: Vec<Value> = views.iter().map(render).collect();
    let links = call.links(&page, &items);
    Ok(page_answer(&call, "healthmonitors", links, items))
}

pub(super) async fn show(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let view = app::show(&call.state, &id).await?;
    Ok(ok(json!({"healthmonitor": call.fields(render(&view))})))
}

pub(super) fn created(outer: Map<String, Value>) -> Result<New, Error> {
    let argument = "health_monitor_";
    let body = Body::open(outer, argument, "healthmonitor", CREATE)?;
    let pool = body.uuid("pool_id")?;
    Ok(New {
        pool_id: body.required("pool_id", pool)?,
        ..parse(&body)?
    })
}

pub(super) async fn create(call: Call) -> Result<Response, Error> {
    let new = created(call.json("health_monitor_")?)?;
    let id = app::create(&call.state, &call.caller, &new).await?;
    let view = app::show(&call.state, &id).await?;
    Ok(with_status(
        StatusCode::CREATED,
        json!({"healthmonitor": render(&view)}),
    ))
}

pub(super) fn changed(outer: Map<String, Value>) -> Result<Change, Error> {
    let argument = "health_monitor_";
    let body = Body::open(outer, argument, "healthmonitor", UPDATE)?;
    let number = |name: &str, max: i32| match body.int(name, 1, max)? {
        Field::Null => Err(Error::option("None", name)),
        other => Ok(other.value()),
    };
    Ok(Change {
        name: body.text("name", TEXT)?.change(String::new()),
        enabled: body.bool("admin_state_up")?.change(false),
        delay: number("delay", MAX_SECONDS)?,
        timeout: number("timeout", MAX_SECONDS)?,
        max_retries: number("max_retries", 10)?,
        max_retries_down: body.int("max_retries_down", 1, 10)?.change(3),
        http_method: body
            .choice("http_method", METHODS)?
            .change("GET".to_owned()),
        url_path: url_path(&body)?.change("/".to_owned()),
        expected_codes: expected_codes(&body)?.change("200".to_owned()),
        http_version: http_version(&body)?.change_or_clear(),
        domain_name: domain_name(&body)?.change_or_clear(),
        tags: body.tags()?.change(Vec::new()),
    })
}

pub(super) async fn update(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let change = changed(call.json("health_monitor_")?)?;
    app::update(&call.state, &call.caller, &id, &change).await?;
    let view = app::show(&call.state, &id).await?;
    Ok(ok(json!({"healthmonitor": render(&view)})))
}

pub(super) async fn delete(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    app::delete(&call.state, &call.caller, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
