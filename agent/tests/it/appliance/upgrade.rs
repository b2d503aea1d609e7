//! A new version takes the place of the running one, under traffic.

use super::host::{Host, at, goes_round, until};
use crate::rig::PATIENCE;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

const WEB: &str = "127.0.0.10:8080";
const RAW: &str = "127.0.0.10:9000";
const NEW: &str = env!("CARGO_BIN_EXE_amphora");

fn file(drain_ms: u32) -> String {
    format!(
        r#"
drain_timeout = {drain_ms}
metrics = "127.0.0.1:9101"
[[load_balancers]]
name = "lb"
vips = ["127.0.0.10"]
listeners = [
    {{ protocol = "HTTP", port = 8080, default_pool = "web" }},
    {{ protocol = "TCP", port = 9000, default_pool = "raw" }},
]
pools = [
    {{ name = "web", protocol = "HTTP", members = [{{ address = "127.0.0.21", port = 80 }}] }},
    {{ name = "raw", protocol = "TCP", members = [{{ address = "127.0.0.21", port = 80 }}] }},
]
"#
    )
}

fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let version = text.trim().strip_prefix("amphora ").unwrap();
    version.split_once(" schema ").unwrap().0.to_owned()
}

/// The program as of another commit.
fn old(dir: &Path) -> PathBuf {
    let version = version(Path::new(NEW));
    let (number, commit) = version.split_once(" (").unwrap();
    let other = format!("{number} ({})", "0".repeat(commit.len() - 1));
    let mut bytes = fs::read(NEW).unwrap();
    let starts: Vec<usize> = (0..bytes.len() - version.len())
        .filter(|at| bytes[*at..].starts_with(version.as_bytes()))
        .collect();
    assert!(!starts.is_empty());
    for at in starts {
        bytes[at..at + other.len()].copy_from_slice(other.as_bytes());
    }
    install(dir, &bytes)
}

/// As a package does: a new file under the same name.
fn install(dir: &Path, bytes: &[u8]) -> PathBuf {
    let (half, path) = (dir.join("amphora.new"), dir.join("amphora"));
    fs::write(&half, bytes).unwrap();
    fs::set_permissions(&half, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&half, &path).unwrap();
    path
}

/// The old version serves.
fn host(drain_ms: u32) -> Host {
    let mut host = Host::with_members(&[("127.0.0.21:80", "a1")]);
    // As the package's sysctl.d has it.
    let set = host
        .ns
        .run(|| fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "1"));
    set.unwrap().unwrap();
    host.write(&file(drain_ms));
    let program = old(&host.dir);
    assert_ne!(version(&program), version(Path::new(NEW)));
    host.run_program(&program, &[]);
    host.serves();
    host
}

