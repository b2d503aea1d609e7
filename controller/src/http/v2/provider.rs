//! `/providers`

use crate::app::{Error, load_balancer::PROVIDERS};
use crate::http::call::Call;
use crate::http::envelope::ok;
use axum::extract::Path;
use axum::response::Response;
use http::StatusCode;
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

fn known(name: &str) -> Result<(), Error> {
    if PROVIDERS.contains(&name) {
        return Ok(());
    }
    Err(Error::new(
        StatusCode::NOT_IMPLEMENTED,
        format!("Provider '{name}' was not found."),
    ))
}

/// Flavors are not supported yet, so there is nothing that one could contain.
pub(super) async fn flavor_capabilities(Path(name): Path<String>) -> Result<Response, Error> {
    known(&name)?;
    Ok(ok(json!({"flavor_capabilities": []})))
}

/// Zones are not supported yet, so there is nothing that one could contain.
pub(super) async fn zone_capabilities(Path(name): Path<String>) -> Result<Response, Error> {
    known(&name)?;
    Ok(ok(json!({"availability_zone_capabilities": []})))
}
