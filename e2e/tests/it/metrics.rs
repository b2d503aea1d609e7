//! docs/metrics.md lists what the processes of a running system say about themselves.

use crate::story::Story;
use krater_e2e::agent::{Agent, Identity};
use krater_e2e::api::text;
use krater_e2e::system::alone;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

/// Name → type and help, from a Prometheus text.
fn families(text: &str) -> BTreeMap<String, (String, String)> {
    let mut found: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        if words.next() != Some("#") {
            continue;
        }
        let (kind, name) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let rest = words
            .next()
            .unwrap_or_default()
            .trim_end_matches('.')
            .to_owned();
        let entry = found.entry(name.to_owned()).or_default();
        match kind {
            "HELP" => entry.1 = rest,
            "TYPE" => entry.0 = rest,
            _ => {}
        }
    }
    found.retain(|name, _| name.starts_with("krater_"));
    found
}

fn unix(path: &std::path::Path) -> String {
    let mut stream =
        UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

#[test]
fn the_list_of_metrics_is_what_the_processes_say() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    let amphora = story.system.api.amphorae(&story.load_balancer).remove(0);
    let run = story
        .system
        .state_dir()
        .join("amphorae")
        .join(text(&amphora["id"]))
        .join("run");
    let agent = Agent::of(&story.system, &amphora);
    let answer = agent
        .send(&Identity::controller(&story.system), "GET", "/metrics", "")
        .expect("an answer");
    let controller = story
        .system
        .api
        .send("GET", "/metrics", None)
        .expect("an answer");
    let path = krater_e2e::root().join("docs/metrics.md");
    let document = std::fs::read_to_string(&path).expect("docs/metrics.md");
    let mut missing = Vec::new();
    for (title, said) in [
        ("Controller: the API's address", text(&controller.body)),
        (
            "Agent: port 9443, with the controller's certificate",
            answer.body,
        ),
        (
            "Data plane: `dataplane.sock` in the amphora's run folder",
            unix(&run.join("dataplane.sock")),
        ),
        (
            "vrrp: `vrrp.sock` in the amphora's run folder",
            unix(&run.join("vrrp.sock")),
        ),
    ] {
        let found = families(&said);
        assert!(found.len() > 2, "{title}: {said}");
        for (name, (kind, help)) in found {
            assert!(!help.is_empty(), "{name} has no help text");
            // A name ends at its back-tick, or where its labels begin.
            let counter = kind == "counter" && !name.ends_with("_total");
            let name = match kind.as_str() {
                "info" => format!("{name}_info"),
                _ if counter => format!("{name}_total"),
                _ => name,
            };
            if !document.contains(&format!("`{name}`")) && !document.contains(&format!("`{name}{{"))
            {
                missing.push(name);
            }
        }
    }
    assert!(missing.is_empty(), "docs/metrics.md lacks {missing:?}");
}
