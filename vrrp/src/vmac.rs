//! Virtual MAC addresses (RFC 9568 section 7.3): a macvlan on the router's interface, which holds the router's addresses
//! and is up while it is Active.
//!
//! While it is down, frames to its address are not for this host (section 6.4.2), and adverts of another Active with the
//! same source address reach the interface below, where they are read; as they do while it is up, because the macvlan
//! is of mode `bridge`. Announcements, and adverts to the group, go out below with the virtual address as source. What
//! the interface below must not do is answer ARP for the addresses with its own address: `arp_ignore`.

use krater_net::link::Link;
use krater_net::sync::NetlinkSocket;
use krater_net::{Error, Result};
use krater_vrrp_proto::{Router, frame};
use std::io;
use std::path::PathBuf;
use tracing::warn;

/// Nobody else's links are called so.
const PREFIX: &str = "krv";
const KIND: &str = "macvlan";

/// `krv4-33-c`: family, identifier and index of the interface below, the last two in hexadecimal.
fn name(parent: u32, router: &Router) -> String {
    let family = if router.source().is_ipv4() { 4 } else { 6 };
    format!("{PREFIX}{family}-{:x}-{parent:x}", router.vrid().value())
}

/// The router's macvlan on link `parent`.
pub(crate) fn find(netlink: &NetlinkSocket, parent: u32, router: &Router) -> Result<Option<Link>> {
    let link = netlink.link_by_name(&name(parent, router))?;
    Ok(link.filter(|link| link.kind.as_deref() == Some(KIND)))
}

/// Makes it, down, unless it is there.
pub(crate) fn prepare(netlink: &NetlinkSocket, parent: u32, router: &Router) -> Result<u32> {
    // Each time: what answers ARP twice breaks the address.
    let below = &router.plain().interface;
    if router.source().is_ipv4() {
        at_least(&format!("ipv4/conf/{below}/arp_ignore"), 1)?;
    }
    if let Some(link) = find(netlink, parent, router)? {
        return Ok(link.index);
    }
    let name = name(parent, router);
    let mac = frame::virtual_mac(router.vrid(), router.source().is_ipv4());
    netlink.create_macvlan(&name, parent, mac)?;
    let settings = [
        // It answers for its own addresses, not for those below.
        ("ipv4", "arp_ignore", "1"),
        // Answers leave through the interface below.
        ("ipv4", "rp_filter", "2"),
        // Addresses of one network come and go each by itself.
        ("ipv4", "promote_secondaries", "1"),
        // No address of its own, least of all one made of the virtual MAC address (RFC 9568 section 7.4).
        ("ipv6", "addr_gen_mode", "1"),
        ("ipv6", "accept_ra", "0"),
        ("ipv6", "accept_dad", "0"),
    ];
    for (family, key, value) in settings {
        match write(&format!("{family}/conf/{name}/{key}"), value) {
            // A kernel without IPv6.
            Err(error) if family == "ipv6" && error.source.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    let made = find(netlink, parent, router)?;
    let gone = || Error {
        operation: format!("find link {name}"),
        source: io::ErrorKind::NotFound.into(),
    };
    Ok(made.ok_or_else(gone)?.index)
}

/// Makes it, and takes it up.
pub(crate) fn raise(netlink: &NetlinkSocket, parent: u32, router: &Router) -> Result<u32> {
    let index = prepare(netlink, parent, router)?;
    netlink.set_up(index, true)?;
    Ok(index)
}

/// Takes it down.
pub(crate) fn lower(netlink: &NetlinkSocket, parent: u32, router: &Router) -> Result<()> {
    match find(netlink, parent, router)? {
        Some(link) => netlink.set_up(link.index, false),
        None => Ok(()),
    }
}

/// Removes it.
pub(crate) fn delete(netlink: &NetlinkSocket, parent: u32, router: &Router) {
    let deleted = find(netlink, parent, router)
        .and_then(|link| link.map_or(Ok(()), |link| netlink.delete_link(link.index)));
    if let Err(error) = deleted {
        warn!(%error, "a virtual MAC address stays");
    }
}

/// Removes all that a predecessor left in this namespace.
pub(crate) fn purge(netlink: &NetlinkSocket) -> Result<()> {
    let links = netlink.links()?;
    let ours = links
        .iter()
        .filter(|link| link.kind.as_deref() == Some(KIND) && link.name.starts_with(PREFIX));
    ours.map(|link| netlink.delete_link(link.index))
        .fold(Ok(()), Result::and)
}

/// Writes a parameter below `/proc/sys/net`, which CAP_NET_ADMIN may do in its namespace.
fn write(key: &str, value: &str) -> Result<()> {
    std::fs::write(path(key), value).map_err(|source| Error {
        operation: format!("write {value} to net/{key}"),
        source,
    })
}

pub(crate) fn at_least(key: &str, value: u8) -> Result<()> {
    let now = std::fs::read_to_string(path(key)).unwrap_or_default();
    match now.trim().parse::<u8>() {
        Ok(now) if now >= value => Ok(()),
        _ => write(key, &value.to_string()),
    }
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_a_link_and_differ_by_family_identifier_and_interface() {
        let router = |vrid: u8, source: &str, vip: &str| {
            let document = serde_json::json!({
                "vrid": vrid, "interface": "eth1", "priority": 100, "advert_interval": 10,
                "source": source, "addresses": [vip],
            });
            Router::new(serde_json::from_value(document).unwrap()).unwrap()
        };
        let v4 = |vrid| router(vrid, "192.0.2.1", "192.0.2.100/32");
        let v6 = router(255, "2001:db8::1", "2001:db8::100/128");
        assert_eq!(name(12, &v4(51)), "krv4-33-c");
        let all = [
            name(12, &v4(51)),
            name(13, &v4(51)),
            name(12, &v4(52)),
            name(12, &v6),
            name(0x7f_ffff, &v6),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(one.len() <= 15, "{one}");
            assert!(!all[..at].contains(one), "{one}");
        }
    }
}
