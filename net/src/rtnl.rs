//! [`LinkControl`] over rtnetlink, in a namespace.

use crate::link::{Address, Link, LinkChange, LinkControl, Route, Rule, VethSpec};
use crate::message::{self, Request};
use crate::netns::NetNs;
use crate::sync::{DUMP_INTERRUPTED, MAX_DUMPS, is_forgiven};
use crate::watch::Watch;
use crate::{Error, Result, sys};
use futures_util::StreamExt;
use krater_model::net::MacAddr;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rtnetlink::Handle;
use std::io;
use std::sync::Arc;

/// Link control of one namespace. Its one task ends when the value and its clones are dropped.
#[derive(Debug, Clone)]
pub struct Rtnl {
    handle: Handle,
    netns: Arc<NetNs>,
}

impl Rtnl {
    /// Control over `netns`. Needs a tokio runtime, on which the connection's task runs.
    pub fn new(netns: NetNs) -> Result<Self> {
        let open = || {
            let socket = netns.run(|| Socket::new(NETLINK_ROUTE))??;
            sys::tokio_netlink(socket)
        };
        let socket = open().map_err(|error| Error::new("open a netlink socket", error))?;
        let (connection, handle, _no_multicast) = rtnetlink::from_socket(socket);
        tokio::spawn(connection);
        Ok(Self {
            handle,
            netns: Arc::new(netns),
        })
    }

    /// Control over the namespace of the calling thread.
    pub fn current() -> Result<Self> {
        let netns = NetNs::current().map_err(|e| Error::new("open the own namespace", e))?;
        Self::new(netns)
    }

    /// The namespace that it controls.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    async fn request(&self, request: Request) -> Result<()> {
        match self.exchange(&request, |_| None::<()>).await {
            Err(error) if is_forgiven(&request, &error) => Ok(()),
            Err(error) => Err(Error::new(request.what, error)),
            Ok(_) => Ok(()),
        }
    }

    async fn dump<T>(
        &self,
        request: Request,
        read: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut items = Vec::new();
        for _ in 0..MAX_DUMPS {
            let consistent;
            (items, consistent) = self
                .exchange(&request, &read)
                .await
                .map_err(|error| Error::new(request.what.clone(), error))?;
            if consistent {
                break;
            }
        }
        Ok(items)
    }

    /// Sends a request and reads its answers. False when a dump was interrupted by a change.
    async fn exchange<T>(
        &self,
        request: &Request,
        read: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<(Vec<T>, bool)> {
        let mut message = NetlinkMessage::from(request.message.clone());
        message.header.flags = request.flags;
        let mut handle = self.handle.clone();
        let mut answers = handle.request(message).map_err(io::Error::other)?;
        let (mut items, mut consistent) = (Vec::new(), true);
        while let Some(answer) = answers.next().await {
            consistent &= answer.header.flags & DUMP_INTERRUPTED == 0;
            match answer.payload {
                NetlinkPayload::Error(error) => {
                    if let Some(code) = error.code {
                        return Err(io::Error::from_raw_os_error(code.get().abs()));
                    }
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                NetlinkPayload::Overrun(_) => {
                    return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
                }
                NetlinkPayload::InnerMessage(inner) => items.extend(read(inner)),
                _ => {}
            }
        }
        Ok((items, consistent))
    }
}

impl LinkControl for Rtnl {
    async fn links(&self) -> Result<Vec<Link>> {
        let read = |answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(message::read_link(&link)),
            _ => None,
        };
        self.dump(message::links(), read).await
    }

    async fn create_veth(&self, spec: &VethSpec<'_>) -> Result<()> {
        self.request(message::create_veth(spec)).await
    }

    async fn create_bridge(
        &self,
        name: &str,
        mac: Option<MacAddr>,
        mtu: Option<u32>,
    ) -> Result<()> {
        self.request(message::create_bridge(name, mac, mtu)).await
    }

    async fn set_link(&self, index: u32, change: &LinkChange<'_>) -> Result<()> {
        self.request(message::set_link(index, change)).await
    }

    async fn delete_link(&self, index: u32) -> Result<()> {
        self.request(message::delete_link(index)).await
    }

    async fn addresses(&self) -> Result<Vec<Address>> {
        let read = |answer| match answer {
            RouteNetlinkMessage::NewAddress(address) => message::read_address(&address),
            _ => None,
        };
        let request = message::addresses(AddressFamily::Unspec, None);
        self.dump(request, read).await
    }

    async fn add_address(&self, address: &Address) -> Result<()> {
        self.request(message::add_address(address)).await
    }

    async fn delete_address(&self, address: &Address) -> Result<()> {
        self.request(message::delete_address(address)).await
    }

    async fn routes(&self) -> Result<Vec<Route>> {
        let read = |answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => message::read_route(&route),
            _ => None,
        };
        let mut routes = self
            .dump(message::routes(AddressFamily::Inet), read)
            .await?;
        routes.extend(
            self.dump(message::routes(AddressFamily::Inet6), read)
                .await?,
        );
        Ok(routes)
    }

    async fn add_route(&self, route: &Route) -> Result<()> {
        self.request(message::add_route(route)).await
    }

    async fn delete_route(&self, route: &Route) -> Result<()> {
        self.request(message::delete_route(route)).await
    }

    async fn rules(&self) -> Result<Vec<Rule>> {
        let read = |answer| match answer {
            RouteNetlinkMessage::NewRule(rule) => message::read_rule(&rule),
            _ => None,
        };
        let mut rules = self.dump(message::rules(AddressFamily::Inet), read).await?;
        rules.extend(
            self.dump(message::rules(AddressFamily::Inet6), read)
                .await?,
        );
        Ok(rules)
    }

    async fn add_rule(&self, rule: &Rule) -> Result<()> {
        self.request(message::add_rule(rule)).await
    }

    async fn delete_rule(&self, rule: &Rule) -> Result<()> {
        self.request(message::delete_rule(rule)).await
    }

    fn watch(&self) -> Result<Watch> {
        Watch::kernel(&self.netns)
    }
}
