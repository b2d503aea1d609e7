//! TLS towards clients: from PEM and names to a rustls configuration.

use std::sync::Arc;

/// A listener's TLS, ready.
#[derive(Debug)]
pub struct Terminator {
    config: Arc<rustls::ServerConfig>,
}
