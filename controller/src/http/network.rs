//! The network reads that the client makes to turn names into ids: Neutron's version document,
//! networks, subnets and ports of the local inventory, and empty lists of what we do not have.

use super::call::Call;
use super::envelope::ok;
use crate::app::{AppState, Error};
use crate::config::Drivers;
use crate::db::entity::{address, network, port, subnet};
use crate::db::query::network as inventory;
use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};
use std::collections::HashMap;

pub(super) fn routes() -> Router<AppState> {
    let v2 = Router::new()
        .route("/", get(resources))
        .route("/networks", get(networks))
        .route("/networks/{id}", get(one_network))
        .route("/subnets", get(subnets))
        .route("/subnets/{id}", get(one_subnet))
        .route("/ports", get(ports))
        .route("/ports/{id}", get(one_port))
        .route(
            "/security-groups",
            get(|| async { ok(json!({"security_groups": []})) }),
        )
        .route(
            "/qos/policies",
            get(|| async { ok(json!({"policies": []})) }),
        )
        .route(
            "/floatingips",
            get(|| async { ok(json!({"floatingips": []})) }),
        )
        .route(
            "/extensions",
            get(|| async { ok(json!({"extensions": []})) }),
        );
    Router::new()
        .route("/network", get(versions))
        .nest("/network/v2.0", v2)
}

async fn versions(call: Call) -> Response {
    let href = format!("{}/network/v2.0/", call.base);
    ok(json!({"versions": [
        {"id": "v2.0", "status": "CURRENT", "links": [{"rel": "self", "href": href}]},
    ]}))
}

async fn resources() -> Response {
    ok(json!({"resources": [
        {"name": "network", "collection": "networks"},
        {"name": "subnet", "collection": "subnets"},
        {"name": "port", "collection": "ports"},
    ]}))
}

fn show_network((row, subnets): &(network::Model, Vec<subnet::Model>)) -> Value {
    let subnets: Vec<&String> = subnets.iter().map(|subnet| &subnet.id).collect();
    json!({
        "id": row.id, "name": row.name, "description": row.description, "mtu": row.mtu,
        "admin_state_up": true, "status": "ACTIVE", "shared": true, "subnets": subnets,
        "router:external": row.name == "public", "port_security_enabled": true,
        "project_id": "", "tenant_id": "", "tags": [],
        "created_at": zoned(row.created_at), "updated_at": zoned(row.created_at),
    })
}

fn show_subnet(row: &subnet::Model) -> Value {
    let version = if row.cidr.contains(':') { 6 } else { 4 };
    json!({
        "id": row.id, "name": row.name, "description": "", "network_id": row.network_id,
        "cidr": row.cidr, "gateway_ip": row.gateway_ip, "ip_version": version,
        "enable_dhcp": false, "allocation_pools": [], "dns_nameservers": [], "host_routes": [],
        "project_id": "", "tenant_id": "", "tags": [],
        "created_at": zoned(row.created_at), "updated_at": zoned(row.created_at),
    })
}

fn show_port(row: &port::Model, addresses: &[address::Model]) -> Value {
    let fixed: Vec<Value> = addresses
        .iter()
        .map(|a| json!({"subnet_id": a.subnet_id, "ip_address": a.ip_address}))
        .collect();
    json!({
        "id": row.id, "name": row.name, "description": "", "network_id": row.network_id,
        "mac_address": row.mac_address, "fixed_ips": fixed, "device_id": row.device_id,
        "device_owner": row.device_owner, "admin_state_up": row.admin_state_up,
        "status": if row.admin_state_up { "ACTIVE" } else { "DOWN" },
        "project_id": row.project_id, "tenant_id": row.project_id, "security_groups": [],
        "allowed_address_pairs": [], "port_security_enabled": true, "tags": [],
        "created_at": zoned(row.created_at), "updated_at": zoned(row.created_at),
    })
}

fn zoned(millis: i64) -> String {
    format!("{}Z", crate::time::format(millis))
}

