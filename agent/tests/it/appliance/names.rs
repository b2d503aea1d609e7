//! Members by name, with a real name server (dnsmasq) and one that lies.

use super::host::{Host, ask, at, goes_round, until};
use crate::rig::PATIENCE;
use krater_net::process::{self, Detached, ProcessId};
use serde_json::Value;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

const WEB: &str = "127.0.0.10:8080";
const RAW: &str = "127.0.0.10:9000";
const DNS: &str = "127.0.0.53:53";

/// An HTTP and a TCP listener whose members are `app.example`.
fn file(resolver: &str, more: &str) -> String {
    format!(
        r#"
resolver = {{ servers = ["127.0.0.53"], timeout = 200, attempts = 2, min_ttl = 100, max_ttl = 200, {resolver} }}

[[load_balancers]]
name = "lb"
vips = ["127.0.0.10"]
listeners = [
    {{ protocol = "HTTP", port = 8080, default_pool = "web" }},
    {{ protocol = "TCP", port = 9000, default_pool = "raw" }},
]

[[load_balancers.pools]]
name = "web"
protocol = "HTTP"
members = [{{ name = "app", host = "app.example", port = 80{more} }}]

[[load_balancers.pools]]
name = "raw"
protocol = "TCP"
members = [{{ name = "app", host = "app.example", port = 80 }}]
"#
    )
}

fn host() -> Host {
    Host::with_members(&[
        ("127.0.0.21:80", "a1"),
        ("127.0.0.22:80", "b1"),
        ("[::1]:80", "six"),
    ])
}

/// dnsmasq, whose records are lines of a hosts file.
struct Dns {
    hosts: PathBuf,
    process: (Child, ProcessId),
}

impl Dns {
    /// Starts it and waits until it answers.
    fn start(host: &Host, records: &str) -> Self {
        let own = std::env::current_exe().unwrap();
        let target = own.ancestors().nth(3).unwrap();
        let given = std::env::var_os("KRATER_PEERS").map(PathBuf::from);
        let tree = given.unwrap_or_else(|| target.join("peers")).join("tree");
        let program = tree.join("usr/sbin/dnsmasq");
        assert!(
            program.exists(),
            "no {}: run `cargo xtask setup`",
            program.display()
        );
        let hosts = host.dir.join("hosts");
        std::fs::write(&hosts, records).unwrap();
        let mut libraries = tree.join("usr/lib/x86_64-linux-gnu").into_os_string();
        libraries.push(":");
        libraries.push(tree.join("lib/x86_64-linux-gnu"));
        let mut args: Vec<OsString> = vec!["--library-path".into(), libraries, program.into()];
        args.extend(
            [
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--pid-file=",
                "--user=root",
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
                "--listen-address=127.0.0.53",
                "--local=/example/",
                "--local-ttl=0",
                "--log-facility=-",
            ]
            .map(OsString::from),
        );
        args.push(format!("--addn-hosts={}", hosts.display()).into());
        let child = process::spawn_detached(&Detached {
            program: Path::new("/lib64/ld-linux-x86-64.so.2"),
            args: &args,
            netns: &host.ns,
            stderr: Some(&host.dir.join("dnsmasq")),
        })
        .unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        until("dnsmasq", || host.ns.tcp_connect(at(DNS), PATIENCE).ok());
        let process = (child, id);
        Self { hosts, process }
    }

    /// Other records.
    fn say(&self, records: &str) {
        std::fs::write(&self.hosts, records).unwrap();
        self.signal(libc::SIGHUP);
    }

    fn signal(&self, signal: i32) {
        self.process.1.signal(signal).unwrap();
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        let _gone = self.process.1.signal(libc::SIGKILL);
        let _reaped = self.process.0.wait();
    }
}

