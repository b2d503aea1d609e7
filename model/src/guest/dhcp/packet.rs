//! DHCP messages in IPv4 packets: those that a client sends, and those that it takes.

use super::{Lease, MAX_ROUTES, Route};
use crate::MacAddr;
use crate::wire::checksum::{fold, sum};
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Port of clients.
pub const CLIENT_PORT: u16 = 68;
/// Port of servers.
pub const SERVER_PORT: u16 = 67;

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
/// Fields of the message (RFC 2131, figure 1).
const FIXED: usize = 236;
const MAGIC: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
/// The shortest message that BOOTP relays take (RFC 1542, 2.1).
const SHORTEST: usize = 300;
/// Longest message that we say we take (option 57): what fits an Ethernet frame.
const LONGEST: u16 = 1_472;
/// Leases shorter than this would be renewed all the time; they are taken as if they had this.
const SHORTEST_LEASE: u64 = 20;
/// The least MTU that a host must be able to take (RFC 2132, 5.1: minimum 68, but IPv4 demands 576 of hosts).
const MIN_MTU: u16 = 576;

const OPTION_MASK: u8 = 1;
const OPTION_ROUTER: u8 = 3;
const OPTION_HOST_NAME: u8 = 12;
const OPTION_MTU: u8 = 26;
const OPTION_ADDRESS: u8 = 50;
const OPTION_LEASE: u8 = 51;
const OPTION_OVERLOAD: u8 = 52;
const OPTION_KIND: u8 = 53;
const OPTION_SERVER: u8 = 54;
const OPTION_WANTED: u8 = 55;
const OPTION_LONGEST: u8 = 57;
const OPTION_RENEW: u8 = 58;
const OPTION_REBIND: u8 = 59;
const OPTION_CLIENT: u8 = 61;
const OPTION_ROUTES: u8 = 121;
const PAD: u8 = 0;
const END: u8 = 255;

/// What a client asks for (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Who has an address?
    Discover,
    /// I take the offered one.
    Request {
        /// What was offered.
        address: Ipv4Addr,
        /// By whom.
        server: Ipv4Addr,
    },
    /// I have it and want to keep it (renewing and rebinding).
    Extend(Ipv4Addr),
    /// I do not need it any more.
    Release {
        /// What was granted.
        address: Ipv4Addr,
        /// By whom.
        server: Ipv4Addr,
    },
}

/// A message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query<'a> {
    /// What it wants.
    pub ask: Ask,
    /// Its number, which the answer repeats.
    pub xid: u32,
    /// Seconds since the client began.
    pub seconds: u16,
    /// Address of the NIC.
    pub mac: MacAddr,
    /// Name of the host, for the server's list.
    pub host_name: Option<&'a str>,
}

