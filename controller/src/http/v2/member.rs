//! `/pools/{pool}/members`

use super::load_balancer::admin_state;
use super::{page_answer, time};
use crate::app::Error;
use crate::app::member::{self as app, Change, New, View};
use crate::db::entity::member;
use crate::http::body::{Body, Field, TEXT};
use crate::http::call::Call;
use crate::http::envelope::{ok, with_status};
use crate::http::openapi::{Resource, STANDING};
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Map, Value, json};

/// Members of one batch: what fits a body of [`super::super::MAX_BODY`] anyway.
const MAX_BATCH: usize = 10_000;

/// Attributes of a create.
pub(super) const CREATE: &[&str] = &[
    "name",
    "admin_state_up",
    "address",
    "protocol_port",
    "weight",
    "backup",
    "subnet_id",
    "project_id",
    "tenant_id",
    "monitor_port",
    "monitor_address",
    "tags",
    "request_sriov",
];
const UPDATE: &[&str] = &[
    "name",
    "admin_state_up",
    "weight",
    "backup",
    "monitor_port",
    "monitor_address",
    "tags",
];

/// For the OpenAPI document.
pub(super) const RESOURCE: Resource = Resource {
    root: "member",
    plural: "members",
    path: "/pools/{pool}/members",
    create: CREATE,
    update: UPDATE,
    required: &["address", "protocol_port"],
    choices: &[],
    shown: &[
        &["id", "name"],
        STANDING,
        &[
            "address",
            "protocol_port",
            "weight",
            "backup",
            "subnet_id",
            "monitor_address",
            "monitor_port",
            "vnic_type",
        ],
    ],
};

/// A member as the API shows it.
pub(super) fn render_row(row: &member::Model, tags: &[String]) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "operating_status": row.operating_status,
        "provisioning_status": row.provisioning_status,
        "admin_state_up": row.enabled,
        "address": row.address,
        "protocol_port": row.protocol_port,
        "weight": row.weight,
        "backup": row.backup,
        "subnet_id": row.subnet_id,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "created_at": time(row.created_at),
        "updated_at": row.updated_at.map(time),
        "monitor_address": row.monitor_address,
        "monitor_port": row.monitor_port,
        "tags": tags,
        "vnic_type": "normal",
    })
}

fn render(view: &View) -> Value {
    render_row(&view.row, &view.tags)
}

/// A definition.
pub(super) fn parse(body: &Body) -> Result<New, Error> {
    let address = body.ip("address")?;
    let port = body.int("protocol_port", 1, 65_535)?;
    if body.bool("request_sriov")? == Field::Set(true) {
        return Err(Error::bad(
            "The load balancer flavor does not allow SR-IOV member ports.",
        ));
    }
    let name = body.text("name", TEXT)?;
    Ok(New {
        name: name.change(String::new()),
        enabled: admin_state(body)?,
        address: body.required("address", address)?,
        protocol_port: body.required("protocol_port", port)?,
        weight: body.int("weight", 0, 256)?.or(1),
        backup: body.bool("backup")?.or(false),
        subnet_id: body.uuid("subnet_id")?.value(),
        monitor_address: body.ip("monitor_address")?.value(),
        monitor_port: body.int("monitor_port", 1, 65_535)?.value(),
        tags: body.tags()?.change(Vec::new()),
    })
}

pub(super) async fn list(Path(pool): Path<String>, call: Call) -> Result<Response, Error> {
    let page = call.page()?;
    let views = app::list(&call.state, &pool, &page).await?;
    let items: Vec<Value> = views.iter().map(render).collect();
    let links = call.links(&page, &items);
    Ok(page_answer(&call, "members", links, items))
}

pub(super) async fn show(
    Path((pool, id)): Path<(String, String)>,
    call: Call,
) -> Result<Response, Error> {
    let view = app::show(&call.state, &pool, &id).await?;
    Ok(ok(json!({"member": call.fields(render(&view))})))
}

pub(super) fn created(outer: Map<String, Value>) -> Result<New, Error> {
    let body = Body::open(outer, "member_", "member", CREATE)?;
    parse(&body)
}

pub(super) async fn create(Path(pool): Path<String>, call: Call) -> Result<Response, Error> {
    let new = created(call.json("member_")?)?;
    let id = app::create(&call.state, &call.caller, &pool, &new).await?;
    let view = app::show(&call.state, &pool, &id).await?;
    Ok(with_status(
        StatusCode::CREATED,
        json!({"member": render(&view)}),
    ))
}

pub(super) fn replaced(mut outer: Map<String, Value>) -> Result<Vec<New>, Error> {
    let unknown = outer.keys().find(|key| *key != "members").cloned();
    if let Some(key) = unknown {
        return Err(Error::bad(format!(
            "Unknown attribute for argument members_: {key}"
        )));
    }
    let list = match outer.remove("members") {
        Some(Value::Array(list)) => list,
        Some(_) => return Err(Error::input("members", "", "A list is expected.")),
        None => return Err(Error::input("members", "None", "Mandatory field missing.")),
    };
    if list.len() > MAX_BATCH {
        let why = format!("At most {MAX_BATCH} members in one request.");
        return Err(Error::input("members", list.len(), why));
    }
    let mut wanted = Vec::with_capacity(list.len());
    for item in list {
        let body = Body::new(item, "members_.members".to_owned(), CREATE)?;
        wanted.push(parse(&body)?);
    }
    Ok(wanted)
}

pub(super) async fn replace(Path(pool): Path<String>, call: Call) -> Result<Response, Error> {
    let wanted = replaced(call.json("members_")?)?;
    let additive = call.flag("additive_only");
    app::replace(&call.state, &call.caller, &pool, &wanted, additive).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

pub(super) fn changed(outer: Map<String, Value>) -> Result<Change, Error> {
    let body = Body::open(outer, "member_", "member", UPDATE)?;
    Ok(Change {
        name: body.text("name", TEXT)?.change(String::new()),
        enabled: body.bool("admin_state_up")?.change(false),
        weight: body.int("weight", 0, 256)?.change(1),
        backup: body.bool("backup")?.change(false),
        monitor_address: body.ip("monitor_address")?.change_or_clear(),
        monitor_port: body.int("monitor_port", 1, 65_535)?.change_or_clear(),
        tags: body.tags()?.change(Vec::new()),
    })
}

pub(super) async fn update(
    Path((pool, id)): Path<(String, String)>,
    call: Call,
) -> Result<Response, Error> {
    let change = changed(call.json("member_")?)?;
    app::update(&call.state, &call.caller, &pool, &id, &change).await?;
    let view = app::show(&call.state, &pool, &id).await?;
    Ok(ok(json!({"member": render(&view)})))
}

pub(super) async fn delete(
    Path((pool, id)): Path<(String, String)>,
    call: Call,
) -> Result<Response, Error> {
    app::delete(&call.state, &call.caller, &pool, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
