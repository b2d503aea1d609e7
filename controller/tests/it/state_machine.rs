//! What may be done in which state, and what a refusal changes: nothing.

use crate::common::Api;
use serde_json::{Value, json};

const LBS: &str = "/v2/lbaas/loadbalancers";

/// Everything the API shows, for "nothing changed".
async fn all(api: &Api) -> Vec<Value> {
    let mut shown = Vec::new();
    for path in [
        "loadbalancers",
        "listeners",
        "pools",
        "healthmonitors",
        "l7policies",
    ] {
        shown.push(api.get(&format!("/v2/lbaas/{path}")).await.ok(200));
    }
    shown.push(json!(api.pending().await.len()));
    shown
}

#[tokio::test]
async fn a_pending_or_failed_load_balancer_refuses_changes_below_it() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let listener = api.listener(&lb, 80).await;
    let pool = api.pool(&lb).await;
    let members = format!("/v2/lbaas/pools/{pool}/members");
    let member = json!({"address": "10.0.0.1", "protocol_port": 80});
    let member = api.make(&members, "member", member).await;
    for state in [
        "PENDING_CREATE",
        "PENDING_UPDATE",
        "PENDING_DELETE",
        "ERROR",
    ] {
        api.set_lb(&lb, state).await;
        let before = all(&api).await;
        let immutable = format!("Load Balancer {lb} is immutable and cannot be updated.");
        let new_listener =
            json!({"listener": {"loadbalancer_id": lb, "protocol": "HTTP", "protocol_port": 81}});
        let new_pool = json!({"pool": {"loadbalancer_id": lb, "protocol": "HTTP",
            "lb_algorithm": "ROUND_ROBIN"}});
        let new_member = json!({"member": {"address": "10.0.0.2", "protocol_port": 80}});
        let new_monitor = json!({"healthmonitor": {"pool_id": pool, "type": "TCP", "delay": 1,
            "timeout": 1, "max_retries": 1}});
        let new_policy = json!({"l7policy": {"listener_id": listener, "action": "REJECT"}});
        let batch = json!({"members": []});
        for answer in [
            api.post("/v2/lbaas/listeners", new_listener).await,
            api.put(
                &format!("/v2/lbaas/listeners/{listener}"),
                json!({"listener": {"name": "x"}}),
            )
            .await,
            api.delete(&format!("/v2/lbaas/listeners/{listener}")).await,
            api.post("/v2/lbaas/pools", new_pool).await,
            api.put(
                &format!("/v2/lbaas/pools/{pool}"),
                json!({"pool": {"name": "x"}}),
            )
            .await,
            api.delete(&format!("/v2/lbaas/pools/{pool}")).await,
            api.post(&members, new_member).await,
            api.put(
                &format!("{members}/{member}"),
                json!({"member": {"weight": 2}}),
            )
            .await,
            api.delete(&format!("{members}/{member}")).await,
            api.put(&members, batch).await,
            api.post("/v2/lbaas/healthmonitors", new_monitor).await,
            api.post("/v2/lbaas/l7policies", new_policy).await,
        ] {
            assert_eq!(answer.fault(409), immutable);
        }
        let invalid = format!("Invalid state {state} of loadbalancer resource {lb}");
        let path = format!("{LBS}/{lb}");
        let put = api.put(&path, json!({"loadbalancer": {"name": "x"}})).await;
        assert_eq!(put.fault(409), invalid);
        if state != "ERROR" {
            assert_eq!(
                api.put(&format!("{path}/failover"), json!(null))
                    .await
                    .fault(409),
                invalid
            );
            assert_eq!(
                api.delete(&format!("{path}?cascade=True")).await.fault(409),
                invalid
            );
        }
        assert_eq!(all(&api).await, before, "{state}");
    }
    api.put(&format!("{LBS}/{lb}/failover"), json!(null))
        .await
        .ok(202);
    api.set_lb(&lb, "ERROR").await;
    api.delete(&format!("{LBS}/{lb}?cascade=true"))
        .await
        .ok(204);
}

