//! PROXY protocol headers, versions 1 and 2: as they are sent to members, and read ([`parse`])
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

mod parse;

pub use parse::{Addresses, Header, HeaderFault, MAX_HEADER, parse};

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Signature of version 2 (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
const TYPE_SSL: u8 = 0x20;
const SUBTYPE_SSL_VERSION: u8 = 0x21;
const SUBTYPE_SSL_CN: u8 = 0x22;
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
const CLIENT_CERT_SESS: u8 = 0x04;
/// A common name is at most 64 characters (RFC 5280 appendix A.1), 256 bytes in UTF-8.
const MAX_CN: usize = 256;

/// The line of version 1 on a connection of our own, which has no client: a probe's (section 2.1).
pub const V1_OWN: &[u8] = b"PROXY UNKNOWN\r\n";
/// The header of version 2 on such a connection: command LOCAL (section 2.2).
pub const V2_OWN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// What is told of a client's TLS in version 2.
#[derive(Debug, Clone, Copy)]
pub struct Tls<'a> {
    /// Such as `TLSv1.3`.
    pub version: &'a str,
    /// The client showed a certificate, and it verified.
    pub has_certificate: bool,
    /// Common name of that certificate.
    pub common_name: Option<&'a str>,
}

/// The line of version 1.
pub fn v1(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (family, from, to) = match (client.ip(), local.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ("TCP4", from.to_string(), to.to_string()),
        (from, to) => ("TCP6", v6(from).to_string(), v6(to).to_string()),
    };
    format!(
        "PROXY {family} {from} {to} {} {}\r\n",
        client.port(),
        local.port()
    )
    .into_bytes()
}

/// The header of version 2.
pub fn v2(client: SocketAddr, local: SocketAddr, tls: Option<Tls<'_>>) -> Vec<u8> {
    let mut rest = Vec::with_capacity(64);
    let family = match (client.ip(), local.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            rest.extend(from.octets());
            rest.extend(to.octets());
            TCP_OVER_IPV4
        }
        (from, to) => {
            rest.extend(v6(from).octets());
            rest.extend(v6(to).octets());
            TCP_OVER_IPV6
        }
    };
    rest.extend(client.port().to_be_bytes());
    rest.extend(local.port().to_be_bytes());
    if let Some(tls) = tls {
        tlv(&mut rest, TYPE_SSL, &ssl(tls));
    }
    let mut header = SIGNATURE.to_vec();
    header.extend([VERSION_COMMAND, family]);
    header.extend(length(rest.len()));
    header.extend(rest);
    header
}

/// Section 2.2.6.
fn ssl(tls: Tls<'_>) -> Vec<u8> {
    let certificate = CLIENT_CERT_CONN | CLIENT_CERT_SESS;
    let client = CLIENT_SSL | if tls.has_certificate { certificate } else { 0 };
    let mut value = vec![client];
    // `verify` is 0 when a certificate was shown and verified, else not.
    value.extend(u32::from(!tls.has_certificate).to_be_bytes());
    tlv(&mut value, SUBTYPE_SSL_VERSION, tls.version.as_bytes());
    if let Some(name) = tls.common_name {
        let name = name.as_bytes();
        tlv(
            &mut value,
            SUBTYPE_SSL_CN,
            name.get(..MAX_CN).unwrap_or(name),
        );
    }
    value
}

fn tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    out.extend(length(value.len()));
    out.extend(value);
}

/// Everything here is far shorter than 64 KiB, because [`MAX_CN`] bounds it.
fn length(n: usize) -> [u8; 2] {
    u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes()
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn version_1_lines() {
        assert_eq!(
            v1(at("192.0.2.7:40000"), at("203.0.113.1:80")),
            b"PROXY TCP4 192.0.2.7 203.0.113.1 40000 80\r\n"
        );
        assert_eq!(
            v1(at("[2001:db8::7]:40000"), at("[2001:db8::1]:443")),
            b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 443\r\n"
        );
        let longest = "[1111:2222:3333:4444:5555:6666:7777:8888]:65535";
        assert!(v1(at(longest), at(longest)).len() <= 107, "section 2.1");
    }

    #[test]
    fn version_2_bytes() {
        let got = v2(at("192.0.2.7:40000"), at("203.0.113.1:80"), None);
        let want = [
            &SIGNATURE[..],
            &[0x21, 0x11, 0, 12],
            &[192, 0, 2, 7, 203, 0, 113, 1],
            &[0x9c, 0x40, 0, 80],
        ];
        assert_eq!(got, want.concat());
        let got = v2(at("[2001:db8::7]:1"), at("[2001:db8::1]:2"), None);
        assert_eq!((got[13], got.len()), (0x21, 16 + 36));
    }

    #[test]
    fn version_2_tells_of_tls() {
        let tls = Tls {
            version: "TLSv1.3",
            has_certificate: true,
            common_name: Some("client"),
        };
        let got = v2(at("192.0.2.7:40000"), at("203.0.113.1:443"), Some(tls));
        let want = [
            &[0x20, 0, 24, 7, 0, 0, 0, 0, 0x21, 0, 7][..],
            b"TLSv1.3",
            &[0x22, 0, 6],
            b"client",
        ]
        .concat();
        assert_eq!(&got[28..], want);
        assert_eq!(
            usize::from(u16::from_be_bytes([got[14], got[15]])),
            got.len() - 16
        );
        let long = "x".repeat(70_000);
        let tls = Tls {
            common_name: Some(&long),
            ..tls
        };
        assert!(v2(at("192.0.2.7:1"), at("192.0.2.8:1"), Some(tls)).len() < 400);
    }
}
