//! `/listeners`

use super::load_balancer::{admin_state, render_stats};
use super::{id_list, l7policy, page_answer, pool, time, tls};
use crate::app::Error;
use crate::app::listener::{self as app, Change, New, TIMEOUTS, Timeouts, View};
use crate::app::pool::New as NewPool;
use crate::app::tls::ListenerTls;
use crate::http::body::{Body, Field, TEXT};
use crate::http::call::Call;
use crate::http::envelope::{ok, with_status};
use crate::http::openapi::{Resource, STANDING};
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Longest time-out in milliseconds: 24 days, upstream's limit.
pub(in crate::http) const MAX_TIMEOUT: i32 = 2_073_600_000;

/// Attributes of a create.
pub(super) const CREATE: &[&str] = &[
    "name",
    "description",
    "admin_state_up",
    "tags",
    "loadbalancer_id",
    "project_id",
    "tenant_id",
    "protocol",
    "protocol_port",
    "connection_limit",
    "default_pool_id",
    "default_pool",
    "l7policies",
    "default_tls_container_ref",
    "sni_container_refs",
    "insert_headers",
    "timeout_client_data",
    "timeout_member_connect",
    "timeout_member_data",
    "timeout_tcp_inspect",
    "client_ca_tls_container_ref",
    "client_crl_container_ref",
    "client_authentication",
    "allowed_cidrs",
    "tls_ciphers",
    "tls_versions",
    "alpn_protocols",
    "hsts_max_age",
    "hsts_include_subdomains",
    "hsts_preload",
];
const UPDATE: &[&str] = &[
    "name",
    "description",
    "admin_state_up",
    "tags",
    "connection_limit",
    "default_pool_id",
    "default_tls_container_ref",
    "sni_container_refs",
    "insert_headers",
    "timeout_client_data",
    "timeout_member_connect",
    "timeout_member_data",
    "timeout_tcp_inspect",
    "client_ca_tls_container_ref",
    "client_crl_container_ref",
    "client_authentication",
    "allowed_cidrs",
    "tls_ciphers",
    "tls_versions",
    "alpn_protocols",
    "hsts_max_age",
    "hsts_include_subdomains",
    "hsts_preload",
];

/// For the OpenAPI document.
pub(super) const RESOURCE: Resource = Resource {
    root: "listener",
    plural: "listeners",
    path: "/listeners",
    create: CREATE,
    update: UPDATE,
    required: &["loadbalancer_id", "protocol", "protocol_port"],
    choices: &[
        ("protocol", PROTOCOLS),
        ("client_authentication", &["MANDATORY", "NONE", "OPTIONAL"]),
    ],
    shown: &[
        &["id", "name", "description"],
        STANDING,
        &[
            "protocol",
            "protocol_port",
            "connection_limit",
            "default_pool_id",
            "l7policies",
            "insert_headers",
            "loadbalancers",
            "timeout_client_data",
            "timeout_member_connect",
            "timeout_member_data",
            "timeout_tcp_inspect",
            "allowed_cidrs",
            "default_tls_container_ref",
            "sni_container_refs",
            "client_ca_tls_container_ref",
            "client_crl_container_ref",
            "client_authentication",
            "tls_ciphers",
            "tls_versions",
            "alpn_protocols",
            "hsts_max_age",
            "hsts_include_subdomains",
            "hsts_preload",
        ],
    ],
};
const PROTOCOLS: &[&str] = &[
    "HTTP",
    "HTTPS",
    "PROMETHEUS",
    "SCTP",
    "TCP",
    "TERMINATED_HTTPS",
    "UDP",
];

