//! Response heads: what members may send, and what they may not.

use super::*;

fn parse(raw: &str, method: Method, upgrade: bool) -> Result<ResponseHead, Fault> {
    let mut head = ResponseHead::default();
    match Scanner::default().scan(raw.as_bytes())? {
        Scan::Complete { start, end } => {
            let offered: &[u8] = if upgrade { b"websocket," } else { b"" };
            head.parse(raw.as_bytes(), start, end, method, offered)?;
            Ok(head)
        }
        Scan::Partial => Err(Fault::Truncated),
    }
}

#[test]
fn framing_of_responses() {
    use Framing::{Chunked, Length, Tunnel, UntilClose};
    let get = Method::Get;
    // (start line and fields, method, upgrade wanted, framing, keep-alive, rule of RFC 9112 section 6.3)
    let cases = [
        (
            "1.1 200 OK\r\nContent-Length: 5\r\n",
            get,
            false,
            Length(5),
            true,
            "rule 6",
        ),
        (
            "1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
            get,
            false,
            Length(5),
            true,
            "RFC 9110 8.6",
        ),
        (
            "1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
            get,
            false,
            Chunked,
            true,
            "rule 4",
        ),
        ("1.1 200 OK\r\n", get, false, UntilClose, true, "rule 8"),
        ("1.0 200 OK\r\n", get, false, UntilClose, false, "rule 8"),
        (
            "1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n",
            get,
            false,
            Length(5),
            true,
            "9.3",
        ),
        (
            "1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n",
            get,
            false,
            Length(5),
            false,
            "9.3",
        ),
        (
            "1.1 200 OK\r\nContent-Length: 5\r\n",
            Method::Head,
            false,
            Framing::None,
            true,
            "rule 1",
        ),
        (
            "1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
            Method::Head,
            false,
            Framing::None,
            true,
            "rule 1",
        ),
        (
            "1.1 304 Not Modified\r\nContent-Length: 5\r\n",
            get,
            false,
            Framing::None,
            true,
            "rule 1",
        ),
        (
            "1.1 204 No Content\r\nContent-Length: 5\r\n",
            get,
            false,
            Framing::None,
            true,
            "rule 1",
        ),
        (
            "1.1 100 Continue\r\n",
            get,
            false,
            Framing::None,
            true,
            "rule 1",
        ),
        (
            "1.1 103 Early Hints\r\nLink: x\r\n",
            get,
            false,
            Framing::None,
            true,
            "rule 1",
        ),
        (
            "1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n",
            get,
            true,
            Tunnel,
            true,
            "RFC 9110 7.8",
        ),
        (
            "1.1 200\r\nContent-Length: 0\r\n",
            get,
            false,
            Length(0),
            true,
            "no reason, no space",
        ),
        (
            "1.1 200 \r\nContent-Length: 0\r\n",
            get,
            false,
            Length(0),
            true,
            "no reason",
        ),
    ];
    for (text, method, upgrade, framing, keep_alive, rule) in cases {
        let head = parse(&format!("HTTP/{text}\r\n"), method, upgrade).unwrap();
        assert_eq!(
            (head.framing, head.keep_alive),
            (framing, keep_alive),
            "{rule}: {text}"
        );
    }
}

#[test]
fn only_what_was_offered_is_switched_to() {
    let fields = [
        "Connection: upgrade\r\nUpgrade: websocket\r\n",
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
        "Connection: upgrade\r\nUpgrade:\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
    ];
    for (i, fields) in fields.into_iter().enumerate() {
        let raw = format!("HTTP/1.1 101 X\r\n{fields}\r\n");
        let result = parse(&raw, Method::Get, true).map(|head| head.framing);
        match i {
            0 => assert_eq!(result, Ok(Framing::Tunnel)),
            _ => assert_eq!(result, Err(Fault::UnexpectedUpgrade), "{fields}"),
        }
    }
}

/// RFC 9110 section 8.6: one number goes on, in one field.
#[test]
fn equal_lengths_are_reduced() {
    let cases = [
        "Content-Length: 3\r\n",
        "Content-Length: 3, 3\r\n",
        "Content-Length: 3,3 ,\t3\r\n",
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3, 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 3, 3\r\n",
    ];
    for method in [Method::Get, Method::Head] {
        for fields in cases {
            let raw = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            let head = parse(&raw, method, false).unwrap();
            let how = rewrite::ToClient {
                version: Version::Http11,
                close: false,
                unchunk: false,
                hsts: None,
            };
            let mut out = Vec::new();
            rewrite::response(&mut out, &head, raw.as_bytes(), &how);
            let out = String::from_utf8(out).unwrap();
            assert_eq!(
                out, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
                "{fields}"
            );
        }
    }
    for fields in ["3,", ",3", "3,,3", "3, 4", ","] {
        let raw = format!("HTTP/1.1 200 OK\r\nContent-Length: {fields}\r\n\r\n");
        assert!(parse(&raw, Method::Get, false).is_err(), "{fields}");
    }
}

#[test]
fn hostile_responses() {
    let cases = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            Fault::BothFramings,
            "RFC 9112 6.3",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            Fault::ContentLengthSeveral,
            "RFC 9112 6.3",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
            Fault::ContentLengthSeveral,
            "RFC 9110 8.6",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            Fault::ContentLength,
            "RFC 9110 8.6",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            Fault::TransferCodingUnknown,
            "RFC 9112 6.1",
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Fault::TransferEncodingInHttp10,
            "RFC 9112 6.1",
        ),
        (
            "HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n",
            Fault::UnexpectedUpgrade,
            "RFC 9110 15.2.2",
        ),
        ("HTTP/1.1 20 OK\r\n\r\n", Fault::StatusLine, "RFC 9112 4"),
        ("HTTP/1.1 2000 OK\r\n\r\n", Fault::StatusLine, "RFC 9112 4"),
        ("HTTP/1.1 abc OK\r\n\r\n", Fault::StatusLine, "RFC 9112 4"),
        ("HTTP/1.1 099 OK\r\n\r\n", Fault::StatusLine, "RFC 9110 15"),
        ("HTTP/2.0 200 OK\r\n\r\n", Fault::Version, "RFC 9112 2.3"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", Fault::Version, "RFC 9112 4"),
        (
            "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            Fault::BareLineFeed,
            "RFC 9112 2.2",
        ),
        (
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            Fault::ObsoleteFold,
            "RFC 9112 5.2",
        ),
        (
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            Fault::SpaceBeforeColon,
            "RFC 9112 5.1",
        ),
        (
            "HTTP/1.1 200 OK\r\nA\r\n\r\n",
            Fault::FieldName,
            "RFC 9112 5",
        ),
        (
            "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
            Fault::ControlByte,
            "RFC 9110 5.5",
        ),
        (
            "HTTP/1.1 200 O\rK\r\n\r\n",
            Fault::BareCarriageReturn,
            "RFC 9112 2.2",
        ),
    ];
    for (raw, fault, rule) in cases {
        let got = parse(raw, Method::Get, false).map(|head| head.framing);
        assert_eq!(got, Err(fault), "{rule}: {raw:?}");
    }
}
