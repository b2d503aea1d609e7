//! Listeners, pools, members, monitors, policies and rules without TLS: one load balancer, a change after the other, each seen by a client or a
//! member, and the opposite of each too.

use super::{Changes, Seen};
use crate::story::{MEMBERS, Story};
use krater_e2e::api::text;
use krater_e2e::client::{self, Answer, Connection, is_silent};
use krater_e2e::place::Place;
use krater_e2e::system::alone;
use krater_e2e::wait;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

/// A second listener that is left as it is, with a pool of `web1` alone: what the changed one is compared with.
const STEADY: u16 = 8_080;
const HOUR_MS: u32 = 3_600_000;

struct Bench<'a> {
    story: &'a Story,
    changes: Changes<'a>,
    steady: String,
    steady_pool: String,
}

impl Bench<'_> {
    fn listener(&self, body: Value) {
        self.changes.put(
            "listener",
            &format!("listeners/{}", self.story.listener),
            body,
        );
    }

    fn pool(&self, body: Value) {
        self.changes
            .put("pool", &format!("pools/{}", self.story.pool), body);
    }

    fn member(&self, number: usize, body: Value) {
        let id = &self.story.members[number];
        let path = format!("pools/{}/members/{id}", self.story.pool);
        self.changes.put("member", &path, body);
    }

    fn connect(&self, port: u16) -> Connection {
        Connection::open(&self.story.client, self.story.at(port)).expect("a connection")
    }

    /// Status of one request with these headers.
    fn ask(&self, path: &str, headers: &str) -> Answer {
        let more = format!("{headers}connection: close\r\n");
        let head = client::head("GET", path, "www.example", &more);
        self.connect(80).request(&head, b"").expect("an answer")
    }

    fn status(&self, path: &str) -> u16 {
        self.ask(path, "").status
    }

    /// Whether a new connection is served.
    fn serves(&self, port: u16) -> bool {
        client::get(&self.story.client, self.story.at(port), "/").is_ok()
    }

    /// Who answers nine requests.
    fn answering(&self) -> BTreeSet<String> {
        self.story.spread("/", 9).into_keys().collect()
    }

    fn waits_for(&self, what: &str, names: &[&str]) {
        let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        wait::for_condition(what, || self.answering() == wanted);
    }

    /// A connection that has asked and is not read yet.
    fn asked(&self, port: u16) -> TcpStream {
        let mut stream = self
            .story
            .client
            .connect(self.story.at(port))
            .expect("a connection");
        stream
            .write_all(client::head("GET", "/", "a", "").as_bytes())
            .expect("a request");
        stream
    }
}

/// Waits for the first bytes; none: it was closed.
fn first_bytes(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(wait::LONG)).expect("a socket");
    let mut buffer = [0; 256];
    let count = match stream.read(&mut buffer) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
        other => other.expect("bytes or the end"),
    };
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

#[test]
fn each_change_is_seen_in_traffic() {
    let _alone = alone();
    let story = Story::single();
    story.answers();
    let steady = story.create("listeners", json!({"listener": {
        "name": "steady", "loadbalancer_id": story.load_balancer, "protocol": "HTTP", "protocol_port": STEADY,
    }}));
    let steady_pool = story.create("pools", json!({"pool": {
        "name": "steady", "listener_id": steady, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
    }}));
    story.member(&steady_pool, "again", MEMBERS[0].1);
    let bench = Bench {
        changes: Changes::new(&story),
        story: &story,
        steady,
        steady_pool,
    };
    load_balancer(&bench);
    listener(&bench);
    timeouts(&bench);
    pool(&bench);
    members(&bench);
    policies(&bench);
    monitors(&bench);
    shown(&bench);
    deletions(&bench);
    bench.changes.are_all_of(&[Seen::Plain, Seen::Shown]);
}

fn load_balancer(bench: &Bench<'_>) {
    let path = format!("loadbalancers/{}", bench.story.load_balancer);
    for up in [false, true] {
        bench
            .changes
            .put("loadbalancer", &path, json!({"admin_state_up": up}));
        assert_eq!((bench.serves(80), bench.serves(STEADY)), (up, up));
    }
}

