use super::*;
use crate::exchange::ClientCertificate;
use crate::http1::{RequestHead, Scan, Scanner};
use krater_model::state::L7Compare::{self, Contains, EndsWith, EqualTo, Regex, StartsWith};
use krater_model::{L7PolicyId, L7RuleId, StatusCode};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const CLIENT: ClientInfo<'static> = ClientInfo {
    peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
    local: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 80),
    tls: false,
    certificate: None,
};

fn rule(subject: L7Subject, compare: L7Compare, value: &str) -> L7Rule {
    L7Rule {
        id: L7RuleId::random(),
        enabled: true,
        subject,
        compare,
        value: value.into(),
        invert: false,
    }
}

fn policy(position: u32, action: L7Action, rules: Vec<L7Rule>) -> L7Policy {
    L7Policy {
        id: L7PolicyId::random(),
        enabled: true,
        position,
        action,
        rules,
    }
}

fn pool(n: u128) -> PoolId {
    PoolId(uuid::Uuid::from_u128(n))
}

fn to_pool(n: u128) -> L7Action {
    L7Action::RedirectToPool { pool: pool(n) }
}

fn to_url(url: &str) -> L7Action {
    L7Action::RedirectToUrl {
        url: url.into(),
        code: StatusCode::new(302).unwrap(),
    }
}

fn header(key: &str) -> L7Subject {
    L7Subject::Header { key: key.into() }
}

fn decide<'a>(program: &'a Program, raw: &str, client: &ClientInfo<'_>) -> Decision<'a> {
    let raw = raw.replace('\n', "\r\n");
    let mut head = RequestHead::default();
    let Ok(Scan::Complete { start, end }) = Scanner::default().scan(raw.as_bytes()) else {
        panic!("no head: {raw}");
    };
    head.parse(raw.as_bytes(), start, end).unwrap();
    program.evaluate(&head.view(raw.as_bytes()), client)
}

fn matches(rule: L7Rule, raw: &str, client: &ClientInfo<'_>) -> bool {
    let mut inverted = rule.clone();
    inverted.invert = true;
    let verdict = |rule| {
        let program = compile(&[policy(1, L7Action::Reject, vec![rule])]).unwrap();
        decide(&program, raw, client) == Decision::Reject
    };
    let matched = verdict(rule);
    assert_ne!(matched, verdict(inverted), "invert is the opposite: {raw}");
    matched
}

