//! The advertisement of VRRPv3 (RFC 9568 section 5) and VRRPv2 (RFC 3768 section 5.3, with the
//! authentication of RFC 2338): a checked view of bytes, and its meaning.
//!
//! ```text
//! byte    0      1     2         3      4          5         6..8      8..
//! v3      ver|ty vrid  priority  count  res 4 | interval 12  checksum  addresses (4 or 16 bytes each)
//! v2      ver|ty vrid  priority  count  auth type  seconds   checksum  addresses (4 bytes), 8 of auth
//! ```

use krater_model::state::MAX_PASSWORD;
use krater_model::wire::checksum::{fold, sum};
use krater_model::{Centiseconds, Vrid};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes before the addresses.
pub const HEADER: usize = 8;
/// IP protocol number of VRRP.
pub const PROTOCOL: u8 = 112;
/// The only message type.
pub const ADVERTISEMENT: u8 = 1;
/// RFC 9568.
pub const V3: u8 = 3;
/// RFC 3768.
pub const V2: u8 = 2;
/// The group of IPv4 routers (RFC 9568 section 5.1.1.2).
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// The group of IPv6 routers (RFC 9568 section 5.1.2.2).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// Authentication type of a simple text password (RFC 2338 section 5.3.6).
const AUTH_PASS: u8 = 1;
/// The longest message: 255 IPv6 addresses.
pub const MAX_MESSAGE: usize = HEADER + 255 * 16;

mod field {
    use std::ops::Range;
    pub(super) const VERSION_TYPE: usize = 0;
    pub(super) const VRID: usize = 1;
    pub(super) const PRIORITY: usize = 2;
    pub(super) const COUNT: usize = 3;
    pub(super) const INTERVAL: usize = 4;
    pub(super) const AUTH_TYPE: usize = 4;
    pub(super) const SECONDS: usize = 5;
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
    /// The sender's interval by the rules of the packet's version; none when it is 0 or longer than
    /// any that can be configured.
    pub fn advert_interval(&self) -> Option<Centiseconds> {
        let centiseconds = match self.version() {
            V2 => u64::from(self.header[field::SECONDS]) * 100,
            _ => self.interval().into(),
        };
        Centiseconds::new(centiseconds).ok()
    }
    /// Whether authentication type and data of VRRPv2 are these. Takes as long for any data.
    pub fn authenticates(&self, expected: Authentication) -> bool {
        let data: [u8; MAX_PASSWORD] = self.bytes.last_chunk().copied().unwrap_or_default();
        let (kind, wanted) = expected.fields();
        // RFC 3768 section 5.3.10: without authentication the data is ignored.
        let mask = if expected.0.is_some() { 0xff } else { 0 };
        let differing = wanted
            .iter()
            .zip(data)
            .fold(0, |all, (a, b)| all | ((a ^ b) & mask));
        self.header[field::AUTH_TYPE] == kind && std::hint::black_box(differing) == 0
    }
    /// Whether the length is exactly what the count says, in the family of `source`.
    pub fn length_matches(&self, source: IpAddr) -> bool {
        let addresses = usize::from(self.count()) * address_size(source);
        self.bytes.len() == HEADER + addresses + self.trailer()
    }
    /// The addresses, in the family of `source`; a tail that is no whole address is left out.
    pub fn addresses(&self, source: IpAddr) -> impl Iterator<Item = IpAddr> + use<'a> {
        let end = self.bytes.len().saturating_sub(self.trailer());
        self.bytes
            .get(HEADER..end)
            .unwrap_or_default()
            .chunks_exact(address_size(source))
            .filter_map(address)
    }
    /// Bytes after the addresses.
    const fn trailer(&self) -> usize {
        if self.version() == V2 {
            MAX_PASSWORD
        } else {
            0
        }
    }
    /// In which form the checksum is right; none when it is wrong. VRRPv2 has only the one without a
    /// pseudo-header.
    pub fn checksum_form(&self, source: IpAddr, destination: IpAddr) -> Option<ChecksumForm> {
        let rfc = ChecksumForm::Rfc9568;
        let forms: &[_] = match self.version() {
            V2 => &[rfc],
            _ => &[rfc, ChecksumForm::PseudoHeader],
        };
        forms.iter().copied().find(|form| {
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

/// What proves a VRRPv2 sender: nothing, or a password padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Authentication(Option<[u8; MAX_PASSWORD]>);

impl Authentication {
    /// With this password; bytes beyond the eighth do not exist on the wire.
    pub fn password(text: &str) -> Self {
        let mut data = [0; MAX_PASSWORD];
        for (place, byte) in data.iter_mut().zip(text.bytes()) {
            *place = byte;
        }
        Self(Some(data))
    }

    fn fields(self) -> (u8, [u8; MAX_PASSWORD]) {
        match self.0 {
            Some(data) => (AUTH_PASS, data),
            None => (0, [0; MAX_PASSWORD]),
        }
    }
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "PASS …" } else { "none" })
    }
}

/// The version of a message, with what only that version has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// RFC 9568.
    V3,
    /// RFC 3768, IPv4 only.
    V2(Authentication),
}

/// What an advertisement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert<'a> {
    /// Version of the message.
    pub version: Version,
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
        let (version, [fourth, fifth]) = match self.version {
            Version::V3 => (V3, self.interval.value().to_be_bytes()),
            Version::V2(authentication) => {
                let seconds = u8::try_from(self.interval.value() / 100).unwrap_or(u8::MAX);
                (V2, [authentication.fields().0, seconds])
            }
        };
        out.extend_from_slice(&[
            version << 4 | ADVERTISEMENT,
            self.vrid.value(),
            self.priority,
            count,
            fourth,
            fifth,
            0,
            0,
        ]);
        for address in addresses {
            match address {
                IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
            }
        }
        let start = match self.version {
            Version::V3 => form.start(source, destination, out),
            Version::V2(authentication) => {
                out.extend_from_slice(&authentication.fields().1);
                0
            }
        };
        let checksum = !fold(sum(out, start));
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

#[cfg(test)]
pub(crate) mod tests;
