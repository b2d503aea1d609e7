//! An interface and source address that routers speak through: the advert socket and the announcer.

use crate::socket::AdvertSocket;
use krater_model::MacAddr;
use krater_net::announce::Announcer;
use krater_net::stray::{Family, StrayWatch};
use krater_net::sync::NetlinkSocket;
use std::net::IpAddr;
use tracing::{debug, warn};

/// What identifies a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PortKey {
    pub(crate) interface: String,
    pub(crate) source: IpAddr,
    /// Speaks to the multicast group.
    pub(crate) multicast: bool,
}

/// A port, open or waiting for its interface.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) key: PortKey,
    pub(crate) open: Option<Open>,
    /// The interface is up and has a carrier.
    pub(crate) up: bool,
}

/// What needs an existing interface.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) index: u32,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) adverts: AdvertSocket,
    pub(crate) announcer: Announcer,
    /// What neighbours send here by mistake, for each family that there is an address of to watch for.
    pub(crate) strays: Vec<StrayWatch>,
}

impl Port {
    pub(crate) fn new(key: PortKey, netlink: &NetlinkSocket) -> Self {
        let mut port = Self {
            key,
            open: None,
            up: false,
        };
        port.refresh(netlink);
        port
    }

    /// Looks at the interface again: it may have come, gone, or come back under another index.
    pub(crate) fn refresh(&mut self, netlink: &NetlinkSocket) {
        let name = &self.key.interface;
        let link = netlink.link_by_name(name).unwrap_or_else(|error| {
            warn!(interface = name, %error, "interface cannot be read");
            None
        });
        let Some(link) = link else {
            self.open = None;
            self.up = false;
            return;
        };
        self.up = link.up && link.carrier;
        match &mut self.open {
            Some(open) if open.index == link.index => open.mac = link.mac,
            _ => self.open = self.reopen(link.index, link.mac),
        }
    }

    fn reopen(&self, index: u32, mac: Option<MacAddr>) -> Option<Open> {
        let PortKey {
            interface,
            source,
            multicast,
        } = &self.key;
        let opened = AdvertSocket::open(interface, index, *source, *multicast)
            .and_then(|adverts| Ok((adverts, Announcer::open(index)?)));
        match opened {
            Ok((adverts, announcer)) => Some(Open {
                index,
                mac,
                adverts,
                announcer,
                strays: Vec::new(),
            }),
            Err(error) => {
                warn!(interface = self.key.interface, %error, "sockets cannot be opened");
                None
            }
        }
    }

    /// Watches for packets to these addresses, which are not here.
    pub(crate) fn watch_strays(&mut self, addresses: &[IpAddr]) {
        let Some(open) = &mut self.open else { return };
        for family in [Family::V4, Family::V6] {
            let known = open.strays.iter().find(|watch| watch.family() == family);
            let any = |ip: &IpAddr| ip.is_ipv4() == (family == Family::V4);
            // One that is there is not closed: that waits for the kernel, while with nothing to look for it costs nothing.
            let watched = match known {
                Some(watch) => watch.watch(addresses),
                None if !addresses.iter().any(any) => Ok(()),
                None => StrayWatch::open(open.index, family, addresses)
                    .map(|watch| open.strays.push(watch)),
            };
            if let Err(error) = watched {
                debug!(interface = self.key.interface, %error, "strays are not watched for");
            }
        }
    }

    /// Where a stray went, if there was one.
    pub(crate) fn take_stray(&mut self) -> Option<IpAddr> {
        let open = self.open.as_mut()?;
        open.strays.iter_mut().find_map(StrayWatch::take)
    }

    /// Whether adverts can be exchanged.
    pub(crate) fn works(&self) -> bool {
        self.up && self.open.is_some()
    }
}
