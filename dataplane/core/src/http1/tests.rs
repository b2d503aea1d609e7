//! Tables of good and hostile messages, as data.

use super::framing::{Framing, Side};
use super::*;
use crate::exchange::{ClientCertificate, ClientInfo};
use krater_model::state::{Hsts, InsertHeader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

mod cookies;
mod hostile;
mod responses;

/// What a reader makes of a client's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A request and its body end here; so many bytes are left.
    Accepted { left: usize },
    /// More is needed.
    Incomplete,
    /// Refused.
    Refused(Fault),
}

/// Reads one request that arrives in `pieces`.
pub(super) fn read(pieces: &[&[u8]]) -> Verdict {
    let mut buffer = Vec::new();
    let mut scanner = Scanner::default();
    let mut head = RequestHead::default();
    let mut body: Option<Body> = None;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if body.is_none() {
            match scanner.scan(&buffer) {
                Err(fault) => return Verdict::Refused(fault),
                Ok(Scan::Partial) => continue,
                Ok(Scan::Complete { start, end }) => {
                    if let Err(fault) = head.parse(&buffer, start, end) {
                        return Verdict::Refused(fault);
                    }
                    body = Some(Body::new(head.framing));
                    buffer.drain(..end);
                }
            }
        }
        if let Some(body) = &mut body {
            match body.admit(&buffer) {
                Err(fault) => return Verdict::Refused(fault),
                Ok(n) => drop(buffer.drain(..n)),
            }
        }
    }
    match body {
        Some(Body::Done) => Verdict::Accepted { left: buffer.len() },
        _ => Verdict::Incomplete,
    }
}

fn parse(raw: &[u8]) -> RequestHead {
    let mut head = RequestHead::default();
    let Ok(Scan::Complete { start, end }) = Scanner::default().scan(raw) else {
        panic!("no head in {:?}", String::from_utf8_lossy(raw));
    };
    head.parse(raw, start, end).unwrap();
    head
}

const CLIENT: ClientInfo<'static> = ClientInfo {
    peer: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
    local: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), 8080),
    tls: false,
    certificate: None,
};

fn rewritten(raw: &[u8], insert: &[InsertHeader], client: &ClientInfo<'_>) -> String {
    let head = parse(raw);
    let mut out = Vec::new();
    let how = rewrite::ToMember {
        insert: rewrite::InsertPlan::new(insert),
        client,
        hide_cookie: false,
    };
    rewrite::request(&mut out, &head, raw, &how);
    String::from_utf8(out).unwrap()
}

#[test]
fn good_requests() {
    let cases: &[(&[u8], usize)] = &[
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        (b"GET / HTTP/1.0\r\n\r\n", 0),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 0),
        (b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n", 0),
        (b"GET /a?b=c%20d HTTP/1.1\r\nhOsT: a.example:80\r\nX:\t y \t\r\n\r\n", 0),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        (b"GET http://a.example/x HTTP/1.1\r\nHost: A.example\r\n\r\n", 0),
        (b"GET http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", 0),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Bytes: \xc3\xa4\xff\r\n\r\n", 0),
        (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\nGET", 3),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcde", 2),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0003\r\n\r\nabc", 0),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nx", 1),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n00a;n=v;q=\"\\\" x\" \r\n0123456789\r\n0;last\r\nT: v\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3 ;x\r\nabc\r\n0\r\n\r\n", 0),
    ];
    for (raw, left) in cases {
        let text = String::from_utf8_lossy(raw);
        let want = Verdict::Accepted { left: *left };
        assert_eq!(read(&[raw]), want, "{text}");
        let end = raw.len() - left;
        for at in 0..=end {
            let (a, b) = raw[..end].split_at(at);
            assert_eq!(
                read(&[a, b]),
                Verdict::Accepted { left: 0 },
                "{text} split at {at}"
            );
        }
        let bytes: Vec<&[u8]> = raw[..end].chunks(1).collect();
        assert_eq!(
            read(&bytes),
            Verdict::Accepted { left: 0 },
            "{text} byte by byte"
        );
        for at in 0..end {
            assert_eq!(
                read(&[&raw[..at]]),
                Verdict::Incomplete,
                "{text} cut at {at}"
            );
        }
    }
}

