//! No request waits for ever: neither for the rest of its body nor for a database that hangs without dying. What was waited
//! for goes on to be true when it is over: the connection that hangs is given up, its transaction is rolled back.

use super::call;
use super::envelope::{fault, silent_database};
use crate::app::AppState;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use std::time::Duration;
use tokio::time::timeout;

/// Reads the body, then runs `work` on the whole request, each for as long as the state's deadline allows.
pub(super) async fn within<W>(
    state: &AppState,
    request: Request,
    work: impl FnOnce(Request) -> W,
) -> Response
where
    W: Future<Output = Response>,
{
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let request = match whole(state.deadline, request).await {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    match timeout(state.deadline, work(request)).await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!(%method, path, after = ?state.deadline, "given up: the database hangs");
            silent_database()
        }
    }
}

async fn whole(limit: Duration, request: Request) -> Result<Request, Response> {
    let (parts, body) = request.into_parts();
    match timeout(limit, call::whole(body)).await {
        Ok(Ok(bytes)) => Ok(Request::from_parts(parts, Body::from(bytes))),
        Ok(Err(refusal)) => Err(refusal.into_response()),
        Err(_) => {
            let text = format!("The request body did not arrive within {limit:?}.");
            Err(fault(StatusCode::REQUEST_TIMEOUT, &text))
        }
    }
}
