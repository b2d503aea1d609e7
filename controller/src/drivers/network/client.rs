//! Clients and members on a network of ours: a namespace with one address, for `krater net`.
//!
//! Addresses come from host numbers 200 to 250 of the subnet ([`RESERVED`]), which address allocation
//! never gives out, or are named. A namespace carries the process that made it in its name, so that
//! the next call removes what a killed one left.

use super::local::{Segment, has_ipv6, segments};
use crate::db::query::network::RESERVED;
use crate::drivers::layout::Layout;
use crate::files;
use ipnet::IpNet;
use krater_model::MacAddr;
use krater_model::net::everything;
use krater_net::link::{Address, Route, TABLE_MAIN, VethSpec};
use krater_net::netns::NetNs;
use krater_net::process::ProcessId;
use krater_net::sync::NetlinkSocket;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;

/// Name of the NIC inside.
const NIC: &str = "eth0";

/// A namespace on a network. Dropping it ends what runs inside and removes it.
#[derive(Debug)]
pub struct Client {
    layout: Layout,
    name: String,
    netns: NetNs,
    addresses: Vec<IpNet>,
    /// Held as long as the addresses are in use.
    _locks: Vec<Flock<File>>,
}

impl Client {
    /// Makes a namespace on the network called `network` (name or id), at `wish` or at a free address
    /// of the reserved range. One per process.
    pub fn new(layout: &Layout, network: &str, wish: Option<IpAddr>) -> io::Result<Self> {
        sweep(layout)?;
        let segment = segment(layout, network)?;
        let (addresses, locks) = choose(layout, &segment, wish)?;
        let me = ProcessId::of(std::process::id())?;
        let name = format!("{}-c-{}-{}", layout.instance(), me.pid, me.started);
        let netns = NetNs::create(&layout.netns_dir().join(&name))?;
        let client = Self {
            layout: layout.clone(),
            name,
            netns,
            addresses,
            _locks: locks,
        };
        client.connect(&segment, me.pid)?;
        Ok(client)
    }

    /// Where it is.
    pub const fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its addresses; the wished or chosen one first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(IpNet::addr)
    }

    fn connect(&self, segment: &Segment, pid: u32) -> io::Result<()> {
        let fabric = NetlinkSocket::open_in(&self.layout.open_fabric()?)?;
        let missing = || {
            let text = format!(
                "bridge {} is not in the fabric: restart `krater up`",
                segment.bridge
            );
            io::Error::other(text)
        };
        let bridge = fabric.link_by_name(&segment.bridge)?.ok_or_else(missing)?;
        fabric.create_veth(&VethSpec {
            name: &format!("c{pid}"),
            mac: None,
            master: Some(bridge.index),
            mtu: Some(u32::from(segment.mtu)),
            up: true,
            peer: NIC,
            peer_mac: self.addresses.first().map(|net| mac(net.addr())),
            peer_netns: Some(self.netns.as_fd()),
        })?;
        if has_ipv6() {
            // Its link-local address must be usable at once.
            krater_net::sysctl::write(&self.netns, "net/ipv6/conf/eth0/accept_dad", "0")?;
        }
        // Ping by anybody: what runs here is not always root's.
        krater_net::sysctl::write(&self.netns, "net/ipv4/ping_group_range", "0 2147483647")?;
        let inside = NetlinkSocket::open_in(&self.netns)?;
        let nic = inside.link_by_name(NIC)?.ok_or_else(missing)?;
        inside.set_up(nic.index, true)?;
        for net in &self.addresses {
            inside.add_address(&Address {
                link: nic.index,
                net: *net,
                protocol: 0,
                no_prefix_route: false,
            })?;
            let gateway = segment
                .gateways
                .iter()
                .find(|gateway| gateway.contains(&net.addr()));
            if let Some(gateway) = gateway {
                inside.add_route(&Route {
                    to: everything(gateway.addr()),
                    via: Some(gateway.addr()),
                    link: Some(nic.index),
                    table: TABLE_MAIN,
                    source: None,
                    onlink: false,
                    metric: None,
                    protocol: 4, // RTPROT_STATIC
                })?;
            }
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let names = [std::mem::take(&mut self.name)];
        if let Err(error) = self.layout.remove_namespaces(&names) {
            tracing::warn!(%error, namespace = names[0], "a client namespace was not removed");
        }
    }
}

/// A locally administered MAC address that follows from the address: the same member comes back with
/// the same one, and no neighbour has to learn.
fn mac(address: IpAddr) -> MacAddr {
    let [a, b, c, d] = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    MacAddr([0x06, 0, a, b, c, d])
}

