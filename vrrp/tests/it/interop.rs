//! Against the real keepalived (2.2.7 of Debian 12, fetched by `cargo xtask setup`) in each form that
//! both speak. In each, one script: it is Active and we follow; it stops and we take over; it follows
//! us; it preempts; we preempt; we die; it dies. Every frame on the bridge is read by tshark afterwards,
//! and keepalived's log is read too.

use crate::Test;
use crate::capture::{Capture, tool};
use crate::lab::{Lab, wait_until};
use krater_model::control::RouterState::{Active, Backup};
use krater_net::process::{Detached, ProcessId, spawn_detached};
use krater_net::sync::NetlinkSocket;
use nix::sys::signal::Signal::{SIGKILL, SIGSTOP, SIGTERM};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

pub(crate) const TESTS: &[Test] = &[
    ("keepalived_v3_ipv4_unicast", || {
        V3_IPV4.script("v3-ipv4-unicast");
    }),
    ("keepalived_v3_ipv4_multicast", || {
        V3_IPV4.multicast().script("v3-ipv4-multicast");
    }),
    ("keepalived_v3_ipv6_unicast", || {
        V3_IPV6.script("v3-ipv6-unicast");
    }),
    ("keepalived_v3_ipv6_multicast", || {
        V3_IPV6.multicast().script("v3-ipv6-multicast");
    }),
    ("keepalived_v2_pass_unicast", || {
        V2.script("v2-pass-unicast");
    }),
    ("keepalived_v2_multicast", || {
        V2.multicast().script("v2-multicast");
    }),
    ("keepalived_v3_ipv4_virtual_mac", || {
        V3_IPV4.multicast().vmac().script("v3-ipv4-vmac");
    }),
    ("keepalived_v3_ipv6_virtual_mac", || {
        V3_IPV6.multicast().vmac().script("v3-ipv6-vmac");
    }),
    ("keepalived_v2_virtual_mac", || {
        V2.multicast().vmac().script("v2-vmac");
    }),
    ("keepalived_v3_hears_the_guard", || {
        V3_IPV4.killed("v3-killed");
        V3_IPV4.multicast().killed("v3-multicast-killed");
        V3_IPV6.killed("v3-ipv6-killed");
    }),
    ("keepalived_v2_hears_the_guard", || {
        V2.killed("v2-killed");
        V2.multicast().killed("v2-multicast-killed");
    }),
    ("another_password_is_nobody", another_password),
    ("an_owner_that_returns_is_heard", owner),
];

/// What both speak.
#[derive(Clone, Copy)]
struct Form {
    version: u8,
    v6: bool,
    multicast: bool,
    /// Of both.
    centiseconds: u16,
    /// Both have the virtual MAC address.
    vmac: bool,
}

const V3_IPV4: Form = Form {
    version: 3,
    v6: false,
    multicast: false,
    centiseconds: 10,
    vmac: false,
};
const V3_IPV6: Form = Form {
    v6: true,
    ..V3_IPV4
};
/// As upstream's controller configures it, with a password unless multicast.
const V2: Form = Form {
    version: 2,
    centiseconds: 100,
    ..V3_IPV4
};

impl Form {
    const fn multicast(self) -> Self {
        Self {
            multicast: true,
            ..self
        }
    }

    const fn vmac(self) -> Self {
        Self { vmac: true, ..self }
    }

