//! The exact shape of every resource.

use crate::common::{Api, masked};
use serde_json::{Value, json};

#[tokio::test]
async fn load_balancer() {
    let api = Api::new().await;
    let body = json!({"loadbalancer": {"name": "lb1", "vip_subnet_id": api.subnet, "admin_state_up": true}});
    let answer = api.post("/v2.0/lbaas/loadbalancers", body).await;
    let shown = answer.ok(201);
    let expected = json!({"loadbalancer": {
        "id": "<uuid>", "name": "lb1", "description": "",
        "provisioning_status": "PENDING_CREATE", "operating_status": "OFFLINE",
        "admin_state_up": true, "project_id": "default", "tenant_id": "default",
        "created_at": "<time>", "updated_at": null,
        "vip_address": "203.0.113.2", "vip_port_id": "<uuid>", "vip_subnet_id": "<uuid>",
        "vip_network_id": "<uuid>", "vip_qos_policy_id": null, "vip_sg_ids": [],
        "vip_vnic_type": "normal", "additional_vips": [], "listeners": [], "pools": [],
        "provider": "amphora", "flavor_id": null, "availability_zone": null, "tags": [],
    }});
    assert_eq!(masked(shown.clone()), expected);
    let time = shown["loadbalancer"]["created_at"].as_str().unwrap();
    assert_eq!(time.len(), "2026-01-02T03:04:05".len(), "{time}");
    api.settle().await;
    let id = shown["loadbalancer"]["id"].as_str().unwrap();
    for path in ["/v2/lbaas", "/v2.0/lbaas", "/v2", "/v2.0"] {
        let one = api.get(&format!("{path}/loadbalancers/{id}")).await.ok(200);
        assert_eq!(one["loadbalancer"]["provisioning_status"], "ACTIVE");
        let list = api.get(&format!("{path}/loadbalancers")).await.ok(200);
        assert_eq!(list["loadbalancers"][0], one["loadbalancer"]);
        assert_eq!(list["loadbalancers_links"], json!([]));
    }
    let stats = json!({"stats": {"bytes_in": 0, "bytes_out": 0, "active_connections": 0,
                                 "total_connections": 0, "request_errors": 0}});
    let path = format!("/v2/lbaas/loadbalancers/{id}");
    assert_eq!(api.get(&format!("{path}/stats")).await.ok(200), stats);
    api.get(&format!("{path}/nothing")).await.fault(404);
    assert_eq!(
        api.put(&format!("{path}/failover"), Value::Null).await.text,
        ""
    );
}

