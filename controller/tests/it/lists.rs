//! Filters, tags, sort keys, pages, fields.

use crate::common::Api;
use serde_json::{Value, json};

const POOLS: &str = "/v2/lbaas/pools";

async fn names(api: &Api, query: &str) -> String {
    let list = api.get(&format!("{POOLS}?{query}")).await.ok(200);
    let list = list["pools"].as_array().unwrap();
    let names = list.iter().map(|pool| pool["name"].as_str().unwrap());
    names.collect::<Vec<_>>().join(" ")
}

async fn five_pools() -> (Api, String) {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    for (i, (name, tags)) in [
        ("a", vec!["x"]),
        ("b", vec!["x", "y"]),
        ("c", vec!["y"]),
        ("d", vec![]),
        ("e", vec!["z"]),
    ]
    .into_iter()
    .enumerate()
    {
        let protocol = if i % 2 == 0 { "HTTP" } else { "TCP" };
        let body = json!({"loadbalancer_id": lb, "name": name, "protocol": protocol, "tags": tags,
            "lb_algorithm": "ROUND_ROBIN", "admin_state_up": i != 4});
        api.make(POOLS, "pool", body).await;
    }
    (api, lb)
}

#[tokio::test]
async fn filters_and_tags() {
    let (api, lb) = five_pools().await;
    for (query, expected) in [
        ("name=a".to_owned(), "a"),
        ("protocol=TCP".to_owned(), "b d"),
        ("protocol=TCP&name=d".to_owned(), "d"),
        ("admin_state_up=false".to_owned(), "e"),
        ("project_id=default".to_owned(), "a b c d e"),
        ("tenant_id=other".to_owned(), ""),
        (format!("loadbalancer_id={lb}"), "a b c d e"),
        ("id=none".to_owned(), ""),
        ("tags=x".to_owned(), "a b"),
        ("tags=x,y".to_owned(), "b"),
        ("tags=x&tags=y".to_owned(), "b"),
        ("tags-any=x,z".to_owned(), "a b e"),
        ("not-tags=x,y".to_owned(), "a c d e"),
        ("not-tags-any=x,y".to_owned(), "d e"),
        ("created_at=1999-01-01T00:00:00".to_owned(), ""),
    ] {
        let query = format!("{query}&sort=name");
        assert_eq!(names(&api, &query).await, expected, "{query}");
    }
    for query in [
        "colour=red",
        "name=a&name=b",
        "admin_state_up=perhaps",
        "created_at=now",
    ] {
        assert_eq!(
            api.get(&format!("{POOLS}?{query}")).await.fault(400),
            "One or more arguments are either duplicate or invalid",
            "{query}"
        );
    }
}

/// Nothing was ever changed, so every `updated_at` is null; then some are not.
#[tokio::test]
async fn pages_that_are_sorted_by_what_can_be_null_leave_nothing_out() {
    let (api, _) = five_pools().await;
    for changed in [&[][..], &["b", "d"]] {
        for name in changed {
            let list = api.get(&format!("{POOLS}?name={name}")).await.ok(200);
            let id = list["pools"][0]["id"].as_str().unwrap();
            let change = json!({"pool": {"description": "changed"}});
            api.put(&format!("{POOLS}/{id}"), change).await.ok(200);
            api.settle().await;
        }
        for direction in ["asc", "desc"] {
            let (mut seen, mut marker) = (Vec::new(), String::new());
            for _ in 0..5 {
                let query = format!("sort=updated_at:{direction}&limit=1{marker}");
                let page = api.get(&format!("{POOLS}?{query}")).await.ok(200);
                let pool = &page["pools"][0];
                seen.push(pool["name"].as_str().unwrap().to_owned());
                marker = format!("&marker={}", pool["id"].as_str().unwrap());
            }
            let mut names = seen.clone();
            names.sort();
            assert_eq!(names.concat(), "abcde", "{direction}: {seen:?}");
            // Null is less than any time, on every engine.
            let at = |name: &str| seen.iter().position(|seen| seen == name).unwrap();
            for name in changed {
                assert_eq!(at(name) > at("a"), direction == "asc", "{seen:?}");
            }
        }
    }
}