#[test]
fn limits_hold_at_their_edges() {
    let with_fields = |n: usize| {
        let mut raw = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        for _ in 1..n {
            raw.extend_from_slice(b"A: b\r\n");
        }
        raw.extend_from_slice(b"\r\n");
        raw
    };
    assert_eq!(
        read(&[&with_fields(MAX_FIELDS)]),
        Verdict::Accepted { left: 0 }
    );
    let refused = Verdict::Refused(Fault::TooManyFields);
    assert_eq!(read(&[&with_fields(MAX_FIELDS + 1)]), refused);

    let with_size = |n: usize| {
        let mut raw = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
        raw.resize(n - 4, b'x');
        raw.extend_from_slice(b"\r\n\r\n");
        raw
    };
    assert_eq!(read(&[&with_size(MAX_HEAD)]), Verdict::Accepted { left: 0 });
    let refused = Verdict::Refused(Fault::HeadTooLarge);
    assert_eq!(read(&[&with_size(MAX_HEAD + 1)]), refused);
    assert_eq!(read(&[&with_size(MAX_HEAD + 1)[..MAX_HEAD]]), refused);

    let with_extension = |n: usize| {
        let mut raw =
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;".to_vec();
        raw.resize(raw.len() + n - 1, b'x');
        raw.extend_from_slice(b"\r\na\r\n0\r\n\r\n");
        raw
    };
    let max = usize::from(chunked::MAX_EXTENSION);
    assert_eq!(read(&[&with_extension(max)]), Verdict::Accepted { left: 0 });
    let refused = Verdict::Refused(Fault::ChunkExtensionTooLong);
    assert_eq!(read(&[&with_extension(max + 1)]), refused);
}

#[test]
fn a_fold_is_seen_when_its_line_comes_alone() {
    let pieces: [&[u8]; 2] = [b"GET / HTTP/1.1\r\nHost: a\r\n", b" b\r\n\r\n"];
    assert_eq!(read(&pieces), Verdict::Refused(Fault::ObsoleteFold));
    let pieces: [&[u8]; 2] = [b"\r\n", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"];
    assert_eq!(read(&pieces), Verdict::Refused(Fault::RequestLine));
}

/// Of RFC 6455 section 1.3.
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn a_websocket_needs_one_good_key() {
    let refused = |keys: &str| {
        let raw = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{keys}\r\n"
        );
        let result = RequestHead::default().parse(raw.as_bytes(), 0, raw.len());
        assert!(
            matches!(result, Ok(()) | Err(Fault::WebSocketKey)),
            "{result:?}"
        );
        result.is_err()
    };
    assert!(!refused(KEY));
    assert!(refused(""));
    assert!(refused(&KEY.repeat(2)));
    for bad in [
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25j",
        "dGhl-HNhbXBsZSBub25jZQ==",
        "",
    ] {
        assert!(refused(&format!("Sec-WebSocket-Key: {bad}\r\n")), "{bad}");
    }
}

