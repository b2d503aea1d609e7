//! Flavors and flavor profiles.

use crate::common::{Api, masked};
use krater_controller::config::Topology;
use krater_controller::db::entity::{load_balancer, quota};
use sea_orm::{EntityTrait, PaginatorTrait};
use serde_json::{Value, json};

const PROFILES: &str = "/v2.0/lbaas/flavorprofiles";
const FLAVORS: &str = "/v2.0/lbaas/flavors";
const SINGLE: &str = r#"{"loadbalancer_topology": "SINGLE"}"#;
const NONE: &str = "11111111-1111-4111-8111-111111111111";
const NIL: &str = "00000000-0000-0000-0000-000000000000";

fn id(shown: &Value) -> String {
    let inner = shown.as_object().unwrap().values().next().unwrap();
    inner["id"].as_str().unwrap().to_owned()
}

async fn profile(api: &Api, name: &str, data: &str) -> String {
    let body = json!({"name": name, "provider_name": "amphora", "flavor_data": data});
    id(&api
        .post(PROFILES, json!({"flavorprofile": body}))
        .await
        .ok(201))
}

async fn flavor(api: &Api, name: &str, profile: &str) -> String {
    let body = json!({"name": name, "flavor_profile_id": profile});
    id(&api.post(FLAVORS, json!({"flavor": body})).await.ok(201))
}

const BALANCERS: &str = "/v2.0/lbaas/loadbalancers";

/// A load balancer of a flavor, ACTIVE.
async fn balancer(api: &Api, flavor: &str) -> String {
    let body = json!({"vip_subnet_id": api.subnet, "flavor_id": flavor});
    api.make(BALANCERS, "loadbalancer", body).await
}

async fn topology(api: &Api, lb: &str) -> String {
    let row = load_balancer::Entity::find_by_id(lb)
        .one(api.db.read())
        .await
        .unwrap();
    row.unwrap().topology
}

#[tokio::test]
async fn a_profile_is_made_shown_changed_and_removed() {
    let api = Api::new().await;
    let body = json!({"name": "single", "provider_name": "amphora", "flavor_data": SINGLE});
    let made = api.post(PROFILES, json!({"flavorprofile": body})).await;
    let made = made.ok(201);
    let mut expected = body.clone();
    expected["id"] = json!("<uuid>");
    assert_eq!(masked(made.clone()), json!({"flavorprofile": expected}));
    let one = format!("{PROFILES}/{}", id(&made));
    assert_eq!(api.get(&one).await.ok(200), made);
    let list = api.get(PROFILES).await.ok(200);
    let all = json!({"flavorprofiles": [made["flavorprofile"]], "flavorprofile_links": []});
    assert_eq!(list, all);
    // The same name again: only names of flavors are unique.
    profile(&api, "single", "{}").await;
    let change = json!({"name": "pair", "flavor_data": "{\n}", "provider_name": "octavia"});
    let changed = api
        .put(&one, json!({"flavorprofile": change}))
        .await
        .ok(200);
    let mut expected = change.clone();
    expected["id"] = json!(id(&made));
    assert_eq!(changed, json!({"flavorprofile": expected}));
    let same = api.put(&one, json!({"flavorprofile": {}})).await.ok(200);
    assert_eq!(same, changed);
    assert_eq!(api.delete(&one).await.ok(204), Value::Null);
    let missing = format!("Flavor Profile {} not found.", id(&made));
    assert_eq!(api.get(&one).await.fault(404), missing);
}

