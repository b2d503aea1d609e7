//! The REST API: axum handlers without SQL. Parse the request, call `app`, show the result.

use crate::app::AppState;
use axum::{Json, Router};
use serde_json::Value;
use std::sync::LazyLock;
use tower::ServiceExt as _;

pub mod access;
pub mod body;
mod call;
mod deadline;
mod envelope;
mod key_manager;
mod network;
pub mod openapi;
mod projects;
pub mod serve;
pub mod tls;
pub mod v2;

pub use envelope::REQUEST_ID_HEADER;

/// Largest request body in bytes: a single-call create with 1,000 members takes about 300 kB.
pub const MAX_BODY: usize = 1024 * 1024;

/// What `/openapi.json` says, made when it is first asked for.
static DOCUMENT: LazyLock<Value> = LazyLock::new(openapi::document);

/// All paths of the API, to be served as it is; further routes may be merged in.
pub fn router(state: AppState) -> Router {
    let db = state.db.clone();
    let guard = axum::middleware::from_fn_with_state(state.clone(), access::check);
    let inner: Router = Router::new()
        .merge(v2::routes())
        .merge(network::routes())
        .merge(key_manager::guarded(&state))
        .merge(projects::routes())
        // `/openapi.json`, as everything else after its path was normalised.
        .route(
            "/openapi",
            axum::routing::get(|| async { Json(&*DOCUMENT) }),
        )
        .fallback(envelope::no_such_path)
        .method_not_allowed_fallback(envelope::no_such_method)
        .with_state(state);
    // The path is normalised before it is routed, so that `…/loadbalancers/` and `….json` match.
    let service = inner
        .layer(guard)
        .layer(axum::middleware::map_response(move |response| {
            let response = envelope::name_database(response, db.name());
            async move { response }
        }))
        .layer(axum::middleware::from_fn(envelope::wrap))
        .map_request(envelope::normalise);
    Router::new().fallback_service(service)
}
