//! What changes rarely and takes long: other buses, every fault, clocks that run out. `.ci/run nightly` runs it, and
//! `cargo xtask test guest`.

use super::*;
use krater_e2e::guest::program;
use krater_net::sync::NetlinkSocket;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Stdio};

/// The longest boot loop allowed: one restart in ten seconds.
const SLOWEST_LOOP: f64 = 10.0;

/// SATA and SCSI are those of the disk's tests (`image`), virtio that of all others.
#[test]
fn the_config_drive_is_found_on_the_other_buses() {
    let _beside = beside();
    for (bus, machine) in [
        (Bus::Ide, Machine::default()),
        (Bus::Scsi, Machine::default()),
    ] {
        let (pki, drive) = good();
        let disk = drive.iso();
        let mut guest = machine.disk(&disk, bus).boot();
        let info = guest.answers(&pki);
        assert_eq!(info["amphora_id"], pki.amphora, "{bus:?}: {info}");
        no_stranger(&guest, &pki);
    }
}

#[test]
fn files_of_user_data_serve_as_well_and_a_fixed_address_is_set() {
    let _beside = beside();
    let pki = Pki::new();
    let drive = Drive::new(&[]);
    let mut text = String::from("#cloud-config\nwrite_files:\n");
    for (path, content) in pki.files() {
        text += &format!("-   path: {path}\n    content: |\n");
        for line in content.lines() {
            text += &format!("        {line}\n");
        }
    }
    text += "runcmd:\n-   systemctl restart rsyslog\ntimezone: UTC\n";
    drive.put("openstack/latest/user_data", &text);
    let network = json!({"links": [{"id": "l", "type": "phy"}], "networks": [{"id": "n", "type": "ipv4", "link": "l",
        "ip_address": "10.0.2.15", "netmask": "255.255.255.0",
        "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.2.2"}]}]});
    drive.put("openstack/latest/network_data.json", &network.to_string());
    let disk = drive.iso();
    let mut guest = Machine::default().disk(&disk, Bus::Virtio).boot();
    guest.answers(&pki);
    let console = guest.console();
    assert!(console.contains("not carried out: runcmd"), "{console}");
    assert!(!console.contains("DHCP"), "{console}");
}

/// They wait most of the time, so they do it together.
#[test]
fn whatever_is_wrong_is_named_and_the_machine_restarts_slowly() {
    let _beside = beside();
    let iso = |change: &dyn Fn(&Drive)| {
        let (_, drive) = good();
        change(&drive);
        drive.iso()
    };
    let damaged = iso(&|_| ());
    // The label is whole, the folders behind it are not.
    damaged.damage(18 * 2_048, &vec![0xa5; 64 * 2_048]);
    let unreadable = iso(&|drive| drive.put("openstack/latest/meta_data.json", "{\"files\": ["));
    let file = (
        "/etc/octavia/amphora-agent.conf".into(),
        "[DEFAULT]\n".into(),
    );
    let upstream = Drive::new(&[file]).iso();
    let mut files = Pki::new().files();
    files.retain(|(path, _)| !path.ends_with("server.pem"));
    let keyless = Drive::new(&files).iso();
    let dhcp6 = iso(&|drive| {
        let network = json!({"links": [{"id": "l", "type": "phy"}],
            "networks": [{"id": "n", "type": "ipv6_dhcpv6-stateful", "link": "l"}]});
        drive.put("openstack/latest/network_data.json", &network.to_string());
    });
    let with = |disk: &Disk, bus| Machine::default().disk(disk, bus);
    let cases: [(Machine, &[&str]); 6] = [
        (
            Machine::default(),
            &["config-drive: no disk has the label config-2 (disks: none)"],
        ),
        (
            with(&damaged, Bus::Ide),
            &["config-drive: sr0 (iso9660 \"config-2\")"],
        ),
        (
            with(&unreadable, Bus::Virtio),
            &["meta_data.json: EOF while parsing"],
        ),
        (
            with(&upstream, Bus::Virtio),
            &[
                "/etc/octavia/amphora-agent.conf is not supported yet. Missing: /etc/krater/agent.toml",
            ],
        ),
        (
            with(&keyless, Bus::Virtio),
            &[
                "agent: ended with status 1",
                "read /etc/krater/server.pem: No such file or directory",
                "a new one starts in 5 s",
            ],
        ),
        (
            with(&dhcp6, Bus::Virtio),
            &[
                "nothing of the first link can be used",
                "not supported yet: DHCPv6",
            ],
        ),
    ];
    // One boots after the other.
    let guests = cases.map(|(machine, expect)| {
        let mut guest = machine.boot();
        let console = guest.says(expect.first().expect("a text"));
        assert!(!console.contains("restarts now"), "it has said why before");
        (guest, expect)
    });
    for (mut guest, expect) in guests {
        let console = guest.says("restarts now");
        for text in expect {
            assert!(console.contains(text), "{text}\n{console}");
        }
        let at = guest.said_at("restarts now");
        assert!(at >= SLOWEST_LOOP, "a boot loop of {at} s");
        // It does restart, and says it again.
        guest.says_times("amphora: starts:", 2);
    }
}

