//! Availability zones and their profiles.

use crate::common::Api;
use krater_controller::db::query::network::{self, NewSubnet};
use serde_json::{Value, json};

const PROFILES: &str = "/v2/lbaas/availabilityzoneprofiles";
const ZONES: &str = "/v2/lbaas/availabilityzones";
const LBS: &str = "/v2/lbaas/loadbalancers";
const NIL: &str = "00000000-0000-0000-0000-000000000000";

async fn profile(api: &Api, name: &str, data: &Value) -> String {
    let body = json!({"availability_zone_profile": {"name": name, "provider_name": "amphora",
        "availability_zone_data": data.to_string()}});
    let made = api.post(PROFILES, body).await.ok(201);
    made["availability_zone_profile"]["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn zone(api: &Api, name: &str, profile: &str) -> Value {
    let body =
        json!({"availability_zone": {"name": name, "availability_zone_profile_id": profile}});
    api.post(ZONES, body).await.ok(201)["availability_zone"].clone()
}

#[tokio::test]
async fn a_profile_is_made_shown_changed_and_removed() {
    let api = Api::new().await;
    let id = profile(&api, "p", &json!({"valid_vip_networks": [api.network]})).await;
    let shown = api.get(&format!("{PROFILES}/{id}")).await.ok(200);
    let text = json!({"valid_vip_networks": [api.network]}).to_string();
    let expected = json!({"availability_zone_profile": {"id": id, "name": "p", "provider_name": "amphora",
        "availability_zone_data": text}});
    assert_eq!(shown, expected);
    let list = api.get(PROFILES).await.ok(200);
    assert_eq!(
        list["availability_zone_profiles"],
        json!([expected["availability_zone_profile"]])
    );
    assert!(list["availability_zone_profile_links"].is_array(), "{list}");
    let change =
        json!({"availability_zone_profile": {"name": "q", "availability_zone_data": "{}"}});
    let changed = api.put(&format!("{PROFILES}/{id}"), change).await.ok(200);
    assert_eq!(changed["availability_zone_profile"]["name"], "q");
    assert_eq!(
        changed["availability_zone_profile"]["availability_zone_data"],
        "{}"
    );
    // In use: the name alone can change.
    zone(&api, "z", &id).await;
    let in_use = format!("Availability Zone Profile {id} is in use and cannot be modified.");
    for change in [
        json!({"provider_name": "octavia"}),
        json!({"availability_zone_data": "{}"}),
    ] {
        let body = json!({"availability_zone_profile": change});
        assert_eq!(
            api.put(&format!("{PROFILES}/{id}"), body).await.fault(409),
            in_use
        );
    }
    let body = json!({"availability_zone_profile": {"name": "r"}});
    api.put(&format!("{PROFILES}/{id}"), body).await.ok(200);
    assert_eq!(
        api.delete(&format!("{PROFILES}/{id}")).await.fault(409),
        in_use
    );
    api.delete(&format!("{ZONES}/z")).await.ok(204);
    api.delete(&format!("{PROFILES}/{id}")).await.ok(204);
    for missing in [id.as_str(), NIL] {
        let path = format!("{PROFILES}/{missing}");
        let gone = format!("Availability Zone Profile {missing} not found.");
        assert_eq!(api.get(&path).await.fault(404), gone);
        assert_eq!(api.delete(&path).await.fault(404), gone);
        let body = json!({"availability_zone_profile": {"name": "x"}});
        assert_eq!(api.put(&path, body).await.fault(404), gone);
    }
}

#[tokio::test]
async fn a_zone_is_made_shown_changed_and_removed_by_its_name() {
    let api = Api::new().await;
    let id = profile(&api, "p", &json!({})).await;
    let made = zone(&api, "first hall", &id).await;
    let expected = json!({"name": "first hall", "description": "", "enabled": true,
        "availability_zone_profile_id": id});
    assert_eq!(made, expected);
    let path = format!("{ZONES}/first%20hall");
    assert_eq!(
        api.get(&path).await.ok(200),
        json!({"availability_zone": expected})
    );
    let body =
        json!({"availability_zone": {"name": "first hall", "availability_zone_profile_id": id}});
    let text = api.post(ZONES, body).await.fault(409);
    assert_eq!(text, "A availability zone of first hall already exists.");
    let change = json!({"availability_zone": {"description": "d", "enabled": "false"}});
    let changed = api.put(&path, change).await.ok(200);
    assert_eq!(changed["availability_zone"]["description"], "d");
    assert_eq!(changed["availability_zone"]["enabled"], false);
    for fixed in ["name", "availability_zone_profile_id"] {
        let text = api
            .put(&path, json!({"availability_zone": {fixed: id}}))
            .await
            .fault(400);
        assert!(
            text.contains(&format!(
                "Unknown attribute for argument availability_zone_.availability_zone: {fixed}"
            )),
            "{text}"
        );
    }
    for (body, said) in [
        (json!({"availability_zone_profile_id": id}), "name"),
        (json!({"name": "x"}), "availability_zone_profile_id"),
        (
            json!({"name": "x", "availability_zone_profile_id": "x"}),
            "UUID",
        ),
        (
            json!({"name": "x".repeat(256), "availability_zone_profile_id": id}),
            "255",
        ),
    ] {
        let text = api
            .post(ZONES, json!({"availability_zone": body}))
            .await
            .fault(400);
        assert!(text.contains(said), "{text}");
    }
    let body = json!({"availability_zone": {"name": "x", "availability_zone_profile_id": NIL}});
    assert_eq!(
        api.post(ZONES, body).await.fault(404),
        format!("Availability Zone Profile {NIL} not found.")
    );
    api.delete(&path).await.ok(204);
    for missing in ["first%20hall", NIL] {
        let path = format!("{ZONES}/{missing}");
        let gone = format!(
            "Availability Zone {} not found.",
            missing.replace("%20", " ")
        );
        assert_eq!(api.get(&path).await.fault(404), gone);
        assert_eq!(api.delete(&path).await.fault(404), gone);
        let body = json!({"availability_zone": {"description": "x"}});
        assert_eq!(api.put(&path, body).await.fault(404), gone);
    }
}

#[tokio::test]
async fn zones_are_listed_filtered_sorted_and_paged() {
    let api = Api::new().await;
    let id = profile(&api, "p", &json!({})).await;
    for name in ["b", "a", "c"] {
        zone(&api, name, &id).await;
    }
    let body = json!({"availability_zone": {"enabled": false}});
    api.put(&format!("{ZONES}/c"), body).await.ok(200);
    for (query, expected) in [
        ("sort=name", "a b c"),
        ("sort=name:desc", "c b a"),
        ("name=b", "b"),
        ("enabled=False", "c"),
        ("sort=name&limit=2", "a b"),
        ("sort=name&limit=2&marker=b", "c"),
        (
            &format!("availability_zone_profile_id={id}&sort=name"),
            "a b c",
        ),
    ] {
        let list = api.get(&format!("{ZONES}?{query}")).await.ok(200);
        let zones = list["availability_zones"].as_array().unwrap();
        let names: Vec<&str> = zones
            .iter()
            .map(|zone| zone["name"].as_str().unwrap())
            .collect();
        assert_eq!(names.join(" "), expected, "{query}");
    }
    let page = api.get(&format!("{ZONES}?sort=name&limit=2")).await.ok(200);
    let next = page["availability_zones_links"][0]["href"]
        .as_str()
        .unwrap();
    assert!(next.ends_with("?limit=2&sort=name&marker=b"), "{next}");
    let fields = api
        .get(&format!("{ZONES}?name=a&fields=description"))
        .await
        .ok(200);
    assert_eq!(fields["availability_zones"], json!([{"description": ""}]));
}

#[tokio::test]
async fn bodies_that_make_no_profile_are_refused() {
    let api = Api::new().await;
    for (body, said) in [
        (
            json!({"provider_name": "amphora", "availability_zone_data": "{}"}),
            "name",
        ),
        (
            json!({"name": "n", "availability_zone_data": "{}"}),
            "provider_name",
        ),
        (
            json!({"name": "n", "provider_name": "amphora"}),
            "availability_zone_data",
        ),
        (
            json!({"name": "n", "provider_name": "x", "availability_zone_data": "{}"}),
            "Provider 'x' is not enabled.",
        ),
        (
            json!({"name": "n", "provider_name": "amphora", "availability_zone_data": "x"}),
            "x is not a valid option for availability_zone_data",
        ),
        (
            json!({"name": "n", "provider_name": "amphora", "availability_zone_data": "{\"compute_zone\": \"a\"}"}),
            "not supported yet: compute_zone",
        ),
        (
            json!({"name": "n", "provider_name": "amphora", "availability_zone_data": "{\"valid_vip_networks\": 1}"}),
            "1 is not a valid option for valid_vip_networks",
        ),
        (
            json!({"name": "n", "provider_name": "amphora", "availability_zone_data": " ".repeat(4097)}),
            "4096",
        ),
        (
            json!({"name": "n", "provider_name": "amphora", "availability_zone_data": "{}", "colour": 1}),
            "colour",
        ),
    ] {
        let text = api
            .post(PROFILES, json!({"availability_zone_profile": body}))
            .await
            .fault(400);
        assert!(text.contains(said), "{text}");
    }
    let list = api.get(PROFILES).await.ok(200);
    assert_eq!(list["availability_zone_profiles"], json!([]));
}

/// What a zone does: its VIPs are on its networks.
#[tokio::test]
async fn a_zone_decides_on_which_networks_its_vips_are() {
    let api = Api::new().await;
    let subnets = [NewSubnet {
        name: "other".into(),
        cidr: "198.51.100.0/24".parse().unwrap(),
        gateway: None,
    }];
    let other = network::create_network(api.db.write(), "other", 1500, false, &subnets);
    let other = other.await.unwrap().to_string();
    let id = profile(
        &api,
        "p",
        &json!({"valid_vip_networks": [api.network.to_uppercase()]}),
    )
    .await;
    zone(&api, "z", &id).await;
    let post = async |network: &str, zone: &str| {
        let body = json!({"loadbalancer": {"vip_network_id": network, "availability_zone": zone}});
        api.post(LBS, body).await
    };
    let made = post(&api.network, "z").await.ok(201);
    assert_eq!(made["loadbalancer"]["availability_zone"], "z");
    let refused = "Validation failure: Supplied VIP network_id is not allowed by the configuration of this deployment.";
    assert_eq!(post(&other, "z").await.fault(400), refused);
    assert_eq!(
        post(&api.network, "x").await.fault(400),
        "Validation failure: Invalid availability_zone."
    );
    // Without a zone the same network is good, and nothing of the refused ones is left.
    let body = json!({"loadbalancer": {"vip_network_id": other}});
    let made = api.post(LBS, body).await.ok(201);
    assert_eq!(made["loadbalancer"]["vip_address"], "198.51.100.2");
    assert_eq!(made["loadbalancer"]["availability_zone"], Value::Null);
    api.settle().await;
    let list = api.get(&format!("{LBS}?availability_zone=z")).await.ok(200);
    let lb = list["loadbalancers"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(list["loadbalancers"].as_array().unwrap().len(), 1);
    // In use until its load balancer is gone.
    let in_use = "Availability Zone z is in use and cannot be modified.";
    assert_eq!(api.delete(&format!("{ZONES}/z")).await.fault(409), in_use);
    let body = json!({"availability_zone": {"enabled": false}});
    api.put(&format!("{ZONES}/z"), body).await.ok(200);
    let text = post(&api.network, "z").await.fault(400);
    assert_eq!(
        text,
        "The selected availability_zone is not allowed in this deployment: z"
    );
    api.delete(&format!("{LBS}/{lb}")).await.ok(204);
    api.settle().await;
    api.delete(&format!("{ZONES}/z")).await.ok(204);
}

#[tokio::test]
async fn a_provider_says_what_a_zone_can_ask_for() {
    let api = Api::new().await;
    let path = "/v2/lbaas/providers/amphora/availability_zone_capabilities";
    let shown = api.get(path).await.ok(200);
    let all = shown["availability_zone_capabilities"].as_array().unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["name"], "valid_vip_networks");
    let none = api.get(&format!("{path}?name=x")).await.ok(200);
    assert_eq!(none["availability_zone_capabilities"], json!([]));
    api.get("/v2/lbaas/providers/x/availability_zone_capabilities")
        .await
        .fault(400);
}
