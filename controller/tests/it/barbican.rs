//! Secrets in another key manager: that of a second controller, whose API the unmodified `openstack secret` speaks.

use crate::process::Controller;
use krater_e2e::wait;
use serde_json::{Value, json};
use std::path::Path;

const NOBODY: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn tokens(dir: &Path) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    let mut text = String::new();
    for (token, project) in [("mine-7d1f", "own"), ("theirs-7d1f", "foreign")] {
        let hash = digest(&SHA256, token.as_bytes());
        let hash: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        text.push_str(&format!(
            "[[tokens]]\nsha256 = \"{hash}\"\nuser = \"u\"\nproject = \"{project}\"\nroles = [\"member\"]\n"
        ));
    }
    let path = dir.join("tokens.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn send(
    controller: &Controller,
    token: &str,
    method: &str,
    path: &str,
    body: &Value,
) -> (u16, Value) {
    let headers = [
        ("x-auth-token", token),
        ("content-type", "application/json"),
    ];
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let answer = controller
        .api
        .raw(method, path, &headers, body.as_bytes())
        .unwrap();
    (answer.status, answer.body)
}

fn stored(controller: &Controller, payload: &str) -> String {
    let body = json!({"payload": payload, "payload_content_type": "text/plain"});
    let (status, made) = send(controller, "mine-7d1f", "POST", "/v1/secrets", &body);
    assert_eq!(status, 201, "{made}");
    made["secret_ref"].as_str().unwrap().to_owned()
}

#[test]
fn certificates_are_read_where_they_are_with_the_callers_token() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = tokens(dir.path());
    let mut keeper = Controller::start(&["--tokens", &tokens]);
    let config = dir.path().join("krater.toml");
    let text = format!(
        "[secrets]\ndriver = \"barbican\"\nurl = \"http://{}\"\n",
        keeper.api.address
    );
    std::fs::write(&config, text).unwrap();
    let user = Controller::start(&["--tokens", &tokens, "--config", config.to_str().unwrap()]);

    let made = rcgen::generate_simple_self_signed(["lb.example".to_owned()]).unwrap();
    let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let whole = stored(&keeper, &format!("{pem}{key}"));
    let parts = json!({"type": "certificate", "secret_refs": [
        {"name": "certificate", "secret_ref": stored(&keeper, &pem)},
        {"name": "private_key", "secret_ref": stored(&keeper, &key)}]});
    let (status, container) = send(&keeper, "mine-7d1f", "POST", "/v1/containers", &parts);
    assert_eq!(status, 201, "{container}");
    let container = container["container_ref"].as_str().unwrap().to_owned();

    let balancer = |token: &str| {
        let body = json!({"loadbalancer": {"vip_subnet_id": NOBODY}});
        let (status, made) = send(&user, token, "POST", "/v2/lbaas/loadbalancers", &body);
        assert_eq!(status, 201, "{made}");
        let id = made["loadbalancer"]["id"].as_str().unwrap().to_owned();
        active(&user, token, &id);
        id
    };
    let (own, foreign) = (balancer("mine-7d1f"), balancer("theirs-7d1f"));
    let listener = |token: &str, lb: &str, port: u16, reference: &str| {
        let body = json!({"listener": {"loadbalancer_id": lb, "protocol": "TERMINATED_HTTPS",
            "protocol_port": port, "default_tls_container_ref": reference}});
        let (status, said) = send(&user, token, "POST", "/v2/lbaas/listeners", &body);
        if status == 201 {
            active(&user, token, lb);
        }
        (
            status,
            said["faultstring"].as_str().unwrap_or_default().to_owned(),
        )
    };
    assert_eq!(listener("mine-7d1f", &own, 443, &whole).0, 201);
    assert_eq!(listener("mine-7d1f", &own, 444, &container).0, 201);
    // What the caller's token does not open does not exist, there as here.
    for (token, lb, reference) in [
        ("theirs-7d1f", &foreign, whole.clone()),
        ("theirs-7d1f", &foreign, container.clone()),
        (
            "mine-7d1f",
            &own,
            whole.replace(whole.rsplit('/').next().unwrap(), NOBODY),
        ),
    ] {
        let (status, said) = listener(token, lb, 445, &reference);
        assert_eq!(status, 400, "{said}");
        assert!(said.contains("Could not retrieve certificate"), "{said}");
    }
    // Its own store is closed.
    let (status, said) = send(&user, "mine-7d1f", "GET", "/v1/secrets", &Value::Null);
    assert_eq!(status, 404);
    let said = said["description"].as_str().unwrap();
    assert!(said.contains(&keeper.api.address.to_string()), "{said}");

    keeper.kill();
    let (status, said) = listener("mine-7d1f", &own, 446, &whole);
    assert_eq!(status, 503, "{said}");
    assert!(said.contains("key manager"), "{said}");
    let log = user.log();
    assert!(log.contains("cannot be reached"), "{log}");
    assert!(
        !log.contains("mine-7d1f") && !log.contains("PRIVATE KEY"),
        "{log}"
    );
}

fn active(controller: &Controller, token: &str, id: &str) {
    let path = format!("/v2/lbaas/loadbalancers/{id}");
    wait::until("it is ACTIVE", || {
        let (_, shown) = send(controller, token, "GET", &path, &Value::Null);
        (shown["loadbalancer"]["provisioning_status"] == "ACTIVE").then_some(())
    });
}
