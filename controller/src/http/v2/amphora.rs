//! `/octavia/amphorae`

use super::{page_answer, time};
use crate::app::Error;
use crate::app::amphora as app;
use crate::db::entity::amphora;
use crate::http::call::Call;
use crate::http::envelope::ok;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

fn render(row: &amphora::Model) -> Value {
    json!({
        "id": row.id,
        "loadbalancer_id": row.load_balancer_id,
        "compute_id": row.compute_id,
        "lb_network_ip": row.lb_network_ip,
        "vrrp_ip": row.vrrp_ip,
        "ha_ip": row.ha_ip,
        "vrrp_port_id": row.vrrp_port_id,
        "ha_port_id": row.ha_port_id,
        "cert_expiration": row.cert_expiration.map(time),
        "cert_busy": row.cert_busy,
        "role": row.role,
        "status": row.status,
        "vrrp_interface": row.vrrp_interface,
        "vrrp_id": row.vrrp_id,
        "vrrp_priority": row.vrrp_priority,
        "cached_zone": row.cached_zone,
        "created_at": time(row.created_at),
        "updated_at": row.updated_at.map(time),
        "image_id": row.image_id,
        "compute_flavor": row.compute_flavor,
    })
}

pub(super) async fn list(call: Call) -> Result<Response, Error> {
    let page = call.page()?;
    let rows = app::list(&call.state, &page).await?;
    let items: Vec<Value> = rows.iter().map(render).collect();
    let links = call.links(&page, &items);
    Ok(page_answer(&call, "amphorae", links, items))
}

pub(super) async fn show(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let row = app::show(&call.state, &id).await?;
    Ok(ok(json!({"amphora": call.fields(render(&row))})))
}

pub(super) async fn delete(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    app::delete(&call.state, &call.caller, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn failover(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    app::failover(&call.state, &call.caller, &id).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// An agent here has no configuration beside its desired state.
pub(super) async fn config(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    app::show(&call.state, &id).await?;
    Err(Error::not_supported("config"))
}

pub(super) async fn stats(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let (row, stats) = app::stats(&call.state, &id).await?;
    let shown: Vec<Value> = stats
        .iter()
        .map(|s| {
            json!({
                "amphora_id": s.amphora_id,
                "id": s.amphora_id,
                "listener_id": s.listener_id,
                "loadbalancer_id": row.load_balancer_id,
                "bytes_in": s.bytes_in,
                "bytes_out": s.bytes_out,
                "active_connections": s.active_connections,
                "total_connections": s.total_connections,
                "request_errors": s.request_errors,
            })
        })
        .collect();
    Ok(ok(json!({"amphora_stats": shown})))
}
