//! The client against a server that is a few lines long, and against garbage.

use super::packet::{CLIENT_PORT, NotTaken, Reply, SERVER_PORT, in_packet, read};
use super::{Client, Lease, Output};
use crate::MacAddr;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::time::Duration;

const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);
const SERVER: [u8; 4] = [10, 0, 0, 2];
const OURS: [u8; 4] = [10, 0, 0, 5];

const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A server's packet.
fn reply(kind: u8, xid: u32, address: [u8; 4], options: &[&[u8]]) -> Vec<u8> {
    let mut message = vec![0; 236];
    message[..4].copy_from_slice(&[2, 1, 6, 0]);
    message[4..8].copy_from_slice(&xid.to_be_bytes());
    message[16..20].copy_from_slice(&address);
    message[28..34].copy_from_slice(&MAC.0);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind, 54, 4]);
    message.extend(SERVER);
    for option in options {
        message.extend(*option);
    }
    message.push(255);
    in_packet(
        &message,
        (SERVER.into(), SERVER_PORT),
        (OURS.into(), CLIENT_PORT),
    )
}

const MASK: &[u8] = &[1, 4, 255, 255, 255, 0];
const HOUR: &[u8] = &[51, 4, 0, 0, 0x0e, 0x10];

fn ack(xid: u32) -> Vec<u8> {
    reply(ACK, xid, OURS, &[MASK, HOUR, &[3, 4, 10, 0, 0, 1]])
}

