//! PING probes over unprivileged ICMP sockets (`net.ipv4.ping_group_range`). The kernel writes
//! identifier and checksum and passes on only answers to our identifier.

use super::Failure;
use crate::runtime::Shared;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, SocketAddr};
use tokio::net::UdpSocket;

/// Echo request without checksum and identifier, with a payload that is checked in the answer.
const PAYLOAD: &[u8; 8] = b"krater\0\0";

pub(super) async fn probe(address: IpAddr, shared: &Shared) -> Result<String, Failure> {
    let failed = |error: std::io::Error| match Failure::of(&error) {
        Failure::Own(why) => Failure::Own(format!("{why}: is net.ipv4.ping_group_range set?")),
        member => member,
    };
    let socket = open(address, shared).map_err(failed)?;
    let (request, reply) = match address {
        IpAddr::V4(_) => (8, 0),     // RFC 792
        IpAddr::V6(_) => (128, 129), // RFC 4443 section 4
    };
    let mut message = [request, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    message[8..].copy_from_slice(PAYLOAD);
    socket.send(&message).await.map_err(failed)?;
    let mut answer = [0; 64];
    loop {
        let n = socket.recv(&mut answer).await.map_err(failed)?;
        let answer = &answer[..n];
        if answer.first() == Some(&reply) && answer.get(6..16) == Some(&message[6..16]) {
            return Ok("echo reply received".into());
        }
    }
}

fn open(address: IpAddr, shared: &Shared) -> std::io::Result<UdpSocket> {
    let to = SocketAddr::new(address, 0);
    let protocol = match address {
        IpAddr::V4(_) => Protocol::ICMPV4,
        IpAddr::V6(_) => Protocol::ICMPV6,
    };
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = shared.source(SocketAddr::new(address, 1)) {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect(&to.into())?;
    // tokio's datagram socket does not care which protocol is inside.
    UdpSocket::from_std(socket.into())
}
