//! `/loadbalancers`

use super::{id_list, l7policy, listener, page_answer, pool, time};
use crate::app::load_balancer::{self as app, Change, New, Stats, View, Whole};
use crate::app::{Error, vip};
use crate::http::body::{Body, Field, TEXT};
use crate::http::call::Call;
use crate::http::envelope::{ok, with_status};
use crate::http::openapi::{Resource, STANDING};
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Map, Value, json};

const CREATE: &[&str] = &[
    "name",
    "description",
    "admin_state_up",
    "vip_address",
    "vip_port_id",
    "vip_subnet_id",
    "vip_network_id",
    "vip_qos_policy_id",
    "vip_sg_ids",
    "additional_vips",
    "project_id",
    "tenant_id",
    "provider",
    "flavor_id",
    "availability_zone",
    "listeners",
    "pools",
    "tags",
];
const UPDATE: &[&str] = &[
    "name",
    "description",
    "admin_state_up",
    "vip_qos_policy_id",
    "vip_sg_ids",
    "tags",
];

/// For the OpenAPI document.
pub(super) const RESOURCE: Resource = Resource {
    root: "loadbalancer",
    plural: "loadbalancers",
    path: "/loadbalancers",
    create: CREATE,
    update: UPDATE,
    required: &[],
    choices: &[],
    shown: &[
        &["id", "name", "description"],
        STANDING,
        &[
            "vip_address",
            "vip_port_id",
            "vip_subnet_id",
            "vip_network_id",
            "vip_qos_policy_id",
            "vip_sg_ids",
            "vip_vnic_type",
            "additional_vips",
            "listeners",
            "pools",
            "provider",
            "flavor_id",
            "availability_zone",
        ],
    ],
};

fn render(view: &View) -> Value {
    let row = &view.row;
    let more = vip::additional(row).into_iter().map(|vip| {
        json!({"subnet_id": vip.subnet_id, "ip_address": vip.ip_address, "port_id": row.vip_port_id})
    });
    let more: Vec<Value> = more.collect();
    json!({
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "provisioning_status": row.provisioning_status,
        "operating_status": row.operating_status,
        "admin_state_up": row.enabled,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "created_at": time(row.created_at),
        "updated_at": row.updated_at.map(time),
        "vip_address": row.vip_address,
        "vip_port_id": row.vip_port_id,
        "vip_subnet_id": row.vip_subnet_id,
        "vip_network_id": row.vip_network_id,
        "vip_qos_policy_id": null,
        "vip_sg_ids": [],
        "vip_vnic_type": "normal",
        "additional_vips": more,
        "listeners": id_list(&view.listeners),
        "pools": id_list(&view.pools),
        "provider": row.provider,
        "flavor_id": row.flavor_id,
        "availability_zone": row.availability_zone,
        "tags": view.tags,
    })
}

pub(super) async fn list(call: Call) -> Result<Response, Error> {
    let page = call.page()?;
    let views = app::list(&call.state, &page).await?;
    let items: Vec<Value> = views.iter().map(render).collect();
    let links = call.links(&page, &items);
    Ok(page_answer(&call, "loadbalancers", links, items))
}

pub(super) async fn show(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let view = app::show(&call.state, &id).await?;
    Ok(ok(json!({"loadbalancer": call.fields(render(&view))})))
}

pub(super) fn created(outer: Map<String, Value>) -> Result<New, Error> {
    let body = Body::open(outer, "load_balancer", "loadbalancer", CREATE)?;
    body.refuse_unsupported("loadbalancer")?;
    let mut pools = Vec::new();
    for definition in body.objects("pools", pool::CREATE)? {
        pools.push(pool::parse(&definition)?);
    }
    let mut listeners = Vec::new();
    for definition in body.objects("listeners", listener::CREATE)? {
        listeners.push(listener::parse_in_graph(&definition, &mut pools)?);
    }
    Ok(New {
        name: body.text("name", TEXT)?.or_default(),
        description: body.description()?.or_default(),
        enabled: admin_state(&body)?,
        project_id: body.project()?.value(),
        provider: body.text("provider", 64)?.value(),
        flavor_id: body.uuid("flavor_id")?.value(),
        availability_zone: body.text("availability_zone", TEXT)?.value(),
        vip: vip::Wish {
            address: body.ip("vip_address")?.value(),
            port_id: body.uuid("vip_port_id")?.value(),
            subnet_id: body.uuid("vip_subnet_id")?.value(),
            network_id: body.uuid("vip_network_id")?.value(),
        },
        additional_vips: additional_vips(&body)?,
        tags: body.tags()?.or_default(),
        listeners,
        pools,
    })
}

fn additional_vips(body: &Body) -> Result<Vec<vip::MoreWish>, Error> {
    let mut all = Vec::new();
    for item in body.objects("additional_vips", &["subnet_id", "ip_address"])? {
        let subnet = item.uuid("subnet_id")?;
        let address = item.ip("ip_address")?.value();
        all.push(vip::MoreWish {
            subnet_id: item.required("subnet_id", subnet)?,
            address: address.and_then(|text| text.parse().ok()),
        });
    }
    Ok(all)
}

