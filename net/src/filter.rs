//! Addresses that a host answers ARP and neighbour solicitations for, but accepts no packets to: one nftables
//! table of ours, written over netlink.
//!
//! ARP never passes this hook; of IPv6, neighbour discovery is let through. The table is replaced as a whole in
//! one transaction of the kernel, so that no packet sees half of it.

use crate::{Error, Result};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// The table's name: whoever finds it knows whose it is.
const TABLE: &str = "krater-vrrp";
const CHAIN: &str = "input";
/// How long an answer may take; the kernel answers inside `send`.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Elements of one message: an attribute holds 64 KiB, and an element of ours at most 32 bytes.
const ELEMENTS: usize = 1_000;
/// Answers are short, but an error repeats the message that it is about.
const BUFFER: usize = 128 * 1024;

// linux/netfilter/nfnetlink.h, nf_tables.h, netfilter.h
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DEL_TABLE: u16 = SUBSYSTEM << 8 | 2;
const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const NEW_SET: u16 = SUBSYSTEM << 8 | 9;
const NEW_ELEMENTS: u16 = SUBSYSTEM << 8 | 12;
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const HOOK_INPUT: u32 = 1;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;

/// Drops packets to `addresses` in the namespace of the calling thread, and to nothing else any more. With
/// none, the table is gone. A change costs some 10 ms, in which the kernel waits for packets under way; without
/// table and addresses it costs nothing.
pub fn refuse_packets_to(addresses: &[IpAddr]) -> Result<()> {
    let result = Filter::open().and_then(|filter| {
        if addresses.is_empty() && !filter.is_there()? {
            return Ok(());
        }
        filter.send(&batch(addresses))
    });
    match result {
        // Without nftables there is nothing to remove.
        Err(error)
            if addresses.is_empty()
                && matches!(
                    error.raw_os_error(),
                    Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL)
                ) =>
        {
            Ok(())
        }
        result => {
            let what = format!("drop packets to {} addresses", addresses.len());
            result.map_err(|error| Error::new(what, error))
        }
    }
}

struct Filter(Socket);

impl Filter {
    fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_NETFILTER)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket2::SockRef::from(&socket).set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(Self(socket))
    }

    fn is_there(&self) -> io::Result<bool> {
        let mut question = Batch::default();
        question.message(GET_TABLE, 0, &text(1, TABLE));
        self.0.send(&question.bytes, 0)?;
        let answer = self.receive()?;
        let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok());
        match error(&answer) {
            // The table itself.
            _ if kind.map(u16::from_ne_bytes) == Some(NEW_TABLE) => Ok(true),
            Some((code, ..)) if code == -libc::ENOENT => Ok(false),
            Some((code, ..)) => Err(io::Error::from_raw_os_error(code.saturating_abs())),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            match self.0.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(|_| buffer),
            }
        }
    }

    /// Sends a batch whose last message but one asks for an acknowledgement.
    fn send(&self, batch: &Batch) -> io::Result<()> {
        self.0.send(&batch.bytes, 0)?;
        loop {
            // Errors of single messages come before the acknowledgement of the whole.
            let answer = self.receive()?;
            let mut rest = answer.as_slice();
            while let Some((code, sequence, after)) = error(rest) {
                if code != 0 {
                    return Err(io::Error::from_raw_os_error(code.saturating_abs()));
                }
                if sequence == batch.last {
                    return Ok(());
                }
                rest = after;
            }
        }
    }
}

/// Code and sequence number of an NLMSG_ERROR, and what follows it.
fn error(bytes: &[u8]) -> Option<(i32, u32, &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let code = i32::from_ne_bytes(bytes.get(16..20)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?.next_multiple_of(4);
    Some((code, sequence, bytes.get(length..).unwrap_or_default()))
}

/// Messages in a row, one transaction.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Of the next message.
    sequence: u32,
    /// Of the one that is acknowledged.
    last: u32,
}

impl Batch {
    /// A message of nftables, or a bracket around them.
    fn message(&mut self, kind: u16, flags: u16, attributes: &[u8]) {
        let bracket = kind == BATCH_BEGIN || kind == BATCH_END;
        let (family, resource) = match bracket {
            true => (0, SUBSYSTEM),
            false => (INET, 0),
        };
        let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.bytes.extend_from_slice(attributes);
        if flags & ACK != 0 {
            self.last = self.sequence;
        }
        self.sequence += 1;
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &parts.concat())
}

/// One step of a rule: its name and what belongs to it.
fn expression(name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, parts)])
}

/// Loads `length` bytes of a header (1: network, 2: transport) into the first register.
fn payload(base: u32, offset: u32, length: u32) -> Vec<u8> {
    let parts = [
        number(1, 1),
        number(2, base),
        number(3, offset),
        number(4, length),
    ];
    expression("payload", &parts)
}

/// Loads a property of the packet (15: family, 16: protocol) into the first register.
fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[number(1, 1), number(2, key)])
}

/// Goes on only when the first register has this byte.
fn equals(value: u8) -> Vec<u8> {
    let data = nested(3, &[attribute(1, &[value])]);
    expression("cmp", &[number(1, 1), number(2, 0), data])
}

/// Goes on only when the first register is in a set.
fn within(set: &str) -> Vec<u8> {
    expression("lookup", &[text(1, set), number(2, 1)])
}

