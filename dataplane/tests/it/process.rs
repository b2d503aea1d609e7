//! The data plane as a process of its own: privileges, restart after a kill, exhausted descriptors.
//! The process is this test binary, started again to run [`child`] alone.

use crate::kit::*;
use krater_dataplane::{Settings, run};
use krater_model::config::DATAPLANE_UID;
use nix::sys::resource::{Resource, setrlimit};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

const CONTROL: &str = "KRATER_IT_CONTROL";
const FILES: &str = "KRATER_IT_FILES";

/// Not a test: the program of the other tests here. Without its variable it is nothing.
#[test]
fn child() {
    let Ok(control) = std::env::var(CONTROL) else {
        return;
    };
    if let Ok(files) = std::env::var(FILES) {
        let files = files.parse().unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, files, files).unwrap();
    }
    run(Settings {
        netns: Some("/proc/self/ns/net".into()),
        control: control.into(),
        uid: Some(DATAPLANE_UID),
        workers: 2,
        progress_fd: None,
        version: "child".into(),
        log: Arc::new(|_| Ok(())),
    })
    .unwrap();
}

struct Process(Child);

impl Process {
    fn start(control: &Path, files: Option<u64>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "process::child", "--nocapture"]);
        command.env(CONTROL, control).stdout(Stdio::null());
        command.envs(files.map(|n| (FILES, n.to_string())));
        let process = Self(command.spawn().unwrap());
        until("control socket", || UnixStream::connect(control).ok());
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn only_what_it_needs_is_left_of_root() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("c.sock");
    let process = Process::start(&control, None);
    let dataplane = Dataplane::attach(&control);
    let mut setup = Setup::tcp(&[echo()]);
    setup.listener().port = krater_model::Port::new(80).unwrap();
    setup.apply(&dataplane);
    assert!(
        goes_round(&mut setup.connect()),
        "a privileged port, bound after root was given up"
    );
    let pid = process.0.id();
    let mut threads = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap();
        if task.file_name().to_str() == Some(&pid.to_string()) {
            continue; // the test harness's own thread
        }
        threads += 1;
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let uid = DATAPLANE_UID.to_string();
        let four = [uid.as_str(); 4].join(" ");
        assert_eq!((field("Uid:"), field("Gid:")), (four.clone(), four));
        assert_eq!(field("Groups:"), "");
        assert_eq!(field("NoNewPrivs:"), "1");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), format!("{:016x}", 1 << 10), "{set}");
        }
    }
    assert!(
        threads >= 3,
        "control thread and two workers, saw {threads}"
    );
}

#[test]
fn after_a_kill_the_next_one_serves_the_same_address() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("c.sock");
    let setup = Setup::tcp(&[echo()]);
    let mut open = Vec::new();
    for _ in 0..2 {
        let process = Process::start(&control, None);
        setup.apply(&Dataplane::attach(&control));
        open.push(setup.connect());
        assert!(open.last_mut().is_some_and(goes_round));
        drop(process); // SIGKILL: the socket file stays behind
    }
    let _living = Process::start(&control, None);
    let mut second = Command::new(std::env::current_exe().unwrap());
    second
        .args(["--exact", "process::child"])
        .env(CONTROL, &control)
        .stdout(Stdio::null());
    let refused = second.stderr(Stdio::null()).status().unwrap();
    assert!(!refused.success(), "two on one control socket");
}

#[test]
fn without_descriptors_it_waits_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("c.sock");
    // 128 are in pipes, some 20 in runtimes and listeners.
    let _process = Process::start(&control, Some(200));
    let dataplane = Dataplane::attach(&control);
    let setup = Setup::tcp(&[echo()]);
    setup.apply(&dataplane);
    let crowd: Vec<_> = (0..150).map(|_| setup.connect()).collect();
    // Connections are refused or wait in the backlog now; those that are served stay so.
    drop(crowd);
    until("served again", || {
        goes_round(&mut setup.connect()).then_some(())
    });
    until("all gone", || {
        let stats = dataplane.listener(setup.lb.listeners[0].id).stats;
        (stats.active_connections == 0).then_some(())
    });
    assert_eq!(dataplane.metric("krater_dataplane_panics_total"), 0);
    assert_eq!(
        dataplane.metric("krater_dataplane_worker_restarts_total"),
        0
    );
}
