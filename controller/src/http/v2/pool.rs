//! `/pools`

use super::load_balancer::admin_state;
use super::{health_monitor, id_list, member, page_answer, time, tls};
use crate::app::Error;
use crate::app::load_balancer::Whole;
use crate::app::pool::{self as app, Change, New, Persistence, View};
use crate::app::tls::PoolTls;
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
    "listener_id",
    "loadbalancer_id",
    "project_id",
    "tenant_id",
    "protocol",
    "lb_algorithm",
    "session_persistence",
    "healthmonitor",
    "members",
    "tls_enabled",
    "tls_container_ref",
    "ca_tls_container_ref",
    "crl_container_ref",
    "tls_ciphers",
    "tls_versions",
    "alpn_protocols",
];
const UPDATE: &[&str] = &[
    "name",
    "description",
    "admin_state_up",
    "tags",
    "lb_algorithm",
    "session_persistence",
    "tls_enabled",
    "tls_container_ref",
    "ca_tls_container_ref",
    "crl_container_ref",
    "tls_ciphers",
    "tls_versions",
    "alpn_protocols",
];

/// For the OpenAPI document.
pub(super) const RESOURCE: Resource = Resource {
    root: "pool",
    plural: "pools",
    path: "/pools",
    create: CREATE,
    update: UPDATE,
    required: &["protocol", "lb_algorithm"],
    choices: &[("protocol", PROTOCOLS), ("lb_algorithm", ALGORITHMS)],
    shown: &[
        &["id", "name", "description"],
        STANDING,
        &[
            "protocol",
            "lb_algorithm",
            "session_persistence",
            "loadbalancers",
            "listeners",
            "healthmonitor_id",
            "members",
            "tls_enabled",
            "tls_container_ref",
            "ca_tls_container_ref",
            "crl_container_ref",
            "tls_ciphers",
            "tls_versions",
            "alpn_protocols",
        ],
    ],
};
const PERSISTENCE: &[&str] = &[
    "type",
    "cookie_name",
    "persistence_timeout",
    "persistence_granularity",
];
const PROTOCOLS: &[&str] = &["HTTP", "HTTPS", "PROXY", "PROXYV2", "SCTP", "TCP", "UDP"];
const ALGORITHMS: &[&str] = &[
    "LEAST_CONNECTIONS",
    "ROUND_ROBIN",
    "SOURCE_IP",
    "SOURCE_IP_PORT",
];

fn render(view: &View) -> Value {
    let row = &view.row;
    let persistence = view.persistence.as_ref().map(|sticky| {
        json!({
            "type": sticky.kind,
            "cookie_name": sticky.cookie_name,
            "persistence_timeout": sticky.persistence_timeout,
            "persistence_granularity": sticky.persistence_granularity,
        })
    });
    let mut shown = json!({
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "provisioning_status": row.provisioning_status,
        "operating_status": row.operating_status,
        "admin_state_up": row.enabled,
        "protocol": row.protocol,
        "lb_algorithm": row.lb_algorithm,
        "session_persistence": persistence,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "loadbalancers": [{"id": row.load_balancer_id}],
        "listeners": id_list(&view.listeners),
        "created_at": time(row.created_at),
        "updated_at": row.updated_at.map(time),
        "healthmonitor_id": view.health_monitor_id,
        "members": id_list(&view.members),
        "tags": view.tags,
    });
    tls::show_pool(PoolTls::of(row).ok().flatten(), &mut shown);
    shown
}

/// A pool of a single-call create, with members and monitor as objects.
pub(super) fn render_whole(view: &View, load_balancer: &str, whole: &Whole) -> Value {
    let mut shown = render(view);
    let members: Vec<Value> = whole
        .members
        .iter()
        .filter(|row| row.pool_id == view.row.id)
        .map(|row| member::render_row(row, &[]))
        .collect();
    shown["members"] = Value::Array(members);
    let monitor = whole.monitors.iter().find(|row| row.pool_id == view.row.id);
    shown["healthmonitor"] =
        monitor.map_or(Value::Null, |row| health_monitor::render_row(row, &[]));
    shown["loadbalancers"] = json!([{"id": load_balancer}]);
    shown
}

fn persistence(body: &Body) -> Result<Field<Persistence>, Error> {
    let nested = match body.object("session_persistence", PERSISTENCE)? {
        Field::Set(nested) => nested,
        Field::Null => return Ok(Field::Null),
        Field::Absent => return Ok(Field::Absent),
    };
    if nested.is_empty() {
        return Ok(Field::Null);
    }
    let kinds = &["APP_COOKIE", "HTTP_COOKIE", "SOURCE_IP"];
    Ok(Field::Set(Persistence {
        kind: nested.choice("type", kinds)?.value(),
        cookie_name: nested.text("cookie_name", TEXT)?.value(),
        persistence_timeout: nested.int("persistence_timeout", 0, i32::MAX)?.value(),
        persistence_granularity: nested.text("persistence_granularity", 64)?.value(),
    }))
}

