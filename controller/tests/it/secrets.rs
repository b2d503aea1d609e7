//! The key manager's API, as `openstack secret` uses it.

use crate::common::{Answer, Api};
use axum::body::Body;
use http::{Method, Request};
use krater_controller::db::entity::secret;
use sea_orm::EntityTrait;
use serde_json::{Value, json};

/// Barbican's error body.
#[track_caller]
fn fault(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    let body = answer.json();
    assert_eq!(body["code"], status, "{body}");
    assert!(body["title"].is_string(), "{body}");
    body["description"].as_str().unwrap().to_owned()
}

/// The path of a reference.
fn path(reference: &Value) -> String {
    let text = reference.as_str().unwrap();
    let path = text.strip_prefix("http://api:9876").expect("our own host");
    assert!(path.starts_with("/v1/"), "{path}");
    path.to_owned()
}

async fn with(
    api: &Api,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "api:9876");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    api.send(request.body(Body::from(body.to_vec())).unwrap())
        .await
}

#[tokio::test]
async fn the_client_that_asks_for_the_key_manager_finds_it_at_the_root() {
    let api = Api::new().await;
    let asked = [("openstack-api-version", "key-manager 1.1")];
    let answer = with(&api, Method::GET, "/", &asked, b"").await.ok(200);
    assert_eq!(answer["versions"][0]["id"], "v1");
    assert_eq!(answer["versions"][0]["status"], "STABLE");
    assert_eq!(
        answer["versions"][0]["links"][0]["href"],
        "http://api:9876/v1/"
    );
    // Control: others find Octavia there.
    let answer = api.get("/").await.ok(200);
    assert_eq!(answer["versions"][0]["id"], "v2.0");
    assert_eq!(api.get("/v1").await.ok(200)["version"]["id"], "v1");
}

