//! What every answer has: a request id, JSON, and Octavia's error body.

use crate::app::Error;
use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use serde_json::{Value, json};

/// Header of the request id.
pub const REQUEST_ID_HEADER: &str = "x-openstack-request-id";
/// Longest id that a client may bring along in `X-Openstack-Request-Id`.
const MAX_REQUEST_ID: usize = 64;

/// The id of a request, in its extensions.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// Gives the request an id, checks `Accept`, logs the answer.
pub(super) async fn wrap(mut request: Request, next: Next) -> Response {
    let id = format!("req-{}", uuid::Uuid::new_v4());
    let id = client_id(request.headers()).unwrap_or(id);
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    // A stored secret is given out as what it is.
    let payload = path.ends_with("/payload");
    let mut response = if !payload && !accepts_json(request.headers()) {
        not_acceptable(&id)
    } else if path.contains("%00") || !is_text(&path) {
        // Nothing has such an id, and PostgreSQL refuses to look for one.
        no_such_path().await
    } else {
        next.run(request).await
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    let status = response.status().as_u16();
    // Clients poll: only what changes something is worth a line at the default level.
    if method.is_safe() {
        tracing::debug!(request_id = %id, %method, path, status, "api request");
    } else {
        tracing::info!(request_id = %id, %method, path, status, "api request");
    }
    response
}

/// Whether a path is UTF-8 when its escapes are read.
fn is_text(path: &str) -> bool {
    std::str::from_utf8(&super::call::unescape(path)).is_ok()
}

/// An id that a trusted proxy or another service made. Anything else is replaced by our own.
fn client_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(REQUEST_ID_HEADER)?.to_str().ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let good = text.starts_with("req-") && text.len() <= MAX_REQUEST_ID && text.chars().all(plain);
    good.then(|| text.to_owned())
}

fn accepts_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return true;
    }
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .any(|range| matches!(range, "" | "*/*" | "application/*" | "application/json"))
}

fn not_acceptable(request_id: &str) -> Response {
    let body = json!({"errors": [{
        "status": 406,
        "title": "Not Acceptable",
        "detail": "Only content type application/json is accepted.",
        "request_id": request_id,
    }]});
    (StatusCode::NOT_ACCEPTABLE, Json(body)).into_response()
}

/// Octavia's error body.
pub(super) fn fault(status: StatusCode, text: &str) -> Response {
    let code = if status.is_server_error() {
        "Server"
    } else {
        "Client"
    };
    let body = json!({"faultcode": code, "faultstring": text, "debuginfo": null});
    (status, Json(body)).into_response()
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match &self {
            Self::Refused(status, text) => fault(*status, text),
            Self::Sql(error) if self.status() == StatusCode::CONFLICT => {
                tracing::info!(error = %krater_model::report(error), "lost a race");
                fault(self.status(), "Already an entity with that specified id.")
            }
            Self::Sql(error) => {
                tracing::error!(error = %krater_model::report(error), "database failed");
                let failure = if crate::db::is_full(error) {
                    DatabaseFailure::Full
                } else {
                    DatabaseFailure::Silent
                };
                let mut response = self.status().into_response();
                response.extensions_mut().insert(failure);
                response
            }
        }
    }
}

/// 503 of a request that waited too long for the database.
pub(super) fn silent_database() -> Response {
    let mut response = StatusCode::SERVICE_UNAVAILABLE.into_response();
    response.extensions_mut().insert(DatabaseFailure::Silent);
    response
}

/// What is wrong with the database, in the extensions of an answer that has no body yet.
#[derive(Debug, Clone, Copy)]
enum DatabaseFailure {
    Full,
    Silent,
}

/// Gives the answers that a failed database caused their body, which names it.
pub(super) fn name_database(response: Response, database: &str) -> Response {
    let text = match response.extensions().get() {
        None => return response,
        Some(DatabaseFailure::Full) => {
            format!("The disk of the {database} is full: free space on it and try again.")
        }
        Some(DatabaseFailure::Silent) => {
            format!("The {database} does not answer. Please try again.")
        }
    };
    fault(response.status(), &text)
}

/// 404 for paths that are none.
pub(super) async fn no_such_path() -> Response {
    fault(StatusCode::NOT_FOUND, "The resource could not be found.")
}

/// 405 for methods that a path does not have.
pub(super) async fn no_such_method() -> Response {
    fault(
        StatusCode::METHOD_NOT_ALLOWED,
        "The method is not allowed for this resource.",
    )
}

/// Removes a trailing `/` or `.json` of the path.
pub(super) fn normalise(mut request: http::Request<Body>) -> http::Request<Body> {
    let path = request.uri().path();
    let trimmed = path.trim_end_matches('/');
    let trimmed = trimmed.strip_suffix(".json").unwrap_or(trimmed);
    let trimmed = if trimmed.is_empty() { "/" } else { trimmed };
    if trimmed == path {
        return request;
    }
    let whole = match request.uri().query() {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = whole.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// 200 with a body.
pub(super) fn ok(body: Value) -> Response {
    Json(body).into_response()
}

/// Another status with a body.
pub(super) fn with_status(status: StatusCode, body: Value) -> Response {
    (status, Json(body)).into_response()
}
