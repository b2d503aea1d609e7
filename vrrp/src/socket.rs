//! The raw sockets that carry adverts: IP protocol 112, bound to one interface and source address.

use crate::clock;
use krater_vrrp_proto::packet::{GROUP_V4, GROUP_V6, MAX_MESSAGE, PROTOCOL};
use krater_vrrp_proto::{Datagram, Time};
use nix::sys::socket::sockopt::{Ipv6RecvPacketInfo, RcvBufForce, ReceiveTimestampns, RxqOvfl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};
use std::cell::Cell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use tracing::debug;

/// DSCP CS6, network control.
const TOS: u32 = 0xc0;
/// TTL and hop limit of adverts (RFC 9568 section 5.1).
const HOPS: u32 = 255;
/// Packets read from one socket in one round. Timers are served between rounds whatever arrives; 255
/// routers of 2 peers send 510 in an interval.
pub(crate) const PACKETS_PER_ROUND: usize = 1_024;
/// Bytes that packets may wait in; a short one counts as 768, so that more than a round's 1,024 have room
/// (the kernel's usual 208 KB hold 277, fewer than 255 routers of 2 peers send at once).
const QUEUE: usize = 1024 * 1024;
/// The longest message and the longest IPv4 header; anything longer is cut and fails its length check.
const BUFFER: usize = MAX_MESSAGE + 60 + 1;

/// A socket for the adverts of all routers with this interface and source, and a second one in the
/// multicast group when they speak to it: one bound to an address of ours hears nothing of a group.
#[derive(Debug)]
pub(crate) struct AdvertSocket {
    socket: Queue,
    group: Option<Queue>,
    source: IpAddr,
    interface_index: u32,
}

/// A raw socket, and how many packets found its queue full.
#[derive(Debug)]
struct Queue {
    socket: Socket,
    /// The kernel's count, since the socket was made; it wraps.
    lost: Cell<u32>,
    /// Of those, not yet taken.
    new: Cell<u32>,
}

impl Queue {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            lost: Cell::new(0),
            new: Cell::new(0),
        }
    }

    fn lost(&self, count: u32) {
        let more = count.wrapping_sub(self.lost.replace(count));
        self.new.set(self.new.get().saturating_add(more));
    }
}

/// Where packets are read into; one for all sockets.
#[derive(Debug)]
pub(crate) struct ReceiveBuffer {
    bytes: Vec<u8>,
    control: Vec<u8>,
}

impl ReceiveBuffer {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; BUFFER],
            control: nix::cmsg_space!(
                nix::sys::time::TimeSpec,
                libc::in6_pktinfo,
                libc::c_int,
                u32
            ),
        }
    }
}

impl AdvertSocket {
    /// Opens one. The source address need not be there yet: sending fails until it is.
    pub(crate) fn open(
        interface: &str,
        index: u32,
        source: IpAddr,
        multicast: bool,
    ) -> io::Result<Self> {
        let mut this = Self {
            socket: Queue::new(raw_socket(interface, source)?),
            group: None,
            source,
            interface_index: index,
        };
        this.socket.socket.bind(&this.address(source))?;
        if multicast {
            let group = raw_socket(interface, source)?;
            match source {
                IpAddr::V4(_) => {
                    this.socket.socket.set_multicast_ttl_v4(HOPS)?;
                    this.socket.socket.set_multicast_loop_v4(false)?;
                    let by_index = InterfaceIndexOrAddress::Index(index);
                    group.join_multicast_v4_n(&GROUP_V4, &by_index)?;
                    group.bind(&SocketAddr::new(GROUP_V4.into(), 0).into())?;
                    // Whoever is in the group would also get what other sockets joined.
                    group.set_multicast_all_v4(false)?;
                }
                IpAddr::V6(_) => {
                    this.socket.socket.set_multicast_hops_v6(HOPS)?;
                    this.socket.socket.set_multicast_loop_v6(false)?;
                    this.socket.socket.set_multicast_if_v6(index)?;
                    group.join_multicast_v6(&GROUP_V6, index)?;
                    group.bind(&SocketAddrV6::new(GROUP_V6, 0, 0, index).into())?;
                }
            }
            this.group = Some(Queue::new(group));
        }
        Ok(this)
    }