fn status(host: &Host) -> Value {
    let (good, text) = host.ctl(&["--json", "status"]);
    assert!(good, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// What `amphora ctl status` says of the name.
fn name(host: &Host) -> Value {
    status(host)["names"][0].clone()
}

/// Waits until the last answers had this problem.
fn problem(host: &Host, text: &str) {
    until(text, || {
        let problem = name(host)["problem"].clone();
        problem
            .as_str()
            .is_some_and(|p| p.contains(text))
            .then_some(())
    });
}

fn members(host: &Host, pool: usize) -> Vec<Value> {
    status(host)["dataplane"]["pools"][pool]["members"]
        .as_array()
        .cloned()
        .unwrap()
}

fn web(host: &Host) -> String {
    host.get(at(WEB), "a", "/")
}

fn served_by(host: &Host, member: &str) {
    until(member, || web(host).ends_with(member).then_some(()));
}

const KEEP: &str = "hold_absent = 600000, hold_error = 600000";

#[test]
fn a_changed_record_moves_new_connections_only() {
    let mut host = host();
    let dns = Dns::start(&host, "127.0.0.21 app.example\n");
    host.write(&file(KEEP, ""));
    host.run(&[]);
    host.serves();
    served_by(&host, "a1 ");
    let mut long = host.connect(at(RAW));
    assert!(goes_round(&mut long));
    let before = members(&host, 0)[0].clone();
    dns.say("127.0.0.22 app.example\n");
    served_by(&host, "b1 ");
    assert!(ask(host.connect(at(RAW)), "a", "/").ends_with("b1 "));
    assert!(goes_round(&mut long), "the old address keeps what it has");
    let after = members(&host, 0)[0].clone();
    assert_eq!(after["id"], before["id"], "the member is the same");
    let total = |member: &Value| member["total_connections"].as_u64().unwrap();
    assert!(total(&after) > total(&before) && total(&before) > 0);
    assert_eq!(
        members(&host, 1)[0]["active_connections"],
        1,
        "the long one"
    );
    // An operator's word is about the member, wherever it is.
    let id = before["id"].as_str().unwrap();
    assert!(host.ctl(&["member", "set", id, "maint"]).0);
    assert!(web(&host).starts_with("HTTP/1.1 503"));
    dns.say("127.0.0.21 app.example\n");
    until("the other address", || {
        (name(&host)["addresses"][0] == "127.0.0.21").then_some(())
    });
    assert!(web(&host).starts_with("HTTP/1.1 503"));
    assert!(host.ctl(&["member", "set", id, "ready"]).0);
    served_by(&host, "a1 ");
    assert!(goes_round(&mut long));
}

#[test]
fn one_name_is_as_many_members_as_it_gets_addresses() {
    let mut host = host();
    let both = "127.0.0.21 app.example\n127.0.0.22 app.example\n127.0.0.23 app.example\n";
    let dns = Dns::start(&host, both);
    host.write(&file(KEEP, ", addresses = 2"));
    host.run(&[]);
    host.serves();
    until("two members", || {
        (members(&host, 0).len() == 2).then_some(())
    });
    assert_eq!(members(&host, 1).len(), 1, "one place has one address");
    let member = |answer: String| answer.rsplit('\n').next().unwrap_or_default().to_owned();
    let mut seen: Vec<_> = (0..4).map(|_| member(web(&host))).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 2, "{seen:?}");
    dns.say("127.0.0.22 app.example\n");
    until("one member", || {
        (members(&host, 0).len() == 1).then_some(())
    });
    for _ in 0..4 {
        assert!(web(&host).ends_with("b1 "));
    }
    // More places than addresses of one family; the other family has one too.
    dns.say("127.0.0.22 app.example\n::1 app.example\n");
    until("the other family", || {
        (name(&host)["addresses"][1] == "::1").then_some(())
    });
    served_by(&host, "six ");
    served_by(&host, "b1 ");
}

#[test]
fn the_last_good_address_is_held_while_the_dns_is_gone() {
    let mut host = host();
    let dns = Dns::start(&host, "127.0.0.21 app.example\n");
    host.write(&file(KEEP, ""));
    host.run(&[]);
    host.serves();
    served_by(&host, "a1 ");
    // Silent.
    dns.signal(libc::SIGSTOP);
    problem(&host, "no answer in 200ms");
    assert!(web(&host).ends_with("a1 "));
    dns.signal(libc::SIGCONT);
    until("an answer", || {
        name(&host)["problem"].is_null().then_some(())
    });
    // The name does not exist.
    dns.say("");
    problem(&host, "no such name (NXDOMAIN)");
    assert!(web(&host).ends_with("a1 "));
    // Dead. A restart of the appliance changes nothing.
    drop(dns);
    problem(&host, "refused");
    assert!(web(&host).ends_with("a1 "));
    host.signal(libc::SIGKILL);
    host.ended();
    host.run(&[]);
    problem(&host, "refused");
    host.serves();
    assert!(web(&host).ends_with("a1 "));
    host.signal(libc::SIGTERM);
    host.ended();
    host.run(&[]);
    host.serves();
    assert!(web(&host).ends_with("a1 "), "as an earlier run knew it");
    // The negative control: nothing is held, and the same client sees it.
    host.write(&file("hold_absent = 0, hold_error = 0", ""));
    let (good, text) = host.ctl(&["reload"]);
    assert!(good, "{text}");
    until("nobody", || {
        web(&host).starts_with("HTTP/1.1 503").then_some(())
    });
    let down = members(&host, 0)[0].clone();
    assert_eq!(down["health"], "down");
    let reason = down["reason"].as_str().unwrap();
    assert!(
        reason.contains("app.example: IPv4: ") && reason.contains("refused"),
        "{reason}"
    );
    let _dns = Dns::start(&host, "127.0.0.22 app.example\n");
    served_by(&host, "b1 ");
}

/// The hold's end comes by itself, without a question that ends.
#[test]
fn a_hold_ends() {
    let mut host = host();
    let dns = Dns::start(&host, "127.0.0.21 app.example\n");
    host.write(&file("hold_absent = 1500, hold_error = 600000", ""));
    host.run(&[]);
    host.serves();
    served_by(&host, "a1 ");
    dns.say("");
    until("nobody", || {
        web(&host).starts_with("HTTP/1.1 503").then_some(())
    });
    let reason = members(&host, 0)[0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("no such name (NXDOMAIN)"), "{reason}");
    dns.say("127.0.0.21 app.example\n");
    served_by(&host, "a1 ");
}

#[test]
fn an_unknown_name_at_the_start_is_a_member_that_is_down() {
    let mut host = host();
    host.write(&file(KEEP, ""));
    host.run(&[]);
    host.serves();
    assert!(web(&host).starts_with("HTTP/1.1 503"));
    let down = members(&host, 0)[0].clone();
    assert_eq!(down["health"], "down");
    assert!(
        down["reason"].as_str().unwrap().contains("refused"),
        "{down}"
    );
    let (_, text) = host.ctl(&["status"]);
    assert!(
        text.contains("name app.example: no address, asked again in"),
        "{text}"
    );
    let _dns = Dns::start(&host, "127.0.0.21 app.example\n");
    served_by(&host, "a1 ");
}

/// Health is the address's: a new one is not down because the old one was.
#[test]
fn health_is_that_of_the_address() {
    let mut host = host();
    let dns = Dns::start(&host, "127.0.0.99 app.example\n");
    let monitor = "health_monitor = { check = { type = \"TCP\" }, delay = 600000, timeout = 1000, rise = 10, fall = 1 }";
    let text = file(KEEP, "").replace(
        "protocol = \"HTTP\"\nmembers",
        &format!("protocol = \"HTTP\"\n{monitor}\nmembers"),
    );
    assert!(text.contains(monitor));
    host.write(&text);
    host.run(&[]);
    host.serves();
    let health = || members(&host, 0)[0]["health"].clone();
    until("down", || (health() == "down").then_some(()));
    assert!(web(&host).starts_with("HTTP/1.1 503"));
    dns.say("127.0.0.21 app.example\n");
    served_by(&host, "a1 ");
    until("up", || (health() == "up").then_some(()));
    dns.say("127.0.0.99 app.example\n");
    until("down again", || (health() == "down").then_some(()));
}

/// What a name server of the test answers, by number.
const FORGED_FIRST: u8 = 0;
const TRUNCATED: u8 = 1;
const MALFORMED: u8 = 2;
const REFUSED: u8 = 3;
const FORGED_ALONE: u8 = 4;

/// A name server that answers questions for A records as `mode` says, others with nothing.
fn liar(host: &Host, mode: &Arc<AtomicU8>) {
    let socket = host.ns.udp_socket(at(DNS)).unwrap();
    socket.set_nonblocking(false).unwrap();
    let stream = host.ns.tcp_listener(at(DNS)).unwrap();
    stream.set_nonblocking(false).unwrap();
    std::thread::spawn(move || {
        for mut client in stream.incoming().flatten() {
            let mut length = [0; 2];
            let mut question = match client.read_exact(&mut length) {
                Ok(()) => vec![0; u16::from_be_bytes(length).into()],
                Err(_) => continue,
            };
            if client.read_exact(&mut question).is_ok() {
                let answer = answer(&question, 0x8180, 22);
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                let _gone = client.write_all(&[&length[..], &answer].concat());
            }
        }
    });
    let mode = Arc::clone(mode);
    std::thread::spawn(move || {
        let mut buffer = [0; 1_500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let question = &buffer[..length];
            let mut forged = answer(question, 0x8180, 99);
            forged[1] ^= 1;
            let good = answer(question, 0x8180, 21);
            let answers = match mode.load(Relaxed) {
                FORGED_FIRST => vec![forged, good],
                TRUNCATED => vec![answer(question, 0x8380, 99)],
                MALFORMED => vec![good[..good.len() - 1].to_vec()],
                REFUSED => vec![answer(question, 0x8185, 99)],
                FORGED_ALONE => vec![forged],
                other => panic!("{other}"),
            };
            for answer in answers {
                let _gone = socket.send_to(&answer, from);
            }
        }
    });
}

/// `127.0.0.LAST` to a question for A records, nothing to others.
fn answer(question: &[u8], flags: u16, last: u8) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|c| *c == 0).unwrap() + 5;
    let is_a = question[end - 3] == 1;
    let mut out = question[..2].to_vec();
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&[0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    out.extend_from_slice(&question[12..end]);
    if is_a {
        out.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, last]);
    }
    out
}

#[test]
fn a_name_server_that_lies_is_not_believed() {
    let mut host = host();
    let mode = Arc::new(AtomicU8::new(FORGED_FIRST));
    liar(&host, &mode);
    host.write(&file(KEEP, ""));
    host.run(&[]);
    host.serves();
    served_by(&host, "a1 ");
    // Over TCP there is room for another answer.
    mode.store(TRUNCATED, Relaxed);
    served_by(&host, "b1 ");
    for (how, says) in [
        (MALFORMED, "malformed answer: it ends too early"),
        (REFUSED, "the server answers REFUSED"),
        (FORGED_ALONE, "no answer in 200ms"),
    ] {
        mode.store(how, Relaxed);
        problem(&host, says);
        assert!(web(&host).ends_with("b1 "), "{how}");
    }
    mode.store(FORGED_FIRST, Relaxed);
    served_by(&host, "a1 ");
}