fn listener(bench: &Bench<'_>) {
    for up in [false, true] {
        bench.listener(json!({"admin_state_up": up}));
        assert_eq!((bench.serves(80), bench.serves(STEADY)), (up, true));
    }

    // The client is 203.0.113.201.
    for (cidrs, served) in [
        (json!(["198.51.100.0/24", "203.0.113.0/25"]), false),
        (json!(["203.0.113.128/25"]), true),
        (json!(["203.0.113.200/32"]), false),
        (Value::Null, true),
    ] {
        bench.listener(json!({"allowed_cidrs": cidrs}));
        assert_eq!(bench.serves(80), served, "{cidrs}");
    }

    bench.listener(json!({"connection_limit": 1}));
    let mut first = bench.connect(80);
    let head = client::head("GET", "/", "a", "");
    assert_eq!(first.request(&head, b"").expect("an answer").status, 200);
    let mut second = bench.asked(80);
    for _ in 0..20 {
        assert!(bench.serves(STEADY));
    }
    assert!(is_silent(&second), "one connection at a time");
    drop(first);
    assert!(
        first_bytes(&mut second).starts_with("HTTP/1.1 200"),
        "its turn"
    );
    drop(second);
    bench.listener(json!({"connection_limit": null}));
    let mut first = bench.connect(80);
    assert_eq!(first.request(&head, b"").expect("an answer").status, 200);
    assert!(first_bytes(&mut bench.asked(80)).starts_with("HTTP/1.1 200"));

    bench.listener(json!({"default_pool_id": null}));
    assert_eq!(bench.status("/"), 503);
    bench.listener(json!({"default_pool_id": bench.steady_pool}));
    assert_eq!(bench.answering(), BTreeSet::from(["web1".to_owned()]));
    bench.listener(json!({"default_pool_id": bench.story.pool}));
    assert_eq!(bench.answering().len(), 3);

    let seen = || bench.ask("/headers", "").text().to_ascii_lowercase();
    assert!(!seen().contains("x-forwarded"));
    bench.listener(
        json!({"insert_headers": {"X-Forwarded-For": "true", "X-Forwarded-Port": "true"}}),
    );
    let head = seen();
    assert!(head.contains("x-forwarded-for: 203.0.113.201"), "{head}");
    assert!(head.contains("x-forwarded-port: 80"), "{head}");
    bench.listener(json!({"insert_headers": {"X-Forwarded-For": "false"}}));
    assert!(!seen().contains("x-forwarded"));
}

fn timeouts(bench: &Bench<'_>) {
    // Two connections that are used once: one ends by itself, the other one, older, is used again.
    let head = client::head("GET", "/", "a", "");
    let mut steady = bench.connect(STEADY);
    assert_eq!(steady.request(&head, b"").expect("an answer").status, 200);
    bench.listener(json!({"timeout_client_data": 300}));
    let mut idle = bench.connect(80);
    assert_eq!(idle.request(&head, b"").expect("an answer").status, 200);
    let end = idle.read(1).expect_err("it is closed");
    assert!(
        matches!(
            end.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
        ),
        "{end}"
    );
    assert_eq!(steady.request(&head, b"").expect("an answer").status, 200);
    bench.listener(json!({"timeout_client_data": null}));

    bench.listener(json!({"timeout_member_data": 300}));
    assert_eq!(bench.status("/slow/1500"), 504);
    bench.listener(json!({"timeout_member_data": null}));
    assert_eq!(bench.status("/slow/1500"), 200);

    member_connect(bench);
    inspection(bench);
}

/// A member whose queue of new connections is full: connecting to it takes as long as the test wants.
fn member_connect(bench: &Bench<'_>) {
    let place = Place::new(&bench.story.system, "tenant", "192.0.2.221");
    let full = place.listen(80).expect("listen");
    let backlog = nix::sys::socket::Backlog::new(0).expect("a backlog");
    nix::sys::socket::listen(&full, backlog).expect("a shorter queue");
    let filler = place
        .connect((place.address, 80).into())
        .expect("it has one place");
    let pool = bench.story.create("pools", json!({"pool": {
        "name": "full", "loadbalancer_id": bench.story.load_balancer, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
    }}));
    bench.story.member(&pool, "full", "192.0.2.221");
    bench.listener(json!({"default_pool_id": pool, "timeout_member_connect": 200}));
    assert_eq!(bench.status("/"), 503);
    bench.listener(json!({"timeout_member_connect": HOUR_MS}));
    let mut patient = bench.asked(80);
    for _ in 0..20 {
        assert!(bench.serves(STEADY));
    }
    assert!(is_silent(&patient));
    // The first is the one in the queue; the kernel tries the other one again after a second or three.
    drop(full.accept().expect("the filler"));
    let (mut member, _) = full.accept().expect("the data plane");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        member.read_exact(&mut byte).expect("a request");
        head.push(byte[0]);
    }
    member
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate")
        .expect("answered");
    assert!(first_bytes(&mut patient).starts_with("HTTP/1.1 200"));
    drop((filler, patient, member));
    bench.listener(json!({"default_pool_id": bench.story.pool, "timeout_member_connect": null}));
    bench.story.change("DELETE", &format!("pools/{pool}"), None);
}

