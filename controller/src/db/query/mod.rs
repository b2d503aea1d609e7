//! Queries by subject. They take any connection, so that callers compose them in one transaction.

pub mod flow;
pub mod meta;
pub mod network;