#[tokio::test]
async fn listener_pool_member_monitor_policy_rule() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let listener = api
        .post(
            "/v2/lbaas/listeners",
            json!({"listener": {
                "loadbalancer_id": lb, "name": "l1", "protocol": "HTTP", "protocol_port": 80,
                "connection_limit": "100", "insert_headers": {"X-Forwarded-For": "true"},
                "allowed_cidrs": ["10.1.2.3/8"], "tags": ["b", "a"], "admin_state_up": "TRUE",
            }}),
        )
        .await
        .ok(201);
    api.settle().await;
    assert_eq!(
        masked(listener.clone()),
        json!({"listener": {
            "id": "<uuid>", "name": "l1", "description": "",
            "provisioning_status": "PENDING_CREATE", "operating_status": "OFFLINE",
            "admin_state_up": true, "protocol": "HTTP", "protocol_port": 80,
            "connection_limit": 100, "default_tls_container_ref": null, "sni_container_refs": [],
            "project_id": "default", "tenant_id": "default", "default_pool_id": null,
            "l7policies": [], "insert_headers": {"X-Forwarded-For": "true"},
            "created_at": "<time>", "updated_at": null, "loadbalancers": [{"id": "<uuid>"}],
            "timeout_client_data": 50000, "timeout_member_connect": 5000,
            "timeout_member_data": 50000, "timeout_tcp_inspect": 0, "tags": ["a", "b"],
            "client_ca_tls_container_ref": null, "client_authentication": "NONE",
            "client_crl_container_ref": null, "allowed_cidrs": ["10.0.0.0/8"],
            "tls_ciphers": null, "tls_versions": null, "alpn_protocols": null,
            "hsts_max_age": null, "hsts_include_subdomains": false, "hsts_preload": false,
        }})
    );
    let listener = listener["listener"]["id"].as_str().unwrap().to_owned();
    let pool = api
        .post(
            "/v2/lbaas/pools",
            json!({"pool": {
                "listener_id": listener, "name": "p1", "protocol": "HTTP",
                "lb_algorithm": "LEAST_CONNECTIONS", "session_persistence": {"type": "SOURCE_IP"},
            }}),
        )
        .await
        .ok(201);
    api.settle().await;
    assert_eq!(
        masked(pool.clone()),
        json!({"pool": {
            "id": "<uuid>", "name": "p1", "description": "",
            "provisioning_status": "PENDING_CREATE", "operating_status": "OFFLINE",
            "admin_state_up": true, "protocol": "HTTP", "lb_algorithm": "LEAST_CONNECTIONS",
            "session_persistence": {"type": "SOURCE_IP", "cookie_name": null,
                "persistence_timeout": null, "persistence_granularity": null},
            "project_id": "default", "tenant_id": "default",
            "loadbalancers": [{"id": "<uuid>"}], "listeners": [{"id": "<uuid>"}],
            "created_at": "<time>", "updated_at": null, "healthmonitor_id": null, "members": [],
            "tags": [], "tls_container_ref": null, "ca_tls_container_ref": null,
            "crl_container_ref": null, "tls_enabled": false, "tls_ciphers": null,
            "tls_versions": null, "alpn_protocols": null,
        }})
    );
    let pool = pool["pool"]["id"].as_str().unwrap().to_owned();
    let members = format!("/v2/lbaas/pools/{pool}/members");
    let member = api
        .post(
            &members,
            json!({"member": {"name": "m1", "address": "10.0.0.1", "protocol_port": 80,
                "weight": 5, "backup": true, "subnet_id": api.subnet, "monitor_port": 8080}}),
        )
        .await
        .ok(201);
    api.settle().await;
    assert_eq!(
        masked(member),
        json!({"member": {
            "id": "<uuid>", "name": "m1", "operating_status": "NO_MONITOR",
            "provisioning_status": "PENDING_CREATE", "admin_state_up": true,
            "address": "10.0.0.1", "protocol_port": 80, "weight": 5, "backup": true,
            "subnet_id": "<uuid>", "project_id": "default", "tenant_id": "default",
            "created_at": "<time>", "updated_at": null, "monitor_address": null,
            "monitor_port": 8080, "tags": [], "vnic_type": "normal",
        }})
    );
    let monitor = api
        .post(
            "/v2/lbaas/healthmonitors",
            json!({"healthmonitor": {"pool_id": pool, "name": "h1", "type": "HTTP", "delay": 5,
                "timeout": "3", "max_retries": 3, "http_version": 1.1, "domain_name": "a.example"}}),
        )
        .await
        .ok(201);
    api.settle().await;
    assert_eq!(
        masked(monitor),
        json!({"healthmonitor": {
            "id": "<uuid>", "name": "h1", "type": "HTTP", "delay": 5, "timeout": 3,
            "max_retries": 3, "max_retries_down": 3, "http_method": "GET", "url_path": "/",
            "expected_codes": "200", "admin_state_up": true, "project_id": "default",
            "tenant_id": "default", "pools": [{"id": "<uuid>"}],
            "provisioning_status": "PENDING_CREATE", "operating_status": "OFFLINE",
            "created_at": "<time>", "updated_at": null, "tags": [], "http_version": 1.1,
            "domain_name": "a.example",
        }})
    );
    let policy = api
        .post(
            "/v2/lbaas/l7policies",
            json!({"l7policy": {"listener_id": listener, "name": "pol1",
                "action": "REDIRECT_TO_POOL", "redirect_pool_id": pool}}),
        )
        .await
        .ok(201);
    api.settle().await;
    assert_eq!(
        masked(policy.clone()),
        json!({"l7policy": {
            "id": "<uuid>", "name": "pol1", "description": "",
            "provisioning_status": "PENDING_CREATE", "operating_status": "OFFLINE",
            "admin_state_up": true, "project_id": "default", "tenant_id": "default",
            "action": "REDIRECT_TO_POOL", "listener_id": "<uuid>", "redirect_pool_id": "<uuid>",
            "redirect_url": null, "redirect_prefix": null, "redirect_http_code": null,
            "position": 1, "rules": [], "created_at": "<time>", "updated_at": null, "tags": [],
        }})
    );
    let policy = policy["l7policy"]["id"].as_str().unwrap().to_owned();
    let rules = format!("/v2/lbaas/l7policies/{policy}/rules");
    let rule = api
        .post(
            &rules,
            json!({"rule": {"type": "HOST_NAME", "compare_type": "STARTS_WITH", "value": "server"}}),
        )
        .await
        .ok(201);
    api.settle().await;
    assert_eq!(
        masked(rule.clone()),
        json!({"rule": {
            "id": "<uuid>", "type": "HOST_NAME", "compare_type": "STARTS_WITH", "key": null,
            "value": "server", "invert": false, "provisioning_status": "PENDING_CREATE",
            "operating_status": "OFFLINE", "created_at": "<time>", "updated_at": null,
            "project_id": "default", "tenant_id": "default", "admin_state_up": true, "tags": [],
        }})
    );
    let rule = rule["rule"]["id"].as_str().unwrap();
    for path in [
        format!("{rules}/{rule}"),
        rules,
        members,
        "/v2/lbaas/healthmonitors".to_owned(),
        format!("/v2/lbaas/listeners/{listener}/stats"),
    ] {
        api.get(&path).await.ok(200);
    }
    let status = api
        .get(&format!("/v2/lbaas/loadbalancers/{lb}/status"))
        .await
        .ok(200);
    assert_eq!(
        masked(status),
        json!({"statuses": {"loadbalancer": {
            "id": "<uuid>", "name": "lb", "provisioning_status": "ACTIVE",
            "operating_status": "OFFLINE", "listeners": [{
                "id": "<uuid>", "name": "l1", "provisioning_status": "ACTIVE",
                "operating_status": "OFFLINE", "pools": [{
                    "id": "<uuid>", "name": "p1", "provisioning_status": "ACTIVE",
                    "operating_status": "OFFLINE",
                    "health_monitor": {"id": "<uuid>", "name": "h1", "type": "HTTP",
                        "provisioning_status": "ACTIVE", "operating_status": "OFFLINE"},
                    "members": [{"id": "<uuid>", "name": "m1", "provisioning_status": "ACTIVE",
                        "operating_status": "NO_MONITOR", "address": "10.0.0.1",
                        "protocol_port": 80}],
                }],
            }],
        }}})
    );
}

