//! Cookies of persistence in heads.

use super::*;
use crate::http1::rewrite::StickyCookie;

fn to_member(cookies: &str) -> String {
    let raw = format!("GET / HTTP/1.1\r\nHost: a\r\n{cookies}A: b\r\n\r\n");
    let head = parse(raw.as_bytes());
    let mut out = Vec::new();
    let how = rewrite::ToMember {
        insert: rewrite::InsertPlan::default(),
        client: &CLIENT,
        hide_cookie: true,
    };
    rewrite::request(&mut out, &head, raw.as_bytes(), &how);
    String::from_utf8(out).unwrap()
}

fn to_client(fields: &str, cookie: StickyCookie) -> String {
    let raw = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n");
    let mut head = ResponseHead::default();
    head.parse(raw.as_bytes(), 0, raw.len(), Method::Get, b"")
        .unwrap();
    let mut out = Vec::new();
    let how = rewrite::ToClient {
        version: Version::Http11,
        close: false,
        unchunk: false,
        hsts: None,
        cookie,
    };
    rewrite::response(&mut out, &head, raw.as_bytes(), &how);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_inserted_cookie_is_hidden_from_members() {
    for (cookies, want) in [
        ("", "A: b\r\n"),
        ("Cookie: a=b\r\n", "Cookie: a=b\r\nA: b\r\n"),
        ("Cookie: SRV=x\r\n", "A: b\r\n"),
        (
            "Cookie: a=b;SRV=x; c=d; SRV=\r\n",
            "A: b\r\nCookie: a=b; c=d\r\n",
        ),
        (
            "Cookie: SRV=x\r\nCookie: a=b\r\n",
            "Cookie: a=b\r\nA: b\r\n",
        ),
        // Not ours: another case, another place.
        (
            "Cookie: srv=x; y=SRV=x\r\n",
            "Cookie: srv=x; y=SRV=x\r\nA: b\r\n",
        ),
    ] {
        let want = format!("GET / HTTP/1.1\r\nHost: a\r\n{want}\r\n");
        assert_eq!(to_member(cookies), want, "{cookies:?}");
    }
}

#[test]
fn the_inserted_cookie_is_ours_alone() {
    let member = "00000000-0000-4000-8000-000000000007".parse().unwrap();
    let theirs = "Set-Cookie: SRV=evil; path=/\r\nSet-Cookie: a=b\r\n";
    assert_eq!(
        to_client(theirs, StickyCookie::Insert(member)),
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\
         Set-Cookie: SRV=00000000-0000-4000-8000-000000000007; path=/\r\nCache-Control: private\r\n\r\n"
    );
    assert_eq!(
        to_client(theirs, StickyCookie::Known),
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    );
    assert!(to_client(theirs, StickyCookie::Untouched).contains("SRV=evil"));
}

#[test]
fn the_last_set_cookie_of_a_name_is_learned() {
    let raw = b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=1\r\nset-cookie: sid=2; Path=/\r\nSet-Cookie: x=3\r\n\r\n";
    let mut head = ResponseHead::default();
    head.parse(raw, 0, raw.len(), Method::Get, b"").unwrap();
    assert_eq!(head.set_cookie(raw, "sid"), Some(&b"2"[..]));
    assert_eq!(head.set_cookie(raw, "Sid"), None);
}