#[test]
fn ctrl_alt_del_restarts_and_another_key_does_nothing() {
    let _beside = beside();
    let (mut guest, ..) = serving(Machine::default().with(&["-device", "virtio-keyboard-pci"]));
    let press = |keys: &[&str]| {
        let keys: Vec<Value> = keys
            .iter()
            .map(|k| json!({"type": "qcode", "data": k}))
            .collect();
        guest.monitor("send-key", &json!({ "keys": keys }));
    };
    press(&["a"]);
    press(&["ctrl", "alt", "delete"]);
    let console = guest.says_times("amphora: starts:", 2);
    let last = "ctrl-alt-del: the machine restarts";
    assert!(console.contains(last), "{console}");
    assert!(!console.contains("power button"), "{console}");
}

#[test]
fn a_panic_of_process_1_is_told_and_restarts() {
    let _beside = beside();
    let (_, drive) = good();
    let disk = drive.iso();
    let panicking = Machine::default()
        .debug()
        .append("krater.panic")
        .disk(&disk, Bus::Virtio);
    let mut guest = panicking.boot();
    guest.says("process 1 panics");
    guest.says_times("amphora: starts:", 2);
    drop(guest); // it holds the disk
    // Negative control: the default variant does not do what the word says.
    let calm = Machine::default()
        .append("krater.panic")
        .disk(&disk, Bus::Virtio);
    let mut guest = calm.boot();
    assert!(!guest.says("agent started").contains("panics"));
}

#[test]
fn a_full_or_broken_data_partition_is_told_and_the_agent_answers_all_the_same() {
    let _beside = beside();
    let (pki, drive) = good();
    let config = drive.iso();
    for (disk, told) in [
        (Disk::data(25 << 20), "data partition is full"),
        (
            {
                let broken = Disk::data(1);
                broken.damage(4_096, &vec![0xa5; 1 << 20]);
                broken
            },
            "data partition vdb cannot be mounted",
        ),
    ] {
        let machine = Machine::default().disk(&config, Bus::Virtio);
        let mut guest = machine.disk(&disk, Bus::Virtio).boot();
        guest.says(told);
        guest.answers(&pki);
    }
}

/// The control of the test that a state outlives a power cycle.
#[test]
fn without_a_data_partition_a_power_cycle_leaves_nothing() {
    let _beside = beside();
    let (pki, drive) = good();
    let config = drive.iso();
    let machine = || Machine::default().clients().disk(&config, Bus::Virtio);
    let mut guest = machine().boot();
    guest.answers(&pki);
    let _member = Backend::at(guest.place(), MEMBER_PORT, MEMBER);
    let (code, body) = put(&guest, &pki, &state(&pki, 1, (HOST, MEMBER_PORT), &[]));
    assert_eq!(code, 200, "{body}");
    serves(&guest, MEMBER);
    guest.monitor("system_reset", &json!({}));
    guest.says_times("agent started", 2);
    guest.answers(&pki);
    let view = get(&guest, &pki, "/2.0/state").expect("a state");
    assert!(view.contains("\"revision\":null"), "{view}");
}

/// An interrupt that nobody expects panics the kernel, which then stands still for ever.
#[test]
fn a_frozen_kernel_is_restarted_by_the_watchdog() {
    let _beside = beside();
    let watched = Machine::default()
        .append("panic=0 unknown_nmi_panic")
        .with(&["-device", "i6300esb", "-action", "watchdog=reset"]);
    let (mut guest, ..) = serving(watched);
    guest.says("watchdog: restarts the machine after 60 s");
    guest.monitor("inject-nmi", &json!({}));
    guest.says("Kernel panic");
    guest.says_times("Linux version", 2);
}

