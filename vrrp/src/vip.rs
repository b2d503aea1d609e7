//! What follows the Active role in the kernel: addresses, routes, rules, all tagged as vrrp's.

use crate::vmac;
use ipnet::IpNet;
use krater_net::link::{Address, Route, Rule};
use krater_net::sync::NetlinkSocket;
use krater_net::{PROTO_VRRP, Result, filter};
use krater_vrrp_proto::{Belongings, Router};
use tracing::debug;

/// Where addresses are, and what routes go through: the same link, unless the router has a virtual MAC address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) addresses: u32,
    pub(crate) routes: u32,
}

/// Installs: addresses, then routes that may use them as source, then rules. Goes on
/// after a failure and answers the first.
pub(crate) fn add(netlink: &NetlinkSocket, place: Place, wanted: &Belongings) -> Result<()> {
    let addresses = addresses(place, wanted).map(|a| netlink.add_address(&a));
    let routes = wanted.routes.iter();
    let routes = routes.map(|r| netlink.add_route(&Route::of(r, place.routes, PROTO_VRRP)));
    let rules = wanted.rules.iter();
    let rules = rules.map(|r| netlink.add_rule(&Rule::of(r, PROTO_VRRP)));
    collect(addresses.chain(routes).chain(rules))
}

/// What the interface needs before it has a router's addresses. Where it is not permitted, things go on without.
pub(crate) fn prepare(router: &Router) {
    let plain = router.plain();
    // One with a network is a *secondary* address beside another of the network, and by default goes when the first one goes:
    // ours with another of ours, or the host's own that was added after ours.
    let network = |net: &IpNet| matches!(net, IpNet::V4(net) if net.prefix_len() < 32);
    let network = router.moved_nets().any(network);
    // The owner of RFC 9568 speaks from the virtual address itself when it is back, which here is an address of this host:
    // the kernel drops what comes from one.
    let owner = plain.multicast && plain.source.is_ipv4();
    let keys = [("promote_secondaries", network), ("accept_local", owner)];
    for (key, _) in keys.into_iter().filter(|(_, needed)| *needed) {
        let key = format!("ipv4/conf/{}/{key}", plain.interface);
        if let Err(error) = vmac::at_least(&key, 1) {
            debug!(%error, "an interface stays as it is");
        }
    }
}

/// Withdraws: rules, routes, addresses. Goes on after a failure.
pub(crate) fn remove(netlink: &NetlinkSocket, place: Place, gone: &Belongings) -> Result<()> {
    let rules = gone.rules.iter();
    let rules = rules.map(|r| netlink.delete_rule(&Rule::of(r, PROTO_VRRP)));
    let routes = gone.routes.iter();
    let routes = routes.map(|r| netlink.delete_route(&Route::of(r, place.routes, PROTO_VRRP)));
    let addresses = addresses(place, gone).map(|a| netlink.delete_address(&a));
    collect(rules.chain(routes).chain(addresses))
}

/// The addresses as netlink wants them.
pub(crate) fn addresses(place: Place, of: &Belongings) -> impl Iterator<Item = Address> {
    of.addresses.iter().map(move |net| Address {
        link: place.addresses,
        net: *net,
        protocol: PROTO_VRRP,
        // The interface below has it.
        no_prefix_route: place.addresses != place.routes,
    })
}

/// What a purge found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Purged {
    pub(crate) addresses: usize,
    pub(crate) routes: usize,
    pub(crate) rules: usize,
}

/// Removes everything in this namespace that bears vrrp's tag. Addresses go first: they are what a
/// second owner may hold already.
pub(crate) fn purge(netlink: &NetlinkSocket) -> Result<Purged> {
    let mut addresses = netlink.addresses()?;
    addresses.retain(|address| address.protocol == PROTO_VRRP);
    let first = collect(addresses.iter().map(|a| netlink.delete_address(a)));
    let links_gone = vmac::purge(netlink);
    // Routes whose source address went are gone already.
    let mut routes = netlink.routes()?;
    routes.retain(|route| route.protocol == PROTO_VRRP);
    let mut rules = netlink.rules()?;
    rules.retain(|rule| rule.protocol == PROTO_VRRP);
    let routes_gone = collect(routes.iter().map(|r| netlink.delete_route(r)));
    let rules_gone = collect(rules.iter().map(|r| netlink.delete_rule(r)));
    // Nobody holds what it protects any more.
    let filter_gone = filter::refuse_packets_to(&[]);
    let first = first.and(filter_gone).and(links_gone);
    first.and(routes_gone).and(rules_gone).map(|()| Purged {
        addresses: addresses.len(),
        routes: routes.len(),
        rules: rules.len(),
    })
}

/// Performs all, answers the first failure.
fn collect(results: impl Iterator<Item = Result<()>>) -> Result<()> {
    results.fold(Ok(()), Result::and)
}