/// A listener as the API shows it.
pub(super) fn render(view: &View) -> Value {
    let row = &view.row;
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let cidrs = match parse(&row.allowed_cidrs) {
        Value::Array(list) if list.is_empty() => Value::Null,
        other => other,
    };
    let mut shown = json!({
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "provisioning_status": row.provisioning_status,
        "operating_status": row.operating_status,
        "admin_state_up": row.enabled,
        "protocol": row.protocol,
        "protocol_port": row.protocol_port,
        "connection_limit": row.connection_limit,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "default_pool_id": row.default_pool_id,
        "l7policies": id_list(&view.l7policies),
        "insert_headers": parse(&row.insert_headers),
        "created_at": time(row.created_at),
        "updated_at": row.updated_at.map(time),
        "loadbalancers": [{"id": row.load_balancer_id}],
        "timeout_client_data": row.timeout_client_data,
        "timeout_member_connect": row.timeout_member_connect,
        "timeout_member_data": row.timeout_member_data,
        "timeout_tcp_inspect": row.timeout_tcp_inspect,
        "tags": view.tags,
        "allowed_cidrs": cidrs,
    });
    tls::show_listener(ListenerTls::of(row).ok().flatten(), &mut shown);
    shown
}

fn connection_limit(body: &Body) -> Result<Field<i32>, Error> {
    let limit = body.int("connection_limit", -1, i32::MAX)?;
    if limit == Field::Set(0) {
        let why = "Value should be -1 (unlimited) or at least 1";
        return Err(Error::input("connection_limit", 0, why));
    }
    Ok(limit)
}

fn insert_headers(body: &Body) -> Result<Field<BTreeMap<String, String>>, Error> {
    match body.raw("insert_headers") {
        Field::Absent => Ok(Field::Absent),
        Field::Null => Ok(Field::Null),
        Field::Set(value) => {
            let wrong = || {
                let why = "A map of header names to \"true\" or \"false\" is expected.";
                Error::input("insert_headers", value, why)
            };
            let map = value.as_object().ok_or_else(wrong)?;
            let pair = |(name, value): (&String, &Value)| {
                let value = value.as_str().ok_or_else(wrong)?;
                Ok((name.clone(), value.to_owned()))
            };
            map.iter()
                .map(pair)
                .collect::<Result<_, Error>>()
                .map(Field::Set)
        }
    }
}

fn allowed_cidrs(body: &Body) -> Result<Field<Vec<String>>, Error> {
    let cidrs = body.list("allowed_cidrs", |value| {
        let text = value.as_str().unwrap_or_default();
        let net = text.parse::<ipnet::IpNet>().ok();
        let host = || {
            text.parse::<std::net::IpAddr>()
                .ok()
                .map(ipnet::IpNet::from)
        };
        let net = net
            .or_else(host)
            .ok_or("Value should be IPv4 or IPv6 CIDR format")?;
        Ok(net.trunc().to_string())
    })?;
    Ok(cidrs.map(|mut list| {
        let mut seen = std::collections::HashSet::new();
        list.retain(|cidr| seen.insert(cidr.clone()));
        list
    }))
}

fn timeout(body: &Body, name: &str) -> Result<Field<i32>, Error> {
    body.int(name, 0, MAX_TIMEOUT)
}

fn parse(body: &Body) -> Result<New, Error> {
    body.refuse_unsupported("listener")?;
    let protocol = body.choice("protocol", PROTOCOLS)?;
    let port = body.int("protocol_port", 1, 65_535)?;
    Ok(New {
        load_balancer_id: String::new(),
        name: body.text("name", TEXT)?.or_default(),
        description: body.description()?.or_default(),
        enabled: admin_state(body)?,
        protocol: body.required("protocol", protocol)?,
        protocol_port: body.required("protocol_port", port)?,
        connection_limit: connection_limit(body)?.or(-1),
        default_pool_id: body.uuid("default_pool_id")?.value(),
        insert_headers: insert_headers(body)?.or_default(),
        allowed_cidrs: allowed_cidrs(body)?.or_default(),
        timeouts: Timeouts {
            client_data: timeout(body, "timeout_client_data")?.or(TIMEOUTS.client_data),
            member_connect: timeout(body, "timeout_member_connect")?.or(TIMEOUTS.member_connect),
            member_data: timeout(body, "timeout_member_data")?.or(TIMEOUTS.member_data),
            tcp_inspect: timeout(body, "timeout_tcp_inspect")?.or(TIMEOUTS.tcp_inspect),
        },
        tls: tls::listener(body)?,
        tags: body.tags()?.or_default(),
        default_pool: None,
        l7policies: Vec::new(),
    })
}

