//! Why a step failed. The reason is what an operator looks up in `docs/operations.md`.

use crate::agent_client;
use crate::db::query::journal::Lost;
use crate::db::query::network::AllocationError;
use crate::drivers::compute;
use krater_model::{FieldError, report};
use sea_orm::DbErr;

/// Declares the reasons with their names, and the list of all.
macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal,)*) => {
        /// What kind of failure. Each has an entry in `docs/operations.md`; a test compares them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $reason,)*
        }

        impl Reason {
            /// All.
            pub const ALL: &'static [Self] = &[$(Self::$reason,)*];

            /// As it stands in front of the text.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// The agent does not accept a connection.
    AmphoraUnreachable = "amphora-unreachable",
    /// TLS: certificate and authority do not fit.
    AmphoraIdentity = "amphora-identity",
    /// The agent took too long.
    AmphoraTimeout = "amphora-timeout",
    /// The connection ended during a request.
    AmphoraLost = "amphora-lost",
    /// The agent answered with an error.
    AmphoraRefused = "amphora-refused",
    /// The agent's answer is not one.
    AmphoraAnswer = "amphora-answer",
    /// A booted amphora's agent never answered.
    AmphoraNotAnswering = "amphora-not-answering",
    /// A new amphora is not fit to take over.
    AmphoraNotReady = "amphora-not-ready",
    /// The database cannot be read or written.
    Database = "database",
    /// Rows that do not fit together, or hold what is not understood.
    DamagedRow = "damaged-row",
    /// A test's environment variable asks for it.
    InjectedFault = "injected-fault",
    /// The rows make no valid desired state.
    InvalidState = "invalid-state",
    /// Another controller runs the flow.
    LeaseLost = "lease-lost",
    /// Namespaces, links or processes cannot be made or removed.
    Compute = "compute",
    /// There is no amphora to push to.
    NoAmphora = "no-amphora",
    /// A subnet has no free address, or not the one asked for.
    NoAddress = "no-address",
    /// No amphora took the VIP.
    NoVipOwner = "no-vip-owner",
    /// A network or subnet is not in the inventory.
    NotInInventory = "not-in-inventory",
    /// The private CA cannot issue.
    PrivateCa = "private-ca",
    /// Members on more networks than an amphora has NICs for.
    TooManyNetworks = "too-many-networks",
}

/// A step failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct StepError {
    /// The reason, and what failed, with causes. Shown in the load balancer's error reason.
    pub text: String,
    /// Whether trying again can help.
    pub retryable: bool,
}

impl StepError {
    fn new(reason: Reason, text: impl std::fmt::Display, retryable: bool) -> Self {
        Self {
            text: format!("{}: {text}", reason.as_str()),
            retryable,
        }
    }

    /// Trying again can help.
    pub fn retryable(reason: Reason, text: impl std::fmt::Display) -> Self {
        Self::new(reason, text, true)
    }

    /// Trying again cannot help.
    pub fn permanent(reason: Reason, text: impl std::fmt::Display) -> Self {
        Self::new(reason, text, false)
    }

    /// See [`Reason::DamagedRow`].
    pub fn damaged(text: impl std::fmt::Display) -> Self {
        Self::permanent(Reason::DamagedRow, text)
    }
}

impl From<DbErr> for StepError {
    fn from(error: DbErr) -> Self {
        Self::retryable(Reason::Database, report(&error))
    }
}

impl From<Lost> for StepError {
    fn from(error: Lost) -> Self {
        let reason = match &error {
            Lost::Sql(_) => Reason::Database,
            Lost::Lease(_) => Reason::LeaseLost,
        };
        Self::retryable(reason, report(&error))
    }
}

impl From<compute::Error> for StepError {
    fn from(error: compute::Error) -> Self {
        let text = report(&error);
        let text = text.strip_prefix("compute: ").unwrap_or(&text);
        Self::new(Reason::Compute, text, error.retryable)
    }
}

impl From<agent_client::Error> for StepError {
    fn from(error: agent_client::Error) -> Self {
        use agent_client::Error;
        let reason = match &error {
            Error::Connect { .. } => Reason::AmphoraUnreachable,
            Error::Identity { .. } => Reason::AmphoraIdentity,
            Error::Deadline { .. } => Reason::AmphoraTimeout,
            Error::Lost { .. } => Reason::AmphoraLost,
            Error::Refused { .. } => Reason::AmphoraRefused,
            Error::Answer { .. } => Reason::AmphoraAnswer,
        };
        Self::new(reason, report(&error), error.retryable())
    }
}

impl From<FieldError> for StepError {
    fn from(error: FieldError) -> Self {
        Self::permanent(Reason::InvalidState, report(&error))
    }
}

impl From<AllocationError> for StepError {
    fn from(error: AllocationError) -> Self {
        // A full subnet is not empty a second later.
        match &error {
            AllocationError::Sql(_) => Self::retryable(Reason::Database, report(&error)),
            _ => Self::permanent(Reason::NoAddress, report(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;
    use std::collections::BTreeSet;

    /// Reasons of the table in `docs/operations.md`; each row has what it means, a command and a cure.
    fn documented(text: &str) -> Result<BTreeSet<String>, String> {
        let (_, table) = text
            .split_once("\n| reason | what it means | look | cure |\n")
            .ok_or("no table of reasons")?;
        let rows = table
            .lines()
            .skip(1)
            .take_while(|line| line.starts_with('|'));
        rows.map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            let [reason, means, look, cure] = cells.as_slice() else {
                return Err(format!("{} cells: {row}", cells.len()));
            };
            if means.is_empty() || cure.is_empty() || !look.contains('`') {
                return Err(format!("needs symptom, command and cure: {row}"));
            }
            Ok(reason.trim_matches('`').to_owned())
        })
        .collect()
    }

    #[test]
    fn every_reason_has_an_entry_and_every_entry_a_reason() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
        let text = std::fs::read_to_string(path).unwrap();
        let names = Reason::ALL.iter().map(|reason| reason.as_str().to_owned());
        assert_eq!(documented(&text).unwrap(), names.collect::<BTreeSet<_>>());
        // Negative control: an entry without a command is noticed.
        let bare = text.replace('`', "");
        assert!(documented(&bare).is_err());
    }
}
