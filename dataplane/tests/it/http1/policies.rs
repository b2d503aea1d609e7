//! Policies, and configuration that changes under a kept connection.

use super::kit::*;
use serde_json::json;

fn policy(n: u32, action: serde_json::Value, rules: serde_json::Value) -> serde_json::Value {
    json!({"id": uuid(n), "position": n, "action": action, "rules": rules})
}

#[test]
fn each_action_acts() {
    let (a, b) = (Member::text("a"), Member::text("b"));
    let mut plane = Plane::with(&[a.address]);
    plane.pools.push(pool(2, &[b.address]));
    let path = |n: u32, path: &str| json!([{"id": uuid(n), "subject": {"type": "PATH"}, "compare": "STARTS_WITH", "value": path}]);
    let host = json!([{"id": uuid(44), "subject": {"type": "HOST_NAME"}, "compare": "STARTS_WITH", "value": "server"}]);
    plane.listener["l7_policies"] = json!([
        policy(50, json!({"type": "REJECT"}), path(40, "/no")),
        policy(
            51,
            json!({"type": "REDIRECT_TO_URL", "url": "http://u.example/x", "code": 302}),
            path(41, "/url")
        ),
        policy(
            52,
            json!({"type": "REDIRECT_PREFIX", "prefix": "https://p.example", "code": 308}),
            path(42, "/pre")
        ),
        policy(
            53,
            json!({"type": "REDIRECT_TO_POOL", "pool": uuid(2)}),
            host
        ),
    ]);
    plane.apply();
    let mut client = plane.client();
    assert_eq!(client.get("/").text(), "a");
    assert_eq!(client.get("/no/way").status(), 403);
    let url = client.get("/url/x");
    assert_eq!(
        (url.status(), url.field("location")),
        (302, Some("http://u.example/x"))
    );
    let prefix = client.get("/pre/y?z=1");
    assert_eq!(
        (prefix.status(), prefix.field("location")),
        (308, Some("https://p.example/pre/y?z=1"))
    );
    client.send("GET / HTTP/1.1\r\nHost: server1.example:8080\r\n\r\n");
    assert_eq!(client.response().unwrap().text(), "b");
    assert_eq!(
        client.get("/").text(),
        "a",
        "one connection for all of them"
    );
    assert_eq!(plane.stats().request_errors, 1, "the rejected one");
}

#[test]
fn a_refused_request_with_a_body_ends_the_connection() {
    let member = Member::text("a");
    let mut plane = Plane::with(&[member.address]);
    plane.listener["l7_policies"] = json!([policy(
        50,
        json!({"type": "REJECT"}),
        json!([{"id": uuid(40), "subject": {"type": "PATH"}, "compare": "EQUAL_TO", "value": "/no"}])
    )]);
    plane.apply();
    let mut client = plane.client();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = smuggled.len();
    client.send(format!(
        "POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{smuggled}"
    ));
    let answer = client.response().unwrap();
    assert_eq!(
        (answer.status(), answer.field("connection")),
        (403, Some("close"))
    );
    assert!(client.rest().is_empty());
    assert!(member.requests().is_empty());
}

#[test]
fn a_kept_connection_sees_the_new_configuration_at_its_next_request() {
    let (a, b) = (Member::text("a"), Member::text("b"));
    let mut plane = Plane::with(&[a.address]);
    let mut client = plane.client();
    assert_eq!(client.get("/").text(), "a");
    for round in 0..10 {
        let (member, text) = if round % 2 == 0 { (&b, "b") } else { (&a, "a") };
        plane.pools = vec![pool(1, &[member.address])];
        plane.apply();
        assert_eq!(
            client.get("/").text(),
            text,
            "round {round}, same connection"
        );
    }
    plane.listener["insert_headers"] = json!(["X-Forwarded-Port"]);
    plane.apply();
    client.get("/");
    let last = a.requests().pop().unwrap();
    assert_eq!(
        (
            last.field("x-forwarded-port"),
            last.field("x-forwarded-for")
        ),
        (Some("8080"), None)
    );
}