fn segment(layout: &Layout, network: &str) -> io::Result<Segment> {
    let known = segments(layout)?;
    let names: Vec<_> = known.iter().map(|s| s.name.clone()).collect();
    let wanted = |s: &Segment| s.name == network || s.id.to_string() == network;
    known.into_iter().find(wanted).ok_or_else(|| {
        let text = format!(
            "there is no network {network:?}; there are {}",
            names.join(", ")
        );
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

type Chosen = (Vec<IpNet>, Vec<Flock<File>>);

fn choose(layout: &Layout, segment: &Segment, wish: Option<IpAddr>) -> io::Result<Chosen> {
    let used = addresses_in_use(layout)?;
    let try_take = |net: IpNet| -> io::Result<Option<Flock<File>>> {
        if used.contains(&net.addr()) {
            return Ok(None);
        }
        take(layout, net.addr())
    };
    if let Some(address) = wish {
        let subnet = segment
            .gateways
            .iter()
            .find(|gateway| gateway.contains(&address));
        let subnet = subnet.ok_or_else(|| {
            let subnets: Vec<_> = segment
                .gateways
                .iter()
                .map(|g| g.trunc().to_string())
                .collect();
            let subnets = subnets.join(" and ");
            invalid(format!(
                "{address} is not on network {}: use {subnets}",
                segment.name
            ))
        })?;
        let net = IpNet::new(address, subnet.prefix_len()).map_err(io::Error::other)?;
        let lock = try_take(net)?.ok_or_else(|| {
            let text = format!("{address} is in use on network {}", segment.name);
            io::Error::new(io::ErrorKind::AddrInUse, text)
        })?;
        let (mut addresses, mut locks) = (vec![net], vec![lock]);
        // The other family too, where the host number is nobody else's.
        if let Some(number) = host_number(net).filter(|number| RESERVED.contains(number)) {
            for other in
                at(segment, number).filter(|other| other.addr().is_ipv4() != address.is_ipv4())
            {
                if let Some(lock) = try_take(other)? {
                    addresses.push(other);
                    locks.push(lock);
                }
            }
        }
        return Ok((addresses, locks));
    }
    for number in RESERVED {
        let (mut addresses, mut locks) = (Vec::new(), Vec::new());
        for net in at(segment, number) {
            if let Some(lock) = try_take(net)? {
                addresses.push(net);
                locks.push(lock);
            }
        }
        if !addresses.is_empty() && addresses.len() == at(segment, number).count() {
            return Ok((addresses, locks));
        }
    }
    Err(invalid(format!(
        "no free address among host numbers {} to {} of network {}: name one by --ip",
        RESERVED.start(),
        RESERVED.end(),
        segment.name
    )))
}

/// The address with this host number in each subnet that has one.
fn at(segment: &Segment, number: u128) -> impl Iterator<Item = IpNet> + '_ {
    segment.gateways.iter().filter_map(move |gateway| {
        if gateway.addr().is_ipv6() && !has_ipv6() {
            return None;
        }
        let address: IpAddr = match gateway.network() {
            IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) + u32::try_from(number).ok()?).into(),
            IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) + number).into(),
        };
        let inside = gateway.contains(&address)
            && address != gateway.addr()
            && address != gateway.broadcast();
        inside.then(|| IpNet::new(address, gateway.prefix_len()).ok())?
    })
}

fn host_number(net: IpNet) -> Option<u128> {
    match (net.addr(), net.network()) {
        (IpAddr::V4(a), IpAddr::V4(n)) => Some(u128::from(u32::from(a) - u32::from(n))),
        (IpAddr::V6(a), IpAddr::V6(n)) => Some(u128::from(a) - u128::from(n)),
        _ => None,
    }
}

