//! Session persistence of pools: what is taken, kept and refused.

use crate::common::Api;
use serde_json::{Value, json};

fn pool(lb: &str, protocol: &str, persistence: Value) -> Value {
    json!({"pool": {"loadbalancer_id": lb, "protocol": protocol, "lb_algorithm": "ROUND_ROBIN",
        "session_persistence": persistence}})
}

#[tokio::test]
async fn cookies_are_taken_shown_kept_and_removed() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let wanted = json!({"type": "APP_COOKIE", "cookie_name": "JSESSIONID"});
    let made = api
        .post("/v2/lbaas/pools", pool(&lb, "HTTP", wanted))
        .await
        .ok(201);
    api.settle().await;
    let id = made["pool"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v2/lbaas/pools/{id}");
    let shown = |answer: Value| {
        let of = &answer["pool"]["session_persistence"];
        (of["type"].clone(), of["cookie_name"].clone())
    };
    assert_eq!(
        shown(made),
        (json!("APP_COOKIE"), json!("JSESSIONID")),
        "at once"
    );
    let change = |value: Value| json!({"pool": {"session_persistence": value}});
    for (value, want) in [
        (
            json!({"cookie_name": "sid"}),
            (json!("APP_COOKIE"), json!("sid")),
        ),
        (
            json!({"type": "HTTP_COOKIE"}),
            (json!("HTTP_COOKIE"), Value::Null),
        ),
        (json!({}), (Value::Null, Value::Null)),
    ] {
        api.put(&path, change(value.clone())).await.ok(200);
        api.settle().await;
        assert_eq!(shown(api.get(&path).await.ok(200)), want, "{value}");
    }
}

#[tokio::test]
async fn what_cannot_act_is_refused() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let http_cookie = json!({"type": "HTTP_COOKIE"});
    for (protocol, value, why) in [
        ("TCP", http_cookie.clone(), "shows no cookie"),
        ("HTTPS", http_cookie.clone(), "shows no cookie"),
        (
            "HTTP",
            json!({"type": "APP_COOKIE"}),
            "\"cookie_name\" must be specified",
        ),
        (
            "HTTP",
            json!({"type": "HTTP_COOKIE", "cookie_name": "c"}),
            "\"cookie_name\" can only be specified",
        ),
        (
            "HTTP",
            json!({"type": "APP_COOKIE", "cookie_name": "a b"}),
            "Supplied \"cookie_name\" is invalid.",
        ),
    ] {
        let answer = api
            .post("/v2/lbaas/pools", pool(&lb, protocol, value))
            .await;
        let text = answer.fault(400);
        assert!(text.contains(why), "{text}");
    }
    // An HTTPS listener passes through what would hold the cookie.
    let listener =
        json!({"listener": {"loadbalancer_id": lb, "protocol": "HTTPS", "protocol_port": 443}});
    let listener = api.post("/v2/lbaas/listeners", listener).await.ok(201);
    api.settle().await;
    let mut body = pool(&lb, "PROXY", http_cookie.clone());
    body["pool"]["listener_id"] = listener["listener"]["id"].clone();
    let refused = |text: String| assert!(text.contains("listener protocol is 'HTTPS'"), "{text}");
    refused(api.post("/v2/lbaas/pools", body.clone()).await.fault(400));
    body["pool"]["session_persistence"] = json!({"type": "SOURCE_IP"});
    let made = api.post("/v2/lbaas/pools", body).await.ok(201);
    api.settle().await;
    let path = format!("/v2/lbaas/pools/{}", made["pool"]["id"].as_str().unwrap());
    let change = json!({"pool": {"session_persistence": http_cookie}});
    refused(api.put(&path, change).await.fault(400));
    let sticky = api
        .post("/v2/lbaas/pools", pool(&lb, "PROXY", http_cookie))
        .await
        .ok(201);
    api.settle().await;
    let path = format!(
        "/v2/lbaas/listeners/{}",
        listener["listener"]["id"].as_str().unwrap()
    );
    let change = json!({"listener": {"default_pool_id": sticky["pool"]["id"]}});
    refused(api.put(&path, change).await.fault(400));
    assert!(api.pending().await.is_empty());
}