/// The kernel lives, and process 1 does not feed the watchdog any more. That one which does is not restarted, every machine
/// of the `qemu` driver shows: they all have one.
#[test]
fn a_machine_whose_process_1_stands_still_is_restarted_by_the_watchdog() {
    let _beside = beside();
    let watched =
        Machine::default()
            .debug()
            .with(&["-device", "i6300esb", "-action", "watchdog=reset"]);
    let (mut guest, ..) = serving(watched);
    guest.says("watchdog: restarts the machine after 60 s");
    guest.types("b=/bin/busybox; $b mkdir /run/cg && $b mount -t cgroup2 none /run/cg && $b mkdir /run/cg/f");
    guest.types("echo 1 > /run/cg/f/cgroup.procs && echo 1 > /run/cg/f/cgroup.freeze; $b cat /run/cg/f/cgroup.events; echo frozen-$((1+1))");
    let console = guest.says("frozen-2");
    assert!(console.contains("frozen 1"), "{console}");
    // Only the hardware can do that: nothing of process 1 runs.
    let console = guest.says_times("amphora: starts:", 2);
    assert!(!console.contains("the machine restarts"), "{console}");
}

/// Kernel start until the agent listens, for who reads it (`cargo xtask image --boot-time`): it asserts no time.
#[test]
fn boot_time() {
    let _beside = beside();
    let (mut guest, ..) = serving(Machine::default());
    let console = guest.says("agent listens");
    for text in [
        "Run /init as init process",
        "amphora: starts:",
        "kernel modules loaded",
        "files in memory",
        "agent started",
        "agent listens",
    ] {
        assert!(console.contains(text), "{text}\n{console}");
        println!("boot-time: {:8.3} s  {text}", guest.said_at(text));
    }
}

/// Address of the NIC that carries VLANs, and of the VLAN's interface.
const TRUNK_MAC: &str = "52:54:00:00:00:03";
const VLAN_MAC: &str = "52:54:00:00:01:01";
const VLAN: u16 = 101;

/// Frames of an Ethernet in a file of `-object filter-dump`, as (VLAN, type) of each.
fn frames(path: &Path) -> Vec<(Option<u16>, u16)> {
    let bytes = std::fs::read(path).expect("the dump");
    let mut rest = bytes.get(24..).unwrap_or_default();
    let mut frames = Vec::new();
    while let Some((head, more)) = rest.split_at_checked(16) {
        let length = u32::from_ne_bytes(head[8..12].try_into().expect("4 bytes"));
        let Some((frame, more)) = more.split_at_checked(length as usize) else {
            break; // being written
        };
        let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        frames.push(match number(12) {
            0x8100 => (Some(number(14) & 0xfff), number(16)),
            kind => (None, kind),
        });
        rest = more;
    }
    frames
}

#[test]
fn a_members_network_may_be_a_vlan_of_a_nic() {
    const IPV4: u16 = 0x0800;
    let _beside = beside();
    let folder = tempfile::tempdir().expect("a folder");
    let (wire, dump) = (folder.path().join("wire"), folder.path().join("dump"));
    let wire = |server| {
        format!(
            "stream,server={server},addr.type=unix,addr.path={}",
            wire.display()
        )
    };

    let (pki, drive) = good();
    let network = json!({
        "links": [
            {"id": "m", "type": "ovs", "ethernet_mac_address": MANAGEMENT_MAC},
            {"id": "t", "type": "phy", "ethernet_mac_address": TRUNK_MAC},
            {"id": "v", "type": "vlan", "vlan_link": "t", "vlan_id": VLAN, "vlan_mac_address": VLAN_MAC},
        ],
        "networks": [{"id": "n", "type": "ipv4_dhcp", "link": "m"}],
    });
    drive.put("openstack/latest/network_data.json", &network.to_string());
    let disk = drive.iso();
    let filter = format!("filter-dump,id=dump,netdev=trunk,file={}", dump.display());
    let machine = Machine::default()
        .clients()
        .nic(TRUNK_MAC, "trunk", &wire("on"));
    let machine = machine.with(&["-object", &filter]);
    let mut guest = machine.disk(&disk, Bus::Virtio).boot();
    guest.answers(&pki);
    guest.says(&format!("carries VLAN {VLAN} as"));

    // The member: busybox's own idea of a VLAN, and its web server. In the wrong VLAN at first.
    let trunk = "52:54:00:00:00:04";
    let (mut other, ..) = serving(Machine::default().debug().nic(trunk, "trunk", &wire("off")));
    other.types("b=/bin/busybox; $b mkdir /run/www; echo in-the-vlan > /run/www/index.html; $b ip link set eth1 up");
    let join = |other: &mut Guest, id: u16| {
        other.types(&format!(
            "$b ip link add link eth1 name v{id} type vlan id {id} && $b ip link set v{id} up"
        ));
        other.types(&format!(
            "$b ip addr add 192.0.3.9/24 dev v{id}; echo joined-{id}-$((1+1))"
        ));
        other.says(&format!("joined-{id}-2"));
    };
    join(&mut other, VLAN + 1);
    other.types("$b httpd -p 80 -h /run/www; echo httpd-$((1+1))");
    other.says("httpd-2");

    let member =
        json!({"name": "eth2", "mac": VLAN_MAC, "role": "member", "addresses": ["192.0.3.5/24"]});
    let wanted = state(&pki, 1, ("192.0.3.9", 80), &[member]);
    let (code, body) = put(&guest, &pki, &wanted);
    assert_eq!(code, 200, "{body}");
    // Negative control: nobody is there in this VLAN.
    let place = guest.place();
    wait::within(PATIENCE, "no member answers", || {
        let answer = client::get(&place, clients(), "/").ok()?;
        (answer.status == 503).then_some(())
    });
    other.types(&format!("$b ip link del v{}", VLAN + 1));
    join(&mut other, VLAN);
    serves(&guest, "in-the-vlan");
    let frames = frames(&dump);
    assert!(frames.contains(&(Some(VLAN), IPV4)), "{frames:?}");
    let untagged = frames
        .iter()
        .filter(|(vlan, kind)| vlan.is_none() && *kind == IPV4);
    assert_eq!(untagged.count(), 0, "{frames:?}");
}

