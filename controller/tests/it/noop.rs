//! `krater controller --drivers noop`: the whole API without a data plane.

use crate::process::Controller;
use krater_e2e::wait;
use serde_json::{Value, json};
use std::process::Command;
use uuid::Uuid;

fn id() -> String {
    Uuid::new_v4().to_string()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn balancer(controller: &Controller, body: Value) -> Value {
    let made = controller
        .api
        .create("loadbalancers", &json!({"loadbalancer": body}));
    let path = format!("loadbalancers/{}", text(&made["id"]));
    controller.active(&path, "loadbalancer")
}

#[test]
fn vips_are_on_whatever_network_subnet_or_port_is_named() {
    let controller = Controller::start(&[]);
    let (network, subnet, port) = (id(), id(), id());
    let v6 = "2001:db8:33:33:33:33:33:33";
    for (body, address) in [
        (json!({"vip_subnet_id": subnet}), "198.18.33.33"),
        // Again: nobody has an address to himself.
        (json!({"vip_subnet_id": subnet}), "198.18.33.33"),
        (json!({"vip_network_id": network}), "198.18.33.33"),
        (json!({"vip_network_id": network, "vip_address": v6}), v6),
        (json!({"vip_port_id": port}), "198.18.33.33"),
        (json!({"vip_port_id": port, "vip_address": v6}), v6),
        (json!({"vip_subnet_id": id(), "vip_address": v6}), v6),
        (
            json!({"vip_subnet_id": id(), "vip_network_id": id(), "vip_address": "10.1.2.3"}),
            "10.1.2.3",
        ),
    ] {
        let shown = balancer(&controller, body.clone());
        assert_eq!(shown["vip_address"], address, "{body}");
        for (key, wish) in body.as_object().unwrap() {
            assert_eq!(shown[key], *wish, "{shown}");
        }
        for key in ["vip_port_id", "vip_subnet_id", "vip_network_id"] {
            assert!(
                shown[key].as_str().unwrap().parse::<Uuid>().is_ok(),
                "{shown}"
            );
        }
    }
    // The subnets of a new database, by name as the client looks them up.
    for (name, address) in [("noop-subnet", "198.18.33.33"), ("noop-subnet6", v6)] {
        let subnet = controller.api.subnet(name);
        let shown = balancer(&controller, json!({"vip_subnet_id": subnet}));
        assert_eq!(shown["vip_address"], address);
    }
    let post = |body: Value| {
        let body = json!({"loadbalancer": body});
        let answer = controller
            .api
            .send("POST", "/v2/lbaas/loadbalancers", Some(&body))
            .unwrap();
        (answer.status, text(&answer.body["faultstring"]))
    };
    // What is refused with real networks is refused here.
    for (body, said) in [
        (json!({}), "VIP must contain one of"),
        (json!({"vip_subnet_id": "x"}), "UUID"),
        (
            json!({"vip_subnet_id": subnet, "vip_address": "x"}),
            "IPv4 or IPv6",
        ),
        (
            json!({"vip_subnet_id": subnet, "vip_address": v6}),
            "is not valid for subnet",
        ),
        (json!({"vip_subnet_id": subnet, "provider": "x"}), "x"),
    ] {
        let (status, fault) = post(body.clone());
        assert_eq!(status, 400, "{body}: {fault}");
        assert!(fault.contains(said), "{body}: {fault}");
    }
}

#[test]
fn further_vips_are_on_whatever_subnet_is_named() {
    let controller = Controller::start(&[]);
    let (four, six) = (id(), id());
    let v6 = "2001:db8:33:33:33:33:33:34";
    let shown = balancer(
        &controller,
        json!({"vip_subnet_id": id(), "additional_vips": [
            {"subnet_id": four}, {"subnet_id": six, "ip_address": v6}]}),
    );
    let port = &shown["vip_port_id"];
    let expected = json!([
        {"subnet_id": four, "ip_address": "198.18.33.33", "port_id": port},
        {"subnet_id": six, "ip_address": v6, "port_id": port},
    ]);
    assert_eq!(shown["additional_vips"], expected);
}

#[test]
fn everything_becomes_active_is_changed_and_goes() {
    let controller = Controller::start(&[]);
    let api = &controller.api;
    let lb = text(&balancer(&controller, json!({"vip_subnet_id": id()}))["id"]);
    let make = |path: &str, root: &str, body: Value| {
        let made = api.create(path, &json!({ root: body }));
        let made = format!("{path}/{}", text(&made["id"]));
        controller.active(&made, root);
        controller.active(&format!("loadbalancers/{lb}"), "loadbalancer");
        made
    };
    let listener = make(
        "listeners",
        "listener",
        json!({"loadbalancer_id": lb, "protocol": "HTTP", "protocol_port": 80}),
    );
    let pool = make(
        "pools",
        "pool",
        json!({"loadbalancer_id": lb, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}),
    );
    let of = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let mut all = vec![(listener.clone(), "listener")];
    // More subnets than an amphora has interfaces, of both families.
    for host in 1..=20 {
        let address = if host % 2 == 0 {
            format!("10.0.0.{host}")
        } else {
            format!("fd00::{host}")
        };
        let body = json!({"address": address, "protocol_port": 80, "subnet_id": id()});
        let member = make(&format!("{pool}/members"), "member", body);
        assert_eq!(
            api.get(&format!("/v2/lbaas/{member}"))["member"]["address"],
            address
        );
    }
    let batch =
        json!({"members": [{"address": "10.0.0.99", "protocol_port": 81, "subnet_id": id()}]});
    api.must("PUT", &format!("/v2/lbaas/{pool}/members"), Some(&batch));
    controller.active(&format!("loadbalancers/{lb}"), "loadbalancer");
    let members = api.get(&format!("/v2/lbaas/{pool}/members"));
    let [member] = members["members"].as_array().unwrap().as_slice() else {
        panic!("{members}");
    };
    all.push((format!("{pool}/members/{}", text(&member["id"])), "member"));
    let body =
        json!({"pool_id": of(&pool), "type": "HTTP", "delay": 1, "timeout": 1, "max_retries": 1});
    all.push((
        make("healthmonitors", "healthmonitor", body),
        "healthmonitor",
    ));
    let body = json!({"listener_id": of(&listener), "action": "REJECT"});
    let policy = make("l7policies", "l7policy", body);
    let body = json!({"type": "PATH", "compare_type": "STARTS_WITH", "value": "/x"});
    all.push((make(&format!("{policy}/rules"), "rule", body), "rule"));
    all.push((policy, "l7policy"));
    all.push((pool, "pool"));
    for (path, root) in all.iter().rev() {
        let change = json!({ *root: {"admin_state_up": false} });
        api.must("PUT", &format!("/v2/lbaas/{path}"), Some(&change));
        assert_eq!(controller.active(path, root)["admin_state_up"], false);
        controller.active(&format!("loadbalancers/{lb}"), "loadbalancer");
    }
    // Amphorae: shown, replaced one by one and all.
    let amphorae = || {
        let list = api.get("/v2/octavia/amphorae?status=ALLOCATED");
        let list = list["amphorae"].as_array().unwrap().clone();
        let mut roles: Vec<String> = list.iter().map(|amphora| text(&amphora["role"])).collect();
        roles.sort();
        assert_eq!(roles, ["BACKUP", "MASTER"]);
        list.iter()
            .map(|amphora| text(&amphora["id"]))
            .collect::<Vec<_>>()
    };
    let before = amphorae();
    api.must(
        "PUT",
        &format!("/v2/octavia/amphorae/{}/failover", before[0]),
        None,
    );
    controller.active(&format!("loadbalancers/{lb}"), "loadbalancer");
    let one = amphorae();
    assert!(
        !one.contains(&before[0]) && one.contains(&before[1]),
        "{before:?} {one:?}"
    );
    api.must(
        "PUT",
        &format!("/v2/lbaas/loadbalancers/{lb}/failover"),
        None,
    );
    controller.active(&format!("loadbalancers/{lb}"), "loadbalancer");
    let both = amphorae();
    assert!(one.iter().all(|id| !both.contains(id)), "{one:?} {both:?}");
    // The listener last: what is below it goes with it.
    all.rotate_left(1);
    for (path, _) in &all {
        api.must("DELETE", &format!("/v2/lbaas/{path}"), None);
        controller.active(&format!("loadbalancers/{lb}"), "loadbalancer");
        let gone = api.send("GET", &format!("/v2/lbaas/{path}"), None).unwrap();
        assert_eq!(gone.status, 404, "{path}");
    }
    api.must("DELETE", &format!("/v2/lbaas/loadbalancers/{lb}"), None);
    wait::for_condition("the load balancer is gone", || {
        let shown = api.send("GET", &format!("/v2/lbaas/loadbalancers/{lb}"), None);
        shown.is_ok_and(|answer| answer.status == 404)
    });
}

#[test]
fn a_whole_tree_is_made_in_one_call_and_goes_in_one() {
    let controller = Controller::start(&[]);
    let member = json!({"address": "10.0.0.1", "protocol_port": 80, "subnet_id": id()});
    let pool = json!({"name": "p", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN", "members": [member]});
    let listener = json!({"protocol": "HTTP", "protocol_port": 80, "default_pool": pool});
    let body = json!({"vip_network_id": id(), "listeners": [listener]});
    let lb = text(&balancer(&controller, body)["id"]);
    let api = &controller.api;
    let tree = api.get(&format!("/v2/lbaas/loadbalancers/{lb}/status"));
    let pool = &tree["statuses"]["loadbalancer"]["listeners"][0]["pools"][0];
    assert_eq!(
        pool["members"][0]["provisioning_status"], "ACTIVE",
        "{tree}"
    );
    api.must(
        "DELETE",
        &format!("/v2/lbaas/loadbalancers/{lb}?cascade=true"),
        None,
    );
    wait::for_condition("everything is gone", || {
        let listeners = api.get("/v2/lbaas/listeners");
        let amphorae = api.get("/v2/octavia/amphorae?status=ALLOCATED");
        listeners["listeners"] == json!([]) && amphorae["amphorae"] == json!([])
    });
}

/// Amphorae of one are none of the other.
#[test]
fn a_database_keeps_the_drivers_that_it_was_made_with() {
    let mut controller = Controller::start(&[]);
    let state = controller.state_dir();
    controller.kill();
    let krater = |arguments: &[&str], state: &std::path::Path| {
        let done = Command::new(env!("CARGO_BIN_EXE_krater"))
            .args(arguments)
            .args(["--listen", "127.0.0.1:0", "--state-dir"])
            .arg(state)
            .output()
            .unwrap();
        assert!(!done.status.success());
        String::from_utf8(done.stderr).unwrap()
    };
    let said = krater(&["up", "--amphora-bin", "/bin/true"], &state);
    assert!(said.contains("made with drivers noop"), "{said}");
    // Still after the refusal.
    let said = krater(&["up", "--amphora-bin", "/bin/true"], &state);
    assert!(said.contains("made with drivers noop"), "{said}");
    controller.up();
    controller.kill();

    // As a release left it that knew no other drivers.
    let other = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        use krater_controller::{config::Config, db::Db, inventory};
        let db = Db::open_sqlite(&other.path().join("krater.db"))
            .await
            .unwrap();
        inventory::make(&db, &Config::default()).await.unwrap();
    });
    let said = krater(&["controller", "--drivers", "noop"], other.path());
    assert!(said.contains("made with drivers netns"), "{said}");
}