pub(super) async fn create(call: Call) -> Result<Response, Error> {
    let new = created(call.json("load_balancer")?)?;
    let graph = !new.listeners.is_empty() || !new.pools.is_empty();
    let id = app::create(&call.state, &call.caller, &new).await?;
    let mut shown = render(&app::show(&call.state, &id).await?);
    if graph {
        let whole = app::whole(&call.state, &id).await?;
        embed(&call, &mut shown, &whole).await?;
    }
    Ok(with_status(
        StatusCode::CREATED,
        json!({"loadbalancer": shown}),
    ))
}

/// Admin state of a create: absent is up, null is down (as upstream reads it).
pub(super) fn admin_state(body: &Body) -> Result<bool, Error> {
    Ok(match body.bool("admin_state_up")? {
        Field::Absent => true,
        Field::Null => false,
        Field::Set(value) => value,
    })
}

/// The answer to a single-call create shows the children whole.
async fn embed(call: &Call, shown: &mut Value, whole: &Whole) -> Result<(), Error> {
    let lb = &whole.view.row.id;
    let mut listeners = Vec::new();
    for view in &whole.listeners {
        let mut item = listener::render(view);
        let mut policies = Vec::new();
        for id in &view.l7policies {
            let policy = crate::app::l7policy::show(&call.state, id).await?;
            policies.push(l7policy::render_whole(call, &policy).await?);
        }
        item["l7policies"] = Value::Array(policies);
        listeners.push(item);
    }
    let mut pools = Vec::new();
    for view in &whole.pools {
        pools.push(pool::render_whole(view, lb, whole));
    }
    shown["listeners"] = Value::Array(listeners);
    shown["pools"] = Value::Array(pools);
    Ok(())
}

pub(super) fn changed(outer: Map<String, Value>) -> Result<Change, Error> {
    let body = Body::open(outer, "load_balancer", "loadbalancer", UPDATE)?;
    body.refuse_unsupported("loadbalancer")?;
    Ok(Change {
        name: body.text("name", TEXT)?.change(String::new()),
        description: body.description()?.change(String::new()),
        enabled: body.bool("admin_state_up")?.change(false),
        tags: body.tags()?.change(Vec::new()),
    })
}

pub(super) async fn update(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let change = changed(call.json("load_balancer")?)?;
    app::update(&call.state, &call.caller, &id, &change).await?;
    let view = app::show(&call.state, &id).await?;
    Ok(ok(json!({"loadbalancer": render(&view)})))
}

pub(super) async fn delete(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    app::delete(&call.state, &call.caller, &id, call.flag("cascade")).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn failover(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    app::failover(&call.state, &call.caller, &id).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Counters.
pub(super) fn render_stats(stats: &Stats) -> Value {
    json!({"stats": {
        "bytes_in": stats.bytes_in,
        "bytes_out": stats.bytes_out,
        "active_connections": stats.active_connections,
        "total_connections": stats.total_connections,
        "request_errors": stats.request_errors,
    }})
}

pub(super) async fn stats(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let stats = app::stats(&call.state, &id).await?;
    Ok(ok(render_stats(&stats)))
}

/// Pools that no listener uses by default are absent, and policies too: upstream's code, not its
/// reference.
pub(super) async fn status(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let whole = app::whole(&call.state, &id).await?;
    let listeners: Vec<Value> = whole
        .listeners
        .iter()
        .map(|listener| {
            let row = &listener.row;
            let default = whole
                .pools
                .iter()
                .find(|p| Some(&p.row.id) == row.default_pool_id.as_ref());
            let pools: Vec<Value> = default
                .iter()
                .map(|pool| pool_status(pool, &whole))
                .collect();
            json!({
                "id": row.id, "name": row.name,
                "provisioning_status": row.provisioning_status,
                "operating_status": row.operating_status,
                "pools": pools,
            })
        })
        .collect();
    let row = &whole.view.row;
    Ok(ok(json!({"statuses": {"loadbalancer": {
        "id": row.id, "name": row.name,
        "provisioning_status": row.provisioning_status,
        "operating_status": row.operating_status,
        "listeners": listeners,
    }}})))
}

fn pool_status(pool: &crate::app::pool::View, whole: &Whole) -> Value {
    let row = &pool.row;
    let members: Vec<Value> = whole
        .members
        .iter()
        .filter(|member| member.pool_id == row.id)
        .map(|member| {
            json!({
                "id": member.id, "name": member.name,
                "provisioning_status": member.provisioning_status,
                "operating_status": member.operating_status,
                "address": member.address, "protocol_port": member.protocol_port,
            })
        })
        .collect();
    let mut shown = json!({
        "id": row.id, "name": row.name,
        "provisioning_status": row.provisioning_status,
        "operating_status": row.operating_status,
        "members": members,
    });
    if let Some(monitor) = whole
        .monitors
        .iter()
        .find(|monitor| monitor.pool_id == row.id)
    {
        shown["health_monitor"] = json!({
            "id": monitor.id, "name": monitor.name, "type": monitor.kind,
            "provisioning_status": monitor.provisioning_status,
            "operating_status": monitor.operating_status,
        });
    }
    shown
}
