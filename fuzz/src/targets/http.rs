//! Parsers of krater-dataplane-core.

use krater_dataplane_core::exchange::{ClientInfo, RequestView as _};
use krater_dataplane_core::http1::chunked::Chunked;
use krater_dataplane_core::http1::framing::Framing;
use krater_dataplane_core::http1::rewrite::{self, InsertPlan, StickyCookie, ToClient, ToMember};
use krater_dataplane_core::http1::{
    Body, Fault, MAX_HEAD, Method, RequestHead, ResponseHead, Scan, Scanner, Version,
};
use krater_dataplane_core::l7;
use krater_dataplane_core::persistence::{INSERTED_COOKIE, Token};
use krater_model::MemberId;
use krater_model::state::{InsertHeader, L7Policy, Persistence};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

fn client() -> ClientInfo<'static> {
    ClientInfo {
        peer: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
        local: SocketAddr::from(([203, 0, 113, 12], 80)),
        tls: false,
        certificate: None,
    }
}

/// Where the head lies when it comes at once.
fn scanned(data: &[u8]) -> Option<(usize, usize)> {
    match Scanner::default().scan(data) {
        Ok(Scan::Complete { start, end }) => Some((start, end)),
        _ => None,
    }
}

/// A head that is accepted at once is found byte by byte, at the same place. (One that is refused may
/// be refused earlier in pieces: garbage is not waited out.)
fn same_in_pieces(data: &[u8], found: (usize, usize)) {
    let mut scanner = Scanner::default();
    for end in 1..=found.1 {
        let scan = scanner.scan(data.get(..end).unwrap_or_default());
        let expected = if end < found.1 {
            Scan::Partial
        } else {
            Scan::Complete {
                start: found.0,
                end: found.1,
            }
        };
        assert_eq!(scan, Ok(expected), "after {end} bytes");
    }
}

/// What goes to the member must mean what the client's request meant: same method, same path, same
/// body length. Anything else is request smuggling.
pub(super) fn request(data: &[u8]) {
    let Some((start, end)) = scanned(data) else {
        return;
    };
    let mut head = RequestHead::default();
    if head.parse(data, start, end).is_err() {
        return;
    }
    same_in_pieces(data, (start, end));
    let client = client();
    let insert = InsertPlan::new(&[
        InsertHeader::XForwardedFor,
        InsertHeader::XForwardedPort,
        InsertHeader::XForwardedProto,
    ]);
    let mut out = Vec::new();
    rewrite::request(
        &mut out,
        &head,
        data,
        &ToMember {
            insert,
            client: &client,
            hide_cookie: true,
        },
    );
    if out.len() <= MAX_HEAD {
        let found = Scanner::default().scan(&out);
        assert_eq!(
            found,
            Ok(Scan::Complete {
                start: 0,
                end: out.len()
            }),
            "the member sees one head"
        );
        let mut again = RequestHead::default();
        match again.parse(&out, 0, out.len()) {
            Ok(()) => {
                assert_eq!(again.framing, head.framing, "the member sees the same body");
                assert_eq!(again.method_token(&out), head.method_token(data));
                assert_eq!(again.view(&out).path(), head.view(data).path());
                assert_eq!(
                    Token::of(Some(&Persistence::HttpCookie), &again.view(&out)),
                    Token::None,
                    "our cookie stays here"
                );
            }
            // Inserted lines may be one field too many for us; the member has its own limit.
            Err(fault) => assert_eq!(fault, Fault::TooManyFields, "what we write is well-formed"),
        }
    }
    body(head.framing, data.get(end..).unwrap_or_default());
}

/// The same for answers.
pub(super) fn response(data: &[u8]) {
    let Some((start, end)) = scanned(data) else {
        return;
    };
    for (method, upgrade) in [
        (Method::Get, false),
        (Method::Head, false),
        (Method::Get, true),
    ] {
        let mut head = ResponseHead::default();
        let offered: &[u8] = if upgrade { b"websocket," } else { b"" };
        if head.parse(data, start, end, method, offered).is_err() {
            continue;
        }
        same_in_pieces(data, (start, end));
        let mut out = Vec::new();
        let how = ToClient {
            version: Version::Http11,
            close: false,
            unchunk: false,
            hsts: None,
            cookie: StickyCookie::Insert(MemberId::random()),
        };
        rewrite::response(&mut out, &head, data, &how);
        if out.len() <= MAX_HEAD {
            let found = Scanner::default().scan(&out);
            assert_eq!(
                found,
                Ok(Scan::Complete {
                    start: 0,
                    end: out.len()
                }),
                "the client sees one head"
            );
            let mut again = ResponseHead::default();
            match again.parse(&out, 0, out.len(), method, offered) {
                Ok(()) => {
                    assert_eq!(again.framing, head.framing, "the client sees the same body");
                    assert_eq!(again.status, head.status);
                    assert!(again.set_cookie(&out, INSERTED_COOKIE).is_some());
                }
                Err(fault) => {
                    assert_eq!(fault, Fault::TooManyFields, "what we write is well-formed")
                }
            }
        }
        body(head.framing, data.get(end..).unwrap_or_default());
    }
}

/// A body is cut at the same byte whether it comes at once or in pieces.
fn body(framing: Framing, data: &[u8]) {
    let mut whole = Body::new(framing);
    let at_once = whole.admit(data);
    let mut pieces = Body::new(framing);
    let mut used = 0;
    for piece in data.chunks(3) {
        match pieces.admit(piece) {
            Ok(n) => used += n,
            Err(_) => {
                assert!(at_once.is_err(), "refused in pieces, accepted at once");
                return;
            }
        }
        if pieces.is_done() {
            break;
        }
    }
    match at_once {
        Ok(n) => {
            assert_eq!(
                (n, whole.is_done()),
                (used, pieces.is_done()),
                "a body ends where it ends"
            );
            assert!(n <= data.len());
        }
        Err(fault) => panic!("refused at once ({fault:?}), accepted in pieces"),
    }
}

/// The chunked coding by itself, byte by byte and at once.
pub(super) fn chunked(data: &[u8]) {
    body(Framing::Chunked, data);
    let mut chunked = Chunked::default();
    let mut rest = data;
    while !rest.is_empty() && !chunked.is_done() {
        let Ok(piece) = chunked.next(rest) else {
            return;
        };
        assert!(
            piece.used > 0 && piece.used <= rest.len(),
            "each step makes progress"
        );
        rest = rest.get(piece.used..).unwrap_or_default();
    }
}

/// The first line is a JSON list of policies, the rest a request that they judge.
pub(super) fn l7_program(data: &[u8]) {
    let cut = data.iter().position(|b| *b == b'\n').unwrap_or(data.len());
    let (policies, rest) = data.split_at(cut);
    let Ok(policies) = serde_json::from_slice::<Vec<L7Policy>>(policies) else {
        return;
    };
    let Ok(program) = l7::compile(&policies) else {
        return;
    };
    let request = rest.get(1..).unwrap_or_default();
    let plain: &[u8] = b"GET /api/v1?q=1 HTTP/1.1\r\nhost: server1.example\r\ncookie: a=b\r\n\r\n";
    for text in [request, plain] {
        let Ok(Scan::Complete { start, end }) = Scanner::default().scan(text) else {
            continue;
        };
        let mut head = RequestHead::default();
        if head.parse(text, start, end).is_ok() {
            let first = format!("{:?}", program.evaluate(&head.view(text), &client()));
            let second = format!("{:?}", program.evaluate(&head.view(text), &client()));
            assert_eq!(first, second, "a decision depends on the request alone");
        }
    }
}