    fn password(self) -> Option<&'static str> {
        (self.version == 2 && !self.multicast).then_some("s3cr3tp")
    }

    /// Ours.
    fn document(self, lab: &Lab, generation: u64, priority: u8, preempt: bool) -> Value {
        let mut config = lab.config(generation, 1, priority);
        let router = &mut config["routers"][0];
        router["version"] = json!(self.version);
        router["advert_interval"] = json!(self.centiseconds);
        router["preempt"] = json!(preempt);
        router["virtual_mac"] = json!(self.vmac);
        // A loaded machine may stop the test's data plane for long; here it is not what counts.
        router["track_dataplane"] = json!(false);
        if let Some(password) = self.password() {
            router["password"] = json!(password);
        }
        if self.multicast {
            router["multicast"] = json!(true);
            router["peers"] = json!([]);
        }
        match (self.v6, self.multicast) {
            (true, true) => router["source"] = json!("fe80::1"),
            // It sends unicast over IPv6 with the usual hop limit.
            (true, false) => router["min_hop_limit"] = json!(64),
            _ => {}
        }
        if !self.multicast {
            // It does not speak it: then the protocol alone counts.
            router["liveness"] = json!({"key": "0123456789abcdef"});
        }
        config
    }

    /// keepalived's; its priority is 90.
    fn keepalived_conf(self, preempt: bool) -> String {
        let mut conf = String::from(
            "vrrp_instance t {\n state BACKUP\n interface eth1\n virtual_router_id 1\n priority 90\n",
        );
        conf += &format!(" version {}\n", self.version);
        conf += &format!(" advert_int {}\n", f64::from(self.centiseconds) / 100.0);
        if !preempt {
            conf += " nopreempt\n";
        }
        if self.vmac {
            conf += " use_vmac\n";
        }
        if let Some(password) = self.password() {
            conf += &format!(" authentication {{\n auth_type PASS\n auth_pass {password}\n }}\n");
        }
        let net = if self.v6 { "2001:db8::" } else { "192.0.2." };
        if !self.multicast {
            conf += &format!(" unicast_src_ip {net}2\n unicast_peer {{\n {net}1\n }}\n");
        }
        if self.multicast && self.v6 {
            // Not the one that the kernel made from the MAC address and still probes for duplicates.
            conf += " mcast_src_ip fe80::2\n";
        }
        conf += &format!(" virtual_ipaddress {{\n {net}100\n }}\n}}\n");
        conf
    }

    fn script(self, name: &str) {
        let mut lab = Lab::new(name, self.v6);
        let mut generation = 0;
        let mut next = |lab: &Lab, priority, preempt| {
            generation += 1;
            self.document(lab, generation, priority, preempt)
        };
        let capture = Capture::start(&lab);
        let received = |lab: &Lab| lab.a.metric("krater_vrrp_adverts_received_total");
        let sent = |lab: &Lab| lab.a.metric("krater_vrrp_adverts_sent_total");
        let many = if self.centiseconds == 100 { 4.0 } else { 30.0 };

        let keepalived = Keepalived::start(&lab, &self.keepalived_conf(false));
        wait_until("keepalived to take the VIP", || keepalived_holds(&lab));
        lab.answered_by("b");

        // We follow it, and its lower priority does not matter.
        lab.a.start();
        let config = next(&lab, 100, false);
        lab.a.apply(&config);
        lab.a.state_becomes(Backup);
        wait_until("its adverts", || received(&lab) > many);
        assert_eq!(lab.a.status().routers[0].transitions, 0);

        // It stops, and we take over at once.
        keepalived.end(SIGTERM);
        let reason = lab.a.state_becomes(Active);
        assert!(reason.contains("resigned"), "{reason}");
        wait_until("us alone to hold the VIP", || {
            lab.owners() == ["a"] && !keepalived_holds(&lab)
        });
        lab.answered_by("a");

        // It comes back and follows us: it understands what we send.
        let keepalived = Keepalived::start(&lab, &self.keepalived_conf(true));
        let before = sent(&lab);
        wait_until("it to hear us", || {
            assert!(!keepalived_holds(&lab), "it does not understand us");
            sent(&lab) > before + many
        });
        assert_eq!(lab.a.status().routers[0].transitions, 1);

        // A lower priority of ours: it preempts.
        let config = next(&lab, 80, false);
        lab.a.apply(&config);
        let reason = lab.a.state_becomes(Backup);
        assert!(reason.contains("is Active with priority 90"), "{reason}");
        wait_until("it alone to hold the VIP", || {
            lab.owners().is_empty() && keepalived_holds(&lab)
        });
        lab.answered_by("b");

        // A higher one with preemption: we do.
        let config = next(&lab, 110, true);
        lab.a.apply(&config);
        lab.a.state_becomes(Active);
        wait_until("us alone to hold the VIP", || !keepalived_holds(&lab));
        lab.answered_by("a");

        // We die without a word.
        let guard = nix::unistd::Pid::from_raw(i32::try_from(lab.a.guard()).unwrap());
        nix::sys::signal::kill(guard, SIGSTOP).unwrap();
        lab.a.end(SIGKILL);
        wait_until("it to take over from our silence", || {
            keepalived_holds(&lab)
        });
        nix::sys::signal::kill(guard, SIGKILL).unwrap();

        // We come back, follow it, and it dies without a word.
        lab.a.start();
        let config = next(&lab, 100, false);
        lab.a.apply(&config);
        lab.a.state_becomes(Backup);
        wait_until("its adverts again", || received(&lab) > many);
        assert_eq!(lab.a.status().routers[0].transitions, 0);
        keepalived.end(SIGKILL);
        let reason = lab.a.state_becomes(Active);
        assert!(reason.contains("no advertisement"), "{reason}");

        // We stop gracefully, and it takes over without waiting for our silence.
        let keepalived = Keepalived::start(&lab, &self.keepalived_conf(false));
        let before = sent(&lab);
        wait_until("it to hear us", || sent(&lab) > before + many);
        assert!(lab.a.end(SIGTERM));
        wait_until("it to take over", || keepalived_holds(&lab));
        lab.answered_by("b");
        keepalived.end(SIGTERM);

        let recording = capture.end(&lab);
        recording.judge(3 * usize::from(self.centiseconds == 10) + 10);
        no_complaint(&lab);
        let (ours, theirs, mac) = match self.v6 {
            true => (
                "ipv6.src == fe80::1",
                "ipv6.src == fe80::2",
                "00:00:5e:00:02:01",
            ),
            false => (
                "ip.src == 192.0.2.1",
                "ip.src == 192.0.2.2",
                "00:00:5e:00:01:01",
            ),
        };
        let from = |whose: &str, sign: &str| {
            recording.count(&format!("vrrp && {whose} && eth.src {sign} {mac}"))
        };
        if self.vmac {
            assert!(from(ours, "==") > 0 && from(theirs, "==") > 0);
            assert_eq!(from(ours, "!="), 0);
        } else {
            // The negative control.
            assert_eq!((from(ours, "=="), from(theirs, "==")), (0, 0));
        }
    }
}

