//! The agent's own metrics. Names and meanings are declared here and nowhere else.

use krater_telemetry::{LogControl, metrics};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Which child.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ChildLabel {
    pub(crate) child: &'static str,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StatusLabel {
    pub(crate) status: u16,
}

/// How an apply ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResultLabel {
    pub(crate) result: &'static str,
}

/// Handles of all families.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) handshakes_refused: Counter,
    pub(crate) connections_refused: Counter,
    pub(crate) requests: Family<StatusLabel, Counter>,
    pub(crate) applies: Family<ResultLabel, Counter>,
    pub(crate) apply_last_microseconds: Gauge,
    pub(crate) generation: Gauge,
    pub(crate) child_starts: Family<ChildLabel, Gauge>,
    pub(crate) child_up: Family<ChildLabel, Gauge>,
    pub(crate) heartbeats: Counter,
    pub(crate) heartbeat_errors: Counter,
    pub(crate) certificate_expires: Gauge,
}

impl Metrics {
    pub(crate) fn new(log: LogControl) -> Self {
        let mut this = Self::default();
        let r = &mut this.registry;
        metrics::register_process(r, log);
        macro_rules! register {
            ($($name:literal, $help:literal, $field:ident;)*) => {
                $(r.register($name, $help, this.$field.clone());)*
            };
        }
        register! {
            "krater_agent_handshakes_refused", "TLS handshakes that failed: no certificate, foreign CA, wrong name, late", handshakes_refused;
            "krater_agent_connections_refused", "Connections closed because too many were open", connections_refused;
            "krater_agent_requests", "Requests answered, by status", requests;
            "krater_agent_applies", "Desired states, by result: changed, unchanged, refused, failed", applies;
            "krater_agent_apply_last_microseconds", "Duration of the last apply", apply_last_microseconds;
            "krater_agent_generation", "Generation of the desired state in force", generation;
            "krater_agent_child_starts", "Starts of a child by this agent", child_starts;
            "krater_agent_child_up", "1 while the child answers", child_up;
            "krater_agent_heartbeats", "Heartbeat datagrams sent", heartbeats;
            "krater_agent_heartbeat_errors", "Heartbeat datagrams that could not be sent", heartbeat_errors;
            "krater_agent_certificate_expires_seconds", "End of validity of the server certificate, Unix time", certificate_expires;
        }
        this
    }

    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        metrics::text(&self.registry)
    }
}
