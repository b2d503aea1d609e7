//! `/availabilityzones`

use super::page_answer;
use crate::app::zone::{self as app, Change, New};
use crate::app::{Error, catalog};
use crate::db::entity::availability_zone;
use crate::http::body::{Body, TEXT};
use crate::http::call::Call;
use crate::http::envelope::{ok, with_status};
use crate::http::openapi::Resource;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Map, Value, json};

const CREATE: &[&str] = &[
    "name",
    "description",
    "enabled",
    "availability_zone_profile_id",
];
const UPDATE: &[&str] = &["description", "enabled"];

/// For the OpenAPI document.
pub(super) const RESOURCE: Resource = Resource {
    root: "availability_zone",
    plural: "availability_zones",
    path: "/availabilityzones",
    create: CREATE,
    update: UPDATE,
    required: &["name", "availability_zone_profile_id"],
    choices: &[],
    shown: &[&[
        "name",
        "description",
        "enabled",
        "availability_zone_profile_id",
    ]],
};

fn render(row: &availability_zone::Model) -> Value {
    json!({
        "name": row.id,
        "description": row.description,
        "enabled": row.enabled,
        "availability_zone_profile_id": row.availability_zone_profile_id,
    })
}

pub(super) async fn list(call: Call) -> Result<Response, Error> {
    let page = call.page()?;
    let rows = catalog::list::<availability_zone::Entity>(&call.state, &page).await?;
    let items: Vec<Value> = rows.iter().map(render).collect();
    let links = call.links(&page, &items);
    Ok(page_answer(&call, "availability_zones", links, items))
}

pub(super) async fn show(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let row = catalog::show::<availability_zone::Entity>(&call.state, &id).await?;
    Ok(ok(json!({"availability_zone": call.fields(render(&row))})))
}

pub(super) fn created(outer: Map<String, Value>) -> Result<New, Error> {
    let body = Body::open(outer, "availability_zone_", "availability_zone", CREATE)?;
    let profile = body.uuid("availability_zone_profile_id")?;
    Ok(New {
        name: body.required("name", body.text("name", TEXT)?)?,
        description: body.description()?.or_default(),
        enabled: body.bool("enabled")?.or(true),
        availability_zone_profile_id: body.required("availability_zone_profile_id", profile)?,
    })
}

pub(super) async fn create(call: Call) -> Result<Response, Error> {
    let new = created(call.json("availability_zone_")?)?;
    let row = app::create(&call.state, &new).await?;
    let body = json!({"availability_zone": render(&row)});
    Ok(with_status(StatusCode::CREATED, body))
}

pub(super) fn changed(outer: Map<String, Value>) -> Result<Change, Error> {
    let body = Body::open(outer, "availability_zone_", "availability_zone", UPDATE)?;
    Ok(Change {
        description: body.description()?.change(String::new()),
        enabled: body.kept("enabled", body.bool("enabled")?)?,
    })
}

pub(super) async fn update(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let change = changed(call.json("availability_zone_")?)?;
    let row = app::update(&call.state, &id, &change).await?;
    Ok(ok(json!({"availability_zone": render(&row)})))
}

pub(super) async fn delete(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    app::delete(&call.state, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
