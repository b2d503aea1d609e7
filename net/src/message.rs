//! Netlink requests and answers as data: shared by the async and the synchronous control. Pure.

use crate::link::{Address, Link, LinkChange, Route, Rule, TABLE_MAIN, VethSpec};
use ipnet::IpNet;
use krater_model::net::MacAddr;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoMacVlan, InfoVeth, InfoVlan, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

/// The `local` table, which is the kernel's own.
const TABLE_LOCAL: u32 = 255;
/// Metric that the kernel gives an IPv6 route added without one (`IP6_RT_PRIO_USER`).
const METRIC_IPV6: u32 = 1024;

/// A request with what to do about its answer.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) message: RouteNetlinkMessage,
    pub(crate) flags: u16,
    /// For error messages.
    pub(crate) what: String,
    /// Errors that mean "it is so already".
    pub(crate) forgive: &'static [i32],
}

impl Request {
    fn new(message: RouteNetlinkMessage, flags: u16, what: String) -> Self {
        Self {
            message,
            flags: NLM_F_REQUEST | flags,
            what,
            forgive: &[],
        }
    }

    fn dump(message: RouteNetlinkMessage, what: &str) -> Self {
        Self::new(message, NLM_F_DUMP, format!("list {what}"))
    }

    const fn forgiving(mut self, codes: &'static [i32]) -> Self {
        self.forgive = codes;
        self
    }

    pub(crate) const fn is_dump(&self) -> bool {
        self.flags & NLM_F_DUMP == NLM_F_DUMP
    }
}

const CREATE: u16 = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
const CREATE_OR_REPLACE: u16 = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;

const fn family(net: &IpNet) -> AddressFamily {
    match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

pub(crate) fn links() -> Request {
    Request::dump(
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        "links",
    )
}

pub(crate) fn link_by_name(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.into()));
    let what = format!("find link {name}");
    Request::new(RouteNetlinkMessage::GetLink(message), 0, what)
}

fn end(name: &str, mac: Option<MacAddr>, mtu: Option<u32>, up: bool) -> LinkMessage {
    let mut message = LinkMessage::default();
    if up {
        message.header.flags |= LinkFlags::Up;
        message.header.change_mask |= LinkFlags::Up;
    }
    message.attributes.push(LinkAttribute::IfName(name.into()));
    if let Some(mac) = mac {
        let bytes = mac.0.to_vec();
        message.attributes.push(LinkAttribute::Address(bytes));
    }
    if let Some(mtu) = mtu {
        message.attributes.push(LinkAttribute::Mtu(mtu));
    }
    message
}

pub(crate) fn create_veth(spec: &VethSpec<'_>) -> Request {
    let mut peer = end(spec.peer, spec.peer_mac, spec.mtu, false);
    if let Some(netns) = spec.peer_netns {
        let fd = netns.as_raw_fd();
        peer.attributes.push(LinkAttribute::NetNsFd(fd));
    }
    let mut near = end(spec.name, spec.mac, spec.mtu, spec.up);
    if let Some(master) = spec.master {
        near.attributes.push(LinkAttribute::Controller(master));
    }
    near.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    let what = format!("create veth {} with peer {}", spec.name, spec.peer);
    Request::new(RouteNetlinkMessage::NewLink(near), CREATE, what)
}

pub(crate) fn create_bridge(name: &str, mac: Option<MacAddr>, mtu: Option<u32>) -> Request {
    let mut message = end(name, mac, mtu, true);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        // Without a querier, snooping may withhold neighbour solicitations from ports.
        LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
    ]));
    let what = format!("create bridge {name}");
    Request::new(RouteNetlinkMessage::NewLink(message), CREATE, what)
}

pub(crate) fn create_macvlan(name: &str, parent: u32, mac: MacAddr) -> Request {
    let mut message = end(name, Some(mac), None, false);
    message.attributes.push(LinkAttribute::Link(parent));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::MacVlan),
        LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(
            MacVlanMode::Bridge,
        )])),
    ]));
    let what = format!("create macvlan {name} on link {parent}");
    Request::new(RouteNetlinkMessage::NewLink(message), CREATE, what)
}

