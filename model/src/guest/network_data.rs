//! `network_data.json` of a config drive: how the management NIC, the first of its links, is configured. The
//! other links are the agent's to use, by what its controller says.

use super::{bounded, shown};
use crate::net::everything;
use crate::{FieldError, MacAddr};
use ipnet::IpNet;
use serde::Deserialize;
use std::net::IpAddr;

/// More links than a machine has NICs.
const MAX_LINKS: usize = 32;
/// Addresses of the management NIC.
const MAX_NETWORKS: usize = 32;
/// Routes of all its networks.
const MAX_ROUTES: usize = 64;
/// The least that IPv4 demands of a link (RFC 791) and the most that an IP packet can have.
const MTU: std::ops::RangeInclusive<u32> = 68..=65_535;
/// Numbers of VLANs: 0 and 4095 are reserved (IEEE 802.1Q, table 9-2).
const VLAN_IDS: std::ops::RangeInclusive<u16> = 1..=4_094;

/// How the management NIC is configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Management {
    /// Which NIC; none: the first.
    pub mac: Option<MacAddr>,
    /// Management is in a VLAN of that NIC, not on it.
    pub tag: Option<Tag>,
    /// In bytes; none: as the NIC has it.
    pub mtu: Option<u32>,
    /// Fixed addresses.
    pub addresses: Vec<IpNet>,
    /// Routes of these addresses.
    pub routes: Vec<Route>,
    /// Ask for an IPv4 address (DHCP).
    pub dhcp4: bool,
    /// Let routers give an IPv6 address (RFC 4862).
    pub slaac: bool,
    /// VLANs of other links, to be made for the agent, which finds their interfaces by address.
    pub vlans: Vec<Vlan>,
    /// Networks and links that are not configured, with the reason.
    pub refused: Vec<String>,
}

/// The VLAN of the management network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// 1 to 4094.
    pub id: u16,
    /// Address of its interface; none: the NIC's.
    pub mac: Option<MacAddr>,
}

/// A VLAN of a NIC: an interface of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vlan {
    /// Address of the NIC that carries it.
    pub nic: MacAddr,
    /// 1 to 4094.
    pub id: u16,
    /// Address of its interface, by which it is known.
    pub mac: MacAddr,
    /// In bytes; none: as the NIC has it.
    pub mtu: Option<u32>,
}

/// A route of the management NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination; length 0 is the default route.
    pub to: IpNet,
    /// Next hop; none: on the link.
    pub via: Option<IpAddr>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    links: Vec<Link>,
    #[serde(default)]
    networks: Vec<Network>,
}

#[derive(Deserialize)]
struct Link {
    id: String,
    #[serde(rename = "type", default)]
    kind: String,
    ethernet_mac_address: Option<String>,
    mtu: Option<u32>,
    /// Of `vlan`: the link below.
    vlan_link: Option<String>,
    vlan_id: Option<u32>,
    vlan_mac_address: Option<String>,
}

impl Link {
    fn is_vlan(&self) -> bool {
        self.kind == "vlan"
    }

    fn mac(&self) -> Result<Option<MacAddr>, FieldError> {
        mac("ethernet_mac_address", self.ethernet_mac_address.as_deref())
    }

    /// Of a VLAN's interface.
    fn vlan_mac(&self) -> Result<Option<MacAddr>, FieldError> {
        match &self.vlan_mac_address {
            Some(text) => mac("vlan_mac_address", Some(text)),
            None => self.mac(),
        }
    }

    fn mtu(&self) -> Result<Option<u32>, FieldError> {
        match self.mtu {
            Some(mtu) if !MTU.contains(&mtu) => {
                let why = format!("{mtu}: use {} to {}", MTU.start(), MTU.end());
                Err(FieldError::new("mtu", why))
            }
            mtu => Ok(mtu),
        }
    }

    fn vlan_id(&self) -> Result<u16, FieldError> {
        let id = self
            .vlan_id
            .ok_or_else(|| FieldError::new("vlan_id", "missing"))?;
        let id = u16::try_from(id).ok().filter(|id| VLAN_IDS.contains(id));
        id.ok_or_else(|| {
            let (from, to) = (VLAN_IDS.start(), VLAN_IDS.end());
            let id = self.vlan_id.unwrap_or_default();
            FieldError::new("vlan_id", format!("{id}: use {from} to {to}"))
        })
    }

