//! One driver per protocol. Each takes an accepted connection to its end.

pub mod http1;
pub mod tcp;
