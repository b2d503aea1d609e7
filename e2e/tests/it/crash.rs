//! The controller dies at every step of every flow: before the step's effect, after it, and with the
//! transaction that says so written but not committed; and at the same points on the way back, when a
//! step fails. The list comes from the program itself (`krater flows --steps --json`), so that a new step is
//! covered by itself, and a flow that this test does not start fails it.

use crate::story::{MEMBERS, Story};
use krater_e2e::amphora::{Amphora, pins};
use krater_e2e::api::text;
use krater_e2e::system::{System, alone};
use krater_e2e::wait;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;

const AT: &str = "KRATER_CRASH_AT";
const FAIL: &str = "KRATER_FAIL_AT";
/// Two controllers die in a row without heartbeats being missed for long: silence does not count here.
/// Certificates are renewed at once by a controller that finds them short.
const PATIENT: &str =
    "[heartbeat]\nstale_after_ms = 600000\n[housekeeping]\ninterval_seconds = 1\n";
/// Amphorae that are made under this have certificates that [`PATIENT`] finds short.
const SHORT: &str = "[certificates]\nvalidity_days = 2\nrotate_before_days = 1\n";

/// What the program lists of a flow: `steps`, and the points `forward`, `turn` and `back`.
fn listed(system: &System, flow: &str) -> Value {
    all(system)
        .into_iter()
        .find(|f| f["flow"] == flow)
        .expect("the flow")
}

fn all(system: &System) -> Vec<Value> {
    let text = system.run(&["flows", "--steps", "--json"]);
    serde_json::from_str(&text).expect("a list")
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().expect("a list").iter().map(text).collect()
}

/// A kind of flow: how it is prepared and asked for, and how things stand afterwards.
struct Flow {
    kind: &'static str,
    /// With a controller that does not die.
    prepare: fn(&mut Story),
    /// Asks for the flow; one that comes by itself needs nothing.
    start: fn(&Story),
    /// It went through, or was undone because nothing of it was in the journal.
    check: fn(&mut Story),
    /// It was undone; ends with everything as before the flow.
    undone: fn(&mut Story),
}

fn nothing(_: &mut Story) {}

const FLOWS: [Flow; 8] = [
    Flow {
        kind: "UpdateTree",
        prepare: nothing,
        start: add_listener,
        check: shown_is_served,
        undone: |story| {
            let listener = second_listener(story).expect("what failed is shown");
            assert_eq!(listener["provisioning_status"], "ERROR");
            assert!(!serves(story, SECOND));
            mended(story);
            shown_is_served(story);
        },
    },
    Flow {
        kind: "UpdateLoadBalancer",
        prepare: nothing,
        start: |story| {
            let path = format!("lbaas/loadbalancers/{}", story.load_balancer);
            let body = json!({"loadbalancer": {"name": "other", "tags": ["new"]}});
            ask(story, "PUT", &path, Some(body));
        },
        check: |story| {
            whole(story);
            let path = format!("loadbalancers/{}", story.load_balancer);
            let body = json!({"loadbalancer": {"name": "lb1", "tags": []}});
            story.change("PUT", &path, Some(body));
        },
        undone: |story| {
            let path = format!("loadbalancers/{}", story.load_balancer);
            let shown = story.system.api.show(&path).expect("it is there");
            assert_eq!(
                (&shown["name"], &shown["tags"]),
                (&json!("lb1"), &json!([]))
            );
            mended(story);
        },
    },
    Flow {
        kind: "FailoverLoadBalancer",
        prepare: nothing,
        start: failover,
        check: whole,
        undone: mended,
    },
    Flow {
        kind: "FailoverAmphora",
        prepare: nothing,
        start: |story| {
            let id = story.amphorae().remove(0);
            ask(
                story,
                "PUT",
                &format!("octavia/amphorae/{id}/failover"),
                None,
            );
        },
        check: whole,
        undone: mended,
    },
    Flow {
        kind: "CreateLoadBalancer",
        prepare: nothing,
        start: create_second,
        check: |story| {
            let id = second(story).expect("it was created");
            story.system.api.active(&id);
            assert_eq!(story.system.api.amphorae(&id).len(), 2);
            remove_second(story);
        },
        undone: |story| {
            let id = second(story).expect("it is shown");
            assert!(story.system.api.amphorae(&id).is_empty());
            remove_second(story);
        },
    },
    Flow {
        kind: "DeleteLoadBalancer",
        prepare: |story| {
            create_second(story);
            let id = second(story).expect("it was created");
            story.system.api.active(&id);
        },
        start: delete_second,
        check: |story| {
            wait::for_condition("the second load balancer is gone", || {
                second(story).is_none()
            });
            whole(story);
        },
        undone: |story| {
            let id = second(story).expect("it is still there");
            assert!(story.system.api.amphorae(&id).is_empty());
            remove_second(story);
        },
    },
    Flow {
        kind: "RotateCertificate",
        prepare: |story| {
            // A failover with short certificates; whoever comes next renews them.
            story.system.stop(Signal::SIGKILL);
            story.system.configure(&format!("{PATIENT}{SHORT}"));
            story.system.up();
            failover(story);
            story.active();
            story.system.stop(Signal::SIGKILL);
            story.system.configure(PATIENT);
        },
        start: |_| {},
        check: renewed,
        undone: renewed,
    },
    Flow {
        kind: "DeleteAmphora",
        prepare: stray,
        start: delete_stray,
        check: |story| {
            wait::for_condition("the stray amphora is gone", || strays(story).is_empty());
            whole(story);
        },
        undone: |story| {
            assert_eq!(strays(story).len(), 1, "it can be deleted again");
            delete_stray(story);
            wait::for_condition("the stray amphora is gone", || strays(story).is_empty());
            whole(story);
        },
    },
];

