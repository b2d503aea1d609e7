use super::*;

fn question(family: Family) -> Question {
    Question {
        id: 0x1234,
        name: "App.Example.".parse().unwrap(),
        family,
    }
}

/// A message: flags, the question as asked, answer records, authority records.
fn message(family: Family, flags: u16, answers: &[Vec<u8>], authorities: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    let counts = [1, answers.len(), authorities.len(), 0];
    for word in [0x1234, flags] {
        out.extend_from_slice(&u16::to_be_bytes(word));
    }
    for count in counts {
        out.extend_from_slice(&u16::try_from(count).unwrap().to_be_bytes());
    }
    out.extend_from_slice(b"\x03aPp\x07example\0");
    for word in [family.kind(), IN] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    answers
        .iter()
        .chain(authorities)
        .for_each(|record| out.extend_from_slice(record));
    out
}

/// Where the question's name stands.
const ASKED: &[u8] = &[0xc0, 12];
const ALIAS: &[u8] = b"\x05alias\xc0\x10"; // alias.example

fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap().to_be_bytes();
    let (kind, ttl) = (kind.to_be_bytes(), ttl.to_be_bytes());
    [owner, &kind, &IN.to_be_bytes(), &ttl, &length, data].concat()
}

const OK: u16 = 0x8180;

fn read(message: &[u8]) -> Result<Answer, AnswerError> {
    question(Family::Ipv4).read(message)
}

fn found(addresses: &[&str], ttl: u64) -> Result<Answer, AnswerError> {
    Ok(Answer::Addresses {
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        ttl: Duration::from_secs(ttl),
    })
}

#[test]
fn a_question_is_as_in_the_rfc() {
    let expected =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x03app\x07example\x00\x00\x1c\x00\x01\
                     \x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
    assert_eq!(question(Family::Ipv6).encode(), expected);
}

#[test]
fn names_are_whole_and_of_hosts() {
    for good in ["a", "app.example", "App.Example.", "_x.a-b.c1", "1a.2b"] {
        assert_eq!(
            good.parse::<Name>().unwrap().to_string(),
            good.to_ascii_lowercase().trim_end_matches('.')
        );
    }
    let (label, long) = ("a".repeat(64), "a.".repeat(127));
    for bad in [
        "",
        ".",
        "a..b",
        "a b",
        "ä.example",
        "1.2.3",
        "a.1",
        &label,
        &format!("{long}b.c"),
    ] {
        assert_eq!(bad.parse::<Name>(), Err(NameError::Syntax), "{bad:?}");
    }
    for address in ["192.0.2.1", "2001:db8::1", "[::1]"] {
        assert_eq!(address.parse::<Name>(), Err(NameError::Address));
    }
    assert!("a".repeat(63).parse::<Name>().is_ok());
    assert!(long.parse::<Name>().is_ok(), "253 bytes");
}

#[test]
fn addresses_come_with_the_least_time_of_the_chain() {
    let two = [
        record(ASKED, A, 60, &[192, 0, 2, 9]),
        record(ASKED, A, 30, &[192, 0, 2, 1]),
        record(ASKED, A, 60, &[192, 0, 2, 9]),
        record(b"\x05other\0", A, 1, &[192, 0, 2, 77]),
        record(ASKED, 46, 1, b"a signature"),
    ];
    let text = message(Family::Ipv4, OK, &two, &[]);
    assert_eq!(read(&text), found(&["192.0.2.1", "192.0.2.9"], 30));
    // In whatever order the chain comes.
    let chain = [
        record(ALIAS, A, 60, &[192, 0, 2, 5]),
        record(ASKED, CNAME, 20, ALIAS),
    ];
    let text = message(Family::Ipv4, OK, &chain, &[]);
    assert_eq!(read(&text), found(&["192.0.2.5"], 20));
    let ip: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let six = [record(ASKED, AAAA, u32::MAX, &ip.octets())];
    let text = message(Family::Ipv6, OK, &six, &[]);
    assert_eq!(
        question(Family::Ipv6).read(&text),
        found(&["2001:db8::7"], 0)
    );
}

