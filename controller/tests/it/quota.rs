//! Quotas.

use crate::common::Api;
use serde_json::json;
use std::sync::Arc;

/// At the same time.
const CREATORS: usize = 64;

#[tokio::test]
async fn limits_are_stored_shown_and_reset() {
    let api = Api::new().await;
    let unlimited = json!({"quota": {"loadbalancer": -1, "load_balancer": -1, "listener": -1,
        "pool": -1, "member": -1, "healthmonitor": -1, "health_monitor": -1, "l7policy": -1,
        "l7rule": -1}});
    for path in ["defaults", "p1", "p1/default"] {
        assert_eq!(
            api.get(&format!("/v2.0/lbaas/quotas/{path}")).await.ok(200),
            unlimited
        );
    }
    api.delete("/v2/lbaas/quotas/p1").await.fault(404);
    let body = json!({"quota": {"loadbalancer": 5, "health_monitor": "7"}});
    let shown = api.put("/v2/lbaas/quotas/p1", body).await.ok(202);
    assert_eq!(shown["quota"]["load_balancer"], 5);
    assert_eq!(shown["quota"]["healthmonitor"], 7);
    let list = api.get("/v2/lbaas/quotas").await.ok(200);
    assert_eq!(list["quotas"][0]["project_id"], "p1");
    assert_eq!(list["quotas"][0]["loadbalancer"], 5);
    api.put("/v2/lbaas/quotas/p1", json!({"quota": {"pool": -2}}))
        .await
        .fault(400);
    for (limit, shown) in [
        ("load_balancer", "loadbalancer"),
        ("healthmonitor", "health_monitor"),
    ] {
        let body = json!({"quota": {limit: 3}});
        let answer = api.put("/v2/lbaas/quotas/p1", body).await.ok(202);
        assert_eq!(
            (&answer["quota"][limit], &answer["quota"][shown]),
            (&json!(3), &json!(3))
        );
    }
    // The project is that of the path.
    for twin in ["project_id", "tenant_id"] {
        let body = |project: &str| json!({"quota": {"pool": 4, twin: project}});
        let answer = api.put("/v2/lbaas/quotas/p1", body("p1")).await.ok(202);
        assert_eq!(answer["quota"]["pool"], 4);
        let text = api.put("/v2/lbaas/quotas/p1", body("p2")).await.fault(400);
        assert!(text.contains("The quota is that of project p1"), "{text}");
    }
    assert_eq!(api.delete("/v2/lbaas/quotas/p1").await.text, "");
    assert_eq!(api.get("/v2/lbaas/quotas/p1").await.ok(200), unlimited);
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_paged() {
    let api = Api::new().await;
    for (project, pools, listeners) in [("a", 1, 7), ("b ü&", 2, 7), ("c", 3, 5)] {
        let path = format!("/v2/lbaas/quotas/{}", project.replace(' ', "%20"));
        let body = json!({"quota": {"pool": pools, "listener": listeners}});
        api.put(&path.replace('ü', "%C3%BC"), body).await.ok(202);
    }
    let found = async |query: &str| {
        let list = api.get(&format!("/v2/lbaas/quotas?{query}")).await.ok(200);
        let list = list["quotas"].as_array().unwrap().clone();
        let names: Vec<String> = list.iter().map(|q| q["project_id"].to_string()).collect();
        names.concat().replace('"', "")
    };
    for (query, names) in [
        ("", "ab ü&c"),
        ("project_id=c", "c"),
        ("tenant_id=none", ""),
        ("listener=7", "ab ü&"),
        ("listener=7&pool=2", "b ü&"),
        ("sort=pool:desc", "cb ü&a"),
        ("sort=listener,pool:desc", "cb ü&a"),
        ("limit=2", "ab ü&"),
        ("marker=a&limit=1", "b ü&"),
        ("marker=c&page_reverse=True", "ab ü&"),
    ] {
        assert_eq!(found(query).await, names, "{query}");
    }
    // A link leads to the next page, whatever a project is called.
    let mut path = "/v2/lbaas/quotas?limit=1".to_owned();
    let mut seen = 0;
    loop {
        let page = api.get(&path).await.ok(200);
        let links = page["quotas_links"].as_array().unwrap();
        let Some(next) = links.iter().find(|link| link["rel"] == "next") else {
            break;
        };
        seen += 1;
        let href = next["href"].as_str().unwrap();
        path = href.strip_prefix("http://api:9876").unwrap().to_owned();
    }
    assert_eq!(seen, 3);
    for (query, text) in [
        (
            "colour=red",
            "One or more arguments are either duplicate or invalid",
        ),
        (
            "tags=a",
            "One or more arguments are either duplicate or invalid",
        ),
        (
            "marker=none",
            "Supplied pagination marker 'none' is not valid.",
        ),
        ("sort=colour", "Supplied sort key 'colour' is not valid."),
        (
            "limit=some",
            "Supplied pagination limit 'some' is not valid.",
        ),
    ] {
        let path = format!("/v2/lbaas/quotas?{query}");
        assert_eq!(api.get(&path).await.fault(400), text);
    }
}

#[tokio::test]
async fn every_kind_is_counted() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let limit = json!({"quota": {"loadbalancer": 1, "listener": 0, "pool": 1, "member": 0,
        "healthmonitor": 0, "l7policy": 0, "l7rule": 0}});
    api.put("/v2/lbaas/quotas/default", limit).await.ok(202);
    let refused = |what: &str| format!("Quota has been met for resources: {what}");
    let body = json!({"loadbalancer": {"vip_subnet_id": api.subnet}});
    let text = api
        .post("/v2/lbaas/loadbalancers", body.clone())
        .await
        .fault(403);
    assert_eq!(text, refused("Load Balancer"));
    let listener =
        json!({"listener": {"loadbalancer_id": lb, "protocol": "HTTP", "protocol_port": 80}});
    let text = api.post("/v2/lbaas/listeners", listener).await.fault(403);
    assert_eq!(text, refused("Listener"));
    let pool = api.pool(&lb).await;
    let body2 =
        json!({"pool": {"loadbalancer_id": lb, "protocol": "TCP", "lb_algorithm": "SOURCE_IP"}});
    assert_eq!(
        api.post("/v2/lbaas/pools", body2).await.fault(403),
        refused("Pool")
    );
    let members = format!("/v2/lbaas/pools/{pool}/members");
    let member = json!({"address": "10.0.0.1", "protocol_port": 80});
    let text = api
        .post(&members, json!({"member": member}))
        .await
        .fault(403);
    assert_eq!(text, refused("Member"));
    let text = api
        .put(&members, json!({"members": [member]}))
        .await
        .fault(403);
    assert_eq!(text, refused("Member"));
    let monitor = json!({"healthmonitor": {"pool_id": pool, "type": "TCP", "delay": 1, "timeout": 1,
        "max_retries": 1}});
    let text = api
        .post("/v2/lbaas/healthmonitors", monitor)
        .await
        .fault(403);
    assert_eq!(text, refused("Health Monitor"));
    assert!(api.pending().await.is_empty());
    let limit = json!({"quota": {"listener": 1, "l7policy": 0, "l7rule": 0}});
    api.put("/v2/lbaas/quotas/default", limit).await.ok(202);
    let listener = api.listener(&lb, 80).await;
    let policy = json!({"l7policy": {"listener_id": listener, "action": "REJECT"}});
    let text = api.post("/v2/lbaas/l7policies", policy.clone()).await;
    assert_eq!(text.fault(403), refused("L7 Policy"));
    let limit = json!({"quota": {"l7policy": 1}});
    api.put("/v2/lbaas/quotas/default", limit).await.ok(202);
    let made = api.make(
        "/v2/lbaas/l7policies",
        "l7policy",
        policy["l7policy"].clone(),
    );
    let rules = format!("/v2/lbaas/l7policies/{}/rules", made.await);
    let rule = json!({"rule": {"type": "PATH", "compare_type": "EQUAL_TO", "value": "/"}});
    let text = api.post(&rules, rule).await.fault(403);
    assert_eq!(text, refused("L7 Rule"));
    assert!(api.pending().await.is_empty());
    // Deleting gives the place back.
    api.delete(&format!("/v2/lbaas/loadbalancers/{lb}?cascade=true"))
        .await
        .ok(204);
    api.settle().await;
    api.post("/v2/lbaas/loadbalancers", body).await.ok(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_creators_never_exceed_it() {
    let api = Arc::new(Api::new().await);
    let limit = json!({"quota": {"loadbalancer": 5}});
    api.put("/v2/lbaas/quotas/default", limit).await.ok(202);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CREATORS {
        let api = Arc::clone(&api);
        tasks.spawn(async move {
            let body = json!({"loadbalancer": {"vip_subnet_id": api.subnet}});
            api.post("/v2/lbaas/loadbalancers", body)
                .await
                .status
                .as_u16()
        });
    }
    let mut answers = tasks.join_all().await;
    answers.sort_unstable();
    assert_eq!(
        answers.iter().filter(|status| **status == 201).count(),
        5,
        "{answers:?}"
    );
    assert_eq!(
        answers.iter().filter(|status| **status == 403).count(),
        CREATORS - 5,
        "{answers:?}"
    );
    let list = api.get("/v2/lbaas/loadbalancers").await.ok(200);
    let list = list["loadbalancers"].as_array().unwrap();
    let addresses: std::collections::HashSet<_> = list
        .iter()
        .map(|lb| lb["vip_address"].to_string())
        .collect();
    assert_eq!(addresses.len(), 5, "an address is given once");
}

/// Below different load balancers, so that only the quota keeps them apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_creators_of_children_never_exceed_it() {
    let api = Arc::new(Api::new().await);
    let mut lbs = Vec::new();
    for number in 0..CREATORS / 4 {
        lbs.push(api.lb(&format!("lb{number}")).await);
    }
    let limit = json!({"quota": {"listener": 5}});
    api.put("/v2/lbaas/quotas/default", limit).await.ok(202);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..CREATORS {
        let (api, lb) = (Arc::clone(&api), lbs[number % lbs.len()].clone());
        tasks.spawn(async move {
            let body = json!({"listener": {"loadbalancer_id": lb, "protocol": "HTTP",
                "protocol_port": 80 + number}});
            let answer = api.post("/v2/lbaas/listeners", body).await;
            answer.status.as_u16()
        });
    }
    let answers = tasks.join_all().await;
    let count = |status| answers.iter().filter(|answer| **answer == status).count();
    // Who came second to a load balancer finds it PENDING_UPDATE, unless the quota was met before.
    assert_eq!(count(201), 5, "{answers:?}");
    assert_eq!(
        count(201) + count(403) + count(409),
        CREATORS,
        "{answers:?}"
    );
    let list = api.get("/v2/lbaas/listeners").await.ok(200);
    assert_eq!(list["listeners"].as_array().unwrap().len(), 5);
}