#[tokio::test]
async fn a_flavor_is_made_shown_changed_and_removed() {
    let api = Api::new().await;
    let profile = profile(&api, "single", SINGLE).await;
    let body = json!({"flavor": {"name": "small", "flavor_profile_id": profile}});
    let made = api.post(FLAVORS, body).await.ok(201);
    let expected = json!({"flavor": {"id": "<uuid>", "name": "small", "description": "",
        "enabled": true, "flavor_profile_id": "<uuid>"}});
    assert_eq!(masked(made.clone()), expected);
    assert_eq!(made["flavor"]["flavor_profile_id"], json!(profile));
    let one = format!("{FLAVORS}/{}", id(&made));
    assert_eq!(api.get(&one).await.ok(200), made);
    let list = api.get(FLAVORS).await.ok(200);
    let all = json!({"flavors": [made["flavor"]], "flavors_links": []});
    assert_eq!(list, all);
    let change = json!({"flavor": {"name": "s", "description": "a\nb", "enabled": "False"}});
    let changed = api.put(&one, change).await.ok(200);
    assert_eq!(
        changed["flavor"],
        json!({"id": id(&made), "name": "s", "description": "a\nb", "enabled": false,
            "flavor_profile_id": profile})
    );
    // Its own name is no duplicate; null takes the description away.
    let change = json!({"flavor": {"name": "s", "description": null}});
    let changed = api.put(&one, change).await.ok(200);
    assert_eq!(changed["flavor"]["description"], "");
    assert_eq!(changed["flavor"]["enabled"], false);
    assert_eq!(api.delete(&one).await.ok(204), Value::Null);
    let missing = format!("Flavor {} not found.", id(&made));
    assert_eq!(api.get(&one).await.fault(404), missing);
    // None of it counts in a quota or enqueues a flow.
    let rows = quota::Entity::find().count(api.db.read()).await.unwrap();
    assert_eq!((rows, api.pending().await.len()), (0, 0));
}

