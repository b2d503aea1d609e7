//! The task that sends.

use super::{Report, Sequence, datagrams};
use crate::agent::Agent;
use krater_model::control::DataplaneStatus;
use krater_model::state::Heartbeat;
use krater_telemetry::RateLimit;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a beat waits for a child's answer; half an interval when that is shorter.
const STATUS: Duration = Duration::from_millis(400);
/// Without targets: how often it is looked whether there are some.
const IDLE: Duration = Duration::from_secs(1);

/// Sends for ever.
pub(crate) async fn run(agent: Arc<Agent>) {
    let errors = RateLimit::new(1, Duration::from_secs(10));
    let mut sequence = Sequence::default();
    let mut sockets = Sockets::default();
    let mut last: Option<DataplaneStatus> = None;
    loop {
        let started = tokio::time::Instant::now();
        let settings = agent.heartbeat();
        if let Some(settings) = &settings {
            let deadline = STATUS.min(settings.interval.duration() / 2);
            let children = &agent.children;
            let (dataplane, vrrp) = tokio::join!(
                children.dataplane_status(deadline),
                children.vrrp_status(deadline)
            );
            let (dataplane, vrrp) = (dataplane.ok(), vrrp.ok());
            let fresh = dataplane.is_some();
            last = dataplane.or(last);
            let report = Report {
                amphora_id: agent.config.amphora_id,
                boot_id: &agent.boot_id,
                revision: agent
                    .applier
                    .current()
                    .map(|current| current.state.revision()),
                dataplane: last.as_ref().filter(|_| fresh),
                stale: last.as_ref(),
                // A dead vrrp says nothing: its last word may be that it is Active.
                vrrp: vrrp.as_ref(),
            };
            let datagrams = datagrams(&report, &mut sequence, &settings.key);
            for error in send(&agent, &mut sockets, settings, &datagrams) {
                if let Some(held) = errors.pass(Instant::now()) {
                    tracing::warn!(%error, held, "heartbeat not sent");
                }
            }
        }
        let interval = settings.map_or(IDLE, |s| s.interval.duration());
        tokio::select! {
            () = tokio::time::sleep_until(started + interval) => {}
            () = agent.beat_now.notified() => {}
        }
    }
}

fn send(
    agent: &Agent,
    sockets: &mut Sockets,
    settings: &Heartbeat,
    datagrams: &[Vec<u8>],
) -> Vec<String> {
    let mut errors = Vec::new();
    for target in &settings.targets {
        for datagram in datagrams {
            let sent = sockets
                .of(*target)
                .and_then(|socket| socket.send_to(datagram, target));
            match sent {
                Ok(_) => drop(agent.metrics.heartbeats.inc()),
                Err(error) => {
                    agent.metrics.heartbeat_errors.inc();
                    errors.push(format!("{target}: {error}"));
                }
            }
        }
    }
    errors
}

/// One unconnected, non-blocking socket per family, in the management namespace.
#[derive(Default)]
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Sockets {
    fn of(&mut self, target: SocketAddr) -> io::Result<&UdpSocket> {
        let (slot, any): (_, SocketAddr) = match target {
            SocketAddr::V4(_) => (&mut self.v4, (Ipv4Addr::UNSPECIFIED, 0).into()),
            SocketAddr::V6(_) => (&mut self.v6, (Ipv6Addr::UNSPECIFIED, 0).into()),
        };
        if slot.is_none() {
            let socket = UdpSocket::bind(any)?;
            socket.set_nonblocking(true)?;
            *slot = Some(socket);
        }
        slot.as_ref()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}