/// Neutron filters: every parameter that names an attribute must equal it; repeats are alternatives.
fn matching(call: &Call, items: Vec<Value>) -> Vec<Value> {
    let mut wanted: HashMap<&str, Vec<&str>> = HashMap::new();
    for (name, value) in &call.query {
        if !["fields", "limit", "marker", "sort_key", "sort_dir"].contains(&name.as_str()) {
            wanted.entry(name).or_default().push(value);
        }
    }
    let equal = |item: &Value, name: &str, values: &[&str]| match item.get(name) {
        None => true,
        Some(Value::String(text)) => values.contains(&text.as_str()),
        Some(other) => {
            let text = other.to_string();
            values.iter().any(|value| value.eq_ignore_ascii_case(&text))
        }
    };
    let keep = |item: &Value| {
        wanted
            .iter()
            .all(|(name, values)| equal(item, name, values))
    };
    items
        .into_iter()
        .filter(keep)
        .map(|item| call.fields(item))
        .collect()
}

/// With the `noop` drivers every id exists: one that nobody has named yet is shown as what it will be.
fn or_any(call: &Call, mut items: Vec<Value>) -> Vec<Value> {
    let named = call.query.iter().find(|(name, _)| name == "id");
    if items.is_empty()
        && let Some((_, id)) = named
    {
        items.extend(any(call, id));
    }
    items
}

fn any(call: &Call, id: &str) -> Option<Value> {
    let exists = call.state.drivers == Drivers::Noop && id.parse::<uuid::Uuid>().is_ok();
    exists.then(|| json!({"id": id, "name": format!("noop-{id}"), "status": "ACTIVE"}))
}

async fn visible(call: &Call) -> Result<Vec<(network::Model, Vec<subnet::Model>)>, Error> {
    let all = inventory::inventory(call.state.db.read()).await?;
    Ok(all.into_iter().filter(|(row, _)| !row.internal).collect())
}

fn one(call: &Call, kind: &str, id: &str, items: Vec<Value>) -> Result<Response, Error> {
    let singular = kind.to_ascii_lowercase();
    let item = items
        .into_iter()
        .find(|item| item.get("id").and_then(Value::as_str) == Some(id))
        .or_else(|| any(call, id))
        .ok_or_else(|| Error::not_found(kind, id))?;
    Ok(ok(json!({ singular: item })))
}

async fn networks(call: Call) -> Result<Response, Error> {
    let all = visible(&call).await?.iter().map(show_network).collect();
    Ok(ok(json!({"networks": or_any(&call, matching(&call, all))})))
}

async fn one_network(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    one(
        &call,
        "Network",
        &id,
        visible(&call).await?.iter().map(show_network).collect(),
    )
}

async fn all_subnets(call: &Call) -> Result<Vec<Value>, Error> {
    let all = visible(call).await?;
    Ok(all
        .iter()
        .flat_map(|(_, subnets)| subnets)
        .map(show_subnet)
        .collect())
}

async fn subnets(call: Call) -> Result<Response, Error> {
    let all = all_subnets(&call).await?;
    Ok(ok(json!({"subnets": or_any(&call, matching(&call, all))})))
}

async fn one_subnet(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    one(&call, "Subnet", &id, all_subnets(&call).await?)
}

async fn all_ports(call: &Call) -> Result<Vec<Value>, Error> {
    let networks: Vec<String> = visible(call)
        .await?
        .into_iter()
        .map(|(n, _)| n.id)
        .collect();
    let rows = inventory::ports(call.state.db.read(), &networks).await?;
    Ok(rows
        .iter()
        .map(|(row, addresses)| show_port(row, addresses))
        .collect())
}

async fn ports(call: Call) -> Result<Response, Error> {
    let all = all_ports(&call).await?;
    Ok(ok(json!({"ports": or_any(&call, matching(&call, all))})))
}

async fn one_port(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    one(&call, "Port", &id, all_ports(&call).await?)
}
