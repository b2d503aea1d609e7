//! All metrics of vrrp, declared and registered once; handles go to the code that counts.

use krater_model::control::{LivenessPath, RouterState};
use krater_vrrp_proto::{DropReason, Span};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;

/// A counter of time.
type Seconds = Counter<f64, AtomicU64>;

/// Which virtual router.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RouterLabels {
    pub(crate) interface: String,
    pub(crate) vrid: u32,
    pub(crate) family: String,
}

/// Which liveness session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PeerLabels {
    interface: String,
    peer: String,
    path: &'static str,
}

impl PeerLabels {
    pub(crate) fn of(interface: &str, peer: IpAddr, path: LivenessPath) -> Self {
        Self {
            interface: interface.to_owned(),
            peer: peer.to_string(),
            path: path.name(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabels {
    reason: String,
}

/// Counters of the process.
#[derive(Debug)]
pub(crate) struct Metrics {
    state: Family<RouterLabels, Gauge>,
    priority: Family<RouterLabels, Gauge>,
    term: Family<RouterLabels, Gauge>,
    transitions: Family<RouterLabels, Counter>,
    sent: Family<RouterLabels, Counter>,
    received: Family<RouterLabels, Counter>,
    announced: Family<RouterLabels, Counter>,
    stalls: Family<RouterLabels, Counter>,
    rivals: Family<RouterLabels, Counter>,
    rival_seconds: Family<RouterLabels, Seconds>,
    peers: Family<PeerLabels, Gauge>,
    /// Heartbeats of liveness sessions that were authentic.
    pub(crate) heartbeats_received: Counter,
    /// Datagrams on their port that were not.
    pub(crate) heartbeats_dropped: Counter,
    /// By reason, in the order of `DropReason::ALL`: a flood costs neither a look-up nor an allocation.
    dropped: [Counter; DropReason::ALL.len()],
    /// Packets that found the queue of their socket full.
    pub(crate) overflows: Counter,
    /// Times that neighbours sent here what was for an Active elsewhere.
    pub(crate) strays: Counter,
    /// Adverts or announcements that the kernel did not take.
    pub(crate) send_errors: Counter,
    /// Address, route or rule changes that the kernel refused; they are repeated.
    pub(crate) netlink_errors: Counter,
    /// Addresses of ours that somebody else removed, and that we restored.
    pub(crate) restored: Counter,
    /// 1 while the tracked data plane is healthy.
    pub(crate) dataplane_healthy: Gauge,
    /// How late timers were served.
    pub(crate) lateness: Histogram,
}

/// Handles of one virtual router.
#[derive(Debug, Clone)]
pub(crate) struct RouterMetrics {
    pub(crate) state: Gauge,
    pub(crate) priority: Gauge,
    pub(crate) term: Gauge,
    pub(crate) transitions: Counter,
    pub(crate) sent: Counter,
    pub(crate) received: Counter,
    pub(crate) announced: Counter,
    pub(crate) stalls: Counter,
    pub(crate) rivals: Counter,
    pub(crate) rival_seconds: Seconds,
}

impl Metrics {
    /// Makes them and registers them.
    pub(crate) fn new(registry: &mut Registry, version: &str) -> Self {
        // From 50 µs, which is a quiet machine, to 1.6 s, which is a migrated one.
        let buckets = [
            0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.4,
            1.6,
        ];
        let dropped = Family::<DropLabels, Counter>::default();
        let metrics = Self {
            state: Family::default(),
            priority: Family::default(),
            term: Family::default(),
            transitions: Family::default(),
            sent: Family::default(),
            received: Family::default(),
            announced: Family::default(),
            stalls: Family::default(),
            rivals: Family::default(),
            rival_seconds: Family::default(),
            peers: Family::default(),
            heartbeats_received: Counter::default(),
            heartbeats_dropped: Counter::default(),
            dropped: DropReason::ALL.map(|reason| {
                dropped.get_or_create_owned(&DropLabels {
                    reason: reason.name().into(),
                })
            }),
            overflows: Counter::default(),
            strays: Counter::default(),
            send_errors: Counter::default(),
            netlink_errors: Counter::default(),
            restored: Counter::default(),
            dataplane_healthy: Gauge::default(),
            lateness: Histogram::new(buckets),
        };
        let build = Info::new(vec![("version", version.to_owned())]);
        registry.register("krater_vrrp_build", "What runs", build);
        registry.register(
            "krater_vrrp_state",
            "0 initialize, 1 fault, 2 backup, 3 active",
            metrics.state.clone(),
        );
        registry.register(
            "krater_vrrp_priority",
            "Own priority in force, with the weights of tracked interfaces",
            metrics.priority.clone(),
        );
        registry.register(
            "krater_vrrp_term",
            "The term of the Active here; 0 while it is elsewhere",
            metrics.term.clone(),
        );
        registry.register(
            "krater_vrrp_transitions",
            "Times the Active role was gained or lost",
            metrics.transitions.clone(),
        );
        registry.register(
            "krater_vrrp_adverts_sent",
            "Advertisements sent, one per peer",
            metrics.sent.clone(),
        );
        registry.register(
            "krater_vrrp_adverts_received",
            "Advertisements that passed all checks",
            metrics.received.clone(),
        );
        registry.register(
            "krater_vrrp_announcements_sent",
            "Gratuitous ARP and unsolicited neighbour advertisements sent",
            metrics.announced.clone(),
        );
        registry.register(
            "krater_vrrp_stalls",
            "Wake-ups so late that the router listened before it spoke",
            metrics.stalls.clone(),
        );
        registry.register(
            "krater_vrrp_rival_adverts",
            "Advertisements heard from another Active while Active",
            metrics.rivals.clone(),
        );
        registry.register(
            "krater_vrrp_rival_seconds",
            "For how long other Actives were heard while Active",
            metrics.rival_seconds.clone(),
        );
        registry.register(
            "krater_vrrp_peer_liveness",
            "0 never heard or silent, 1 heard and deaf to us, 2 alive",
            metrics.peers.clone(),
        );
        registry.register(
            "krater_vrrp_heartbeats_received",
            "Heartbeats of liveness sessions that were authentic",
            metrics.heartbeats_received.clone(),
        );
        registry.register(
            "krater_vrrp_heartbeats_dropped",
            "Datagrams to liveness sessions that were foreign, damaged or of another key",
            metrics.heartbeats_dropped.clone(),
        );
        registry.register(
            "krater_vrrp_packets_dropped",
            "Packets refused, by the first check they failed",
            dropped,
        );
        registry.register(
            "krater_vrrp_queue_overflows",
            "Packets that found the queue of their socket full",
            metrics.overflows.clone(),
        );
        registry.register(
            "krater_vrrp_strays",
            "Times that a neighbour was found to send here what is for an Active elsewhere",
            metrics.strays.clone(),
        );
        registry.register(
            "krater_vrrp_send_errors",
            "Packets the kernel did not take",
            metrics.send_errors.clone(),
        );
        registry.register(
            "krater_vrrp_netlink_errors",
            "Changes of addresses, routes or rules that the kernel refused",
            metrics.netlink_errors.clone(),
        );
        registry.register(
            "krater_vrrp_addresses_restored",
            "Addresses that somebody else removed, added again",
            metrics.restored.clone(),
        );
        registry.register(
            "krater_vrrp_dataplane_healthy",
            "1 while the tracked data plane is healthy",
            metrics.dataplane_healthy.clone(),
        );
        registry.register(
            "krater_vrrp_timer_lateness_seconds",
            "How late timers were served",
            metrics.lateness.clone(),
        );
        metrics
    }

    /// The handles of one virtual router.
    pub(crate) fn router(&self, labels: &RouterLabels) -> RouterMetrics {
        RouterMetrics {
            state: self.state.get_or_create_owned(labels),
            priority: self.priority.get_or_create_owned(labels),
            term: self.term.get_or_create_owned(labels),
            transitions: self.transitions.get_or_create_owned(labels),
            sent: self.sent.get_or_create_owned(labels),
            received: self.received.get_or_create_owned(labels),
            announced: self.announced.get_or_create_owned(labels),
            stalls: self.stalls.get_or_create_owned(labels),
            rivals: self.rivals.get_or_create_owned(labels),
            rival_seconds: self.rival_seconds.get_or_create_owned(labels),
        }
    }

    /// Forgets a virtual router that was removed.
    pub(crate) fn forget(&self, labels: &RouterLabels) {
        self.state.remove(labels);
        self.priority.remove(labels);
        self.term.remove(labels);
        self.transitions.remove(labels);
        self.sent.remove(labels);
        self.received.remove(labels);
        self.announced.remove(labels);
        self.stalls.remove(labels);
        self.rivals.remove(labels);
        self.rival_seconds.remove(labels);
    }

    /// The state of a liveness session.
    pub(crate) fn peer(&self, labels: &PeerLabels) -> Gauge {
        self.peers.get_or_create_owned(labels)
    }

    /// Forgets a session that was removed.
    pub(crate) fn forget_peer(&self, labels: &PeerLabels) {
        self.peers.remove(labels);
    }

    /// Counts a packet that was refused.
    pub(crate) fn dropped(&self, reason: DropReason) {
        if let Some(counter) = self.dropped.get(reason as usize) {
            counter.inc();
        }
    }

    /// Records how late a timer was.
    pub(crate) fn late(&self, by: Span) {
        self.lateness
            .observe(std::time::Duration::from(by).as_secs_f64());
    }
}

/// The state as a number.
pub(crate) const fn number(state: RouterState) -> i64 {
    match state {
        RouterState::Initialize => 0,
        RouterState::Fault => 1,
        RouterState::Backup => 2,
        RouterState::Active => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, "test");
        for (count, reason) in (1..).zip(DropReason::ALL) {
            (0..count).for_each(|_| metrics.dropped(reason));
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for (count, reason) in (1..).zip(DropReason::ALL) {
            let line = format!("dropped_total{{reason=\"{reason}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}