#[tokio::test]
async fn parents_are_pending_while_a_child_changes() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let listener = api.listener(&lb, 80).await;
    let pool = json!({"listener_id": listener, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"});
    let pool = api.make("/v2/lbaas/pools", "pool", pool).await;
    let status = |kind: &'static str, root: &'static str, id: String| {
        let api = &api;
        async move {
            let shown = api.get(&format!("/v2/lbaas/{kind}/{id}")).await.ok(200);
            shown[root]["provisioning_status"]
                .as_str()
                .unwrap()
                .to_owned()
        }
    };
    let members = format!("/v2/lbaas/pools/{pool}/members");
    let member = json!({"member": {"address": "10.0.0.1", "protocol_port": 80}});
    let answer = api.post(&members, member).await.ok(201);
    assert_eq!(answer["member"]["provisioning_status"], "PENDING_CREATE");
    assert_eq!(
        status("loadbalancers", "loadbalancer", lb.clone()).await,
        "PENDING_UPDATE"
    );
    assert_eq!(
        status("listeners", "listener", listener.clone()).await,
        "PENDING_UPDATE"
    );
    assert_eq!(
        status("pools", "pool", pool.clone()).await,
        "PENDING_UPDATE"
    );
    let flows = api.pending().await;
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0].kind, "UpdateTree");
    assert_eq!(flows[0].load_balancer_id.as_ref(), Some(&lb));
    let again = json!({"member": {"address": "10.0.0.2", "protocol_port": 80}});
    let text = api.post(&members, again).await.fault(409);
    assert_eq!(
        text,
        format!("Pool {pool} is immutable and cannot be updated.")
    );
    api.settle().await;

    let policy = json!({"listener_id": listener, "action": "REJECT"});
    let policy = api.make("/v2/lbaas/l7policies", "l7policy", policy).await;
    let rules = format!("/v2/lbaas/l7policies/{policy}/rules");
    let rule = || json!({"rule": {"type": "PATH", "compare_type": "EQUAL_TO", "value": "/x"}});
    api.post(&rules, rule()).await.ok(201);
    assert_eq!(
        status("l7policies", "l7policy", policy.clone()).await,
        "PENDING_UPDATE"
    );
    let text = api.post(&rules, rule()).await.fault(409);
    assert_eq!(
        text,
        format!("L7Policy {policy} is immutable and cannot be updated.")
    );
    api.settle().await;
    assert_eq!(status("l7policies", "l7policy", policy).await, "ACTIVE");
    let request = api.get("/").await;
    let id = request.headers["x-openstack-request-id"].to_str().unwrap();
    assert!(id.parse::<String>().is_ok_and(|id| id.len() == 40), "{id}");
}

#[tokio::test]
async fn conflicts() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let listener = api.listener(&lb, 80).await;
    let twin = json!({"listener": {"loadbalancer_id": lb, "protocol": "TCP", "protocol_port": 80}});
    assert_eq!(
        api.post("/v2/lbaas/listeners", twin).await.fault(409),
        "Another Listener on this Load Balancer is already using protocol HTTP and protocol_port 80"
    );
    let pool = |protocol: &str| json!({"pool": {"listener_id": listener, "protocol": protocol, "lb_algorithm": "ROUND_ROBIN"}});
    assert_eq!(
        api.post("/v2/lbaas/pools", pool("TCP")).await.fault(400),
        "Validation failure: The pool protocol 'TCP' is invalid while the listener protocol is 'HTTP'."
    );
    let first = api.post("/v2/lbaas/pools", pool("HTTP")).await.ok(201);
    api.settle().await;
    assert_eq!(
        api.post("/v2/lbaas/pools", pool("HTTP")).await.fault(409),
        "This listener already has a default pool"
    );
    let pool = first["pool"]["id"].as_str().unwrap();
    let policy =
        json!({"listener_id": listener, "action": "REDIRECT_TO_POOL", "redirect_pool_id": pool});
    let policy = api.make("/v2/lbaas/l7policies", "l7policy", policy).await;
    assert_eq!(
        api.delete(&format!("/v2/lbaas/pools/{pool}"))
            .await
            .fault(409),
        format!("Pool {pool} is in use by L7 policy {policy}")
    );
    let monitor = || {
        json!({"healthmonitor": {"pool_id": pool, "type": "PING", "delay": 1,
        "timeout": 1, "max_retries": 1}})
    };
    api.post("/v2/lbaas/healthmonitors", monitor())
        .await
        .ok(201);
    api.settle().await;
    assert_eq!(
        api.post("/v2/lbaas/healthmonitors", monitor())
            .await
            .fault(409),
        "This pool already has a health monitor"
    );
    assert_eq!(
        api.delete(&format!("{LBS}/{lb}")).await.fault(400),
        format!("Validation failure: Cannot delete Load Balancer {lb} - it has children")
    );
    let taken =
        json!({"loadbalancer": {"vip_subnet_id": api.subnet, "vip_address": "203.0.113.2"}});
    assert!(
        api.post(LBS, taken)
            .await
            .fault(409)
            .starts_with("The VIP IP address is already in use")
    );
    let tcp = json!({"loadbalancer_id": lb, "protocol": "TCP", "protocol_port": 81});
    let tcp = api.make("/v2/lbaas/listeners", "listener", tcp).await;
    let policy = json!({"l7policy": {"listener_id": tcp, "action": "REJECT"}});
    api.post("/v2/lbaas/l7policies", policy).await.fault(501);
}

