//! The main job: a load balancer comes up, balances, loses members, follows policies, survives.

use crate::story::Story;
use krater_e2e::amphora::{Amphora, pins};
use krater_e2e::api::text;
use krater_e2e::system::alone;
use krater_e2e::{client, wait};
use serde_json::json;

#[test]
fn a_pair_comes_up_balances_and_leaves_nothing() {
    let _alone = alone();
    let story = Story::new();
    let api = story.system.api;
    story.answers();

    let mut roles: Vec<String> = api
        .amphorae(&story.load_balancer)
        .iter()
        .map(|a| text(&a["role"]))
        .collect();
    roles.sort();
    assert_eq!(roles, ["BACKUP", "MASTER"]);

    let counts = story.spread("/", 90);
    assert_eq!(
        counts.keys().collect::<Vec<_>>(),
        ["web1", "web2", "web3"],
        "{counts:?}"
    );
    assert!(
        counts.values().all(|n| (29..=31).contains(n)),
        "round robin is exact: {counts:?}"
    );

    // Negative control: nothing listens on another port.
    assert!(client::get(&story.client, story.at(81), "/").is_err());

    let ids = story.amphorae();
    api.must(
        "DELETE",
        &format!(
            "/v2/lbaas/loadbalancers/{}?cascade=true",
            story.load_balancer
        ),
        None,
    );
    wait::for_condition("the load balancer is gone", || {
        api.show(&format!("loadbalancers/{}", story.load_balancer))
            .is_none()
    });
    wait::for_condition("no namespace of its amphorae is left", || {
        let left = pins(&story.system);
        !left
            .iter()
            .any(|pin| ids.iter().any(|id| pin.to_string_lossy().contains(id)))
    });
    assert!(client::get(&story.client, story.at(80), "/").is_err());
}

#[test]
fn a_failing_member_leaves_and_comes_back() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    // Negative control: without a monitor a failing member stays in use.
    story.backends[1].set_status(500);
    assert!(story.spread("/", 12).contains_key("status 500"));

    story.monitor();
    let status = || {
        let path = format!("pools/{}/members/{}", story.pool, story.members[1]);
        text(&story.system.api.show(&path).expect("the member")["operating_status"])
    };
    wait::for_condition("web2 is ERROR and gets nothing", || {
        status() == "ERROR"
            && story
                .spread("/", 12)
                .keys()
                .all(|who| who == "web1" || who == "web3")
    });
    story.backends[1].set_status(200);
    wait::for_condition("web2 is ONLINE and gets its share", || {
        status() == "ONLINE" && story.spread("/", 12).get("web2") == Some(&4)
    });
}

#[test]
fn requests_follow_policies() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    assert_eq!(
        story.spread("/api", 6).len(),
        3,
        "without a policy /api is spread as everything"
    );
    let pool = story.create("pools", json!({"pool": {
        "name": "p2", "loadbalancer_id": story.load_balancer, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
    }}));
    story.member(&pool, "web1-again", "192.0.2.201");
    let policy = story.create(
        "l7policies",
        json!({"l7policy": {
            "listener_id": story.listener, "action": "REDIRECT_TO_POOL", "redirect_pool_id": pool,
        }}),
    );
    assert_eq!(
        story.spread("/api", 6).len(),
        3,
        "a policy without rules matches nothing"
    );
    let rule = |kind: &str, value: &str| json!({"rule": {"type": kind, "compare_type": "STARTS_WITH", "value": value}});
    let first = story.create(&format!("l7policies/{policy}/rules"), rule("PATH", "/api"));
    assert_eq!(story.spread("/api", 6).keys().collect::<Vec<_>>(), ["web1"]);
    assert_eq!(story.spread("/", 6).len(), 3);

    story.create(
        &format!("l7policies/{policy}/rules"),
        rule("HOST_NAME", "server"),
    );
    assert_eq!(story.spread("/api", 6).len(), 3, "all rules must match");
    for _ in 0..4 {
        let answer = client::get_host(&story.client, story.at(80), "/api", "server1.example")
            .expect("an answer");
        assert_eq!(answer.text(), "web1");
    }
    story.change(
        "DELETE",
        &format!("l7policies/{policy}/rules/{first}"),
        None,
    );
    story.change("DELETE", &format!("l7policies/{policy}"), None);
    assert_eq!(story.spread("/api", 6).len(), 3);
}

#[test]
fn the_pair_survives_the_death_of_its_active() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    let before = story.amphorae();
    let holds = |id: &String| {
        Amphora::find(&story.system, id)
            .addresses()
            .contains(&story.vip)
    };
    let active = wait::until("one amphora holds the VIP", || {
        let owners: Vec<&String> = before.iter().filter(|id| holds(id)).collect();
        (owners.len() == 1).then(|| owners[0].clone())
    });
    Amphora::find(&story.system, &active).kill_and_cut();
    story.answers();
    let standby = before
        .iter()
        .find(|id| **id != active)
        .expect("the standby")
        .clone();
    assert!(holds(&standby), "the standby holds the VIP");

    let pair = wait::until("a new pair without the dead one", || {
        let list = story.amphorae();
        let status = &story.active()["provisioning_status"];
        (list.len() == 2 && !list.contains(&active) && status == "ACTIVE").then_some(list)
    });
    let fresh = pair
        .iter()
        .find(|id| **id != standby)
        .expect("the replacement")
        .clone();
    wait::for_condition("nothing of the dead amphora is left", || {
        !pins(&story.system)
            .iter()
            .any(|pin| pin.to_string_lossy().contains(&active))
    });
    // The replacement is a real one: it takes over when the other dies too.
    wait::for_condition("the replacement is ready", || {
        Amphora::find(&story.system, &fresh).parts().len() >= 3
    });
    assert!(!holds(&fresh), "who serves goes on serving");
    Amphora::find(&story.system, &standby).kill_and_cut();
    story.answers();
    assert!(holds(&fresh), "the replacement holds the VIP");
    assert_eq!(story.spread("/", 9).len(), 3);
}

