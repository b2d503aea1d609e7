//! Prometheus metrics, read from the process's state when they are asked for. Names and labels are
//! declared here and nowhere else; labels are configured ids and closed words, never traffic.

use crate::runtime::Shared;
use krater_dataplane_core::member::Probed;
use krater_dataplane_core::shortage::Own;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Of [`text`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as text.
pub(crate) fn text(shared: &Arc<Shared>, version: &str) -> Vec<u8> {
    let mut registry = Registry::with_prefix("krater_dataplane");
    let info = Info::new(vec![("version".to_owned(), version.to_owned())]);
    registry.register("build", "The running build", info);
    registry.register_collector(Box::new(State(Arc::clone(shared))));
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _infallible = prometheus_client::encoding::text::encode(&mut text, &registry);
    text.into_bytes()
}

#[derive(Debug)]
struct State(Arc<Shared>);

type Labels = Vec<(&'static str, String)>;
type Points = Vec<(Labels, u64)>;

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.listeners(&mut encoder)?;
        self.members(&mut encoder)?;
        self.queues(&mut encoder)?;
        self.process(&mut encoder)
    }
}

impl State {
    fn listeners(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let routes = self.0.routes();
        let all: Vec<_> = routes
            .listeners
            .values()
            .map(|view| {
                (
                    vec![("listener", view.conf.id.to_string())],
                    view.runtime.snapshot(),
                )
            })
            .collect();
        let of = |value: fn(&krater_model::control::ListenerStats) -> u64| -> Points {
            all.iter()
                .map(|(labels, stats)| (labels.clone(), value(stats)))
                .collect()
        };
        gauges(
            encoder,
            "listener_connections",
            "Client connections open",
            of(|s| s.active_connections),
        )?;
        counters(
            encoder,
            "listener_connections_accepted",
            "Client connections accepted",
            of(|s| s.total_connections),
        )?;
        counters(
            encoder,
            "listener_bytes_in",
            "Payload bytes from clients",
            of(|s| s.bytes_in),
        )?;
        counters(
            encoder,
            "listener_bytes_out",
            "Payload bytes to clients",
            of(|s| s.bytes_out),
        )?;
        counters(
            encoder,
            "listener_request_errors",
            "Requests refused for the client's fault",
            of(|s| s.request_errors),
        )
    }

    fn members(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let routes = self.0.routes();
        let (mut up, mut active, mut total, mut failed) = (vec![], vec![], vec![], vec![]);
        for pool in routes.pools.values() {
            for member in &pool.members {
                let labels: Labels = vec![
                    ("pool", pool.conf.id.to_string()),
                    ("member", member.conf.id.to_string()),
                ];
                up.push((
                    labels.clone(),
                    u64::from(member.state.probed() != Probed::Down),
                ));
                active.push((labels.clone(), member.state.active()));
                total.push((labels.clone(), member.state.total()));
                failed.push((labels, member.state.failed()));
            }
        }
        gauges(encoder, "member_up", "1 unless probes fail", up)?;
        gauges(
            encoder,
            "member_connections",
            "Connections or requests in flight",
            active,
        )?;
        counters(
            encoder,
            "member_connections_made",
            "Connections or requests so far",
            total,
        )?;
        counters(
            encoder,
            "member_connect_failures",
            "Connects that failed",
            failed,
        )
    }

