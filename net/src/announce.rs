//! Gratuitous ARP and unsolicited neighbour advertisements: the frames (pure), and who sends them.

use crate::netns::NetNs;
use crate::sys;
use krater_model::net::MacAddr;
use krater_model::wire::checksum::{fold, sum};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERNET: usize = 14;
/// Smallest Ethernet frame without its checksum; shorter ones are padded by us, not by chance.
const MIN_FRAME: usize = 60;
/// ff02::1
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The MAC address of ff02::1 (RFC 2464 section 7).
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// The frame that tells a segment that `address` is now at `mac`.
pub fn frame(mac: MacAddr, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => gratuitous_arp(mac, v4).to_vec(),
        IpAddr::V6(v6) => unsolicited_na(mac, v6, false).to_vec(),
    }
}

/// A gratuitous ARP in request form (RFC 5944 section 4.6, as keepalived sends it): sender and target
/// are `address`, the target's hardware address is all ones, to everybody.
pub fn gratuitous_arp(mac: MacAddr, address: Ipv4Addr) -> [u8; MIN_FRAME] {
    let mut frame = [0; MIN_FRAME];
    ethernet(&mut frame, MacAddr::BROADCAST, mac, ETHERTYPE_ARP);
    frame[14..16].copy_from_slice(&1_u16.to_be_bytes()); // hardware: Ethernet
    frame[16..18].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes()); // the protocol
    frame[18] = 6;
    frame[19] = 4;
    frame[20..22].copy_from_slice(&1_u16.to_be_bytes()); // request
    frame[22..28].copy_from_slice(&mac.0);
    frame[28..32].copy_from_slice(&address.octets());
    frame[32..38].copy_from_slice(&MacAddr::BROADCAST.0);
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

/// An unsolicited neighbour advertisement (RFC 4861 sections 4.4 and 7.2.6) for `address`, to all
/// nodes, with Override and the target link-layer address. `router` says whether this host forwards.
pub fn unsolicited_na(mac: MacAddr, address: Ipv6Addr, router: bool) -> [u8; 86] {
    let mut frame = [0; 86];
    ethernet(&mut frame, ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    let (ip, icmp) = frame[ETHERNET..].split_at_mut(40);
    icmp[0] = 136; // neighbour advertisement
    icmp[4] = 0x20 | if router { 0x80 } else { 0 };
    icmp[8..24].copy_from_slice(&address.octets());
    icmp[24] = 2; // target link-layer address
    icmp[25] = 1; // in units of 8 bytes
    icmp[26..32].copy_from_slice(&mac.0);
    let checksum = icmpv6_checksum(address, ALL_NODES, icmp);
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());

    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&32_u16.to_be_bytes()); // payload length
    ip[6] = 58; // ICMPv6
    ip[7] = 255; // or receivers must drop it (RFC 4861 section 7.1.2)
    ip[8..24].copy_from_slice(&address.octets());
    ip[24..40].copy_from_slice(&ALL_NODES.octets());
    frame
}

fn ethernet(frame: &mut [u8], to: MacAddr, from: MacAddr, ethertype: u16) {
    frame[0..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&from.0);
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
}

/// RFC 4443 section 2.3: over the pseudo-header of RFC 8200 section 8.1 and the message, whose
/// checksum field is zero.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u64::try_from(message.len()).unwrap_or(u64::MAX);
    let addresses = sum(&destination.octets(), sum(&source.octets(), 58 + length));
    !fold(sum(message, addresses))
}

/// Sends frames on one interface. Never blocks: a full queue is an error to count, not to wait for.
#[derive(Debug)]
pub struct Announcer {
    socket: Socket,
}

impl Announcer {
    /// A sender on link `index` of the namespace of the calling thread. Needs CAP_NET_RAW.
    pub fn open(index: u32) -> io::Result<Self> {
        // Protocol 0: it receives nothing, so that nothing piles up.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        let index = i32::try_from(index).map_err(io::Error::other)?;
        socket.bind(&sys::link_address(index, 0, None)?)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// A sender on link `index` of `netns`.
    pub fn open_in(netns: &NetNs, index: u32) -> io::Result<Self> {
        netns.run(|| Self::open(index))?
    }

    /// Sends one whole Ethernet frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }

    /// Announces that `address` is at `mac`, once.
    pub fn announce(&self, mac: MacAddr, address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(v4) => self.send(&gratuitous_arp(mac, v4)),
            IpAddr::V6(v6) => self.send(&unsolicited_na(mac, v6, false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pnet_packet::Packet;
    use pnet_packet::arp::{ArpOperations, ArpPacket};
    use pnet_packet::ethernet::EthernetPacket;
    use pnet_packet::icmpv6::ndp::NeighborAdvertPacket;
    use pnet_packet::icmpv6::{Icmpv6Packet, checksum};
    use pnet_packet::ipv6::Ipv6Packet;

    const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 1, 2, 3]);

    #[test]
    fn arp_reads_as_a_gratuitous_request() {
        let vip = Ipv4Addr::new(203, 0, 113, 7);
        let bytes = gratuitous_arp(MAC, vip);
        let ethernet = EthernetPacket::new(&bytes).unwrap();
        assert!(ethernet.get_destination().is_broadcast());
        assert_eq!(ethernet.get_source().octets(), MAC.0);
        let arp = ArpPacket::new(ethernet.payload()).unwrap();
        assert_eq!(arp.get_operation(), ArpOperations::Request);
        assert_eq!(
            (arp.get_sender_proto_addr(), arp.get_target_proto_addr()),
            (vip, vip)
        );
        assert_eq!(arp.get_sender_hw_addr().octets(), MAC.0);
        assert!(arp.get_target_hw_addr().is_broadcast());
    }

    #[test]
    fn advertisement_reads_right_and_its_checksum_is_that_of_another_implementation() {
        let vip: Ipv6Addr = "2001:db8:1::7".parse().unwrap();
        for router in [false, true] {
            let bytes = unsolicited_na(MAC, vip, router);
            let ethernet = EthernetPacket::new(&bytes).unwrap();
            let ip = Ipv6Packet::new(ethernet.payload()).unwrap();
            assert_eq!((ip.get_hop_limit(), ip.get_source()), (255, vip));
            assert_eq!(usize::from(ip.get_payload_length()), ip.payload().len());
            let icmp = Icmpv6Packet::new(ip.payload()).unwrap();
            let expected = checksum(&icmp, &vip, &ip.get_destination());
            assert_eq!(icmp.get_checksum(), expected);
            let na = NeighborAdvertPacket::new(ip.payload()).unwrap();
            assert_eq!(na.get_target_addr(), vip);
            assert_eq!(na.get_flags(), if router { 0xa0 } else { 0x20 });
        }
    }

    proptest::proptest! {
        #[test]
        fn every_checksum_is_that_of_another_implementation(
            mac: [u8; 6],
            address: [u8; 16],
            router: bool,
        ) {
            let address = Ipv6Addr::from(address);
            let bytes = unsolicited_na(MacAddr(mac), address, router);
            let ip = Ipv6Packet::new(&bytes[ETHERNET..]).unwrap();
            let icmp = Icmpv6Packet::new(ip.payload()).unwrap();
            let expected = checksum(&icmp, &address, &ip.get_destination());
            proptest::prop_assert_eq!(icmp.get_checksum(), expected);
        }
    }
}
