//! `/providers`

use crate::app::flavor_data::CAPABILITIES;
use crate::app::flavor_profile::known;
use crate::app::{Error, load_balancer::PROVIDERS};
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
    let wanted = |filter: &str, value: &str| {
        let mut given = call.query.iter().filter(|(key, _)| key == filter);
        given.all(|(_, given)| given == value)
    };
    let shown: Vec<Value> = CAPABILITIES
        .iter()
        .filter(|(name, what)| wanted("name", name) && wanted("description", what))
        .map(|(name, what)| call.fields(json!({"name": name, "description": what})))
        .collect();
    Ok(ok(json!({"flavor_capabilities": shown})))
}

/// Zones are not supported yet, so there is nothing that one could contain.
pub(super) async fn zone_capabilities(Path(name): Path<String>) -> Result<Response, Error> {
    known(&name)?;
    Ok(ok(json!({"availability_zone_capabilities": []})))
}
