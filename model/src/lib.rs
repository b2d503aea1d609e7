//! Plain, validated data that Krater's programs exchange.
//!
//! What belongs here: identifiers, units, the desired state of an amphora, the messages between
//! agent, data plane and vrrp, the wire contracts between controller and agent.
//! What never will: sockets, files, clocks, threads, async. A value that exists is valid: types are
//! checked where text becomes a value, and no `validate(&self)` is needed later.
//!
//! Architecture Invariant: this crate depends on no other crate of the workspace.
#![forbid(unsafe_code)]

pub mod config;
pub mod control;
pub mod error;
pub mod guest;
pub mod id;
pub mod names;
pub mod net;
pub mod seal;
pub mod secret;
pub mod state;
pub mod units;
pub mod wire;

pub use error::{FieldError, report};
pub use id::*;
pub use net::MacAddr;
pub use secret::Secret;
pub use state::DesiredState;
pub use units::*;

/// Version of the desired-state schema and of every message in [`control`] and [`wire`].
/// A reader accepts this version and the one before it.
pub const SCHEMA: u32 = 1;