pub(crate) fn create_vlan(name: &str, parent: u32, id: u16, mac: Option<MacAddr>) -> Request {
    let mut message = end(name, mac, None, false);
    message.attributes.push(LinkAttribute::Link(parent));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Vlan),
        LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id)])),
    ]));
    let what = format!("create VLAN {id} as {name} on link {parent}");
    Request::new(RouteNetlinkMessage::NewLink(message), CREATE, what)
}

pub(crate) fn set_link(index: u32, change: &LinkChange<'_>) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    if let Some(up) = change.up {
        message.header.change_mask |= LinkFlags::Up;
        if up {
            message.header.flags |= LinkFlags::Up;
        }
    }
    let attributes = &mut message.attributes;
    attributes.extend(change.name.map(|name| LinkAttribute::IfName(name.into())));
    attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    attributes.extend(change.mtu.map(LinkAttribute::Mtu));
    attributes.extend(
        change
            .master
            .map(|master| LinkAttribute::Controller(master.unwrap_or(0))),
    );
    attributes.extend(
        change
            .netns
            .map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())),
    );
    let what = format!("change link {index} ({change:?})");
    Request::new(RouteNetlinkMessage::SetLink(message), NLM_F_ACK, what)
}

pub(crate) fn delete_link(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let what = format!("delete link {index}");
    Request::new(RouteNetlinkMessage::DelLink(message), NLM_F_ACK, what).forgiving(&[libc::ENODEV])
}

pub(crate) fn addresses(family: AddressFamily, link: Option<u32>) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family;
    message.header.index = link.unwrap_or(0);
    Request::dump(RouteNetlinkMessage::GetAddress(message), "addresses")
}

fn address_message(address: &Address) -> AddressMessage {
    let ip = address.net.addr();
    let mut message = AddressMessage::default();
    message.header.family = family(&address.net);
    message.header.prefix_len = address.net.prefix_len();
    message.header.index = address.link;
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    message.header.scope = if ip.is_loopback() {
        AddressScope::Host
    } else if link_local {
        AddressScope::Link
    } else {
        AddressScope::Universe
    };
    message.attributes.push(AddressAttribute::Local(ip));
    message.attributes.push(AddressAttribute::Address(ip));
    message
}

pub(crate) fn add_address(address: &Address) -> Request {
    let mut message = address_message(address);
    let mut flags = AddressFlags::empty();
    match address.net {
        IpNet::V6(_) => {
            // A VIP must answer at once: duplicate address detection takes a second or more, and the
            // owner before us may still have it for a moment.
            flags |= AddressFlags::Nodad;
            message.header.flags |= AddressHeaderFlags::Nodad;
            if address.protocol == crate::PROTO_VRRP {
                // Deprecated from birth (RFC 4862 section 5.5.4), so that source address selection
                // takes our own address and not the VIP, which may be elsewhere the next moment
                // (RFC 6724 rule 3; by rule 8 a /128 would often win).
                let mut lifetime = CacheInfo::default();
                lifetime.ifa_preferred = 0;
                lifetime.ifa_valid = u32::MAX;
                message
                    .attributes
                    .push(AddressAttribute::CacheInfo(lifetime));
            }
        }
        IpNet::V4(net) if net.prefix_len() < 31 => {
            let broadcast = AddressAttribute::Broadcast(net.broadcast());
            message.attributes.push(broadcast);
        }
        IpNet::V4(_) => {}
    }
    if address.no_prefix_route {
        flags |= AddressFlags::Noprefixroute;
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    if address.protocol != 0 {
        let protocol = AddressAttribute::Protocol(address.protocol.into());
        message.attributes.push(protocol);
    }
    let what = format!("add address {} to link {}", address.net, address.link);
    // Replace rather than "exists": the tag must be ours afterwards, or a guard that cleans by tag
    // would leave the address behind.
    let message = RouteNetlinkMessage::NewAddress(message);
    Request::new(message, CREATE_OR_REPLACE, what).forgiving(&[libc::EEXIST])
}

pub(crate) fn delete_address(address: &Address) -> Request {
    let message = RouteNetlinkMessage::DelAddress(address_message(address));
    let what = format!("delete address {} of link {}", address.net, address.link);
    Request::new(message, NLM_F_ACK, what).forgiving(&[libc::EADDRNOTAVAIL, libc::ENODEV])
}

pub(crate) fn routes(family: AddressFamily) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    Request::dump(RouteNetlinkMessage::GetRoute(message), "routes")
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(&route.to);
    message.header.destination_prefix_length = route.to.prefix_len();
    message.header.protocol = route.protocol.into();
    message.header.kind = RouteType::Unicast;
    // Tables above 255 exist only in the attribute; 252 (RT_TABLE_COMPAT) says so in the header.
    message.header.table = u8::try_from(route.table).unwrap_or(252);
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.to.prefix_len() > 0 {
        let to = RouteAddress::from(route.to.network());
        attributes.push(RouteAttribute::Destination(to));
    }
    attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    attributes.extend(route.link.map(RouteAttribute::Oif));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    if route.onlink {
        message.header.flags |= RouteFlags::Onlink;
    }
    message
}

