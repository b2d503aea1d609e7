//! Linux networking for Krater: namespaces, netlink, processes in namespaces, announcements.
//!
//! What belongs here: effects on the kernel's network state, each behind a small typed function, and
//! the pure builders of what is sent. What never will: decisions. Who wants to know *which* address to
//! add asks vrrp, the agent or the controller's drivers.
//!
//! | module | what |
//! |---|---|
//! | [`netns`] | pinned namespaces; running code and making sockets inside one |
//! | [`sysctl`] | `/proc/sys/net` of a namespace |
//! | [`link`] | the types and [`link::LinkControl`], the async trait that the agent uses |
//! | [`rtnl`] | [`link::LinkControl`] over rtnetlink |
//! | [`fake`] | [`link::LinkControl`] in memory, for tests |
//! | [`sync`] | the same operations without an async runtime, for vrrp's own thread and the local drivers |
//! | [`filter`] | addresses to which no packets are accepted: one nftables table |
//! | [`announce`] | gratuitous ARP and unsolicited NA frames, and the socket that sends them |
//! | [`stray`] | packets that neighbours send here by mistake |
//! | [`dhcp`] | sockets of a DHCPv4 client |
//! | [`tap`] | interfaces whose other side is a descriptor, for virtual machines |
//! | [`uevent`] | the kernel's events about devices |
//! | [`resident`] | giving back pages that only start-up needed |
//! | [`process`] | starting a detached process in a namespace, finding and killing what runs in one |
//!
//! # Architecture Invariant: tags
//! Everything that Krater writes into a VIP namespace carries a protocol number of its writer
//! (design.md, rule 7): [`PROTO_AGENT`] or [`PROTO_VRRP`], as `IFA_PROTO` of addresses, `rtm_protocol`
//! of routes and `FRA_PROTOCOL` of rules. A diff looks only at its own tag.

pub mod announce;
pub mod dhcp;
pub mod fake;
pub mod filter;
pub mod link;
mod message;
pub mod netns;
pub mod process;
pub mod resident;
pub mod rtnl;
pub mod stray;
pub mod sync;
mod sys;
pub mod sysctl;
pub mod tap;
pub mod uevent;
pub mod watch;

use std::io;

/// Tag of addresses, routes and rules that the agent owns. Not among the numbers that
/// `/etc/iproute2/rt_protos` gives to routing daemons.
pub const PROTO_AGENT: u8 = 0xa6;
/// Tag of addresses, routes and rules that vrrp owns.
pub const PROTO_VRRP: u8 = 0xa7;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An operation on the kernel failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}")]
#[allow(
    clippy::error_impl_error,
    reason = "like std::io::Error: used with the name of its crate in front"
)]
pub struct Error {
    /// What was tried, with its arguments, such as `add address 192.0.2.1/24 to link 3`.
    pub operation: String,
    /// What the kernel said.
    pub source: io::Error,
}

impl Error {
    pub(crate) fn new(operation: impl Into<String>, source: io::Error) -> Self {
        Self {
            operation: operation.into(),
            source,
        }
    }

    /// The thing was not there (ENOENT, ENODEV, ESRCH, EADDRNOTAVAIL).
    pub fn is_not_found(&self) -> bool {
        use libc::{EADDRNOTAVAIL, ENODEV, ENOENT, ESRCH};
        matches!(self.source.raw_os_error(), Some(code) if [ENOENT, ENODEV, ESRCH, EADDRNOTAVAIL].contains(&code))
    }

    /// The thing was there already (EEXIST).
    pub fn is_exists(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EEXIST)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = error.source.kind();
        Self::new(kind, error)
    }
}
