//! Clients that stay with their member by a cookie.

use super::kit::*;
use serde_json::json;

fn members(n: usize) -> Vec<Member> {
    const NAMES: [&str; 4] = ["0", "1", "2", "3"];
    NAMES
        .iter()
        .take(n)
        .map(|name| Member::text(name))
        .collect()
}

fn addresses(members: &[Member]) -> Vec<std::net::SocketAddr> {
    members.iter().map(|m| m.address).collect()
}

/// A request with cookies on a connection of its own.
fn ask(plane: &Plane, path: &str, cookies: &str) -> Message {
    let mut client = plane.client();
    client.send(format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\n{cookies}Connection: close\r\n\r\n"
    ));
    client.response().unwrap()
}

/// Id of the `n`th member of the first pool, as `pool` gives it.
fn id(n: u32) -> String {
    uuid(1000 + n)
}

fn sticky(n: usize, workers: u16, persistence: serde_json::Value) -> (Plane, Vec<Member>) {
    let members = members(n);
    let mut plane = Plane::start(workers);
    plane.pools = vec![pool(1, &addresses(&members))];
    plane.pools[0]["persistence"] = persistence;
    plane.listener["default_pool"] = uuid(1).into();
    plane.apply();
    (plane, members)
}

#[test]
fn an_inserted_cookie_brings_clients_back_whatever_the_worker() {
    for workers in [1, 2, 4] {
        let (plane, members) = sticky(3, workers, json!({"type": "HTTP_COOKIE"}));
        let first = ask(&plane, "/", "");
        let name = first.text();
        let want = format!("SRV={}; path=/", id(name.parse().unwrap()));
        assert_eq!(first.field("set-cookie"), Some(want.as_str()));
        assert_eq!(first.field("cache-control"), Some("private"), "nocache");
        let cookie = format!("Cookie: a=b; SRV={}\r\n", id(name.parse().unwrap()));
        for _ in 0..12 {
            let again = ask(&plane, "/", &cookie);
            assert_eq!(again.text(), name, "{workers} workers");
            assert_eq!(
                (again.field("set-cookie"), again.field("cache-control")),
                (None, None),
                "indirect: the client has it"
            );
        }
        let seen = members[name.parse::<usize>().unwrap()].requests();
        assert!(seen.len() > 12);
        assert_eq!(seen.last().unwrap().field("cookie"), Some("a=b"), "hidden");
        // Clients without the cookie are balanced, and one that invents a member is too.
        let spread: std::collections::BTreeSet<_> =
            (0..9).map(|_| ask(&plane, "/", "").text()).collect();
        assert_eq!(spread.len(), 3);
        let invented = ask(&plane, "/", &format!("Cookie: SRV={}\r\n", id(77)));
        assert!(invented.field("set-cookie").is_some());
    }
}

#[test]
fn a_cookie_outlives_draining_but_not_its_member() {
    let (mut plane, members) = sticky(2, 2, json!({"type": "HTTP_COOKIE"}));
    let cookie = format!("Cookie: SRV={}\r\n", id(0));
    plane.pools[0]["members"][0]["weight"] = 0.into();
    plane.apply();
    assert_eq!(ask(&plane, "/", &cookie).text(), "0", "drains");
    assert_eq!(ask(&plane, "/", "").text(), "1");
    plane.pools[0]["members"][0]["enabled"] = false.into();
    plane.apply();
    let moved = ask(&plane, "/", &cookie);
    assert_eq!(moved.text(), "1");
    let want = format!("SRV={}; path=/", id(1));
    assert_eq!(moved.field("set-cookie"), Some(want.as_str()));
    // A member that cannot be reached is left too.
    let dead = nobody();
    plane.pools = vec![pool(1, &[dead, members[1].address])];
    plane.pools[0]["persistence"] = json!({"type": "HTTP_COOKIE"});
    plane.apply();
    let moved = ask(&plane, "/", &cookie);
    assert_eq!(moved.field("set-cookie"), Some(want.as_str()));
}

#[test]
fn a_members_cookie_of_that_name_does_not_pass() {
    let member = Member::answering(|_| {
        b"HTTP/1.1 200 OK\r\nSet-Cookie: SRV=evil\r\nSet-Cookie: c=d\r\nContent-Length: 0\r\n\r\n"
            .to_vec()
    });
    let mut plane = Plane::with(&[member.address]);
    assert!(
        ask(&plane, "/", "").head.contains("SRV=evil"),
        "control: without persistence"
    );
    plane.pools[0]["persistence"] = json!({"type": "HTTP_COOKIE"});
    plane.apply();
    let cookie = format!("Cookie: SRV={}\r\n", id(0));
    for cookies in ["", &cookie] {
        let answer = ask(&plane, "/", cookies);
        assert!(!answer.head.contains("evil"), "{}", answer.head);
        assert!(answer.head.contains("Set-Cookie: c=d"), "{}", answer.head);
    }
}