/// A definition with everything in it.
pub(super) fn parse(body: &Body) -> Result<New, Error> {
    body.refuse_unsupported("pool")?;
    let name = body.text("name", TEXT)?.or_default();
    let protocol = body.choice("protocol", PROTOCOLS)?;
    let algorithm = body.choice("lb_algorithm", ALGORITHMS)?;
    let mut members = Vec::new();
    for nested in body.objects("members", member::CREATE)? {
        members.push(member::parse(&nested)?);
    }
    let health_monitor = match body.object("healthmonitor", health_monitor::CREATE)? {
        Field::Set(nested) => Some(health_monitor::parse(&nested)?),
        Field::Absent | Field::Null => None,
    };
    Ok(New {
        load_balancer_id: body.uuid("loadbalancer_id")?.value(),
        listener_id: body.uuid("listener_id")?.value(),
        name,
        description: body.description()?.or_default(),
        enabled: admin_state(body)?,
        protocol: body.required("protocol", protocol)?,
        lb_algorithm: body.required("lb_algorithm", algorithm)?,
        persistence: persistence(body)?.value(),
        tls: tls::pool(body)?,
        tags: body.tags()?.or_default(),
        members,
        health_monitor,
    })
}

/// A pool inside a listener or policy of a single-call create: a name alone refers to a pool
/// defined elsewhere, anything more is a definition, which goes to `pools`. Returns the name.
pub(super) fn reference(body: &Body, pools: &mut Vec<New>) -> Result<String, Error> {
    let name = body.text("name", TEXT)?.or_default();
    if name.is_empty() {
        return Err(Error::validation(
            "Pools must be named when creating a fully populated loadbalancer.",
        ));
    }
    let defaults = ["name", "admin_state_up", "tls_enabled"];
    let bare = defaults.iter().filter(|key| body.has(key)).count() == body.len();
    if !bare {
        for attribute in ["protocol", "lb_algorithm"] {
            if !body.has(attribute) {
                return Err(Error::validation(format!(
                    "Pool definition for '{name}' missing required attribute: {attribute}"
                )));
            }
        }
        pools.push(parse(body)?);
    }
    body.bool("admin_state_up")?;
    body.bool("tls_enabled")?;
    Ok(name)
}

pub(super) async fn list(call: Call) -> Result<Response, Error> {
    let page = call.page()?;
    let views = app::list(&call.state, &page).await?;
    let items: Vec<Value> = views.iter().map(render).collect();
    let links = call.links(&page, &items);
    Ok(page_answer(&call, "pools", links, items))
}

pub(super) async fn show(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let view = app::show(&call.state, &id).await?;
    Ok(ok(json!({"pool": call.fields(render(&view))})))
}

pub(super) fn created(outer: Map<String, Value>) -> Result<New, Error> {
    let body = Body::open(outer, "pool_", "pool", CREATE)?;
    let new = parse(&body)?;
    if !new.members.is_empty() || new.health_monitor.is_some() {
        return Err(Error::validation(
            "members and healthmonitor of a pool are only possible within the creation of a load \
             balancer: create the pool, then its members.",
        ));
    }
    Ok(new)
}

pub(super) async fn create(call: Call) -> Result<Response, Error> {
    let new = created(call.json("pool_")?)?;
    let id = app::create(&call.state, &call.caller, &new).await?;
    let view = app::show(&call.state, &id).await?;
    Ok(with_status(
        StatusCode::CREATED,
        json!({"pool": render(&view)}),
    ))
}

pub(super) fn changed(outer: Map<String, Value>) -> Result<Change, Error> {
    let body = Body::open(outer, "pool_", "pool", UPDATE)?;
    body.refuse_unsupported("pool")?;
    let algorithm = match body.choice("lb_algorithm", ALGORITHMS)? {
        Field::Null => return Err(Error::option("None", "lb_algorithm")),
        other => other.value(),
    };
    Ok(Change {
        name: body.text("name", TEXT)?.change(String::new()),
        description: body.description()?.change(String::new()),
        enabled: body.bool("admin_state_up")?.change(false),
        lb_algorithm: algorithm,
        persistence: persistence(&body)?.change_or_clear(),
        tls: tls::pool(&body)?,
        tags: body.tags()?.change(Vec::new()),
    })
}

pub(super) async fn update(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let change = changed(call.json("pool_")?)?;
    app::update(&call.state, &call.caller, &id, &change).await?;
    let view = app::show(&call.state, &id).await?;
    Ok(ok(json!({"pool": render(&view)})))
}

pub(super) async fn delete(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    app::delete(&call.state, &call.caller, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
