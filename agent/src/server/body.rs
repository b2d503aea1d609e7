//! Bodies: read whole within bounds, or not at all; written whole or as a stream.

use super::error::ApiError;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc;

/// The largest document over a slow management network.
const READ: Duration = Duration::from_secs(30);

/// A body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body that goes on until the sender is dropped.
pub(crate) fn stream(chunks: mpsc::Receiver<Bytes>) -> Body {
    let frames = futures_util::stream::unfold(chunks, |mut chunks| async {
        let chunk = chunks.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(chunk)), chunks))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// The whole body, at most `most` bytes.
pub(crate) async fn read(body: Incoming, most: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        let why = format!("the body is larger than {most} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", why)
    };
    let announced = body.size_hint().lower();
    if usize::try_from(announced).is_ok_and(|length| length > most) {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(READ, Limited::new(body, most).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            let why = format!("the body did not arrive: {error}");
            Err(ApiError::new(StatusCode::BAD_REQUEST, "bad-field", why))
        }
        Err(_elapsed) => {
            let why = format!("the body did not arrive within {} s", READ.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "bad-field", why))
        }
    }
}
