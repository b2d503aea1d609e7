use super::*;
use crate::names::{AllFound, Found};
use crate::state::{Algorithm, L7Action, Member};
use crate::units::{Epoch, Generation};

const GOOD: &str = r#"
workers = 2

[[load_balancers]]
name = "shop"
vips = ["192.0.2.10", "2001:db8::10"]

[[load_balancers.listeners]]
protocol = "TERMINATED_HTTPS"
port = 443
default_pool = "web"
timeouts = { client_data = 1000 }
tls = { default_certificate = "a.pem", sni_certificates = ["b.pem", "a.pem"] }

[[load_balancers.listeners.l7_policies]]
action = { type = "REDIRECT_TO_POOL", pool = "api" }
rules = [{ subject = { type = "PATH" }, compare = "STARTS_WITH", value = "/api" }]

[[load_balancers.pools]]
name = "web"
protocol = "HTTP"
health_monitor = { check = { type = "HTTP" } }
members = [
    { address = "10.0.0.1", port = 80 },
    { address = "10.0.0.2", port = 80, weight = 3 },
]

[[load_balancers.pools]]
name = "api"
protocol = "HTTP"
members = [{ address = "2001:db8:1::1", port = 80 }]

[[vrrp]]
vrid = 7
interface = "eth0"
priority = 100
advert_interval = 100
source = "192.0.2.2"
peers = ["192.0.2.3"]
addresses = ["192.0.2.10/24"]
"#;

fn parse(text: &str) -> Result<Appliance, String> {
    let read = |path: &str| match path {
        "a.pem" | "b.pem" => Ok(format!("content of {path}")),
        _ => Err("no such file".to_owned()),
    };
    Appliance::parse(text, read).map_err(|error| error.to_string())
}

fn revision() -> Revision {
    Revision {
        epoch: Epoch(1),
        generation: Generation(1),
    }
}

#[test]
fn a_file_is_what_a_controller_would_send() {
    let appliance = parse(GOOD).unwrap();
    assert_eq!(appliance.settings.workers, Some(2));
    let [lb] = appliance.load_balancers.as_slice() else {
        panic!("{appliance:?}");
    };
    let (listener, [web, api]) = (&lb.listeners[0], lb.pools.as_slice()) else {
        panic!("{lb:?}");
    };
    assert_eq!(listener.name, "terminated_https-443");
    assert_eq!(listener.default_pool, Some(web.id));
    let pool = api.id;
    assert_eq!(
        listener.l7_policies[0].action,
        L7Action::RedirectToPool { pool }
    );
    assert_eq!(listener.l7_policies[0].position, 1);
    assert_eq!(listener.timeouts.client_data.value(), 1_000);
    assert_eq!(listener.timeouts.member_data.value(), 50_000, "the usual");
    let tls = listener.tls.as_ref().unwrap();
    assert_eq!(tls.sni_certificates[1], tls.default_certificate);
    assert_eq!(appliance.certificates.len(), 2, "each content once");
    assert_eq!(web.algorithm, Algorithm::RoundRobin);
    assert_eq!(web.health_monitor.as_ref().unwrap().delay.value(), 5_000);
    assert_eq!(web.members[1].weight.value(), 3);
    assert_eq!(api.members[0].name, "[2001:db8:1::1]:80");
    // The same door as for a controller's document.
    let snapshot = appliance.snapshot(revision(), &Book::default());
    let json = serde_json::to_vec(&snapshot).unwrap();
    assert_eq!(Snapshot::parse(&json), Ok(snapshot));
    assert_eq!(appliance.vrrp_config(revision()).routers.len(), 1);
}

#[test]
fn ids_are_those_of_the_names() {
    let ids = |text: &str| {
        let appliance = parse(text).unwrap();
        let pool = &appliance.load_balancers[0].pools[0];
        (pool.id, pool.members[0].id, pool.members[1].id)
    };
    let first = ids(GOOD);
    assert_eq!(first, ids(&GOOD.replace("weight = 3", "weight = 4")));
    let swapped = GOOD
        .replace("10.0.0.1", "x")
        .replace("10.0.0.2", "10.0.0.1")
        .replace('x', "10.0.0.2");
    let swapped = ids(&swapped.replace("inde10.0.0.2", "index"));
    assert_eq!(
        swapped,
        (first.0, first.2, first.1),
        "the order does not matter"
    );
    assert_ne!(first.0, ids(&GOOD.replace("\"web\"", "\"www\"")).0);
}