#[tokio::test]
async fn a_secret_is_stored_shown_listed_and_removed() {
    let api = Api::new().await;
    // With line breaks, as `base64 < file` gives them.
    let body = json!({
        "name": "cert1", "secret_type": "opaque", "algorithm": "aes", "bit_length": 256, "mode": "cbc",
        "payload": "AAEC\nA/8=\n", "payload_content_type": "application/octet-stream",
        "payload_content_encoding": "base64", "expiration": "2999-01-01T00:00:00",
    });
    // The client posts with a slash at the end.
    let made = api.post("/secrets/", body).await.ok(201);
    let one = path(&made["secret_ref"]);
    let shown = api.get(&one).await.ok(200);
    for (name, value) in [
        ("name", json!("cert1")),
        ("status", json!("ACTIVE")),
        ("secret_ref", made["secret_ref"].clone()),
        (
            "content_types",
            json!({"default": "application/octet-stream"}),
        ),
        ("expiration", json!("2999-01-01T00:00:00")),
        ("bit_length", json!(256)),
        ("consumers", json!([])),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    assert!(shown.get("payload").is_none());
    let payload = format!("{one}/payload");
    let accept = [("accept", "application/octet-stream")];
    let request = Request::get(&payload)
        .header("host", "api")
        .header(accept[0].0, accept[0].1);
    let bytes = api.bytes(request.body(Body::empty()).unwrap()).await;
    assert_eq!(bytes, [0, 1, 2, 3, 255]);
    let wrong = with(
        &api,
        Method::GET,
        &payload,
        &[("accept", "text/plain")],
        b"",
    )
    .await;
    assert!(fault(&wrong, 406).contains("application/octet-stream"));

    let text = json!({"name": "text", "payload": "hello", "payload_content_type": "text/plain;charset=utf-8"});
    let second = api.post("/v1/secrets", text).await.ok(201);
    let second = path(&second["secret_ref"]);
    assert_eq!(api.get(&format!("{second}/payload")).await.text, "hello");
    let list = api.get("/secrets?limit=1&offset=0").await.ok(200);
    assert_eq!(
        (
            list["total"].as_u64(),
            list["secrets"].as_array().unwrap().len()
        ),
        (Some(2), 1)
    );
    assert!(
        list["next"]
            .as_str()
            .unwrap()
            .ends_with("/v1/secrets?limit=1&offset=1")
    );
    let list = api.get("/v1/secrets?name=text").await.ok(200);
    assert_eq!(list["total"], 1);
    let answer = api.get("/v1/secrets?bits=3").await;
    assert!(fault(&answer, 501).ends_with("not supported yet: bits"));

    api.delete(&one).await.ok(204);
    fault(&api.get(&one).await, 404);
    fault(&api.get(&payload).await, 404);
    fault(&api.delete(&one).await, 404);
    api.get(&second).await.ok(200);
}

#[tokio::test]
async fn the_payload_comes_in_a_second_step_and_never_changes() {
    let api = Api::new().await;
    let made = api
        .post("/v1/secrets", json!({"name": "later"}))
        .await
        .ok(201);
    let one = path(&made["secret_ref"]);
    assert!(api.get(&one).await.ok(200).get("content_types").is_none());
    fault(&api.get(&format!("{one}/payload")).await, 404);
    let binary = [("content-type", "application/octet-stream")];
    fault(&with(&api, Method::PUT, &one, &binary, b"").await, 400);
    let wrong = [("content-type", "application/json")];
    fault(&with(&api, Method::PUT, &one, &wrong, b"x").await, 400);
    let encoded = [binary[0], ("content-encoding", "base64")];
    with(&api, Method::PUT, &one, &encoded, b"aGVs\nbG8=")
        .await
        .ok(204);
    assert_eq!(api.get(&format!("{one}/payload")).await.text, "hello");
    let text = fault(&with(&api, Method::PUT, &one, &binary, b"other").await, 409);
    assert_eq!(text, "Secret already has data, cannot modify it.");
    assert_eq!(api.get(&format!("{one}/payload")).await.text, "hello");
    let nobody = "/v1/secrets/0f8fad5b-d9cb-469f-a165-70867728950e";
    fault(&with(&api, Method::PUT, nobody, &binary, b"x").await, 404);
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_name_and_nothing_is_kept() {
    let api = Api::new().await;
    let binary = |payload: &str| {
        json!({"payload": payload, "payload_content_type": "application/octet-stream",
               "payload_content_encoding": "base64"})
    };
    let mut without = binary("AAEC");
    without
        .as_object_mut()
        .unwrap()
        .remove("payload_content_encoding");
    let plain = |payload: Value| json!({"payload": payload, "payload_content_type": "text/plain"});
    for (body, status, said) in [
        (binary("%%"), 400, "base64"),
        (binary(""), 400, "empty"),
        (without, 400, "payload_content_encoding must be base64"),
        (plain(json!("x".repeat(40_001))), 413, "at most 40000 bytes"),
        (plain(json!(1)), 400, "must be a string"),
        (
            json!({"payload": "x"}),
            400,
            "payload_content_type must be supplied",
        ),
        (
            json!({"payload_content_type": "text/plain"}),
            400,
            "payload must be provided",
        ),
        (
            json!({"payload": "x", "payload_content_type": "text/html"}),
            400,
            "text/html",
        ),
        (json!({"secret_type": "x"}), 400, "secret_type"),
        (
            json!({"expiration": "2001-01-01T00:00:00"}),
            400,
            "expiration",
        ),
        (json!({"surprise": 1}), 400, "surprise"),
        (json!([]), 400, "JSON object"),
    ] {
        let text = fault(&api.post("/v1/secrets", body.clone()).await, status);
        assert!(text.contains(said), "{body}: {text}");
    }
    assert_eq!(api.get("/v1/secrets").await.ok(200)["total"], 0);
    // At the limit it is taken.
    api.post("/v1/secrets", plain(json!("x".repeat(40_000))))
        .await
        .ok(201);
    // What is kept is sealed.
    let rows = secret::Entity::find().all(api.db.read()).await.unwrap();
    assert!(!rows[0].sealed.as_ref().unwrap().contains(&"x".repeat(16)));
}

#[tokio::test]
async fn containers_hold_references() {
    let api = Api::new().await;
    let store = async |payload: &str| {
        let body = json!({"payload": payload, "payload_content_type": "text/plain"});
        api.post("/v1/secrets", body).await.ok(201)["secret_ref"].clone()
    };
    let (cert, key) = (store("cert").await, store("key").await);
    let refs = json!([{"name": "certificate", "secret_ref": cert}, {"name": "private_key", "secret_ref": key}]);
    let body = json!({"name": "c1", "type": "certificate", "secret_refs": refs});
    let made = api.post("/containers/", body).await.ok(201);
    let one = path(&made["container_ref"]);
    let shown = api.get(&one).await.ok(200);
    assert_eq!(
        (&shown["type"], &shown["name"], &shown["secret_refs"]),
        (&json!("certificate"), &json!("c1"), &refs)
    );
    assert_eq!(api.get("/v1/containers?type=rsa").await.ok(200)["total"], 0);
    assert_eq!(
        api.get("/v1/containers").await.ok(200)["containers"][0],
        shown
    );
    let nobody = "http://api:9876/v1/secrets/0f8fad5b-d9cb-469f-a165-70867728950e";
    let with_refs = |kind: &str, refs: Value| json!({"type": kind, "secret_refs": refs});
    for (body, status, said) in [
        (
            with_refs("certificate", json!([])),
            400,
            "certificate is missing",
        ),
        (with_refs("other", json!([])), 400, "type"),
        (
            with_refs(
                "generic",
                json!([{"name": "a", "secret_ref": "/etc/passwd"}]),
            ),
            400,
            "secret_ref",
        ),
        (
            with_refs("generic", json!([{"name": "a", "secret_ref": nobody}])),
            404,
            "'a' doesn't exist",
        ),
        (
            with_refs(
                "generic",
                json!([{"name": "a", "secret_ref": cert}, {"name": "a", "secret_ref": key}]),
            ),
            400,
            "Duplicate",
        ),
        (
            with_refs("rsa", json!([{"name": "public_key", "secret_ref": cert}])),
            400,
            "private_key is missing",
        ),
    ] {
        let text = fault(&api.post("/v1/containers", body.clone()).await, status);
        assert!(text.contains(said), "{body}: {text}");
    }
    api.delete(&one).await.ok(204);
    fault(&api.get(&one).await, 404);
    api.get(&path(&cert)).await.ok(200);
}

#[tokio::test]
async fn what_a_whole_barbican_has_is_refused_by_name() {
    use krater_controller::app::not_supported::NOT_SUPPORTED;
    let api = Api::new().await;
    let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let mut named = 0;
    for (_, what, _) in NOT_SUPPORTED.iter().filter(|(of, ..)| *of == "key manager") {
        let path = match *what {
            "acl" | "metadata" | "consumers" => format!("/v1/secrets/{id}/{what}"),
            what => format!("/{what}"),
        };
        let text = fault(&api.post(&path, json!({})).await, 501);
        assert!(
            text.ends_with(&format!("not supported yet: {what}")),
            "{text}"
        );
        named += 1;
    }
    assert_eq!(named, 6);
    fault(&api.get(&format!("/containers/{id}/consumers")).await, 501);
}

#[tokio::test]
async fn an_expired_secret_is_not_given_out() {
    use sea_orm::sea_query::Expr;
    use sea_orm::{ColumnTrait, QueryFilter};
    let api = Api::new().await;
    let body = json!({"payload": "x", "payload_content_type": "text/plain",
        "expiration": "2999-01-01T00:00:00.000000+00:00"});
    let made = api.post("/v1/secrets", body).await.ok(201);
    let one = path(&made["secret_ref"]);
    let payload = format!("{one}/payload");
    assert_eq!(api.get(&payload).await.text, "x");
    let (_, id) = one.rsplit_once('/').unwrap();
    let over = krater_controller::db::now() - 1;
    secret::Entity::update_many()
        .col_expr(secret::Column::Expiration, Expr::value(over))
        .filter(secret::Column::Id.eq(id))
        .exec(api.db.write())
        .await
        .unwrap();
    fault(&api.get(&one).await, 404);
    fault(&api.get(&payload).await, 404);
    assert_eq!(api.get("/v1/secrets").await.ok(200)["total"], 0);
    let lb = api.lb("lb").await;
    let body = json!({"listener": {"loadbalancer_id": lb, "protocol": "TERMINATED_HTTPS",
        "protocol_port": 443, "default_tls_container_ref": made["secret_ref"]}});
    let text = api.post("/v2/lbaas/listeners", body).await.fault(400);
    assert!(text.starts_with("Could not retrieve certificate"), "{text}");
    api.delete(&one).await.ok(204);
}
