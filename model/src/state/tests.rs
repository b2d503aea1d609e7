//! Documents that must be read, and one refusal for each rule of `check.rs`.

use super::*;
use serde_json::{Value, json};

fn id(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// A document that uses every part once.
fn document() -> Value {
    let pem = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
    let certificate = CertificateId::of(pem.as_bytes()).to_string();
    json!({
        "schema": 1, "epoch": 1, "generation": 7, "amphora_id": id(1), "request_id": "req-1",
        "interfaces": [{
            "name": "eth1", "mac": "fa:16:3e:00:00:01", "role": "vip", "mtu": 1500,
            "addresses": ["203.0.113.11/24"],
            "routes": [{"to": "0.0.0.0/0", "via": "203.0.113.1"}],
        }],
        "vrrp": [{
            "vrid": 1, "interface": "eth1", "priority": 100, "advert_interval": 10,
            "source": "203.0.113.11", "peers": ["203.0.113.12"], "addresses": ["203.0.113.10/32"],
        }],
        "load_balancers": [{
            "id": id(2), "vips": ["203.0.113.10"],
            "pools": [{
                "id": id(3), "protocol": "HTTP", "algorithm": "ROUND_ROBIN",
                "persistence": {"type": "SOURCE_IP", "timeout": 60_000},
                "health_monitor": {
                    "id": id(4), "delay": 1_000, "timeout": 500, "rise": 2, "fall": 3,
                    "check": {"type": "HTTP", "method": "GET", "path": "/", "expected": [[200, 204]]},
                },
                "members": [{"id": id(5), "address": "192.0.2.10", "port": 80, "weight": 1}],
            }],
            "listeners": [
                {
                    "id": id(6), "protocol": "HTTP", "port": 80, "default_pool": id(3),
                    "insert_headers": ["X-Forwarded-For"], "allowed_cidrs": ["203.0.113.0/24"],
                    "l7_policies": [{
                        "id": id(7), "position": 1,
                        "action": {"type": "REDIRECT_TO_URL", "url": "http://x/", "code": 302},
                        "rules": [{
                            "id": id(8), "subject": {"type": "HEADER", "key": "X-A"},
                            "compare": "EQUAL_TO", "value": "b",
                        }],
                    }],
                },
                {
                    "id": id(9), "protocol": "TERMINATED_HTTPS", "port": 443,
                    "tls": {"default_certificate": certificate},
                },
            ],
        }],
        "certificates": [{"id": certificate, "pem": pem}],
        "heartbeat": {"targets": ["100.96.0.1:5555"], "interval": 1_000, "key": "k"},
    })
}

fn parse(document: &Value) -> Result<DesiredState, FieldError> {
    DesiredState::parse(document.to_string().as_bytes())
}

#[test]
fn a_full_document_round_trips() {
    let state = parse(&document()).unwrap();
    let text = serde_json::to_vec(&state).unwrap();
    assert_eq!(DesiredState::parse(&text).unwrap(), state);
    assert_eq!(state.revision().to_string(), "1.7");
}

#[test]
fn every_rule_refuses_and_names_the_field() {
    let certificate = document()["certificates"][0]["id"].clone();
    // Pointer to change, value to put there, field that the refusal must name.
    let cases = [
        ("/schema", json!(9), "schema"),
        ("/surprise", json!(1), "surprise"),
        (
            "/interfaces/0/name",
            json!("much-too-long-name"),
            "interfaces[0].name",
        ),
        ("/interfaces/0/name", json!("a b"), "interfaces[0].name"),
        ("/interfaces/0/mtu", json!(100), "interfaces[0].mtu"),
        ("/interfaces/0/mac", json!("zz"), "interfaces[0].mac"),
        (
            "/interfaces/0/routes/0/via",
            json!("::1"),
            "interfaces[0].routes[0].via",
        ),
        ("/interfaces/0/role", json!("member"), "vrrp[0].interface"),
        ("/vrrp/0/vrid", json!(0), "vrrp[0].vrid"),
        ("/vrrp/0/priority", json!(256), "vrrp[0].priority"),
        ("/vrrp/0/version", json!(1), "vrrp[0].version"),
        ("/vrrp/0/version", json!(2), "vrrp[0].advert_interval"),
        ("/vrrp/0/password", json!("secret"), "vrrp[0].password"),
        ("/vrrp/0/multicast", json!(true), "vrrp[0].peers"),
        ("/vrrp/0/min_hop_limit", json!(0), "vrrp[0].min_hop_limit"),
        (
            "/vrrp/0/track_interfaces",
            json!([{"name": "eth1"}]),
            "vrrp[0].track_interfaces[0]",
        ),
        (
            "/vrrp/0/track_interfaces",
            json!([{"name": "eth2"}, {"name": "eth2"}]),
            "vrrp[0].track_interfaces[1]",
        ),
        (
            "/vrrp/0/track_interfaces",
            json!([{"name": "eth2", "weight": 254}]),
            "vrrp[0].track_interfaces[0]",
        ),
        (
            "/vrrp/0/track_checks",
            json!([{"name": "a b"}]),
            "vrrp[0].track_checks[0]",
        ),
        (
            "/vrrp/0/track_checks",
            json!([{"name": "a"}, {"name": "a"}]),
            "vrrp[0].track_checks[1]",
        ),
        (
            "/vrrp/0/track_checks",
            json!([{"name": "a", "fresh": 99}]),
            "vrrp[0].track_checks[0]",
        ),
        (
            "/vrrp/0/track_checks",
            json!([{"name": "a", "rise": 0}]),
            "vrrp[0].track_checks[0].rise",
        ),
        ("/vrrp/0/sync_group", json!(""), "vrrp[0].sync_group"),
        (
            "/vrrp/0/liveness",
            json!({"key": "short"}),
            "vrrp[0].liveness.key",
        ),
        (
            "/vrrp/0/liveness",
            json!({"key": "0123456789abcdef", "interval": 51}),
            "vrrp[0].liveness.interval",
        ),
        ("/vrrp/0/preempt_delay", json!(5), "vrrp[0].preempt_delay"),
        (
            "/vrrp/0/advert_interval",
            json!(4_096),
            "vrrp[0].advert_interval",
        ),
        ("/vrrp/0/addresses", json!([]), "vrrp[0].addresses"),
        (
            "/vrrp/0/addresses",
            json!(["2001:db8::1/128"]),
            "vrrp[0].addresses",
        ),
        ("/vrrp/0/peers", json!(["::1"]), "vrrp[0].peers"),
        ("/vrrp/0/peers", json!(["203.0.113.11"]), "vrrp[0].peers"),
        (
            "/load_balancers/0/listeners/0/port",
            json!(0),
            "load_balancers[0].listeners[0].port",
        ),
        (
            "/load_balancers/0/listeners/0/port",
            json!(443),
            "load_balancers[0].listeners",
        ),
        (
            "/load_balancers/0/listeners/0/default_pool",
            json!(id(77)),
            "load_balancers[0].listeners[0].default_pool",
        ),
        (
            "/load_balancers/0/listeners/0/connection_limit",
            json!(0),
            "load_balancers[0].listeners[0].connection_limit",
        ),
        (
            "/load_balancers/0/listeners/0/insert_headers",
            json!(["X-SSL-Client-CN"]),
            "load_balancers[0].listeners[0].insert_headers",
        ),
        (
            "/load_balancers/0/listeners/0/protocol",
            json!("TCP"),
            "load_balancers[0].listeners[0].",
        ),
        (
            "/load_balancers/0/listeners/0/l7_policies/0/action/code",
            json!(200),
            "load_balancers[0].listeners[0].l7_policies[0].action.code",
        ),
        (
            "/load_balancers/0/listeners/0/l7_policies/0/action/url",
            json!("http://x/\r\nSet-Cookie: a"),
            "load_balancers[0].listeners[0].l7_policies[0].action",
        ),
        (
            "/load_balancers/0/listeners/1/tls",
            json!(null),
            "load_balancers[0].listeners[1].tls",
        ),
        (
            "/load_balancers/0/listeners/1/tls/client_authentication",
            json!("MANDATORY"),
            "load_balancers[0].listeners[1].tls.client_ca",
        ),
        (
            "/load_balancers/0/listeners/1/tls/client_ca",
            certificate.clone(),
            "load_balancers[0].listeners[1].tls.client_ca",
        ),
        (
            "/load_balancers/0/listeners/1/tls/client_crl",
            certificate,
            "load_balancers[0].listeners[1].tls.client_crl",
        ),
        (
            "/load_balancers/0/pools/0/protocol",
            json!("HTTPS"),
            "load_balancers[0].listeners[0].",
        ),
        (
            "/load_balancers/0/listeners/0/options",
            json!({"connections_per_client": 0}),
            "load_balancers[0].listeners[0].options.connections_per_client",
        ),
        (
            "/load_balancers/0/pools/0/options",
            json!({"failures_in_a_row": 0}),
            "load_balancers[0].pools[0].options.failures_in_a_row",
        ),
        (
            "/load_balancers/0/pools/0",
            json!({"id": id(3), "protocol": "HTTP", "algorithm": "ROUND_ROBIN",
                "options": {"failures_in_a_row": 3}}),
            "load_balancers[0].pools[0].options.failures_in_a_row",
        ),
        (
            "/load_balancers/0/pools/0/options",
            json!({"slow_start": 0}),
            "load_balancers[0].pools[0].options.slow_start",
        ),
        (
            "/load_balancers/0/pools/0",
            json!({"id": id(3), "protocol": "HTTP", "algorithm": "ROUND_ROBIN",
                "options": {"slow_start": 60_000}}),
            "load_balancers[0].pools[0].options.slow_start",
        ),
        (
            "/load_balancers/0/pools/0",
            json!({"id": id(3), "protocol": "HTTP", "algorithm": "SOURCE_IP",
                "options": {"slow_start": 60_000},
                "health_monitor": {"id": id(4), "delay": 1_000, "timeout": 500, "rise": 2,
                    "fall": 3, "check": {"type": "TCP"}}}),
            "load_balancers[0].pools[0].options.slow_start",
        ),
        (
            "/load_balancers/0/pools/0/persistence",
            json!({"type": "APP_COOKIE", "cookie_name": "a=b"}),
            "load_balancers[0].pools[0].persistence.cookie_name",
        ),
        (
            "/load_balancers/0/pools/0",
            json!({"id": id(3), "protocol": "TCP", "algorithm": "ROUND_ROBIN",
                "persistence": {"type": "HTTP_COOKIE"}}),
            "load_balancers[0].pools[0].persistence",
        ),
        (
            "/load_balancers/0/pools/0/members/0/weight",
            json!(257),
            "load_balancers[0].pools[0].members[0].weight",
        ),
        (
            "/load_balancers/0/pools/0/health_monitor/delay",
            json!(49),
            "load_balancers[0].pools[0].health_monitor.delay",
        ),
        (
            "/load_balancers/0/pools/0/health_monitor/timeout",
            json!(0),
            "load_balancers[0].pools[0].health_monitor.timeout",
        ),
        (
            "/load_balancers/0/pools/0/health_monitor/check/path",
            json!("/a b"),
            "load_balancers[0].pools[0].health_monitor.check.path",
        ),
        (
            "/load_balancers/0/pools/0/health_monitor/check/method",
            json!("GET /\r\n"),
            "load_balancers[0].pools[0].health_monitor.check.method",
        ),
        (
            "/load_balancers/0/pools/0/health_monitor/check/expected",
            json!([]),
            "load_balancers[0].pools[0].health_monitor.check.expected",
        ),
        ("/certificates/0/pem", json!("other"), "certificates[0].id"),
        (
            "/certificates",
            json!([]),
            "load_balancers[0].listeners[1].tls.default_certificate",
        ),
        ("/heartbeat/interval", json!(1), "heartbeat.interval"),
        (
            "/logging",
            json!({"level": "loud", "json": false}),
            "logging.level",
        ),
    ];
    for (pointer, value, field) in cases {
        let mut changed = document();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match changed.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[key.parse::<usize>().unwrap()] = value.clone(),
            object => object[key] = value.clone(),
        }
        let refusal = parse(&changed).expect_err(&format!("{pointer} = {value}"));
        assert!(
            refusal.field.starts_with(field),
            "{pointer} = {value}: got {refusal}"
        );
        assert!(!refusal.why.is_empty());
    }
}