/// The flow's own controller: dies at `at`.
fn dies(story: &mut Story, at: &str) {
    let status = wait::until(&format!("the controller dies at {at}"), || {
        story.system.exited()
    });
    let signal = status.signal();
    assert_eq!(signal, Some(Signal::SIGKILL as i32), "{at}: {status}");
}

/// Kills the controller at each point of each step, once in a flow.
fn at_every_step(story: &mut Story, flow: &Flow) {
    for point in texts(&listed(&story.system, flow.kind)["forward"]) {
        let at = format!("{}:{point}", flow.kind);
        (flow.prepare)(story);
        story.system.stop(Signal::SIGKILL);
        story.system.environment(&[(AT, at.as_str())]);
        // A flow that comes by itself may end it before it is ready.
        story.system.spawn_up();
        if story.system.ready() {
            (flow.start)(story);
        }
        dies(story, &at);
        story.system.environment(&[]);
        story.system.up();
        (flow.check)(story);
    }
}

/// One flow, in which each step fails in turn and then all are undone; a controller dies at each point of
/// that, and the next one goes on.
fn all_the_way_back(story: &mut Story, flow: &Flow) {
    let found = listed(&story.system, flow.kind);
    let kind = flow.kind;
    let steps = texts(&found["steps"]);
    let mut deaths: Vec<(String, String)> = steps
        .iter()
        .zip(texts(&found["turn"]))
        .map(|(step, point)| (format!("{kind}:{step}"), format!("{kind}:{point}")))
        .collect();
    let last = deaths.last().expect("a step").0.clone();
    let back = texts(&found["back"]).into_iter();
    deaths.extend(back.map(|point| (last.clone(), format!("{kind}:{point}"))));
    (flow.prepare)(story);
    story.system.stop(Signal::SIGKILL);
    for (number, (fail, at)) in deaths.iter().enumerate() {
        story
            .system
            .environment(&[(FAIL, fail.as_str()), (AT, at.as_str())]);
        story.system.spawn_up();
        if number == 0 && story.system.ready() {
            (flow.start)(story);
        }
        dies(story, at);
    }
    story.system.environment(&[]);
    story.system.up();
    wait::for_condition("no flow is left", || no_flow(story));
    let ended = story.system.run(&["flows", "--all", "--json"]);
    let ended: Vec<Value> = serde_json::from_str(&ended).expect("a list");
    let reverted = |f: &Value| f["kind"] == kind && f["state"] == "REVERTED";
    assert!(ended.iter().any(reverted), "{kind}: {ended:?}");
    (flow.undone)(story);
}

fn no_flow(story: &Story) -> bool {
    story.system.run(&["flows", "--json"]).trim() == "[]"
}

/// What the API shows is what serves, and nothing is missing, twice or left over.
fn whole(story: &mut Story) {
    let story = &*story;
    wait::for_condition("no flow is left", || no_flow(story));
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
    wait::for_condition("addresses and ports are the same", || {
        addresses_are_ports(story, &amphorae)
    });
    counted_certificates(story, &amphorae);
    wait::for_condition("each member answers, and nobody else", || {
        let spread = story.spread("/", 9);
        let mut names = MEMBERS.iter().map(|(name, _)| *name);
        spread.len() == MEMBERS.len() && names.all(|name| spread.contains_key(name))
    });
}

