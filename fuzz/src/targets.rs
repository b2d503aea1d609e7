//! The targets.

mod model;

/// Takes any bytes; panics when a promise is broken.
pub type Target = fn(&[u8]);

/// Name, which is also the corpus folder, and function.
pub const TARGETS: &[(&str, Target)] = &[
    ("heartbeat", model::heartbeat),
    ("desired_state", model::desired_state),
    ("agent_toml", model::agent_toml),
    ("progress", model::progress),
];

/// By name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|t| t.0 == name).map(|t| t.1)
}
