//! Single-call create, and where VIPs come from.

use crate::common::Api;
use krater_controller::config::Topology;
use krater_controller::db::query::network::{self, NewPort};
use serde_json::{Value, json};
use uuid::Uuid;

const LBS: &str = "/v2/lbaas/loadbalancers";

fn graph(api: &Api) -> Value {
    json!({"loadbalancer": {
        "name": "whole", "vip_subnet_id": api.subnet, "project_id": "p1",
        "listeners": [{
            "name": "l", "protocol": "HTTP", "protocol_port": 80,
            "default_pool": {"name": "web"},
            "l7policies": [{
                "action": "REDIRECT_TO_POOL", "name": "pol",
                "redirect_pool": {"name": "api", "protocol": "HTTP", "lb_algorithm": "SOURCE_IP",
                    "members": [{"address": "10.0.0.9", "protocol_port": 81}]},
                "rules": [{"type": "PATH", "compare_type": "STARTS_WITH", "value": "/api"}],
            }, {"action": "REJECT"}],
        }],
        "pools": [{
            "name": "web", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
            "healthmonitor": {"type": "HTTP", "delay": 1, "timeout": 1, "max_retries": 2},
            "members": [
                {"address": "10.0.0.1", "protocol_port": 80}, {"address": "10.0.0.2", "protocol_port": 80},
            ],
        }],
    }})
}

#[tokio::test]
async fn a_whole_tree_in_one_call() {
    let api = Api::new().await;
    let shown = api.post(LBS, graph(&api)).await.ok(201)["loadbalancer"].clone();
    assert_eq!(shown["project_id"], "p1");
    let listener = &shown["listeners"][0];
    assert_eq!(listener["provisioning_status"], "PENDING_CREATE");
    assert_eq!(listener["l7policies"][0]["rules"][0]["value"], "/api");
    assert_eq!(listener["l7policies"][1]["action"], "REJECT");
    let pools = shown["pools"].as_array().unwrap();
    assert_eq!(pools.len(), 2);
    let web = pools.iter().find(|p| p["name"] == "web").unwrap();
    let second = pools.iter().find(|p| p["name"] == "api").unwrap();
    assert_eq!(listener["default_pool_id"], web["id"]);
    assert_eq!(listener["l7policies"][0]["redirect_pool_id"], second["id"]);
    assert_eq!(web["members"].as_array().unwrap().len(), 2);
    assert_eq!(web["members"][0]["operating_status"], "OFFLINE");
    assert_eq!(second["members"][0]["operating_status"], "NO_MONITOR");
    assert_eq!(web["healthmonitor"]["type"], "HTTP");
    let flows = api.pending().await;
    assert_eq!(
        (flows.len(), flows[0].kind.as_str()),
        (1, "CreateLoadBalancer")
    );
    let payload: Value = serde_json::from_str(&flows[0].payload).unwrap();
    assert_eq!(payload["items"].as_array().unwrap().len(), 10, "{payload}");
    api.settle().await;
    let id = shown["id"].as_str().unwrap();
    let status = api.get(&format!("{LBS}/{id}/statuses")).await.ok(200);
    let pools = &status["statuses"]["loadbalancer"]["listeners"][0]["pools"];
    assert_eq!(
        pools.as_array().unwrap().len(),
        1,
        "only the default pool is in the tree"
    );
    api.delete(&format!("{LBS}/{id}?cascade=True"))
        .await
        .ok(204);
    api.settle().await;
    assert_eq!(api.get("/v2/lbaas/pools").await.ok(200)["pools"], json!([]));
}