fn verdict(code: u32) -> Vec<u8> {
    let verdict = nested(2, &[nested(2, &[number(1, code)])]);
    expression("immediate", &[number(1, 0), verdict])
}

fn rule(steps: &[Vec<u8>]) -> Vec<u8> {
    [text(1, TABLE), text(2, CHAIN), nested(4, steps)].concat()
}

fn batch(addresses: &[IpAddr]) -> Batch {
    let mut batch = Batch::default();
    let table = text(1, TABLE);
    batch.message(BATCH_BEGIN, 0, &[]);
    // Made first, so that it can be deleted whether it was there or not.
    batch.message(NEW_TABLE, CREATE, &table);
    let only_removed = addresses.is_empty();
    batch.message(DEL_TABLE, if only_removed { ACK } else { 0 }, &table);
    if !only_removed {
        batch.message(NEW_TABLE, CREATE, &table);
        let hook = nested(4, &[number(1, HOOK_INPUT), number(2, 0)]);
        let chain = [
            text(1, TABLE),
            text(3, CHAIN),
            hook,
            number(5, ACCEPT),
            text(7, "filter"),
        ];
        batch.message(NEW_CHAIN, CREATE, &chain.concat());
        let family = |value| [meta(15), equals(value)];
        // Neighbour solicitation and advertisement (RFC 4861 sections 4.3 and 4.4; RFC 9568 section 6.4.3
        // has them answered whether packets are accepted or not).
        for kind in [135, 136] {
            let discovery = [meta(16), equals(58), payload(2, 0, 1), equals(kind)];
            let steps = [&family(IPV6)[..], &discovery, &[verdict(ACCEPT)]].concat();
            batch.message(NEW_RULE, CREATE | APPEND, &rule(&steps));
        }
        let of = |v4: bool| addresses.iter().filter(move |a| a.is_ipv4() == v4);
        for (id, name, number_of_family, keys) in [
            (1, "ipv4", IPV4, of(true).map(octets).collect::<Vec<_>>()),
            (2, "ipv6", IPV6, of(false).map(octets).collect()),
        ] {
            let Some(length) = keys.first().map(Vec::len) else {
                continue;
            };
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            // Destination address: RFC 791 section 3.1, RFC 8200 section 3.
            let offset = if length == 4 { 16 } else { 24 };
            // The type only tells `nft` how to print it (7: IPv4 address, 8: IPv6 address).
            let set = [
                text(1, TABLE),
                text(2, name),
                number(3, 0),
                number(4, if length == 4 { 7 } else { 8 }),
                number(5, length),
                number(10, id),
            ];
            batch.message(NEW_SET, CREATE, &set.concat());
            for some in keys.chunks(ELEMENTS) {
                let element = |key: &Vec<u8>| nested(1, &[nested(1, &[attribute(1, key)])]);
                let list: Vec<Vec<u8>> = some.iter().map(element).collect();
                let list = [text(1, TABLE), text(2, name), nested(3, &list)];
                batch.message(NEW_ELEMENTS, CREATE, &list.concat());
            }
            let destination = [payload(1, offset, length), within(name), verdict(DROP)];
            let steps = [&family(number_of_family)[..], &destination].concat();
            batch.message(NEW_RULE, CREATE | APPEND, &rule(&steps));
        }
        // Changes nothing, and is acknowledged once all before it was taken.
        batch.message(NEW_TABLE, CREATE | ACK, &table);
    }
    batch.message(BATCH_END, 0, &[]);
    batch
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_say_their_length() {
        assert_eq!(text(1, "ab"), [7, 0, 1, 0, b'a', b'b', 0, 0]);
        assert_eq!(number(2, 5), [8, 0, 2, 0, 0, 0, 0, 5]);
        assert_eq!(nested(3, &[]), [4, 0, 3, 0x80]);
    }

    #[test]
    fn messages_add_up_to_the_batch_and_one_is_acknowledged() {
        let addresses: Vec<IpAddr> = (0..2_500_u32)
            .map(|n| IpAddr::V4(std::net::Ipv4Addr::from_bits(0xc000_0200 + n)))
            .chain(["2001:db8::1".parse().unwrap()])
            .collect();
        for addresses in [&addresses[..], &addresses[..1], &[]] {
            let batch = batch(addresses);
            let (mut rest, mut acknowledged, mut count) = (batch.bytes.as_slice(), Vec::new(), 0);
            while !rest.is_empty() {
                let length = u32::from_ne_bytes(rest[..4].try_into().unwrap());
                let flags = u16::from_ne_bytes(rest[6..8].try_into().unwrap());
                let sequence = u32::from_ne_bytes(rest[8..12].try_into().unwrap());
                assert_eq!(sequence, count);
                if flags & ACK != 0 {
                    acknowledged.push(sequence);
                }
                count += 1;
                rest = &rest[usize::try_from(length).unwrap()..];
            }
            assert_eq!(acknowledged, [batch.last]);
            // The last one before the end of the batch.
            assert_eq!((count, batch.last), (batch.sequence, count - 2));
        }
    }

    #[test]
    fn answers_are_read_and_what_is_short_is_none() {
        let mut bytes = vec![36, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&(-2_i32).to_ne_bytes());
        bytes.resize(36, 0);
        assert_eq!(error(&bytes), Some((-2, 9, &[][..])));
        for length in 0..20 {
            assert_eq!(error(&bytes[..length]), None);
        }
    }
}