#[test]
fn errors_name_line_field_value_and_fix() {
    for (from, to, expected) in [
        (
            "port = 443",
            "port = 70000",
            "line 10: load_balancers[0].listeners[0].port: port 70000 is out of range: use 1 to 65535",
        ),
        (
            "default_pool = \"web\"",
            "default_pool = \"wob\"",
            "line 11: load_balancers[0].listeners[0].default_pool: \"wob\" is no pool of this load balancer: use one of api, web",
        ),
        (
            "pool = \"api\" }",
            "pool = \"apo\" }",
            "line 16: load_balancers[0].listeners[0].l7_policies[0].action.pool: \"apo\" is no pool",
        ),
        (
            "\"a.pem\", sni",
            "\"c.pem\", sni",
            "line 13: load_balancers[0].listeners[0].tls.default_certificate: c.pem: no such file",
        ),
        (
            "weight = 3",
            "weight = 300",
            "line 25: load_balancers[0].pools[0].members[1].weight: weight 300 is out of range: use 0 to 256",
        ),
        (
            "weight = 3",
            "wait = 3",
            "line 25: load_balancers[0].pools[0].members[1].wait: unknown field `wait`",
        ),
        (
            "10.0.0.2",
            "10.0.0.1",
            "line 25: load_balancers[0].pools[0].members[1].name: \"10.0.0.1:80\" stands twice",
        ),
        (
            "workers = 2",
            "workers = 0",
            "line 2: workers: use 1 to 64, or leave it out",
        ),
        (
            "workers = 2",
            "metrics = \"0.0.0.0:9105\"",
            "line 2: metrics: 0.0.0.0:9105: use a loopback address and a port, such as 127.0.0.1:9105",
        ),
        (
            "workers = 2",
            "colour = 2",
            "line 2: colour: unknown field `colour`",
        ),
        ("workers = 2", "workers = = 2", "line 2: syntax: "),
        (
            "vrid = 7",
            "vrid = 0",
            "line 34: vrrp[0].vrid: virtual router id 0",
        ),
        (
            "\"192.0.2.10/24\"",
            "\"2001:db8::1/64\"",
            "line 40: vrrp[0].addresses: all must be of the family of source",
        ),
        (
            "advert_interval = 100",
            "advert_interval = 1.5",
            "line 37: vrrp[0].advert_interval: no field is a float",
        ),
        (
            "name = \"web\"",
            "name = \"web\"\nid = \"x\"",
            "line 21: load_balancers[0].pools[0].id: ids are made of names: leave it out",
        ),
        (
            "protocol = \"TERMINATED_HTTPS\"",
            "protocol = \"HTTP\"",
            "line 13: load_balancers[0].listeners[0].tls: only for TERMINATED_HTTPS",
        ),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let error = parse(&GOOD.replacen(from, to, 1)).unwrap_err();
        assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
    }
}

/// Two members by address, one by name with three places.
fn by_name() -> String {
    GOOD.replace(
        "{ address = \"10.0.0.1\", port = 80 }",
        "{ address = \"10.0.0.1\", port = 80 }, { name = \"app\", host = \"App.example\", addresses = 3, port = 81 }",
    )
}

fn found(addresses: &[&str], problem: Option<&str>) -> AllFound {
    let found = Found {
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        problem: problem.map(str::to_owned),
    };
    AllFound::from_iter([("app.example".parse().unwrap(), found)])
}

