use super::*;
use proptest::prelude::*;

const fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ip(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn with(addresses: &[u8], ttl: u64) -> Result<Answer, String> {
    Ok(Answer::Addresses {
        addresses: addresses.iter().map(|last| ip(*last)).collect(),
        ttl: Duration::from_secs(ttl),
    })
}

fn late() -> Result<Answer, String> {
    Err("no answer".into())
}

fn resolver() -> Resolver {
    Resolver {
        hold_absent: Millis::literal(20_000),
        hold_error: Millis::literal(60_000),
        ..Resolver::default()
    }
}

#[test]
fn times_of_answers_are_bounded() {
    let with_bounds = resolver();
    for (ttl, expected) in [
        (0, 5_000),
        (5, 5_000),
        (6, 6_000),
        (300, 300_000),
        (301, 300_000),
    ] {
        let mut record = Record::default();
        record.observe(at(1_000), with(&[1], ttl), &with_bounds);
        assert_eq!(record.ask(), at(1_000 + expected), "{ttl}");
        assert_eq!(record.next(&with_bounds), record.ask());
    }
    let mut record = Record::default();
    record.observe(at(0), late(), &with_bounds);
    assert_eq!(record.ask(), at(5_000), "after a failure");
    let absent = Ok(Answer::NoName {
        ttl: Some(Duration::from_secs(60)),
    });
    record.observe(at(0), absent, &with_bounds);
    assert_eq!(record.ask(), at(60_000), "RFC 2308");
}

#[test]
fn the_last_good_addresses_hold_for_a_time() {
    let with_holds = resolver();
    let mut record = Record::default();
    record.observe(at(0), late(), &with_holds);
    assert!(record.addresses().is_empty() && record.is_asked());
    assert_eq!(record.problem(), Some("no answer"));
    record.observe(at(1_000), with(&[1], 5), &with_holds);
    assert_eq!((record.addresses(), record.problem()), (&[ip(1)][..], None));
    // Failures count from the first one.
    record.observe(at(6_000), late(), &with_holds);
    record.observe(at(60_000), late(), &with_holds);
    record.expire(at(65_999), &with_holds);
    assert_eq!(record.addresses(), [ip(1)]);
    assert_eq!(record.next(&with_holds), at(65_000), "to ask");
    record.observe(at(65_500), late(), &with_holds);
    assert_eq!(record.next(&with_holds), at(66_000), "to forget");
    record.expire(at(66_000), &with_holds);
    assert!(record.addresses().is_empty());
    // It comes back, goes away by word of the DNS, which a failure does not unsay.
    record.observe(at(70_000), with(&[2], 5), &with_holds);
    record.observe(at(75_000), Ok(Answer::NoName { ttl: None }), &with_holds);
    assert_eq!(record.problem(), Some("no such name (NXDOMAIN)"));
    record.observe(at(80_000), late(), &with_holds);
    record.expire(at(94_999), &with_holds);
    assert_eq!(record.addresses(), [ip(2)]);
    record.expire(at(95_000), &with_holds);
    assert!(record.addresses().is_empty());
    // A good answer begins anew.
    record.observe(at(96_000), with(&[3], 5), &with_holds);
    record.observe(at(200_000), late(), &with_holds);
    assert_eq!(record.addresses(), [ip(3)]);
}

#[test]
fn addresses_that_no_member_has_count_for_nothing() {
    let mut record = Record::default();
    let strange = ["0.0.0.0", "255.255.255.255", "224.0.0.1", "192.0.2.1"];
    let answer = Answer::Addresses {
        addresses: strange.map(|ip| ip.parse().unwrap()).to_vec(),
        ttl: Duration::ZERO,
    };
    record.observe(at(0), Ok(answer), &resolver());
    assert_eq!(record.addresses(), [ip(1)]);
    let answer = Answer::Addresses {
        addresses: vec!["ff02::1".parse().unwrap(), "::".parse().unwrap()],
        ttl: Duration::ZERO,
    };
    record.observe(at(1), Ok(answer), &resolver());
    assert_eq!(
        record.problem(),
        Some("its addresses are such that no member has")
    );
    assert_eq!(record.addresses(), [ip(1)], "held as when there are none");
}

#[test]
fn what_an_earlier_run_knew_holds_as_after_a_failure() {
    let mut record = Record::remembered(vec![ip(1)], at(0));
    assert!(record.is_asked() && record.ask() == at(0));
    record.observe(at(1_000), late(), &resolver());
    record.expire(at(59_999), &resolver());
    assert_eq!(record.addresses(), [ip(1)]);
    record.expire(at(60_000), &resolver());
    assert!(record.addresses().is_empty());
}

#[test]
fn problems_of_one_family_are_none_of_the_name() {
    let (mut four, mut six) = (Record::default(), Record::default());
    four.observe(at(0), with(&[1], 5), &resolver());
    six.observe(at(0), Ok(Answer::NoAddress { ttl: None }), &resolver());
    let found =
        |four: &Record, six: &Record| Found::of([(Family::Ipv4, four), (Family::Ipv6, six)]);
    assert_eq!(found(&four, &six).problem, None);
    six.observe(at(0), late(), &resolver());
    assert_eq!(found(&four, &six).problem.unwrap(), "IPv6: no answer");
    let none = found(&Record::default(), &six);
    assert_eq!((none.addresses.len(), none.problem.is_some()), (0, true));
}

#[test]
fn servers_of_a_resolv_conf() {
    let servers = |text: &str| {
        let servers = resolv_conf(text);
        servers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let text = "# x\nsearch example\n nameserver\t192.0.2.1\nnameserver 2001:db8::1 # y\n\
                nameserver fe80::1%eth0\nnameservers 192.0.2.9\nnameserver\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
    assert_eq!(servers(text), "192.0.2.1:53 [2001:db8::1]:53 192.0.2.3:53");
    assert_eq!(servers("options rotate"), "127.0.0.1:53");
    for (text, good) in [
        ("192.0.2.1:5353", true),
        ("[2001:db8::1]:5353", true),
        ("192.0.2.1:0", false),
        ("0.0.0.0", false),
        ("dns.example", false),
        ("", false),
    ] {
        assert_eq!(text.parse::<NameServer>().is_ok(), good, "{text}");
    }
}

proptest! {
    /// No address twice; who has one keeps it; nothing is left over while a place is empty.
    #[test]
    fn places_keep_their_addresses(rounds in prop::collection::vec(prop::collection::btree_set(0_u8..12, 0..10), 1..12), n in 1_usize..6) {
        let mut places = vec![None; n];
        for round in rounds {
            let addresses: Vec<IpAddr> = round.iter().map(|last| ip(*last)).collect();
            let before = places.clone();
            let changed = assign(&mut places, &addresses);
            prop_assert_eq!(changed, before != places);
            for (old, new) in before.iter().zip(&places) {
                if let Some(old) = old && addresses.contains(old) {
                    prop_assert_eq!(Some(*old), *new);
                }
            }
            let mut taken: Vec<_> = places.iter().flatten().collect();
            prop_assert!(taken.iter().all(|ip| addresses.contains(ip)));
            prop_assert_eq!(taken.len(), n.min(addresses.len()));
            taken.sort();
            taken.dedup();
            prop_assert_eq!(taken.len(), n.min(addresses.len()));
        }
    }
}