#[test]
fn every_subject_and_comparison() {
    let host = || L7Subject::HostName;
    let path = || L7Subject::Path;
    let file = || L7Subject::FileType;
    let cookie = || L7Subject::Cookie { key: "sid".into() };
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\n{fields}\n\n");
    let at_host = |host: &str| get("/", &format!("Host: {host}"));
    let at_path = |path: &str| get(path, "Host: a");
    let with = |field: &str| get("/", &format!("Host: a\n{field}"));
    let cases = [
        (
            host(),
            EqualTo,
            "www.Example.com",
            at_host("WWW.example.COM"),
            true,
        ),
        (
            host(),
            EqualTo,
            "www.example.com",
            at_host("www.example.com:8080"),
            true,
        ),
        (
            host(),
            EqualTo,
            "www.example.com",
            at_host("www.example.com."),
            true,
        ),
        (
            host(),
            EqualTo,
            "A.example:8080",
            at_host("a.EXAMPLE:8080"),
            true,
        ),
        (
            host(),
            EqualTo,
            "a.example:8080",
            at_host("a.example:8081"),
            false,
        ),
        (
            host(),
            EqualTo,
            "a.example:8080",
            at_host("a.example"),
            false,
        ),
        (host(), EqualTo, "a.example.", at_host("a.example."), true),
        (host(), EndsWith, ":8080", at_host("a.example:8080"), true),
        (
            host(),
            Regex,
            "^a\\.example:80$",
            at_host("a.example:80"),
            true,
        ),
        (
            host(),
            EqualTo,
            "www.example.com",
            at_host("ww.example.com"),
            false,
        ),
        (
            host(),
            EqualTo,
            "[2001:db8::1]",
            at_host("[2001:DB8::1]:80"),
            true,
        ),
        (host(), EqualTo, "b", get("http://b/", "Host: b"), true),
        (
            host(),
            StartsWith,
            "Server",
            at_host("server7.example"),
            true,
        ),
        (host(), StartsWith, "server", at_host("myserver"), false),
        (host(), EndsWith, ".example", at_host("a.EXAMPLE:80"), true),
        (host(), Contains, "AM", at_host("example"), true),
        (
            host(),
            Regex,
            "^(a|b)\\.example$",
            at_host("B.example"),
            true,
        ),
        (
            host(),
            Regex,
            "^(a|b)\\.example$",
            at_host("c.example"),
            false,
        ),
        (host(), StartsWith, "a", "GET / HTTP/1.0\n\n".into(), false),
        (path(), EqualTo, "/a", at_path("/a?b=c"), true),
        (path(), EqualTo, "/a", at_path("/A"), false),
        (path(), EqualTo, "/", get("http://a", "Host: a"), true),
        (path(), StartsWith, "/api/", at_path("/api/v1"), true),
        (path(), StartsWith, "/api/", at_path("/api"), false),
        (path(), EndsWith, "/x", at_path("/a/x?y=/z"), true),
        (path(), Contains, "b", at_path("/a?b"), false),
        (path(), Regex, "^/[0-9]+$", at_path("/42"), true),
        (file(), EqualTo, "jpg", at_path("/a/b.jpg?x.png"), true),
        (file(), EqualTo, "jpg", at_path("/a.jpg/b"), false),
        (file(), EqualTo, "gz", at_path("/a.tar.gz"), true),
        (file(), EqualTo, "tar.gz", at_path("/a.tar.gz"), true),
        (file(), EqualTo, ".gz", at_path("/a.tar.gz"), true),
        (file(), EqualTo, "gz", at_path("/a.tar.GZ"), false),
        (file(), Regex, "\\.jpe?g$", at_path("/a.jpeg"), true),
        (file(), Regex, "^/a", at_path("/a"), true),
        (file(), Regex, "^(jpe?g|png)$", at_path("/a.jpeg"), true),
        (file(), Regex, "jpg", at_path("/a"), false),
        (
            header("X-Kind"),
            EqualTo,
            "beta",
            with("x-kind: beta"),
            true,
        ),
        (
            header("X-Kind"),
            EqualTo,
            "beta",
            with("x-kind: Beta"),
            false,
        ),
        (
            header("X-Kind"),
            EqualTo,
            "beta",
            with("x-kind: alpha, beta"),
            true,
        ),
        (
            header("X-Kind"),
            EqualTo,
            "beta",
            with("x-kind: alpha\nX-KIND: beta"),
            true,
        ),
        (
            header("X-Kind"),
            Contains,
            ", b",
            with("x-kind: a, b"),
            true,
        ),
        (
            header("X-Kind"),
            StartsWith,
            "b",
            with("x-kind: a, b"),
            true,
        ),
        (header("X-Kind"), EndsWith, "a", with("x-kind: ab"), false),
        (
            header("X-Kind"),
            EndsWith,
            "a",
            with("x-kind: \"a, b\""),
            false,
        ),
        (
            header("X-Kind"),
            EqualTo,
            "b",
            with("x-kind: \"a\\\", x\", b"),
            true,
        ),
        (header("X-Kind"), Regex, "^b", with("Other: b"), false),
        (cookie(), EqualTo, "42", with("Cookie: a=b; sid=42"), true),
        (cookie(), EqualTo, "42", with("Cookie: SID=42"), false),
        (
            cookie(),
            EqualTo,
            "42",
            with("Cookie: xsid=42; a=sid=42"),
            false,
        ),
        (
            cookie(),
            StartsWith,
            "4",
            with("Cookie: a=b\nCookie: sid=42"),
            true,
        ),
        (cookie(), Regex, "^[0-9]+$", with("Cookie: sid=x"), false),
    ];
    for (subject, compare, value, raw, want) in cases {
        let text = format!("{subject:?} {compare:?} {value:?} on {raw:?}");
        assert_eq!(
            matches(rule(subject, compare, value), &raw, &CLIENT),
            want,
            "{text}"
        );
    }
}

