//! Connections to members.

pub mod pool;
