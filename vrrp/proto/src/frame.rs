//! Whole Ethernet frames for adverts to the group, which the kernel would send with the interface's own address.

use crate::packet::{GROUP_V4, GROUP_V6, PROTOCOL};
use krater_model::wire::checksum::{fold, sum};
use krater_model::{MacAddr, Vrid};
use std::net::IpAddr;

/// DSCP CS6, network control, as the kernel is told for other adverts.
const CLASS: u8 = 0xc0;
/// RFC 9568 sections 5.1.1.3 and 5.1.2.3.
const HOPS: u8 = 255;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Of 224.0.0.18 (RFC 1112 section 6.4) and ff02::12 (RFC 2464 section 7).
const GROUP_MAC_V4: [u8; 6] = [0x01, 0x00, 0x5e, 0, 0, 0x12];
const GROUP_MAC_V6: [u8; 6] = [0x33, 0x33, 0, 0, 0, 0x12];

/// The address of a virtual router (RFC 9568 section 7.3).
pub fn virtual_mac(vrid: Vrid, v4: bool) -> MacAddr {
    MacAddr([0, 0, 0x5e, 0, if v4 { 1 } else { 2 }, vrid.value()])
}

/// A message to the group of the source's family, from its virtual address.
pub fn to_group(vrid: Vrid, source: IpAddr, message: &[u8], frame: &mut Vec<u8>) {
    frame.clear();
    let mac = virtual_mac(vrid, source.is_ipv4());
    // A message has at most 255 addresses of 16 bytes.
    let length = |header: usize| {
        let length = u16::try_from(header + message.len()).unwrap_or(u16::MAX);
        length.to_be_bytes()
    };
    match source {
        IpAddr::V4(source) => {
            frame.extend(GROUP_MAC_V4.iter().chain(&mac.0).chain(&ETHERTYPE_IPV4));
            let [high, low] = length(20);
            // Version and length, class, total length, no identifier, Don't Fragment, TTL, protocol, checksum.
            frame.extend([0x45, CLASS, high, low, 0, 0, 0x40, 0, HOPS, PROTOCOL, 0, 0]);
            frame.extend(source.octets());
            frame.extend(GROUP_V4.octets());
            // RFC 791 section 3.1.
            let checksum = !fold(sum(frame.get(ETHERNET..).unwrap_or_default(), 0));
            let place = frame.iter_mut().skip(ETHERNET + 10);
            for (to, from) in place.zip(checksum.to_be_bytes()) {
                *to = from;
            }
        }
        IpAddr::V6(source) => {
            frame.extend(GROUP_MAC_V6.iter().chain(&mac.0).chain(&ETHERTYPE_IPV6));
            let [high, low] = length(0);
            frame.extend([
                0x60 | CLASS >> 4,
                CLASS << 4,
                0,
                0,
                high,
                low,
                PROTOCOL,
                HOPS,
            ]);
            frame.extend(source.octets());
            frame.extend(GROUP_V6.octets());
        }
    }
    frame.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn frames_byte_for_byte() {
        let vrid = Vrid::new(51).unwrap();
        let mut frame = Vec::new();
        let message = [0x31, 0x33, 0x64, 0x01];
        to_group(vrid, "10.99.0.11".parse().unwrap(), &message, &mut frame);
        assert_eq!(
            hex(&frame),
            "01005e00001200005e000133080045c0001800004000ff7090350a63000be000001231336401"
        );
        to_group(vrid, "fe80::1".parse().unwrap(), &message, &mut frame);
        assert_eq!(
            hex(&frame),
            "33330000001200005e00023386dd6c000000000470fffe800000000000000000000000000001ff02000000000000000000000000001231336401"
        );
    }

    #[test]
    fn a_header_with_its_checksum_sums_to_nothing() {
        let mut frame = Vec::new();
        for last in 0..=255_u8 {
            let source = std::net::Ipv4Addr::new(192, 0, 2, last);
            let message = vec![0; usize::from(last) * 4];
            to_group(Vrid::new(1).unwrap(), source.into(), &message, &mut frame);
            assert_eq!(!fold(sum(&frame[14..34], 0)), 0, "{last}");
            assert_eq!(frame.len(), 34 + message.len());
        }
    }
}