/// A listener of a single-call create; pools defined inside it are hoisted into `pools`.
pub(super) fn parse_in_graph(body: &Body, pools: &mut Vec<NewPool>) -> Result<New, Error> {
    let mut new = parse(body)?;
    body.uuid("loadbalancer_id")?;
    if let Field::Set(nested) = body.object("default_pool", pool::CREATE)? {
        new.default_pool = Some(pool::reference(&nested, pools)?);
    }
    for nested in body.objects("l7policies", l7policy::CREATE)? {
        new.l7policies
            .push(l7policy::parse_in_graph(&nested, pools)?);
    }
    Ok(new)
}

pub(super) async fn list(call: Call) -> Result<Response, Error> {
    let page = call.page()?;
    let views = app::list(&call.state, &page).await?;
    let items: Vec<Value> = views.iter().map(render).collect();
    let links = call.links(&page, &items);
    Ok(page_answer(&call, "listeners", links, items))
}

pub(super) async fn show(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let view = app::show(&call.state, &id).await?;
    Ok(ok(json!({"listener": call.fields(render(&view))})))
}

pub(super) fn created(outer: Map<String, Value>) -> Result<New, Error> {
    let body = Body::open(outer, "listener_", "listener", CREATE)?;
    let lb = body.uuid("loadbalancer_id")?;
    let lb = body.required("loadbalancer_id", lb)?;
    if body.has_content("default_pool") || body.has_content("l7policies") {
        return Err(Error::validation(
            "default_pool and l7policies of a listener are only possible within the creation of a \
             load balancer: use default_pool_id, and create the policies after the listener.",
        ));
    }
    Ok(New {
        load_balancer_id: lb,
        ..parse(&body)?
    })
}

pub(super) async fn create(call: Call) -> Result<Response, Error> {
    let new = created(call.json("listener_")?)?;
    let id = app::create(&call.state, &call.caller, &new).await?;
    let view = app::show(&call.state, &id).await?;
    Ok(with_status(
        StatusCode::CREATED,
        json!({"listener": render(&view)}),
    ))
}

pub(super) fn changed(outer: Map<String, Value>) -> Result<Change, Error> {
    let body = Body::open(outer, "listener_", "listener", UPDATE)?;
    body.refuse_unsupported("listener")?;
    let timeout = |name: &str, default: i32| -> Result<Option<i32>, Error> {
        Ok(timeout(&body, name)?.change(default))
    };
    Ok(Change {
        name: body.text("name", TEXT)?.change(String::new()),
        description: body.description()?.change(String::new()),
        enabled: body.bool("admin_state_up")?.change(false),
        connection_limit: connection_limit(&body)?.change(-1),
        default_pool_id: body.uuid("default_pool_id")?.change_or_clear(),
        insert_headers: insert_headers(&body)?.change(BTreeMap::new()),
        allowed_cidrs: allowed_cidrs(&body)?.change(Vec::new()),
        timeout_client_data: timeout("timeout_client_data", TIMEOUTS.client_data)?,
        timeout_member_connect: timeout("timeout_member_connect", TIMEOUTS.member_connect)?,
        timeout_member_data: timeout("timeout_member_data", TIMEOUTS.member_data)?,
        timeout_tcp_inspect: timeout("timeout_tcp_inspect", TIMEOUTS.tcp_inspect)?,
        tls: tls::listener(&body)?,
        tags: body.tags()?.change(Vec::new()),
    })
}

pub(super) async fn update(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let change = changed(call.json("listener_")?)?;
    app::update(&call.state, &call.caller, &id, &change).await?;
    let view = app::show(&call.state, &id).await?;
    Ok(ok(json!({"listener": render(&view)})))
}

pub(super) async fn delete(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    app::delete(&call.state, &call.caller, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn stats(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let view = app::show(&call.state, &id).await?;
    let ids = [view.row.id];
    let stats = crate::app::load_balancer::listener_stats(&call.state, &ids).await?;
    Ok(ok(render_stats(&stats)))
}
