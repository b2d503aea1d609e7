//! Logs: one request id through the whole chain, levels at run time, files of bounded size.

use crate::story::Story;
use krater_e2e::agent::{Agent, Identity};
use krater_e2e::system::{System, alone};
use krater_e2e::wait;
use serde_json::{Value, json};
use std::path::Path;

/// What agent and data plane of an amphora logged.
fn logs_of(story: &Story, amphora: &str) -> String {
    ["agent", "dataplane"]
        .map(|process| {
            let arguments = ["logs", amphora, "--process", process, "--lines", "2000"];
            story.system.run(&arguments)
        })
        .concat()
}

/// The lines that name `id`.
fn with<'a>(log: &'a str, id: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(id)).collect()
}

#[test]
fn one_request_id_runs_from_the_answer_to_the_swap_of_both_data_planes() {
    let _alone = alone();
    // Single steps are logged at debug.
    let debug = "[logging]\nlevel = \"debug\"\n";
    let story = Story::on(System::with(debug, &[]));
    story.answers();
    let path = format!(
        "/v2/lbaas/pools/{}/members/{}",
        story.pool, story.members[0]
    );
    let ask = |weight: u64| {
        let body = json!({"member": {"weight": weight}});
        let answer = story.system.api.send("PUT", &path, Some(&body));
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
        let id = answer.header("x-openstack-request-id").expect("an id");
        let id = id.to_owned();
        assert!(id.starts_with("req-"), "{id}");
        story.active();
        id
    };
    let before = ask(2);
    let id = ask(3);
    assert_ne!(before, id);
    let log = story.system.log();
    let lines = with(&log, &id);
    for part in ["api request", "step done", "flow succeeded"] {
        assert!(
            lines.iter().any(|line| line.contains(part)),
            "the controller's log has {part:?} with {id}: {lines:#?}"
        );
    }
    for amphora in story.amphorae() {
        wait::for_condition("the amphora's log has apply and swap", || {
            let log = logs_of(&story, &amphora);
            let lines = with(&log, &id);
            let revision = |what: &str| {
                let line = lines.iter().find(|line| line.contains(what))?;
                let from = line.find("revision")?;
                let end = line[from..].find(' ').unwrap_or(line.len() - from);
                Some(line[from..from + end].to_owned())
            };
            // The agent's apply and the data plane's swap are of the same generation.
            let applied = revision("desired state");
            applied.is_some() && applied == revision("snapshot applied")
        });
        // The negative control: the change before has lines of its own and none of this one.
        let log = logs_of(&story, &amphora);
        assert!(!with(&log, &before).is_empty());
        assert!(with(&log, &before).iter().all(|line| !line.contains(&id)));
    }
}

#[test]
fn levels_change_while_the_processes_run() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    // Of the controller: a read is logged at debug only.
    let seen = |marker: &str| {
        let path = format!("/v2/lbaas/loadbalancers/{marker}");
        let answer = story.system.api.send("GET", &path, None);
        assert_eq!(answer.expect("an answer").status, 404);
        story.system.log().contains(marker)
    };
    let level = |level: &str| {
        let body = json!({ "level": level });
        let answer = story
            .system
            .api
            .send("PUT", "/krater/v1/log-level", Some(&body));
        answer.expect("an answer").status
    };
    assert!(!seen("quiet-1"));
    assert_eq!(level("debug"), 204);
    wait::for_condition("a line at debug", || seen("loud-1"));
    assert_eq!(level("shout"), 400);
    assert!(seen("loud-2"), "a refused level changes nothing");
    assert_eq!(level("info"), 204);
    assert!(!seen("quiet-2"));

    // Of an amphora, all processes at once.
    let amphora = story.system.api.amphorae(&story.load_balancer).remove(0);
    let id = amphora["id"].as_str().expect("an id");
    let agent = Agent::of(&story.system, &amphora);
    let controller = Identity::controller(&story.system);
    let level = |level: &str| {
        let body = json!({ "level": level }).to_string();
        let answer = agent.send(&controller, "PUT", "/2.0/log-level", &body);
        answer.expect("an answer").status
    };
    let member = format!("pools/{}/members/{}", story.pool, story.members[0]);
    // Lines of the agent and of the data plane about a change that is in effect.
    let change = |weight: u64| {
        let body = json!({"member": {"weight": weight}});
        story.change("PUT", &member, Some(body));
        let log = logs_of(&story, id);
        ["desired state", "snapshot applied"].map(|line| log.matches(line).count())
    };
    let before = change(2);
    assert_eq!(level("error"), 204);
    assert_eq!(change(3), before);
    assert_eq!(level("shout"), 400);
    assert_eq!(change(4), before, "a refused level changes nothing");
    assert_eq!(level("info"), 204);
    assert_eq!(change(5), before.map(|count| count + 1));
}

const SMALL: u64 = 16 * 1024;

fn config(folder: &Path) -> String {
    let file = folder.join("krater.log");
    let file = Value::from(file.to_string_lossy().into_owned());
    format!(
        "[logging]\nlevel = \"debug\"\njson = true\nfile = {file}\nmax_bytes = {SMALL}\nkeep = 2\n"
    )
}

#[test]
fn files_are_rotated_by_size_and_bounded_in_number() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let system = System::with(&config(folder.path()), &[]);
    let sizes = || -> Vec<(String, u64)> {
        let entries = std::fs::read_dir(folder.path()).expect("the folder");
        let mut all: Vec<_> = entries
            .flatten()
            .map(|entry| {
                let size = entry.metadata().map_or(0, |meta| meta.len());
                (entry.file_name().to_string_lossy().into_owned(), size)
            })
            .collect();
        all.sort();
        all
    };
    let list = |marker: &str| {
        let path = format!("/v2/lbaas/loadbalancers/{marker}");
        let answer = system.api.send("GET", &path, None);
        assert_eq!(answer.expect("an answer").status, 404);
    };
    // Many times what all files together may hold; a line has more than 100 bytes.
    for n in 0..5 * 3 * SMALL / 100 {
        list(&format!("marker-{n}"));
    }
    list("the-last-one");
    wait::for_condition("the last line is written", || {
        let text = std::fs::read_to_string(folder.path().join("krater.log"));
        text.unwrap_or_default().contains("the-last-one")
    });
    let found = sizes();
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["krater.log", "krater.log.1", "krater.log.2"]);
    assert!(found.iter().all(|(_, size)| *size <= SMALL), "{found:?}");
    for name in names {
        let text = std::fs::read_to_string(folder.path().join(name)).expect("a log");
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).expect("each line is a JSON object");
            assert!(line["level"].is_string() && line["timestamp"].is_string());
        }
        // The first lines are gone, and only those.
        assert!(!text.contains("marker-0\""), "{name}");
    }
}
