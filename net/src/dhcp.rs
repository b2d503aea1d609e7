//! Sockets of a DHCPv4 client on one NIC: a packet socket, which works before there is an address, and a UDP
//! socket for what goes to a server directly.

use crate::announce::ETHERTYPE_IPV4;
use crate::sys;
use krater_model::guest::dhcp::packet::{CLIENT_PORT, SERVER_PORT};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

/// Takes IPv4 packets to UDP port 68 and no others: without it every packet of the NIC would wake us.
const FILTER: [(u16, u8, u8, u32); 9] = [
    (0x30, 0, 0, 9),      // the protocol
    (0x15, 0, 6, 17),     // is UDP, else drop
    (0x28, 0, 0, 6),      // flags and offset
    (0x45, 4, 0, 0x3fff), // a fragment: drop
    (0xb1, 0, 0, 0),      // the header's length
    (0x48, 0, 0, 2),      // the destination port
    (0x15, 0, 1, 68),     // is the client's
    (0x06, 0, 0, 0xffff), // take it all
    (0x06, 0, 0, 0),      // drop it
];

/// See the module.
#[derive(Debug)]
pub struct DhcpSockets {
    packets: Socket,
    index: i32,
    name: String,
}

impl AsFd for DhcpSockets {
    /// Polls readable when a packet is there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.packets.as_fd()
    }
}

impl DhcpSockets {
    /// Sockets on link `index`, whose name is `name`, in the namespace of the calling thread.
    pub fn open(index: u32, name: &str) -> io::Result<Self> {
        let index = i32::try_from(index).map_err(io::Error::other)?;
        // Without a protocol nothing arrives before the filter is there.
        let packets = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        let filter = FILTER.map(|(code, yes, no, k)| SockFilter::new(code, yes, no, k));
        packets.attach_filter(&filter)?;
        packets.bind(&sys::link_address(index, ETHERTYPE_IPV4, None)?)?;
        packets.set_nonblocking(true)?;
        Ok(Self {
            packets,
            index,
            name: name.to_owned(),
        })
    }

    /// Sends an IPv4 packet to everybody on the link.
    pub fn broadcast(&self, packet: &[u8]) -> io::Result<()> {
        let everybody = sys::link_address(self.index, ETHERTYPE_IPV4, Some([0xff; 6]))?;
        self.packets.send_to(packet, &everybody).map(drop)
    }

    /// Sends a message from `own` to a server.
    pub fn unicast(&self, own: Ipv4Addr, server: Ipv4Addr, message: &[u8]) -> io::Result<()> {
        // Made anew each time, twice a lease: one that stayed open would collect the answers, which the packet
        // socket takes.
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.bind_device(Some(self.name.as_bytes()))?;
        socket.bind(&SockAddr::from(SocketAddrV4::new(own, CLIENT_PORT)))?;
        let to = SockAddr::from(SocketAddrV4::new(server, SERVER_PORT));
        socket.send_to(message, &to).map(drop)
    }

    /// The next packet that is there.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        use std::io::Read as _;
        match (&self.packets).read(buffer) {
            Ok(length) => Ok(buffer.get(..length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // The link went down: it comes up again or is gone, which others notice.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