#[test]
fn keep_alive_and_upgrade() {
    // (version and fields, keep-alive, upgrade)
    let cases = [
        ("1.1\r\n", true, false),
        ("1.0\r\n", false, false),
        ("1.0\r\nConnection: Keep-Alive\r\n", true, false),
        ("1.1\r\nConnection: x, Close\r\n", false, false),
        ("1.1\r\nConnection: keep-alive, close\r\n", false, false),
        (
            "1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
            true,
            true,
        ),
        (
            "1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
            true,
            true,
        ),
        ("1.1\r\nUpgrade: websocket\r\n", true, false),
        ("1.1\r\nConnection: Upgrade\r\n", true, false),
        (
            "1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
            false,
            false,
        ),
        (
            "1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n",
            true,
            false,
        ),
        (
            "1.1\r\nConnection: Upgrade\r\nUpgrade: websocket, H2C\r\n",
            true,
            false,
        ),
        (
            "1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n",
            true,
            false,
        ),
    ];
    for (text, keep_alive, upgrade) in cases {
        let raw = format!("GET / HTTP/{text}Host: a\r\n{KEY}\r\n");
        let head = parse(raw.as_bytes());
        assert_eq!(
            (head.keep_alive, head.upgrade),
            (keep_alive, upgrade),
            "{text}"
        );
        let out = rewritten(raw.as_bytes(), &[], &CLIENT);
        assert_eq!(out.contains("Upgrade: websocket"), upgrade, "{out}");
        assert!(
            !out.to_lowercase().contains("h2c") && !out.contains("HTTP2"),
            "{out}"
        );
    }
}

#[test]
fn hop_by_hop_fields_stay_here() {
    let raw = b"GET /p?q HTTP/1.1\r\nA: 1\r\nConnection: close, X-Secret, Host, X-Forwarded-For, Cookie\r\nKeep-Alive: 5\r\n\
        Host: a\r\nProxy-Connection: x\r\nX-Secret: s\r\nTE: trailers\r\nCookie: c=1\r\nB: 2\r\n\r\n";
    assert_eq!(
        rewritten(raw, &[], &CLIENT),
        "GET /p?q HTTP/1.1\r\nA: 1\r\nHost: a\r\nCookie: c=1\r\nB: 2\r\n\r\n"
    );
}

