//! Secrets: how they are kept (`vault`), and how what users store becomes what amphorae take
//! (`pkcs12`, `bundle`). The parsers are pure; what they read comes from strangers.

pub mod barbican;
pub mod bundle;
mod der;
pub mod pkcs12;
pub mod vault;