#[tokio::test]
async fn a_wrong_tree_changes_nothing() {
    let api = Api::new().await;
    let change = |edit: fn(&mut Value)| {
        let mut body = graph(&api);
        edit(&mut body["loadbalancer"]);
        body
    };
    for (body, text) in [
        (
            change(|lb| lb["pools"][0]["name"] = json!("")),
            "must be named",
        ),
        (
            change(|lb| lb["pools"][0]["name"] = json!("api")),
            "must be unique",
        ),
        (
            change(|lb| lb["pools"] = json!([])),
            "Pool 'web' was referenced but no full definition",
        ),
        (
            change(|lb| {
                lb["listeners"][0]["default_pool"] =
                    json!({"name": "q", "protocol": "TCP", "description": "", "tags": []})
            }),
            "Pool definition for 'q' missing required attribute: lb_algorithm",
        ),
        (
            change(|lb| lb["pools"][0]["protocol"] = json!("TCP")),
            "is invalid while the listener protocol",
        ),
        (
            change(|lb| {
                lb["pools"][0]["members"][0]["subnet_id"] =
                    json!("11111111-1111-4111-8111-111111111111");
            }),
            "Subnet 11111111-1111-4111-8111-111111111111 not found.",
        ),
        (
            change(|lb| lb["listeners"][0]["colour"] = json!(1)),
            "Unknown attribute for argument load_balancer.loadbalancer.listeners: colour",
        ),
        (
            change(|lb| lb["pools"][0]["members"][0]["x"] = json!(1)),
            "Unknown attribute for argument load_balancer.loadbalancer.pools.members: x",
        ),
    ] {
        let fault = api.post(LBS, body).await.fault(400);
        assert!(fault.contains(text), "{fault} / {text}");
    }
    api.put("/v2/lbaas/quotas/p1", json!({"quota": {"member": 2}}))
        .await
        .ok(202);
    api.post(LBS, graph(&api)).await.fault(403);
    assert!(api.pending().await.is_empty());
    assert_eq!(api.get(LBS).await.ok(200)["loadbalancers"], json!([]));
    let ports = api.get("/network/v2.0/ports").await.ok(200);
    assert_eq!(ports["ports"], json!([]), "no VIP port is left over");
}

#[tokio::test]
async fn vips() {
    let api = Api::with_topology(Topology::ActiveStandby).await;
    let make = |body: Value| {
        let api = &api;
        async move { api.post(LBS, json!({"loadbalancer": body})).await }
    };
    let shown = make(json!({"vip_network_id": api.network})).await.ok(201);
    assert_eq!(
        shown["loadbalancer"]["vip_subnet_id"],
        json!(api.subnet),
        "IPv4 is preferred"
    );
    let body = json!({"vip_network_id": api.network, "vip_address": "2001:db8:1::5"});
    let shown = make(body).await.ok(201);
    assert_eq!(shown["loadbalancer"]["vip_subnet_id"], json!(api.subnet6));
    assert_eq!(shown["loadbalancer"]["vip_address"], "2001:db8:1::5");
    let body = json!({"vip_subnet_id": api.subnet, "vip_address": "203.0.113.210"});
    let shown = make(body).await.ok(201);
    assert_eq!(
        shown["loadbalancer"]["vip_address"], "203.0.113.210",
        "reserved, but asked for"
    );

    let subnet = network::subnet(api.db.read(), &api.subnet)
        .await
        .unwrap()
        .unwrap();
    let new = NewPort {
        id: None,
        project_id: "p".into(),
        name: "mine".into(),
        network_id: api.network.clone(),
        device_owner: String::new(),
        device_id: String::new(),
        admin_state_up: true,
    };
    let (port, ip) = network::create_port(api.db.write(), new, &subnet, None)
        .await
        .unwrap();
    let shown = make(json!({"vip_port_id": port.id})).await.ok(201);
    assert_eq!(shown["loadbalancer"]["vip_address"], json!(ip.to_string()));
    let text = make(json!({"vip_port_id": port.id})).await.fault(400);
    assert!(text.contains("is already used by device lb-"), "{text}");

    let unknown = Uuid::new_v4().to_string();
    for (body, text) in [
        (json!({}), "Validation failure: VIP must contain one of: vip_port_id, vip_network_id, vip_subnet_id.".to_owned()),
        (json!({"vip_subnet_id": unknown}), format!("Subnet {unknown} not found.")),
        (json!({"vip_network_id": unknown}), format!("Network {unknown} not found.")),
        (json!({"vip_port_id": unknown}), format!("Port {unknown} not found.")),
        (json!({"vip_subnet_id": api.subnet, "vip_address": "10.0.0.1"}), format!("Validation failure: IP address 10.0.0.1 is not valid for subnet {}", api.subnet)),
        (json!({"vip_subnet_id": api.subnet, "provider": "f5"}), "Provider 'f5' is not enabled.".to_owned()),
    ] {
        assert_eq!(make(body).await.fault(400), text);
    }
}