    fn queues(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let routes = self.0.routes();
        let (mut waiting, mut queued, mut refused) = (vec![], vec![], vec![]);
        for pool in routes.pools.values() {
            let labels: Labels = vec![("pool", pool.conf.id.to_string())];
            let runtime = &pool.runtime;
            waiting.push((labels.clone(), runtime.waiting() as u64));
            queued.push((labels.clone(), runtime.queued()));
            for (why, count) in [
                ("full", runtime.overflows()),
                ("timeout", runtime.timeouts()),
            ] {
                let mut labels = labels.clone();
                labels.push(("reason", why.to_owned()));
                refused.push((labels, count));
            }
        }
        gauges(
            encoder,
            "pool_queue",
            "Connections or requests that wait for a member",
            waiting,
        )?;
        counters(
            encoder,
            "pool_queued",
            "Connections or requests that had to wait for a member",
            queued,
        )?;
        counters(
            encoder,
            "pool_queue_refusals",
            "Connections or requests that got no place at a member",
            refused,
        )
    }

    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (pipes, events, usage) = (&self.0.pipes, &self.0.events, &self.0.usage);
        let plain = |value| vec![(Labels::new(), value)];
        counters(
            encoder,
            "member_connections_reused",
            "Requests sent on a kept member connection",
            plain(usage.reused.load(Relaxed)),
        )?;
        gauges(
            encoder,
            "member_connections_kept",
            "Idle member connections kept for reuse",
            plain(usage.kept.load(Relaxed)),
        )?;
        gauges(
            encoder,
            "buffers_held",
            "Buffers that hold bytes",
            plain(usage.buffers.load(Relaxed)),
        )?;
        counters(
            encoder,
            "spliced_bytes",
            "Bytes moved without copying",
            plain(pipes.spliced()),
        )?;
        counters(
            encoder,
            "copied_bytes",
            "Bytes moved through a buffer by relays",
            plain(pipes.copied()),
        )?;
        counters(
            encoder,
            "pipe_misses",
            "Times that no pipe was free",
            plain(pipes.misses()),
        )?;
        counters(
            encoder,
            "panics",
            "Connections ended by a panic",
            plain(events.panics.load(Relaxed)),
        )?;
        counters(
            encoder,
            "worker_restarts",
            "Workers started again",
            plain(events.worker_restarts.load(Relaxed)),
        )?;
        counters(
            encoder,
            "refused_clients",
            "Clients not in allowed_cidrs",
            plain(events.refused_clients.load(Relaxed)),
        )?;
        counters(
            encoder,
            "limited_clients",
            "Connections over their client's limit",
            plain(events.limited_clients.load(Relaxed)),
        )?;
        counters(
            encoder,
            "proxy_header_errors",
            "Connections of front ends without a proper PROXY header",
            plain(events.bad_fronts.load(Relaxed)),
        )?;
        counters(
            encoder,
            "handshakes",
            "TLS handshakes with clients",
            plain(events.handshakes.load(Relaxed)),
        )?;
        counters(
            encoder,
            "resumed_handshakes",
            "TLS handshakes with clients that resumed a session by its ticket",
            plain(events.resumed_handshakes.load(Relaxed)),
        )?;
        counters(
            encoder,
            "failed_handshakes",
            "TLS handshakes that failed",
            plain(events.failed_handshakes.load(Relaxed)),
        )?;
        counters(
            encoder,
            "accept_failures",
            "Times that accepting paused",
            plain(events.accept_failures.load(Relaxed)),
        )?;
        counters(
            encoder,
            "access_log_lines",
            "Lines of access logs that were written",
            plain(self.0.access_logs.written()),
        )?;
        counters(
            encoder,
            "access_log_lines_dropped",
            "Lines of access logs that were lost",
            plain(self.0.access_logs.dropped()),
        )?;
        let shortages = Own::ALL.iter().zip(&events.connect_shortages);
        counters(
            encoder,
            "member_connect_shortages",
            "Connects to members that failed for want of something of ours",
            shortages
                .map(|(own, n)| (vec![("of", own.word().to_owned())], n.load(Relaxed)))
                .collect(),
        )?;
        counters(
            encoder,
            "snapshots_applied",
            "Snapshots applied",
            plain(events.applied_snapshots.load(Relaxed)),
        )?;
        counters(
            encoder,
            "snapshots_refused",
            "Snapshots refused",
            plain(events.refused_snapshots.load(Relaxed)),
        )
    }
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    points: Points,
) -> fmt::Result {
    let kind = ConstCounter::new(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in points {
        let counter = ConstCounter::new(value);
        if labels.is_empty() {
            return counter.encode(family);
        }
        counter.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    points: Points,
) -> fmt::Result {
    let kind = ConstGauge::new(0_i64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in points {
        let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        if labels.is_empty() {
            return gauge.encode(family);
        }
        gauge.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