#[tokio::test]
async fn deleted_load_balancers_are_hidden() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let path = format!("{LBS}/{lb}");
    assert_eq!(api.delete(&path).await.text, "");
    let shown = api.get(&path).await.ok(200);
    assert_eq!(
        shown["loadbalancer"]["provisioning_status"],
        "PENDING_DELETE"
    );
    api.settle().await;
    assert_eq!(
        api.get(&path).await.fault(404),
        format!("Load Balancer {lb} not found.")
    );
    assert_eq!(api.get(LBS).await.ok(200)["loadbalancers"], json!([]));
    api.delete(&path).await.fault(404);
    api.put(&path, json!({"loadbalancer": {}})).await.fault(404);
}

#[tokio::test]
async fn nulls_reset_and_absent_keeps() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let path = format!("{LBS}/{lb}");
    let put = |body: Value| {
        let (api, path) = (&api, &path);
        async move {
            let shown = api.put(path, json!({"loadbalancer": body})).await.ok(200);
            api.settle().await;
            shown["loadbalancer"].clone()
        }
    };
    let shown =
        put(json!({"description": "two\nlines", "tags": ["a"], "admin_state_up": "false"})).await;
    assert_eq!(shown["description"], "two\nlines");
    assert_eq!(shown["admin_state_up"], false);
    assert_eq!(shown["provisioning_status"], "PENDING_UPDATE");
    assert!(shown["updated_at"].is_string());
    let shown = put(json!({})).await;
    assert_eq!(
        (&shown["name"], &shown["tags"]),
        (&json!("lb"), &json!(["a"]))
    );
    let shown =
        put(json!({"description": null, "tags": null, "name": null, "vip_sg_ids": null})).await;
    assert_eq!(
        (&shown["name"], &shown["description"]),
        (&json!(""), &json!(""))
    );
    assert_eq!(shown["tags"], json!([]));

    let listener = api.listener(&lb, 80).await;
    let pool = api.pool(&lb).await;
    let path = format!("/v2/lbaas/listeners/{listener}");
    let body = json!({"listener": {"connection_limit": "100", "timeout_client_data": 1000,
        "default_pool_id": pool, "allowed_cidrs": ["10.0.0.0/8"],
        "insert_headers": {"X-Forwarded-Port": "true"}}});
    let shown = api.put(&path, body).await.ok(200);
    assert_eq!(shown["listener"]["connection_limit"], 100);
    assert_eq!(shown["listener"]["default_pool_id"], json!(pool));
    api.settle().await;
    let body = json!({"listener": {"connection_limit": null, "timeout_client_data": null,
        "default_pool_id": null, "allowed_cidrs": null, "insert_headers": null}});
    let shown = api.put(&path, body).await.ok(200)["listener"].clone();
    assert_eq!(shown["connection_limit"], -1);
    assert_eq!(shown["timeout_client_data"], 50000);
    assert!(shown["default_pool_id"].is_null() && shown["allowed_cidrs"].is_null());
    assert_eq!(shown["insert_headers"], json!({}));
}

#[tokio::test]
async fn policy_positions_are_dense() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let listener = api.listener(&lb, 80).await;
    let mut ids = Vec::new();
    for (name, position) in [("a", None), ("b", None), ("c", Some(1)), ("d", Some(99))] {
        let mut body = json!({"listener_id": listener, "action": "REJECT", "name": name});
        if let Some(position) = position {
            body["position"] = json!(position);
        }
        ids.push(api.make("/v2/lbaas/l7policies", "l7policy", body).await);
    }
    let order = || async {
        let list = api.get("/v2/lbaas/l7policies?sort=position").await.ok(200);
        let list = list["l7policies"].as_array().unwrap().clone();
        list.iter()
            .map(|p| format!("{}{}", p["name"].as_str().unwrap(), p["position"]))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(order().await, "c1 a2 b3 d4");
    let path = format!("/v2/lbaas/l7policies/{}", ids[3]);
    api.put(&path, json!({"l7policy": {"position": 2}}))
        .await
        .ok(200);
    api.settle().await;
    assert_eq!(order().await, "c1 d2 a3 b4");
    let body = json!({"l7policy": {"redirect_url": "http://u.example/x"}});
    let shown = api.put(&path, body).await.ok(200)["l7policy"].clone();
    assert_eq!(shown["action"], "REDIRECT_TO_URL");
    assert_eq!(shown["redirect_http_code"], 302);
}
