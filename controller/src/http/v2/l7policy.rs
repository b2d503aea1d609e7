//! `/l7policies`

use super::load_balancer::admin_state;
use super::{id_list, l7rule, page_answer, pool, time};
use crate::app::Error;
use crate::app::l7policy::{self as app, Change, New, Target, View};
use crate::app::pool::New as NewPool;
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
    "name",
    "description",
    "admin_state_up",
    "tags",
    "project_id",
    "tenant_id",
    "listener_id",
    "action",
    "redirect_pool",
    "redirect_pool_id",
    "redirect_url",
    "redirect_prefix",
    "redirect_http_code",
    "position",
    "rules",
];
const UPDATE: &[&str] = &[
    "name",
    "description",
    "admin_state_up",
    "tags",
    "action",
    "redirect_pool_id",
    "redirect_url",
    "redirect_prefix",
    "redirect_http_code",
    "position",
];

/// For the OpenAPI document.
pub(super) const RESOURCE: Resource = Resource {
    root: "l7policy",
    plural: "l7policies",
    path: "/l7policies",
    create: CREATE,
    update: UPDATE,
    required: &["listener_id", "action"],
    choices: &[("action", ACTIONS)],
    shown: &[
        &["id", "name", "description"],
        STANDING,
        &[
            "action",
            "listener_id",
            "redirect_pool_id",
            "redirect_url",
            "redirect_prefix",
            "redirect_http_code",
            "position",
            "rules",
        ],
    ],
};
const ACTIONS: &[&str] = &[
    "REDIRECT_PREFIX",
    "REDIRECT_TO_POOL",
    "REDIRECT_TO_URL",
    "REJECT",
];
const CODES: &[i32] = &[301, 302, 303, 307, 308];

fn render(view: &View) -> Value {
    let row = &view.row;
    json!({
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "provisioning_status": row.provisioning_status,
        "operating_status": row.operating_status,
        "admin_state_up": row.enabled,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "action": row.action,
        "listener_id": row.listener_id,
        "redirect_pool_id": row.redirect_pool_id,
        "redirect_url": row.redirect_url,
        "redirect_prefix": row.redirect_prefix,
        "redirect_http_code": row.redirect_http_code,
        "position": row.position,
        "rules": id_list(&view.rules),
        "created_at": time(row.created_at),
        "updated_at": row.updated_at.map(time),
        "tags": view.tags,
    })
}

/// A policy of a single-call create, with its rules as objects.
pub(super) async fn render_whole(call: &Call, view: &View) -> Result<Value, Error> {
    let mut shown = render(view);
    let mut rules = Vec::new();
    for id in &view.rules {
        let rule = crate::app::l7rule::show(&call.state, &view.row.id, id).await?;
        rules.push(l7rule::render(&rule));
    }
    shown["rules"] = Value::Array(rules);
    Ok(shown)
}

fn url(body: &Body, name: &str) -> Result<Option<String>, Error> {
    let text = match body.text(name, TEXT)? {
        Field::Set(text) => text,
        Field::Absent | Field::Null => return Ok(None),
    };
    let rest = text.split_once("://").map(|(scheme, rest)| {
        let letters = scheme
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c));
        letters && scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            !host.is_empty()
        }
    });
    if rest != Some(true) || !text.bytes().all(|c| c.is_ascii_graphic() && c != b'"') {
        return Err(Error::input(name, text, "Value must be a valid URL string"));
    }
    Ok(Some(text))
}

fn target(body: &Body) -> Result<Target, Error> {
    let code = body.int("redirect_http_code", 0, i32::MAX)?;
    if let Field::Set(code) = code
        && !CODES.contains(&code)
    {
        let why = "Value should be one of: 301, 302, 303, 307, 308";
        return Err(Error::input("redirect_http_code", code, why));
    }
    Ok(Target {
        action: body.choice("action", ACTIONS)?.value(),
        redirect_pool_id: body.uuid("redirect_pool_id")?.value(),
        redirect_url: url(body, "redirect_url")?,
        redirect_prefix: url(body, "redirect_prefix")?,
        redirect_http_code: code.value(),
    })
}

fn parse(body: &Body) -> Result<New, Error> {
    let action = body.choice("action", ACTIONS)?;
    body.required("action", action)?;
    Ok(New {
        listener_id: String::new(),
        name: body.text("name", TEXT)?.or_default(),
        description: body.description()?.or_default(),
        enabled: admin_state(body)?,
        target: target(body)?,
        position: body.int("position", 1, i32::MAX)?.value(),
        tags: body.tags()?.or_default(),
        redirect_pool: None,
        rules: Vec::new(),
    })
}

/// A policy of a single-call create; a pool defined inside it is hoisted into `pools`.
pub(super) fn parse_in_graph(body: &Body, pools: &mut Vec<NewPool>) -> Result<New, Error> {
    let mut new = parse(body)?;
    body.uuid("listener_id")?;
    if let Field::Set(nested) = body.object("redirect_pool", pool::CREATE)? {
        new.redirect_pool = Some(pool::reference(&nested, pools)?);
        new.target.action = Some("REDIRECT_TO_POOL".to_owned());
    }
    for nested in body.objects("rules", l7rule::CREATE)? {
        new.rules.push(l7rule::parse(&nested)?);
    }
    Ok(new)
}

pub(super) async fn list(call: Call) -> Result<Response, Error> {
    let page = call.page()?;
    let views = app::list(&call.state, &page).await?;
    let items: Vec<Value> = views.iter().map(render).collect();
    let links = call.links(&page, &items);
    Ok(page_answer(&call, "l7policies", links, items))
}

pub(super) async fn show(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let view = app::show(&call.state, &id).await?;
    Ok(ok(json!({"l7policy": call.fields(render(&view))})))
}

pub(super) fn created(outer: Map<String, Value>) -> Result<New, Error> {
    let body = Body::open(outer, "l7policy_", "l7policy", CREATE)?;
    let listener = body.uuid("listener_id")?;
    if body.has_content("redirect_pool") || body.has_content("rules") {
        return Err(Error::validation(
            "redirect_pool and rules of a policy are only possible within the creation of a load \
             balancer: use redirect_pool_id, and create the rules after the policy.",
        ));
    }
    Ok(New {
        listener_id: body.required("listener_id", listener)?,
        ..parse(&body)?
    })
}

pub(super) async fn create(call: Call) -> Result<Response, Error> {
    let new = created(call.json("l7policy_")?)?;
    let id = app::create(&call.state, &call.caller, &new).await?;
    let view = app::show(&call.state, &id).await?;
    Ok(with_status(
        StatusCode::CREATED,
        json!({"l7policy": render(&view)}),
    ))
}

pub(super) fn changed(outer: Map<String, Value>) -> Result<Change, Error> {
    let body = Body::open(outer, "l7policy_", "l7policy", UPDATE)?;
    Ok(Change {
        name: body.text("name", TEXT)?.change(String::new()),
        description: body.description()?.change(String::new()),
        enabled: body.bool("admin_state_up")?.change(false),
        target: target(&body)?,
        default_code: matches!(body.int("redirect_http_code", 0, i32::MAX)?, Field::Null),
        position: body.int("position", 1, i32::MAX)?.value(),
        tags: body.tags()?.change(Vec::new()),
    })
}

pub(super) async fn update(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let change = changed(call.json("l7policy_")?)?;
    app::update(&call.state, &call.caller, &id, &change).await?;
    let view = app::show(&call.state, &id).await?;
    Ok(ok(json!({"l7policy": render(&view)})))
}

pub(super) async fn delete(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    app::delete(&call.state, &call.caller, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