/// Further VIPs are of the VIP's port, each in a subnet of its own on the VIP's network.
#[tokio::test]
async fn additional_vips_are_shown_kept_and_refused() {
    let api = Api::new().await;
    let path = "/v2/lbaas/loadbalancers";
    let body = json!({"loadbalancer": {"vip_subnet_id": api.subnet,
        "additional_vips": [{"subnet_id": api.subnet6, "ip_address": "2001:db8:1::99"}]}});
    let made = api.post(path, body).await.ok(201)["loadbalancer"].clone();
    api.settle().await;
    let shown = api
        .get(&format!("{path}/{}", made["id"].as_str().unwrap()))
        .await;
    let shown = shown.ok(200)["loadbalancer"].clone();
    let expected = json!([{"subnet_id": api.subnet6, "ip_address": "2001:db8:1::99",
        "port_id": made["vip_port_id"]}]);
    assert_eq!(shown["additional_vips"], expected);
    let ports = api.get("/network/v2.0/ports").await.ok(200);
    let fixed = ports["ports"][0]["fixed_ips"].as_array().unwrap().clone();
    assert_eq!(fixed.len(), 2, "{ports}");
    // Listeners may name clients of both families.
    for (port, cidr) in [(80, "192.0.2.0/24"), (81, "2001:db8::/32")] {
        let body = json!({"loadbalancer_id": made["id"], "protocol": "HTTP",
            "protocol_port": port, "allowed_cidrs": [cidr]});
        api.make("/v2/lbaas/listeners", "listener", body).await;
    }
    let refuse = async |more: Value| {
        let body = json!({"loadbalancer": {"vip_subnet_id": api.subnet, "additional_vips": more}});
        api.post(path, body).await
    };
    let none = "0f8fad5b-d9cb-469f-a165-70867728950e";
    for (more, status, said) in [
        (json!([{"subnet_id": api.subnet}]), 400, "has a VIP already"),
        (
            json!([{"subnet_id": api.subnet6}, {"subnet_id": api.subnet6}]),
            400,
            "has a VIP already",
        ),
        (json!([{"subnet_id": none}]), 400, "not found"),
        (
            json!([{"subnet_id": api.subnet6, "ip_address": "10.0.0.1"}]),
            400,
            "is not valid for subnet",
        ),
        (
            json!([{"subnet_id": api.subnet6, "ip_address": "2001:db8:1::99"}]),
            409,
            "already in use",
        ),
        (json!([{"ip_address": "10.0.0.1"}]), 400, "subnet_id"),
        (json!([{"subnet_id": "x"}]), 400, "UUID"),
        (
            json!([{"subnet_id": api.subnet6, "port_id": none}]),
            400,
            "Unknown attribute",
        ),
        (json!("x"), 400, "A list is expected"),
    ] {
        let text = refuse(more.clone()).await.fault(status);
        assert!(text.contains(said), "{more}: {text}");
    }
    // Nothing of what was refused is left.
    let ports = api.get("/network/v2.0/ports").await.ok(200);
    assert_eq!(ports["ports"].as_array().unwrap().len(), 1, "{ports}");
    let many: Vec<Value> = (0..9)
        .map(|_| json!({"subnet_id": Uuid::new_v4().to_string()}))
        .collect();
    let text = refuse(json!(many)).await.fault(400);
    assert!(text.contains("at most 8"), "{text}");
}