impl Query<'_> {
    /// The message alone: what a UDP socket sends.
    pub fn message(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SHORTEST);
        out.extend([1, 1, 6, 0]); // BOOTREQUEST, Ethernet, six bytes of address, no hops
        out.extend(self.xid.to_be_bytes());
        out.extend(self.seconds.to_be_bytes());
        // No broadcast flag: the answer comes as unicast to our MAC address, which a packet socket takes.
        out.extend([0, 0]);
        out.extend(self.own().octets());
        out.extend([0; 12]); // yiaddr, siaddr, giaddr
        out.extend(self.mac.0);
        out.resize(FIXED, 0); // the rest of chaddr, sname, file
        out.extend(MAGIC);
        let kind = match self.ask {
            Ask::Discover => 1,
            Ask::Request { .. } | Ask::Extend(_) => 3,
            Ask::Release { .. } => 7,
        };
        out.extend([OPTION_KIND, 1, kind]);
        // RFC 2132, 9.14: hardware type and address.
        out.extend([OPTION_CLIENT, 7, 1]);
        out.extend(self.mac.0);
        if let Ask::Request { address, .. } = self.ask {
            out.extend([OPTION_ADDRESS, 4]);
            out.extend(address.octets());
        }
        if let Ask::Request { server, .. } | Ask::Release { server, .. } = self.ask {
            out.extend([OPTION_SERVER, 4]);
            out.extend(server.octets());
        }
        if !matches!(self.ask, Ask::Release { .. }) {
            out.extend([OPTION_LONGEST, 2]);
            out.extend(LONGEST.to_be_bytes());
            let wanted = [
                OPTION_MASK,
                OPTION_ROUTES,
                OPTION_ROUTER,
                OPTION_MTU,
                OPTION_LEASE,
                OPTION_RENEW,
                OPTION_REBIND,
            ];
            out.extend([OPTION_WANTED, 7]);
            out.extend(wanted);
            let name = self.host_name.unwrap_or_default().as_bytes();
            if let Ok(length @ 1..=64) = u8::try_from(name.len()) {
                out.extend([OPTION_HOST_NAME, length]);
                out.extend(name);
            }
        }
        out.push(END);
        if out.len() < SHORTEST {
            out.resize(SHORTEST, PAD);
        }
        out
    }

    /// The message in an IPv4 packet to everybody; from nobody as long as there is no address.
    pub fn packet(&self) -> Vec<u8> {
        in_packet(
            &self.message(),
            (self.own(), CLIENT_PORT),
            (Ipv4Addr::BROADCAST, SERVER_PORT),
        )
    }

    /// The address that the client has.
    const fn own(&self) -> Ipv4Addr {
        match self.ask {
            Ask::Extend(address) | Ask::Release { address, .. } => address,
            Ask::Discover | Ask::Request { .. } => Ipv4Addr::UNSPECIFIED,
        }
    }
}

/// A UDP datagram in an IPv4 packet.
pub(super) fn in_packet(data: &[u8], from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    let udp_length = u16::try_from(UDP_HEADER + data.len()).unwrap_or(u16::MAX);
    let length = udp_length.saturating_add(20);
    let mut udp = Vec::with_capacity(usize::from(udp_length));
    udp.extend(from.1.to_be_bytes());
    udp.extend(to.1.to_be_bytes());
    udp.extend(udp_length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(data);
    let mut pseudo = Vec::with_capacity(12);
    pseudo.extend(from.0.octets());
    pseudo.extend(to.0.octets());
    pseudo.extend([0, UDP]);
    pseudo.extend(udp_length.to_be_bytes());
    // RFC 768: a sum of zero is sent as ones, for zero means none.
    let checksum = match !fold(sum(&udp, sum(&pseudo, 0))) {
        0 => u16::MAX,
        checksum => checksum,
    };
    if let Some(place) = udp.get_mut(6..8) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
    let mut out = Vec::with_capacity(usize::from(length));
    out.extend([0x45, 0x10]); // version 4, no options, low delay
    out.extend(length.to_be_bytes());
    out.extend([0, 0, 0, 0, 64, UDP, 0, 0]); // no fragment, time to live, sum
    out.extend(from.0.octets());
    out.extend(to.0.octets());
    let checksum = !fold(sum(&out, 0));
    if let Some(place) = out.get_mut(10..12) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
    out.extend(udp);
    out
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// You could have this.
    Offer {
        /// The address.
        address: Ipv4Addr,
        /// Who offers it.
        server: Ipv4Addr,
    },
    /// You have this.
    Ack(Lease),
    /// You must not have what you asked for.
    Nak,
}

/// Why a packet is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// Another protocol, port, client or exchange: nothing is wrong with it.
    #[error("it is not for this client")]
    NotOurs,
    /// It is broken.
    #[error("{0}")]
    Broken(&'static str),
}

use NotTaken::{Broken, NotOurs};

/// Reads an IPv4 packet that may be the answer to exchange `xid` of the NIC `mac`.
///
/// The UDP checksum is not looked at: a server on the same host leaves it to hardware that does not exist
/// (the well-known trouble with virtio and raw sockets), and the frame has its own.
pub fn read(packet: &[u8], mac: MacAddr, xid: u32) -> Result<Reply, NotTaken> {
    let message = udp_payload(packet)?;
    let field =
        |at: usize, length: usize| message.get(at..at + length).ok_or(Broken("it is short"));
    if field(0, 3)? != [2, 1, 6] || field(4, 4)? != xid.to_be_bytes() || field(28, 6)? != mac.0 {
        return Err(NotOurs);
    }
    let address = ipv4(field(16, 4)?)?;
    if field(FIXED, 4)? != MAGIC {
        return Err(Broken("it is BOOTP without DHCP"));
    }
    let options = options(message)?;
    let server = || {
        let server = options.get(&OPTION_SERVER);
        ipv4(server.ok_or(Broken("no server identifier (option 54)"))?)
    };
    let kind = options.get(&OPTION_KIND).map(Vec::as_slice);
    match kind {
        Some([2]) => {
            let server = server()?;
            if !usable(address) {
                return Err(Broken("the offered address is none of a host"));
            }
            Ok(Reply::Offer { address, server })
        }
        Some([5]) => lease(address, server()?, &options).map(Reply::Ack),
        Some([6]) => Ok(Reply::Nak),
        Some(_) => Err(NotOurs),
        None => Err(Broken("no message type (option 53)")),
    }
}

fn udp_payload(packet: &[u8]) -> Result<&[u8], NotTaken> {
    let first = packet.first().copied().ok_or(NotOurs)?;
    let header = usize::from(first & 0xf) * 4;
    let total = packet.get(2..4).and_then(number16).ok_or(NotOurs)?;
    let fragment = packet.get(6..8).and_then(number16).ok_or(NotOurs)?;
    let protocol = packet.get(9).copied().ok_or(NotOurs)?;
    if first >> 4 != 4 || header < IP_HEADER || protocol != UDP || fragment & 0x3fff != 0 {
        return Err(NotOurs);
    }
    // What lies behind the packet is padding of a short frame.
    let packet = packet
        .get(..usize::from(total))
        .ok_or(Broken("it is short"))?;
    let udp = packet.get(header..).ok_or(Broken("it is short"))?;
    let number = |at: usize| udp.get(at..at + 2).and_then(number16);
    if number(2).ok_or(NotOurs)? != CLIENT_PORT || number(0) != Some(SERVER_PORT) {
        return Err(NotOurs);
    }
    let length = number(4).map(usize::from).unwrap_or_default();
    udp.get(UDP_HEADER..length).ok_or(Broken("it is short"))
}

fn number16(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_be_bytes)
}

