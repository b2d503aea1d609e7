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

/// How the management NIC is configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Management {
    /// Which NIC; none: the first.
    pub mac: Option<MacAddr>,
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
    /// Networks that are not configured, with the reason.
    pub refused: Vec<String>,
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
    if ["bond", "vlan"].contains(&link.kind.as_str()) {
        let why = format!("{}: not supported yet: the management NIC", link.kind);
        return Err(FieldError::new("links[0].type", why));
    }
    let mac = link.ethernet_mac_address.as_deref();
    let mac = mac
        .map(|mac| mac.to_ascii_lowercase().parse())
        .transpose()
        .map_err(|why| FieldError::new("links[0].ethernet_mac_address", why))?;
    if let Some(mtu) = link.mtu
        && !MTU.contains(&mtu)
    {
        let why = format!("{mtu}: use {} to {}", MTU.start(), MTU.end());
        return Err(FieldError::new("links[0].mtu", why));
    }
    let mut management = Management {
        mac,
        mtu: link.mtu,
        ..Management::default()
    };
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
    if none && management.refused.is_empty() {
        // A NIC without networks: ports without fixed addresses have none in the document either.
        management.dhcp4 = true;
    } else if none {
        let why = format!(
            "nothing of the first link can be used: {}",
            management.refused.join(", ")
        );
        return Err(FieldError::new("networks", why));
    }
    Ok(management)
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
                "ipv6_dhcp\" (not supported yet)",
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
}