#[test]
fn certificate_subjects() {
    let certificate = ClientCertificate {
        subject_fields: vec![
            ("O".into(), "Org".into()),
            ("CN".into(), "me".into()),
            ("CN".into(), "somebody".into()),
        ],
        ..ClientCertificate::default()
    };
    let with = ClientInfo {
        tls: true,
        certificate: Some(&certificate),
        ..CLIENT
    };
    let raw = "GET / HTTP/1.1\nHost: a\n\n";
    let dn = |key: &str| L7Subject::SslDnField { key: key.into() };
    let cases = [
        (L7Subject::SslConnHasCert, "True", true, false),
        (L7Subject::SslVerifyResult, "0", true, true),
        (L7Subject::SslVerifyResult, "10", false, false),
        (dn("CN"), "me", true, false),
        (dn("cn"), "me", true, false),
        (dn("CN"), "somebody", false, false),
        (dn("O"), "me", false, false),
        (dn("OU"), "me", false, false),
    ];
    for (subject, value, shown, not_shown) in cases {
        let rule = rule(subject, EqualTo, value);
        assert_eq!(matches(rule.clone(), raw, &with), shown, "{rule:?}");
        assert_eq!(matches(rule.clone(), raw, &CLIENT), not_shown, "{rule:?}");
    }
}

#[test]
fn class_beats_position_and_position_orders_within() {
    let any = || vec![rule(L7Subject::Path, StartsWith, "/")];
    let policies = [
        policy(1, to_pool(1), any()),
        policy(2, to_pool(2), any()),
        policy(9, to_url("http://u/"), any()),
        policy(
            8,
            L7Action::RedirectPrefix {
                prefix: "http://p".into(),
                code: StatusCode::new(301).unwrap(),
            },
            any(),
        ),
        policy(
            20,
            L7Action::Reject,
            vec![rule(header("X-Bad"), EqualTo, "1")],
        ),
    ];
    let program = compile(&policies).unwrap();
    let plain = "GET /x HTTP/1.1\nHost: a\n\n";
    let prefix = Decision::Redirect {
        code: 301,
        location: "http://p",
        append_path: true,
    };
    assert_eq!(
        decide(&program, plain, &CLIENT),
        prefix,
        "a redirect beats a pool"
    );
    let bad = "GET /x HTTP/1.1\nHost: a\nX-Bad: 1\n\n";
    assert_eq!(
        decide(&program, bad, &CLIENT),
        Decision::Reject,
        "REJECT beats all"
    );
    let program = compile(&policies[..2]).unwrap();
    assert_eq!(decide(&program, plain, &CLIENT), Decision::Pool(pool(1)));
    let program = compile_with(&policies[..2], |id| id != pool(1)).unwrap();
    assert_eq!(
        decide(&program, plain, &CLIENT),
        Decision::Pool(pool(2)),
        "falls through"
    );
}

#[test]
fn what_is_disabled_or_empty_takes_nothing() {
    let raw = "GET / HTTP/1.1\nHost: a\n\n";
    let all = || rule(L7Subject::Path, StartsWith, "/");
    let mut disabled_rule = all();
    disabled_rule.enabled = false;
    let mut disabled_policy = policy(1, L7Action::Reject, vec![all()]);
    disabled_policy.enabled = false;
    for policies in [
        vec![policy(1, L7Action::Reject, vec![])],
        vec![policy(1, L7Action::Reject, vec![disabled_rule.clone()])],
        vec![disabled_policy],
    ] {
        let program = compile(&policies).unwrap();
        assert!(program.is_empty());
        assert_eq!(decide(&program, raw, &CLIENT), Decision::Default);
    }
    // The disabled rule is left out; the others still decide.
    let program = compile(&[policy(
        1,
        L7Action::Reject,
        vec![disabled_rule, rule(L7Subject::HostName, EqualTo, "b")],
    )]);
    assert_eq!(decide(&program.unwrap(), raw, &CLIENT), Decision::Default);
}