#[tokio::test]
async fn discovery_network_and_projects() {
    let api = Api::new().await;
    let versions = api.get("/").await.ok(200);
    let versions = versions["versions"].as_array().unwrap();
    assert_eq!(versions.first().unwrap()["id"], "v2.0");
    assert_eq!(versions.last().unwrap()["status"], "CURRENT");
    let link = json!([{"href": "http://api:9876/v2", "rel": "self"}]);
    assert!(versions.iter().all(|version| version["links"] == link));
    assert_eq!(api.get("/v2").await.ok(200), "v2");
    api.get("/healthcheck").await.ok_text();

    let root = api.get("/network").await.ok(200);
    assert_eq!(
        root["versions"][0]["links"][0]["href"],
        "http://api:9876/network/v2.0/"
    );
    api.get("/network/").await.ok(200);
    let by_name = api
        .get("/network/v2.0/subnets?name=public-subnet")
        .await
        .ok(200);
    assert_eq!(by_name["subnets"][0]["id"], json!(api.subnet));
    assert_eq!(by_name["subnets"].as_array().unwrap().len(), 1);
    let none = api
        .get(&format!("/network/v2.0/subnets?id={}", api.network))
        .await
        .ok(200);
    assert_eq!(none["subnets"], json!([]));
    let net = api.get("/network/v2.0/networks?name=public").await.ok(200);
    assert_eq!(
        net["networks"][0]["subnets"],
        json!([api.subnet, api.subnet6])
    );
    let id = api.lb("lb").await;
    let lb = api
        .get(&format!("/v2/lbaas/loadbalancers/{id}"))
        .await
        .ok(200);
    let port = lb["loadbalancer"]["vip_port_id"].as_str().unwrap();
    let port = api
        .get(&format!("/network/v2.0/ports/{port}"))
        .await
        .ok(200);
    assert_eq!(port["port"]["device_id"], json!(format!("lb-{id}")));
    assert_eq!(port["port"]["fixed_ips"][0]["ip_address"], "203.0.113.2");
    let empty = api
        .get("/network/v2.0/security-groups?name=x")
        .await
        .ok(200);
    assert_eq!(empty, json!({"security_groups": []}));
    let project = api.get("/projects/p1").await.ok(200);
    assert_eq!(project["project"]["id"], "p1");
    let flavors = api.get("/v2.0/lbaas/flavors?name=nosuch").await.ok(200);
    assert_eq!(flavors["flavors"], json!([]));
    let providers = api.get("/v2/lbaas/providers").await.ok(200);
    assert_eq!(providers["providers"][0]["name"], "amphora");
    let amphorae = api.get("/v2.0/octavia/amphorae").await.ok(200);
    assert_eq!(amphorae, json!({"amphorae": [], "amphorae_links": []}));
    let text = api.get("/v2.0/octavia/amphorae/none").await.fault(404);
    assert_eq!(text, "Amphora none not found.");
}