#[test]
fn a_name_has_places_for_addresses() {
    let appliance = parse(&by_name()).unwrap();
    assert_eq!(appliance.hosts.names().len(), 1);
    let mut book = Book::default();
    let members = |book: &Book| {
        let snapshot = appliance.snapshot(revision(), book);
        let json = serde_json::to_vec(&snapshot).unwrap();
        assert_eq!(Snapshot::parse(&json), Ok(snapshot.clone()));
        let members = &snapshot.load_balancers[0].pools[0].members;
        let line = |m: &Member| {
            let down = m
                .down
                .as_ref()
                .map_or_else(String::new, |why| format!(" {why}"));
            format!("{} {}{down}", m.name, m.address)
        };
        (
            members.iter().map(line).collect::<Vec<_>>(),
            members.iter().map(|m| m.id).collect::<Vec<_>>(),
        )
    };
    let (lines, first) = members(&book);
    let [one, two] = ["10.0.0.1:80 10.0.0.1", "10.0.0.2:80 10.0.0.2"];
    assert_eq!(
        lines,
        [one, "app 0.0.0.0 app.example: not resolved yet", two]
    );
    assert!(book.follow(&appliance.hosts, &found(&[], Some("IPv4: no answer"))));
    assert_eq!(
        members(&book).0[1],
        "app 0.0.0.0 app.example: IPv4: no answer"
    );
    assert!(book.follow(&appliance.hosts, &found(&["192.0.2.1", "192.0.2.2"], None)));
    let (lines, two_places) = members(&book);
    assert_eq!(lines, [one, "app 192.0.2.1", "app-2 192.0.2.2", two]);
    assert_eq!(two_places[1], first[1], "the first place is the member");
    // A name that lost its first address: the others stay where they are.
    assert!(book.follow(
        &appliance.hosts,
        &found(&["192.0.2.2"], Some("IPv6: no answer"))
    ));
    let (lines, ids) = members(&book);
    assert_eq!(
        (lines[1].as_str(), ids[1]),
        ("app-2 192.0.2.2", two_places[2])
    );
    assert!(
        !book.follow(&appliance.hosts, &found(&["192.0.2.2"], None)),
        "no member changed"
    );
    let many = ["192.0.2.7", "192.0.2.2", "192.0.2.8", "192.0.2.9"];
    assert!(book.follow(&appliance.hosts, &found(&many, None)));
    let lines = members(&book).0;
    assert_eq!(
        lines[1..4],
        ["app 192.0.2.7", "app-2 192.0.2.2", "app-3 192.0.2.8"]
    );
}

#[test]
fn names_of_members_are_refused_by_place() {
    let good = by_name();
    for (from, to, expected) in [
        (
            "App.example",
            "192.0.2.1",
            "members[1].host: \"192.0.2.1\": this is an address: use the key address",
        ),
        (
            "App.example",
            "a b",
            "members[1].host: \"a b\": use the whole name of a host",
        ),
        (
            "addresses = 3",
            "addresses = 0",
            "members[1].addresses: 0 is out of range: use 1 to 32",
        ),
        (
            "addresses = 3",
            "addresses = 33",
            "members[1].addresses: 33 is out of range: use 1 to 32",
        ),
        (
            "addresses = 3",
            "addresses = \"3\"",
            "members[1].addresses: \"3\" is out of range",
        ),
        (
            "host = \"App.example\"",
            "host = 7",
            "members[1].host: 7: use a text",
        ),
        (
            "addresses = 3",
            "address = \"192.0.2.1\"",
            "members[1].address: leave it out",
        ),
        (
            "host = \"App.example\"",
            "address = \"192.0.2.1\"",
            "members[1].addresses: needs host",
        ),
        ("{ address = \"10.0.0.2\"", "{ host = \"app.example.\"", ""),
        (
            "{ address = \"10.0.0.2\", port = 80",
            "{ host = \"app.example.\", port = 81",
            "members[2].host: app.example with this port stands twice: use addresses = 2",
        ),
        (
            "{ address = \"10.0.0.2\"",
            "{ name = \"app-3\", address = \"10.0.0.2\"",
            "members[2].name: \"app-3\" stands twice",
        ),
        (
            "workers = 2",
            "workers = 2\nresolver = { servers = [] }",
            "line 3: resolver.servers: 0: use 1 to 3, or leave it out",
        ),
        (
            "workers = 2",
            "workers = 2\nresolver = { servers = [\"dns\"] }",
            "line 3: resolver.servers[0]: \"dns\": use an address",
        ),
        (
            "workers = 2",
            "workers = 2\nresolver = { families = [\"ipv4\", \"ipv4\"] }",
            "line 3: resolver.families: use one or both",
        ),
        (
            "workers = 2",
            "workers = 2\nresolver = { attempts = 0 }",
            "line 3: resolver.attempts: 0 is out of range: use 1 to 10",
        ),
        (
            "workers = 2",
            "workers = 2\nresolver = { min_ttl = 99 }",
            "line 3: resolver.min_ttl: 99 ms is out of range: use 100 to 86400000",
        ),
        (
            "workers = 2",
            "workers = 2\nresolver = { max_ttl = 4999 }",
            "line 3: resolver.max_ttl: must not be below min_ttl",
        ),
        (
            "workers = 2",
            "workers = 2\nresolver = { ttl = 1 }",
            "line 3: resolver.ttl: unknown field",
        ),
        (
            "workers = 2",
            "workers = 2\ndrain_timeout = 86400001",
            "line 3: drain_timeout: 86400001 ms is out of range: use 0 to 86400000",
        ),
        ("workers = 2", "workers = 2\ndrain_timeout = 86400000", ""),
    ] {
        assert!(good.contains(from), "{from}");
        let result = parse(&good.replacen(from, to, 1));
        match expected {
            "" => assert!(result.is_ok(), "{result:?}"),
            _ => {
                let error = result.unwrap_err();
                assert!(error.contains(expected), "{error}\nis not\n{expected}");
            }
        }
    }
}

