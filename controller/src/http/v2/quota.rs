//! `/quotas`

use super::page_answer;
use crate::app::Error;
use crate::app::quota::{self as app, Limits};
use crate::db::entity::quota;
use crate::http::body::{Body, line};
use crate::http::call::Call;
use crate::http::envelope::{ok, with_status};
use crate::transaction;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Map, Value, json};

/// Limit of what has none of its own.
pub(in crate::http) const UNLIMITED: i32 = -1;
/// Upstream's largest limit.
pub(in crate::http) const MAX_LIMIT: i32 = 2_000_000_000;

/// Names of limits; two are upstream's older ones.
pub(super) const LIMITS: [&str; 9] = [
    "loadbalancer",
    "load_balancer",
    "listener",
    "pool",
    "member",
    "healthmonitor",
    "health_monitor",
    "l7policy",
    "l7rule",
];

fn render(row: Option<&quota::Model>) -> Value {
    let limit = |of: fn(&quota::Model) -> Option<i32>| row.and_then(of).unwrap_or(UNLIMITED);
    let (balancer, monitor) = (limit(|q| q.load_balancer), limit(|q| q.health_monitor));
    json!({
        "loadbalancer": balancer,
        "load_balancer": balancer,
        "listener": limit(|q| q.listener),
        "pool": limit(|q| q.pool),
        "member": limit(|q| q.member),
        "healthmonitor": monitor,
        "health_monitor": monitor,
        "l7policy": limit(|q| q.l7policy),
        "l7rule": limit(|q| q.l7rule),
    })
}

pub(super) async fn list(call: Call) -> Result<Response, Error> {
    let wanted = call
        .query
        .iter()
        .find(|(key, _)| key == "project_id" || key == "tenant_id");
    let rows = app::rows(call.state.db.read()).await?;
    let items = rows
        .iter()
        .filter(|row| wanted.is_none_or(|(_, project)| *project == row.project_id))
        .filter(|row| {
            let scope = call.caller.scope.as_ref();
            scope.is_none_or(|project| *project == row.project_id)
        })
        .map(|row| {
            let mut item = render(Some(row));
            item["project_id"] = json!(row.project_id);
            item["tenant_id"] = json!(row.project_id);
            item
        })
        .collect();
    Ok(page_answer(&call, "quotas", json!([]), items))
}

/// A project as a path names it.
fn project(text: String) -> Result<String, Error> {
    line(&Value::String(text), 36).map_err(|why| Error::input("project_id", "", why))
}

pub(super) async fn show(Path(project): Path<String>, call: Call) -> Result<Response, Error> {
    let project = self::project(project)?;
    let row = app::row(call.state.db.read(), &project).await?;
    Ok(ok(json!({"quota": render(row.as_ref())})))
}

pub(super) async fn defaults() -> Response {
    ok(json!({"quota": render(None)}))
}

pub(super) async fn defaults_of(Path(project): Path<String>) -> Result<Response, Error> {
    self::project(project)?;
    Ok(ok(json!({"quota": render(None)})))
}

pub(super) fn changed(outer: Map<String, Value>) -> Result<Limits, Error> {
    let known = [&LIMITS[..], &["project_id", "tenant_id"]].concat();
    let body = Body::open(outer, "quotas", "quota", &known)?;
    let limit =
        |name: &str| Ok::<_, Error>(body.int(name, UNLIMITED, MAX_LIMIT)?.change_or_clear());
    let either = |name: &str, old: &str| Ok::<_, Error>(limit(name)?.or(limit(old)?));
    Ok(Limits {
        load_balancer: either("loadbalancer", "load_balancer")?,
        listener: limit("listener")?,
        pool: limit("pool")?,
        member: limit("member")?,
        health_monitor: either("healthmonitor", "health_monitor")?,
        l7policy: limit("l7policy")?,
        l7rule: limit("l7rule")?,
    })
}

pub(super) async fn update(Path(project): Path<String>, call: Call) -> Result<Response, Error> {
    let project = self::project(project)?;
    let limits = changed(call.json("quotas")?)?;
    let db = &call.state.db;
    let done: Result<quota::Model, Error> =
        transaction!(db, |txn| { app::set(txn, &project, &limits).await });
    Ok(with_status(
        StatusCode::ACCEPTED,
        json!({"quota": render(Some(&done?))}),
    ))
}

pub(super) async fn reset(Path(project): Path<String>, call: Call) -> Result<Response, Error> {
    let project = self::project(project)?;
    let db = &call.state.db;
    let done: Result<(), Error> = transaction!(db, |txn| { app::reset(txn, &project).await });
    done?;
    Ok(StatusCode::ACCEPTED.into_response())
}
