//! Discovery.

use crate::http::call::Call;
use crate::http::envelope::ok;
use crate::http::key_manager;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

/// What is served, as far as it is implemented. The numbers are informational: there is no
/// microversion header. v2.14 (zones), v2.16 (UDP) and others are missing, so the last one listed is the last before the first gap that a client could trip over.
const VERSIONS: &[(&str, &str)] = &[
    ("v2.0", "2016-12-11T00:00:00Z"),
    ("v2.1", "2018-04-20T00:00:00Z"),
    ("v2.2", "2018-07-31T00:00:00Z"),
    ("v2.3", "2018-12-18T00:00:00Z"),
    ("v2.4", "2018-12-19T00:00:00Z"),
    ("v2.5", "2019-01-21T00:00:00Z"),
    ("v2.6", "2019-01-25T00:00:00Z"),
    ("v2.8", "2019-02-12T00:00:00Z"),
    ("v2.9", "2019-03-04T00:00:00Z"),
    ("v2.10", "2019-03-05T00:00:00Z"),
    ("v2.11", "2019-06-24T00:00:00Z"),
    ("v2.12", "2019-09-11T00:00:00Z"),
    ("v2.13", "2019-09-13T00:00:00Z"),
    ("v2.15", "2020-03-10T00:00:00Z"),
    ("v2.17", "2020-04-29T00:00:00Z"),
    ("v2.18", "2020-04-29T01:00:00Z"),
    ("v2.19", "2020-05-12T00:00:00Z"),
    ("v2.20", "2020-08-02T00:00:00Z"),
    ("v2.21", "2020-09-03T00:00:00Z"),
    ("v2.22", "2020-09-04T00:00:00Z"),
];

pub(super) async fn list(call: Call) -> Response {
    // Without Keystone all services have one root: the client says which one it means.
    if key_manager::is_meant(&call) {
        return key_manager::versions(&call);
    }
    let href = format!("{}/v2", call.base);
    let last = VERSIONS.len().saturating_sub(1);
    let versions: Vec<Value> = VERSIONS
        .iter()
        .enumerate()
        .map(|(i, (id, updated))| {
            let status = if i == last { "CURRENT" } else { "SUPPORTED" };
            json!({"id": id, "status": status, "updated": updated,
                   "links": [{"href": href, "rel": "self"}]})
        })
        .collect();
    ok(json!({"versions": versions}))
}

pub(super) async fn text() -> Response {
    ok(json!("v2"))
}

pub(super) async fn healthcheck(call: Call) -> Response {
    match call.state.db.ping().await {
        Ok(()) => (StatusCode::OK, "OK").into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "database does not answer").into_response(),
    }
}