#[tokio::test]
async fn amphorae() {
    use krater_controller::db::entity::amphora;
    use sea_orm::{ActiveModelTrait, ActiveValue::Set};
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let id = uuid::Uuid::new_v4().to_string();
    let row = amphora::ActiveModel {
        id: Set(id.clone()),
        load_balancer_id: Set(Some(lb.clone())),
        status: Set("ALLOCATED".into()),
        role: Set(Some("MASTER".into())),
        cert_expiration: Set(Some(1_767_323_045_000)),
        cert_busy: Set(false),
        epoch_desired: Set(0),
        generation_desired: Set(0),
        epoch_applied: Set(0),
        generation_applied: Set(0),
        created_at: Set(1),
        ..Default::default()
    };
    row.insert(api.db.write()).await.unwrap();
    let path = format!("/v2/octavia/amphorae/{id}");
    let shown = api.get(&path).await.ok(200);
    assert_eq!(shown["amphora"]["cert_expiration"], "2026-01-02T03:04:05");
    assert_eq!(shown["amphora"].as_object().unwrap().len(), 20);
    for query in [
        format!("id={id}"),
        format!("loadbalancer_id={lb}"),
        "project_id=default".into(),
    ] {
        let list = api
            .get(&format!("/v2/octavia/amphorae?{query}"))
            .await
            .ok(200);
        assert_eq!(list["amphorae"].as_array().unwrap().len(), 1, "{query}");
    }
    let none = api
        .get("/v2/octavia/amphorae?project_id=other")
        .await
        .ok(200);
    assert_eq!(none["amphorae"], json!([]));
    assert_eq!(
        api.get(&format!("{path}/stats")).await.ok(200),
        json!({"amphora_stats": []})
    );
    let text = api.delete(&path).await.fault(409);
    assert_eq!(
        text,
        format!("Amphora {id} is immutable and cannot be updated.")
    );
    api.put(&format!("{path}/failover"), json!(null))
        .await
        .ok(202);
    assert_eq!(api.pending().await[0].kind, "FailoverAmphora");
    api.put(&format!("{path}/failover"), json!(null))
        .await
        .fault(409);
    api.put(&format!("{path}/config"), json!(null))
        .await
        .fault(501);
}

impl crate::common::Answer {
    fn ok_text(&self) {
        assert_eq!((self.status.as_u16(), self.text.as_str()), (200, "OK"));
    }
}
