//! Liveness sessions with peers: their sockets, their clock, and what the driver is told of them.
//!
//! One UDP socket for each interface and source address of routers that ask for it, one session for each peer
//! behind it, whatever number of routers they have in common.

use crate::metrics::{Metrics, PeerLabels};
use crate::port::{Port, PortKey};
use krater_model::control::VrrpEventKind;
use krater_model::state::Liveness;
use krater_model::wire::liveness::{Heartbeat, LENGTH, PORT};
use krater_vrrp_proto::liveness::{Change, Session, State};
use krater_vrrp_proto::{Event, Router, Span, Time};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use tracing::{info, warn};

/// Datagrams read from one socket in one round: sixteen peers send 1,600 a second.
const PER_ROUND: usize = 256;
/// DSCP CS6, network control, as adverts have it.
const TOS: u32 = 0xc0;

/// All sessions of this process.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    ends: Vec<End>,
    changes: Vec<Changed>,
}

/// What happened to a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Changed {
    /// Of whose routers.
    pub(crate) source: IpAddr,
    pub(crate) peer: IpAddr,
    pub(crate) change: Change,
}

impl Changed {
    /// Whether a router takes part in the session.
    pub(crate) fn concerns(&self, router: &Router) -> bool {
        let asked = router.plain().liveness.is_some();
        asked && router.source() == self.source && router.peers().contains(&self.peer)
    }

    /// What its routers are told.
    pub(crate) fn event(&self) -> Option<Event> {
        match self.change {
            Change::Dead {
                spoke,
                silence,
                beat,
            } => Some(Event::PeerDead {
                peer: self.peer,
                spoke,
                silence,
                beat,
            }),
            Change::Alive => Some(Event::PeerAlive(self.peer)),
            Change::OneWay | Change::Left => None,
        }
    }

    /// What readers of the event stream are told.
    pub(crate) fn news(&self) -> VrrpEventKind {
        let peer = self.peer;
        match self.change {
            Change::Alive => VrrpEventKind::PeerAlive { peer },
            Change::OneWay => VrrpEventKind::PeerDeaf { peer },
            Change::Dead { silence, .. } => VrrpEventKind::PeerDead {
                peer,
                silence_ms: silence.micros() / 1_000,
            },
            Change::Left => VrrpEventKind::PeerLeft { peer },
        }
    }
}

/// A source address, and its peers.
#[derive(Debug)]
struct End {
    interface: String,
    source: IpAddr,
    settings: Liveness,
    /// With the index of the interface that it is bound to.
    socket: Option<(u32, UdpSocket)>,
    peers: Vec<(IpAddr, Session)>,
}

impl Sessions {
    /// Makes them those that these routers ask for. Sessions that go say farewell.
    pub(crate) fn set<'a>(
        &mut self,
        routers: impl Iterator<Item = &'a Router>,
        ports: &HashMap<PortKey, Port>,
        metrics: &Metrics,
        now: Time,
    ) {
        let mut wanted: Vec<(&str, IpAddr, &Liveness, Vec<IpAddr>)> = Vec::new();
        for router in routers {
            let plain = router.plain();
            let Some(settings) = &plain.liveness else {
                continue;
            };
            let known = wanted.iter_mut().find(|(interface, source, ..)| {
                *interface == plain.interface && *source == plain.source
            });
            match known {
                Some((.., peers)) => peers.extend(&plain.peers),
                None => {
                    let peers = plain.peers.clone();
                    wanted.push((&plain.interface, plain.source, settings, peers));
                }
            }
        }
        self.ends.retain_mut(|end| {
            let kept = wanted.iter().find(|(interface, source, settings, _)| {
                *interface == end.interface && *source == end.source && **settings == end.settings
            });
            let peers = kept.map(|(.., peers)| peers.as_slice()).unwrap_or_default();
            end.keep(peers, metrics);
            kept.is_some()
        });
        for (interface, source, settings, peers) in wanted {
            let known = |end: &End| end.interface == interface && end.source == source;
            let at = self.ends.iter().position(known).unwrap_or_else(|| {
                self.ends.push(End {
                    interface: interface.to_owned(),
                    source,
                    settings: settings.clone(),
                    socket: None,
                    peers: Vec::new(),
                });
                self.ends.len() - 1
            });
            if let Some(end) = self.ends.get_mut(at) {
                end.meet(&peers, now);
            }
        }
        self.open(ports);
    }

    /// Opens sockets on interfaces that came (back).
    pub(crate) fn open(&mut self, ports: &HashMap<PortKey, Port>) {
        for end in &mut self.ends {
            let port = ports
                .values()
                .find(|port| port.key.interface == end.interface && port.key.source == end.source);
            let index = port
                .and_then(|port| port.open.as_ref())
                .map(|open| open.index);
            if index != end.socket.as_ref().map(|(index, _)| *index) {
                end.socket = index.and_then(|index| end.reopen(index));
            }
        }
    }

    /// The sockets to poll.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let sockets = self.ends.iter().filter_map(|end| end.socket.as_ref());
        sockets.map(|(_, socket)| socket.as_fd())
    }

    /// When [`Sessions::work`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let sessions = self.ends.iter().flat_map(|end| &end.peers);
        sessions.map(|(_, session)| session.poll_timeout()).min()
    }

    /// Reads what has come. Answers how many datagrams were refused.
    pub(crate) fn receive(&mut self, metrics: &Metrics, now: Time) -> u64 {
        let mut refused = 0;
        for end in &mut self.ends {
            let Some((_, socket)) = &end.socket else {
                continue;
            };
            // One byte more than a heartbeat has: a longer datagram is none.
            let mut buffer = [0; LENGTH + 1];
            for _ in 0..PER_ROUND {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    break;
                };
                let datagram = buffer.get(..length).unwrap_or_default();
                let from = from.ip();
                let session = end.peers.iter_mut().find(|(peer, _)| *peer == from);
                let beat = Heartbeat::decode(datagram, &end.settings.key, from, end.source);
                let (Some((peer, session)), Ok(beat)) = (session, beat) else {
                    metrics.heartbeats_dropped.inc();
                    refused += 1;
                    continue;
                };
                metrics.heartbeats_received.inc();
                let before = session.state();
                let change = session.heard(&beat, now);
                if session.state() != before {
                    let labels = PeerLabels::of(&end.interface, *peer);
                    metrics.peer(&labels).set(number(session.state()));
                }
                self.changes.extend(change.map(|change| Changed {
                    source: end.source,
                    peer: *peer,
                    change,
                }));
            }
        }
        refused
    }

    /// Sends what is due, and judges silence. Call it when nothing is left to read.
    pub(crate) fn work(&mut self, metrics: &Metrics, now: Time) {
        for end in &mut self.ends {
            for at in 0..end.peers.len() {
                let Some((peer, session)) = end.peers.get_mut(at) else {
                    continue;
                };
                if session.poll_timeout() > now {
                    continue;
                }
                let peer = *peer;
                let (beat, change) = session.timeout(now);
                if change.is_some() {
                    let labels = PeerLabels::of(&end.interface, peer);
                    metrics.peer(&labels).set(number(session.state()));
                }
                self.changes.extend(change.map(|change| Changed {
                    source: end.source,
                    peer,
                    change,
                }));
                if let Some(beat) = beat {
                    end.send(peer, &beat);
                }
            }
        }
    }

    /// What has changed since the last time.
    pub(crate) fn take_changes(&mut self) -> Vec<Changed> {
        std::mem::take(&mut self.changes)
    }

    /// Says farewell to all: this process ends.
    pub(crate) fn leave(&mut self, metrics: &Metrics) {
        for end in &mut self.ends {
            end.keep(&[], metrics);
        }
    }
}