#[test]
fn framing_is_written_anew() {
    let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding:\tchunked\r\nHost: a\r\n\r\n";
    assert_eq!(
        rewritten(chunked, &[], &CLIENT),
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let length = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(
        rewritten(length, &[], &CLIENT),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
    );
}

#[test]
fn targets_become_origin_form() {
    let cases = [
        (
            "GET http://b.example/x?y HTTP/1.1\r\nHost: b.example\r\n\r\n",
            "GET /x?y HTTP/1.1\r\nHost: b.example\r\n\r\n",
        ),
        (
            "GET HTTP://b.example HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n",
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n",
        ),
        (
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: 203.0.113.9:8080\r\n\r\n",
        ),
    ];
    for (raw, want) in cases {
        assert_eq!(rewritten(raw.as_bytes(), &[], &CLIENT), want);
    }
}

#[test]
fn inserted_headers_cannot_be_forged() {
    use InsertHeader::*;
    let raw = b"GET / HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4\r\nHost: a\r\nX_FORWARDED_PROTO: https\r\nx-real-ip: 9.9.9.9\r\n\
        X-Client-IP: 9.9.9.9\r\nX-Forwarded-Port: 443\r\nX-FORWARDED-FOR: 5.6.7.8\r\nx.ssl~client-cn: admin\r\n\r\n";
    let all = [
        XForwardedFor,
        XForwardedPort,
        XForwardedProto,
        XForwardedIp,
        XClientIp,
        XRealIp,
        XSslClientCn,
        XSslClientHasCert,
        XSslClientVerify,
    ];
    assert_eq!(
        rewritten(raw, &all, &CLIENT),
        "GET / HTTP/1.1\r\nHost: a\r\n\
         X-Forwarded-For: 1.2.3.4, 5.6.7.8, 198.51.100.7\r\nX-Forwarded-Port: 8080\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-IP: 198.51.100.7\r\nX-Client-IP: 198.51.100.7\r\nX-Real-IP: 198.51.100.7\r\n\
         X-SSL-Client-Verify: 0\r\nX-SSL-Client-Has-Cert: 0\r\nX-SSL-Client-CN: \r\n\r\n"
    );
    // What the listener does not insert passes, as with HAProxy.
    assert!(rewritten(raw, &[XForwardedFor], &CLIENT).contains("\r\nx-real-ip: 9.9.9.9\r\n"));
}

#[test]
fn certificate_headers() {
    use InsertHeader::*;
    let certificate = ClientCertificate {
        verify: 0,
        subject: "/O=Org\r\nX: y/CN=me".into(),
        subject_fields: vec![("O".into(), "Org".into()), ("CN".into(), "me".into())],
        issuer: "/CN=ca".into(),
        sha1: "AB".into(),
        not_before: "260101000000Z".into(),
        not_after: "270101000000Z".into(),
    };
    let client = ClientInfo {
        tls: true,
        certificate: Some(&certificate),
        ..CLIENT
    };
    let all = [
        XForwardedProto,
        XSslClientVerify,
        XSslClientHasCert,
        XSslClientDn,
        XSslClientCn,
        XSslIssuer,
        XSslClientSha1,
        XSslClientNotBefore,
        XSslClientNotAfter,
    ];
    let out = rewritten(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &all, &client);
    assert!(
        out.ends_with(
            "X-Forwarded-Proto: https\r\nX-SSL-Client-Verify: 0\r\nX-SSL-Client-Has-Cert: 1\r\nX-SSL-Client-DN: /O=Org??X: y/CN=me\r\n\
             X-SSL-Client-CN: me\r\nX-SSL-Issuer: /CN=ca\r\nX-SSL-Client-SHA1: AB\r\nX-SSL-Client-Not-Before: 260101000000Z\r\n\
             X-SSL-Client-Not-After: 270101000000Z\r\n\r\n"
        ),
        "{out}"
    );
}

#[test]
fn responses_on_their_way_out() {
    let raw =
        b"HTTP/1.0 200 Fine \xe4 day\r\nServer: x\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\
        Strict-Transport-Security: max-age=1\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n";
    let raw = [&b"HTTP/1.1"[..], &raw[8..]].concat();
    let mut head = ResponseHead::default();
    head.parse(&raw, 0, raw.len(), Method::Get, b"").unwrap();
    let mut out = Vec::new();
    let hsts = Hsts {
        max_age: 60,
        include_subdomains: true,
        preload: true,
    };
    let mut how = rewrite::ToClient {
        version: Version::Http11,
        close: false,
        unchunk: false,
        hsts: Some(hsts),
        cookie: rewrite::StickyCookie::Untouched,
    };
    rewrite::response(&mut out, &head, &raw, &how);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 200 Fine \u{fffd} day\r\nServer: x\r\nA: b\r\nTransfer-Encoding: chunked\r\n\
         Strict-Transport-Security: max-age=60; includeSubDomains; preload;\r\n\r\n"
    );
    out.clear();
    how = rewrite::ToClient {
        version: Version::Http10,
        close: true,
        unchunk: true,
        hsts: None,
        cookie: rewrite::StickyCookie::Untouched,
    };
    rewrite::response(&mut out, &head, &raw, &how);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "HTTP/1.1 200 Fine \u{fffd} day\r\nServer: x\r\nStrict-Transport-Security: max-age=1\r\nA: b\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn relay_says_how_much_may_pass_unseen() {
    let mut body = Body::new(Framing::Length(10));
    assert_eq!(body.relay(Side::Client, Side::Member).at_most, 10);
    body.relayed(4);
    assert_eq!(body.admit(b"0123456789").unwrap(), 6);
    assert!(body.is_done());

    let mut body = Body::new(Framing::Chunked);
    assert_eq!(body.relay(Side::Member, Side::Client).at_most, 0);
    assert_eq!(body.admit(b"10\r\nab").unwrap(), 6);
    assert_eq!(body.relay(Side::Member, Side::Client).at_most, 14);
    body.relayed(14);
    assert_eq!(body.relay(Side::Member, Side::Client).at_most, 0);
    assert!(body.end_of_stream().is_err(), "chunks are missing");
    assert_eq!(body.admit(b"\r\n0\r\n\r\nGET").unwrap(), 7);
    assert!(body.is_done() && body.end_of_stream().is_ok());

    let mut body = Body::new(Framing::UntilClose);
    assert_eq!(body.relay(Side::Member, Side::Client).at_most, u64::MAX);
    assert!(body.end_of_stream().is_ok() && body.is_done());
    assert!(Body::new(Framing::Length(0)).is_done());
}