#[tokio::test]
async fn bodies_that_make_no_profile_are_refused() {
    let api = Api::new().await;
    let with = |key: &str, value: Value| {
        let mut body = json!({"name": "n", "provider_name": "amphora", "flavor_data": SINGLE});
        body[key] = value;
        json!({"flavorprofile": body})
    };
    let unsupported = |key: &str| {
        format!("Provider 'amphora' does not support a requested option: not supported yet: {key}")
    };
    let long = "x".repeat(256);
    let bad: Vec<(Value, String)> = vec![
        (
            with("flavor_data", json!("{")),
            "{ is not a valid option for flavor_data".into(),
        ),
        (
            with("flavor_data", json!("[]")),
            "[] is not a valid option for flavor_data".into(),
        ),
        (
            with("flavor_data", json!({"a": 1})),
            "Invalid input for field/attribute flavor_data. Value: '{\"a\":1}'. Value should be string".into(),
        ),
        (
            with("flavor_data", json!(r#"{"loadbalancer_topology": "TRIPLE"}"#)),
            "TRIPLE is not a valid option for loadbalancer_topology".into(),
        ),
        (
            with("flavor_data", json!(r#"{"compute_flavor": "m1"}"#)),
            unsupported("compute_flavor"),
        ),
        (
            with("flavor_data", json!(r#"{"sriov_vip": false}"#)),
            unsupported("sriov_vip"),
        ),
        (
            with("flavor_data", json!(r#"{"colour": 1}"#)),
            unsupported("colour"),
        ),
        (
            with("flavor_data", Value::Null),
            "None is not a valid option for flavor_data".into(),
        ),
        (
            with("provider_name", json!("f5")),
            "Provider 'f5' is not enabled.".into(),
        ),
        (
            with("name", Value::Null),
            "None is not a valid option for name".into(),
        ),
        (
            with("name", json!(long)),
            format!("Invalid input for field/attribute name. Value: '{}'. \
                Value should have a maximum character requirement of 255", &long[..255]),
        ),
        (
            with("id", json!(NONE)),
            "Unknown attribute for argument flavor_profile_.flavorprofile: id".into(),
        ),
        (
            json!({"flavorprofile": {}}),
            "Invalid input for field/attribute name. Value: 'None'. Mandatory field missing.".into(),
        ),
    ];
    for (body, text) in &bad {
        assert_eq!(&api.post(PROFILES, body.clone()).await.fault(400), text);
    }
    let one = format!("{PROFILES}/{}", profile(&api, "p", SINGLE).await);
    for (body, text) in bad
        .iter()
        .filter(|(body, _)| body["flavorprofile"] != json!({}))
    {
        assert_eq!(&api.put(&one, body.clone()).await.fault(400), text);
    }
    let too_long = format!("{{{}}}", " ".repeat(4095));
    api.post(PROFILES, with("flavor_data", json!(too_long)))
        .await
        .fault(400);
    let longest = format!("{{{}}}", " ".repeat(4094));
    api.post(PROFILES, with("flavor_data", json!(longest)))
        .await
        .ok(201);
    let list = api.get(PROFILES).await.ok(200);
    assert_eq!(list["flavorprofiles"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn bodies_that_make_no_flavor_are_refused() {
    let api = Api::new().await;
    let profile = profile(&api, "p", SINGLE).await;
    flavor(&api, "taken", &profile).await;
    let with = |key: &str, value: Value| {
        let mut body = json!({"name": "n", "flavor_profile_id": profile});
        body[key] = value;
        json!({"flavor": body})
    };
    for (status, body, text) in [
        (
            409,
            with("name", json!("taken")),
            "A flavor of taken already exists.",
        ),
        (
            400,
            with("name", Value::Null),
            "None is not a valid option for name",
        ),
        (
            404,
            with("flavor_profile_id", json!(NONE)),
            "Flavor Profile 11111111-1111-4111-8111-111111111111 not found.",
        ),
        (
            404,
            with("flavor_profile_id", json!(NIL)),
            "Flavor Profile 00000000-0000-0000-0000-000000000000 not found.",
        ),
        (
            400,
            with("flavor_profile_id", json!("p")),
            "Invalid input for field/attribute flavor_profile_id. Value: 'p'. Value should be UUID format",
        ),
        (
            400,
            with("enabled", json!("perhaps")),
            "Invalid input for field/attribute enabled. Value: 'perhaps'. Value not an unambiguous boolean: perhaps",
        ),
        (
            400,
            with("project_id", json!("p")),
            "Unknown attribute for argument flavor_.flavor: project_id",
        ),
    ] {
        assert_eq!(api.post(FLAVORS, body).await.fault(status), text);
    }
    let one = format!("{FLAVORS}/{}", flavor(&api, "free", &profile).await);
    for (status, change, text) in [
        (
            409,
            json!({"name": "taken"}),
            "A flavor of taken already exists.",
        ),
        (
            400,
            json!({"name": null}),
            "None is not a valid option for name",
        ),
        (
            400,
            json!({"enabled": null}),
            "None is not a valid option for enabled",
        ),
        (
            400,
            json!({"flavor_profile_id": profile}),
            "Unknown attribute for argument flavor_.flavor: flavor_profile_id",
        ),
    ] {
        let answer = api.put(&one, json!({"flavor": change})).await;
        assert_eq!(answer.fault(status), text);
    }
}

#[tokio::test]
async fn what_is_unknown_is_404_and_what_is_in_use_stays() {
    let api = Api::new().await;
    for id in [NONE, NIL, "x"] {
        let one = format!("{PROFILES}/{id}");
        let text = format!("Flavor Profile {id} not found.");
        assert_eq!(api.get(&one).await.fault(404), text);
        let body = json!({"flavorprofile": {"name": "n"}});
        assert_eq!(api.put(&one, body).await.fault(404), text);
        let text = format!("Flavor profile {id} not found.");
        assert_eq!(api.delete(&one).await.fault(404), text);
        let one = format!("{FLAVORS}/{id}");
        let text = format!("Flavor {id} not found.");
        assert_eq!(api.get(&one).await.fault(404), text);
        let body = json!({"flavor": {"name": "n"}});
        assert_eq!(api.put(&one, body).await.fault(404), text);
        assert_eq!(api.delete(&one).await.fault(404), text);
    }
    let profile = profile(&api, "p", SINGLE).await;
    let flavor = flavor(&api, "f", &profile).await;
    let (profile_path, flavor_path) = (
        format!("{PROFILES}/{profile}"),
        format!("{FLAVORS}/{flavor}"),
    );
    let used = format!("Flavor profile {profile} is in use and cannot be modified.");
    for change in [
        json!({"flavor_data": "{}"}),
        json!({"provider_name": "amphora"}),
    ] {
        let answer = api
            .put(&profile_path, json!({"flavorprofile": change}))
            .await;
        assert_eq!(answer.fault(409), used);
    }
    assert_eq!(api.delete(&profile_path).await.fault(409), used);
    let body = json!({"flavorprofile": {"name": "renamed"}});
    let renamed = api.put(&profile_path, body).await.ok(200);
    assert_eq!(renamed["flavorprofile"]["flavor_data"], SINGLE);

    let lb = balancer(&api, &flavor).await;
    let used = format!("Flavor {flavor} is in use and cannot be modified.");
    assert_eq!(api.delete(&flavor_path).await.fault(409), used);
    // One that is deleted uses nothing, though its row is still there.
    api.delete(&format!("{BALANCERS}/{lb}")).await.ok(204);
    assert_eq!(api.delete(&flavor_path).await.fault(409), used);
    api.settle().await;
    api.delete(&flavor_path).await.ok(204);
    api.delete(&profile_path).await.ok(204);
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_paged() {
    let api = Api::new().await;
    let (single, other) = (
        profile(&api, "a", SINGLE).await,
        profile(&api, "b", "{}").await,
    );
    for name in ["c", "a", "b"] {
        let of = if name == "b" { &other } else { &single };
        flavor(&api, name, of).await;
    }
    let names = async |path: &str| {
        let list = api.get(path).await.ok(200);
        let list = list
            .as_object()
            .unwrap()
            .values()
            .find(|v| v[0]["name"].is_string());
        let list = list.cloned().unwrap_or_else(|| json!([]));
        let names = list.as_array().unwrap().iter();
        names
            .map(|f| f["name"].as_str().unwrap().to_owned())
            .collect::<String>()
    };
    let one = format!("{FLAVORS}?sort=name&limit=1");
    let first = api.get(&one).await.ok(200);
    let next = first["flavors_links"][0]["href"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(next.starts_with("http://api:9876/v2.0/lbaas/flavors?limit=1&sort=name&marker="));
    assert_eq!(
        names(next.strip_prefix("http://api:9876").unwrap()).await,
        "b"
    );
    for (query, expected) in [
        (format!("{FLAVORS}?"), "cab"),
        (format!("{FLAVORS}?sort=name:desc"), "cba"),
        (format!("{FLAVORS}?name=a"), "a"),
        (format!("{FLAVORS}?enabled=True&sort=name"), "abc"),
        (format!("{FLAVORS}?enabled=False"), ""),
        (format!("{FLAVORS}?flavor_profile_id={other}"), "b"),
        (format!("{PROFILES}?provider_name=amphora"), "ab"),
        (format!("{PROFILES}?flavor_data={{}}"), "b"),
        (format!("{PROFILES}?id={single}"), "a"),
    ] {
        assert_eq!(names(&query).await, expected, "{query}");
    }
    let page = api.get(&format!("{PROFILES}?limit=1")).await.ok(200);
    assert_eq!(page["flavorprofile_links"][0]["rel"], "next");
    let fields = api
        .get(&format!("{FLAVORS}?fields=name&name=a"))
        .await
        .ok(200);
    assert_eq!(fields["flavors"], json!([{"name": "a"}]));
    for (query, text) in [
        (
            "colour=red",
            "One or more arguments are either duplicate or invalid",
        ),
        (
            "sort=created_at",
            "Supplied sort key 'created_at' is not valid.",
        ),
        (
            "marker=none",
            "Supplied pagination marker 'none' is not valid.",
        ),
    ] {
        for path in [PROFILES, FLAVORS] {
            assert_eq!(api.get(&format!("{path}?{query}")).await.fault(400), text);
        }
    }
}

#[tokio::test]
async fn a_provider_says_what_a_flavor_can_ask_for() {
    let api = Api::new().await;
    let path = "/v2.0/lbaas/providers/amphora/flavor_capabilities";
    let all = api.get(path).await.ok(200);
    let all = all["flavor_capabilities"].as_array().unwrap();
    let names: Vec<&Value> = all.iter().map(|capability| &capability["name"]).collect();
    assert_eq!(names, ["loadbalancer_topology"]);
    // What is named works, and nothing else does.
    profile(&api, "p", SINGLE).await;
    let name = "name=loadbalancer_topology&fields=name";
    for (query, found) in [(name, 1), ("name=compute_flavor", 0), ("description=x", 0)] {
        let some = api.get(&format!("{path}?{query}")).await.ok(200);
        let some = some["flavor_capabilities"].as_array().unwrap();
        assert_eq!(some.len(), found, "{query}");
    }
    let unknown = api.get("/v2/lbaas/providers/f5/flavor_capabilities").await;
    assert_eq!(unknown.fault(400), "Provider 'f5' is not enabled.");
}

#[tokio::test]
async fn a_flavor_decides_the_topology_of_its_load_balancers() {
    const PAIR: &str = r#"{"loadbalancer_topology": "ACTIVE_STANDBY"}"#;
    for default in [Topology::Single, Topology::ActiveStandby] {
        let api = Api::with_topology(default).await;
        for (data, wanted) in [
            (SINGLE, "SINGLE"),
            (PAIR, "ACTIVE_STANDBY"),
            ("{}", default.as_str()),
        ] {
            let flavor = flavor(&api, wanted_name(data), &profile(&api, "p", data).await).await;
            let lb = balancer(&api, &flavor).await;
            assert_eq!(topology(&api, &lb).await, wanted, "{default:?} {data}");
            let shown = api.get(&format!("{BALANCERS}/{lb}")).await.ok(200);
            assert_eq!(shown["loadbalancer"]["flavor_id"], json!(flavor));
            let list = api.get(&format!("{BALANCERS}?flavor_id={flavor}")).await;
            let list = list.ok(200);
            assert_eq!(list["loadbalancers"].as_array().unwrap().len(), 1);
            assert_eq!(list["loadbalancers"][0]["id"], json!(lb));
        }
        // Negative control: without one the configuration decides.
        let lb = api.lb("plain").await;
        assert_eq!(topology(&api, &lb).await, default.as_str());
        let shown = api.get(&format!("{BALANCERS}/{lb}")).await.ok(200);
        assert_eq!(shown["loadbalancer"]["flavor_id"], Value::Null);
    }
}

fn wanted_name(data: &str) -> &str {
    if data == "{}" { "default" } else { data }
}

#[tokio::test]
async fn a_flavor_that_cannot_be_used_makes_no_load_balancer() {
    let api = Api::new().await;
    let profile = profile(&api, "p", SINGLE).await;
    let good = flavor(&api, "good", &profile).await;
    let disabled = flavor(&api, "disabled", &profile).await;
    let path = format!("{FLAVORS}/{disabled}");
    let lb = balancer(&api, &disabled).await;
    api.put(&path, json!({"flavor": {"enabled": false}}))
        .await
        .ok(200);
    for (more, text) in [
        (
            json!({"flavor_id": NONE}),
            "Validation failure: Invalid flavor_id.".to_owned(),
        ),
        (
            json!({"flavor_id": "good"}),
            "Invalid input for field/attribute flavor_id. Value: 'good'. Value should be UUID format".to_owned(),
        ),
        (
            json!({"flavor_id": disabled}),
            format!("The selected flavor is not allowed in this deployment: {disabled}"),
        ),
        (
            json!({"flavor_id": good, "provider": "octavia"}),
            format!("Flavor '{good}' is not compatible with provider 'octavia'"),
        ),
    ] {
        let mut body = json!({"vip_subnet_id": api.subnet});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let answer = api.post(BALANCERS, json!({"loadbalancer": body})).await;
        assert_eq!(answer.fault(400), text);
    }
    assert!(api.pending().await.is_empty());
    let body = json!({"vip_subnet_id": api.subnet, "flavor_id": good, "provider": "amphora"});
    api.make(BALANCERS, "loadbalancer", body).await;
    let body = json!({"vip_subnet_id": api.subnet, "flavor_id": null});
    api.make(BALANCERS, "loadbalancer", body).await;
    // What has the disabled one keeps it; no other can be given to it.
    let path = format!("{BALANCERS}/{lb}");
    let shown = api.get(&path).await.ok(200);
    assert_eq!(shown["loadbalancer"]["flavor_id"], json!(disabled));
    let change = json!({"loadbalancer": {"flavor_id": good}});
    assert_eq!(
        api.put(&path, change).await.fault(400),
        "Unknown attribute for argument load_balancer.loadbalancer: flavor_id"
    );
}
