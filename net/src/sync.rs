//! Netlink without an async runtime: one request, one answer, on the caller's thread.
//!
//! For vrrp, whose takeover must not wait for a scheduler, and for the controller's local drivers,
//! whose steps are sequences of such requests. The kernel works a request off inside `send`; the
//! answer lies in the socket when it returns.

use crate::link::{Address, Link, LinkChange, Route, Rule, VethSpec};
use crate::message::{self, Request};
use crate::netns::NetNs;
use crate::{Error, Result};
use krater_model::net::MacAddr;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// Larger than any datagram that the kernel makes for a dump (32 KiB).
const BUFFER: usize = 64 * 1024;
/// How long an answer may take. The kernel answers inside `send`; this bounds what a lost answer costs.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Dumps are repeated when the table changed meanwhile; a table that changes faster is used as it is.
pub(crate) const MAX_DUMPS: usize = 4;
/// NLM_F_DUMP_INTR: the table changed during the dump.
pub(crate) const DUMP_INTERRUPTED: u16 = 0x10;

/// A route netlink socket. Not for several threads: one request is in flight at a time.
#[derive(Debug)]
pub struct NetlinkSocket {
    socket: Socket,
    sequence: Cell<u32>,
}

impl NetlinkSocket {
    /// A socket in the namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let open = || {
            let socket = Socket::new(NETLINK_ROUTE)?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket2::SockRef::from(&socket).set_read_timeout(Some(ANSWER_WITHIN))?;
            // Only the code is read of an error: spare the copy of the request.
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|error| Error::new("open a netlink socket", error))?;
        Ok(Self {
            socket,
            sequence: Cell::new(0),
        })
    }

    /// A socket in `netns`.
    pub fn open_in(netns: &NetNs) -> Result<Self> {
        netns
            .run(Self::open)
            .map_err(|error| Error::new("enter a network namespace", error))?
    }

    /// All links.
    pub fn links(&self) -> Result<Vec<Link>> {
        self.dump(&message::links(), |answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(message::read_link(&link)),
            _ => None,
        })
    }

    /// The link of this name.
    pub fn link_by_name(&self, name: &str) -> Result<Option<Link>> {
        let found = self.dump(&message::link_by_name(name), |answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(message::read_link(&link)),
            _ => None,
        });
        match found {
            Ok(links) => Ok(links.into_iter().next()),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a veth pair. A name that exists is an error ([`Error::is_exists`]).
    pub fn create_veth(&self, spec: &VethSpec<'_>) -> Result<()> {
        self.request(&message::create_veth(spec))
    }

    /// Makes a bridge without spanning tree, up. A name that exists is an error.
    pub fn create_bridge(&self, name: &str, mac: Option<MacAddr>, mtu: Option<u32>) -> Result<()> {
        self.request(&message::create_bridge(name, mac, mtu))
    }

    /// Makes a macvlan of mode bridge on link `parent`, down. A name that exists is an error.
    pub fn create_macvlan(&self, name: &str, parent: u32, mac: MacAddr) -> Result<()> {
        self.request(&message::create_macvlan(name, parent, mac))
    }

    /// Makes the interface of VLAN `id` (IEEE 802.1Q) on link `parent`, down; without an address of its own it has the
    /// parent's. A name that exists, and a VLAN that the parent has already wherever its interface is, are errors
    /// ([`Error::is_exists`]).
    pub fn create_vlan(
        &self,
        name: &str,
        parent: u32,
        id: u16,
        mac: Option<MacAddr>,
    ) -> Result<()> {
        self.request(&message::create_vlan(name, parent, id, mac))
    }

    /// Changes a link.
    pub fn set_link(&self, index: u32, change: &LinkChange<'_>) -> Result<()> {
        self.request(&message::set_link(index, change))
    }

    /// Up or down.
    pub fn set_up(&self, index: u32, up: bool) -> Result<()> {
        let change = LinkChange {
            up: Some(up),
            ..LinkChange::default()
        };
        self.set_link(index, &change)
    }

    /// Deletes a link; a veth takes its peer along.
    pub fn delete_link(&self, index: u32) -> Result<()> {
        self.request(&message::delete_link(index))
    }

    /// All addresses of all links.
    pub fn addresses(&self) -> Result<Vec<Address>> {
        let request = message::addresses(AddressFamily::Unspec, None);
        self.dump(&request, |answer| match answer {
            RouteNetlinkMessage::NewAddress(address) => message::read_address(&address),
            _ => None,
        })
    }

    /// The addresses of link `index` that bear the tag `protocol`.
    pub fn tagged_addresses(&self, index: u32, protocol: u8) -> Result<Vec<Address>> {
        let mut addresses = self.addresses()?;
        addresses.retain(|a| a.link == index && a.protocol == protocol);
        Ok(addresses)
    }

    /// Adds an address with its tag; IPv6 without duplicate address detection. One that exists gets
    /// the tag.
    pub fn add_address(&self, address: &Address) -> Result<()> {
        self.request(&message::add_address(address))
    }

    /// Deletes an address; none there is fine.
    pub fn delete_address(&self, address: &Address) -> Result<()> {
        self.request(&message::delete_address(address))
    }

    /// All unicast routes of all tables but `local`.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = message::routes(family);
            routes.extend(self.dump(&request, |answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => message::read_route(&route),
                _ => None,
            })?);
        }
        Ok(routes)
    }

    /// Makes this the route to its destination in its table with its metric.
    pub fn add_route(&self, route: &Route) -> Result<()> {
        self.request(&message::add_route(route))
    }

    /// Deletes a route; none there, or one of another owner, is fine.
    pub fn delete_route(&self, route: &Route) -> Result<()> {
        self.request(&message::delete_route(route))
    }

    /// All rules that select a table by source.
    pub fn rules(&self) -> Result<Vec<Rule>> {
        let mut rules = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = message::rules(family);
            rules.extend(self.dump(&request, |answer| match answer {
                RouteNetlinkMessage::NewRule(rule) => message::read_rule(&rule),
                _ => None,
            })?);
        }
        Ok(rules)
    }

    /// Adds a rule; one that exists is fine.
    pub fn add_rule(&self, rule: &Rule) -> Result<()> {
        self.request(&message::add_rule(rule))
    }

    /// Deletes a rule; none there is fine.
    pub fn delete_rule(&self, rule: &Rule) -> Result<()> {
        self.request(&message::delete_rule(rule))
    }

    /// Forgets what was learned of the neighbour `address`; nothing learned is fine.
    pub fn delete_neighbour(&self, link: u32, address: IpAddr) -> Result<()> {
        self.request(&message::delete_neighbour(link, address))
    }

    fn request(&self, request: &Request) -> Result<()> {
        match self.exchange(request, &mut |_| ()) {
            Err(error) if is_forgiven(request, &error) => Ok(()),
            Err(error) => Err(Error::new(request.what.clone(), error)),
            Ok(_) => Ok(()),
        }
    }

    fn dump<T>(
        &self,
        request: &Request,
        read: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut items = Vec::new();
        for _ in 0..MAX_DUMPS {
            items.clear();
            let consistent = self
                .exchange(request, &mut |answer| items.extend(read(answer)))
                .map_err(|error| Error::new(request.what.clone(), error))?;
            if consistent {
                break;
            }
        }
        Ok(items)
    }

    /// Sends a request and reads its answers. False when a dump was interrupted by a change.
    fn exchange(
        &self,
        request: &Request,
        each: &mut dyn FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let mut message = NetlinkMessage::from(request.message.clone());
        message.header.flags = request.flags;
        message.header.sequence_number = sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut consistent = true;
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            let mut rest = buffer.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(io::Error::other)?;
                let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if answer.header.sequence_number != sequence {
                    continue; // of a request that timed out
                }
                consistent &= answer.header.flags & DUMP_INTERRUPTED == 0;
                match answer.payload {
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(consistent),
                            Some(code) => Err(io::Error::from_raw_os_error(code.get().abs())),
                        };
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(consistent),
                    NetlinkPayload::Overrun(_) => {
                        return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
                    }
                    NetlinkPayload::InnerMessage(inner) => {
                        each(inner);
                        if !request.is_dump() {
                            return Ok(consistent);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

pub(crate) fn is_forgiven(request: &Request, error: &io::Error) -> bool {
    error
        .raw_os_error()
        .is_some_and(|code| request.forgive.contains(&code))
}
