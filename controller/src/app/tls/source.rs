//! Where what references refer to is read: our own store, or another key manager.

use super::{Referred, reference};
use crate::app::{AppState, Caller, Error, secret};
use crate::secrets::barbican::{Barbican, Failure};
use http::StatusCode;
use zeroize::Zeroizing;

/// None: there is no such secret for the caller.
pub(super) async fn payload(
    state: &AppState,
    caller: &Caller,
    id: &str,
) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    if let Some(barbican) = &state.barbican {
        let payload = barbican.payload(caller.token.as_ref(), id).await;
        return payload.map_err(|failure| unavailable(barbican, &failure));
    }
    match secret::payload(state, id, state.reader(caller)).await {
        Ok(payload) => Ok(Some(payload.bytes)),
        Err(error) if error.status() == StatusCode::NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

/// Names and ids of a container's secrets; none: there is no such container for the caller.
pub(super) async fn container(
    state: &AppState,
    caller: &Caller,
    id: &str,
) -> Result<Option<Vec<(String, String)>>, Error> {
    if let Some(barbican) = &state.barbican {
        let found = barbican.container(caller.token.as_ref(), id).await;
        let found = found.map_err(|failure| unavailable(barbican, &failure))?;
        let secret = |(name, text): (String, String)| match reference(&text) {
            Some((Referred::Secret, id)) => Some((name, id)),
            _ => None,
        };
        return Ok(found.map(|all| all.into_iter().filter_map(secret).collect()));
    }
    let reader = state.reader(caller);
    match secret::show_container(state, id).await {
        Ok(row) if reader.is_none_or(|project| project == row.project_id) => {
            Ok(Some(secret::references(&row)))
        }
        Ok(_) => Ok(None),
        Err(error) if error.status() == StatusCode::NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

fn unavailable(barbican: &Barbican, failure: &Failure) -> Error {
    tracing::error!(error = %krater_model::report(failure), "the key manager failed");
    let text = format!(
        "The key manager at {} does not answer. Please try again.",
        barbican.url()
    );
    Error::new(StatusCode::SERVICE_UNAVAILABLE, text)
}
