//! What has no effect yet is refused with 501 (keys of a flavor's data: 400) and a text that names it, never stored.

use crate::common::Api;
use krater_controller::app::not_supported::{NOT_SUPPORTED, markdown};
use serde_json::{Value, json};

fn value_of(attribute: &str) -> Value {
    match attribute {
        "vip_sg_ids" => json!(["x"]),
        _ => json!("11111111-1111-4111-8111-111111111111"),
    }
}

#[tokio::test]
async fn every_entry_of_the_table_is_refused_by_name() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    for (resource, what, _) in NOT_SUPPORTED {
        let (path, mut body) = match *resource {
            "loadbalancer" => (
                "/v2/lbaas/loadbalancers",
                json!({"vip_subnet_id": api.subnet}),
            ),
            "listener" => (
                "/v2/lbaas/listeners",
                json!({"loadbalancer_id": lb, "protocol": "HTTP", "protocol_port": 99}),
            ),
            "pool" => (
                "/v2/lbaas/pools",
                json!({"loadbalancer_id": lb, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}),
            ),
            "flavorprofile" => (
                "/v2/lbaas/flavorprofiles",
                json!({"name": "n", "provider_name": "amphora"}),
            ),
            "availability_zone_profile" => (
                "/v2/lbaas/availabilityzoneprofiles",
                json!({"name": "n", "provider_name": "amphora"}),
            ),
            // Tested with amphorae, and with secrets.
            "amphora" | "key manager" => continue,
            other => panic!("{other}"),
        };
        let mut status = 501;
        let mut named = *what;
        match what.split_once(' ') {
            Some((data @ ("flavor_data" | "availability_zone_data"), key)) => {
                body[data] = json!(format!("{{\"{key}\": true}}"));
                (status, named) = (400, key);
            }
            Some((attribute, value)) => body[attribute] = json!(value),
            None => body[*what] = value_of(what),
        }
        let answer = api.post(path, json!({ *resource: body })).await;
        let text = answer.fault(status);
        assert!(
            text.ends_with(&format!("not supported yet: {named}")),
            "{text}"
        );
    }
    assert!(api.pending().await.is_empty());
    // The values that say "no" are accepted: clients send them.
    let body = json!({"pool": {"loadbalancer_id": lb, "protocol": "HTTP",
        "lb_algorithm": "ROUND_ROBIN", "tls_enabled": false, "alpn_protocols": null}});
    api.post("/v2/lbaas/pools", body).await.ok(201);
    api.settle().await;
    let path = format!("/v2/lbaas/loadbalancers/{lb}");
    for attribute in ["vip_qos_policy_id", "vip_sg_ids"] {
        let body = json!({"loadbalancer": {attribute: value_of(attribute)}});
        let text = api.put(&path, body).await.fault(501);
        assert!(
            text.ends_with(&format!("not supported yet: {attribute}")),
            "{text}"
        );
    }
}

/// Compares a file of the source tree with what the code says; `KRATER_UPDATE=1` writes it instead.
fn committed(path: &str, expected: impl Fn(&str) -> String) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path);
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let expected = expected(&found);
    if std::env::var_os("KRATER_UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    let hint = "run this test with KRATER_UPDATE=1 and commit the file";
    assert!(
        found == expected,
        "{} differs from the code: {hint}",
        path.display()
    );
}

#[test]
fn the_readme_lists_what_the_code_refuses() {
    const BEGIN: &str = "<!-- not supported, from the code: begin -->\n";
    const END: &str = "<!-- not supported, from the code: end -->";
    committed("README.md", |readme| {
        let (before, rest) = readme.split_once(BEGIN).expect("the README has the marker");
        let (_, after) = rest.split_once(END).expect("the README has the end marker");
        format!("{before}{BEGIN}{}{END}{after}", markdown())
    });
}

/// Each object, shown whole, has the attributes that the document lists, no more and no fewer.
#[tokio::test]
async fn what_is_shown_is_what_the_document_lists() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let listener = api.listener(&lb, 80).await;
    let pool = api.pool(&lb).await;
    let members = format!("pools/{pool}/members");
    let policy = json!({"listener_id": listener, "action": "REJECT"});
    let policy = api.make("/v2/lbaas/l7policies", "l7policy", policy).await;
    let rules = format!("l7policies/{policy}/rules");
    let profile = json!({"name": "p", "provider_name": "amphora", "flavor_data": "{}"});
    let profile = api
        .make("/v2/lbaas/flavorprofiles", "flavorprofile", profile)
        .await;
    let zone_profile =
        json!({"name": "p", "provider_name": "amphora", "availability_zone_data": "{}"});
    let zone_profile = api
        .make(
            "/v2/lbaas/availabilityzoneprofiles",
            "availability_zone_profile",
            zone_profile,
        )
        .await;
    let document = krater_controller::http::openapi::document();
    for (path, root, body) in [
        (
            "loadbalancers",
            "loadbalancer",
            json!({"vip_subnet_id": api.subnet}),
        ),
        (
            "listeners",
            "listener",
            json!({"loadbalancer_id": lb, "protocol": "HTTP", "protocol_port": 81}),
        ),
        (
            "pools",
            "pool",
            json!({"loadbalancer_id": lb, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"}),
        ),
        (
            members.as_str(),
            "member",
            json!({"address": "192.0.2.1", "protocol_port": 80}),
        ),
        (
            "healthmonitors",
            "healthmonitor",
            json!({"pool_id": pool, "type": "TCP", "delay": 1, "timeout": 1, "max_retries": 1}),
        ),
        (
            "l7policies",
            "l7policy",
            json!({"listener_id": listener, "action": "REJECT"}),
        ),
        (
            &rules,
            "rule",
            json!({"type": "PATH", "compare_type": "EQUAL_TO", "value": "/"}),
        ),
        (
            "flavorprofiles",
            "flavorprofile",
            json!({"name": "q", "provider_name": "amphora", "flavor_data": "{}"}),
        ),
        (
            "flavors",
            "flavor",
            json!({"name": "f", "flavor_profile_id": profile}),
        ),
        (
            "availabilityzoneprofiles",
            "availability_zone_profile",
            json!({"name": "q", "provider_name": "amphora", "availability_zone_data": "{}"}),
        ),
        (
            "availabilityzones",
            "availability_zone",
            json!({"name": "z", "availability_zone_profile_id": zone_profile}),
        ),
    ] {
        let answer = api
            .post(&format!("/v2/lbaas/{path}"), json!({ root: body }))
            .await;
        let shown = answer.ok(201)[root].clone();
        api.settle().await;
        let names = |value: &Value| {
            let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
            names.sort();
            names
        };
        let listed = &document["components"]["schemas"][format!("{root}_shown")]["properties"];
        assert_eq!(names(&shown), names(listed), "{root}");
    }
}

#[tokio::test]
async fn the_openapi_document_is_committed_and_true() {
    use krater_controller::http::openapi::document;
    committed("openapi/control.json", |_| format!("{:#}\n", document()));
    let api = Api::new().await;
    let served = api.get("/openapi.json").await.ok(200);
    assert_eq!(served, document());
    // Every operation exists: none is answered as an unknown path or method.
    for (path, operations) in served["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let real = path
                .split('/')
                .map(|part| if part.starts_with('{') { "none" } else { part })
                .collect::<Vec<_>>()
                .join("/");
            let method = method.to_uppercase().parse().unwrap();
            let answer = api.call(method, &real, None).await;
            assert_ne!(answer.status.as_u16(), 405, "{path}");
            assert!(
                !answer.text.contains("The resource could not be found."),
                "{path}"
            );
        }
    }
}
