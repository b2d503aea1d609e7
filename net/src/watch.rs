//! Events of links and addresses. The queue is the socket's buffer, or a bounded channel in the fake:
//! what does not fit is dropped, and the next event then is [`Event::Resync`].

use crate::link::{Address, Link};
use crate::netns::NetNs;
use crate::{Error, Result, message, sys};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::collections::VecDeque;
use std::io;
use tokio::io::unix::AsyncFd;
use tokio::sync::broadcast;

/// Multicast groups: RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR as bits.
const GROUPS: u32 = 1 | 1 << 4 | 1 << 8;
/// Larger than any event datagram.
const BUFFER: usize = 32 * 1024;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link appeared or changed.
    Link(Link),
    /// A link was deleted or left the namespace.
    LinkGone(Link),
    /// An address was added or changed.
    Address(Address),
    /// An address was deleted.
    AddressGone(Address),
    /// Events were lost: list everything again.
    Resync,
}

/// A subscription; see [`crate::link::LinkControl::watch`].
#[derive(Debug)]
pub struct Watch {
    source: Source,
    /// Events of the datagram that was read last.
    ready: VecDeque<Event>,
}

#[derive(Debug)]
enum Source {
    Kernel(AsyncFd<Socket>),
    Fake(broadcast::Receiver<Event>),
}

impl Watch {
    /// Events of `netns`. Needs a tokio runtime.
    pub(crate) fn kernel(netns: &NetNs) -> Result<Self> {
        let open = || {
            let mut socket = netns.run(|| Socket::new(NETLINK_ROUTE))??;
            socket.bind(&SocketAddr::new(0, GROUPS))?;
            sys::watch_socket(socket)
        };
        let socket = open().map_err(|error| Error::new("subscribe to link events", error))?;
        Ok(Self::from(Source::Kernel(socket)))
    }

    pub(crate) fn fake(events: broadcast::Receiver<Event>) -> Self {
        Self::from(Source::Fake(events))
    }

    const fn from(source: Source) -> Self {
        Self {
            source,
            ready: VecDeque::new(),
        }
    }

    /// The next event. Cancel-safe: an event is either returned or still there.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            match &mut self.source {
                Source::Fake(events) => {
                    return match events.recv().await {
                        Ok(event) => Ok(event),
                        Err(broadcast::error::RecvError::Lagged(_)) => Ok(Event::Resync),
                        Err(broadcast::error::RecvError::Closed) => {
                            Err(io::Error::other("the fake kernel is gone"))
                        }
                    };
                }
                Source::Kernel(socket) => {
                    let mut guard = socket.readable().await?;
                    let mut buffer = Vec::with_capacity(BUFFER);
                    match guard.try_io(|inner| inner.get_ref().recv(&mut buffer, 0)) {
                        Err(_would_block) => {}
                        Ok(Ok(_)) => parse(&buffer, &mut self.ready),
                        Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                            drain(socket.get_ref());
                            self.ready.push_back(Event::Resync);
                        }
                        Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                        Ok(Err(error)) => return Err(error),
                    }
                }
            }
        }
    }
}

/// After ENOBUFS the kernel goes on dropping, silently, until the queue is empty: what is in it is
/// older than the loss and worth nothing, so it goes before the resync is reported.
fn drain(socket: &Socket) {
    let mut buffer = Vec::with_capacity(BUFFER);
    let empty = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    while !socket.recv(&mut buffer, 0).as_ref().is_err_and(empty) {
        buffer.clear();
    }
}

/// Reads the events of one datagram; one that cannot be read counts as lost.
fn parse(mut bytes: &[u8], events: &mut VecDeque<Event>) {
    use RouteNetlinkMessage as M;
    while !bytes.is_empty() {
        let Ok(message) = NetlinkMessage::<M>::deserialize(bytes) else {
            events.push_back(Event::Resync);
            return;
        };
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let NetlinkPayload::InnerMessage(inner) = message.payload else {
            continue;
        };
        events.extend(match inner {
            M::NewLink(link) => Some(Event::Link(message::read_link(&link))),
            M::DelLink(link) => Some(Event::LinkGone(message::read_link(&link))),
            M::NewAddress(address) => message::read_address(&address).map(Event::Address),
            M::DelAddress(address) => message::read_address(&address).map(Event::AddressGone),
            _ => None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_asks_for_a_resync() {
        let mut events = VecDeque::new();
        parse(&[1, 2, 3], &mut events);
        assert_eq!(events, [Event::Resync]);
    }
}
