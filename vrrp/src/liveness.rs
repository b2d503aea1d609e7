//! Liveness sessions with peers: their sockets, their clock, and what the driver is told of them.
//!
//! One UDP socket for each interface and source address of routers that ask for it, and one more, made elsewhere and
//! handed over ([`crate::track`]), for the second network. Behind them one [`Peer`] for each peer, whatever number
//! of routers they have in common.

use crate::metrics::{Metrics, PeerLabels};
use crate::port::{Port, PortKey};
use krater_model::control::{LivenessPath, PathState, PeerLiveness, VrrpEventKind};
use krater_model::state::{Liveness, SecondPath};
use krater_model::wire::liveness::{Heartbeat, LENGTH, PORT, Report};
use krater_vrrp_proto::liveness::{Change, News, Peer, Session, Verdict};
use krater_vrrp_proto::{Event, Router, Span, Time};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use tracing::{info, warn};

/// Datagrams read from one socket in one round: sixteen peers send 1,600 a second.
const PER_ROUND: usize = 256;
/// DSCP CS6, network control, as adverts have it.
const TOS: u32 = 0xc0;
const PATHS: [LivenessPath; 2] = [LivenessPath::Vip, LivenessPath::Second];

/// All sessions of this process.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    ends: Vec<End>,
    /// Of the second network, and to what it is bound.
    second: Option<(IpAddr, UdpSocket)>,
    changes: Vec<Changed>,
}

/// What happened to a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Changed {
    /// Of whose routers.
    source: IpAddr,
    peer: IpAddr,
    path: LivenessPath,
    news: News,
    /// There is another network, so that silence on this one is no death.
    of_two: bool,
}

/// What the routers of an interface and source address stand for, in heartbeats.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ours {
    /// The data plane has members that count, and none is up.
    pub(crate) poor: bool,
    /// The highest priority of those that may take over; 0: none may.
    pub(crate) best: u8,
}

impl Changed {
    /// Whether a router takes part in the session.
    pub(crate) fn concerns(&self, router: &Router) -> bool {
        let asked = router.plain().liveness.is_some();
        asked && router.source() == self.source && router.peers().contains(&self.peer)
    }

    /// Whether a neighbour does not know where the addresses are.
    pub(crate) fn misled(&self) -> bool {
        self.news.misled
    }

    /// What its routers are told.
    pub(crate) fn event(&self) -> Option<Event> {
        let peer = self.peer;
        Some(match self.news.verdict? {
            Verdict::Alive => Event::PeerAlive(peer),
            Verdict::Cut => Event::PeerCut(peer),
            Verdict::Dead {
                spoke,
                silence,
                beat,
                sure,
            } => Event::PeerDead {
                peer,
                spoke,
                silence,
                beat,
                sure,
            },
        })
    }

    /// What readers of the event stream are told, in order.
    pub(crate) fn told(&self) -> impl Iterator<Item = VrrpEventKind> {
        let (peer, path) = (self.peer, self.path);
        let ms = |span: Span| span.micros() / 1_000;
        let change = self.news.change.and_then(|change| match change {
            Change::Alive => Some(VrrpEventKind::PeerAlive { peer, path }),
            Change::OneWay => Some(VrrpEventKind::PeerDeaf { peer, path }),
            Change::Left => Some(VrrpEventKind::PeerLeft { peer }),
            Change::Dead { silence, .. } if self.of_two => Some(VrrpEventKind::PeerSilent {
                peer,
                path,
                silence_ms: ms(silence),
            }),
            Change::Dead { .. } => None,
        });
        let verdict = self.news.verdict.and_then(|verdict| match verdict {
            Verdict::Alive => None,
            Verdict::Cut => Some(VrrpEventKind::PeerCut { peer }),
            Verdict::Dead { silence, .. } => Some(VrrpEventKind::PeerDead {
                peer,
                silence_ms: ms(silence),
            }),
        });
        change.into_iter().chain(verdict)
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
    peers: Vec<Met>,
    /// How often neighbours sent here what was for another host's addresses.
    strays: u32,
}

/// A peer, and where it is.
#[derive(Debug)]
struct Met {
    address: IpAddr,
    /// On the second network.
    second: Option<IpAddr>,
    peer: Peer,
}

impl Met {
    /// Its address and ours on the network of a path.
    fn addresses(&self, end: &Local<'_>, path: LivenessPath) -> Option<(IpAddr, IpAddr)> {
        match path {
            LivenessPath::Vip => Some((self.address, end.source)),
            LivenessPath::Second => Some((self.second?, end.second?.source)),
        }
    }
}

/// What of an end its peers need, beside them.
#[derive(Clone, Copy)]
struct Local<'a> {
    interface: &'a str,
    source: IpAddr,
    settings: &'a Liveness,
    second: Option<&'a SecondPath>,
    first_socket: Option<(u32, &'a UdpSocket)>,
    second_socket: Option<&'a UdpSocket>,
}

impl Local<'_> {
    fn send(&self, met: &Met, path: LivenessPath, beat: &Heartbeat) {
        let (socket, index) = match (path, self.first_socket, self.second_socket) {
            (LivenessPath::Vip, Some((index, socket)), _) => (socket, index),
            (LivenessPath::Second, _, Some(socket)) => (socket, 0),
            _ => return,
        };
        let Some((there, here)) = met.addresses(self, path) else {
            return;
        };
        let bytes = beat.encode(&self.settings.key, here, there);
        // What does not get out is silence to the peer, and told by it.
        if let Some(to) = address(there, index).as_socket() {
            let _lost = socket.send_to(&bytes, to);
        }
    }