/// Takes the address among the processes of `krater net`; the lock ends with the process.
fn take(layout: &Layout, address: IpAddr) -> io::Result<Option<Flock<File>>> {
    let folder = layout.state_dir().join("clients");
    files::private_dir(&folder)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(address.to_string()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Addresses that somebody in a namespace of this instance has: amphorae, clients, gateways.
fn addresses_in_use(layout: &Layout) -> io::Result<Vec<IpAddr>> {
    let mut used = Vec::new();
    for name in layout.pinned()? {
        // What goes away while we look is not in use.
        let Ok(netns) = NetNs::open(&layout.netns_dir().join(name)) else {
            continue;
        };
        let addresses = NetlinkSocket::open_in(&netns)?.addresses()?;
        used.extend(addresses.into_iter().map(|address| address.net.addr()));
    }
    Ok(used)
}

/// The process that owns a client namespace, by its name.
fn owner(layout: &Layout, name: &str) -> Option<ProcessId> {
    let rest = name.strip_prefix(layout.instance())?.strip_prefix("-c-")?;
    let (pid, started) = rest.split_once('-')?;
    Some(ProcessId {
        pid: pid.parse().ok()?,
        started: started.parse().ok()?,
    })
}

/// Client namespaces with their owners.
pub fn clients(layout: &Layout) -> io::Result<Vec<(String, ProcessId)>> {
    let names = layout.pinned()?.into_iter();
    let owned = names.filter_map(|name| owner(layout, &name).map(|owner| (name, owner)));
    Ok(owned.collect())
}

/// Removes the client namespaces of processes that live no more; returns how many.
pub fn sweep(layout: &Layout) -> io::Result<usize> {
    let mut dead = clients(layout)?;
    dead.retain(|(_, owner)| !owner.is_alive());
    let names: Vec<_> = dead.into_iter().map(|(name, _)| name).collect();
    layout.remove_namespaces(&names)?;
    Ok(names.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::network::local::LocalNetworks;
    use crate::drivers::network::{Network, Networks as _};
    use crate::drivers::testing::TestState;
    use krater_model::NetworkId;

    struct Host {
        layout: Layout,
        _state: TestState,
    }

    impl Host {
        fn new() -> Self {
            let state = TestState::new();
            let layout = state.layout.clone();
            let network = Network {
                id: NetworkId::random(),
                name: "tenant".into(),
                mtu: 1500,
                gateways: vec![
                    "192.0.2.1/24".parse().unwrap(),
                    "2001:db8:2::1/64".parse().unwrap(),
                ],
                management: false,
            };
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let driver = LocalNetworks::new(layout.clone());
            runtime.block_on(driver.ensure(vec![network])).unwrap();
            Self {
                layout,
                _state: state,
            }
        }
    }

    #[test]
    fn a_client_reaches_the_gateway_in_both_families_and_leaves_nothing() {
        let host = Host::new();
        let client = Client::new(&host.layout, "tenant", None).unwrap();
        let texts: Vec<_> = client.addresses().map(|a| a.to_string()).collect();
        assert_eq!(texts, ["192.0.2.200", "2001:db8:2::c8"]);
        let fabric = host.layout.open_fabric().unwrap();
        for gateway in ["192.0.2.1:0", "[2001:db8:2::1]:0"] {
            let listener = fabric.tcp_listener(gateway.parse().unwrap()).unwrap();
            let at = listener.local_addr().unwrap();
            let patience = std::time::Duration::from_secs(5);
            client.netns().tcp_connect(at, patience).unwrap();
        }
        let taken = choose(
            &host.layout,
            &segment(&host.layout, "tenant").unwrap(),
            None,
        )
        .unwrap();
        assert_eq!(taken.0[0].addr().to_string(), "192.0.2.201");
        drop(client);
        assert_eq!(host.layout.pinned().unwrap().len(), 1);
        let links = NetlinkSocket::open_in(&fabric).unwrap().links().unwrap();
        assert!(
            links.iter().all(|link| !link.name.starts_with('c')),
            "{links:?}"
        );
    }

    #[test]
    fn wishes_that_cannot_be_met_are_explained() {
        let host = Host::new();
        let error = |network: &str, ip: &str| {
            let wish = Some(ip.parse().unwrap());
            Client::new(&host.layout, network, wish)
                .unwrap_err()
                .to_string()
        };
        assert!(error("public", "192.0.2.9").contains("there are tenant"));
        assert!(error("tenant", "203.0.113.9").contains("use 192.0.2.0/24 and 2001:db8:2::/64"));
        assert!(error("tenant", "192.0.2.1").contains("in use"));
        let client = Client::new(&host.layout, "tenant", Some([192, 0, 2, 10].into())).unwrap();
        assert_eq!(
            client.addresses().count(),
            1,
            "host number 10 may be an amphora's in IPv6"
        );
        let lock = take(&host.layout, [192, 0, 2, 10].into()).unwrap();
        assert!(lock.is_none());
    }

    #[test]
    fn what_a_killed_client_left_is_removed_with_its_processes() {
        let host = Host::new();
        let layout = &host.layout;
        let name = format!("{}-c-1-999999999", layout.instance()); // no such process
        let netns = NetNs::create(&layout.netns_dir().join(&name)).unwrap();
        let mut orphan = krater_net::process::spawn_detached(&krater_net::process::Detached {
            program: std::path::Path::new("/bin/sleep"),
            args: &["1000".into()],
            netns: &netns,
            stderr: None,
        })
        .unwrap();
        let me = ProcessId::of(std::process::id()).unwrap();
        let living = format!("{}-c-{}-{}", layout.instance(), me.pid, me.started);
        NetNs::create(&layout.netns_dir().join(&living)).unwrap();
        assert_eq!(sweep(layout).unwrap(), 1);
        assert!(!orphan.wait().unwrap().success());
        let left: Vec<_> = clients(layout)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(left, [living]);
    }
}