/// Number and type of a client's message.
fn asked(outputs: &[Output]) -> (u32, u8) {
    let [output] = outputs else {
        panic!("one message expected: {outputs:?}");
    };
    let message = match output {
        Output::Broadcast(packet) => &packet[28..],
        Output::Unicast(to, message) => {
            assert_eq!(*to, Ipv4Addr::from(SERVER));
            message
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(message[236..240], [0x63, 0x82, 0x53, 0x63]);
    assert_eq!(message[240..242], [53, 1], "the type is the first option");
    (
        u32::from_be_bytes(message[4..8].try_into().unwrap()),
        message[242],
    )
}

fn client() -> Client {
    Client::new(MAC, Some("amphora-1".into()), 7, seconds(1))
}

/// A client with a lease of an hour since second 1.
fn bound() -> (Client, Lease) {
    let mut client = client();
    let (xid, kind) = asked(&client.tick(seconds(1)));
    assert_eq!(kind, 1);
    let request = client
        .receive(&reply(OFFER, xid, OURS, &[]), seconds(1))
        .unwrap();
    let (xid, kind) = asked(&request);
    assert_eq!(kind, 3);
    let outputs = client.receive(&ack(xid), seconds(1)).unwrap();
    let [Output::Configure(lease)] = outputs.as_slice() else {
        panic!("{outputs:?}");
    };
    let lease = lease.clone();
    (client, lease)
}

#[test]
fn an_address_in_four_packets() {
    let (client, lease) = bound();
    assert_eq!(lease.address.to_string(), "10.0.0.5/24");
    assert_eq!(lease.routes.len(), 1);
    assert_eq!(lease.routes[0].via, Some([10, 0, 0, 1].into()));
    assert_eq!(
        (lease.renew, lease.rebind),
        (seconds(1_800), seconds(3_150))
    );
    assert_eq!(client.due(), seconds(1_801));
}

#[test]
fn a_query_has_right_sums_and_says_who_asks() {
    let mut client = client();
    let outputs = client.tick(seconds(1));
    let [Output::Broadcast(packet)] = outputs.as_slice() else {
        panic!("{outputs:?}");
    };
    let sum = |bytes: &[u8]| {
        let pairs = bytes.chunks(2).map(|pair| {
            u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default())
        });
        let sum: u32 = pairs.sum();
        (sum & 0xffff) + (sum >> 16)
    };
    assert_eq!(sum(&packet[..20]), 0xffff, "header");
    // The pseudo header: both addresses, protocol and length (RFC 768).
    let udp = &packet[20..];
    let pseudo = [&packet[12..20], &[0, 17], &udp[4..6], udp].concat();
    assert_eq!(sum(&pseudo), 0xffff, "datagram");
    assert_eq!(packet[12..20], [0, 0, 0, 0, 255, 255, 255, 255]);
    assert_eq!(udp[..4], [0, 68, 0, 67]);
    assert!(packet.len() >= 328, "relays take no shorter ones");
    let find = |wanted: &[u8]| packet.windows(wanted.len()).any(|w| w == wanted);
    assert!(find(b"\x0c\x09amphora-1"));
    assert!(find(&[61, 7, 1, 0xfa, 0x16, 0x3e, 0, 0, 1]));
}

#[test]
fn nobody_answers_and_it_asks_ever_more_rarely() {
    let mut client = client();
    let (mut now, mut waits) = (seconds(1), Vec::new());
    for _ in 0..12 {
        asked(&client.tick(now));
        waits.push(client.due().checked_sub(now).unwrap());
        now = client.due();
    }
    for (n, wait) in waits.iter().enumerate() {
        let middle = seconds(1 << n.min(6));
        assert!(
            *wait >= middle * 3 / 4 && *wait <= middle * 5 / 4,
            "{n}: {wait:?}"
        );
    }
    assert_eq!(client.unanswered(), 12);
    assert!(
        client.tick(now - Duration::from_millis(1)).is_empty(),
        "not yet due"
    );
}

#[test]
fn an_offer_that_is_never_confirmed_is_given_up() {
    let mut client = client();
    let (xid, _) = asked(&client.tick(seconds(1)));
    client
        .receive(&reply(OFFER, xid, OURS, &[]), seconds(1))
        .unwrap();
    let kinds: Vec<u8> = (0..4)
        .map(|_| {
            let due = client.due();
            asked(&client.tick(due)).1
        })
        .collect();
    assert_eq!(kinds, [3, 3, 3, 1]);
}

#[test]
fn a_refusal_begins_anew_but_not_at_once() {
    let mut client = client();
    let (xid, _) = asked(&client.tick(seconds(1)));
    client
        .receive(&reply(OFFER, xid, OURS, &[]), seconds(1))
        .unwrap();
    assert!(
        client
            .receive(&reply(NAK, xid, [0; 4], &[]), seconds(2))
            .unwrap()
            .is_empty()
    );
    assert!(client.due() > seconds(2));
    let due = client.due();
    assert_eq!(asked(&client.tick(due)).1, 1);
}

#[test]
fn renewed_at_half_time_and_nothing_changes() {
    let (mut client, _) = bound();
    let (xid, kind) = asked(&client.tick(seconds(1_801)));
    assert_eq!(kind, 3);
    assert!(
        client
            .receive(&ack(xid), seconds(1_802))
            .unwrap()
            .is_empty()
    );
    assert_eq!(client.due(), seconds(1_801 + 1_800));
    // A second answer to the same exchange is nobody's.
    assert_eq!(
        client.receive(&ack(xid), seconds(1_803)),
        Err(NotTaken::NotOurs)
    );
}

#[test]
fn a_renewal_with_another_router_is_configured() {
    let (mut client, _) = bound();
    let (xid, _) = asked(&client.tick(seconds(1_801)));
    let other = reply(ACK, xid, OURS, &[MASK, HOUR, &[3, 4, 10, 0, 0, 9]]);
    let outputs = client.receive(&other, seconds(1_802)).unwrap();
    assert!(
        matches!(outputs.as_slice(), [Output::Configure(_)]),
        "{outputs:?}"
    );
}

#[test]
fn a_dead_server_is_asked_then_all_are_asked_then_the_address_goes() {
    let (mut client, _) = bound();
    let (mut unicast, mut broadcast) = (0, 0);
    let gone = loop {
        let now = client.due();
        let outputs = client.tick(now);
        match outputs.first().unwrap() {
            Output::Unicast(..) => unicast += 1,
            Output::Broadcast(packet) => {
                assert_eq!(packet[12..16], OURS, "a lease holder speaks as itself");
                assert!(now >= seconds(3_151));
                broadcast += 1;
            }
            Output::Deconfigure(_) => break now,
            Output::Configure(_) => panic!("nobody granted anything"),
        }
        assert!(client.due() > now, "it would never end");
    };
    assert_eq!(gone, seconds(3_601));
    assert!(unicast >= 2 && broadcast >= 2, "{unicast} {broadcast}");
    assert!(client.lease().is_none());
}

#[test]
fn a_lease_for_ever_is_never_renewed() {
    let mut client = client();
    let (xid, _) = asked(&client.tick(seconds(1)));
    client
        .receive(&reply(OFFER, xid, OURS, &[]), seconds(1))
        .unwrap();
    let forever: &[u8] = &[51, 4, 255, 255, 255, 255];
    client
        .receive(&reply(ACK, xid, OURS, &[MASK, forever]), seconds(1))
        .unwrap();
    assert_eq!(client.due(), Duration::MAX);
    assert!(matches!(client.release(), Some(Output::Unicast(..))));
}

fn granted(options: &[&[u8]]) -> Result<Lease, NotTaken> {
    match read(&reply(ACK, 1, OURS, options), MAC, 1)? {
        Reply::Ack(lease) => Ok(lease),
        other => panic!("{other:?}"),
    }
}

#[test]
fn options_mean_what_their_rfcs_say() {
    let routes: &[u8] = &[121, 14, 0, 10, 0, 0, 9, 32, 169, 254, 169, 254, 10, 0, 0, 3];
    let more: &[u8] = &[121, 8, 24, 192, 0, 2, 0, 0, 0, 0];
    // Option 121 in two parts (RFC 3396), and option 3, which it overrides (RFC 3442).
    let lease = granted(&[
        MASK,
        HOUR,
        &[3, 4, 10, 0, 0, 1],
        routes,
        more,
        &[26, 2, 5, 0xaa],
    ])
    .unwrap();
    let shown: Vec<String> = lease
        .routes
        .iter()
        .map(|route| format!("{} {:?}", route.to, route.via))
        .collect();
    assert_eq!(
        shown,
        [
            "0.0.0.0/0 Some(10.0.0.9)",
            "169.254.169.254/32 Some(10.0.0.3)",
            "192.0.2.0/24 None"
        ]
    );
    assert_eq!(lease.mtu, Some(1_450));
    // Too small an MTU is not taken, nor T1 behind T2.
    let lease = granted(&[HOUR, &[26, 2, 0, 68], &[58, 4, 0, 0, 0x0e, 0x10]]).unwrap();
    assert_eq!((lease.mtu, lease.renew), (None, seconds(1_800)));
    assert_eq!(lease.address.prefix_len(), 8, "by its class");
    for (options, expect) in [
        (&[MASK][..], "lease time"),
        (&[HOUR, &[1, 4, 255, 0, 255, 0]], "netmask"),
        (&[HOUR, &[121, 5, 33, 1, 2, 3, 4]], "longer than 32"),
        (&[HOUR, &[121, 2, 24, 1]], "end in the middle"),
    ] {
        let error = granted(options).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    }
}

#[test]
fn options_in_the_fields_of_names_are_read_when_the_message_says_so() {
    let mut packet = reply(ACK, 1, OURS, &[MASK, &[52, 1, 1]]);
    packet[28 + 108..28 + 115].copy_from_slice(&[51, 4, 0, 0, 0x0e, 0x10, 255]);
    assert!(matches!(read(&packet, MAC, 1), Ok(Reply::Ack(_))));
    let mut silent = reply(ACK, 1, OURS, &[MASK]);
    silent[28 + 108..28 + 115].copy_from_slice(&[51, 4, 0, 0, 0x0e, 0x10, 255]);
    assert!(matches!(read(&silent, MAC, 1), Err(NotTaken::Broken(_))));
}

#[test]
fn packets_for_others_are_not_taken() {
    let good = ack(1);
    assert!(read(&good, MAC, 1).is_ok());
    assert_eq!(read(&good, MAC, 2), Err(NotTaken::NotOurs));
    assert_eq!(read(&good, MacAddr::BROADCAST, 1), Err(NotTaken::NotOurs));
    for (at, value) in [(0, 0x65), (9, 6), (6, 0x20), (23, 69), (21, 66), (28, 1)] {
        let mut other = good.clone();
        other[at] = value;
        assert_eq!(read(&other, MAC, 1), Err(NotTaken::NotOurs), "byte {at}");
    }
}

proptest! {
    #[test]
    fn no_bytes_break_it(packet in proptest::collection::vec(any::<u8>(), 0..700), cut in 0_usize..400) {
        let _ = read(&packet, MAC, 1);
        let good = ack(1);
        let _ = read(&good[..cut.min(good.len())], MAC, 1);
        let mut mixed = good;
        for (place, byte) in mixed.iter_mut().skip(28).zip(&packet) {
            *place ^= byte & 0x11;
        }
        let _ = read(&mixed, MAC, 1);
    }

    /// Whatever a server with the right numbers grants, the client is due later than now and has what it says.
    #[test]
    fn no_options_stop_it(tail in proptest::collection::vec(any::<u8>(), 0..64), wait in 0_u64..5_000) {
        let (mut client, _) = bound();
        let mut now = seconds(1_801);
        let (xid, _) = asked(&client.tick(now));
        let _ = client.receive(&reply(ACK, xid, OURS, &[HOUR, &tail]), now);
        now += seconds(wait);
        let _ = client.tick(now);
        prop_assert!(client.due() > now || wait == 0);
    }
}
