//! What an agent refuses, and that a refusal changes nothing.

use crate::story::Story;
use krater_e2e::agent::{Agent, Identity};
use krater_e2e::system::alone;
use serde_json::{Value, json};
use std::io::Write as _;

fn agent(story: &Story) -> (Agent, Value) {
    let amphora = story.system.api.amphorae(&story.load_balancer).remove(0);
    (Agent::of(&story.system, &amphora), amphora)
}

fn document(amphora: &Value, epoch: &Value, generation: u64) -> String {
    json!({
        "schema": krater_model::SCHEMA, "epoch": epoch, "generation": generation,
        "amphora_id": amphora["id"], "request_id": "req-e2e",
    })
    .to_string()
}

#[test]
fn only_the_controller_is_served() {
    let _alone = alone();
    let story = Story::new();
    let (agent, _) = agent(&story);
    let path = "/2.0/info";
    let controller = Identity::controller(&story.system);
    // Positive control: the same request with the right certificate.
    assert_eq!(
        agent
            .send(&controller, "GET", path, "")
            .expect("an answer")
            .status,
        200
    );

    let refused = |identity: &Identity, who: &str| match agent.send(identity, "GET", path, "") {
        Err(_) => {}
        Ok(answer) => assert_eq!(answer.status, 403, "{who} got {}", answer.body),
    };
    refused(&Identity::none(), "no certificate");
    refused(
        &Identity::foreign("krater-controller"),
        "a foreign authority",
    );
    refused(
        &Identity::other_name(&story.system, "somebody-else"),
        "another name",
    );
    let same = Identity::other_name(&story.system, "krater-controller");
    assert_eq!(
        agent
            .send(&same, "GET", path, "")
            .expect("an answer")
            .status,
        200,
        "the name was the reason"
    );
}

#[test]
fn refused_documents_change_nothing() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    let (agent, amphora) = agent(&story);
    let controller = Identity::controller(&story.system);
    let before = agent.state(&story.system);
    let epoch = &before["revision"]["epoch"];
    let generation = before["revision"]["generation"]
        .as_u64()
        .expect("a generation");
    let other = json!({"id": "00000000-0000-4000-8000-000000000001"});
    let mut unknown: Value =
        serde_json::from_str(&document(&amphora, epoch, generation + 1)).expect("JSON");
    unknown["colour"] = json!("red");

    for (what, body, status, code) in [
        (
            "older",
            document(&amphora, epoch, generation - 1),
            409,
            "older-revision",
        ),
        (
            "same number, other content",
            document(&amphora, epoch, generation),
            409,
            "conflicting-revision",
        ),
        (
            "half a document",
            document(&amphora, epoch, generation + 1)[..40].to_owned(),
            400,
            "bad-field",
        ),
        ("unknown field", unknown.to_string(), 400, "bad-field"),
        (
            "another's",
            document(&other, epoch, generation + 1),
            400,
            "bad-field",
        ),
    ] {
        let answer = agent
            .send(&controller, "PUT", "/2.0/state", &body)
            .expect("an answer");
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
        let said: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(said["code"], code, "{what}: {said}");
        assert!(
            said["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{what}: {said}"
        );
        assert_eq!(
            agent.state(&story.system),
            before,
            "{what} changed something"
        );
    }

    // A body that stops in the middle.
    let body = document(&amphora, epoch, generation + 1);
    let mut stream = agent.connect(&controller).expect("a connection");
    let head = format!(
        "PUT /2.0/state HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream
        .write_all(&body.as_bytes()[..body.len() / 2])
        .expect("sent");
    stream.flush().expect("sent");
    drop(stream);
    assert_eq!(
        agent.state(&story.system),
        before,
        "half a body changed something"
    );
    assert_eq!(story.spread("/", 9).len(), 3, "traffic goes on as before");
}