    /// The NIC that carries this VLAN.
    fn below<'a>(&self, links: &'a [Self]) -> Result<&'a Self, FieldError> {
        let below = self.vlan_link.as_deref();
        let below = below.ok_or_else(|| FieldError::new("vlan_link", "missing"))?;
        let wrong = |why: &str| FieldError::new("vlan_link", format!("{}: {why}", shown(below)));
        let found = links.iter().find(|link| link.id == below);
        let found = found.ok_or_else(|| wrong("no link has this id"))?;
        if found.is_vlan() || found.kind == "bond" {
            return Err(wrong("not supported yet: a VLAN on a link that is no NIC"));
        }
        Ok(found)
    }
}

fn mac(field: &str, text: Option<&str>) -> Result<Option<MacAddr>, FieldError> {
    text.map(|mac| mac.to_ascii_lowercase().parse())
        .transpose()
        .map_err(|why| FieldError::new(field, why))
}

#[derive(Deserialize)]
struct Network {
    #[serde(default)]
    id: String,
    #[serde(rename = "type")]
    kind: String,
    link: String,
    ip_address: Option<String>,
    netmask: Option<String>,
    gateway: Option<String>,
    #[serde(default)]
    routes: Vec<Hop>,
}

#[derive(Deserialize)]
struct Hop {
    network: String,
    netmask: Option<String>,
    gateway: Option<String>,
}

impl Management {
    /// What is done without a document: the first NIC asks.
    pub fn dhcp() -> Self {
        Self {
            dhcp4: true,
            ..Self::default()
        }
    }

    /// Reads the document.
    pub fn parse(text: &[u8]) -> Result<Self, FieldError> {
        let name = "network_data.json";
        let document: Document = serde_json::from_slice(bounded(name, text)?)
            .map_err(|error| FieldError::new(name, error.to_string()))?;
        read(document).map_err(|error| error.within(name))
    }
}

fn read(document: Document) -> Result<Management, FieldError> {
    if document.links.len() > MAX_LINKS {
        let why = format!("{} of them, at most {MAX_LINKS}", document.links.len());
        return Err(FieldError::new("links", why));
    }
    let Some(link) = document.links.first() else {
        return Ok(Management::dhcp());
    };
    let mut management = first(link, &document.links).map_err(|error| error.within("links[0]"))?;
    for (number, link) in document.links.iter().enumerate().skip(1) {
        if !link.is_vlan() {
            continue; // a NIC, which needs nothing before the agent configures it
        }
        match vlan(link, &document.links) {
            Ok(vlan) if management.vlans.iter().any(|other| other.mac == vlan.mac) => {
                let why = format!("links[{number}]: {} is another link's address", vlan.mac);
                management.refused.push(why);
            }
            Ok(vlan) => management.vlans.push(vlan),
            // Management does not need it, and tells what is missing.
            Err(error) => {
                let why = error.within(format!("links[{number}]")).to_string();
                management.refused.push(why);
            }
        }
    }
    let told = management.refused.len();
    for (number, network) in document.networks.iter().enumerate() {
        if network.link != link.id {
            continue;
        }
        if management.addresses.len() == MAX_NETWORKS {
            let why = format!("more than {MAX_NETWORKS} of the first link");
            return Err(FieldError::new("networks", why));
        }
        add(&mut management, network)
            .map_err(|error| error.within(format!("networks[{number}]")))?;
    }
    let none = management.addresses.is_empty() && !management.dhcp4 && !management.slaac;
    let refused = management.refused.get(told..).unwrap_or_default();
    if none && refused.is_empty() {
        // A NIC without networks: ports without fixed addresses have none in the document either.
        management.dhcp4 = true;
    } else if none {
        let why = format!(
            "nothing of the first link can be used: {}",
            refused.join(", ")
        );
        return Err(FieldError::new("networks", why));
    }
    Ok(management)
}

/// What the first link says.
fn first(link: &Link, links: &[Link]) -> Result<Management, FieldError> {
    if link.kind == "bond" {
        let why = "bond: not supported yet: the management NIC";
        return Err(FieldError::new("type", why));
    }
    let nic = if link.is_vlan() {
        link.below(links)?
    } else {
        link
    };
    let mac = nic.mac()?;
    let tag = if link.is_vlan() {
        let tag = Tag {
            id: link.vlan_id()?,
            mac: link.vlan_mac()?,
        };
        Some(tag)
    } else {
        None
    };
    Ok(Management {
        mac,
        tag,
        mtu: link.mtu()?,
        ..Management::default()
    })
}