impl Form {
    /// We are killed, and our guard resigns in the form that keepalived reads. The next advert is 40 s
    /// away then, and so keepalived's Active_Down_Interval two minutes: while this test waits, only a
    /// resignation that it understands makes it take over.
    fn killed(self, name: &str) {
        let mut lab = Lab::new(name, self.v6);
        let capture = Capture::start(&lab);
        let slow = Self {
            centiseconds: 4_000,
            ..self
        };
        // With the shortest Skew_Time.
        let conf = |form: Self| {
            form.keepalived_conf(false)
                .replace("priority 90", "priority 254")
        };
        let keepalived;
        if self.version == 2 {
            // Both must have the same interval from the start, and nothing of the form is learned.
            keepalived = Keepalived::start(&lab, &conf(slow));
            wait_for_log(&lab, "BACKUP STATE");
            lab.a.start();
            lab.a.apply(&slow.document(&lab, 1, 255, false));
        } else {
            // We hear first how it speaks.
            keepalived = Keepalived::start(&lab, &conf(self));
            wait_until("keepalived to take the VIP", || keepalived_holds(&lab));
            lab.a.start();
            lab.a.apply(&self.document(&lab, 1, 100, false));
            wait_until("its adverts", || {
                lab.a.metric("krater_vrrp_adverts_received_total") > 3.0
            });
            lab.a.apply(&self.document(&lab, 2, 255, false));
            lab.a.state_becomes(Active);
            wait_until("it to give way", || !keepalived_holds(&lab));
            // In version 3 the Active's interval counts.
            lab.a.apply(&slow.document(&lab, 3, 255, false));
            wait_for_log(&lab, "40000");
        }
        lab.a.state_becomes(Active);
        wait_until("us alone to hold the VIP", || {
            lab.owners() == ["a"] && !keepalived_holds(&lab)
        });
        // It waits its skew before it takes over, and our guard until it has: nobody is without an owner.
        let watcher = lab.watch_owners();
        lab.a.end(SIGKILL);
        wait_until("it to take over from our guard", || keepalived_holds(&lab));
        wait_until("our guard to let go", || lab.owners().is_empty());
        lab.answered_by("b");
        assert_eq!(watcher.end(), 0, "moments without an owner");
        keepalived.end(SIGTERM);
        let recording = capture.end(&lab);
        recording.judge(3);
        let source = match (self.v6, self.multicast) {
            (true, true) => "ipv6.src == fe80::1",
            (true, false) => "ipv6.src == 2001:db8::1",
            _ => "ip.src == 192.0.2.1",
        };
        let resigned = format!("vrrp.prio == 0 && {source}");
        assert!(recording.count(&resigned) > 0, "nobody resigned");
        no_complaint(&lab);
    }
}

