//! Bad input: exactly the documented answer, and nothing changed.

use crate::common::Api;
use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};

const LBS: &str = "/v2/lbaas/loadbalancers";

fn request(kind: Option<&str>, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(Method::POST).uri(LBS);
    let request = match kind {
        Some(kind) => request.header("content-type", kind),
        None => request,
    };
    request.body(body.into()).unwrap()
}

#[tokio::test]
async fn bodies_that_are_none() {
    let api = Api::new().await;
    let json_type = Some("application/json");
    for (request, status, text) in [
        (request(json_type, "{"), 400, "not in valid JSON format"),
        (request(json_type, "[]"), 400, "must be a JSON object"),
        (request(json_type, "null"), 400, "must be a JSON object"),
        (
            request(json_type, ""),
            400,
            "Missing argument: \"load_balancer\"",
        ),
        (
            request(json_type, "{}"),
            400,
            "field/attribute loadbalancer. Value: 'None'. Mandatory",
        ),
        (
            request(json_type, r#"{"x": {}}"#),
            400,
            "Unknown attribute for argument load_balancer: x",
        ),
        (
            request(json_type, r#"{"loadbalancer": []}"#),
            400,
            "An object is expected",
        ),
        (
            request(json_type, &b"\xff\xfe{}"[..]),
            400,
            "not in valid JSON format",
        ),
        (
            request(json_type, "[".repeat(100_000)),
            400,
            "not in valid JSON format",
        ),
        (
            request(json_type, "x".repeat(2_000_000)),
            413,
            "larger than",
        ),
        (
            request(Some("application/xml"), "<a/>"),
            415,
            "application/xml",
        ),
        (
            request(Some("application/x-www-form-urlencoded"), "a=b"),
            400,
            "Missing argument",
        ),
    ] {
        let fault = api.send(request).await.fault(status);
        assert!(fault.contains(text), "{fault} / {text}");
    }
    let unacceptable = Request::builder().uri(LBS).header("accept", "text/html");
    let answer = api.send(unacceptable.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status.as_u16(), 406);
    assert_eq!(answer.json()["errors"][0]["status"], 406);
    for accept in ["*/*", "application/json;q=0.5, text/html", ""] {
        let request = Request::builder().uri(LBS).header("accept", accept);
        api.send(request.body(Body::empty()).unwrap()).await.ok(200);
    }
    api.call(Method::PATCH, LBS, None).await.fault(405);
    api.get("/v3").await.fault(404);
    api.get("/v2/lbaas/loadbalancers/").await.ok(200);
    api.get("/v2/lbaas/loadbalancers.json").await.ok(200);
    api.get(&format!("{LBS}?name={}", "x".repeat(20_000)))
        .await
        .fault(414);
}

#[tokio::test]
async fn values_that_are_none() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let listener = api.listener(&lb, 80).await;
    let pool = api.pool(&lb).await;
    let new_listener = |edit: Value| {
        let mut body = json!({"loadbalancer_id": lb, "protocol": "HTTP", "protocol_port": 81});
        body.as_object_mut()
            .unwrap()
            .extend(edit.as_object().unwrap().clone());
        ("/v2/lbaas/listeners".to_owned(), json!({"listener": body}))
    };
    let new_monitor = |edit: Value| {
        let mut body =
            json!({"pool_id": pool, "type": "HTTP", "delay": 1, "timeout": 1, "max_retries": 1});
        body.as_object_mut()
            .unwrap()
            .extend(edit.as_object().unwrap().clone());
        (
            "/v2/lbaas/healthmonitors".to_owned(),
            json!({"healthmonitor": body}),
        )
    };
    let new_member = |edit: Value| {
        let mut body = json!({"address": "10.0.0.1", "protocol_port": 80});
        body.as_object_mut()
            .unwrap()
            .extend(edit.as_object().unwrap().clone());
        (
            format!("/v2/lbaas/pools/{pool}/members"),
            json!({"member": body}),
        )
    };
    let new_policy = |edit: Value| {
        let mut body = json!({"listener_id": listener});
        body.as_object_mut()
            .unwrap()
            .extend(edit.as_object().unwrap().clone());
        ("/v2/lbaas/l7policies".to_owned(), json!({"l7policy": body}))
    };
    let input = |field: &str, value: &str| {
        format!("Invalid input for field/attribute {field}. Value: '{value}'.")
    };
    for ((path, body), text) in [
        (
            new_listener(json!({"colour": 1})),
            "Unknown attribute for argument listener_.listener: colour".to_owned(),
        ),
        (
            new_listener(json!({"a": 1, "b": 2})),
            "Unknown attributes for argument listener_.listener: a, b".to_owned(),
        ),
        (
            new_listener(json!({"default_pool": {"name": "p"}})),
            "only possible within the creation of a load balancer".to_owned(),
        ),
        (
            new_listener(json!({"l7policies": [{"action": "REJECT"}]})),
            "only possible within the creation of a load balancer".to_owned(),
        ),
        (
            new_listener(json!({"protocol": "http"})),
            input("protocol", "http"),
        ),
        (
            new_listener(json!({"protocol": null})),
            "None is not a valid option for protocol".to_owned(),
        ),
        (
            new_listener(json!({"protocol_port": 0})),
            format!(
                "{} Value should be greater or equal to 1",
                input("protocol_port", "0")
            ),
        ),
        (
            new_listener(json!({"protocol_port": 65536})),
            format!(
                "{} Value should be lower or equal to 65535",
                input("protocol_port", "65536")
            ),
        ),
        (
            new_listener(json!({"protocol_port": 1.5})),
            input("protocol_port", "1.5"),
        ),
        (
            new_listener(json!({"protocol_port": 1e20})),
            input("protocol_port", "1e+20"),
        ),
        (
            new_listener(json!({"connection_limit": -2})),
            input("connection_limit", "-2"),
        ),
        (
            new_listener(json!({"connection_limit": 0})),
            input("connection_limit", "0"),
        ),
        (
            new_listener(json!({"admin_state_up": "perhaps"})),
            input("admin_state_up", "perhaps"),
        ),
        (
            new_listener(json!({"loadbalancer_id": "lb"})),
            format!(
                "{} Value should be UUID format",
                input("loadbalancer_id", "lb")
            ),
        ),
        (
            new_listener(json!({"name": "x".repeat(256)})),
            input("name", &"x".repeat(255)),
        ),
        (new_listener(json!({"name": 7})), input("name", "7")),
        (
            new_listener(json!({"name": "a\nbind *:1"})),
            input("name", "a\nbind *:1"),
        ),
        (
            new_listener(json!({"name": "a\u{0}b"})),
            input("name", "a\u{0}b"),
        ),
        (new_listener(json!({"tags": "a"})), input("tags", "a")),
        (new_listener(json!({"tags": [""]})), input("tags", "[\"\"]")),
        (
            new_listener(json!({"allowed_cidrs": ["10.0.0.0/33"]})),
            input("allowed_cidrs", "[\"10.0.0.0/33\"]"),
        ),
        (
            new_listener(json!({"allowed_cidrs": ["2001:db8::/32"]})),
            "CIDR 2001:db8::/32 IP version incompatible with all VIPs".to_owned(),
        ),
        (
            new_listener(json!({"insert_headers": {"X-Evil": "true"}})),
            "[\"X-Evil\"] is not a valid option for insert_headers".to_owned(),
        ),
        (
            new_listener(json!({"insert_headers": {"X-SSL-Client-CN": "true"}})),
            "is not a valid option for HTTP protocol listener.".to_owned(),
        ),
        (
            new_listener(json!({"insert_headers": {"X-Forwarded-For": "true\r\nX: y"}})),
            "should be \"true\" or \"false\"".to_owned(),
        ),
        (
            new_listener(json!({"protocol": "TCP", "insert_headers": {"X-Forwarded-For": "true"}})),
            "insert-headers is not a valid option for a TCP protocol listener.".to_owned(),
        ),
        (
            new_listener(json!({"timeout_client_data": 2073600001})),
            input("timeout_client_data", "2073600001"),
        ),
        (new_monitor(json!({"type": "ICMP"})), input("type", "ICMP")),
        (
            new_monitor(json!({"url_path": "a"})),
            input("url_path", "a"),
        ),
        (
            new_monitor(json!({"url_path": "/a b"})),
            input("url_path", "/a b"),
        ),
        (
            new_monitor(json!({"url_path": "/\r\nHost: x"})),
            input("url_path", "/\r\nHost: x"),
        ),
        (
            new_monitor(json!({"expected_codes": "2xx"})),
            input("expected_codes", "2xx"),
        ),
        (
            new_monitor(json!({"expected_codes": "204-200"})),
            input("expected_codes", "204-200"),
        ),
        (
            new_monitor(json!({"max_retries": 11})),
            input("max_retries", "11"),
        ),
        (
            new_monitor(json!({"http_method": "BREW"})),
            input("http_method", "BREW"),
        ),
        (
            new_monitor(json!({"domain_name": "a.example"})),
            "'http_version' must be specified when 'domain_name' is provided.".to_owned(),
        ),
        (
            new_monitor(json!({"domain_name": "a.example", "http_version": 1.0})),
            "http_version 1.0 is not a valid option for".to_owned(),
        ),
        (
            new_monitor(json!({"domain_name": "a b", "http_version": 1.1})),
            input("domain_name", "a b"),
        ),
        (
            new_monitor(json!({"type": "TCP", "url_path": "/"})),
            "url_path is not a valid option for health monitors of type TCP".to_owned(),
        ),
        (
            new_monitor(json!({"type": "UDP-CONNECT"})),
            "The UDP-CONNECT type is only supported for pools of type UDP/SCTP.".to_owned(),
        ),
        (
            new_member(json!({"address": "host"})),
            input("address", "host"),
        ),
        (
            new_member(json!({"address": "10.0.0.1; drop table member"})),
            input("address", "10.0.0.1; drop table member"),
        ),
        (new_member(json!({"weight": 257})), input("weight", "257")),
        (new_member(json!({"weight": true})), input("weight", "true")),
        (
            new_member(json!({"request_sriov": true})),
            "does not allow SR-IOV".to_owned(),
        ),
        (
            new_policy(json!({"action": "NONE"})),
            input("action", "NONE"),
        ),
        (new_policy(json!({})), input("action", "None")),
        (
            new_policy(json!({"action": "REDIRECT_TO_URL"})),
            "redirect_url must not be None".to_owned(),
        ),
        (
            new_policy(json!({"action": "REDIRECT_TO_URL", "redirect_url": "no url"})),
            input("redirect_url", "no url"),
        ),
        (
            new_policy(
                json!({"action": "REDIRECT_TO_URL", "redirect_url": "http://a/\r\nSet-Cookie: x"}),
            ),
            "redirect_url".to_owned(),
        ),
        (
            new_policy(
                json!({"action": "REDIRECT_PREFIX", "redirect_prefix": "http://a", "redirect_http_code": 300}),
            ),
            input("redirect_http_code", "300"),
        ),
        (
            new_policy(
                json!({"redirect_pool_id": pool, "redirect_url": "http://a", "action": "REDIRECT_TO_URL"}),
            ),
            "at the same time".to_owned(),
        ),
    ] {
        let fault = api.post(&path, body.clone()).await.fault(400);
        assert!(fault.contains(&text), "{body}: {fault} / {text}");
    }
    assert!(api.pending().await.is_empty());
    let count = api.get("/v2/lbaas/listeners").await.ok(200)["listeners"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn create_only_attributes_are_unknown_to_an_update() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let listener = api.listener(&lb, 80).await;
    let path = format!("/v2/lbaas/listeners/{listener}");
    let text = api
        .put(&path, json!({"listener": {"protocol_port": 81}}))
        .await
        .fault(400);
    assert_eq!(
        text,
        "Unknown attribute for argument listener_.listener: protocol_port"
    );
    let text = api
        .put(
            &format!("{LBS}/{lb}"),
            json!({"loadbalancer": {"vip_address": "1.1.1.1"}}),
        )
        .await;
    assert_eq!(
        text.fault(400),
        "Unknown attribute for argument load_balancer.loadbalancer: vip_address"
    );
}

#[tokio::test]
async fn unknown_ids_and_injections_find_nothing() {
    let api = Api::new().await;
    api.lb("lb").await;
    for id in [
        "x",
        "%27%20OR%201%3D1--",
        "..%2f..%2fetc",
        "%00",
        "%F0%9F%92%A9",
        "a%0d%0ab",
        "%ff%fe",
    ] {
        for kind in [
            "loadbalancers",
            "listeners",
            "pools",
            "healthmonitors",
            "l7policies",
        ] {
            for answer in [
                api.get(&format!("/v2/lbaas/{kind}/{id}")).await,
                api.delete(&format!("/v2/lbaas/{kind}/{id}")).await,
            ] {
                answer.fault(404);
            }
        }
        let list = api.get(&format!("{LBS}?name={id}")).await.ok(200);
        assert_eq!(list["loadbalancers"], json!([]));
    }
    assert_eq!(
        api.get(LBS).await.ok(200)["loadbalancers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn unicode_is_kept() {
    let api = Api::new().await;
    let lb = api.lb("Größe 🦀 \"quoted\" <b>").await;
    let shown = api.get(&format!("{LBS}/{lb}")).await.ok(200);
    assert_eq!(shown["loadbalancer"]["name"], "Größe 🦀 \"quoted\" <b>");
    let list = api
        .get(&format!(
            "{LBS}?name=Gr%C3%B6%C3%9Fe%20%F0%9F%A6%80%20%22quoted%22%20%3Cb%3E"
        ))
        .await
        .ok(200);
    assert_eq!(list["loadbalancers"].as_array().unwrap().len(), 1);
}
