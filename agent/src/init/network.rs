//! The management NIC: found, brought up, configured as the config drive or a DHCP server says.

use super::console::say;
use super::{Fault, clock};
use ipnet::IpNet;
use krater_model::guest::dhcp::packet::NotTaken;
use krater_model::guest::dhcp::{Client, Lease, Output};
use krater_model::guest::network_data::{Management, Tag, Vlan};
use krater_net::dhcp::DhcpSockets;
use krater_net::link::{Address, Link, LinkChange, Route, TABLE_MAIN};
use krater_net::sync::NetlinkSocket;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// `RTPROT_BOOT` and `RTPROT_DHCP`: who made a route in the management namespace.
const BOOT: u8 = 3;
const DHCP: u8 = 16;
/// Packets that are taken at once, so that a flood leaves time for other things.
const AT_ONCE: usize = 16;
/// Larger than any packet of Ethernet.
const BUFFER: usize = 2_048;
/// Unanswered messages between two lines on the console: one at once, then every few minutes.
const TELL_EVERY: u32 = 4;

/// The loopback: nothing works without it.
pub(super) fn loopback() {
    let up = NetlinkSocket::open().and_then(|netlink| netlink.set_up(1, true));
    if let Err(error) = up {
        say(format_args!("loopback: {error}"));
    }
}

/// The management NIC among those that are there.
pub(super) fn find(
    netlink: &NetlinkSocket,
    wanted: &Management,
) -> krater_net::Result<Option<Link>> {
    let mut links = netlink.links()?;
    links.retain(|link| !link.loopback && link.mac.is_some() && link.kind.is_none());
    links.sort_by_key(|link| link.index);
    let fits = |link: &Link| wanted.mac.is_none() || link.mac == wanted.mac;
    Ok(links.into_iter().find(fits))
}

/// That it is not there.
pub(super) fn missing(netlink: &NetlinkSocket, wanted: &Management) -> Fault {
    let links = netlink.links().unwrap_or_default();
    let seen: Vec<String> = links
        .iter()
        .filter(|link| !link.loopback)
        .filter_map(|link| Some(format!("{} {}", link.name, link.mac?)))
        .collect();
    let seen = if seen.is_empty() {
        "none".into()
    } else {
        seen.join(", ")
    };
    let wanted = match wanted.mac {
        Some(mac) => format!("no NIC has the address {mac} of the first link in network_data.json"),
        None => "there is no NIC".into(),
    };
    Fault::new(
        "network",
        format!("{wanted} (NICs: {seen}): plug it in, as virtio"),
    )
}

/// The management NIC as it was configured, and what keeps it so.
#[derive(Debug)]
pub(super) struct Network {
    netlink: NetlinkSocket,
    link: Link,
    /// Asks for an address.
    asking: Option<Asking>,
    /// VLANs of NICs, whether they are there yet or not.
    vlans: Vec<Vlan>,
}

#[derive(Debug)]
struct Asking {
    client: Client,
    sockets: DhcpSockets,
    /// What is configured.
    lease: Option<Lease>,
}

impl Network {
    /// Brings the NIC up, or the interface of its VLAN, and configures what needs no server.
    pub(super) fn start(
        netlink: NetlinkSocket,
        nic: Link,
        wanted: &Management,
        host_name: Option<&str>,
    ) -> Result<Self, Fault> {
        for why in &wanted.refused {
            say(format_args!("NIC {}: {why}", nic.name));
        }
        let link = match &wanted.tag {
            None => nic,
            Some(tag) => tagged(&netlink, &nic, tag).map_err(|error| {
                Fault::new(
                    "network",
                    format!("NIC {}: VLAN {}: {error}", nic.name, tag.id),
                )
            })?,
        };
        let fault =
            |what: &dyn Display| Fault::new("network", format!("NIC {}: {what}", link.name));
        router_advertisements(&link.name, wanted.slaac);
        let change = LinkChange {
            up: Some(true),
            mtu: wanted.mtu,
            ..LinkChange::default()
        };
        netlink
            .set_link(link.index, &change)
            .map_err(|error| fault(&error))?;
        if wanted.slaac {
            say(format_args!(
                "NIC {} ({}) takes the addresses that routers advertise (SLAAC)",
                link.name,
                shown_mac(&link)
            ));
        }
        for net in &wanted.addresses {
            let address = Address {
                link: link.index,
                net: *net,
                protocol: 0,
                no_prefix_route: false,
            };
            netlink
                .add_address(&address)
                .map_err(|error| fault(&error))?;
            say(format_args!(
                "NIC {} ({}) has {net}",
                link.name,
                shown_mac(&link)
            ));
        }
        for route in &wanted.routes {
            let onlink = route
                .via
                .is_some_and(|via| !wanted.addresses.iter().any(|net| net.contains(&via)));
            let route = Route {
                to: route.to,
                via: route.via,
                link: Some(link.index),
                table: TABLE_MAIN,
                source: None,
                onlink,
                metric: None,
                protocol: BOOT,
            };
            netlink.add_route(&route).map_err(|error| fault(&error))?;
        }
        let asking = match link.mac.filter(|_| wanted.dhcp4) {
            None => None,
            Some(mac) => {
                let sockets =
                    DhcpSockets::open(link.index, &link.name).map_err(|error| fault(&error))?;
                let seed = seed();
                say(format_args!(
                    "NIC {} ({mac}) asks for an address (DHCP)",
                    link.name
                ));
                Some(Asking {
                    client: Client::new(mac, host_name.map(str::to_owned), seed, now()),
                    sockets,
                    lease: None,
                })
            }
        };
        let network = Self {
            netlink,
            link,
            asking,
            vlans: wanted.vlans.clone(),
        };
        network.vlans();
        Ok(network)
    }