/// A VLAN of another link.
fn vlan(link: &Link, links: &[Link]) -> Result<Vlan, FieldError> {
    let missing = || FieldError::new("vlan_link", "its NIC has no ethernet_mac_address");
    let nic = link.below(links)?.mac()?.ok_or_else(missing)?;
    // What carries it stays in the management namespace, the interface of the VLAN does not: they must differ.
    let mac = link.vlan_mac()?.filter(|mac| *mac != nic);
    let mac = mac.ok_or_else(|| {
        let why =
            "missing, or that of its NIC: the agent finds an interface by an address of its own";
        FieldError::new("vlan_mac_address", why)
    })?;
    Ok(Vlan {
        nic,
        id: link.vlan_id()?,
        mac,
        mtu: link.mtu()?,
    })
}

fn add(management: &mut Management, network: &Network) -> Result<(), FieldError> {
    match network.kind.as_str() {
        "ipv4" | "ipv6" => {}
        "ipv4_dhcp" | "dhcp4" | "dhcp" => {
            management.dhcp4 = true;
            return Ok(());
        }
        "ipv6_slaac" | "slaac" | "ipv6_dhcpv6-stateless" => {
            management.slaac = true;
            return Ok(());
        }
        // Where addresses are given by DHCPv6 alone, a fixed one in the document does as well.
        "ipv6_dhcp" | "dhcp6" | "ipv6_dhcpv6-stateful" => {
            management.refused.push(format!(
                "network {} of type {} (not supported yet: DHCPv6; fix: a subnet with ipv6_address_mode slaac or \
                 dhcpv6-stateless, or a fixed address)",
                shown(&network.id),
                shown(&network.kind)
            ));
            return Ok(());
        }
        other => {
            management.refused.push(format!(
                "network {} of type {} (not supported yet)",
                shown(&network.id),
                shown(other)
            ));
            return Ok(());
        }
    }
    let address = network
        .ip_address
        .as_deref()
        .ok_or_else(|| FieldError::new("ip_address", "missing"))?;
    let net = parse_net("ip_address", address, network.netmask.as_deref())?;
    let fits = net.addr().is_ipv4() == (network.kind == "ipv4");
    let usable = !net.addr().is_unspecified() && !net.addr().is_multicast();
    if !fits || !usable {
        let why = format!(
            "{}: not an address of type {}",
            shown(address),
            network.kind
        );
        return Err(FieldError::new("ip_address", why));
    }
    management.addresses.push(net);
    let mut routes = Vec::new();
    if let Some(text) = &network.gateway {
        routes.push(Route {
            to: everything(net.addr()),
            via: Some(gateway("gateway", text, &net)?),
        });
    }
    for (number, hop) in network.routes.iter().enumerate() {
        let at = |error: FieldError| error.within(format!("routes[{number}]"));
        let to = parse_net("network", &hop.network, hop.netmask.as_deref()).map_err(at)?;
        let to = to.trunc();
        if to.addr().is_ipv4() != net.addr().is_ipv4() {
            let why = format!("{to}: of the other family than the address");
            return Err(at(FieldError::new("network", why)));
        }
        let via = hop.gateway.as_deref();
        let via = via
            .map(|text| gateway("gateway", text, &net))
            .transpose()
            .map_err(at)?;
        routes.push(Route { to, via });
    }
    for route in routes {
        if management.routes.len() == MAX_ROUTES {
            let why = format!("more than {MAX_ROUTES} of the management NIC");
            return Err(FieldError::new("routes", why));
        }
        if !management.routes.contains(&route) {
            management.routes.push(route);
        }
    }
    Ok(())
}

fn gateway(field: &str, text: &str, net: &IpNet) -> Result<IpAddr, FieldError> {
    let ip = text.parse::<IpAddr>().ok();
    ip.filter(|ip| {
        ip.is_ipv4() == net.addr().is_ipv4() && !ip.is_unspecified() && !ip.is_multicast()
    })
    .ok_or_else(|| {
        let why = format!("{}: not the address of a router of {net}", shown(text));
        FieldError::new(field, why)
    })
}

