//! What of the process is granted, and what it says when it is not.

use crate::Test;
use crate::lab::{Lab, Node, wait_until};
use crate::sys;
use krater_model::control::Granted;
use krater_model::control::RouterState::Active;
use serde_json::json;

pub(crate) const TESTS: &[Test] = &[
    ("memory_is_locked_and_stays_so_after_a_rest", locked),
    ("a_limit_that_cannot_be_lifted_is_told", limited),
];

/// Locked memory, in kilobytes, by the kernel.
fn locked_kb(node: &Node) -> u64 {
    field(node, "VmLck:")
}

fn field(node: &Node, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

/// A router, so that there is something to rest from.
fn serve(lab: &mut Lab, start: impl Fn(&mut Node)) {
    start(&mut lab.a);
    let mut config = lab.config(1, 1, 100);
    config["routers"][0]["track_dataplane"] = json!(false);
    config["routers"][0]["peers"] = json!([]);
    lab.a.apply(&config);
    lab.a.state_becomes(Active);
}

/// Whether this process, and so its children, may lift the limit: containers often may not.
fn may_lift() -> bool {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
    hard == RLIM_INFINITY || capabilities >> CAP_SYS_RESOURCE & 1 == 1
}

/// It says what is so, before and after it has given back what only starting needed.
fn locked() {
    let mut lab = Lab::new("memory", false);
    serve(&mut lab, Node::start_untracked);
    assert_eq!(lab.a.status().real_time, Some(Granted::Yes));
    let is_locked = |node: &Node| {
        let said = node.status().memory_locked == Some(Granted::Yes);
        assert_eq!(said, locked_kb(node) > 0);
        said
    };
    assert_eq!(is_locked(&lab.a), may_lift());
    // Two seconds after a change.
    let before = field(&lab.a, "RssFile:");
    wait_until("it to rest", || field(&lab.a, "RssFile:") < before / 2);
    wait_until("memory to be as before", || {
        (locked_kb(&lab.a) > 0) == may_lift()
    });
    assert_eq!(is_locked(&lab.a), may_lift());
    lab.answered_by("a");
}

/// The negative control: another limit, and nobody who may lift it.
fn limited() {
    let mut lab = Lab::new("memory-limited", false);
    serve(&mut lab, |node| node.start_with(sys::limit_locked_memory));
    let Some(Granted::No(why)) = lab.a.status().memory_locked else {
        panic!("{:?}", lab.a.status().memory_locked);
    };
    assert!(why.contains("RLIMIT_MEMLOCK is 65536 bytes"), "{why}");
    assert_eq!(locked_kb(&lab.a), 0);
    lab.answered_by("a");
}