/// Clients that open a connection for each request, until they are dropped.
struct Clients {
    end: Arc<AtomicBool>,
    good: Arc<AtomicU32>,
    bad: Arc<AtomicU32>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    fn start(host: &Host) -> Self {
        let (end, good, bad) = (Arc::default(), Arc::default(), Arc::default());
        let mut clients = Self {
            end,
            good,
            bad,
            threads: Vec::new(),
        };
        for _ in 0..4 {
            let ns = krater_net::netns::NetNs::open(&host.dir.join("vip")).unwrap();
            let (end, good, bad) = (
                Arc::clone(&clients.end),
                Arc::clone(&clients.good),
                Arc::clone(&clients.bad),
            );
            clients.threads.push(std::thread::spawn(move || {
                let address: SocketAddr = at(WEB);
                while !end.load(Relaxed) {
                    let connected = ns.tcp_connect(address, PATIENCE);
                    let counter = match connected.is_ok_and(is_answered) {
                        true => &good,
                        false => &bad,
                    };
                    counter.fetch_add(1, Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }));
        }
        clients
    }

    /// Waits for more answers; gives how many were bad so far.
    fn more(&self) -> u32 {
        let wanted = self.good.load(Relaxed) + 200;
        until("answers", || {
            (self.good.load(Relaxed) >= wanted).then_some(())
        });
        self.bad.load(Relaxed)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Whether a whole answer comes.
fn is_answered(mut stream: TcpStream) -> bool {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.set_read_timeout(Some(PATIENCE)).is_ok()
        && stream.write_all(request).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.ends_with("a1 ")
}

fn serving_version(host: &Host) -> Option<String> {
    let (_, text) = host.ctl(&["--json", "status"]);
    let status: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(status["dataplane"]["version"].as_str()?.to_owned())
}

#[test]
fn no_new_connection_fails_and_an_old_one_ends_by_itself() {
    let host = host(3_600_000);
    let clients = Clients::start(&host);
    assert_eq!(clients.more(), 0);
    let mut long = host.connect(at(RAW));
    assert!(goes_round(&mut long));
    let before = host.processes();
    install(&host.dir, &fs::read(NEW).unwrap());
    let (good, text) = host.ctl(&["upgrade"]);
    assert!(good, "{text}\n{}", host.logs());
    assert!(text.contains("took the place of"), "{text}");
    assert_eq!(serving_version(&host).unwrap(), version(Path::new(NEW)));
    assert_eq!(clients.more(), 0, "{}", host.logs());
    // Both data planes: the old one for what was open.
    assert_eq!(host.processes(), before + 1);
    assert!(goes_round(&mut long));
    let scraped = host.get(at("127.0.0.1:9101"), "a", "/metrics");
    assert!(scraped.starts_with("HTTP/1.1 200 "), "{scraped}");
    drop(long);
    until("the end of the old one", || {
        (host.processes() == before).then_some(())
    });
    assert_eq!(clients.more(), 0);
    // Negative control: the same clients see that a version is killed and the next one started.
    let program = old(&host.dir);
    let killed = host.amphora(&["ctl", "--run-dir", "run", "drain", "--timeout", "0"]);
    assert!(killed.status.success());
    until("a refusal", || {
        (clients.bad.load(Relaxed) > 0).then_some(())
    });
    drop((clients, program));
}

#[test]
fn connections_of_the_old_version_are_closed_at_the_deadline() {
    let host = host(300);
    let mut long = host.connect(at(RAW));
    assert!(goes_round(&mut long));
    let before = host.processes();
    install(&host.dir, &fs::read(NEW).unwrap());
    let (good, text) = host.ctl(&["upgrade"]);
    assert!(good, "{text}");
    until("the end of the old one", || {
        (host.processes() == before).then_some(())
    });
    assert!(!goes_round(&mut long));
    // Negative control: one of the new version is not.
    let mut fresh = host.connect(at(RAW));
    assert!(goes_round(&mut fresh));
}

#[test]
fn a_program_that_cannot_follow_is_refused_and_nothing_changes() {
    let host = host(3_600_000);
    let mut long = host.connect(at(RAW));
    let old = serving_version(&host).unwrap();
    install(
        &host.dir,
        b"#!/bin/sh\necho 'line 1: colour: unknown key' >&2\nexit 1\n",
    );
    let (good, text) = host.ctl(&["upgrade"]);
    assert!(
        !good && text.contains("line 1: colour: unknown key"),
        "{text}"
    );
    fs::remove_file(host.dir.join("amphora")).unwrap();
    let (good, text) = host.ctl(&["upgrade"]);
    assert!(!good && text.contains("cannot be run"), "{text}");
    assert_eq!(serving_version(&host).unwrap(), old);
    assert!(goes_round(&mut long));
    // Negative control: a good one follows.
    install(&host.dir, &fs::read(NEW).unwrap());
    let (good, text) = host.ctl(&["upgrade"]);
    assert!(good, "{text}");
    assert_ne!(serving_version(&host).unwrap(), old);
}

#[test]
fn the_end_ends_both_versions_also_when_the_supervisor_died_between() {
    let mut host = host(3_600_000);
    let mut long = host.connect(at(RAW));
    assert!(goes_round(&mut long));
    install(&host.dir, &fs::read(NEW).unwrap());
    let (good, text) = host.ctl(&["upgrade"]);
    assert!(good, "{text}");
    host.signal(libc::SIGKILL);
    host.ended();
    assert!(goes_round(&mut long));
    assert_eq!(host.processes(), 2);
    host.run_program(&host.dir.join("amphora"), &[]);
    host.serves();
    until("the earlier one is known", || {
        let (_, text) = host.ctl(&["status"]);
        (host.processes() == 3 && text.starts_with("dataplane")).then_some(())
    });
    assert!(goes_round(&mut long));
    host.write(&file(0));
    let (good, text) = host.ctl(&["reload"]);
    assert!(good, "{text}");
    host.signal(libc::SIGTERM);
    host.ended();
    assert_eq!(host.processes(), 0, "{}", host.logs());
    assert!(!goes_round(&mut long));
}

#[test]
fn the_same_version_adopts_what_runs() {
    let mut host = Host::with_members(&[("127.0.0.21:80", "a1")]);
    host.write(&file(0));
    let program = install(&host.dir, &fs::read(NEW).unwrap());
    host.run_program(&program, &[]);
    host.serves();
    let mut long = host.connect(at(RAW));
    assert!(goes_round(&mut long));
    let (good, text) = host.ctl(&["upgrade"]);
    assert!(good, "{text}");
    assert!(goes_round(&mut long));
}

#[test]
fn vrrp_of_another_version_hands_over_and_the_next_one_takes_the_vip() {
    let host = host(0);
    host.add_address("eth0", "192.0.2.2/24");
    let vrrp = "[[vrrp]]\nvrid = 7\ninterface = \"eth0\"\npriority = 100\nadvert_interval = 10\n\
                source = \"192.0.2.2\"\naddresses = [\"192.0.2.10/24\"]\n";
    host.write(&format!("{}{vrrp}", file(0)));
    let (good, text) = host.ctl(&["reload"]);
    assert!(good, "{text}");
    let vip = at("192.0.2.10:0").ip();
    let version_of_vrrp = || {
        let (_, text) = host.ctl(&["--json", "status"]);
        let status: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(status["vrrp"]["version"].as_str()?.to_owned())
    };
    until("the VIP", || host.has_address(vip).then_some(()));
    let old = until("vrrp", version_of_vrrp);
    install(&host.dir, &fs::read(NEW).unwrap());
    let (good, text) = host.ctl(&["upgrade"]);
    assert!(good, "{text}");
    assert_ne!(until("vrrp", version_of_vrrp), old);
    until("the VIP again", || host.has_address(vip).then_some(()));
    assert!(
        host.logs().contains("a child of another version ends"),
        "{}",
        host.logs()
    );
}
