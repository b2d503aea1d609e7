//! `/availabilityzoneprofiles`

use super::page_answer;
use crate::app::profile_data;
use crate::app::zone_data::{self, ZoneData};
use crate::app::zone_profile::{self as app, Change, New};
use crate::app::{Error, catalog};
use crate::db::entity::availability_zone_profile;
use crate::http::body::{Body, Field, TEXT};
use crate::http::call::Call;
use crate::http::envelope::{ok, with_status};
use crate::http::openapi::Resource;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Map, Value, json};

const CREATE: &[&str] = &["name", "provider_name", "availability_zone_data"];

/// For the OpenAPI document.
pub(super) const RESOURCE: Resource = Resource {
    root: "availability_zone_profile",
    plural: "availability_zone_profiles",
    path: "/availabilityzoneprofiles",
    create: CREATE,
    update: CREATE,
    required: &["name", "provider_name", "availability_zone_data"],
    choices: &[],
    shown: &[&["id", "name", "provider_name", "availability_zone_data"]],
};

fn render(row: &availability_zone_profile::Model) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "provider_name": row.provider_name,
        "availability_zone_data": row.availability_zone_data,
    })
}

pub(super) async fn list(call: Call) -> Result<Response, Error> {
    let page = call.page()?;
    let rows = catalog::list::<availability_zone_profile::Entity>(&call.state, &page).await?;
    let items: Vec<Value> = rows.iter().map(render).collect();
    let links = call.links(&page, &items);
    Ok(page_answer(
        &call,
        "availability_zone_profiles",
        links,
        items,
    ))
}

pub(super) async fn show(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let row = catalog::show::<availability_zone_profile::Entity>(&call.state, &id).await?;
    Ok(ok(
        json!({"availability_zone_profile": call.fields(render(&row))}),
    ))
}

/// The text, if it says something that has an effect.
fn data(body: &Body) -> Result<Field<String>, Error> {
    let text = body.lines(zone_data::ATTRIBUTE, profile_data::MAX)?;
    if let Field::Set(text) = &text {
        ZoneData::parse(text)?;
    }
    Ok(text)
}

pub(super) fn created(outer: Map<String, Value>) -> Result<New, Error> {
    let body = Body::open(
        outer,
        "availability_zone_profile_",
        "availability_zone_profile",
        CREATE,
    )?;
    Ok(New {
        name: body.required("name", body.text("name", TEXT)?)?,
        provider_name: body.required("provider_name", body.text("provider_name", TEXT)?)?,
        availability_zone_data: body.required(zone_data::ATTRIBUTE, data(&body)?)?,
    })
}

pub(super) async fn create(call: Call) -> Result<Response, Error> {
    let new = created(call.json("availability_zone_profile_")?)?;
    let row = app::create(&call.state, &new).await?;
    let body = json!({"availability_zone_profile": render(&row)});
    Ok(with_status(StatusCode::CREATED, body))
}

pub(super) fn changed(outer: Map<String, Value>) -> Result<Change, Error> {
    let body = Body::open(
        outer,
        "availability_zone_profile_",
        "availability_zone_profile",
        CREATE,
    )?;
    Ok(Change {
        name: body.kept("name", body.text("name", TEXT)?)?,
        provider_name: body.kept("provider_name", body.text("provider_name", TEXT)?)?,
        availability_zone_data: body.kept(zone_data::ATTRIBUTE, data(&body)?)?,
    })
}

pub(super) async fn update(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let change = changed(call.json("availability_zone_profile_")?)?;
    let row = app::update(&call.state, &id, &change).await?;
    Ok(ok(json!({"availability_zone_profile": render(&row)})))
}

pub(super) async fn delete(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    app::delete(&call.state, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