#[test]
fn an_ipv6_address_is_served_and_survives() {
    let _alone = alone();
    let system = krater_e2e::system::System::start();
    let api = system.api;
    let subnet = api.subnet("public-subnet6");
    let created = api.create(
        "loadbalancers",
        &json!({"loadbalancer": {"name": "six", "vip_subnet_id": subnet}}),
    );
    let id = text(&created["id"]);
    let vip: std::net::IpAddr = text(&created["vip_address"]).parse().unwrap();
    assert!(vip.is_ipv6());
    let client = std::sync::Arc::new(krater_e2e::place::Place::new(
        &system,
        "public",
        "2001:db8:1::201",
    ));
    let backend = krater_e2e::backend::Backend::start(&system, "192.0.2.201", "web1");
    api.active(&id);
    let listener = api.create(
        "listeners",
        &json!({"listener": {"loadbalancer_id": id, "protocol": "HTTP", "protocol_port": 80}}),
    );
    api.active(&id);
    let pool = api.create(
        "pools",
        &json!({"pool": {
            "listener_id": listener["id"], "protocol": "HTTP", "lb_algorithm": "LEAST_CONNECTIONS",
        }}),
    );
    api.active(&id);
    api.create(
        &format!("pools/{}/members", text(&pool["id"])),
        &json!({"member": {
            "address": "192.0.2.201", "protocol_port": 80, "subnet_id": api.subnet("tenant-subnet"),
        }}),
    );
    api.active(&id);
    let at = std::net::SocketAddr::new(vip, 80);
    let answers = || client::get(&client, at, "/").is_ok_and(|answer| answer.status == 200);
    wait::for_condition("the IPv6 VIP answers", answers);
    // Negative control: nothing listens on another port.
    assert!(client::get(&client, std::net::SocketAddr::new(vip, 81), "/").is_err());

    let active = api
        .amphorae(&id)
        .iter()
        .map(|a| Amphora::find(&system, &text(&a["id"])))
        .find(|amphora| amphora.addresses().contains(&vip))
        .expect("an amphora holds the VIP");
    active.kill_and_cut();
    wait::for_condition("the standby answers", answers);
    assert!(backend.requests() > 0);
}

/// VIPs of both families: each answers, both move together, and both go.
#[test]
fn additional_vips_are_served_and_move_together() {
    let _alone = alone();
    let system = krater_e2e::system::System::start();
    let body = json!({"loadbalancer": {"name": "two", "vip_subnet_id": system.api.subnet("public-subnet"),
        "additional_vips": [{"subnet_id": system.api.subnet("public-subnet6")}]}});
    let created = system.api.create("loadbalancers", &body);
    let story = Story::around(system, &created);
    let more = text(&created["additional_vips"][0]["ip_address"]);
    let six: std::net::IpAddr = more.parse().expect("an address");
    assert!(six.is_ipv6() && story.vip.is_ipv4());
    let place = krater_e2e::place::Place::new(&story.system, "public", "2001:db8:1::201");
    let client6 = std::sync::Arc::new(place);
    let at = |port| std::net::SocketAddr::new(six, port);
    let both = || {
        story.answers();
        wait::for_condition("the further VIP answers", || {
            client::get(&client6, at(80), "/").is_ok_and(|answer| answer.status == 200)
        });
    };
    both();
    // Negative control: nothing listens on another port.
    assert!(client::get(&client6, at(81), "/").is_err());
    let before = story.amphorae();
    let held = |id: &String| {
        let addresses = Amphora::find(&story.system, id).addresses();
        [story.vip, six].map(|vip| addresses.contains(&vip))
    };
    let active = wait::until("one amphora holds both", || {
        let owners: Vec<&String> = before
            .iter()
            .filter(|id| held(id) == [true, true])
            .collect();
        let others = before
            .iter()
            .filter(|id| held(id) == [false, false])
            .count();
        (owners.len() == 1 && others == 1).then(|| owners[0].clone())
    });
    Amphora::find(&story.system, &active).kill_and_cut();
    both();
    let standby = before
        .iter()
        .find(|id| **id != active)
        .expect("the standby");
    assert_eq!(held(standby), [true, true], "they move together");
    wait::for_condition("a new pair", || {
        let list = story.amphorae();
        let status = &story.active()["provisioning_status"];
        list.len() == 2 && !list.contains(&active) && status == "ACTIVE"
    });
    both();
    let path = format!(
        "/v2/lbaas/loadbalancers/{}?cascade=true",
        story.load_balancer
    );
    story.system.api.must("DELETE", &path, None);
    wait::for_condition("both are gone", || {
        client::get(&client6, at(80), "/").is_err()
            && client::get(&story.client, story.at(80), "/").is_err()
    });
}
