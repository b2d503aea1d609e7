//! What an operator of keepalived had as scripts: `agent/examples/vrrp`, run by the real `sh`.

use super::host::{Host, until};
use super::run::VRRP;
use krater_net::process::{self, Detached, ProcessId};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Of the router.
const TRACKS: &str = r#"track_dataplane = false
track_checks = [{ name = "database", rise = 2, fall = 2, fresh = 2000 }]
"#;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/vrrp")
        .join(name)
}

/// Runs a script of the examples in the host's namespace, whose end ends it.
fn start(host: &Host, name: &str, args: &[&str]) -> ProcessId {
    let amphora = format!("AMPHORA={}", env!("CARGO_BIN_EXE_amphora"));
    let run = host.dir.join("run");
    let mut all: Vec<OsString> = vec![
        amphora.into(),
        "/bin/sh".into(),
        script(name).into(),
        run.into(),
    ];
    all.extend(args.iter().map(OsString::from));
    let child = process::spawn_detached(&Detached {
        program: Path::new("/usr/bin/env"),
        args: &all,
        netns: &host.ns,
        stderr: Some(&host.dir.join(format!("{name}.stderr"))),
    });
    ProcessId::of(child.unwrap().id()).unwrap()
}

/// State and reason of the router, and the process of vrrp.
fn state(host: &Host) -> Option<(String, String, u32)> {
    let (good, text) = host.ctl(&["--json", "vrrp"]);
    let status: serde_json::Value = serde_json::from_str(&text).ok().filter(|_| good)?;
    let router = status["routers"].get(0)?;
    let text = |name: &str| router[name].as_str().map(str::to_owned);
    let pid = u32::try_from(status["pid"].as_u64()?).ok()?;
    Some((text("state")?, text("reason")?, pid))
}

fn becomes(host: &Host, wanted: &str) -> (String, u32) {
    until(wanted, || {
        let (state, reason, pid) = state(host)?;
        (state == wanted).then_some((reason, pid))
    })
}

/// What the hook was called with, in order.
fn told(host: &Host) -> Vec<String> {
    let text = std::fs::read_to_string(host.dir.join("told")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The terms of Actives that were told of.
fn terms(lines: &[String]) -> Vec<u64> {
    let active = lines
        .iter()
        .filter_map(|line| line.strip_prefix("INSTANCE eth0-7 active "));
    active.map(|term| term.parse().unwrap()).collect()
}

#[test]
fn checks_and_notifications_are_programs_of_the_operator() {
    let mut host = Host::new();
    host.add_address("eth0", "192.0.2.2/24");
    host.write(&format!("{VRRP}{TRACKS}"));
    host.run_vrrp();
    let (reason, _) = becomes(&host, "fault");
    assert!(reason.contains("a tracked check is down"), "{reason}");

    // A hook that fails, which must not end the others.
    let hook = host.dir.join("hook");
    let out = host.dir.join("told");
    let text = format!(
        "printf '%s %s %s %s\\n' \"$@\" >> {}; test -n \"$KRATER_EVENT\" && exit 1\n",
        out.display()
    );
    std::fs::write(&hook, text).unwrap();
    start(&host, "notify.sh", &["/bin/sh", hook.to_str().unwrap()]);
    let up = host.dir.join("up");
    let check = start(
        &host,
        "check.sh",
        &["database", "0.1", "1", "test", "-e", up.to_str().unwrap()],
    );
    let set = |is: bool| match is {
        true => std::fs::write(&up, "").unwrap(),
        false => std::fs::remove_file(&up).unwrap(),
    };
    // Until the hook follows.
    for round in 0.. {
        assert!(round < 50, "the hook is not called");
        set(true);
        becomes(&host, "active");
        set(false);
        let (reason, _) = becomes(&host, "fault");
        assert!(reason.contains("a tracked check is down"), "{reason}");
        if !told(&host).is_empty() {
            break;
        }
    }
    let last = |wanted: &str| {
        let end = |line: &String| line.contains(wanted);
        until(wanted, || told(&host).last().is_some_and(end).then_some(()));
    };
    last("INSTANCE eth0-7 fault 0");
    let before = terms(&told(&host)).len();
    set(true);
    becomes(&host, "active");
    last("INSTANCE eth0-7 active ");

    // vrrp dies and is started again: the check and the hook go on with the next one.
    let (_, pid) = becomes(&host, "active");
    ProcessId::of(pid).unwrap().signal(libc::SIGKILL).unwrap();
    until("another one", || {
        state(&host).filter(|(state, _, other)| state == "active" && *other != pid)
    });
    until("it to be told", || {
        (terms(&told(&host)).len() >= before + 2).then_some(())
    });
    let terms = terms(&told(&host));
    assert!(terms.is_sorted_by(|a, b| a < b), "{terms:?}");

    // Nobody checks any more.
    check.signal(libc::SIGKILL).unwrap();
    let (reason, _) = becomes(&host, "fault");
    assert!(reason.contains("not reported"), "{reason}");
    last("INSTANCE eth0-7 fault 0");
}

/// The negative control: what is wrong is said.
#[test]
fn what_the_scripts_are_not_given_they_ask_for() {
    for (name, args) in [
        ("check.sh", &["run", "database", "1"][..]),
        ("notify.sh", &["run"]),
    ] {
        let output = std::process::Command::new("/bin/sh")
            .arg(script(name))
            .args(args)
            .output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {text}");
        assert!(
            text.starts_with("usage: ") && text.contains("RUN_DIR"),
            "{text}"
        );
    }
}