    fn changed(&self, met: &Met, path: LivenessPath, news: News, metrics: &Metrics) -> Changed {
        if let Some(state) = met.peer.state(path) {
            let labels = PeerLabels::of(self.interface, met.address, path);
            metrics.peer(&labels).set(number(state));
        }
        Changed {
            source: self.source,
            peer: met.address,
            path,
            news,
            of_two: met.second.is_some(),
        }
    }

    fn farewell(&self, mut met: Met, metrics: &Metrics) {
        for path in PATHS {
            if let Some(beat) = met.peer.leave(path) {
                self.send(&met, path, &beat);
            }
            metrics.forget_peer(&PeerLabels::of(self.interface, met.address, path));
        }
    }
}

/// A peer and its address on the second network.
type Wanted = (IpAddr, Option<IpAddr>);

impl Sessions {
    /// Makes them those that these routers ask for. Sessions that go say farewell.
    pub(crate) fn set<'a>(
        &mut self,
        routers: impl Iterator<Item = &'a Router>,
        ports: &HashMap<PortKey, Port>,
        metrics: &Metrics,
        now: Time,
    ) {
        let mut wanted: Vec<(&str, IpAddr, &Liveness, Vec<Wanted>)> = Vec::new();
        for router in routers {
            let plain = router.plain();
            let Some(settings) = &plain.liveness else {
                continue;
            };
            let second = settings.second_path.as_ref();
            let second = |at: usize| second.and_then(|path| path.peers.get(at).copied());
            let peers = plain.peers.iter().enumerate();
            let peers: Vec<Wanted> = peers.map(|(at, peer)| (*peer, second(at))).collect();
            let known = wanted.iter_mut().find(|(interface, source, ..)| {
                *interface == plain.interface && *source == plain.source
            });
            match known {
                Some((.., all)) => all.extend(peers),
                None => wanted.push((&plain.interface, plain.source, settings, peers)),
            }
        }
        let unused = |(.., settings, _): &(_, _, &Liveness, _)| settings.second_path.is_none();
        if wanted.iter().all(unused) {
            self.second = None;
        }
        let second = self.second.as_ref();
        self.ends.retain_mut(|end| {
            let kept = wanted.iter().find(|(interface, source, settings, _)| {
                *interface == end.interface && *source == end.source && **settings == end.settings
            });
            let peers = kept.map(|(.., peers)| peers.as_slice()).unwrap_or_default();
            end.keep(peers, second, metrics);
            kept.is_some()
        });
        for (interface, source, settings, peers) in wanted {
            let known = self
                .ends
                .iter()
                .position(|end| end.is_at(interface, source));
            let at = known.unwrap_or_else(|| {
                self.ends.push(End {
                    interface: interface.to_owned(),
                    source,
                    settings: settings.clone(),
                    socket: None,
                    peers: Vec::new(),
                    strays: 0,
                });
                self.ends.len() - 1
            });
            if let Some(end) = self.ends.get_mut(at) {
                end.meet(&peers, metrics, now);
            }
        }
        self.open(ports);
    }

    /// The socket of the second network, from now on.
    pub(crate) fn set_second(&mut self, bound: IpAddr, socket: UdpSocket) {
        let socket_ref = SockRef::from(&socket);
        let class = match bound {
            IpAddr::V4(_) => socket_ref.set_tos_v4(TOS),
            IpAddr::V6(_) => socket_ref.set_tclass_v6(TOS),
        };
        if let Err(error) = class.and_then(|()| socket.set_nonblocking(true)) {
            warn!(%bound, %error, "no second path of liveness sessions");
            return;
        }
        info!(%bound, "second path of liveness sessions");
        self.second = Some((bound, socket));
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
        let first = sockets.map(|(_, socket)| socket.as_fd());
        first.chain(self.second.iter().map(|(_, socket)| socket.as_fd()))
    }

    /// When [`Sessions::work`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let peers = self.ends.iter().flat_map(|end| &end.peers);
        peers.map(|met| met.peer.poll_timeout()).min()
    }

    /// What heartbeats tell from now on.
    pub(crate) fn tell(&mut self, term: u64, ours: impl Fn(&str, IpAddr) -> Ours) {
        for end in &mut self.ends {
            let Ours { poor, best } = ours(&end.interface, end.source);
            let report = Report {
                poor,
                term,
                strays: end.strays,
                best,
            };
            for met in &mut end.peers {
                met.peer.tell(report);
            }
        }
    }

    /// The highest term that a peer knows.
    pub(crate) fn highest_term(&self) -> u64 {
        let peers = self.ends.iter().flat_map(|end| &end.peers);
        let reports = peers.filter_map(|met| met.peer.reported());
        reports.map(|report| report.term).max().unwrap_or_default()
    }

    /// A neighbour sent here what was for addresses of a peer's routers.
    pub(crate) fn stray(&mut self, interface: &str, source: IpAddr) {
        let ends = self.ends.iter_mut();
        for end in ends.filter(|end| end.is_at(interface, source)) {
            end.strays = end.strays.wrapping_add(1);
        }
    }

    /// What a router's peer tells, while both hear each other where the routers are.
    pub(crate) fn report_of(&self, router: &Router, peer: IpAddr) -> Option<Report> {
        let met = self.mets(router).find(|met| met.address == peer)?;
        let alive = met.peer.state(LivenessPath::Vip) == Some(PathState::Alive);
        met.peer.reported().filter(|_| alive)
    }

    /// Whether a router is the best of those that may take over from the peer that resigned.
    pub(crate) fn succeeds(&self, router: &Router, resigned: IpAddr) -> bool {
        router.succeeds(resigned, |peer| Some(self.report_of(router, peer)?.best))
    }

    /// Who is met where a router is, if it asks for that.
    fn mets(&self, router: &Router) -> impl Iterator<Item = &Met> {
        let asked = router.plain().liveness.is_some();
        let (interface, source) = (&router.plain().interface, router.source());
        let ours = move |end: &&End| asked && end.is_at(interface, source);
        self.ends.iter().filter(ours).flat_map(|end| &end.peers)
    }

    /// What is known of a router's peers.
    pub(crate) fn of(&self, router: &Router) -> Vec<PeerLiveness> {
        let mets = self.mets(router);
        let mets = mets.filter(|met| router.peers().contains(&met.address));
        let known = mets.map(|met| PeerLiveness {
            peer: met.address,
            vip: met
                .peer
                .state(LivenessPath::Vip)
                .unwrap_or(PathState::Never),
            second: met.peer.state(LivenessPath::Second),
        });
        known.collect()
    }

    /// Reads what has come. Answers how many datagrams were refused.
    pub(crate) fn receive(&mut self, metrics: &Metrics, now: Time) -> u64 {
        let Self {
            ends,
            second,
            changes,
        } = self;
        let mut refused = 0;
        for end in ends.iter_mut() {
            let (peers, end) = end.split(None);
            let Some((_, socket)) = end.first_socket else {
                continue;
            };
            let take = |from, datagram: &[u8]| {
                let met = peers.iter_mut().find(|met| met.address == from)?;
                end.hear(met, LivenessPath::Vip, datagram, metrics, now)
            };
            refused += read(socket, metrics, take, changes);
        }
        if let Some((bound, socket)) = second {
            let take = |from: IpAddr, datagram: &[u8]| {
                let end = ends.iter_mut().find(|end| {
                    let path = end.settings.second_path.as_ref();
                    path.is_some_and(|path| path.source == *bound && path.peers.contains(&from))
                })?;
                let (peers, end) = end.split(None);
                let met = peers.iter_mut().find(|met| met.second == Some(from))?;
                end.hear(met, LivenessPath::Second, datagram, metrics, now)
            };
            refused += read(socket, metrics, take, changes);
        }
        refused
    }

    /// Sends what is due, and judges silence. Call it when nothing is left to read.
    pub(crate) fn work(&mut self, metrics: &Metrics, now: Time) {
        let second = self.second.as_ref();
        for end in &mut self.ends {
            let (peers, end) = end.split(second);
            for met in peers {
                for path in PATHS {
                    let (beat, news) = met.peer.timeout(path, now);
                    if news != News::default() {
                        self.changes.push(end.changed(met, path, news, metrics));
                    }
                    if let Some(beat) = beat {
                        end.send(met, path, &beat);
                    }
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
        let second = self.second.as_ref();
        for end in &mut self.ends {
            end.keep(&[], second, metrics);
        }
    }
}

/// Reads datagrams; `take` answers none for one that is refused. Answers how many were.
fn read(
    socket: &UdpSocket,
    metrics: &Metrics,
    mut take: impl FnMut(IpAddr, &[u8]) -> Option<Option<Changed>>,
    changes: &mut Vec<Changed>,
) -> u64 {
    let mut refused = 0;
    // One byte more than a heartbeat has: a longer datagram is none.
    let mut buffer = [0; LENGTH + 1];
    for _ in 0..PER_ROUND {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            break;
        };
        let datagram = buffer.get(..length).unwrap_or_default();
        match take(from.ip(), datagram) {
            Some(changed) => {
                metrics.heartbeats_received.inc();
                changes.extend(changed);
            }
            None => {
                metrics.heartbeats_dropped.inc();
                refused += 1;
            }
        }
    }
    refused
}

impl Local<'_> {
    /// None: refused.
    fn hear(
        &self,
        met: &mut Met,
        path: LivenessPath,
        datagram: &[u8],
        metrics: &Metrics,
        now: Time,
    ) -> Option<Option<Changed>> {
        let (there, here) = met.addresses(self, path)?;
        let beat = Heartbeat::decode(datagram, &self.settings.key, there, here).ok()?;
        let before = met.peer.state(path);
        let news = met.peer.heard(path, &beat, now);
        let changed = news != News::default() || met.peer.state(path) != before;
        Some(changed.then(|| self.changed(met, path, news, metrics)))
    }
}

