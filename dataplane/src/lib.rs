//! Krater's data plane: clients ⇄ VIP:port ⇄ members.
//!
//! What belongs here: sockets, TLS, splice, workers, probes, the control socket; the decisions are in
//! `krater-dataplane-core`. What never will: netlink, the agent's or the controller's business.

pub mod io;
pub mod proxy;
pub mod runtime;
pub mod tls;
pub mod upstream;
pub mod worker;