pub(crate) fn add_route(route: &Route) -> Request {
    let mut message = route_message(route);
    let source = route.source.map(|s| RouteAttribute::PrefSource(s.into()));
    message.attributes.extend(source);
    message.header.scope = if route.via.is_some() || route.to.addr().is_ipv6() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    let what = format!("add route {route:?}");
    let message = RouteNetlinkMessage::NewRoute(message);
    Request::new(message, CREATE_OR_REPLACE, what).forgiving(&[libc::EEXIST])
}

pub(crate) fn delete_route(route: &Route) -> Request {
    let mut message = route_message(route);
    message.header.scope = RouteScope::NoWhere; // any
    // Onlink is not compared for IPv4, and refused as a mismatch for some IPv6 routes.
    message.header.flags = RouteFlags::empty();
    let what = format!("delete route {route:?}");
    // ENETUNREACH and ENODEV: the link went down or away and took the route along.
    Request::new(RouteNetlinkMessage::DelRoute(message), NLM_F_ACK, what).forgiving(&[
        libc::ESRCH,
        libc::ENODEV,
        libc::ENETUNREACH,
    ])
}

pub(crate) fn rules(family: AddressFamily) -> Request {
    let mut message = RuleMessage::default();
    message.header.family = family;
    Request::dump(RouteNetlinkMessage::GetRule(message), "rules")
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(&rule.from);
    message.header.src_len = rule.from.prefix_len();
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(rule.table).unwrap_or(0);
    let attributes = &mut message.attributes;
    if rule.from.prefix_len() > 0 {
        attributes.push(RuleAttribute::Source(rule.from.network()));
    }
    attributes.push(RuleAttribute::Table(rule.table));
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Protocol(rule.protocol.into()));
    message
}

pub(crate) fn add_rule(rule: &Rule) -> Request {
    let message = RouteNetlinkMessage::NewRule(rule_message(rule));
    let what = format!("add rule {rule:?}");
    Request::new(message, CREATE, what).forgiving(&[libc::EEXIST])
}

pub(crate) fn delete_rule(rule: &Rule) -> Request {
    let message = RouteNetlinkMessage::DelRule(rule_message(rule));
    let what = format!("delete rule {rule:?}");
    Request::new(message, NLM_F_ACK, what).forgiving(&[libc::ENOENT])
}

pub(crate) fn delete_neighbour(link: u32, address: IpAddr) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = link;
    let destination = NeighbourAttribute::Destination(address.into());
    message.attributes.push(destination);
    let what = format!("delete neighbour {address} of link {link}");
    Request::new(RouteNetlinkMessage::DelNeighbour(message), NLM_F_ACK, what)
        .forgiving(&[libc::ENOENT, libc::ENODEV])
}

/// The link in an answer or event.
pub(crate) fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        mtu: 0,
        kind: None,
        master: None,
        loopback: message.header.flags.contains(LinkFlags::Loopback),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(master) if *master != 0 => link.master = Some(*master),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

/// The address in an answer or event; none when it has none that we know.
pub(crate) fn read_address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut peer, mut protocol) = (None, None, 0);
    let mut flags = AddressFlags::empty();
    for attribute in &message.attributes {
        match attribute {
            // On point-to-point links IFA_ADDRESS is the other side.
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => peer = Some(*ip),
            AddressAttribute::Protocol(tag) => protocol = u8::from(*tag),
            AddressAttribute::Flags(bits) => flags = *bits,
            _ => {}
        }
    }
    let net = IpNet::new(local.or(peer)?, message.header.prefix_len).ok()?;
    Some(Address {
        link: message.header.index,
        net,
        protocol,
        no_prefix_route: flags.contains(AddressFlags::Noprefixroute),
    })
}