/// A member that speaks first is reached when the client has spoken, and without inspection at once.
fn inspection(bench: &Bench<'_>) {
    const PORT: u16 = 8_081;
    let place = Place::new(&bench.story.system, "tenant", "192.0.2.222");
    let socket = place.listen(80).expect("listen");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let greeter = std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in socket.incoming() {
            if stopped.load(std::sync::atomic::Ordering::SeqCst) {
                return;
            }
            let mut stream = stream.expect("a connection");
            let _ = stream.write_all(b"hello");
            kept.push(stream);
        }
    });
    let story = bench.story;
    let listener = story.create("listeners", json!({"listener": {
        "name": "tcp", "loadbalancer_id": story.load_balancer, "protocol": "TCP", "protocol_port": PORT,
    }}));
    let pool = story.create("pools", json!({"pool": {
        "name": "tcp", "listener_id": listener, "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN",
    }}));
    story.member(&pool, "greeter", "192.0.2.222");
    let open = || story.client.connect(story.at(PORT)).expect("a connection");
    assert_eq!(first_bytes(&mut open()), "hello");
    let path = format!("listeners/{listener}");
    bench
        .changes
        .put("listener", &path, json!({"timeout_tcp_inspect": HOUR_MS}));
    let mut silent = open();
    let mut speaking = open();
    speaking.write_all(b"x").expect("a byte");
    assert_eq!(first_bytes(&mut speaking), "hello");
    assert!(is_silent(&silent), "its member was not reached");
    silent.write_all(b"x").expect("a byte");
    assert_eq!(first_bytes(&mut silent), "hello");
    bench
        .changes
        .put("listener", &path, json!({"timeout_tcp_inspect": null}));
    assert_eq!(first_bytes(&mut open()), "hello");
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    drop(place.connect((place.address, 80).into()));
    greeter.join().expect("the greeter");
    story.change("DELETE", &path, None);
    assert!(!bench.serves(PORT));
    story.change("DELETE", &format!("pools/{pool}"), None);
}

fn pool(bench: &Bench<'_>) {
    for (up, status) in [(false, 503), (true, 200)] {
        bench.pool(json!({"admin_state_up": up}));
        assert_eq!(bench.status("/"), status);
    }
    bench.pool(json!({"lb_algorithm": "SOURCE_IP"}));
    assert_eq!(bench.answering().len(), 1);
    bench.pool(json!({"lb_algorithm": "ROUND_ROBIN"}));
    assert_eq!(bench.answering().len(), 3);

    let cookie = || {
        bench
            .ask("/", "")
            .head
            .to_ascii_lowercase()
            .contains("set-cookie")
    };
    bench.pool(json!({"session_persistence": {"type": "SOURCE_IP"}}));
    assert_eq!((bench.answering().len(), cookie()), (1, false));
    bench.pool(json!({"session_persistence": {"type": "HTTP_COOKIE"}}));
    assert_eq!((bench.answering().len(), cookie()), (3, true));
    bench.pool(json!({"session_persistence": null}));
    assert_eq!((bench.answering().len(), cookie()), (3, false));
}

