//! Which amphorae are replaced, and by what. The decision is here; the flows execute it.

pub mod plan;
pub mod request;
