//! Error answers.

use crate::apply::ApplyError;
use http::StatusCode;
use krater_model::wire::agent::ErrorBody;
use krater_model::{FieldError, report};

/// An error as the caller gets it.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) body: ErrorBody,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            body: ErrorBody {
                code: code.into(),
                field: None,
                message: message.into(),
            },
        }
    }

    /// The status that an apply error is answered with.
    pub(crate) const fn status_of(error: &ApplyError) -> StatusCode {
        match error {
            ApplyError::Field(_) => StatusCode::BAD_REQUEST,
            ApplyError::Older { .. } | ApplyError::Conflict(_) => StatusCode::CONFLICT,
            ApplyError::Links(_)
            | ApplyError::Ledger(_)
            | ApplyError::Child { .. }
            | ApplyError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn internal(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, message)
    }
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> Self {
        let mut this = Self::new(StatusCode::BAD_REQUEST, "bad-field", error.why);
        this.body.field = Some(error.field);
        this
    }
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        let text = report(&error);
        let status = Self::status_of(&error);
        let code = match error {
            ApplyError::Field(field) => return field.into(),
            ApplyError::Older { .. } => "older-revision",
            ApplyError::Conflict(_) => "conflicting-revision",
            ApplyError::Links(_) | ApplyError::Ledger(_) | ApplyError::Child { .. } => {
                "apply-failed"
            }
            ApplyError::Internal(_) => "internal",
        };
        Self::new(status, code, text)
    }
}