fn members(bench: &Bench<'_>) {
    let others = BTreeSet::from(["web2".to_owned(), "web3".to_owned()]);
    for (out, back) in [
        (json!({"weight": 0}), json!({"weight": 1})),
        (
            json!({"admin_state_up": false}),
            json!({"admin_state_up": true}),
        ),
    ] {
        bench.member(0, out);
        assert_eq!(bench.answering(), others);
        bench.member(0, back);
        assert_eq!(bench.answering().len(), 3);
    }
    bench.member(0, json!({"weight": 8}));
    let counts = bench.story.spread("/", 20);
    assert_eq!(counts.get("web1"), Some(&16), "{counts:?}");
    bench.member(0, json!({"weight": null}));

    bench.member(0, json!({"backup": true}));
    assert_eq!(bench.answering(), others);
    for number in [1, 2] {
        bench.member(number, json!({"admin_state_up": false}));
    }
    assert_eq!(bench.answering(), BTreeSet::from(["web1".to_owned()]));
    for number in [1, 2] {
        bench.member(number, json!({"admin_state_up": true}));
    }
    bench.member(0, json!({"backup": false}));
    assert_eq!(bench.answering().len(), 3);
}

fn policies(bench: &Bench<'_>) {
    let story = bench.story;
    let rules = |policy: &str| format!("l7policies/{policy}/rules");
    let policy = |url: &str| {
        let id = story.create(
            "l7policies",
            json!({"l7policy": {
                "listener_id": story.listener, "action": "REDIRECT_TO_URL", "redirect_url": url,
            }}),
        );
        let rule = story.create(
            &rules(&id),
            json!({"rule": {
                "type": "PATH", "compare_type": "STARTS_WITH", "value": "/l7",
            }}),
        );
        (id, rule)
    };
    let (first, rule) = policy("http://first.example/");
    let (second, _) = policy("http://second.example/");
    let put = |id: &str, body: Value| {
        bench
            .changes
            .put("l7policy", &format!("l7policies/{id}"), body)
    };
    let location = || {
        let answer = bench.ask("/l7/x", "");
        let head = answer.head.lines().find_map(|l| {
            l.strip_prefix("location: ")
                .or_else(|| l.strip_prefix("Location: "))
        });
        (answer.status, head.unwrap_or_default().to_owned())
    };
    let leads_to = |code: u16, url: &str| assert_eq!(location(), (code, url.to_owned()));
    // Positions count among policies of one action; refusals come first, as upstream has it.
    leads_to(302, "http://first.example/");
    put(&second, json!({"position": 1}));
    leads_to(302, "http://second.example/");
    put(&first, json!({"position": 1}));
    leads_to(302, "http://first.example/");
    put(&first, json!({"admin_state_up": false}));
    leads_to(302, "http://second.example/");
    put(&first, json!({"admin_state_up": true}));
    leads_to(302, "http://first.example/");
    put(&second, json!({"action": "REJECT"}));
    assert_eq!((bench.status("/l7/x"), bench.status("/")), (403, 200));
    story.change("DELETE", &format!("l7policies/{second}"), None);

    put(&first, json!({"redirect_url": "http://url.example/"}));
    leads_to(302, "http://url.example/");
    put(&first, json!({"redirect_http_code": 301}));
    leads_to(301, "http://url.example/");
    put(&first, json!({"redirect_prefix": "http://prefix.example"}));
    assert_eq!(location().1, "http://prefix.example/l7/x");
    put(&first, json!({"redirect_pool_id": bench.steady_pool}));
    let names: BTreeSet<String> = story.spread("/l7/x", 6).into_keys().collect();
    assert_eq!(names, BTreeSet::from(["web1".to_owned()]));
    assert_eq!(bench.answering().len(), 3);
    put(&first, json!({"action": "REJECT"}));
    assert_eq!((bench.status("/l7/x"), bench.status("/")), (403, 200));

    let change = |body: Value| {
        bench
            .changes
            .put("rule", &format!("{}/{rule}", rules(&first)), body)
    };
    let both = |one: &str, other: &str| [bench.status(one), bench.status(other)];
    change(json!({"value": "/other"}));
    assert_eq!(both("/l7/x", "/other/x"), [200, 403]);
    change(json!({"compare_type": "EQUAL_TO"}));
    assert_eq!(both("/other/x", "/other"), [200, 403]);
    change(json!({"type": "HEADER", "key": "X-One", "value": "1"}));
    let headers = || ["X-One: 1\r\n", "X-Two: 1\r\n"].map(|header| bench.ask("/", header).status);
    assert_eq!(headers(), [403, 200]);
    change(json!({"key": "X-Two"}));
    assert_eq!(headers(), [200, 403]);
    change(json!({"invert": true}));
    assert_eq!(headers(), [403, 200]);
    change(json!({"admin_state_up": false}));
    assert_eq!(
        headers(),
        [200, 200],
        "a policy without rules matches nothing"
    );
    change(json!({"admin_state_up": true, "invert": false}));
    assert_eq!(headers(), [200, 403]);
    // For people, while there is one of each.
    labels(
        bench,
        "l7policy",
        &format!("l7policies/{first}"),
        &["name", "description"],
    );
    labels(bench, "rule", &format!("{}/{rule}", rules(&first)), &[]);
    story.change("DELETE", &format!("{}/{rule}", rules(&first)), None);
    assert_eq!(headers(), [200, 200], "the rule is gone");
    story.create(
        &rules(&first),
        json!({"rule": {
            "type": "HEADER", "key": "X-One", "compare_type": "EQUAL_TO", "value": "1",
        }}),
    );
    assert_eq!(headers(), [403, 200]);
    story.change("DELETE", &format!("l7policies/{first}"), None);
    assert_eq!(headers(), [200, 200], "the policy is gone");
}