fn ipv4(bytes: &[u8]) -> Result<Ipv4Addr, NotTaken> {
    let bytes: [u8; 4] = bytes
        .try_into()
        .map_err(|_| Broken("an address has not four bytes"))?;
    Ok(bytes.into())
}

fn usable(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && !address.is_loopback() && first < 224
}

/// All options of a message; parts of the same one are joined (RFC 3396), and those in `file` and `sname` are
/// read when option 52 says that they are there.
fn options(message: &[u8]) -> Result<BTreeMap<u8, Vec<u8>>, NotTaken> {
    let mut found = BTreeMap::new();
    collect(
        message.get(FIXED + MAGIC.len()..).unwrap_or_default(),
        &mut found,
    )?;
    let overload = found.get(&OPTION_OVERLOAD).and_then(|o| o.first()).copied();
    let overload = overload.unwrap_or_default();
    // RFC 2131, 4.1: first file, then sname.
    for (bit, field) in [(1, 108..FIXED), (2, 44..108)] {
        if overload & bit != 0 {
            collect(message.get(field).unwrap_or_default(), &mut found)?;
        }
    }
    Ok(found)
}

fn collect(mut bytes: &[u8], found: &mut BTreeMap<u8, Vec<u8>>) -> Result<(), NotTaken> {
    while let Some((code, rest)) = bytes.split_first() {
        bytes = rest;
        match *code {
            PAD => continue,
            END => break,
            _ => {}
        }
        let (length, rest) = bytes
            .split_first()
            .ok_or(Broken("an option has no length"))?;
        let (value, rest) = rest
            .split_at_checked(usize::from(*length))
            .ok_or(Broken("an option is longer than the message"))?;
        found.entry(*code).or_default().extend(value);
        bytes = rest;
    }
    Ok(())
}

