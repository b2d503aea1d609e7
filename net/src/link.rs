//! Links, addresses, routes and rules: the types, and the trait that the agent works with.

use crate::Result;
use crate::watch::Watch;
use ipnet::IpNet;
use krater_model::net::MacAddr;
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

/// The main routing table.
pub const TABLE_MAIN: u32 = 254;

/// A network interface as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// Ethernet address; none for links without one.
    pub mac: Option<MacAddr>,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier (and is up).
    pub carrier: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// `veth`, `bridge`, …; none for physical links and the loopback.
    pub kind: Option<String>,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Is the loopback.
    pub loopback: bool,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Index of the interface.
    pub link: u32,
    /// The address with its prefix length.
    pub net: IpNet,
    /// Who owns it: [`crate::PROTO_AGENT`], [`crate::PROTO_VRRP`], 0 for unknown, 1 to 3 for the kernel.
    pub protocol: u8,
    /// The kernel makes no route to the prefix.
    pub no_prefix_route: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Destination; `0.0.0.0/0` and `::/0` are the default routes.
    pub to: IpNet,
    /// Next hop; none means on link.
    pub via: Option<IpAddr>,
    /// Index of the outgoing interface.
    pub link: Option<u32>,
    /// Routing table, [`TABLE_MAIN`] unless wanted otherwise.
    pub table: u32,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// The next hop is reachable on this link whatever the addresses say.
    pub onlink: bool,
    /// Lower wins. None leaves it to the kernel: 0 for IPv4, 1024 for IPv6. A listed IPv6 route of
    /// metric 1024 reads as none, so that what was added compares equal to what is listed.
    pub metric: Option<u32>,
    /// Who owns it.
    pub protocol: u8,
}

impl Route {
    /// A route of the desired state on interface `link`, owned by `protocol`.
    pub fn of(route: &krater_model::state::Route, link: u32, protocol: u8) -> Self {
        Self {
            to: route.to.trunc(),
            via: route.via,
            link: Some(link),
            table: route.table,
            source: route.source,
            onlink: route.onlink,
            metric: None,
            protocol,
        }
    }
}

/// A routing rule: packets from `from` look into `table`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// Source prefix; a prefix of length 0 matches everything of its family.
    pub from: IpNet,
    /// Table to look into.
    pub table: u32,
    /// Preference, lower first.
    pub priority: u32,
    /// Who owns it.
    pub protocol: u8,
}

impl Rule {
    /// A rule of the desired state, owned by `protocol`.
    pub fn of(rule: &krater_model::state::Rule, protocol: u8) -> Self {
        Self {
            from: rule.from.trunc(),
            table: rule.table,
            priority: rule.priority,
            protocol,
        }
    }
}

/// A veth pair to make. The near end appears in the namespace of the control it is made through. The
/// far end is down: the kernel refuses to open it before the pair is complete (ENOTCONN).
#[derive(Debug, Clone)]
pub struct VethSpec<'a> {
    /// Name of the near end.
    pub name: &'a str,
    /// Its address; none: random.
    pub mac: Option<MacAddr>,
    /// Index of the bridge it becomes a port of.
    pub master: Option<u32>,
    /// MTU of both ends; none: 1500.
    pub mtu: Option<u32>,
    /// Near end up at once.
    pub up: bool,
    /// Name of the far end.
    pub peer: &'a str,
    /// Address of the far end; none: random.
    pub peer_mac: Option<MacAddr>,
    /// Namespace of the far end; none: the same.
    pub peer_netns: Option<BorrowedFd<'a>>,
}

/// What to change of a link; none leaves it. All in one request, so that a move and its new name are
/// one step.
#[derive(Debug, Clone, Default)]
pub struct LinkChange<'a> {
    /// New name. A link that is up cannot be renamed on kernels before 6.2, unless it moves.
    pub name: Option<&'a str>,
    /// New address.
    pub mac: Option<MacAddr>,
    /// New MTU in bytes.
    pub mtu: Option<u32>,
    /// Up or down.
    pub up: Option<bool>,
    /// Port of this bridge, or of none.
    pub master: Option<Option<u32>>,
    /// Namespace to move to. The link goes down, loses its addresses and may get another index.
    pub netns: Option<BorrowedFd<'a>>,
}

