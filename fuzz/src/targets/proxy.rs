//! PROXY protocol headers.

use krater_dataplane_core::proxy_protocol::{Header, MAX_HEADER, parse, v1, v2};

/// Reads as the data plane does. What is understood can be written and read again.
pub(super) fn header(data: &[u8]) {
    let mut have = 0;
    loop {
        match parse(data.get(..have).unwrap_or_default()) {
            Err(_) => return,
            Ok(Header::Partial(more)) => {
                assert!(more > 0 && have + more <= MAX_HEADER, "{have} and {more}");
                have += more;
                if have > data.len() {
                    return;
                }
            }
            Ok(Header::Complete(None)) => return,
            Ok(Header::Complete(Some((from, to)))) => {
                if from.is_ipv4() == to.is_ipv4() {
                    let same = Ok(Header::Complete(Some((from, to))));
                    assert_eq!(parse(&v1(from, to)), same);
                    assert_eq!(parse(&v2(from, to, None)), same);
                }
                return;
            }
        }
    }
}
