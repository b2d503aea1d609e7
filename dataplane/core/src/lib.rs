//! The data plane's decisions, without sockets, clocks or randomness.
//!
//! What belongs here: the routing table compiled from a snapshot, balancing, the health machine,
//! persistence, the PROXY protocol, connection limits, HTTP/1 framing, L7 policies.
//! What never will: I/O, async, threads. Every machine takes `(input, now)` and returns what to do.
//!
//! Architecture Invariant: neither tokio nor a socket crate is in this crate's manifest.
#![forbid(unsafe_code)]

pub mod access_log;
pub mod balance;
pub mod exchange;
pub mod health;
pub mod http1;
pub mod l7;
pub mod limit;
pub mod member;
pub mod networks;
pub mod persistence;
pub mod proxy_protocol;
pub mod queue;
pub mod shortage;
pub mod table;
