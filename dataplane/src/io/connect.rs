//! Connecting to members.

use super::{Conn, is_own};
use arc_swap::ArcSwap;
use krater_dataplane_core::shortage::Own;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A connect that did not succeed. Nothing was sent, so another member may be tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No answer in time.
    #[error("no answer from {address} in {after:?}")]
    Timeout {
        /// Where to.
        address: SocketAddr,
        /// The limit.
        after: Duration,
    },
    /// We lack what a connection needs: says nothing about the member. Others would fare the same, unless it
    /// [is counted for each](Own::is_per_member).
    #[error("cannot connect to {address}: {}", own.reason())]
    Own {
        /// Where to.
        address: SocketAddr,
        /// What is lacking.
        own: Own,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Refused, unreachable.
    #[error("cannot connect to {address}")]
    Io {
        /// Where to.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ConnectError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match is_own(&source) {
            Some(own) if !lacks_route(own, address) => Self::Own {
                address,
                own,
                source,
            },
            _ => Self::Io { address, source },
        }
    }
}

/// Whether it is no port that is lacking but an address of ours: without one in IPv6 the kernel says
/// the same, and then this one destination is out of reach.
fn lacks_route(own: Own, to: SocketAddr) -> bool {
    let no_address = |error: io::Error| is_own(&error) == Some(Own::Ports);
    own == Own::Ports && to.is_ipv6() && kernels_choice(to).is_err_and(no_address)
}

/// Connects to `address` within `timeout` (zero: the kernel's patience), with TCP_NODELAY.
pub async fn connect(
    address: SocketAddr,
    timeout: Duration,
    source: Option<IpAddr>,
) -> Result<Conn, ConnectError> {
    let failed = |source| ConnectError::new(address, source);
    let tcp = open(address, timeout, source).await?;
    tcp.set_nodelay(true).map_err(failed)?;
    let local = tcp.local_addr().map_err(failed)?;
    Ok(Conn::member(tcp, address, local))
}

async fn open(
    address: SocketAddr,
    timeout: Duration,
    source: Option<IpAddr>,
) -> Result<TcpStream, ConnectError> {
    let failed = |source| ConnectError::new(address, source);
    let connecting = begin(address, source);
    if timeout.is_zero() {
        return connecting.await.map_err(failed);
    }
    match tokio::time::timeout(timeout, connecting).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(ConnectError::Timeout {
            address,
            after: timeout,
        }),
    }
}

/// Source addresses for destinations for which the kernel would choose a VIP.
#[derive(Debug, Default)]
pub(crate) struct Sources(ArcSwap<HashMap<IpAddr, IpAddr>>);

impl Sources {
    /// Destinations remembered: as many members as a large amphora has. Beyond it all is learned anew.
    const BOUND: usize = 10_000;

    pub(crate) fn of(&self, destination: IpAddr) -> Option<IpAddr> {
        self.0.load().get(&destination).copied()
    }

    pub(crate) fn remember(&self, destination: IpAddr, source: IpAddr) {
        self.0.rcu(|known| {
            let mut known = HashMap::clone(known);
            if known.len() >= Self::BOUND {
                known.clear();
            }
            known.insert(destination, source);
            known
        });
    }

    /// Addresses of ours may have changed with the configuration.
    pub(crate) fn forget(&self) {
        if !self.0.load().is_empty() {
            self.0.store(Arc::default());
        }
    }
}

/// tokio's own way asks each socket for its error; here the kernel's report is enough, which has none as a rule.
async fn begin(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = socket(address, source)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    let ready = stream.ready(Interest::WRITABLE | Interest::ERROR).await?;
    if (ready.is_error() || ready.is_write_closed())
        && let Some(error) = socket2::SockRef::from(&stream).take_error()?
    {
        return Err(error);
    }
    Ok(stream)
}

fn socket(address: SocketAddr, from: Option<IpAddr>) -> io::Result<Socket> {
    // Both flags with the one call.
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if let Some(from) = from {
        // The port is chosen at connect, when the destination is known: many more are usable.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        match socket.bind(&SocketAddr::new(from, 0).into()) {
            // The address went away since it was remembered: the kernel knows better.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            other => other?,
        }
    }
    Ok(socket)
}

/// The source address to bind, when the kernel's own choice would be one of `vips`: answers to a VIP
/// go to the other amphora after a takeover.
pub(crate) fn source(to: SocketAddr, vips: &HashSet<IpAddr>) -> Option<IpAddr> {
    let of_family = |vip: &&IpAddr| vip.is_ipv4() == to.is_ipv4() && !vip.is_loopback();
    if !vips.iter().any(|vip| of_family(&vip)) {
        return None;
    }
    let chosen = kernels_choice(to).ok()?;
    if chosen.is_loopback() || !vips.contains(&chosen) {
        return None;
    }
    substitute(chosen, vips)
}

/// Asks the kernel by connecting a UDP socket: a routing decision without a packet.
fn kernels_choice(to: SocketAddr) -> io::Result<IpAddr> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    socket.connect(&to.into())?;
    let local = socket.local_addr()?.as_socket();
    local
        .map(|local| local.ip())
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Another address of the interface that has the VIP.
fn substitute(vip: IpAddr, vips: &HashSet<IpAddr>) -> Option<IpAddr> {
    let addresses: Vec<(String, IpAddr)> = getifaddrs()
        .ok()?
        .filter_map(|entry| {
            let storage = entry.address?;
            let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            let v6 = storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
            Some((entry.interface_name, v4.or(v6)?))
        })
        .collect();
    let interface = &addresses.iter().find(|(_, address)| *address == vip)?.0;
    let usable = |address: &IpAddr| {
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        address.is_ipv4() == vip.is_ipv4() && !link_local && !vips.contains(address)
    };
    let own = addresses.iter().filter(|(name, _)| name == interface);
    own.map(|(_, address)| *address).find(usable)
}
