//! Requests that must be refused. Each cites the clause (RFC and section) that forbids it or lets us
//! refuse it. Columns: case id, clause, bytes, the rule that refuses it.

use super::*;

type Case = (&'static str, &'static str, &'static [u8], Fault);

const CASES: &[Case] = include!("../../../testdata/hostile.rs");

#[test]
fn each_is_refused_for_its_reason() {
    let mut wrong = Vec::new();
    for (id, clause, raw, fault) in CASES {
        let got = read(&[raw]);
        if got != Verdict::Refused(*fault) {
            wrong.push(format!("{id} (RFC {clause}): {got:?}, not {fault:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(CASES.len() >= 120, "{}", CASES.len());
}

#[test]
fn cuts_do_not_help() {
    for (id, clause, raw, _) in CASES {
        for at in 0..=raw.len() {
            let (a, b) = raw.split_at(at);
            let got = read(&[a, b]);
            assert!(
                matches!(got, Verdict::Refused(_)),
                "{id} (RFC {clause}) cut at {at}: {got:?}"
            );
        }
        let bytes: Vec<&[u8]> = raw.chunks(1).collect();
        let got = read(&bytes);
        assert!(
            matches!(got, Verdict::Refused(_)),
            "{id} (RFC {clause}) byte by byte: {got:?}"
        );
    }
}

#[test]
fn ids_are_unique_and_statuses_known() {
    let mut ids: Vec<_> = CASES.iter().map(|case| case.0).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), CASES.len());
    for (id, _, _, fault) in CASES {
        assert!([400, 405, 413, 431, 501].contains(&fault.status()), "{id}");
        assert!(!fault.reason().is_empty());
    }
}
