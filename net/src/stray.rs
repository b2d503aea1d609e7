//! Packets to addresses that this host does not have (now), which neighbours send to its link-layer address all the same.
//!
//! A socket of one family on one interface, with a filter in the kernel: only packets to these addresses, in frames to
//! this host alone, are copied to it. Bridges flood frames to others too; those prove nothing and do not pass.

use crate::announce::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::sys;
use socket2::{Domain, SockFilter, Socket, Type};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

/// What the kernel makes of a filter counts against `net.core.optmem_max`, 20 KiB where nobody changed it: some 32 bytes for an
/// address of IPv4, and 112 for one of IPv6.
const MOST_V4: usize = 500;
const MOST_V6: usize = 150;
/// As many bytes as a header that says where a packet goes.
const HEADER: usize = 40;
/// The kernel's least queue, which holds a few: one is enough to know.
const QUEUE: usize = 2_304;

/// A family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The socket.
#[derive(Debug)]
pub struct StrayWatch {
    socket: Socket,
    family: Family,
}

impl StrayWatch {
    /// On link `index` of the namespace of the calling thread, for these addresses; those of the other family are left
    /// out, and so is what is beyond a filter's length. Needs CAP_NET_RAW.
    pub fn open(index: u32, family: Family, addresses: &[IpAddr]) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(QUEUE)?;
        let this = Self { socket, family };
        // Before it receives anything.
        this.watch(addresses)?;
        let index = i32::try_from(index).map_err(io::Error::other)?;
        let ethertype = match family {
            Family::V4 => ETHERTYPE_IPV4,
            Family::V6 => ETHERTYPE_IPV6,
        };
        this.socket
            .bind(&sys::link_address(index, ethertype, None)?)?;
        Ok(this)
    }

    /// Whose packets it looks at.
    pub fn family(&self) -> Family {
        self.family
    }

    /// For these addresses from now on.
    pub fn watch(&self, addresses: &[IpAddr]) -> io::Result<()> {
        self.socket.attach_filter(&filter(self.family, addresses))
    }

    /// To which address the next one went; none when there is none.
    pub fn take(&mut self) -> Option<IpAddr> {
        let mut header = [0; HEADER];
        let length = self.socket.read(&mut header).ok()?;
        destination(self.family, header.get(..length)?)
    }
}

impl AsFd for StrayWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn destination(family: Family, header: &[u8]) -> Option<IpAddr> {
    match family {
        Family::V4 => {
            let octets: [u8; 4] = header.get(16..20)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        }
        Family::V6 => {
            let octets: [u8; 16] = header.get(24..40)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
    }
}

/// Classic BPF (linux/filter.h): the kind of the frame, then the destination word by word.
fn filter(family: Family, addresses: &[IpAddr]) -> Vec<SockFilter> {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const KEEP: u16 = 0x02; // BPF_ST
    const KEPT: u16 = 0x60; // BPF_LD | BPF_MEM
    const KIND: u32 = 0xffff_f000 + 4; // SKF_AD_OFF + SKF_AD_PKTTYPE
    const TO_US: u32 = 0; // PACKET_HOST
    let keep = u32::try_from(HEADER).unwrap_or(u32::MAX);
    let take = || SockFilter::new(RETURN, 0, 0, keep);
    let mut program = vec![
        SockFilter::new(LOAD, 0, 0, KIND),
        SockFilter::new(EQUAL, 1, 0, TO_US),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
    match family {
        Family::V4 => {
            program.push(SockFilter::new(LOAD, 0, 0, 16));
            let ours = addresses.iter().filter_map(|address| match address {
                IpAddr::V4(v4) => Some(v4.to_bits()),
                IpAddr::V6(_) => None,
            });
            for address in ours.take(MOST_V4) {
                program.extend([SockFilter::new(EQUAL, 0, 1, address), take()]);
            }
        }
        Family::V6 => {
            let ours = addresses.iter().filter_map(|address| match address {
                IpAddr::V6(v6) => Some(v6.octets()),
                IpAddr::V4(_) => None,
            });
            for (place, offset) in [24, 28, 32, 36].into_iter().enumerate() {
                program.extend([
                    SockFilter::new(LOAD, 0, 0, offset),
                    SockFilter::new(KEEP, 0, 0, u32::try_from(place).unwrap_or(0)),
                ]);
            }
            for address in ours.take(MOST_V6) {
                let (words, _) = address.as_chunks();
                for ((word, place), rest) in words.iter().zip(0..).zip([7, 5, 3, 1]) {
                    let word = u32::from_be_bytes(*word);
                    program.extend([
                        SockFilter::new(KEPT, 0, 0, place),
                        SockFilter::new(EQUAL, 0, rest, word),
                    ]);
                }
                program.push(take());
            }
        }
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_never_too_long_for_the_kernel() {
        let v4: Vec<IpAddr> = (0..5_000_u32).map(|n| Ipv4Addr::from(n).into()).collect();
        let v6: Vec<IpAddr> = (0..5_000_u128).map(|n| Ipv6Addr::from(n).into()).collect();
        for (family, of) in [(Family::V4, &v4), (Family::V6, &v6)] {
            assert!((1_000..=4_096).contains(&filter(family, of).len()));
            // The kernel agrees, and verifies every jump.
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.attach_filter(&filter(family, of)).unwrap();
            socket.attach_filter(&filter(family, &[])).unwrap();
        }
    }

    #[test]
    fn destinations_are_where_the_headers_have_them() {
        let mut header = [0; HEADER];
        header[16..20].copy_from_slice(&[192, 0, 2, 7]);
        let v4 = destination(Family::V4, &header).unwrap();
        assert_eq!(v4.to_string(), "192.0.2.7");
        header[24..40].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
        let v6 = destination(Family::V6, &header).unwrap();
        assert_eq!(v6.to_string(), "::1");
        assert_eq!(destination(Family::V4, &header[..19]), None);
        assert_eq!(destination(Family::V6, &header[..39]), None);
    }
}