/// The route in an answer; none when it is not a plain unicast route of a table that is ours to use.
pub(crate) fn read_route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut to = unspecified;
    let mut route = Route {
        to: IpNet::new(unspecified, 0).ok()?,
        via: None,
        link: None,
        table: u32::from(header.table),
        source: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        metric: None,
        protocol: header.protocol.into(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = read_ip(address)?,
            RouteAttribute::Gateway(address) => route.via = Some(read_ip(address)?),
            RouteAttribute::PrefSource(address) => route.source = Some(read_ip(address)?),
            RouteAttribute::Oif(index) => route.link = Some(*index),
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => {
                route.metric = (unspecified.is_ipv4() || *metric != METRIC_IPV6).then_some(*metric);
            }
            _ => {}
        }
    }
    route.to = IpNet::new(to, header.destination_prefix_length).ok()?;
    (route.table != TABLE_LOCAL).then_some(route)
}

fn read_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// The rule in an answer; none when it does not select a table.
pub(crate) fn read_rule(message: &RuleMessage) -> Option<Rule> {
    if message.header.action != RuleAction::ToTable {
        return None;
    }
    let mut from: IpAddr = match message.header.family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut table = u32::from(message.header.table);
    let (mut priority, mut protocol) = (0, RouteProtocol::Unspec);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(ip) => from = *ip,
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Protocol(tag) => protocol = *tag,
            _ => {}
        }
    }
    if table == 0 {
        table = TABLE_MAIN;
    }
    Some(Rule {
        from: IpNet::new(from, message.header.src_len).ok()?,
        table,
        priority,
        protocol: protocol.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{Emitable, Parseable};

    fn address(net: &str) -> Address {
        Address {
            link: 7,
            net: net.parse().unwrap(),
            protocol: crate::PROTO_VRRP,
            no_prefix_route: true,
        }
    }

    #[test]
    fn an_address_survives_the_wire_with_its_tag() {
        for net in [
            "192.0.2.1/24",
            "192.0.2.1/32",
            "2001:db8::1/64",
            "fe80::1/64",
        ] {
            let wanted = address(net);
            let RouteNetlinkMessage::NewAddress(message) = add_address(&wanted).message else {
                panic!("not a new address");
            };
            let mut bytes = vec![0; message.buffer_len()];
            message.emit(&mut bytes);
            let read = AddressMessage::parse(&bytes).unwrap();
            assert_eq!(read_address(&read), Some(wanted));
        }
    }

    #[test]
    fn ipv6_addresses_skip_duplicate_detection_and_ipv4_ones_have_a_broadcast() {
        let RouteNetlinkMessage::NewAddress(v6) = add_address(&address("2001:db8::1/64")).message
        else {
            panic!("not a new address");
        };
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        assert!(v6.attributes.contains(&AddressAttribute::Flags(flags)));
        let RouteNetlinkMessage::NewAddress(v4) = add_address(&address("192.0.2.1/24")).message
        else {
            panic!("not a new address");
        };
        let broadcast = AddressAttribute::Broadcast([192, 0, 2, 255].into());
        assert!(v4.attributes.contains(&broadcast));
    }

    #[test]
    fn a_route_and_a_rule_survive_the_wire() {
        let route = Route {
            to: "0.0.0.0/0".parse().unwrap(),
            via: Some([192, 0, 2, 1].into()),
            link: Some(3),
            table: 70_000,
            source: Some([192, 0, 2, 9].into()),
            onlink: true,
            metric: Some(5),
            protocol: crate::PROTO_AGENT,
        };
        let RouteNetlinkMessage::NewRoute(message) = add_route(&route).message else {
            panic!("not a new route");
        };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let read = RouteMessage::parse(&bytes).unwrap();
        assert_eq!(read_route(&read), Some(route));

        let rule = Rule {
            from: "2001:db8::5/128".parse().unwrap(),
            table: 1,
            priority: 100,
            protocol: crate::PROTO_VRRP,
        };
        let RouteNetlinkMessage::NewRule(message) = add_rule(&rule).message else {
            panic!("not a new rule");
        };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let read = RuleMessage::parse(&bytes).unwrap();
        assert_eq!(read_rule(&read), Some(rule));
    }
}
