//! `/flavors`

use super::page_answer;
use crate::app::flavor::{self as app, Change, New};
use crate::app::{Error, catalog};
use crate::db::entity::flavor;
use crate::http::body::{Body, TEXT};
use crate::http::call::Call;
use crate::http::envelope::{ok, with_status};
use crate::http::openapi::Resource;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Map, Value, json};

const CREATE: &[&str] = &["name", "description", "enabled", "flavor_profile_id"];
const UPDATE: &[&str] = &["name", "description", "enabled"];

/// For the OpenAPI document.
pub(super) const RESOURCE: Resource = Resource {
    root: "flavor",
    plural: "flavors",
    path: "/flavors",
    create: CREATE,
    update: UPDATE,
    required: &["name", "flavor_profile_id"],
    choices: &[],
    shown: &[&["id", "name", "description", "enabled", "flavor_profile_id"]],
};

fn render(row: &flavor::Model) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "enabled": row.enabled,
        "flavor_profile_id": row.flavor_profile_id,
    })
}

pub(super) async fn list(call: Call) -> Result<Response, Error> {
    let page = call.page()?;
    let rows = catalog::list::<flavor::Entity>(&call.state, &page).await?;
    let items: Vec<Value> = rows.iter().map(render).collect();
    let links = call.links(&page, &items);
    Ok(page_answer(&call, "flavors", links, items))
}

pub(super) async fn show(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let row = catalog::show::<flavor::Entity>(&call.state, &id).await?;
    Ok(ok(json!({"flavor": call.fields(render(&row))})))
}

pub(super) fn created(outer: Map<String, Value>) -> Result<New, Error> {
    let body = Body::open(outer, "flavor_", "flavor", CREATE)?;
    let profile = body.uuid("flavor_profile_id")?;
    Ok(New {
        name: body.required("name", body.text("name", TEXT)?)?,
        description: body.description()?.or_default(),
        enabled: body.bool("enabled")?.or(true),
        flavor_profile_id: body.required("flavor_profile_id", profile)?,
    })
}

pub(super) async fn create(call: Call) -> Result<Response, Error> {
    let new = created(call.json("flavor_")?)?;
    let row = app::create(&call.state, &new).await?;
    let body = json!({"flavor": render(&row)});
    Ok(with_status(StatusCode::CREATED, body))
}

pub(super) fn changed(outer: Map<String, Value>) -> Result<Change, Error> {
    let body = Body::open(outer, "flavor_", "flavor", UPDATE)?;
    Ok(Change {
        name: body.kept("name", body.text("name", TEXT)?)?,
        description: body.description()?.change(String::new()),
        enabled: body.kept("enabled", body.bool("enabled")?)?,
    })
}

pub(super) async fn update(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let change = changed(call.json("flavor_")?)?;
    let row = app::update(&call.state, &id, &change).await?;
    Ok(ok(json!({"flavor": render(&row)})))
}

pub(super) async fn delete(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    app::delete(&call.state, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
