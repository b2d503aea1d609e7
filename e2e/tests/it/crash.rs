//! The controller dies at every step of every flow: before the step's effect, after it, and with the
//! transaction that says so written but not committed. The list of steps comes from the program itself
//! (`krater flows --steps --json`), so that a new step is covered by itself, and a flow that this test
//! cannot start fails it.

use crate::story::Story;
use krater_e2e::amphora::{Amphora, pins};
use krater_e2e::api::text;
use krater_e2e::system::{System, alone};
use krater_e2e::wait;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicU32, Ordering};

const POINTS: [&str; 3] = ["before", "after", "uncommitted"];
/// Two controllers die in a row without heartbeats being missed for long: silence does not count here.
const PATIENT: &str = "[heartbeat]\nstale_after_ms = 600000\n";

/// Steps of a flow, as the program lists them.
fn steps(system: &System, flow: &str) -> Vec<String> {
    let listed: Value =
        serde_json::from_str(&system.run(&["flows", "--steps", "--json"])).expect("JSON");
    let of = |f: &&Value| f["flow"] == flow;
    let found = listed
        .as_array()
        .expect("a list")
        .iter()
        .find(of)
        .expect("the flow")
        .clone();
    found["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .map(text)
        .collect()
}

/// Kills the controller at each point of each step; `start` starts the flow, `check` looks afterwards.
fn at_every_step(story: &mut Story, flow: &str, start: impl Fn(&Story), check: impl Fn(&Story)) {
    let steps = steps(&story.system, flow);
    assert!(!steps.is_empty());
    for step in &steps {
        for point in POINTS {
            let at = format!("{flow}:{step}:{point}");
            story.system.stop(Signal::SIGKILL);
            story
                .system
                .environment(&[("KRATER_CRASH_AT", at.as_str())]);
            story.system.up();
            start(story);
            let status = wait::until(&format!("the controller dies at {at}"), || {
                story.system.exited()
            });
            assert_eq!(
                status.signal(),
                Some(Signal::SIGKILL as i32),
                "{at}: {status}"
            );
            story.system.environment(&[]);
            story.system.up();
            check(story);
        }
    }
}

/// What the API shows is what serves, and nothing is missing, twice or left over.
fn whole(story: &Story) {
    wait::for_condition("no flow is left", || {
        story.system.run(&["flows", "--json"]).trim() == "[]"
    });
    story.active();
    let amphorae = story.amphorae();
    assert_eq!(amphorae.len(), 2, "{amphorae:?}");
    wait::for_condition("two namespaces for each amphora, and no others", || {
        let of_amphorae: Vec<String> = pins(&story.system)
            .iter()
            .map(|pin| {
                pin.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned()
            })
            .filter(|name| name.ends_with("-mgmt") || name.ends_with("-vip"))
            .collect();
        of_amphorae.len() == 4
            && of_amphorae
                .iter()
                .all(|name| amphorae.iter().any(|id| name.contains(id.as_str())))
    });
    wait::for_condition("one owner of the VIP", || {
        let owns = |id: &&String| {
            Amphora::find(&story.system, id)
                .addresses()
                .contains(&story.vip)
        };
        amphorae.iter().filter(owns).count() == 1
    });
    for id in &amphorae {
        let parts = Amphora::find(&story.system, id).processes();
        let named: Vec<String> = parts
            .iter()
            .filter_map(|p| {
                p.command_line()
                    .ok()?
                    .get(1)
                    .map(|word| word.to_string_lossy().into_owned())
            })
            .collect();
        for part in ["agent", "dataplane", "vrrp"] {
            assert_eq!(
                named.iter().filter(|n| *n == part).count(),
                1,
                "{part} of {id}: {named:?}"
            );
        }
    }
    story.answers();
    assert_eq!(story.spread("/", 9).len(), 3);
}

fn start(story: &Story, method: &str, path: &str, body: Option<Value>) {
    // The controller may die before it answers.
    let _ = story
        .system
        .api
        .send(method, &format!("/v2/{path}"), body.as_ref());
}

#[test]
fn changes_survive() {
    let _alone = alone();
    let mut story = Story::on(System::with(PATIENT, &[]));
    let number = AtomicU32::new(0);
    at_every_step(
        &mut story,
        "UpdateTree",
        |story| {
            let port = 9_000 + number.fetch_add(1, Ordering::SeqCst);
            start(
                story,
                "POST",
                "lbaas/listeners",
                Some(json!({"listener": {
                    "loadbalancer_id": story.load_balancer, "protocol": "HTTP", "protocol_port": port,
                    "default_pool_id": story.pool,
                }})),
            );
        },
        |story| {
            whole(story);
            let port = 8_999 + number.load(Ordering::SeqCst);
            let listed = story.system.api.get("/v2/lbaas/listeners");
            let shown = listed["listeners"]
                .as_array()
                .expect("a list")
                .iter()
                .any(|l| l["protocol_port"] == port);
            let port = u16::try_from(port).expect("a port");
            let serves = || krater_e2e::client::get(&story.client, story.at(port), "/").is_ok();
            wait::for_condition("what is shown serves, what is not shown does not", || {
                serves() == shown
            });
        },
    );
    let name = AtomicU32::new(0);
    at_every_step(
        &mut story,
        "UpdateLoadBalancer",
        |story| {
            let name = format!("name{}", name.fetch_add(1, Ordering::SeqCst));
            let path = format!("lbaas/loadbalancers/{}", story.load_balancer);
            start(
                story,
                "PUT",
                &path,
                Some(json!({"loadbalancer": {"name": name}})),
            );
        },
        whole,
    );
}

#[test]
fn failovers_survive() {
    let _alone = alone();
    let mut story = Story::on(System::with(PATIENT, &[]));
    let balancer = |story: &Story| {
        start(
            story,
            "PUT",
            &format!("lbaas/loadbalancers/{}/failover", story.load_balancer),
            None,
        );
    };
    at_every_step(&mut story, "FailoverLoadBalancer", balancer, whole);
    let amphora = |story: &Story| {
        let id = story.amphorae().remove(0);
        start(
            story,
            "PUT",
            &format!("octavia/amphorae/{id}/failover"),
            None,
        );
    };
    at_every_step(&mut story, "FailoverAmphora", amphora, whole);
}

#[test]
fn creation_and_deletion_survive() {
    let _alone = alone();
    let mut story = Story::on(System::with(PATIENT, &[]));
    let find = |story: &Story| {
        let listed = story.system.api.get("/v2/lbaas/loadbalancers?name=second");
        text(&listed["loadbalancers"][0]["id"])
    };
    let gone = |story: &Story, id: &str| {
        wait::for_condition("the second load balancer is gone", || {
            story
                .system
                .api
                .show(&format!("loadbalancers/{id}"))
                .is_none()
        });
        whole(story);
    };
    let subnet = story.system.api.subnet("public-subnet");
    let create = |story: &Story| {
        let body = json!({"loadbalancer": {"name": "second", "vip_subnet_id": subnet}});
        start(story, "POST", "lbaas/loadbalancers", Some(body));
    };
    at_every_step(&mut story, "CreateLoadBalancer", create, |story| {
        let id = find(story);
        story.system.api.active(&id);
        assert_eq!(story.system.api.amphorae(&id).len(), 2);
        start(
            story,
            "DELETE",
            &format!("lbaas/loadbalancers/{id}?cascade=true"),
            None,
        );
        gone(story, &id);
    });
    let delete = |story: &Story| {
        let created = story.system.api.create_load_balancer("second");
        let id = text(&created["id"]);
        story.system.api.active(&id);
        start(
            story,
            "DELETE",
            &format!("lbaas/loadbalancers/{id}?cascade=true"),
            None,
        );
    };
    at_every_step(&mut story, "DeleteLoadBalancer", delete, |story| {
        wait::for_condition("the second load balancer is gone", || {
            find(story).is_empty()
        });
        whole(story);
    });
}