    /// Makes the VLANs of the NICs that are there. The agent finds their interfaces by address, like NICs, and may have
    /// moved them away: the kernel then knows that there is one.
    pub(super) fn vlans(&self) {
        if self.vlans.is_empty() {
            return;
        }
        let links = match self.netlink.links() {
            Ok(links) => links,
            Err(error) => return say(format_args!("VLANs: {error}")),
        };
        for vlan in &self.vlans {
            let carries = |link: &&Link| link.mac == Some(vlan.nic) && link.kind.is_none();
            let Some(nic) = links.iter().find(carries) else {
                continue;
            };
            match self.vlan(nic, vlan) {
                Ok(()) => {}
                Err(error) if error.is_exists() => {}
                Err(error) => say(format_args!("NIC {}: {error}", nic.name)),
            }
        }
    }

    fn vlan(&self, nic: &Link, vlan: &Vlan) -> krater_net::Result<()> {
        let name = vlan_name(nic, vlan.id);
        self.netlink
            .create_vlan(&name, nic.index, vlan.id, Some(vlan.mac))?;
        say(format_args!(
            "NIC {} ({}) carries VLAN {} as {name} ({})",
            nic.name, vlan.nic, vlan.id, vlan.mac
        ));
        if nic.index != self.link.index {
            carry(&self.netlink, nic)?;
        }
        match (vlan.mtu, self.netlink.link_by_name(&name)?) {
            (Some(mtu), Some(link)) => {
                let change = LinkChange {
                    mtu: Some(mtu),
                    ..LinkChange::default()
                };
                self.netlink.set_link(link.index, &change)
            }
            _ => Ok(()),
        }
    }

