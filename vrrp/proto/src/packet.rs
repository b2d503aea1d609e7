//! The VRRPv3 advertisement (RFC 9568 section 5): a checked view of bytes, and its meaning.
//!
//! ```text
//! byte 0      1     2         3      4..6                   6..8      8..
//!      ver|ty vrid  priority  count  res 4 | interval 12 cs checksum  addresses (4 or 16 bytes each)
//! ```

use krater_model::{Centiseconds, Vrid};
use std::net::IpAddr;

/// Bytes before the addresses.
pub const HEADER: usize = 8;
/// IP protocol number of VRRP.
pub const PROTOCOL: u8 = 112;
/// The only message type.
pub const ADVERTISEMENT: u8 = 1;
/// The version that this codec encodes.
pub const VERSION: u8 = 3;
/// The longest message: 255 IPv6 addresses.
pub const MAX_MESSAGE: usize = HEADER + 255 * 16;

mod field {
    use std::ops::Range;
    pub(super) const VERSION_TYPE: usize = 0;
    pub(super) const VRID: usize = 1;
    pub(super) const PRIORITY: usize = 2;
    pub(super) const COUNT: usize = 3;
    pub(super) const INTERVAL: usize = 4;
    pub(super) const CHECKSUM: Range<usize> = 6..8;
}

/// A view of bytes that are long enough for the header. No accessor panics.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    header: [u8; HEADER],
    bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// None when the header is not complete.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(|header| Self {
            header: *header,
            bytes,
        })
    }
    /// Protocol version.
    pub const fn version(&self) -> u8 {
        self.header[field::VERSION_TYPE] >> 4
    }
    /// Message type.
    pub const fn kind(&self) -> u8 {
        self.header[field::VERSION_TYPE] & 0x0f
    }
    /// Virtual router identifier; 0 is not a valid one.
    pub const fn vrid(&self) -> u8 {
        self.header[field::VRID]
    }
    /// Priority; 0 resigns, 255 is the address owner.
    pub const fn priority(&self) -> u8 {
        self.header[field::PRIORITY]
    }
    /// Number of addresses that the header promises.
    pub const fn count(&self) -> u8 {
        self.header[field::COUNT]
    }
    /// Interval in centiseconds; the four reserved bits are ignored (section 5.2.6).
    pub const fn interval(&self) -> u16 {
        u16::from_be_bytes([
            self.header[field::INTERVAL] & 0x0f,
            self.header[field::INTERVAL + 1],
        ])
    }
    /// Whether the length is exactly what the count says, in the family of `source`.
    pub fn length_matches(&self, source: IpAddr) -> bool {
        self.bytes.len() == HEADER + usize::from(self.count()) * address_size(source)
    }
    /// The addresses, in the family of `source`; a tail that is no whole address is left out.
    pub fn addresses(&self, source: IpAddr) -> impl Iterator<Item = IpAddr> + use<'a> {
        self.bytes
            .get(HEADER..)
            .unwrap_or_default()
            .chunks_exact(address_size(source))
            .filter_map(address)
    }
    /// In which form the checksum is right; none when it is wrong.
    pub fn checksum_form(&self, source: IpAddr, destination: IpAddr) -> Option<ChecksumForm> {
        let rfc = ChecksumForm::Rfc9568;
        let forms = [rfc, ChecksumForm::PseudoHeader];
        forms.into_iter().find(|form| {
            fold(sum(self.bytes, form.start(source, destination, self.bytes))) == 0xffff
        })
    }
}

/// What a checksum covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChecksumForm {
    /// RFC 9568 section 5.2.8: over IPv4 the message alone, over IPv6 with the pseudo-header.
    #[default]
    Rfc9568,
    /// With the pseudo-header over IPv4 too, as keepalived and FRR read RFC 5798.
    PseudoHeader,
}

impl ChecksumForm {
    /// What the sum begins with.
    fn start(self, source: IpAddr, destination: IpAddr, message: &[u8]) -> u64 {
        if self == Self::Rfc9568 && source.is_ipv4() {
            0
        } else {
            pseudo_header(source, destination, message.len())
        }
    }
}

/// What an advertisement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert<'a> {
    /// Virtual router.
    pub vrid: Vrid,
    /// Priority; 0 resigns.
    pub priority: u8,
    /// Interval of the sender.
    pub interval: Centiseconds,
    /// Addresses, at most 255, all of the family of the message's source.
    pub addresses: &'a [IpAddr],
}

impl Advert<'_> {
    /// Writes the message for a datagram from `source` to `destination` into `out`, which is
    /// cleared first. Addresses beyond the 255th are left out (a [`crate::Router`] has none).
    pub fn emit(&self, source: IpAddr, destination: IpAddr, form: ChecksumForm, out: &mut Vec<u8>) {
        out.clear();
        let addresses = self
            .addresses
            .get(..usize::from(u8::MAX))
            .unwrap_or(self.addresses);
        let count = u8::try_from(addresses.len()).unwrap_or(u8::MAX);
        let [high, low] = self.interval.value().to_be_bytes();
        out.extend_from_slice(&[
            VERSION << 4 | ADVERTISEMENT,
            self.vrid.value(),
            self.priority,
            count,
            high,
            low,
            0,
            0,
        ]);
        for address in addresses {
            match address {
                IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
            }
        }
        let checksum = !fold(sum(out, form.start(source, destination, out)));
        if let Some(place) = out.get_mut(field::CHECKSUM) {
            place.copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

const fn address_size(family: IpAddr) -> usize {
    if family.is_ipv4() { 4 } else { 16 }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// The unfolded sum of the pseudo-header (RFC 793 section 3.1, RFC 8200 section 8.1).
fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize) -> u64 {
    let part = |address| match address {
        IpAddr::V4(v4) => sum(&v4.octets(), 0),
        IpAddr::V6(v6) => sum(&v6.octets(), 0),
    };
    let length = u64::try_from(length).unwrap_or_default();
    part(source) + part(destination) + u64::from(PROTOCOL) + length
}

fn sum(bytes: &[u8], start: u64) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let whole: u64 = words
        .by_ref()
        .map(|word| match word {
            [high, low] => u64::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        })
        .sum();
    let odd = words.remainder().first().map_or(0, |b| u64::from(*b) << 8);
    start + whole + odd
}

/// Folds the carries of a one's complement sum into 16 bits.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