#[test]
fn the_shortest_delay_is_read_and_a_shorter_one_refused_with_the_range() {
    let mut changed = document();
    let monitor = "/load_balancers/0/pools/0/health_monitor";
    changed.pointer_mut(monitor).unwrap()["delay"] = json!(50);
    assert!(parse(&changed).is_ok());
    changed.pointer_mut(monitor).unwrap()["delay"] = json!(49);
    let why = parse(&changed).unwrap_err().why;
    assert_eq!(why, "49 ms is out of range: use 50 to 2073600000");
}

#[test]
fn duplicates_are_refused() {
    for list in [
        "/interfaces",
        "/vrrp",
        "/load_balancers",
        "/load_balancers/0/pools",
        "/load_balancers/0/listeners",
        "/load_balancers/0/pools/0/members",
        "/load_balancers/0/listeners/0/l7_policies",
    ] {
        let mut changed = document();
        let items = changed.pointer_mut(list).unwrap().as_array_mut().unwrap();
        items.push(items[0].clone());
        let refusal = parse(&changed).expect_err(list);
        assert!(refusal.why.contains("twice"), "{list}: {refusal}");
    }
}

#[test]
fn half_a_document_is_refused() {
    let text = document().to_string();
    for end in [0, 1, text.len() / 2, text.len() - 1] {
        assert!(DesiredState::parse(&text.as_bytes()[..end]).is_err());
    }
    assert!(DesiredState::parse(format!("{text} {text}").as_bytes()).is_err());
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let mut with_key = document();
    with_key["heartbeat"]["key"] = json!("hunter2");
    assert!(!format!("{:?}", parse(&with_key).unwrap()).contains("hunter2"));
}
