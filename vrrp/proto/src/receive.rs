//! The receive ladder: the checks of RFC 9568 section 7.1 in the order in which they count.
//!
//! A packet that is refused touches no timer and no state; it is counted under the first rung that
//! it fails.

use crate::packet::{ADVERTISEMENT, ChecksumForm, Packet, V2, V3, Version};
use crate::router::Router;
use crate::time::{Span, Time};
use crate::timers;
use krater_model::{Centiseconds, VrrpVersion};
use std::fmt;
use std::net::IpAddr;

/// Adverts younger than this are never called stale: a wake-up on a loaded virtual machine is late
/// by that much now and then, while at the fastest intervals it is still no replay.
pub const MIN_STALE_AGE: Span = Span::from_millis(20);

/// A received datagram without its IP header.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// When the kernel received it.
    pub received: Time,
    /// The VRRP message.
    pub message: &'a [u8],
}

/// An advertisement that passed the ladder: all that the machine needs of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Who sent it.
    pub source: IpAddr,
    /// Priority; 0 resigns.
    pub priority: u8,
    /// The sender's interval.
    pub interval: Centiseconds,
    /// When the kernel received it.
    pub received: Time,
    /// Whether its address list is ours.
    pub same_addresses: bool,
    /// Which checksum it sends, and so expects.
    pub checksum: ChecksumForm,
}

/// Why a packet was dropped. The order is the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Shorter than a header.
    Short,
    /// Neither version 2 nor 3.
    Version,
    /// Not an advertisement.
    Type,
    /// No virtual router of ours.
    Vrid,
    /// A known version, but not ours.
    OtherVersion,
    /// Length and count differ.
    Length,
    /// Wrong in every accepted form.
    Checksum,
    /// Not 255: it may have crossed a router.
    HopLimit,
    /// No address.
    Empty,
    /// Our own address as source: looped back, or somebody else has our address.
    OwnAddress,
    /// Multicast where unicast is configured, or the other way round.
    Cast,
    /// Not a configured peer.
    Peer,
    /// VRRPv2: another authentication type or another password.
    Authentication,
    /// Interval 0, or in VRRPv2 another than ours.
    Interval,
    /// Waited in our queue for longer than one interval.
    Stale,
}

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Short,
        Self::Version,
        Self::Type,
        Self::Vrid,
        Self::OtherVersion,
        Self::Length,
        Self::Checksum,
        Self::HopLimit,
        Self::Empty,
        Self::OwnAddress,
        Self::Cast,
        Self::Peer,
        Self::Authentication,
        Self::Interval,
        Self::Stale,
    ];

    /// For metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Version => "version",
            Self::Type => "type",
            Self::Vrid => "vrid",
            Self::OtherVersion => "other-version",
            Self::Length => "length",
            Self::Checksum => "checksum",
            Self::HopLimit => "hop-limit",
            Self::Empty => "empty",
            Self::OwnAddress => "own-address",
            Self::Cast => "cast",
            Self::Peer => "peer",
            Self::Authentication => "authentication",
            Self::Interval => "interval",
            Self::Stale => "stale",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The rungs that need no configuration. Answers the packet and its virtual router identifier.
pub fn header<'a>(datagram: &Datagram<'a>) -> Result<Packet<'a>, DropReason> {
    let packet = Packet::new(datagram.message).ok_or(DropReason::Short)?;
    if !matches!(packet.version(), V2 | V3) {
        return Err(DropReason::Version);
    }
    if packet.kind() != ADVERTISEMENT {
        return Err(DropReason::Type);
    }
    Ok(packet)
}

/// The whole ladder for one virtual router.
pub fn check(router: &Router, datagram: &Datagram<'_>, now: Time) -> Result<Heard, DropReason> {
    let refuse_if = |wrong: bool, reason| if wrong { Err(reason) } else { Ok(()) };
    let packet = header(datagram)?;
    let Datagram {
        source,
        destination,
        ..
    } = *datagram;
    let same_family = source.is_ipv4() == router.source().is_ipv4();
    refuse_if(
        packet.vrid() != router.vrid().value() || !same_family,
        DropReason::Vrid,
    )?;
    refuse_if(
        packet.version() != router.version().value(),
        DropReason::OtherVersion,
    )?;
    refuse_if(!packet.length_matches(source), DropReason::Length)?;
    let form = packet
        .checksum_form(source, destination)
        .ok_or(DropReason::Checksum)?;
    refuse_if(
        datagram.hop_limit < router.min_hop_limit(),
        DropReason::HopLimit,
    )?;
    refuse_if(packet.count() == 0, DropReason::Empty)?;
    // Before the peer check, which it could never pass: it deserves a name of its own.
    refuse_if(source == router.source(), DropReason::OwnAddress)?;
    refuse_if(
        destination.is_multicast() != router.is_multicast(),
        DropReason::Cast,
    )?;
    refuse_if(!router.admits(source), DropReason::Peer)?;
    if let Version::V2(expected) = router.wire_version() {
        refuse_if(!packet.authenticates(expected), DropReason::Authentication)?;
    }
    let interval = packet.advert_interval().ok_or(DropReason::Interval)?;
    let v2 = router.version() == VrrpVersion::V2;
    // RFC 3768 section 7.1: discarded; RFC 9568: adopted.
    refuse_if(v2 && interval != router.interval(), DropReason::Interval)?;
    let stale_after = timers::interval(interval).max(MIN_STALE_AGE);
    refuse_if(now - datagram.received > stale_after, DropReason::Stale)?;
    Ok(Heard {
        source,
        priority: packet.priority(),
        interval,
        received: datagram.received.min(now),
        same_addresses: packet
            .addresses(source)
            .eq(router.advertised().iter().copied()),
        checksum: form,
    })
}

#[cfg(test)]
mod tests;