fn lease(
    address: Ipv4Addr,
    server: Ipv4Addr,
    options: &BTreeMap<u8, Vec<u8>>,
) -> Result<Lease, NotTaken> {
    if !usable(address) {
        return Err(Broken("the granted address is none of a host"));
    }
    let mask = match options.get(&OPTION_MASK) {
        Some(mask) => ipv4(mask)?,
        None => class_mask(address),
    };
    let address =
        Ipv4Net::with_netmask(address, mask).map_err(|_| Broken("the netmask is none"))?;
    let seconds = |option: u8| {
        let bytes = options.get(&option)?;
        bytes.as_slice().try_into().ok().map(u32::from_be_bytes)
    };
    let lasts = seconds(OPTION_LEASE).ok_or(Broken("no lease time (option 51)"))?;
    let lasts = (lasts != u32::MAX).then(|| u64::from(lasts).max(SHORTEST_LEASE));
    // RFC 2131, 4.4.5: T1 is a half and T2 seven eighths, unless the server says otherwise and makes sense.
    let whole = lasts.unwrap_or_else(|| u64::from(u32::MAX));
    let rebind = seconds(OPTION_REBIND).map(u64::from);
    let rebind = rebind
        .filter(|t| (2..whole).contains(t))
        .unwrap_or(whole * 7 / 8);
    let renew = seconds(OPTION_RENEW).map(u64::from);
    let renew = renew
        .filter(|t| (1..rebind).contains(t))
        .unwrap_or(whole / 2)
        .min(rebind);
    let routes = match options.get(&OPTION_ROUTES) {
        // RFC 3442: who takes option 121 ignores option 3 then.
        Some(bytes) => classless(bytes)?,
        None => options
            .get(&OPTION_ROUTER)
            .and_then(|routers| ipv4(routers.get(..4)?).ok())
            .map(|via| Route {
                to: Ipv4Net::default(),
                via: Some(via),
            })
            .into_iter()
            .collect(),
    };
    let mtu = options.get(&OPTION_MTU).and_then(|bytes| number16(bytes));
    Ok(Lease {
        address,
        routes,
        mtu: mtu.filter(|mtu| *mtu >= MIN_MTU),
        server,
        lasts: lasts.map(Duration::from_secs),
        renew: Duration::from_secs(renew),
        rebind: Duration::from_secs(rebind),
    })
}

/// The mask of an address's class, for the servers that name none (RFC 950).
fn class_mask(address: Ipv4Addr) -> Ipv4Addr {
    match address.octets()[0] {
        0..128 => [255, 0, 0, 0].into(),
        128..192 => [255, 255, 0, 0].into(),
        _ => [255, 255, 255, 0].into(),
    }
}

/// RFC 3442: length of the prefix, as many bytes of it as it has, next hop.
fn classless(mut bytes: &[u8]) -> Result<Vec<Route>, NotTaken> {
    const SHORT: NotTaken = Broken("classless routes (option 121) end in the middle");
    let mut routes = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let significant = usize::from(length.div_ceil(8));
        let mut to = [0; 4];
        let place = to.get_mut(..significant).ok_or(Broken(
            "a classless route (option 121) has a prefix longer than 32",
        ))?;
        let (prefix, rest) = rest.split_at_checked(significant).ok_or(SHORT)?;
        place.copy_from_slice(prefix);
        let (via, rest) = rest.split_at_checked(4).ok_or(SHORT)?;
        let via = ipv4(via)?;
        let to = Ipv4Net::new(to.into(), *length)
            .map_err(|_| Broken("a classless route (option 121) has a prefix longer than 32"))?;
        if routes.len() == MAX_ROUTES {
            return Err(Broken("more than 64 classless routes (option 121)"));
        }
        routes.push(Route {
            to: to.trunc(),
            // 0.0.0.0 means on the link.
            via: (!via.is_unspecified()).then_some(via),
        });
        bytes = rest;
    }
    Ok(routes)
}