#[test]
fn a_drain_ends_idle_connections_and_finishes_requests() {
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let member = Member::new(move |mut connection, _| {
        while let Some(request) = connection.request() {
            if request.start().contains("slow") {
                told.lock().unwrap().recv().unwrap();
            }
            connection.send(ok("done"));
        }
    });
    let plane = Plane::with(&[member.address]);
    let (mut idle, mut busy) = (plane.client(), plane.client());
    idle.get("/");
    // Nothing that was kept is used for it.
    busy.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    until("the request", || member.connections() == 2);
    plane.drain(600_000);
    assert!(idle.rest().is_empty(), "the idle one is closed at once");
    assert!(!plane.ended());
    tell.send(()).unwrap();
    assert_eq!(busy.response().unwrap().text(), "done");
    until("the end", || plane.ended());
}

#[test]
fn a_drain_waits_for_first_requests() {
    let member = Member::text("done");
    let plane = Plane::with(&[member.address]);
    let (mut used, mut fresh, mut silent) = (plane.client(), plane.client(), plane.client());
    used.get("/");
    plane.drain(600_000);
    assert!(used.rest().is_empty(), "one between requests is closed");
    // Accepted before, and its request was on its way.
    fresh.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = fresh.response().unwrap();
    assert_eq!(
        (answer.text(), answer.field("connection")),
        ("done".into(), Some("close"))
    );
    // Who never says anything does not hold the end up until the deadline.
    assert!(silent.rest().is_empty());
    until("the end", || plane.ended());
}

#[test]
fn a_request_in_flight_is_not_disturbed_by_a_change() {
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let slow = Member::new(move |mut connection, _| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc");
        told.lock().unwrap().recv().unwrap();
        connection.send("def");
        connection.rest();
    });
    let other = Member::text("other");
    let mut plane = Plane::with(&[slow.address]);
    let mut client = plane.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 200);
    plane.pools = vec![pool(2, &[other.address])];
    plane.listener["default_pool"] = uuid(2).into();
    plane.apply();
    tell.send(()).unwrap();
    assert_eq!(client.read_exact(6), b"abcdef");
    assert_eq!(client.get("/").text(), "other");
}

#[test]
fn no_request_fails_over_fifty_changes() {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    let members = [Member::text("x"), Member::text("x"), Member::text("x")];
    let echo = Member::answering(|request| ok(&request.body));
    let mut plane = Plane::with(&[members[0].address]);
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let vip = plane.vip;
    let connect = || Client::new(std::net::TcpStream::connect(vip).unwrap());
    plane.pools.push(pool(9, &[echo.address]));
    let body = vec![b'b'; 1 << 20];
    let large = json!([policy(
        90,
        json!({"type": "REDIRECT_TO_POOL", "pool": uuid(9)}),
        json!([{"id": uuid(91), "subject": {"type": "PATH"}, "compare": "EQUAL_TO", "value": "/large"}])
    )]);
    plane.listener["l7_policies"] = large.clone();
    plane.apply();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = connect();
            while !stop.load(SeqCst) {
                assert_eq!(client.get("/kept").text(), "x");
                done.fetch_add(1, SeqCst);
            }
        });
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                assert_eq!(connect().get("/new").text(), "x");
                done.fetch_add(1, SeqCst);
            }
        });
        scope.spawn(|| {
            let mut client = connect();
            while !stop.load(SeqCst) {
                let length = body.len();
                let mut sender = client.stream.try_clone().unwrap();
                let body = &body;
                std::thread::scope(|inner| {
                    inner.spawn(move || {
                        use std::io::Write;
                        write!(
                            sender,
                            "POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
                        )
                        .unwrap();
                        sender.write_all(body).unwrap();
                    });
                    assert!(client.response().unwrap().body == *body);
                });
                done.fetch_add(1, SeqCst);
            }
        });
        for change in 0..50_usize {
            let chosen = &members[..=change % 3];
            let addresses: Vec<_> = chosen.iter().map(|m| m.address).collect();
            plane.pools[0] = pool(1, &addresses);
            plane.pools[0]["algorithm"] = ["ROUND_ROBIN", "LEAST_CONNECTIONS"][change % 2].into();
            plane.pools[0]["members"][0]["weight"] = (change % 5 + 1).into();
            plane.listener["insert_headers"] =
                [json!([]), json!(["X-Forwarded-For"])][change % 2].clone();
            if change % 7 == 3 {
                plane.pools.truncate(2);
                plane
                    .pools
                    .push(pool(u32::try_from(change).unwrap() + 20, &[]));
            }
            let before = done.load(SeqCst);
            plane.apply();
            until("traffic after the change", || {
                done.load(SeqCst) > before + 2
            });
        }
        stop.store(true, SeqCst);
    });
}