    /// What polls readable when a packet for [`Self::receive`] is there.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.asking.as_ref().map(|asking| asking.sockets.as_fd())
    }

    /// How long nothing is due.
    pub(super) fn idle(&self) -> Option<Duration> {
        let due = self.asking.as_ref()?.client.due();
        Some(due.saturating_sub(now()))
    }

    /// Does what is due.
    pub(super) fn tick(&mut self) {
        let Some(asking) = &mut self.asking else {
            return;
        };
        let outputs = asking.client.tick(now());
        if !outputs.is_empty() {
            let unanswered = asking.client.unanswered();
            if asking.lease.is_none() && unanswered % TELL_EVERY == 0 && unanswered > 0 {
                say(format_args!(
                    "NIC {}: no DHCP server has answered {unanswered} messages; asking on",
                    self.link.name
                ));
            }
            self.carry_out(outputs);
        }
    }

    /// Takes the packets that are there.
    pub(super) fn receive(&mut self) {
        let mut buffer = [0; BUFFER];
        for _ in 0..AT_ONCE {
            let Some(asking) = &mut self.asking else {
                return;
            };
            let packet = match asking.sockets.receive(&mut buffer) {
                Ok(Some(packet)) => packet,
                Ok(None) => return,
                Err(error) => return say(format_args!("NIC {}: DHCP: {error}", self.link.name)),
            };
            match asking.client.receive(packet, now()) {
                Ok(outputs) => self.carry_out(outputs),
                Err(NotTaken::NotOurs) => {}
                Err(error) => say(format_args!(
                    "NIC {}: DHCP answer not taken: {error}",
                    self.link.name
                )),
            }
        }
    }

    /// Gives the address back before the machine ends.
    pub(super) fn release(&mut self) {
        if let Some(release) = self
            .asking
            .as_mut()
            .and_then(|asking| asking.client.release())
        {
            self.carry_out(vec![release]);
        }
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            if let Err(error) = self.one(output) {
                say(format_args!("NIC {}: DHCP: {error}", self.link.name));
            }
        }
    }

    fn one(&mut self, output: Output) -> io::Result<()> {
        let Some(asking) = &mut self.asking else {
            return Ok(());
        };
        match output {
            Output::Broadcast(packet) => asking.sockets.broadcast(&packet),
            Output::Unicast(server, message) => {
                let own = asking.lease.as_ref().map(|lease| lease.address.addr());
                asking
                    .sockets
                    .unicast(own.unwrap_or(Ipv4Addr::UNSPECIFIED), server, &message)
            }
            Output::Configure(lease) => {
                let old = asking.lease.replace(lease.clone());
                self.configure(old, &lease)
            }
            Output::Deconfigure(why) => {
                let Some(lease) = asking.lease.take() else {
                    return Ok(());
                };
                say(format_args!(
                    "NIC {}: {} is gone: {why}",
                    self.link.name, lease.address
                ));
                Ok(self.netlink.delete_address(&self.address(&lease))?)
            }
        }
    }

    fn configure(&self, old: Option<Lease>, lease: &Lease) -> io::Result<()> {
        if let Some(mtu) = lease.mtu {
            let change = LinkChange {
                mtu: Some(mtu.into()),
                ..LinkChange::default()
            };
            // The address works with another MTU too.
            if let Err(error) = self.netlink.set_link(self.link.index, &change) {
                say(format_args!(
                    "NIC {}: MTU {mtu} of the DHCP server: {error}",
                    self.link.name
                ));
            }
        }
        self.netlink.add_address(&self.address(lease))?;
        if let Some(old) = old {
            for route in old
                .routes
                .iter()
                .filter(|route| !lease.routes.contains(route))
            {
                self.netlink.delete_route(&self.route(&old, route))?;
            }
            if old.address != lease.address {
                self.netlink.delete_address(&self.address(&old))?;
            }
        }
        for route in &lease.routes {
            // One that the kernel refuses (its router is nobody's neighbour) must not cost the others.
            if let Err(error) = self.netlink.add_route(&self.route(lease, route)) {
                say(format_args!(
                    "NIC {}: route of the DHCP server: {error}",
                    self.link.name
                ));
            }
        }
        let lasts = lease
            .lasts
            .map_or_else(|| "for ever".into(), |t| format!("for {} s", t.as_secs()));
        say(format_args!(
            "NIC {} ({}) has {} {lasts}, by DHCP of {}",
            self.link.name,
            shown_mac(&self.link),
            lease.address,
            lease.server
        ));
        Ok(())
    }

    const fn address(&self, lease: &Lease) -> Address {
        Address {
            link: self.link.index,
            net: IpNet::V4(lease.address),
            protocol: 0,
            no_prefix_route: false,
        }
    }

    fn route(&self, lease: &Lease, route: &krater_model::guest::dhcp::Route) -> Route {
        Route {
            to: route.to.into(),
            via: route.via.map(Into::into),
            link: Some(self.link.index),
            table: TABLE_MAIN,
            source: None,
            // Clouds that give addresses of length 32 have routers outside of it.
            onlink: route.via.is_some_and(|via| !lease.address.contains(&via)),
            metric: None,
            protocol: DHCP,
        }
    }
}

/// The interface of a VLAN; at most 15 bytes, so that a long name of a NIC loses its end.
fn vlan_name(nic: &Link, id: u16) -> String {
    const LONGEST: usize = 15;
    let tail = format!(".{id}");
    let head: String = nic.name.chars().take(LONGEST - tail.len()).collect();
    head + &tail
}

/// Makes the interface of the management VLAN.
fn tagged(netlink: &NetlinkSocket, nic: &Link, tag: &Tag) -> io::Result<Link> {
    let name = vlan_name(nic, tag.id);
    match netlink.create_vlan(&name, nic.index, tag.id, tag.mac) {
        Err(error) if !error.is_exists() => return Err(error.into()),
        _ => {}
    }
    carry(netlink, nic)?;
    let made = netlink.link_by_name(&name)?;
    made.ok_or_else(|| io::Error::other(format!("{name} vanished")))
}

/// Up, so that its VLANs have a carrier, and mute itself.
fn carry(netlink: &NetlinkSocket, nic: &Link) -> krater_net::Result<()> {
    router_advertisements(&nic.name, false);
    set_parameter(&format!("net/ipv6/conf/{}/disable_ipv6", nic.name), "1");
    netlink.set_up(nic.index, true)
}

/// Before the NIC is up, so that nothing is taken that was not wanted.
fn router_advertisements(name: &str, take: bool) {
    let value = if take { "1" } else { "0" };
    for key in ["accept_ra", "autoconf"] {
        set_parameter(&format!("net/ipv6/conf/{name}/{key}"), value);
    }
}

fn set_parameter(path: &str, value: &str) {
    match clock::parameter(path, value) {
        // A kernel without IPv6.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            say(format_args!("parameter {path}: {error}"));
        }
        _ => {}
    }
}

/// From the kernel: the cryptographic library's first number takes seconds under emulation.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    let _ = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    u64::from_ne_bytes(bytes)
}

fn shown_mac(link: &Link) -> String {
    link.mac.map(|mac| mac.to_string()).unwrap_or_default()
}

/// Time since boot.
fn now() -> Duration {
    Duration::from_micros(crate::clock::boot_us())
}
