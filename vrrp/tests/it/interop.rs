//! Against the real keepalived (2.2.7 of Debian 12, fetched by `cargo xtask setup`), unicast VRRPv3 over
//! IPv4, each side as Active and as Backup. keepalived sends and expects the checksum with a
//! pseudo-header; ours is learned from it.

use crate::Test;
use crate::lab::{Lab, wait_until};
use krater_model::control::RouterState::{Active, Backup};
use krater_net::process::{Detached, ProcessId, spawn_detached};
use krater_net::sync::NetlinkSocket;
use nix::sys::signal::Signal::SIGTERM;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

pub(crate) const TESTS: &[Test] = &[("keepalived_and_we_hand_over_to_each_other", both_ways)];

/// Where `cargo xtask setup` unpacks peers: `peers/tree` in the target folder, in which this test runs
/// from `<profile>/deps`.
fn peers() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let root = own.ancestors().nth(3).unwrap().join("peers/tree");
    assert!(
        root.join("usr/sbin/keepalived").exists(),
        "no keepalived under {}: run `cargo xtask setup`",
        root.display()
    );
    root
}

struct Keepalived {
    child: Child,
    process: ProcessId,
}

impl Keepalived {
    fn start(lab: &Lab) -> Self {
        let root = peers();
        let configuration = lab.dir.join("keepalived.conf");
        std::fs::write(
            &configuration,
            "vrrp_instance t {\n state BACKUP\n interface eth1\n virtual_router_id 1\n priority 90\n \
             version 3\n advert_int 0.1\n nopreempt\n unicast_src_ip 192.0.2.2\n \
             unicast_peer {\n 192.0.2.1\n }\n virtual_ipaddress {\n 192.0.2.100\n }\n}\n",
        )
        .unwrap();
        // Started through the loader, which is told where the unpacked libraries are.
        let path = |below: &str| root.join(below).into_os_string();
        let mut libraries = path("usr/lib/x86_64-linux-gnu");
        libraries.push(":");
        libraries.push(path("lib/x86_64-linux-gnu"));
        let file = |name: &str| lab.dir.join(name).into_os_string();
        let args: Vec<OsString> = vec![
            "--library-path".into(),
            libraries,
            path("usr/sbin/keepalived"),
            "--dont-fork".into(),
            "--log-console".into(),
            "--log-detail".into(),
            "--vrrp".into(),
            "--use-file".into(),
            configuration.into(),
            "--pid".into(),
            file("keepalived.pid"),
            "--vrrp_pid".into(),
            file("keepalived-vrrp.pid"),
        ];
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

    fn end(mut self) {
        self.process.signal(libc::SIGTERM).unwrap();
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

fn both_ways() {
    let mut lab = Lab::new("keepalived", false);
    let keepalived = Keepalived::start(&lab);
    wait_until("keepalived to take the VIP", || keepalived_holds(&lab));
    lab.answered_by("b");

    // We follow it: its checksum is accepted, and its lower priority does not matter.
    lab.a.start();
    lab.a.apply(&lab.config(1, 1, 100));
    lab.a.state_becomes(Backup);
    let received = |lab: &Lab| lab.a.metric("krater_vrrp_adverts_received_total");
    wait_until("thirty adverts of keepalived", || received(&lab) > 30.0);
    assert_eq!(lab.a.status().routers[0].transitions, 0);

    // It stops, and we take over at once.
    keepalived.end();
    let reason = lab.a.state_becomes(Active);
    assert!(reason.contains("192.0.2.2 resigned"), "{reason}");
    wait_until("us alone to hold the VIP", || {
        lab.owners() == ["a"] && !keepalived_holds(&lab)
    });
    lab.answered_by("a");

    // It comes back and follows us: it understands what we send.
    let keepalived = Keepalived::start(&lab);
    let sent = lab.a.metric("krater_vrrp_adverts_sent_total");
    wait_until("thirty of our adverts", || {
        assert!(
            !keepalived_holds(&lab),
            "keepalived does not understand our adverts"
        );
        lab.a.metric("krater_vrrp_adverts_sent_total") > sent + 30.0
    });
    assert_eq!(lab.a.status().routers[0].transitions, 1);

    // We stop; it takes over.
    assert!(lab.a.end(SIGTERM));
    wait_until("keepalived to take over", || keepalived_holds(&lab));
    lab.answered_by("b");
    keepalived.end();
    let log = std::fs::read_to_string(lab.dir.join("keepalived.log")).unwrap();
    for complaint in ["hecksum", "malformed", "invalid", "mismatch", "incorrect"] {
        assert!(!log.contains(complaint), "keepalived complains:\n{log}");
    }
}
