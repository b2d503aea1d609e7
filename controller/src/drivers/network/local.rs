//! Networks as Linux bridges in two namespaces of ours. Nothing outside them changes.
//!
//! | namespace | what |
//! |---|---|
//! | fabric | a bridge for each network, and routing between them; amphorae, clients and members are its ports |
//! | management | the bridge between the controller and the agents |
//!
//! Nothing connects the two: no rule that could be forgotten, no address of one that the other could
//! answer for.

use super::{Error, Network, Networks};
use crate::drivers::layout::{Layout, MANAGEMENT_BRIDGE, bridge_name};
use crate::files;
use futures_util::future::BoxFuture;
use ipnet::IpNet;
use krater_model::{MacAddr, NetworkId};
use krater_net::link::{Address, LinkChange};
use krater_net::netns::NetNs;
use krater_net::sync::NetlinkSocket;
use krater_net::sysctl;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::AsFd as _;

/// See the module.
#[derive(Debug)]
pub struct LocalNetworks {
    layout: Layout,
}

impl LocalNetworks {
    /// A driver for this state folder.
    pub const fn new(layout: Layout) -> Self {
        Self { layout }
    }
}

impl Networks for LocalNetworks {
    fn ensure(&self, networks: Vec<Network>) -> BoxFuture<'_, Result<(), Error>> {
        let layout = self.layout.clone();
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || ensure(&layout, &networks)).await;
            let done = done.unwrap_or_else(|panic| Err(io::Error::other(panic)));
            done.map_err(|error| Error {
                what: "make the fabric and its bridges".into(),
                source: error.into(),
            })
        })
    }
}

/// A network as `krater net` needs to know it: `networks.json` in the state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Which.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// In bytes.
    pub mtu: u16,
    /// Bridge in the fabric.
    pub bridge: String,
    /// Gateway address with prefix length of each subnet.
    pub gateways: Vec<IpNet>,
}

/// The networks that the controller of this state folder has made, without the management network.
pub fn segments(layout: &Layout) -> io::Result<Vec<Segment>> {
    let path = layout.networks_file();
    let text = std::fs::read(&path).map_err(|error| {
        let text = format!("{}: {error}: start `krater up` first", path.display());
        io::Error::new(error.kind(), text)
    })?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

fn ensure(layout: &Layout, networks: &[Network]) -> io::Result<()> {
    let fabric = NetNs::ensure(&layout.fabric())?;
    routing(&fabric)?;
    let netlink = NetlinkSocket::open_in(&fabric)?;
    let (management, routed): (Vec<&Network>, Vec<&Network>) =
        networks.iter().partition(|network| network.management);
    for network in &routed {
        bridge(&netlink, network)?;
    }
    if !management.is_empty() {
        let netns = NetNs::ensure(&layout.management())?;
        not_routing(&netns)?;
        let inside = NetlinkSocket::open_in(&netns)?;
        for network in management {
            bridge(&inside, network)?;
        }
        move_out(&netlink, &netns, &inside)?;
    }
    let segment = |network: &&Network| Segment {
        id: network.id,
        name: network.name.clone(),
        mtu: network.mtu,
        bridge: bridge_name(network.id, false),
        gateways: network.gateways.clone(),
    };
    let mut all = segments(layout).unwrap_or_default();
    all.retain(|known| {
        known.bridge != MANAGEMENT_BRIDGE && networks.iter().all(|network| network.id != known.id)
    });
    all.extend(routed.iter().map(segment));
    let text = serde_json::to_vec_pretty(&all).map_err(io::Error::other)?;
    files::write_private(&layout.networks_file(), &text)
}

/// Earlier versions had the management network in the fabric. Its ports come over, so that the agents
/// behind them stay in touch, and its bridge goes.
fn move_out(fabric: &NetlinkSocket, management: &NetNs, inside: &NetlinkSocket) -> io::Result<()> {
    let Some(old) = fabric.link_by_name(MANAGEMENT_BRIDGE)? else {
        return Ok(());
    };
    let missing = |name: &str| io::Error::other(format!("{name} is not in the management network"));
    let bridge = inside.link_by_name(MANAGEMENT_BRIDGE)?;
    let bridge = bridge.ok_or_else(|| missing(MANAGEMENT_BRIDGE))?.index;
    let mut ports = fabric.links()?;
    ports.retain(|link| link.master == Some(old.index));
    for port in ports {
        let away = LinkChange {
            netns: Some(management.as_fd()),
            ..LinkChange::default()
        };
        fabric.set_link(port.index, &away)?;
    }
    // Also those that moved before a crash; nothing else is in that namespace.
    for link in inside.links()? {
        if !link.loopback && link.index != bridge && link.master.is_none() {
            let plugged = LinkChange {
                master: Some(Some(bridge)),
                up: Some(true),
                ..LinkChange::default()
            };
            inside.set_link(link.index, &plugged)?;
        }
    }
    fabric.delete_link(old.index)?;
    Ok(())
}

/// Whatever the host's defaults are, management traffic goes from the controller to agents and back.
fn not_routing(management: &NetNs) -> io::Result<()> {
    sysctl::write(management, "net/ipv4/ip_forward", "0")?;
    if has_ipv6() {
        sysctl::write_all(
            management,
            &[
                ("net/ipv6/conf/all/forwarding", "0"),
                ("net/ipv6/conf/default/accept_ra", "0"),
            ],
        )?;
    }
    Ok(())
}

fn routing(fabric: &NetNs) -> io::Result<()> {
    sysctl::write_all(
        fabric,
        &[
            // A new namespace may inherit the host's; traffic of a VIP comes and goes different ways.
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/ip_forward", "1"),
        ],
    )?;
    if !has_ipv6() {
        return Ok(());
    }
    sysctl::write_all(
        fabric,
        &[
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ],
    )
}

/// Whether the kernel has IPv6 at all; without it IPv6 subnets exist on paper alone.
pub fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

fn bridge(netlink: &NetlinkSocket, network: &Network) -> io::Result<()> {
    let name = bridge_name(network.id, network.management);
    // An address of its own: without one a bridge takes that of a port, and changes it as ports come
    // and go, under the feet of everybody who uses it as gateway.
    let [a, b, c, d, e, ..] = *network.id.0.as_bytes();
    let mac = MacAddr([0x02, a, b, c, d, e]);
    match netlink.create_bridge(&name, Some(mac), Some(u32::from(network.mtu))) {
        Err(error) if error.is_exists() => {}
        made => made?,
    }
    let missing = || io::Error::other(format!("bridge {name} vanished"));
    let link = netlink.link_by_name(&name)?.ok_or_else(missing)?;
    if !link.up {
        netlink.set_up(link.index, true)?;
    }
    for gateway in &network.gateways {
        if gateway.addr().is_ipv6() && !has_ipv6() {
            continue;
        }
        netlink.add_address(&Address {
            link: link.index,
            net: *gateway,
            protocol: 0,
            no_prefix_route: false,
        })?;
    }
    Ok(())
}