impl End {
    /// Says farewell to peers that are not among these.
    fn keep(&mut self, peers: &[IpAddr], metrics: &Metrics) {
        let (kept, gone) = std::mem::take(&mut self.peers)
            .into_iter()
            .partition(|(peer, _)| peers.contains(peer));
        self.peers = kept;
        let gone: Vec<(IpAddr, Session)> = gone;
        for (peer, mut session) in gone {
            self.send(peer, &session.leave());
            metrics.forget_peer(&PeerLabels::of(&self.interface, peer));
        }
    }

    /// Begins sessions with those of these peers that have none.
    fn meet(&mut self, peers: &[IpAddr], now: Time) {
        for peer in peers {
            if self.peers.iter().any(|(known, _)| known == peer) {
                continue;
            }
            match boot() {
                Ok(boot) => {
                    let interval = Span::from(self.settings.interval.duration());
                    self.peers.push((*peer, Session::new(interval, boot, now)));
                }
                // Without it the protocol's own time counts.
                Err(error) => warn!(%peer, %error, "no liveness session: no random numbers"),
            }
        }
    }

    fn reopen(&self, index: u32) -> Option<(u32, UdpSocket)> {
        let opened = self.socket(index);
        match opened {
            Ok(socket) => {
                info!(interface = self.interface, source = %self.source, "liveness sessions on UDP port {PORT}");
                Some((index, socket))
            }
            Err(error) => {
                warn!(interface = self.interface, %error, "no liveness sessions");
                None
            }
        }
    }

    fn socket(&self, index: u32) -> io::Result<UdpSocket> {
        let domain = Domain::for_address(SocketAddr::new(self.source, 0));
        let socket = Socket::new(domain, Type::DGRAM, None)?;
        socket.bind_device(Some(self.interface.as_bytes()))?;
        socket.set_nonblocking(true)?;
        // The address may come later, as for adverts.
        if self.source.is_ipv4() {
            socket.set_freebind_v4(true)?;
            socket.set_tos_v4(TOS)?;
        } else {
            socket.set_freebind_v6(true)?;
            socket.set_tclass_v6(TOS)?;
        }
        socket.bind(&address(self.source, index))?;
        Ok(socket.into())
    }

    fn send(&self, peer: IpAddr, beat: &Heartbeat) {
        let Some((index, socket)) = &self.socket else {
            return;
        };
        let bytes = beat.encode(&self.settings.key, self.source, peer);
        // What does not get out is silence to the peer, and told by it.
        if let Some(to) = address(peer, *index).as_socket() {
            let _lost = socket.send_to(&bytes, to);
        }
    }
}

fn address(ip: IpAddr, index: u32) -> SockAddr {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, PORT, 0, index).into()
        }
        _ => SocketAddr::new(ip, PORT).into(),
    }
}

/// A number that no other session has or had; never 0.
fn boot() -> io::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes).max(1))
}

const fn number(state: State) -> i64 {
    match state {
        State::Unknown => 0,
        State::OneWay => 1,
        State::Alive => 2,
    }
}