    /// Sends a message to a peer. Never blocks.
    pub(crate) fn send(&self, to: IpAddr, message: &[u8]) -> io::Result<()> {
        let sent = self.socket.socket.send_to(message, &self.address(to));
        sent.map(drop)
    }

    /// The sockets to poll.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queues().map(|queue| queue.socket.as_fd())
    }

    /// How many packets found a full queue since the last time; known once a later one was read.
    pub(crate) fn take_lost(&self) -> u64 {
        self.queues().map(|queue| u64::from(queue.new.take())).sum()
    }

    fn queues(&self) -> impl Iterator<Item = &Queue> {
        std::iter::once(&self.socket).chain(&self.group)
    }

    /// The next received datagram; none when the queues are empty.
    pub(crate) fn receive<'a>(
        &self,
        buffer: &'a mut ReceiveBuffer,
    ) -> io::Result<Option<Datagram<'a>>> {
        let ReceiveBuffer { bytes, control } = buffer;
        // The group first: of a router that speaks to it, the other socket holds strays only.
        let first = match &self.group {
            Some(group) => self.take(group, bytes, control)?,
            None => None,
        };
        let taken = match first {
            None => self.take(&self.socket, bytes, control)?,
            first => first,
        };
        let Some((length, peer, meta)) = taken else {
            return Ok(None);
        };
        let bytes = bytes.get(..length).unwrap_or_default();
        let received = meta.received.unwrap_or_else(clock::now);
        Ok(Some(match self.source {
            IpAddr::V4(own) => ipv4(bytes, own, received),
            IpAddr::V6(own) => Datagram {
                source: peer.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
                destination: meta.destination.unwrap_or(own).into(),
                hop_limit: meta.hop_limit,
                received,
                message: bytes,
            },
        }))
    }

    /// Length, sender and ancillary data of the next datagram of one socket.
    fn take(
        &self,
        queue: &Queue,
        bytes: &mut [u8],
        control: &mut [u8],
    ) -> io::Result<Option<(usize, Option<IpAddr>, Meta)>> {
        let mut slices = [IoSliceMut::new(bytes)];
        let received = recvmsg::<SockaddrStorage>(
            queue.socket.as_raw_fd(),
            &mut slices,
            Some(control),
            MsgFlags::MSG_DONTWAIT,
        );
        let received = match received {
            Ok(received) => received,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut meta = Meta::default();
        for message in received.cmsgs()? {
            meta.add(message);
        }
        if let Some(count) = meta.lost {
            queue.lost(count);
        }
        let sender = received.address.and_then(ip_of);
        Ok(Some((received.bytes, sender, meta)))
    }

    fn address(&self, ip: IpAddr) -> SockAddr {
        let link_local = |v6: Ipv6Addr| v6.segments()[0] & 0xffc0 == 0xfe80;
        let address = match ip {
            IpAddr::V6(v6) if link_local(v6) => {
                SocketAddrV6::new(v6, 0, 0, self.interface_index).into()
            }
            _ => SocketAddr::new(ip, 0),
        };
        address.into()
    }
}

