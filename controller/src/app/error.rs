//! Refusals with Octavia's status codes and texts.

use crate::db::Retriable;
use crate::db::query::list::ListError;
use crate::db::query::network::AllocationError;
use http::StatusCode;
use sea_orm::{DbErr, SqlErr};
use std::fmt::Display;

/// Why a request is refused.
#[allow(
    clippy::error_impl_error,
    reason = "named by its module, as std::io::Error"
)]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A status with the text that clients know.
    #[error("{1}")]
    Refused(StatusCode, String),
    /// The database failed: 503, and the cause is logged.
    #[error("database")]
    Sql(#[from] DbErr),
}

impl Retriable for Error {
    fn retriable(&self) -> bool {
        matches!(self, Self::Sql(error) if error.retriable())
    }
}

impl Error {
    /// Any status.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self::Refused(status, text.into())
    }

    /// 400 with the text as it is.
    pub fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// 400 `Validation failure: …`
    pub fn validation(detail: impl Display) -> Self {
        Self::bad(format!("Validation failure: {detail}"))
    }

    /// 400 `… is not a valid option for …`
    pub fn option(value: impl Display, option: impl Display) -> Self {
        Self::bad(format!("{value} is not a valid option for {option}"))
    }

    /// 400 `Invalid input for field/attribute …`
    pub fn input(field: impl Display, value: impl Display, why: impl Display) -> Self {
        Self::bad(format!(
            "Invalid input for field/attribute {field}. Value: '{value}'. {why}"
        ))
    }

    /// 400: a network, subnet or port that is not there.
    pub fn subresource(kind: &str, id: &str) -> Self {
        Self::bad(format!("{kind} {id} not found."))
    }

    /// 404.
    pub fn not_found(kind: &str, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("{kind} {id} not found."))
    }

    /// 409.
    pub fn conflict(text: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, text)
    }

    /// 409 `… is in use …`
    pub fn in_use(kind: &str, id: &str) -> Self {
        Self::conflict(format!("{kind} {id} is in use and cannot be modified."))
    }

    /// 409 `… is immutable and cannot be updated.`
    pub fn immutable(kind: &str, id: &str) -> Self {
        Self::conflict(format!("{kind} {id} is immutable and cannot be updated."))
    }

    /// 403 for a quota.
    pub fn quota(resource: &str) -> Self {
        let text = format!("Quota has been met for resources: {resource}");
        Self::new(StatusCode::FORBIDDEN, text)
    }

    /// 501 for an attribute or value that has no effect here yet.
    pub fn not_supported(what: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, not_supported(what))
    }

    /// 400 for a key of a profile's data that has no effect here yet.
    pub fn data_key_not_supported(key: &str) -> Self {
        Self::bad(not_supported(key))
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Refused(status, _) => *status,
            // Two controllers inserted the same at once; the check before could not see it.
            Self::Sql(error)
                if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) =>
            {
                StatusCode::CONFLICT
            }
            Self::Sql(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

fn not_supported(what: &str) -> String {
    format!("Provider 'amphora' does not support a requested option: not supported yet: {what}")
}

impl From<ListError> for Error {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Sql(error) => Self::Sql(error),
            other => Self::bad(other.to_string()),
        }
    }
}

impl From<AllocationError> for Error {
    fn from(error: AllocationError) -> Self {
        match error {
            AllocationError::Sql(error) => Self::Sql(error),
            AllocationError::Taken(..) => {
                Self::conflict(format!("The VIP IP address is already in use: {error}"))
            }
            AllocationError::NotInSubnet(..) => Self::validation(error),
            AllocationError::Full(_) => Self::conflict(error.to_string()),
            AllocationError::Damaged(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
        }
    }
}
