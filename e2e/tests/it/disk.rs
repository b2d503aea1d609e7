//! The disk of the controller and its amphorae is full.

use crate::faults::roles;
use crate::story::Story;
use krater_e2e::amphora::Amphora;
use krater_e2e::api::text;
use krater_e2e::client::{Kind, Load};
use krater_e2e::system::{System, alone};
use krater_e2e::wait;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
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

/// A tmpfs over the folder in which an agent keeps its state, seen by this agent alone.
struct SmallState {
    agent: u32,
    folder: PathBuf,
}

impl SmallState {
    /// Small, and full to its last page.
    fn full(story: &Story, amphora: &Amphora) -> Self {
        let amphorae = story.system.state_dir().join("amphorae");
        let small = Self {
            agent: amphora.part("agent").pid,
            folder: amphorae.join(&amphora.id).join("state"),
        };
        small.inside(|folder| {
            let (none, size) = (None::<&str>, Some("size=64k,mode=0700"));
            mount(none, folder, Some("tmpfs"), MsFlags::empty(), size).expect("a tmpfs");
            let filled = std::fs::write(folder.join(FILL), vec![0; 1 << 20]);
            filled.expect_err("a small disk gets full");
        });
        small
    }

    fn free(&self) {
        self.inside(|folder| std::fs::remove_file(folder.join(FILL)).expect("the disk was filled"));
    }

    /// Runs `act` in the agent's mount namespace, on a thread that goes nowhere else afterwards.
    fn inside(&self, act: impl FnOnce(&Path) + Send) {
        let namespace = File::open(format!("/proc/{}/ns/mnt", self.agent)).expect("the agent runs");
        let run = || {
            // A thread that shares its root with others may not change its mounts (setns(2)).
            unshare(CloneFlags::CLONE_FS).expect("unshare");
            setns(namespace, CloneFlags::CLONE_NEWNS).expect("setns");
            act(&self.folder);
        };
        let done = std::thread::scope(|scope| scope.spawn(run).join());
        done.expect("the thread says above what failed");
    }
}

const FILL: &str = "fill";

#[test]
fn an_amphora_whose_disk_is_full_serves_what_it_has_and_takes_the_change_when_there_is_space() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    assert_eq!(story.spread("/", 30).len(), 3);
    let (active, _) = roles(&story);
    let load = Load::start(
        Arc::clone(&story.client),
        story.at(80),
        Kind::KeepAlive,
        &["web1", "web2", "web3"],
    );
    let member = format!(
        "/v2/lbaas/pools/{}/members/{}",
        story.pool, story.members[0]
    );
    let send = |up: bool| {
        let body = json!({"member": {"admin_state_up": up}});
        let answer = story.system.api.send("PUT", &member, Some(&body));
        assert_eq!(answer.expect("an answer").status, 200);
    };

    let small = SmallState::full(&story, &active);
    send(false);
    wait::for_condition("the log names the disk", || {
        let log = story.system.log();
        log.contains("No space left") && log.contains("free or repair the disk")
    });
    // The VIP's owner is the one with the full disk: the change is not in effect, and traffic goes on.
    assert!(active.addresses().contains(&story.vip));
    let before = load.done();
    wait::for_condition("traffic goes on", || load.done() > before + 200);
    assert!(story.spread("/", 30).contains_key("web1"));

    small.free();
    story.active();
    wait::for_condition("the change is in effect", || {
        !story.spread("/", 30).contains_key("web1")
    });
    send(true);
    story.active();
    wait::for_condition("the next one too", || {
        story.spread("/", 30).contains_key("web1")
    });
    assert!(
        active.addresses().contains(&story.vip),
        "nobody failed over"
    );
    assert_eq!(load.stop(), Vec::<String>::new());
}
