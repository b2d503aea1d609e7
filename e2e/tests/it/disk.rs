//! The disk of the controller and its amphorae is full.

use crate::story::Story;
use krater_e2e::api::text;
use krater_e2e::client::{Kind, Load};
use krater_e2e::system::{System, alone};
use krater_e2e::wait;
use nix::sys::signal::Signal;
use serde_json::json;
use std::sync::Arc;

/// More than enough to use up what the database had reserved.
const TRIES: u64 = 60;

#[test]
fn a_full_disk_refuses_changes_loses_nothing_and_heals() {
    let _alone = alone();
    let mut story = Story::on(System::on_small_disk(""));
    story.answers();
    let load = Load::start(
        Arc::clone(&story.client),
        story.at(80),
        Kind::KeepAlive,
        &["web1", "web2", "web3"],
    );
    let member = format!("pools/{}/members/{}", story.pool, story.members[0]);
    let shown = |story: &Story| {
        let member = story.system.api.show(&member).expect("the member");
        member["weight"].as_u64().expect("its weight")
    };
    // The negative control: with space the same change works.
    let weight = |n: u64| json!({"member": {"weight": n}});
    story.change("PUT", &member, Some(weight(2)));

    story.system.fill_disk();
    let path = format!("/v2/lbaas/{member}");
    let mut acknowledged = 2;
    let mut refused = 0;
    for next in 3..3 + TRIES {
        let answer = story.system.api.send("PUT", &path, Some(&weight(next)));
        let answer = answer.expect("an answer");
        match answer.status {
            200 => acknowledged = next,
            // An acknowledged one is on its way, which the full disk may stop.
            409 => {}
            503 => {
                let said = text(&answer.body["faultstring"]);
                assert!(said.contains("disk") && said.contains("full"), "{said}");
                refused += 1;
            }
            other => panic!("{other}: {}", answer.body),
        }
        assert_eq!(shown(&story), acknowledged, "what was acknowledged is seen");
    }
    assert!(refused > 0, "the disk was not full");
    let before = load.done();
    wait::for_condition("traffic goes on", || load.done() > before + 200);
    assert_eq!(story.spread("/", 30).len(), 3);

    story.system.free_disk();
    story.active();
    assert_eq!(shown(&story), acknowledged);
    let two = json!({"member": {"admin_state_up": false}});
    story.change("PUT", &member, Some(two));
    assert_eq!(load.stop(), Vec::<String>::new());
    wait::for_condition("the change is in effect", || {
        !story.spread("/", 30).contains_key("web1")
    });
    // And it was written: another controller knows it.
    story.system.stop(Signal::SIGKILL);
    story.system.up();
    story.active();
    assert_eq!(shown(&story), acknowledged);
    assert!(!story.spread("/", 30).contains_key("web1"));
}
