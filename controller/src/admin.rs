//! What operators and their tools ask the controller, beside Octavia's API, on the same listener:
//! `/healthz`, `/readyz`, `/metrics`, and under `/krater/v1` what `krater status|flows|logs` show.

use crate::db::Db;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the handlers need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The database.
    pub db: Db,
    /// All roles of the process have started.
    pub ready: Arc<AtomicBool>,
}

/// The routes.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(admin)
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, String) {
    if !admin.ready.load(Ordering::Acquire) {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting\n".into());
    }
    match admin.db.ping().await {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(error) => {
            let text = format!("database: {}\n", krater_model::report(&error));
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}