fn monitors(bench: &Bench<'_>) {
    const ALL: &[&str] = &["web1", "web2", "web3"];
    const NOBODY: &[&str] = &["status 503"];
    const REST: &[&str] = &["web2", "web3"];
    let story = bench.story;
    let monitor = |pool: &str, path: &str| {
        story.create(
            "healthmonitors",
            json!({"healthmonitor": {
                "pool_id": pool, "type": "HTTP", "url_path": path,
                "delay": 1, "timeout": 1, "max_retries": 1, "max_retries_down": 1,
            }}),
        )
    };
    let id = monitor(&story.pool, "/probe");
    monitor(&bench.steady_pool, "/clock");
    let path = format!("healthmonitors/{id}");
    let put = |body: Value| bench.changes.put("healthmonitor", &path, body);
    bench.waits_for("all are up", ALL);
    put(json!({"url_path": "/status/404"}));
    bench.waits_for("the path is not there", NOBODY);
    put(json!({"expected_codes": "404"}));
    bench.waits_for("which is as expected", ALL);
    put(json!({"url_path": "/slow/1500", "expected_codes": "200"}));
    bench.waits_for("slower than the time-out", NOBODY);
    put(json!({"timeout": 5}));
    bench.waits_for("faster than the time-out", ALL);
    put(json!({"url_path": "/probe", "timeout": 1}));
    bench.waits_for("all are up", ALL);

    let web1 = &story.backends[0];
    let probe = || web1.last_head("/probe");
    wait::for_condition("as shipped", || {
        probe().starts_with("GET /probe HTTP/1.0\r\n")
    });
    assert!(!probe().contains("probe.example"));
    put(json!({"http_method": "HEAD"}));
    wait::for_condition("HEAD", || probe().starts_with("HEAD /probe HTTP/1.0\r\n"));
    put(json!({"http_version": 1.1}));
    wait::for_condition("HTTP/1.1", || {
        probe().starts_with("HEAD /probe HTTP/1.1\r\n")
    });
    put(json!({"domain_name": "probe.example"}));
    wait::for_condition("a name", || {
        probe()
            .to_ascii_lowercase()
            .contains("\r\nhost: probe.example\r\n")
    });
    bench.waits_for("all are up", ALL);

    for (body, out, back) in [
        (
            json!({"monitor_port": 81}),
            REST,
            json!({"monitor_port": null}),
        ),
        (
            json!({"monitor_address": "192.0.2.250"}),
            REST,
            json!({"monitor_address": null}),
        ),
    ] {
        bench.member(0, body);
        bench.waits_for("its probes go elsewhere", out);
        bench.member(0, back);
        bench.waits_for("its probes go to it", ALL);
    }

    // Probes until a failing member is out, and until it is in again. What is counted begins before the first that
    // fails (or not), so at most one is too many.
    let probes_until = |status: u16, names: &[&str]| {
        let first = web1.asked("/probe");
        web1.set_status(status);
        bench.waits_for("the member leaves or comes", names);
        web1.asked("/probe") - first
    };
    let mut probes = Vec::new();
    for retries in [1, 5] {
        put(json!({"max_retries": retries, "max_retries_down": retries}));
        bench.waits_for("all are up", ALL);
        probes.push((probes_until(500, REST), probes_until(200, ALL)));
    }
    let [(fast_down, fast_up), (slow_down, slow_up)] = probes[..] else {
        panic!("two rounds: {probes:?}");
    };
    assert!(slow_down >= 5 && slow_up >= 5, "{probes:?}");
    assert!(fast_down < 5 && fast_up < 5, "{probes:?}");
    put(json!({"max_retries": 1, "max_retries_down": 1}));

    // Another monitor's probes are the clock.
    let ticks = |count: usize| {
        let first = web1.asked("/clock");
        wait::for_condition("the clock goes on", || {
            web1.asked("/clock") >= first + count
        });
    };
    put(json!({"delay": 3_600}));
    let first = web1.asked("/probe");
    ticks(4);
    assert!(web1.asked("/probe") <= first + 1, "probes have become rare");
    put(json!({"delay": 1}));
    wait::for_condition("probes are back", || web1.asked("/probe") >= first + 4);

    web1.set_status(500);
    bench.waits_for("the failing one is out", REST);
    put(json!({"admin_state_up": false}));
    bench.waits_for("nobody looks", &["status 500", "web2", "web3"]);
    put(json!({"admin_state_up": true}));
    bench.waits_for("the failing one is out", REST);
    labels(bench, "healthmonitor", &path, &["name"]);
    story.change("DELETE", &path, None);
    bench.waits_for("there is no monitor", &["status 500", "web2", "web3"]);
    web1.set_status(200);
    bench.waits_for("all are up", ALL);
}