#[test]
fn a_reason_takes_a_member_down() {
    let line = "{ address = \"10.0.0.1\", port = 80";
    let with = |down: &str| parse(&GOOD.replace(line, &format!("{line}, down = \"{down}\"")));
    assert!(with("moves house").is_ok());
    let error = with("").unwrap_err();
    assert!(
        error.contains("members[0].down: 0 bytes: give a reason of 1 to 500 bytes"),
        "{error}"
    );
    assert!(with(&"x".repeat(501)).is_err() && with(&"x".repeat(500)).is_ok());
}

#[test]
fn what_is_deep_or_large_is_refused() {
    let deep = format!("a = {}1{}", "[".repeat(60), "]".repeat(60));
    assert!(parse(&deep).unwrap_err().contains("lies too deep"));
    let large = "#".repeat(MAX_FILE + 1);
    assert!(parse(&large).unwrap_err().contains("at most"));
    assert!(parse("").is_ok(), "nothing to serve");
}

/// Every key that a file may have stands in the documentation.
#[test]
fn the_documentation_has_every_key() {
    use crate::state::*;
    fn keys<T: DeserializeOwned>() -> Vec<String> {
        let unknown = json!({ "what nobody knows": 1 });
        let Err(error) = serde_json::from_value::<T>(unknown) else {
            panic!("takes anything");
        };
        let text = error.to_string();
        let (_, expected) = text.split_once("expected ").unwrap();
        let keys: Vec<_> = expected.split('`').skip(1).step_by(2).collect();
        assert!(!keys.is_empty(), "{text}");
        keys.into_iter().map(str::to_owned).collect()
    }
    let document = include_str!("../../../../docs/appliance.md");
    let known = [
        keys::<Settings>(),
        keys::<Resolver>(),
        vec!["host".to_owned(), "addresses".to_owned()],
        keys::<LoadBalancer>(),
        keys::<Listener>(),
        keys::<ListenerOptions>(),
        keys::<AccessLog>(),
        keys::<Timeouts>(),
        keys::<ListenerTls>(),
        keys::<Hsts>(),
        keys::<L7Policy>(),
        keys::<L7Rule>(),
        keys::<Pool>(),
        keys::<PoolOptions>(),
        keys::<PoolTls>(),
        keys::<Member>(),
        keys::<HealthMonitor>(),
        keys::<HttpCheck>(),
        keys::<VirtualRouter>(),
        keys::<TrackInterface>(),
        keys::<Announce>(),
        keys::<Liveness>(),
        keys::<SecondPath>(),
        keys::<TrackCheck>(),
        keys::<Route>(),
        keys::<Rule>(),
    ];
    for key in known.into_iter().flatten() {
        assert!(document.contains(&format!("`{key}`")), "{key} is not there");
    }
}