/// The ports of amphorae that the API shows are the addresses that the amphorae have, and no others.
fn addresses_are_ports(story: &Story, amphorae: &[String]) -> bool {
    let ports = story.system.api.get("/network/v2.0/ports");
    let ports = ports["ports"].as_array().cloned().unwrap_or_default();
    let of = |id: &str| {
        let mine = ports.iter().filter(|port| port["device_id"] == id);
        let addresses = mine.flat_map(|port| port["fixed_ips"].as_array().cloned());
        let texts = addresses.flatten().map(|ip| text(&ip["ip_address"]));
        texts.collect::<Vec<String>>()
    };
    let same = |id: &String| {
        let mut shown = of(id);
        let found = Amphora::find(&story.system, id).addresses();
        let mut found: Vec<String> = found
            .iter()
            .filter(|ip| ip.is_ipv4() && !ip.is_loopback() && **ip != story.vip)
            .map(ToString::to_string)
            .collect();
        shown.sort();
        found.sort();
        shown.len() == 2 && shown == found
    };
    let owned = ports
        .iter()
        .filter(|p| p["device_owner"] == "compute:krater");
    owned.count() == 2 * amphorae.len() && amphorae.iter().all(same)
}

/// One certificate and one folder for each amphora.
fn counted_certificates(story: &Story, amphorae: &[String]) {
    let ids: BTreeSet<String> = amphorae.iter().cloned().collect();
    let status = story.system.run(&["status", "--json"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let lines = status["load_balancers"].as_array().expect("a list");
    let certified: BTreeSet<String> = lines
        .iter()
        .flat_map(|lb| lb["amphorae"].as_array().cloned().unwrap_or_default())
        .filter(|line| line["certificate_expires"].is_string())
        .map(|line| text(&line["id"]))
        .collect();
    assert_eq!(certified, ids, "certificates");
    let folders = std::fs::read_dir(story.system.state_dir().join("amphorae"));
    let folders: BTreeSet<String> = folders
        .expect("amphorae")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(folders, ids, "folders");
}

fn ask(story: &Story, method: &str, path: &str, body: Option<Value>) {
    // The controller may die before it answers.
    let _ = story
        .system
        .api
        .send(method, &format!("/v2/{path}"), body.as_ref());
}

fn failover(story: &Story) {
    let path = format!("lbaas/loadbalancers/{}/failover", story.load_balancer);
    ask(story, "PUT", &path, None);
}

/// An undone flow leaves ERROR and everything serving; a failover is the way out.
fn mended(story: &mut Story) {
    let path = format!("loadbalancers/{}", story.load_balancer);
    let shown = story.system.api.show(&path).expect("it is there");
    assert_eq!(shown["provisioning_status"], "ERROR");
    story.answers();
    failover(story);
    whole(story);
}

const SECOND: u16 = 9_000;

fn add_listener(story: &Story) {
    let body = json!({"listener": {
        "loadbalancer_id": story.load_balancer, "protocol": "HTTP", "protocol_port": SECOND,
        "default_pool_id": story.pool,
    }});
    ask(story, "POST", "lbaas/listeners", Some(body));
}

fn second_listener(story: &Story) -> Option<Value> {
    let path = format!("/v2/lbaas/listeners?protocol_port={SECOND}");
    let listed = story.system.api.get(&path);
    listed["listeners"].as_array()?.first().cloned()
}

fn serves(story: &Story, port: u16) -> bool {
    krater_e2e::client::get(&story.client, story.at(port), "/").is_ok()
}

/// The second listener serves when it is shown; afterwards it is gone.
fn shown_is_served(story: &mut Story) {
    whole(story);
    let shown = second_listener(story);
    let active = |l: &Value| l["provisioning_status"] == "ACTIVE";
    let wanted = shown.as_ref().is_some_and(active);
    wait::for_condition("what is shown serves, what is not shown does not", || {
        serves(story, SECOND) == wanted
    });
    if let Some(listener) = shown {
        story.change(
            "DELETE",
            &format!("listeners/{}", text(&listener["id"])),
            None,
        );
    }
}

fn second(story: &Story) -> Option<String> {
    let listed = story.system.api.get("/v2/lbaas/loadbalancers?name=second");
    listed["loadbalancers"][0]["id"].as_str().map(str::to_owned)
}

fn create_second(story: &Story) {
    let subnet = story.system.api.subnet("public-subnet");
    let body = json!({"loadbalancer": {"name": "second", "vip_subnet_id": subnet}});
    ask(story, "POST", "lbaas/loadbalancers", Some(body));
}

fn delete_second(story: &Story) {
    let id = second(story).expect("it is there");
    ask(
        story,
        "DELETE",
        &format!("lbaas/loadbalancers/{id}?cascade=true"),
        None,
    );
}

fn remove_second(story: &mut Story) {
    delete_second(story);
    wait::for_condition("the second load balancer is gone", || {
        second(story).is_none()
    });
    whole(story);
}

/// Both amphorae have certificates that are valid for longer than the short ones, and serve.
fn renewed(story: &mut Story) {
    let listed = |story: &Story| story.system.api.amphorae(&story.load_balancer);
    let created: Vec<String> = listed(story)
        .iter()
        .map(|a| text(&a["created_at"]))
        .collect();
    wait::for_condition("certificates are renewed", || {
        let amphorae = listed(story);
        let days = |text: &str| text.get(..10).map(str::to_owned);
        let mut pairs = amphorae.iter().zip(&created);
        pairs.all(|(a, created)| {
            let ends = text(&a["cert_expiration"]);
            a["cert_busy"] == false && month_or_more(&days(created), &days(&ends))
        })
    });
    whole(story);
}

/// Whether the second date is in another month than a date two days after the first could be.
fn month_or_more(from: &Option<String>, to: &Option<String>) -> bool {
    let number = |date: &Option<String>| {
        let mut parts = date.as_deref().unwrap_or_default().split('-');
        let mut next = || parts.next().and_then(|part| part.parse::<i32>().ok());
        let (year, month, day) = (next()?, next()?, next()?);
        Some((year * 12 + month) * 31 + day)
    };
    matches!((number(from), number(to)), (Some(from), Some(to)) if to - from > 10)
}

/// Makes the Backup an amphora in ERROR that belongs to no load balancer, as an operator may find one in a
/// database of long ago; the pair is completed.
fn stray(story: &mut Story) {
    whole(story);
    let owner = |id: &String| {
        Amphora::find(&story.system, id)
            .addresses()
            .contains(&story.vip)
    };
    let id = story.amphorae().into_iter().find(|id| !owner(id));
    let id = id.expect("a Backup");
    story.system.stop(Signal::SIGKILL);
    let sql =
        format!("UPDATE amphora SET status = 'ERROR', load_balancer_id = NULL WHERE id = '{id}'");
    crate::openstack::sql(&story.system.state_dir().join("krater.db"), &sql);
    story.system.up();
    wait::for_condition("the pair is complete", || {
        no_flow(story) && story.amphorae().len() == 2
    });
}

fn strays(story: &Story) -> Vec<String> {
    let listed = story.system.api.get("/v2/octavia/amphorae?status=ERROR");
    let listed = listed["amphorae"].as_array().cloned().unwrap_or_default();
    listed.iter().map(|a| text(&a["id"])).collect()
}

fn delete_stray(story: &Story) {
    let id = strays(story).pop().expect("a stray amphora");
    ask(story, "DELETE", &format!("octavia/amphorae/{id}"), None);
}

fn survive(kinds: &[&str]) {
    let _alone = alone();
    let mut story = Story::on(System::with(PATIENT, &[]));
    for kind in kinds {
        let flow = FLOWS.iter().find(|flow| flow.kind == *kind);
        let flow = flow.unwrap_or_else(|| panic!("{kind} is not in FLOWS"));
        at_every_step(&mut story, flow);
        all_the_way_back(&mut story, flow);
    }
}

const CHANGES: [&str; 2] = ["UpdateTree", "UpdateLoadBalancer"];
const FAILOVERS: [&str; 2] = ["FailoverLoadBalancer", "FailoverAmphora"];
const LIFE: [&str; 2] = ["CreateLoadBalancer", "DeleteLoadBalancer"];
const CARE: [&str; 2] = ["RotateCertificate", "DeleteAmphora"];

#[test]
fn changes_survive() {
    survive(&CHANGES);
}

#[test]
fn failovers_survive() {
    survive(&FAILOVERS);
}

#[test]
fn creation_and_deletion_survive() {
    survive(&LIFE);
}

#[test]
fn care_survives() {
    survive(&CARE);
}

#[test]
fn every_flow_of_the_program_is_killed() {
    let krater = std::process::Command::new(krater_e2e::bin("krater"))
        .args(["flows", "--steps", "--json"])
        .output()
        .expect("krater flows");
    let listed: Vec<Value> = serde_json::from_slice(&krater.stdout).expect("a list");
    let listed: BTreeSet<String> = listed.iter().map(|flow| text(&flow["flow"])).collect();
    let killed = [CHANGES, FAILOVERS, LIFE, CARE].concat();
    let killed: BTreeSet<String> = killed.into_iter().map(str::to_owned).collect();
    assert_eq!(listed, killed);
}
