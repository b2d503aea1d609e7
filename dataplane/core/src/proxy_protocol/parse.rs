//! PROXY protocol headers as trusted front ends send them. Nothing is read beyond the header.

use super::{SIGNATURE, TCP_OVER_IPV4, TCP_OVER_IPV6};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest line of version 1, line end included (section 2.1).
const MAX_LINE: usize = 107;
/// Longest header of version 2 that is read: addresses, and TLVs of a certificate's names fit.
pub const MAX_HEADER: usize = 4 * 1024;
/// Bytes before the part of version 2 whose length they tell.
const FIXED: usize = 16;
const TYPE_CRC32C: u8 = 0x03;

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("PROXY header: {0}")]
pub struct HeaderFault(pub &'static str);

/// Source and destination of the connection that the front end got.
pub type Addresses = (SocketAddr, SocketAddr);

/// What the beginning of a connection holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// At least so many more bytes belong to the header.
    Partial(usize),
    /// The header is complete. None: the front end speaks for itself, or of something else than TCP.
    Complete(Option<Addresses>),
}

/// Looks at the bytes from the beginning of a connection on, of which none may follow the header: read
/// what [`Header::Partial`] names, and no more.
pub fn parse(bytes: &[u8]) -> Result<Header, HeaderFault> {
    // Both versions are longer than this, so the first read cannot take too much.
    let known = bytes.len().min(SIGNATURE.len());
    let start = bytes.get(..known).unwrap_or_default();
    if start == SIGNATURE.get(..known).unwrap_or_default() {
        return match bytes.len() {
            n if n < SIGNATURE.len() => Ok(Header::Partial(SIGNATURE.len() - n)),
            n if n < FIXED => Ok(Header::Partial(FIXED - n)),
            _ => version_2(bytes),
        };
    }
    let word = b"PROXY ";
    let known = known.min(word.len());
    if bytes.get(..known) != word.get(..known) {
        return Err(HeaderFault("neither version 1 nor version 2"));
    }
    // The shortest line is "PROXY UNKNOWN".
    if bytes.len() < 15 {
        return Ok(Header::Partial(15 - bytes.len()));
    }
    match bytes {
        [line @ .., b'\r', b'\n'] => version_1(line),
        _ if bytes.len() >= MAX_LINE => Err(HeaderFault("the line is longer than 107 bytes")),
        _ => Ok(Header::Partial(1)),
    }
}

fn version_1(line: &[u8]) -> Result<Header, HeaderFault> {
    let line = std::str::from_utf8(line).map_err(|_| HeaderFault("the line is not ASCII"))?;
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(Header::Complete(None));
    }
    let v4 = match family {
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return Err(HeaderFault("the family is none of TCP4, TCP6, UNKNOWN")),
    };
    let mut ip = || -> Option<IpAddr> {
        let ip: IpAddr = words.next()?.parse().ok()?;
        (ip.is_ipv4() == v4).then_some(ip)
    };
    let (Some(from), Some(to)) = (ip(), ip()) else {
        return Err(HeaderFault("an address is missing or not of the family"));
    };
    let mut port = || -> Option<u16> {
        let word = words.next()?;
        let plain =
            word.bytes().all(|b| b.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
        word.parse().ok().filter(|_| plain)
    };
    let (Some(from_port), Some(to_port), None) = (port(), port(), words.next()) else {
        return Err(HeaderFault("a port is missing or not a number"));
    };
    Ok(Header::Complete(Some((
        SocketAddr::new(from.to_canonical(), from_port),
        SocketAddr::new(to.to_canonical(), to_port),
    ))))
}

fn version_2(bytes: &[u8]) -> Result<Header, HeaderFault> {
    let [.., command, family, high, low] = *bytes.get(..FIXED).unwrap_or_default() else {
        return Err(HeaderFault("too short"));
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_HEADER {
        return Err(HeaderFault("longer than 4096 bytes"));
    }
    if bytes.len() < length {
        return Ok(Header::Partial(length - bytes.len()));
    }
    if bytes.len() > length {
        return Err(HeaderFault("bytes follow the header"));
    }
    let rest = bytes.get(FIXED..).unwrap_or_default();
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderFault("neither version 2 LOCAL nor PROXY")),
    };
    let (addresses, tlvs) = match family {
        TCP_OVER_IPV4 => match rest.split_first_chunk::<12>() {
            Some((part, tlvs)) => (Some(v4(*part)), tlvs),
            None => return Err(HeaderFault("too short for IPv4 addresses")),
        },
        TCP_OVER_IPV6 => match rest.split_first_chunk::<36>() {
            Some((part, tlvs)) => (Some(v6(part)), tlvs),
            None => return Err(HeaderFault("too short for IPv6 addresses")),
        },
        // Not to be looked into (section 2.2): unspecified, Unix sockets.
        0x00 | 0x31 => return Ok(Header::Complete(None)),
        _ => return Err(HeaderFault("neither TCP over IPv4 nor over IPv6")),
    };
    check_tlvs(bytes, tlvs)?;
    Ok(Header::Complete(addresses.filter(|_| !local)))
}

fn v4(part: [u8; 12]) -> Addresses {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = part;
    (
        (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([i, j])).into(),
        (Ipv4Addr::new(e, f, g, h), u16::from_be_bytes([k, l])).into(),
    )
}

fn v6(part: &[u8; 36]) -> Addresses {
    let (from, rest) = part.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    let (to, ports) = rest.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    let [a, b, c, d] = *ports else {
        return (
            (Ipv6Addr::UNSPECIFIED, 0).into(),
            (Ipv6Addr::UNSPECIFIED, 0).into(),
        );
    };
    let at = |ip: &[u8; 16], port| {
        let ip = IpAddr::V6(Ipv6Addr::from(*ip)).to_canonical();
        SocketAddr::new(ip, port)
    };
    (
        at(from, u16::from_be_bytes([a, b])),
        at(to, u16::from_be_bytes([c, d])),
    )
}