fn wait_for_log(lab: &Lab, text: &str) {
    wait_until(text, || {
        let log = std::fs::read_to_string(lab.dir.join("keepalived.log"));
        log.is_ok_and(|log| log.contains(text))
    });
}

/// The negative control of the password, and of the judge of logs: both are Active, and both say why.
fn another_password() {
    let mut lab = Lab::new("password", false);
    let conf = V2.keepalived_conf(false).replace("s3cr3tp", "another");
    let keepalived = Keepalived::start(&lab, &conf);
    wait_until("keepalived to take the VIP", || keepalived_holds(&lab));
    lab.a.start();
    lab.a.apply(&V2.document(&lab, 1, 100, false));
    lab.a.state_becomes(Active);
    let dropped = "krater_vrrp_packets_dropped_total{reason=\"authentication\"}";
    wait_until("its adverts to be refused", || lab.a.metric(dropped) > 1.0);
    assert_eq!(lab.a.metric("krater_vrrp_adverts_received_total"), 0.0);
    wait_until("it to complain", || complaint(&lab).is_some());
    keepalived.end(SIGTERM);
}

/// keepalived is the owner of RFC 9568: the virtual address is its interface's own, and its adverts come from it. While it is
/// away we hold the address; when it is back it has it.
fn owner() {
    let mut lab = Lab::new("owner", false);
    let form = V3_IPV4.multicast();
    let conf = form.keepalived_conf(false);
    let conf = conf
        .replace("priority 90", "priority 255")
        .replace("192.0.2.100", "192.0.2.2");
    let conf = conf.replace(" nopreempt\n", " mcast_src_ip 192.0.2.2\n");
    let keepalived = Keepalived::start(&lab, &conf);
    wait_for_log(&lab, "MASTER STATE");
    lab.a.start();
    let mut config = form.document(&lab, 1, 100, false);
    config["routers"][0]["addresses"] = json!(["192.0.2.2/32"]);
    lab.a.apply(&config);
    lab.a.state_becomes(Backup);
    let vip: std::net::IpAddr = "192.0.2.2".parse().unwrap();
    wait_until("its adverts", || {
        lab.a.metric("krater_vrrp_adverts_received_total") > 3.0
    });
    lab.connect(2, false);
    lab.a.state_becomes(Active);
    lab.answered_at(vip, "a");
    // The negative control: as the kernel has it by default, its adverts are dropped.
    let accept = |value| {
        let key = "net/ipv4/conf/eth1/accept_local";
        krater_net::sysctl::write(&lab.a.ns, key, value).unwrap();
    };
    accept("0");
    lab.connect(2, true);
    lab.a.grows("krater_vrrp_adverts_sent_total", 20.0);
    assert_eq!(lab.a.status().routers[0].state, Active);
    accept("1");
    let reason = lab.a.state_becomes(Backup);
    assert!(
        reason.contains("192.0.2.2 is Active with priority 255"),
        "{reason}"
    );
    lab.answered_at(vip, "b");
    keepalived.end(SIGTERM);
}

