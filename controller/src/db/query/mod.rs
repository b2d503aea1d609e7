//! Queries by subject. They take any connection, so that callers compose them in one transaction.

pub mod before;
pub mod bundle;
pub mod flow;
pub mod graph;
pub mod journal;
pub mod list;
pub mod meta;
pub mod network;
pub mod position;
