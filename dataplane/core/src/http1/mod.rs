//! HTTP/1.1 messages: strict parsing, body framing, rewriting (RFC 9110, RFC 9112).
//!
//! Owns: what a head may look like, where a body ends, which fields a proxy forwards.
//! Never owns: sockets, body bytes, clocks. A head is described by [`Span`]s into the caller's
//! buffer, a body by how many bytes may be relayed ([`framing::Body`]).

pub mod chunked;
pub mod fault;
pub mod framing;
pub mod head;
pub mod request;
pub mod response;
pub mod rewrite;

#[cfg(test)]
mod tests;

pub use fault::{Fault, Refusal};
pub use framing::{Body, Relay};
pub use head::{Field, Known, MAX_FIELDS, MAX_HEAD, Scan, Scanner, Span, Version};
pub use request::{Method, RequestHead};
pub use response::ResponseHead;
