//! `/l7policies/{policy}/rules`

use super::load_balancer::admin_state;
use super::{page_answer, time};
use crate::app::Error;
use crate::app::l7rule::{self as app, Change, Match, New, View};
use crate::http::body::{Body, Field, TEXT};
use crate::http::call::Call;
use crate::http::envelope::{ok, with_status};
use crate::http::openapi::{Resource, STANDING};
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Map, Value, json};

/// Attributes of a create.
pub(super) const CREATE: &[&str] = &[
    "admin_state_up",
    "tags",
    "project_id",
    "tenant_id",
    "type",
    "compare_type",
    "key",
    "value",
    "invert",
];
const UPDATE: &[&str] = &[
    "admin_state_up",
    "tags",
    "type",
    "compare_type",
    "key",
    "value",
    "invert",
];

/// For the OpenAPI document.
pub(super) const RESOURCE: Resource = Resource {
    root: "rule",
    plural: "rules",
    path: "/l7policies/{policy}/rules",
    create: CREATE,
    update: UPDATE,
    required: &["type", "compare_type", "value"],
    choices: &[("type", TYPES), ("compare_type", COMPARISONS)],
    shown: &[
        &["id"],
        STANDING,
        &["type", "compare_type", "key", "value", "invert"],
    ],
};
const TYPES: &[&str] = &[
    "COOKIE",
    "FILE_TYPE",
    "HEADER",
    "HOST_NAME",
    "PATH",
    "SSL_CONN_HAS_CERT",
    "SSL_DN_FIELD",
    "SSL_VERIFY_RESULT",
];
const COMPARISONS: &[&str] = &["CONTAINS", "ENDS_WITH", "EQUAL_TO", "REGEX", "STARTS_WITH"];

/// A rule as the API shows it.
pub(super) fn render(view: &View) -> Value {
    let row = &view.row;
    json!({
        "id": row.id,
        "type": row.kind,
        "compare_type": row.compare_type,
        "key": row.key,
        "value": row.value,
        "invert": row.invert,
        "provisioning_status": row.provisioning_status,
        "operating_status": row.operating_status,
        "created_at": time(row.created_at),
        "updated_at": row.updated_at.map(time),
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "admin_state_up": row.enabled,
        "tags": view.tags,
    })
}

/// A definition.
pub(super) fn parse(body: &Body) -> Result<New, Error> {
    let kind = body.choice("type", TYPES)?;
    let compare = body.choice("compare_type", COMPARISONS)?;
    let value = body.text("value", TEXT)?;
    Ok(New {
        enabled: admin_state(body)?,
        condition: Match {
            kind: body.required("type", kind)?,
            compare_type: body.required("compare_type", compare)?,
            key: body.text("key", TEXT)?.value(),
            value: body.required("value", value)?,
        },
        invert: body.bool("invert")?.or(false),
        tags: body.tags()?.or_default(),
    })
}

pub(super) async fn list(Path(policy): Path<String>, call: Call) -> Result<Response, Error> {
    let page = call.page()?;
    let views = app::list(&call.state, &policy, &page).await?;
    let items: Vec<Value> = views.iter().map(render).collect();
    let links = call.links(&page, &items);
    Ok(page_answer(&call, "rules", links, items))
}

pub(super) async fn show(
    Path((policy, id)): Path<(String, String)>,
    call: Call,
) -> Result<Response, Error> {
    let view = app::show(&call.state, &policy, &id).await?;
    Ok(ok(json!({"rule": call.fields(render(&view))})))
}

pub(super) fn created(outer: Map<String, Value>) -> Result<New, Error> {
    let body = Body::open(outer, "rule_", "rule", CREATE)?;
    parse(&body)
}

pub(super) async fn create(Path(policy): Path<String>, call: Call) -> Result<Response, Error> {
    let new = created(call.json("rule_")?)?;
    let id = app::create(&call.state, &call.caller, &policy, &new).await?;
    let view = app::show(&call.state, &policy, &id).await?;
    Ok(with_status(
        StatusCode::CREATED,
        json!({"rule": render(&view)}),
    ))
}

pub(super) fn changed(outer: Map<String, Value>) -> Result<Change, Error> {
    let body = Body::open(outer, "l7rule_", "rule", UPDATE)?;
    let word = |name: &str, words: &[&str]| match body.choice(name, words)? {
        Field::Null => Err(Error::option("None", name)),
        other => Ok(other.value()),
    };
    let value = match body.text("value", TEXT)? {
        Field::Null => return Err(Error::option("None", "value")),
        other => other.value(),
    };
    Ok(Change {
        enabled: body.bool("admin_state_up")?.change(false),
        kind: word("type", TYPES)?,
        compare_type: word("compare_type", COMPARISONS)?,
        key: body.text("key", TEXT)?.change_or_clear(),
        value,
        invert: body.bool("invert")?.change(false),
        tags: body.tags()?.change(Vec::new()),
    })
}

pub(super) async fn update(
    Path((policy, id)): Path<(String, String)>,
    call: Call,
) -> Result<Response, Error> {
    let change = changed(call.json("l7rule_")?)?;
    app::update(&call.state, &call.caller, &policy, &id, &change).await?;
    let view = app::show(&call.state, &policy, &id).await?;
    Ok(ok(json!({"rule": render(&view)})))
}

pub(super) async fn delete(
    Path((policy, id)): Path<(String, String)>,
    call: Call,
) -> Result<Response, Error> {
    app::delete(&call.state, &call.caller, &policy, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