#[test]
fn nothing_is_told_from_no_name_and_failure() {
    let mut soa = b"\x02ns\0\x04host\0".to_vec();
    for word in [1_u32, 2, 3, 4, 15] {
        soa.extend_from_slice(&word.to_be_bytes());
    }
    let soa = [record(b"\x07example\0", SOA, 600, &soa)];
    let ttl = Some(Duration::from_secs(15));
    let of = |flags, authorities: &[Vec<u8>]| read(&message(Family::Ipv4, flags, &[], authorities));
    assert_eq!(of(OK | 3, &soa), Ok(Answer::NoName { ttl }));
    assert_eq!(of(OK, &soa), Ok(Answer::NoAddress { ttl }));
    assert_eq!(of(OK, &[]), Ok(Answer::NoAddress { ttl: None }));
    assert_eq!(of(OK | 2, &[]), Ok(Answer::Failed(2)));
    assert_eq!(of(OK | 5, &[]), Ok(Answer::Failed(5)));
    assert_eq!(of(OK | TRUNCATED, &[]), Ok(Answer::Truncated));
    // An alias to nothing.
    let alias = [record(ASKED, CNAME, 20, ALIAS)];
    let text = message(Family::Ipv4, OK, &alias, &[]);
    assert_eq!(read(&text), Ok(Answer::NoAddress { ttl: None }));
    // A refusal without the question.
    assert_eq!(
        read(&[0x12, 0x34, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]),
        Ok(Answer::Failed(1))
    );
}

#[test]
fn what_is_forged_is_passed_over() {
    let good = message(
        Family::Ipv4,
        OK,
        &[record(ASKED, A, 9, &[192, 0, 2, 1])],
        &[],
    );
    assert!(read(&good).is_ok());
    let mut foreign = vec![Vec::new(), good[..5].to_vec(), b"\0".repeat(12)];
    for (at, byte) in [
        (0, 0x13),
        (2, 0x01),
        (2, 0xa9),
        (5, 2),
        (14, b'x'),
        (26, 28),
    ] {
        let mut other = good.clone();
        other[at] = byte;
        foreign.push(other);
    }
    for message in foreign {
        assert_eq!(read(&message), Err(AnswerError::Foreign), "{message:x?}");
    }
}

#[test]
fn what_is_malformed_is_refused() {
    let malformed = |answers: &[Vec<u8>]| {
        let text = message(Family::Ipv4, OK, answers, &[]);
        match read(&text) {
            Err(AnswerError::Malformed(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let forward = malformed(&[record(&[0xc0, 200], A, 1, &[0; 4])]);
    assert_eq!(forward, "a pointer does not lead backwards");
    let itself = malformed(&[record(&[0xc0, 29], A, 1, &[0; 4])]);
    assert_eq!(itself, "a pointer does not lead backwards");
    assert_eq!(
        malformed(&[record(ASKED, A, 1, &[0; 5])]),
        "an address has 4 or 16 bytes"
    );
    assert_eq!(
        malformed(&[record(ASKED, A, 1, &[0; 16])]),
        "an address has 4 or 16 bytes"
    );
    assert_eq!(
        malformed(&[record(&[0x80, 1], A, 1, &[])]),
        "a label of an unknown kind"
    );
    let long = [&b"\x3f"[..], &[b'a'; 63]].concat().repeat(4);
    assert_eq!(malformed(&[record(&long, A, 1, &[])]), "a name is too long");
    let round = [
        record(ASKED, CNAME, 1, ALIAS),
        record(ALIAS, CNAME, 1, ASKED),
    ];
    assert_eq!(malformed(&round), "aliases go round or are too many");
    // Cut anywhere behind the question: too short.
    let good = message(
        Family::Ipv4,
        OK,
        &[record(ASKED, A, 9, &[192, 0, 2, 1])],
        &[],
    );
    for end in 29..good.len() {
        assert_eq!(read(&good[..end]), Err(SHORT), "{end}");
    }
}