#[test]
fn refusals_name_the_field() {
    let cases = [
        (
            rule(L7Subject::Path, Regex, "(unclosed"),
            "l7_policies[0].rules[0].value",
        ),
        (
            rule(L7Subject::Path, Regex, "(\\w{99}){99}"),
            "l7_policies[0].rules[0].value",
        ),
        (
            rule(L7Subject::Path, EqualTo, ""),
            "l7_policies[0].rules[0].value",
        ),
        (
            rule(header("a b"), EqualTo, "x"),
            "l7_policies[0].rules[0].subject.key",
        ),
        (
            rule(L7Subject::Cookie { key: "".into() }, EqualTo, "x"),
            "l7_policies[0].rules[0].subject.key",
        ),
        (
            rule(L7Subject::FileType, StartsWith, "x"),
            "l7_policies[0].rules[0].compare",
        ),
        (
            rule(L7Subject::SslVerifyResult, EqualTo, "x"),
            "l7_policies[0].rules[0].value",
        ),
        (
            rule(L7Subject::SslConnHasCert, EqualTo, "maybe"),
            "l7_policies[0].rules[0].value",
        ),
    ];
    for (rule, field) in cases {
        let error = compile(&[policy(1, L7Action::Reject, vec![rule])]).unwrap_err();
        assert_eq!(error.field, field, "{error}");
    }
}

#[test]
fn an_index_decides_as_a_scan_would() {
    // Hundreds of policies; those that share a key keep their order, and later wins nothing.
    let mut policies = Vec::new();
    for n in 0..100 {
        let position = 100 - n; // the last one written comes first
        let n = u128::from(n);
        let rules = match n % 4 {
            0 if n % 3 == 0 => vec![rule(
                L7Subject::HostName,
                EqualTo,
                &format!("h{}:80", n % 8),
            )],
            0 => vec![rule(L7Subject::HostName, EqualTo, &format!("h{}", n % 8))],
            1 => vec![rule(L7Subject::Path, StartsWith, &format!("/p{}", n % 10))],
            2 => vec![
                rule(L7Subject::Path, EqualTo, "/x"),
                rule(header("A"), EqualTo, &n.to_string()),
            ],
            _ => vec![rule(header("A"), Contains, &format!("{}", n % 7))],
        };
        policies.push(policy(position, to_pool(n), rules));
    }
    let program = compile(&policies).unwrap();
    let mut sorted: Vec<_> = policies.iter().collect();
    sorted.sort_by_key(|policy| policy.position);
    for host in ["h0", "h4", "h9", "h4:80", "h4.", "h0:"] {
        for path in ["/p1", "/p5/x", "/x", "/none"] {
            for a in ["1", "2", "42", "none"] {
                let raw = format!("GET {path} HTTP/1.1\nHost: {host}\nA: {a}\n\n");
                let scan = sorted.iter().find(|policy| {
                    let alone = L7Policy {
                        action: L7Action::Reject,
                        ..(**policy).clone()
                    };
                    let program = compile(&[alone]).unwrap();
                    decide(&program, &raw, &CLIENT) == Decision::Reject
                });
                let want = scan.map_or(Decision::Default, |policy| match &policy.action {
                    L7Action::RedirectToPool { pool } => Decision::Pool(*pool),
                    _ => Decision::Default,
                });
                assert_eq!(decide(&program, &raw, &CLIENT), want, "{raw}");
            }
        }
    }
}