/// They must be whole; a checksum must be right (section 2.2.3).
fn check_tlvs(header: &[u8], mut tlvs: &[u8]) -> Result<(), HeaderFault> {
    while !tlvs.is_empty() {
        let Some(([kind, high, low], rest)) = tlvs.split_first_chunk::<3>() else {
            return Err(HeaderFault("a TLV is cut off"));
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            return Err(HeaderFault("a TLV is cut off"));
        };
        if *kind == TYPE_CRC32C {
            let at = header.len() - rest.len() - length;
            let sum = value.first_chunk::<4>().filter(|_| length == 4);
            if sum != Some(&crc32c(header, at..at + length).to_be_bytes()) {
                return Err(HeaderFault("the checksum is wrong"));
            }
        }
        tlvs = rest;
    }
    Ok(())
}

/// CRC-32C (RFC 4960 appendix B), with zeros in place of `blank`.
fn crc32c(bytes: &[u8], blank: std::ops::Range<usize>) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in bytes.iter().enumerate() {
        crc ^= u32::from(if blank.contains(&at) { 0 } else { *byte });
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::super::{Tls, v1, v2};
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Reads as the shell does: what is asked for, and no more.
    fn read(stream: &[u8]) -> Result<(Option<Addresses>, usize), HeaderFault> {
        let mut have = 0;
        loop {
            match parse(&stream[..have])? {
                Header::Complete(addresses) => return Ok((addresses, have)),
                Header::Partial(more) => {
                    assert!(more > 0);
                    have += more;
                    if have > stream.len() {
                        return Err(HeaderFault("ended"));
                    }
                }
            }
        }
    }

    #[test]
    fn what_we_write_is_read_and_nothing_after_it() {
        for (from, to) in [
            ("192.0.2.7:40000", "203.0.113.1:80"),
            ("[2001:db8::7]:1", "[2001:db8::1]:65535"),
        ] {
            let (from, to) = (at(from), at(to));
            let tls = Tls {
                version: "TLSv1.3",
                has_certificate: true,
                common_name: Some("c"),
            };
            for header in [v1(from, to), v2(from, to, None), v2(from, to, Some(tls))] {
                let stream = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
                assert_eq!(read(&stream), Ok((Some((from, to)), header.len())));
            }
        }
    }

    #[test]
    fn headers_without_addresses() {
        let local = [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat();
        assert_eq!(read(&local), Ok((None, 16)));
        assert_eq!(local, super::super::V2_OWN);
        assert_eq!(read(super::super::V1_OWN), Ok((None, 15)));
        let health = [&SIGNATURE[..], &[0x20, 0x11, 0, 12], &[1; 12]].concat();
        assert_eq!(read(&health), Ok((None, 28)), "LOCAL: not to be believed");
        assert_eq!(read(b"PROXY UNKNOWN\r\nx"), Ok((None, 15)));
        let more = b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n";
        assert_eq!(read(more), Ok((None, more.len())));
    }

    #[test]
    fn a_checksum_is_verified() {
        // CRC-32C of "123456789" is the check value of the algorithm.
        assert_eq!(crc32c(b"123456789", 0..0), 0xe306_9283);
        let mut header = v2(at("192.0.2.7:1"), at("192.0.2.8:2"), None);
        header[15] += 7;
        let place = header.len() + 3;
        header.extend([TYPE_CRC32C, 0, 4, 0, 0, 0, 0]);
        let sum = crc32c(&header, place..place + 4);
        header[place..].copy_from_slice(&sum.to_be_bytes());
        assert!(read(&header).is_ok());
        header[20] ^= 1;
        assert_eq!(read(&header), Err(HeaderFault("the checksum is wrong")));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let long = format!("PROXY TCP4 {}\r\n", "1".repeat(100));
        let cut = {
            let mut header = v2(at("192.0.2.7:1"), at("192.0.2.8:2"), None);
            header[15] += 4;
            header.extend([9, 0, 2, 0]);
            header
        };
        let six = [&SIGNATURE[..], &[0x21, 0x21, 0, 12], &[0; 12]].concat();
        let udp = [&SIGNATURE[..], &[0x21, 0x12, 0, 12], &[0; 12]].concat();
        let huge = [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat();
        let version = [&SIGNATURE[..], &[0x31, 0x11, 0, 12], &[0; 12]].concat();
        for stream in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            long.as_bytes(),
            &cut,
            &six,
            &udp,
            &huge,
            &version,
        ] {
            let shown = String::from_utf8_lossy(stream);
            let error = read(stream).unwrap_err();
            assert_ne!(error, HeaderFault("ended"), "{shown:?}");
        }
    }

    proptest! {
        #[test]
        fn any_addresses_round_trip(a: u32, b: u32, c: u128, d: u128, p: u16, q: u16, six: bool) {
            let (from, to) = if six {
                // Mapped addresses come back as IPv4.
                let plain = |ip: u128| IpAddr::V6(Ipv6Addr::from_bits(ip)).to_canonical();
                (plain(c | 1 << 127), plain(d | 1 << 127))
            } else {
                (Ipv4Addr::from_bits(a).into(), Ipv4Addr::from_bits(b).into())
            };
            let (from, to) = (SocketAddr::new(from, p), SocketAddr::new(to, q));
            prop_assert_eq!(read(&v1(from, to)).unwrap().0, Some((from, to)));
            prop_assert_eq!(read(&v2(from, to, None)).unwrap().0, Some((from, to)));
        }
    }
}
