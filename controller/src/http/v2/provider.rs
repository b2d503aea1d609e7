//! `/providers`

use crate::app::flavor_profile::known;
use crate::app::{Error, flavor_data, load_balancer::PROVIDERS, zone_data};
use crate::http::call::Call;
use crate::http::envelope::ok;
use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

pub(super) async fn list(call: Call) -> Response {
    let describe = |name: &&str| match *name {
        "amphora" => "Krater amphorae.",
        _ => "Deprecated alias of the amphora provider.",
    };
    let providers: Vec<Value> = PROVIDERS
        .iter()
        .map(|name| call.fields(json!({"name": name, "description": describe(name)})))
        .collect();
    ok(json!({"providers": providers}))
}

/// What a flavor can ask for; filtered by name and description, other filters are ignored.
pub(super) async fn flavor_capabilities(
    Path(name): Path<String>,
    call: Call,
) -> Result<Response, Error> {
    known(&name)?;
    let shown = capabilities(&call, flavor_data::CAPABILITIES);
    Ok(ok(json!({"flavor_capabilities": shown})))
}

/// What an availability zone can ask for, likewise.
pub(super) async fn zone_capabilities(
    Path(name): Path<String>,
    call: Call,
) -> Result<Response, Error> {
    known(&name)?;
    let shown = capabilities(&call, zone_data::CAPABILITIES);
    Ok(ok(json!({"availability_zone_capabilities": shown})))
}

fn capabilities(call: &Call, all: &[(&str, &str)]) -> Vec<Value> {
    let wanted = |filter: &str, value: &str| {
        let mut given = call.query.iter().filter(|(key, _)| key == filter);
        given.all(|(_, given)| given == value)
    };
    all.iter()
        .filter(|(name, what)| wanted("name", name) && wanted("description", what))
        .map(|(name, what)| call.fields(json!({"name": name, "description": what})))
        .collect()
}