/// A router that advertises a prefix, with its address on `link`: dnsmasq.
struct Router(Child);

impl Router {
    fn start(guest: &Guest, link: &str, folder: &Path) -> Self {
        let mut command = program("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--pid-file=",
                "--user=root",
            ])
            .args([
                "--port=0",
                "--no-resolv",
                "--no-hosts",
                "--log-facility=-",
                "--enable-ra",
            ])
            .arg(format!(
                "--dhcp-leasefile={}",
                folder.join("leases").display()
            ))
            .args([
                &format!("--interface={link}"),
                "--dhcp-range=fd00:77::,ra-only",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("dnsmasq")).expect("a file"));
        let child = guest.netns().run(|| command.spawn());
        Self(child.expect("enter the namespace").expect("dnsmasq"))
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn management_over_ipv6_has_fixed_and_advertised_addresses() {
    let _beside = beside();
    let tap = "kt0";
    let pki = Pki::new();
    let drive = Drive::new(&pki.files_listening("[::]"));
    let network = json!({
        "links": [{"id": "l", "type": "ovs", "ethernet_mac_address": MANAGEMENT_MAC}],
        "networks": [
            {"id": "fixed", "type": "ipv6", "link": "l", "ip_address": "fd00:6::15/64",
             "routes": [{"network": "::", "netmask": "::", "gateway": "fd00:6::1"}]},
            {"id": "advertised", "type": "ipv6_slaac", "link": "l"},
            {"id": "asked", "type": "ipv6_dhcpv6-stateful", "link": "l"},
        ],
    });
    drive.put("openstack/latest/network_data.json", &network.to_string());
    let disk = drive.iso();
    let mut guest = Machine::default()
        .on_tap(tap)
        .disk(&disk, Bus::Virtio)
        .boot();

    let netlink = NetlinkSocket::open_in(&guest.netns()).expect("the namespace");
    let link = wait::until("the tap device", || netlink.link_by_name(tap).ok()?);
    netlink.set_up(link.index, true).expect("up");
    for net in ["fd00:6::1/64", "fd00:77::1/64"] {
        let address = krater_net::link::Address {
            link: link.index,
            net: net.parse().expect("a net"),
            protocol: 0,
            no_prefix_route: false,
        };
        netlink.add_address(&address).expect("an address");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
    guest.says("has fd00:6::15/64");
    guest.answers_at(&pki, ip("fd00:6::15"));
    // RFC 4291, appendix A: the interface identifier of an Ethernet address.
    let advertised = ip("fd00:77::5054:ff:fe00:1");
    // Negative control: without a router there is no such address.
    let nobody = guest
        .agent_at(&pki, advertised)
        .patient(Duration::from_secs(1));
    let answer = nobody.send(&pki.controller(), "GET", "/2.0/info", "");
    assert!(answer.is_err(), "{answer:?}");
    let _router = Router::start(&guest, tap, folder.path());
    guest.answers_at(&pki, advertised);
    let console = guest.console();
    for line in [
        "takes the addresses that routers advertise",
        "asked\" of type",
        "not supported yet: DHCPv6",
    ] {
        assert!(console.contains(line), "{line}\n{console}");
    }
}
