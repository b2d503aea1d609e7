//! `/quotas`

use super::page_answer;
use crate::app::Error;
use crate::app::quota::{self as app, Limits};
use crate::db::entity::quota;
use crate::db::query::list::{ListError, PageRequest};
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
    let page = call.page()?;
    let scope = call.caller.scope.as_deref();
    let rows = app::rows(call.state.db.read()).await?;
    let mut items: Vec<Value> = rows
        .iter()
        .filter(|row| scope.is_none_or(|project| project == row.project_id))
        .map(|row| {
            let mut item = render(Some(row));
            item["project_id"] = json!(row.project_id);
            item["tenant_id"] = json!(row.project_id);
            item
        })
        .collect();
    paged(&mut items, &page)?;
    let links = call.links(&page, &items);
    Ok(page_answer(&call, "quotas", links, items))
}

/// The rows of a page, of all rows by project. Quotas have neither an id nor tags: a marker is a project.
fn paged(items: &mut Vec<Value>, page: &PageRequest) -> Result<(), Error> {
    let known = |name: &str| name == "project_id" || LIMITS.contains(&name);
    let tags = [
        &page.tags,
        &page.tags_any,
        &page.not_tags,
        &page.not_tags_any,
    ];
    let filters = &page.filters;
    if tags.iter().any(|tags| !tags.is_empty()) || filters.iter().any(|(name, _)| !known(name)) {
        return Err(ListError::Filter.into());
    }
    if let Some((name, _)) = page.sort.iter().find(|(name, _)| !known(name)) {
        return Err(ListError::SortKey(name.clone()).into());
    }
    let place = |items: &[Value], marker: &str| {
        let found = items.iter().position(|item| item["project_id"] == marker);
        found.ok_or_else(|| ListError::Marker(marker.to_owned()))
    };
    // Sorting is stable: what the last key leaves equal stays in the order of the one before, and of the projects.
    for (name, descending) in page.sort.iter().rev() {
        items.sort_by(|one, other| {
            let number = |item: &Value| item[name].as_i64();
            let text = |item: &Value| item[name].as_str().map(str::to_owned);
            let order = (number(one), text(one)).cmp(&(number(other), text(other)));
            if *descending { order.reverse() } else { order }
        });
    }
    if let Some(marker) = &page.marker {
        let at = place(items, marker)?;
        if page.reverse {
            items.truncate(at);
        } else {
            items.drain(..=at);
        }
    }
    items.retain(|item| {
        filters.iter().all(|(name, value)| match &item[name] {
            Value::String(text) => text == value,
            number => value.parse::<i64>().is_ok_and(|wanted| *number == wanted),
        })
    });
    items.truncate(page.limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    }));
    Ok(())
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

/// What a body says, and whose it says they are, when it does.
pub(super) fn changed(outer: Map<String, Value>) -> Result<(Limits, Option<String>), Error> {
    let known = [&LIMITS[..], &["project_id", "tenant_id"]].concat();
    let body = Body::open(outer, "quotas", "quota", &known)?;
    let limit =
        |name: &str| Ok::<_, Error>(body.int(name, UNLIMITED, MAX_LIMIT)?.change_or_clear());
    let either = |name: &str, old: &str| Ok::<_, Error>(limit(name)?.or(limit(old)?));
    let limits = Limits {
        load_balancer: either("loadbalancer", "load_balancer")?,
        listener: limit("listener")?,
        pool: limit("pool")?,
        member: limit("member")?,
        health_monitor: either("healthmonitor", "health_monitor")?,
        l7policy: limit("l7policy")?,
        l7rule: limit("l7rule")?,
    };
    Ok((limits, body.project()?.value()))
}

pub(super) async fn update(Path(project): Path<String>, call: Call) -> Result<Response, Error> {
    let project = self::project(project)?;
    let (limits, named) = changed(call.json("quotas")?)?;
    if let Some(named) = named.filter(|named| *named != project) {
        let why = format!("The quota is that of project {project}, which the path names.");
        return Err(Error::input("project_id", named, why));
    }
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
