//! A DHCPv4 client (RFC 2131, RFC 2132) without sockets and clocks: [`Client`] takes packets and the time, and
//! says what to send and how to configure the NIC. The codec is in [`packet`].
//!
//! Not done: INIT-REBOOT (a new boot asks anew), and probing an offered address by ARP (a SHOULD of RFC 2131,
//! 2.2: in a cloud the server owns the addresses, and the probe would cost every boot a second).

mod client;
pub mod packet;

pub use client::{Client, Output};

use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Routes of one lease that are used; Neutron sends a handful.
pub const MAX_ROUTES: usize = 64;

/// What a server granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Address and prefix length.
    pub address: Ipv4Net,
    /// Routes: those of option 121, else the default route of option 3.
    pub routes: Vec<Route>,
    /// Option 26, in bytes.
    pub mtu: Option<u16>,
    /// Who granted it.
    pub server: Ipv4Addr,
    /// How long. None: for ever.
    pub lasts: Option<Duration>,
    /// When to renew it, after it was granted.
    pub renew: Duration,
    /// When to ask any server, after it was granted.
    pub rebind: Duration,
}

/// A route of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: Ipv4Net,
    /// Next hop; none: on the link.
    pub via: Option<Ipv4Addr>,
}

#[cfg(test)]
mod tests;