/// Members that begin a session when asked for `/login/NAME`.
fn login_members(n: usize) -> Vec<Member> {
    (0..n)
        .map(|at| {
            Member::answering(move |request| {
                let path = request.start().split(' ').nth(1).unwrap_or_default();
                let set = path
                    .strip_prefix("/login/")
                    .map_or_else(String::new, |name| {
                        format!("Set-Cookie: sid={name}; Path=/; HttpOnly\r\n")
                    });
                format!("HTTP/1.1 200 OK\r\n{set}Content-Length: 1\r\n\r\n{at}").into_bytes()
            })
        })
        .collect()
}

#[test]
fn an_application_cookie_is_learned_whatever_the_worker() {
    for workers in [1, 2, 4] {
        let members = login_members(3);
        let mut plane = Plane::start(workers);
        plane.pools = vec![pool(1, &addresses(&members))];
        plane.pools[0]["persistence"] = json!({"type": "APP_COOKIE", "cookie_name": "sid"});
        plane.listener["default_pool"] = uuid(1).into();
        plane.apply();
        // 64 bytes are compared: these two sessions differ in byte 64, those in byte 65.
        let long = |n: usize, last: char| format!("{}{last}", "x".repeat(n - 1));
        let sessions = ["a".to_owned(), "b".to_owned(), long(64, '1'), long(64, '2')];
        let at: Vec<String> = sessions
            .iter()
            .map(|s| ask(&plane, &format!("/login/{s}"), "").text())
            .collect();
        assert_eq!(at, ["0", "1", "2", "0"], "balanced at first");
        for _ in 0..5 {
            for (session, at) in sessions.iter().zip(&at) {
                let cookie = format!("Cookie: z=1; sid={session}\r\n");
                assert_eq!(&ask(&plane, "/", &cookie).text(), at, "{session}");
            }
        }
        let same = format!("Cookie: sid={}9\r\n", sessions[2]);
        assert_eq!(
            ask(&plane, "/", &same).text(),
            "2",
            "byte 65 does not count"
        );
        let last = members[2].requests().pop().unwrap();
        assert!(
            last.head.contains("sid="),
            "the application gets its cookie"
        );
        // What no member has set is balanced, and stays so.
        let spread: std::collections::BTreeSet<_> = (0..9)
            .map(|_| ask(&plane, "/", "Cookie: sid=invented\r\n").text())
            .collect();
        assert_eq!(spread.len(), 3);
    }
}

#[test]
fn a_session_of_a_lost_member_moves_once() {
    let members = login_members(3);
    let mut plane = Plane::start(2);
    plane.pools = vec![pool(1, &addresses(&members))];
    plane.pools[0]["persistence"] = json!({"type": "APP_COOKIE", "cookie_name": "sid"});
    plane.listener["default_pool"] = uuid(1).into();
    plane.apply();
    assert_eq!(ask(&plane, "/login/s", "").text(), "0");
    plane.pools[0]["members"][0]["enabled"] = false.into();
    plane.apply();
    let moved = ask(&plane, "/", "Cookie: sid=s\r\n").text();
    assert_ne!(moved, "0");
    for _ in 0..6 {
        assert_eq!(ask(&plane, "/", "Cookie: sid=s\r\n").text(), moved);
    }
    // Without persistence the table is gone.
    plane.pools[0]["persistence"] = json!(null);
    plane.apply();
    let spread: std::collections::BTreeSet<_> = (0..6)
        .map(|_| ask(&plane, "/", "Cookie: sid=s\r\n").text())
        .collect();
    assert_eq!(spread.len(), 2);
}

#[test]
fn a_tcp_listener_sees_requests_when_its_pool_speaks_http() {
    let (mut plane, _members) = sticky(2, 2, json!({"type": "HTTP_COOKIE"}));
    plane.listener["protocol"] = "TCP".into();
    plane.listener["insert_headers"] = json!([]);
    plane.apply();
    let first = ask(&plane, "/", "");
    assert!(first.field("set-cookie").is_some());
    let mut client = plane.client();
    let texts: std::collections::BTreeSet<_> = (0..4).map(|_| client.get("/").text()).collect();
    assert_eq!(texts.len(), 2, "each request of a connection is balanced");
}