#[tokio::test]
async fn every_shown_attribute_can_be_filtered_and_sorted_by() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let listener = api.listener(&lb, 80).await;
    let pool = json!({"listener_id": listener, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN"});
    let pool = api.make(POOLS, "pool", pool).await;
    let members = format!("{POOLS}/{pool}/members");
    let body = json!({"address": "10.0.0.1", "protocol_port": 80, "weight": 3});
    api.make(&members, "member", body).await;
    let body = json!({"pool_id": pool, "type": "HTTP", "delay": 1, "timeout": 1, "max_retries": 1});
    api.make("/v2/lbaas/healthmonitors", "healthmonitor", body)
        .await;
    let body = json!({"listener_id": listener, "action": "REJECT"});
    let policy = api.make("/v2/lbaas/l7policies", "l7policy", body).await;
    let rules = format!("/v2/lbaas/l7policies/{policy}/rules");
    let body = json!({"type": "PATH", "compare_type": "EQUAL_TO", "value": "/a"});
    api.make(&rules, "rule", body).await;
    for (path, root) in [
        ("/v2/lbaas/loadbalancers", "loadbalancers"),
        ("/v2/lbaas/listeners", "listeners"),
        (POOLS, "pools"),
        (&members, "members"),
        ("/v2/lbaas/healthmonitors", "healthmonitors"),
        ("/v2/lbaas/l7policies", "l7policies"),
        (&rules, "rules"),
    ] {
        let item = api.get(path).await.ok(200)[root][0].clone();
        for (name, value) in item.as_object().unwrap() {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Bool(_) | Value::Number(_) => value.to_string(),
                _ => continue,
            };
            if is_constant(name) {
                continue;
            }
            let answer = api
                .get(&format!("{path}?{name}={text}&sort={name}:desc"))
                .await
                .ok(200);
            assert_eq!(
                answer[root].as_array().unwrap().len(),
                1,
                "{path}?{name}={text}"
            );
        }
    }
}

/// Attributes that are the same for all until the feature exists.
fn is_constant(name: &str) -> bool {
    name.contains("tls")
        || name.contains("hsts")
        || name.contains("vnic")
        || name == "tenant_id"
        || name == "client_authentication"
        || name == "healthmonitor_id" // Of the children, and upstream refuses it too.
}

