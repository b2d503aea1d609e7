//! Bad input: the documented body, and nothing changed.

use crate::story::Story;
use krater_e2e::api::text;
use krater_e2e::system::alone;
use serde_json::{Value, json};

#[test]
fn bad_requests_get_the_documented_answer_and_change_nothing() {
    let _alone = alone();
    let story = Story::new();
    let api = story.system.api;
    let before = api.get("/v2/lbaas/loadbalancers");
    let listeners = api.get("/v2/lbaas/listeners");
    let pools = api.get("/v2/lbaas/pools");
    let lb = story.load_balancer.clone();
    let nowhere = "00000000-0000-4000-8000-00000000dead";
    let listener = |more: Value| {
        let mut body = json!({"loadbalancer_id": lb, "protocol": "HTTP", "protocol_port": 81});
        for (name, value) in more.as_object().expect("an object") {
            body[name] = value.clone();
        }
        json!({"listener": body}).to_string()
    };
    let cases: Vec<(&str, &str, String, String, u16, &str)> = vec![
        (
            "malformed JSON",
            "POST",
            "listeners".into(),
            "{\"listener\": {".into(),
            400,
            "",
        ),
        (
            "unknown attribute",
            "POST",
            "listeners".into(),
            listener(json!({"colour": "red"})),
            400,
            "colour",
        ),
        (
            "wrong type",
            "POST",
            "listeners".into(),
            listener(json!({"protocol_port": "http"})),
            400,
            "protocol_port",
        ),
        (
            "out of range",
            "POST",
            "listeners".into(),
            listener(json!({"protocol_port": 65_536})),
            400,
            "protocol_port",
        ),
        (
            "missing",
            "POST",
            "listeners".into(),
            json!({"listener": {"protocol": "HTTP"}}).to_string(),
            400,
            "",
        ),
        (
            "unknown load balancer",
            "POST",
            "listeners".into(),
            listener(json!({"loadbalancer_id": nowhere})),
            404,
            nowhere,
        ),
        (
            "duplicate port",
            "POST",
            "listeners".into(),
            listener(json!({"protocol_port": 80})),
            409,
            "",
        ),
        (
            "unknown id",
            "GET",
            format!("loadbalancers/{nowhere}"),
            String::new(),
            404,
            nowhere,
        ),
        (
            "unknown id",
            "DELETE",
            format!("pools/{nowhere}"),
            String::new(),
            404,
            nowhere,
        ),
        (
            "create-only attribute",
            "PUT",
            format!("listeners/{}", story.listener),
            json!({"listener": {"protocol_port": 82}}).to_string(),
            400,
            "protocol_port",
        ),
        (
            "children",
            "DELETE",
            format!("loadbalancers/{lb}"),
            String::new(),
            400,
            "",
        ),
    ];
    for (what, method, path, body, status, names) in cases {
        let path = format!("/v2/lbaas/{path}");
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/json"),
        ];
        let answer = api
            .raw(method, &path, &headers, body.as_bytes())
            .expect("an answer");
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
        assert_eq!(
            answer.body["faultcode"], "Client",
            "{what}: {}",
            answer.body
        );
        assert_eq!(
            answer.body["debuginfo"],
            Value::Null,
            "{what}: {}",
            answer.body
        );
        assert!(
            text(&answer.body["faultstring"]).contains(names),
            "{what}: {}",
            answer.body
        );
        let id = answer.header("x-openstack-request-id").unwrap_or_default();
        assert!(id.starts_with("req-"), "{what}: request id {id:?}");
    }
    assert_eq!(api.get("/v2/lbaas/loadbalancers"), before);
    assert_eq!(api.get("/v2/lbaas/listeners"), listeners);
    assert_eq!(api.get("/v2/lbaas/pools"), pools);
    // Positive control: the body that all cases vary is right.
    story.create(
        "listeners",
        serde_json::from_str(&listener(json!({}))).expect("JSON"),
    );
}

#[test]
fn a_load_balancer_in_change_is_immutable_and_quota_holds() {
    let _alone = alone();
    let story = Story::new();
    let api = story.system.api;
    let lb = &story.load_balancer;
    let put = |name: &str| {
        let body = json!({"loadbalancer": {"name": name}});
        api.send("PUT", &format!("/v2/lbaas/loadbalancers/{lb}"), Some(&body))
            .expect("an answer")
    };
    // Two changes at once: one of them finds the load balancer in PENDING_UPDATE.
    let answers = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|i| scope.spawn(move || put(&format!("n{i}"))))
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("a thread"))
            .collect::<Vec<_>>()
    });
    assert!(answers.iter().any(|a| a.status == 200));
    let refused: Vec<_> = answers.iter().filter(|a| a.status == 409).collect();
    assert!(!refused.is_empty(), "{answers:?}");
    for answer in refused {
        let said = text(&answer.body["faultstring"]);
        assert!(
            said.contains("Invalid state") || said.contains("immutable"),
            "{said}"
        );
    }
    story.active();

    let shown = story.active();
    let project = text(&shown["project_id"]);
    api.must(
        "PUT",
        &format!("/v2/lbaas/quotas/{project}"),
        Some(&json!({"quota": {"listener": 1}})),
    );
    let body =
        json!({"listener": {"loadbalancer_id": lb, "protocol": "HTTP", "protocol_port": 90}});
    let answer = api
        .send("POST", "/v2/lbaas/listeners", Some(&body))
        .expect("an answer");
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert!(
        text(&answer.body["faultstring"]).contains("Quota has been met"),
        "{}",
        answer.body
    );
    api.must(
        "PUT",
        &format!("/v2/lbaas/quotas/{project}"),
        Some(&json!({"quota": {"listener": 2}})),
    );
    story.create("listeners", body);
}