impl End {
    fn is_at(&self, interface: &str, source: IpAddr) -> bool {
        self.interface == interface && self.source == source
    }

    /// The peers, and what they need.
    fn split<'a>(
        &'a mut self,
        second: Option<&'a (IpAddr, UdpSocket)>,
    ) -> (&'a mut Vec<Met>, Local<'a>) {
        let path = self.settings.second_path.as_ref();
        // One that is bound to another address would send what the peer refuses.
        let fits = |(bound, _): &&(IpAddr, UdpSocket)| path.is_some_and(|p| p.source == *bound);
        let local = Local {
            interface: &self.interface,
            source: self.source,
            settings: &self.settings,
            second: path,
            first_socket: self.socket.as_ref().map(|(index, socket)| (*index, socket)),
            second_socket: second.filter(fits).map(|(_, socket)| socket),
        };
        (&mut self.peers, local)
    }

    /// Says farewell to peers that are not among these.
    fn keep(&mut self, peers: &[Wanted], second: Option<&(IpAddr, UdpSocket)>, metrics: &Metrics) {
        let (mets, end) = self.split(second);
        let (kept, gone): (Vec<Met>, Vec<Met>) = std::mem::take(mets)
            .into_iter()
            .partition(|met| peers.contains(&(met.address, met.second)));
        *mets = kept;
        for met in gone {
            end.farewell(met, metrics);
        }
    }

    /// Begins sessions with those of these peers that have none.
    fn meet(&mut self, peers: &[Wanted], metrics: &Metrics, now: Time) {
        let interval = Span::from(self.settings.interval.duration());
        for (address, second) in peers {
            if self.peers.iter().any(|met| met.address == *address) {
                continue;
            }
            let (first, other) = match (boot(), boot()) {
                (Ok(first), Ok(other)) => (first, other),
                // Without it the protocol's own time counts.
                (Err(error), _) | (_, Err(error)) => {
                    warn!(peer = %address, %error, "no liveness session: no random numbers");
                    continue;
                }
            };
            let peer = Peer::new(Session::new(interval, first, now));
            let peer = match second {
                Some(_) => peer.with_second(Session::new(interval, other, now)),
                None => peer,
            };
            for path in PATHS {
                if peer.state(path).is_some() {
                    let labels = PeerLabels::of(&self.interface, *address, path);
                    metrics.peer(&labels).set(0);
                }
            }
            self.peers.push(Met {
                address: *address,
                second: *second,
                peer,
            });
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

const fn number(state: PathState) -> i64 {
    match state {
        PathState::Never | PathState::Silent => 0,
        PathState::OneWay => 1,
        PathState::Alive => 2,
    }
}