#[test]
fn pieces_tell_data_from_framing() {
    let mut body = Body::new(Framing::Chunked);
    let mut rest: &[u8] = b"3;x\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n";
    let mut data = Vec::new();
    while !body.is_done() {
        let piece = body.piece(rest).unwrap();
        let (used, after) = rest.split_at(piece.used);
        if piece.data {
            data.extend_from_slice(used);
        }
        rest = after;
    }
    assert_eq!((&data[..], rest), (&b"abcde"[..], &b""[..]));
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that look enough like HTTP to reach deep into the parsers.
    fn http_like() -> impl Strategy<Value = Vec<u8>> {
        const PARTS: &[&[u8]] = &[
            b"GET / HTTP/1.1\r\n",
            b"POST / HTTP/1.0\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"Host: a\r\n",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close, a, upgrade\r\n",
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b":",
            b"5\r\nabcde\r\n",
            b"0\r\n",
            b"ffffffffffffffff\r\n",
            b";a=\"b\"",
            b"\0",
            b"\xff",
        ];
        let part = prop_oneof![
            4 => prop::sample::select(PARTS).prop_map(<[u8]>::to_vec),
            1 => prop::collection::vec(any::<u8>(), 0..8),
        ];
        prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
    }

    proptest! {
        /// No input panics, and where the bytes are cut changes nothing.
        #[test]
        fn cuts_change_nothing(raw in http_like(), at in any::<prop::sample::Index>()) {
            let at = at.index(raw.len() + 1);
            let whole = read(&[&raw]);
            let cut = read(&[&raw[..at], &raw[at..]]);
            match (&whole, &cut) {
                // Of an unfinished line even control bytes are refused at once, so that a cut may
                // bring a refusal forward.
                (Verdict::Refused(_) | Verdict::Incomplete, Verdict::Refused(_)) => {}
                _ => prop_assert_eq!(whole, cut),
            }
        }

        /// What we write for a member is accepted by our own strict reader, as one request.
        #[test]
        fn output_is_strict(raw in http_like()) {
            let mut head = RequestHead::default();
            if let Ok(Scan::Complete { start, end }) = Scanner::default().scan(&raw)
                && head.parse(&raw, start, end).is_ok()
            {
                let out = rewritten(&raw[..end], &[InsertHeader::XForwardedFor], &CLIENT);
                let again = parse(out.as_bytes());
                prop_assert_eq!(usize::from(again.end), out.len());
                prop_assert_eq!(again.framing, head.framing);
            }
        }

        /// Responses never panic either.
        #[test]
        fn responses_never_panic(raw in http_like(), upgrade in any::<bool>()) {
            let offered: &[u8] = if upgrade { b"websocket," } else { b"" };
            if let Ok(Scan::Complete { start, end }) = Scanner::default().scan(&raw) {
                let mut head = ResponseHead::default();
                if head.parse(&raw, start, end, Method::Get, offered).is_ok() {
                    let how = rewrite::ToClient {
                        version: Version::Http11,
                        close: true,
                        unchunk: false,
                        hsts: None,
                        cookie: rewrite::StickyCookie::Untouched,
                    };
                    let mut out = Vec::new();
                    rewrite::response(&mut out, &head, &raw, &how);
                    prop_assert!(out.ends_with(b"\r\n\r\n"));
                    let _ = Body::new(head.framing).admit(&raw[end..]);
                }
            }
        }
    }
}
