//! The one thing that the client asks of an identity service without authentication: whether a
//! project exists (`quota set`, `--project`). Every name is one.

use super::call::Call;
use super::envelope::ok;
use crate::app::AppState;
use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/projects", get(list))
        .route("/projects/{id}", get(show))
}

fn project(id: &str) -> Value {
    json!({"id": id, "name": id, "domain_id": "default", "enabled": true, "description": ""})
}

async fn list(call: Call) -> Response {
    let named = call
        .query
        .iter()
        .find(|(key, _)| key == "name" || key == "id");
    let found: Vec<Value> = named.iter().map(|(_, id)| project(id)).collect();
    ok(json!({"projects": found}))
}

async fn show(Path(id): Path<String>) -> Response {
    ok(json!({"project": project(&id)}))
}
