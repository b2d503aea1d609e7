//! The HTTP/1.1 proxy over loopback, between members and clients made by hand.

mod bounds;
mod faults;
pub(crate) mod kit;
mod persistence;
mod policies;
mod relay;
mod slow;
mod smuggling;