/// A raw socket on one interface, unbound, with what adverts need on the way out and in.
fn raw_socket(interface: &str, source: IpAddr) -> io::Result<Socket> {
    let domain = if source.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(PROTOCOL))))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    setsockopt(&socket, RxqOvfl, &1)?;
    // Not worth failing for.
    if let Err(error) = setsockopt(&socket, RcvBufForce, &QUEUE) {
        debug!(%error, "a short queue for adverts");
    }
    match source {
        IpAddr::V4(_) => {
            socket.set_freebind_v4(true)?;
            socket.set_ttl_v4(HOPS)?;
            socket.set_tos_v4(TOS)?;
        }
        IpAddr::V6(_) => {
            socket.set_freebind_v6(true)?;
            socket.set_unicast_hops_v6(HOPS)?;
            socket.set_tclass_v6(TOS)?;
            socket.set_recv_hoplimit_v6(true)?;
            setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
        }
    }
    Ok(socket)
}

#[derive(Debug, Default)]
struct Meta {
    received: Option<Time>,
    hop_limit: u8,
    destination: Option<Ipv6Addr>,
    lost: Option<u32>,
}

impl Meta {
    fn add(&mut self, message: ControlMessageOwned) {
        match message {
            ControlMessageOwned::ScmTimestampns(stamp) => {
                self.received = Some(clock::from_realtime(stamp));
            }
            ControlMessageOwned::Ipv6HopLimit(hops) => {
                self.hop_limit = u8::try_from(hops).unwrap_or_default();
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                self.destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
            }
            ControlMessageOwned::RxqOvfl(count) => self.lost = Some(count),
            _ => {}
        }
    }
}

/// Reads the IPv4 header that a raw socket delivers. A header that is not whole gives an empty
/// message, which the ladder counts as short.
fn ipv4(bytes: &[u8], own: Ipv4Addr, received: Time) -> Datagram<'_> {
    let header = bytes.first_chunk::<20>().copied().unwrap_or_default();
    let [version_length, .., s0, s1, s2, s3, d0, d1, d2, d3] = header;
    let header_length = usize::from(version_length & 0x0f) * 4;
    // The total length leaves out padding of short frames.
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let source = Ipv4Addr::new(s0, s1, s2, s3);
    let destination = Ipv4Addr::new(d0, d1, d2, d3);
    Datagram {
        source: source.into(),
        destination: if destination.is_unspecified() {
            own.into()
        } else {
            destination.into()
        },
        hop_limit: header[8],
        received,
        message: bytes.get(header_length.max(20)..total).unwrap_or_default(),
    }
}

fn ip_of(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapping_count_of_losses() {
        let queue = Queue::new(Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap());
        queue.lost(5);
        queue.lost(7);
        assert_eq!(queue.new.take(), 7);
        queue.lost(7);
        assert_eq!(queue.new.take(), 0);
        queue.lost(u32::MAX);
        queue.new.set(0);
        queue.lost(2);
        assert_eq!(queue.new.take(), 3);
    }

    #[test]
    fn ipv4_headers_with_options_padding_and_truncation() {
        let own = Ipv4Addr::new(10, 0, 0, 2);
        let header = |words: u8, total: u8| {
            let mut bytes = vec![0x40 | words, 0xc0, 0, total, 0, 0, 0, 0, 255, 112, 0, 0];
            bytes.extend_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            bytes.resize(usize::from(words) * 4, 0);
            bytes
        };
        for words in [5, 6, 15] {
            let mut bytes = header(words, words * 4 + 3);
            bytes.extend_from_slice(&[1, 2, 3, 0, 0]);
            let datagram = ipv4(&bytes, own, Time::default());
            assert_eq!(datagram.message, [1, 2, 3]);
            assert_eq!(datagram.hop_limit, 255);
            assert_eq!(datagram.source, Ipv4Addr::new(10, 0, 0, 1));
        }
        let whole = header(5, 20);
        for length in 0..whole.len() {
            let message = ipv4(&whole[..length], own, Time::default()).message;
            assert!(message.is_empty());
        }
        // A total length beyond what arrived.
        assert!(
            ipv4(&header(5, 200), own, Time::default())
                .message
                .is_empty()
        );
        // A header length below the least.
        assert!(
            ipv4(&header(5, 20), own, Time::default())
                .message
                .is_empty()
        );
    }
}
