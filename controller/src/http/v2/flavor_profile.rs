//! `/flavorprofiles`

use super::page_answer;
use crate::app::flavor_data::{self, FlavorData};
use crate::app::flavor_profile::{self as app, Change, New};
use crate::app::profile_data;
use crate::app::{Error, catalog};
use crate::db::entity::flavor_profile;
use crate::http::body::{Body, Field, TEXT};
use crate::http::call::Call;
use crate::http::envelope::{ok, with_status};
use crate::http::openapi::Resource;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Map, Value, json};

const CREATE: &[&str] = &["name", "provider_name", "flavor_data"];

/// For the OpenAPI document.
pub(super) const RESOURCE: Resource = Resource {
    root: "flavorprofile",
    plural: "flavorprofiles",
    path: "/flavorprofiles",
    create: CREATE,
    update: CREATE,
    required: &["name", "provider_name", "flavor_data"],
    choices: &[],
    shown: &[&["id", "name", "provider_name", "flavor_data"]],
};

fn render(row: &flavor_profile::Model) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "provider_name": row.provider_name,
        "flavor_data": row.flavor_data,
    })
}

pub(super) async fn list(call: Call) -> Result<Response, Error> {
    let page = call.page()?;
    let rows = catalog::list::<flavor_profile::Entity>(&call.state, &page).await?;
    let items: Vec<Value> = rows.iter().map(render).collect();
    let links = call.links(&page, &items);
    Ok(page_answer(&call, "flavorprofiles", links, items))
}

pub(super) async fn show(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let row = catalog::show::<flavor_profile::Entity>(&call.state, &id).await?;
    Ok(ok(json!({"flavorprofile": call.fields(render(&row))})))
}

/// The text, if it says something that has an effect.
fn data(body: &Body) -> Result<Field<String>, Error> {
    let text = body.lines(flavor_data::ATTRIBUTE, profile_data::MAX)?;
    if let Field::Set(text) = &text {
        FlavorData::parse(text)?;
    }
    Ok(text)
}

pub(super) fn created(outer: Map<String, Value>) -> Result<New, Error> {
    let body = Body::open(outer, "flavor_profile_", "flavorprofile", CREATE)?;
    Ok(New {
        name: body.required("name", body.text("name", TEXT)?)?,
        provider_name: body.required("provider_name", body.text("provider_name", TEXT)?)?,
        flavor_data: body.required(flavor_data::ATTRIBUTE, data(&body)?)?,
    })
}

pub(super) async fn create(call: Call) -> Result<Response, Error> {
    let new = created(call.json("flavor_profile_")?)?;
    let row = app::create(&call.state, &new).await?;
    let body = json!({"flavorprofile": render(&row)});
    Ok(with_status(StatusCode::CREATED, body))
}

pub(super) fn changed(outer: Map<String, Value>) -> Result<Change, Error> {
    let body = Body::open(outer, "flavor_profile_", "flavorprofile", CREATE)?;
    Ok(Change {
        name: body.kept("name", body.text("name", TEXT)?)?,
        provider_name: body.kept("provider_name", body.text("provider_name", TEXT)?)?,
        flavor_data: body.kept(flavor_data::ATTRIBUTE, data(&body)?)?,
    })
}

pub(super) async fn update(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    let change = changed(call.json("flavor_profile_")?)?;
    let row = app::update(&call.state, &id, &change).await?;
    Ok(ok(json!({"flavorprofile": render(&row)})))
}

pub(super) async fn delete(Path(id): Path<String>, call: Call) -> Result<Response, Error> {
    app::delete(&call.state, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
