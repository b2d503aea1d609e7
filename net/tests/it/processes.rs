use crate::Lab;
use krater_net::netns::NetNs;
use krater_net::process::{Detached, ProcessId, kill_all_in, processes_in, spawn_detached};
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_detached_process_lives_in_its_namespaces_and_is_killed_with_them() {
    let lab = Lab::make();
    let (a, b) = (lab.netns("a"), lab.netns("b"));
    let log = lab.path("log");
    // A shell that has a child: both must go.
    let script = "echo started >&2; sleep 1000 & wait";
    let spawn = |netns: &NetNs| {
        spawn_detached(&Detached {
            program: Path::new("/bin/sh"),
            args: &["-c".into(), script.into()],
            netns,
            stderr: Some(&log),
        })
        .unwrap()
    };
    let (mut ours, mut other) = (spawn(&a), spawn(&b));
    let id = ProcessId::of(ours.id()).unwrap();
    assert!(id.is_alive());
    assert_eq!(id.command_line().unwrap(), ["/bin/sh", "-c", script]);
    let namespace =
        |kind: &str, pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    assert_ne!(
        namespace("mnt", id.pid),
        namespace("mnt", std::process::id())
    );
    assert_eq!(
        NetNs::of_pid(id.pid).unwrap().id().unwrap(),
        a.id().unwrap()
    );
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.pid)).unwrap();
    let session = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_ascii_whitespace()
        .nth(3)
        .unwrap();
    assert_eq!(session, id.pid.to_string(), "a session of its own");

    let in_a = [a.id().unwrap()];
    while processes_in(&in_a).unwrap().len() < 2 {
        std::thread::yield_now(); // until the shell has its child
    }
    assert_eq!(kill_all_in(&in_a, PATIENCE).unwrap(), 2);
    assert!(!id.is_alive());
    assert!(processes_in(&in_a).unwrap().is_empty());
    ours.wait().unwrap();
    assert!(
        ProcessId::of(other.id()).unwrap().is_alive(),
        "the neighbour lives"
    );
    kill_all_in(&[b.id().unwrap()], PATIENCE).unwrap();
    other.wait().unwrap();
    assert_eq!(kill_all_in(&in_a, PATIENCE).unwrap(), 0);
    assert!(std::fs::read_to_string(&log).unwrap().contains("started"));
}

#[test]
fn a_missing_program_is_named() {
    let lab = Lab::make();
    let a = lab.netns("a");
    let error = spawn_detached(&Detached {
        program: Path::new("/nonexistent/amphora"),
        args: &[],
        netns: &a,
        stderr: None,
    })
    .unwrap_err();
    assert!(
        error.to_string().contains("/nonexistent/amphora"),
        "{error}"
    );
}