fn no_complaint(lab: &Lab) {
    if let Some(line) = complaint(lab) {
        panic!("keepalived complains: {line}");
    }
}

/// A line of keepalived's log that says that something about a packet is wrong.
fn complaint(lab: &Lab) -> Option<String> {
    let log = std::fs::read_to_string(lab.dir.join("keepalived.log")).unwrap();
    let words = [
        "checksum",
        "malformed",
        "invalid",
        "mismatch",
        "incorrect",
        "bogus",
        "unexpected",
        "wrong",
        "expected",
        "discard",
        "dropp",
    ];
    let wrong = |line: &&str| {
        let line = line.to_lowercase();
        // What it says when it preempts.
        let election = line.contains("lower priority") && line.contains("discarding");
        !election && words.iter().any(|word| line.contains(word))
    };
    log.lines().find(wrong).map(str::to_owned)
}

struct Keepalived {
    child: Child,
    process: ProcessId,
}

impl Keepalived {
    fn start(lab: &Lab, configuration: &str) -> Self {
        let path = lab.dir.join("keepalived.conf");
        std::fs::write(&path, configuration).unwrap();
        let file = |name: &str| lab.dir.join(name).into_os_string();
        // Of one that was killed; its number may be another process's by now, and keepalived would not start.
        for name in ["keepalived.pid", "keepalived-vrrp.pid"] {
            let _ = std::fs::remove_file(lab.dir.join(name));
        }
        let mut args = tool("usr/sbin/keepalived");
        args.extend([
            "--dont-fork".into(),
            "--log-console".into(),
            "--log-detail".into(),
            "--vrrp".into(),
            "--use-file".into(),
            path.into(),
            "--pid".into(),
            file("keepalived.pid"),
            "--vrrp_pid".into(),
            file("keepalived-vrrp.pid"),
        ]);
        let child = spawn_detached(&Detached {
            program: Path::new("/lib64/ld-linux-x86-64.so.2"),
            args: &args,
            netns: &lab.b.ns,
            stderr: Some(&lab.dir.join("keepalived.log")),
        })
        .unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        Self { child, process }
    }

    /// SIGKILL goes to parent and child, both stopped first: neither speaks for the other.
    fn end(mut self, signal: nix::sys::signal::Signal) {
        if signal == SIGKILL {
            let parent = self.child.id();
            let children = format!("/proc/{parent}/task/{parent}/children");
            let children = std::fs::read_to_string(children).unwrap();
            let children: Vec<i32> = children
                .split_whitespace()
                .map(|pid| pid.parse().unwrap())
                .collect();
            let all: Vec<i32> = std::iter::once(i32::try_from(parent).unwrap())
                .chain(children)
                .collect();
            for signal in [SIGSTOP, SIGKILL] {
                for pid in &all {
                    let pid = nix::unistd::Pid::from_raw(*pid);
                    nix::sys::signal::kill(pid, signal).unwrap();
                }
            }
        } else {
            self.process.signal(signal as i32).unwrap();
        }
        self.child.wait().unwrap();
        assert!(self.process.wait(Duration::from_secs(5)).unwrap());
    }
}

/// keepalived's addresses bear no tag of ours.
fn keepalived_holds(lab: &Lab) -> bool {
    let netlink = NetlinkSocket::open_in(&lab.b.ns).unwrap();
    let addresses = netlink.addresses().unwrap();
    addresses
        .iter()
        .any(|address| address.net.addr() == lab.vip())
}