#[tokio::test]
async fn pages_follow_each_other() {
    let (api, _) = five_pools().await;
    let mut seen = Vec::new();
    let mut path = format!("{POOLS}?limit=2&sort=name:desc");
    let mut pages = 0;
    loop {
        let page = api.get(&path).await.ok(200);
        let items = page["pools"].as_array().unwrap();
        seen.extend(items.iter().map(|p| p["name"].as_str().unwrap().to_owned()));
        pages += 1;
        let links = page["pools_links"].as_array().unwrap();
        let rel = |rel: &str| links.iter().find(|link| link["rel"] == rel);
        assert_eq!(rel("previous").is_some(), pages > 1);
        let Some(next) = rel("next") else { break };
        let href = next["href"].as_str().unwrap();
        assert!(href.starts_with("http://api:9876/v2/lbaas/pools?limit=2&sort=name:desc&marker="));
        path = href.strip_prefix("http://api:9876").unwrap().to_owned();
    }
    assert_eq!(seen, ["e", "d", "c", "b", "a"]);
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn upstreams_quirks_of_links() {
    let (api, _) = five_pools().await;
    let exact = api.get(&format!("{POOLS}?limit=5")).await.ok(200);
    assert_eq!(
        exact["pools_links"][0]["rel"], "next",
        "a full page has a next even when it is last"
    );
    let whole = api.get(POOLS).await.ok(200);
    assert_eq!(whole["pools_links"], json!([]));
    for limit in ["0", "-1", "infinite"] {
        let page = api.get(&format!("{POOLS}?limit={limit}")).await.ok(200);
        let href = page["pools_links"][0]["href"].as_str().unwrap();
        assert!(href.contains("?limit=None&marker="), "{href}");
    }
    let last = whole["pools"][4]["id"].as_str().unwrap();
    let after = api.get(&format!("{POOLS}?marker={last}")).await.ok(200);
    assert_eq!(
        (&after["pools"], &after["pools_links"]),
        (&json!([]), &json!([]))
    );
    let before = format!("marker={last}&page_reverse=True&limit=2&sort=name");
    assert_eq!(
        names(&api, &before).await,
        "a b",
        "the order is not reversed"
    );
    let sorted = api
        .get(&format!("{POOLS}?sort_key=name&sort_dir=desc&limit=1"))
        .await
        .ok(200);
    assert_eq!(sorted["pools"][0]["name"], "e");
    let href = sorted["pools_links"][0]["href"].as_str().unwrap();
    assert!(
        href.contains("sort_key=name") && !href.contains("sort_dir"),
        "{href}"
    );
    for (query, text) in [
        (
            "limit=some",
            "Supplied pagination limit 'some' is not valid.",
        ),
        (
            "marker=none",
            "Supplied pagination marker 'none' is not valid.",
        ),
        ("sort=colour", "Supplied sort key 'colour' is not valid."),
        ("sort=name:up", "Supplied sort direction 'up' is not valid."),
    ] {
        assert_eq!(api.get(&format!("{POOLS}?{query}")).await.fault(400), text);
    }
}

/// The longest query of sort keys: a condition for a marker must not grow with the square of their number.
#[tokio::test]
async fn a_key_that_is_named_a_thousand_times_counts_once() {
    let (api, _) = five_pools().await;
    let first = api.get(&format!("{POOLS}?sort=name&limit=1")).await.ok(200);
    let marker = first["pools"][0]["id"].as_str().unwrap();
    let keys = "name:desc,".repeat(1_500);
    let query = format!("marker={marker}&page_reverse=True&sort={keys}name");
    assert_eq!(names(&api, &query).await, "e d c b");
    let query = format!("marker={marker}&sort=name,{keys}name");
    assert_eq!(names(&api, &query).await, "b c d e", "the first one counts");
}

/// A marker is one of the rows of the list: others' are not found, and say nothing about themselves.
#[tokio::test]
async fn a_marker_of_another_list_is_none() {
    let (api, lb) = five_pools().await;
    let page = api.get(&format!("{POOLS}?limit=1")).await.ok(200);
    let pool = page["pools"][0]["id"].as_str().unwrap().to_owned();
    let of = |project: &str| format!("{POOLS}?marker={pool}&project_id={project}");
    api.get(&of("default")).await.ok(200);
    let refused = format!("Supplied pagination marker '{pool}' is not valid.");
    assert_eq!(api.get(&of("other")).await.fault(400), refused);
    let members = format!("{POOLS}/{pool}/members");
    let body = json!({"address": "10.0.0.1", "protocol_port": 80});
    let member = api.make(&members, "member", body).await;
    api.get(&format!("{members}?marker={member}")).await.ok(200);
    let other = format!("{POOLS}/{}/members?marker={member}", api.pool(&lb).await);
    api.get(&other).await.fault(400);
}

#[tokio::test]
async fn fields_keep_only_what_is_asked() {
    let (api, _) = five_pools().await;
    let list = api
        .get(&format!("{POOLS}?fields=name&fields=protocol&name=a"))
        .await
        .ok(200);
    assert_eq!(list["pools"], json!([{"name": "a", "protocol": "HTTP"}]));
    let id = api.get(POOLS).await.ok(200)["pools"][0]["id"].clone();
    let one = api
        .get(&format!("{POOLS}/{}?fields=name", id.as_str().unwrap()))
        .await
        .ok(200);
    assert_eq!(one, json!({"pool": {"name": "a"}}));
}