/// Texts for people: what was written is what is shown.
fn labels(bench: &Bench<'_>, resource: &str, path: &str, names: &[&str]) {
    let mut body = json!({"tags": ["one", "two words"]});
    for name in names {
        body[*name] = json!(format!("the {name} of ü"));
    }
    bench.changes.put(resource, path, body.clone());
    let shown = bench.story.system.api.show(path).expect("the object");
    for (name, value) in body.as_object().expect("an object") {
        assert_eq!(&shown[name], value, "{resource}");
    }
}

fn shown(bench: &Bench<'_>) {
    let story = bench.story;
    let both = &["name", "description"];
    labels(
        bench,
        "loadbalancer",
        &format!("loadbalancers/{}", story.load_balancer),
        both,
    );
    labels(
        bench,
        "listener",
        &format!("listeners/{}", bench.steady),
        both,
    );
    labels(bench, "pool", &format!("pools/{}", bench.steady_pool), both);
    let member = format!("pools/{}/members/{}", story.pool, story.members[2]);
    labels(bench, "member", &member, &["name"]);
}

fn deletions(bench: &Bench<'_>) {
    let story = bench.story;
    let member = format!("pools/{}/members/{}", story.pool, story.members[2]);
    assert_eq!(bench.answering().len(), 3);
    story.change("DELETE", &member, None);
    assert_eq!(
        bench.answering(),
        BTreeSet::from(["web1".to_owned(), "web2".to_owned()])
    );
    let steady =
        || -> io::Result<u16> { Ok(client::get(&story.client, story.at(STEADY), "/")?.status) };
    // Its monitor saw the member fail a moment ago.
    wait::for_condition("the other one answers", || {
        steady().is_ok_and(|status| status == 200)
    });
    story.change("DELETE", &format!("pools/{}", bench.steady_pool), None);
    assert_eq!(steady().expect("an answer"), 503);
    story.change("DELETE", &format!("listeners/{}", bench.steady), None);
    assert!(steady().is_err());
    assert_eq!(bench.status("/"), 200);
    let path = format!("/v2/lbaas/loadbalancers/{}", story.load_balancer);
    let refused = story
        .system
        .api
        .send("DELETE", &path, None)
        .expect("an answer");
    assert_eq!(
        refused.status,
        400,
        "{}",
        text(&refused.body["faultstring"])
    );
    assert_eq!(bench.status("/"), 200);
    story
        .system
        .api
        .must("DELETE", &format!("{path}?cascade=true"), None);
    wait::for_condition("the load balancer is gone", || !bench.serves(80));
}