/// Control over the links of one namespace. Every method is one request or one dump; adding what is
/// there and deleting what is not are successes.
pub trait LinkControl: Send + Sync {
    /// All links.
    fn links(&self) -> impl Future<Output = Result<Vec<Link>>> + Send;
    /// Makes a veth pair. A name that exists is an error ([`crate::Error::is_exists`]).
    fn create_veth(&self, spec: &VethSpec<'_>) -> impl Future<Output = Result<()>> + Send;
    /// Makes a bridge without spanning tree, up. A name that exists is an error.
    fn create_bridge(
        &self,
        name: &str,
        mac: Option<MacAddr>,
        mtu: Option<u32>,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Changes a link.
    fn set_link(
        &self,
        index: u32,
        change: &LinkChange<'_>,
    ) -> impl Future<Output = Result<()>> + Send;
    /// Deletes a link; a veth takes its peer along.
    fn delete_link(&self, index: u32) -> impl Future<Output = Result<()>> + Send;
    /// All addresses of all links.
    fn addresses(&self) -> impl Future<Output = Result<Vec<Address>>> + Send;
    /// Adds an address with its tag; IPv6 without duplicate address detection. An address that exists
    /// gets the tag.
    fn add_address(&self, address: &Address) -> impl Future<Output = Result<()>> + Send;
    /// Deletes an address.
    fn delete_address(&self, address: &Address) -> impl Future<Output = Result<()>> + Send;
    /// All unicast routes of all tables but `local`.
    fn routes(&self) -> impl Future<Output = Result<Vec<Route>>> + Send;
    /// Makes this *the* route to its destination in its table with its metric: another one there is
    /// replaced.
    fn add_route(&self, route: &Route) -> impl Future<Output = Result<()>> + Send;
    /// Deletes a route; one of another owner is left alone.
    fn delete_route(&self, route: &Route) -> impl Future<Output = Result<()>> + Send;
    /// All rules that select a table by source.
    fn rules(&self) -> impl Future<Output = Result<Vec<Rule>>> + Send;
    /// Adds a rule.
    fn add_rule(&self, rule: &Rule) -> impl Future<Output = Result<()>> + Send;
    /// Deletes a rule; one of another owner is left alone.
    fn delete_rule(&self, rule: &Rule) -> impl Future<Output = Result<()>> + Send;
    /// Events of links and addresses from now on. Subscribe first, then list: nothing is missed.
    fn watch(&self) -> Result<Watch>;

    /// The link of this name.
    fn link_by_name(&self, name: &str) -> impl Future<Output = Result<Option<Link>>> + Send {
        async move { Ok(self.links().await?.into_iter().find(|l| l.name == name)) }
    }
    /// The first link with this address that is not a bridge (a bridge takes the address of a port).
    fn link_by_mac(&self, mac: MacAddr) -> impl Future<Output = Result<Option<Link>>> + Send {
        async move {
            let bridge = |l: &Link| l.kind.as_deref() == Some("bridge");
            let links = self.links().await?;
            Ok(links.into_iter().find(|l| l.mac == Some(mac) && !bridge(l)))
        }
    }
    /// Up.
    fn up(&self, index: u32) -> impl Future<Output = Result<()>> + Send {
        async move {
            let change = LinkChange {
                up: Some(true),
                ..LinkChange::default()
            };
            self.set_link(index, &change).await
        }
    }
    /// Down.
    fn down(&self, index: u32) -> impl Future<Output = Result<()>> + Send {
        async move {
            let change = LinkChange {
                up: Some(false),
                ..LinkChange::default()
            };
            self.set_link(index, &change).await
        }
    }
}