/// An address with its prefix length, which stands behind a slash or in the mask, as number or as mask.
fn parse_net(field: &str, address: &str, mask: Option<&str>) -> Result<IpNet, FieldError> {
    if let Ok(net) = address.parse::<IpNet>() {
        return Ok(net);
    }
    let wrong = |why: &str| FieldError::new(field, format!("{}: {why}", shown(address)));
    let ip: IpAddr = address
        .parse()
        .map_err(|_| wrong("not an address: write 192.0.2.5 or 2001:db8::5"))?;
    let mask = mask.ok_or_else(|| wrong("its netmask is missing"))?;
    let length = match mask.parse::<u8>() {
        Ok(length) => Some(length),
        Err(_) => mask
            .parse()
            .ok()
            .and_then(|mask: IpAddr| ipnet::ip_mask_to_prefix(mask).ok())
            .filter(|_| mask.contains(':') == ip.is_ipv6()),
    };
    length
        .and_then(|length| IpNet::new(ip, length).ok())
        .ok_or_else(|| wrong(&format!("its netmask {} is none", shown(mask))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Management, String> {
        Management::parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    fn with(network: &str) -> Result<Management, String> {
        parse(&format!(
            r#"{{"links": [{{"id": "a", "type": "ovs", "ethernet_mac_address": "fa:16:3e:00:00:01"}},
                 {{"id": "b", "type": "ovs", "ethernet_mac_address": "fa:16:3e:00:00:02"}}],
                "networks": [{network}], "services": []}}"#
        ))
    }

    #[test]
    fn novas_document_with_both_families() {
        let text = r#"{
          "links": [{"id": "tap2ecc7709-b3", "vif_id": "2ecc7709", "type": "ovs", "mtu": 1450,
                     "ethernet_mac_address": "FA:16:3E:9C:BF:3D"}],
          "networks": [
            {"id": "network0", "type": "ipv4", "link": "tap2ecc7709-b3", "ip_address": "10.184.0.244",
             "netmask": "255.255.240.0", "network_id": "da5bb487", "services": [],
             "routes": [{"network": "10.0.0.0", "netmask": "255.0.0.0", "gateway": "11.0.0.1"},
                        {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.184.0.1"}]},
            {"id": "network1", "type": "ipv6", "link": "tap2ecc7709-b3", "ip_address": "2001:cdba::3257:9652/24",
             "routes": [{"network": "::", "netmask": "::", "gateway": "fd00::1"},
                        {"network": "::", "netmask": "ffff:ffff:ffff::", "gateway": "fd00::1:1"}]}],
          "services": [{"type": "dns", "address": "8.8.8.8"}]}"#;
        let management = parse(text).unwrap();
        assert_eq!(management.mac, Some("fa:16:3e:9c:bf:3d".parse().unwrap()));
        assert_eq!(management.mtu, Some(1_450));
        let addresses: Vec<String> = management
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(addresses, ["10.184.0.244/20", "2001:cdba::3257:9652/24"]);
        let routes: Vec<String> = management.routes.iter().map(|r| r.to.to_string()).collect();
        assert_eq!(routes, ["10.0.0.0/8", "0.0.0.0/0", "::/0", "::/48"]);
        assert!(!management.dhcp4 && !management.slaac);
    }

    #[test]
    fn who_asks_for_its_address() {
        assert!(with(r#"{"type": "ipv4_dhcp", "link": "a"}"#).unwrap().dhcp4);
        assert!(
            with(r#"{"type": "ipv6_slaac", "link": "a"}"#)
                .unwrap()
                .slaac
        );
        assert_eq!(parse("{}").unwrap(), Management::dhcp());
        // The second link's network is not the management NIC's.
        let second =
            with(r#"{"type": "ipv4", "link": "b", "ip_address": "10.0.0.1", "netmask": "24"}"#);
        assert!(second.unwrap().addresses.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (network, expect) in [
            (
                r#"{"type": "ipv4", "link": "a"}"#,
                "networks[0].ip_address: missing",
            ),
            (
                r#"{"type": "ipv4", "link": "a", "ip_address": "10.0.0.1"}"#,
                "netmask is missing",
            ),
            (
                r#"{"type": "ipv4", "link": "a", "ip_address": "10.0.0.1", "netmask": "255.0.255.0"}"#,
                "\"255.0.255.0\" is none",
            ),
            (
                r#"{"type": "ipv4", "link": "a", "ip_address": "10.0.0.1", "netmask": "33"}"#,
                "\"33\" is none",
            ),
            (
                r#"{"type": "ipv6", "link": "a", "ip_address": "10.0.0.1", "netmask": "24"}"#,
                "not an address of type ipv6",
            ),
            (
                r#"{"type": "ipv4", "link": "a", "ip_address": "10.0.0.1/24", "gateway": "fe80::1"}"#,
                "networks[0].gateway",
            ),
            (
                r#"{"type": "ipv6_dhcp", "link": "a", "id": "n"}"#,
                "ipv6_dhcp\" (not supported yet: DHCPv6",
            ),
        ] {
            let error = with(network).unwrap_err();
            assert!(error.contains(expect), "{network}: {error}");
        }
        let bond = r#"{"links": [{"id": "a", "type": "bond"}]}"#;
        assert!(
            parse(bond)
                .unwrap_err()
                .contains("links[0].type: bond: not supported yet")
        );
        assert!(
            parse(r#"{"links": [{"id": "a", "mtu": 1}]}"#)
                .unwrap_err()
                .contains("mtu: 1")
        );
    }

    const TRUNK: &str = r#"{"id": "a", "type": "ovs", "ethernet_mac_address": "fa:16:3e:00:00:01"},
        {"id": "b", "type": "phy", "ethernet_mac_address": "fa:16:3e:00:00:02", "mtu": 1500}"#;

    #[test]
    fn vlans_are_made_on_the_nics_that_they_name() {
        let text = format!(
            r#"{{"links": [{TRUNK}, {{"id": "v", "type": "vlan", "vlan_link": "b", "vlan_id": 101, "mtu": 1496,
                "vlan_mac_address": "FA:16:3E:00:01:01"}}]}}"#
        );
        let management = parse(&text).unwrap();
        let expected = Vlan {
            nic: "fa:16:3e:00:00:02".parse().unwrap(),
            id: 101,
            mac: "fa:16:3e:00:01:01".parse().unwrap(),
            mtu: Some(1_496),
        };
        assert_eq!(management.vlans, [expected]);
        assert_eq!(management.tag, None);
        assert!(management.dhcp4 && management.refused.is_empty());
    }

    #[test]
    fn management_may_be_in_a_vlan() {
        let text = format!(
            r#"{{"links": [{{"id": "v", "type": "vlan", "vlan_link": "b", "vlan_id": 4094, "mtu": 1400}}, {TRUNK}],
                "networks": [{{"type": "ipv4", "link": "v", "ip_address": "192.0.2.5/24"}}]}}"#
        );
        let management = parse(&text).unwrap();
        assert_eq!(management.mac, Some("fa:16:3e:00:00:02".parse().unwrap()));
        let tag = Tag {
            id: 4_094,
            mac: None,
        };
        assert_eq!(management.tag, Some(tag));
        assert_eq!(management.mtu, Some(1_400));
        assert_eq!(management.addresses.len(), 1);
    }

    #[test]
    fn vlans_that_cannot_be_made_are_named_and_cost_only_themselves() {
        for (vlan, expect) in [
            (
                r#""vlan_link": "b", "vlan_id": 0"#,
                "links[2].vlan_mac_address: missing",
            ),
            (
                r#""vlan_link": "b", "vlan_id": 0, "vlan_mac_address": "fa:16:3e:00:01:01""#,
                "links[2].vlan_id: 0: use 1 to 4094",
            ),
            (
                r#""vlan_link": "b", "vlan_id": 70000, "vlan_mac_address": "fa:16:3e:00:01:01""#,
                "vlan_id: 70000",
            ),
            (
                r#""vlan_link": "b", "vlan_id": 5, "vlan_mac_address": "fa:16:3e:00:00:02""#,
                "that of its NIC",
            ),
            (
                r#""vlan_link": "c", "vlan_id": 5"#,
                "\"c\": no link has this id",
            ),
            (r#""vlan_link": "v", "vlan_id": 5"#, "not supported yet"),
            (r#""vlan_id": 5"#, "links[2].vlan_link: missing"),
        ] {
            let text = format!(r#"{{"links": [{TRUNK}, {{"id": "v", "type": "vlan", {vlan}}}]}}"#);
            let management = parse(&text).unwrap();
            assert!(management.dhcp4 && management.vlans.is_empty());
            assert!(
                management.refused[0].contains(expect),
                "{:?}",
                management.refused
            );
        }
    }

    #[test]
    fn a_management_vlan_that_cannot_be_made_is_a_fault() {
        for (vlan, expect) in [
            (r#""vlan_link": "b", "vlan_id": 0"#, "links[0].vlan_id: 0"),
            (r#""vlan_link": "b""#, "links[0].vlan_id: missing"),
            (r#""vlan_link": "c", "vlan_id": 5"#, "no link has this id"),
            (r#""vlan_link": "v", "vlan_id": 5"#, "not supported yet"),
        ] {
            let text = format!(r#"{{"links": [{{"id": "v", "type": "vlan", {vlan}}}, {TRUNK}]}}"#);
            let error = parse(&text).unwrap_err();
            assert!(error.contains(expect), "{error}");
        }
    }
}
