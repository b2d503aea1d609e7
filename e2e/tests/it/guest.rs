//! `amphora init` in virtual machines: what stands on the console, what answers, what cannot be done.

use krater_e2e::agent::Identity;
use krater_e2e::guest::{Bus, Disk, Drive, Guest, Machine, Pki};
use krater_e2e::system::alone;
use krater_e2e::wait;
use serde_json::{Value, json};

/// The longest boot loop allowed: one restart in ten seconds.
const SLOWEST_LOOP: f64 = 10.0;

fn good() -> (Pki, Drive) {
    let pki = Pki::new();
    let drive = Drive::new(&pki.files());
    (pki, drive)
}

/// Boots a machine with a good config drive; its agent answers.
fn serving(machine: Machine) -> (Guest, Pki, Disk) {
    let (pki, drive) = good();
    let disk = drive.iso();
    let mut guest = machine.disk(&disk, Bus::Virtio).boot();
    guest.answers(&pki);
    (guest, pki, disk)
}

#[test]
fn the_config_drive_is_found_on_each_bus_and_the_agent_answers_its_controller_alone() {
    let _alone = alone();
    for (bus, machine) in [
        (Bus::Ide, Machine::default()),
        (Bus::Sata, Machine::default().q35()),
        (Bus::Scsi, Machine::default()),
        (Bus::Virtio, Machine::default()),
    ] {
        let (pki, drive) = good();
        // Nova has both forms; a FAT one is no CD.
        let disk = if bus == Bus::Virtio {
            drive.vfat()
        } else {
            drive.iso()
        };
        let mut guest = machine.disk(&disk, bus).boot();
        let info = guest.answers(&pki);
        assert_eq!(info["amphora_id"], pki.amphora, "{bus:?}: {info}");
        let console = guest.says("the root file system is read-only");
        for line in [
            "4 files in memory",
            "has 10.0.2.15/24 for 86400 s, by DHCP of 10.0.2.2",
        ] {
            assert!(console.contains(line), "{bus:?}: {line}\n{console}");
        }
        // Negative control: a stranger with the right name is not answered.
        let stranger = Identity::foreign("krater-controller");
        let answer = guest.agent(&pki).send(&stranger, "GET", "/2.0/info", "");
        assert!(answer.is_err(), "{answer:?}");
    }
}

#[test]
fn files_of_user_data_serve_as_well_and_a_fixed_address_is_set() {
    let _alone = alone();
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

/// Boots and waits until it has given up once; the restart is not early.
fn gives_up(machine: Machine, expect: &[&str]) {
    let mut guest = machine.boot();
    let console = guest.says("restarts now");
    for text in expect {
        assert!(console.contains(text), "{text}\n{console}");
    }
    let at = guest.said_at("restarts now");
    assert!(at >= SLOWEST_LOOP, "a boot loop of {at} s");
    // It does restart, and says it again.
    guest.says_times("amphora: starts:", 2);
}

#[test]
fn a_machine_without_a_config_drive_says_so_and_restarts_slowly() {
    let _alone = alone();
    gives_up(
        Machine::default(),
        &["config-drive: no disk has the label config-2 (disks: none)"],
    );
}

#[test]
fn a_damaged_config_drive_is_named() {
    let _alone = alone();
    let (_, drive) = good();
    let damaged = drive.iso();
    // The label is whole, the folders behind it are not.
    damaged.damage(18 * 2_048, &vec![0xa5; 64 * 2_048]);
    let machine = Machine::default().disk(&damaged, Bus::Ide);
    gives_up(machine, &["config-drive: sr0 (iso9660 \"config-2\")"]);
}

#[test]
fn a_document_of_the_config_drive_that_cannot_be_read_is_named() {
    let _alone = alone();
    let (_, drive) = good();
    drive.put("openstack/latest/meta_data.json", "{\"files\": [");
    let disk = drive.iso();
    let machine = Machine::default().disk(&disk, Bus::Virtio);
    gives_up(machine, &["meta_data.json: EOF while parsing"]);
}

#[test]
fn an_upstream_controllers_drive_is_told_to_be_not_supported() {
    let _alone = alone();
    let upstream = Drive::new(&[(
        "/etc/octavia/amphora-agent.conf".into(),
        "[DEFAULT]\n".into(),
    )]);
    let disk = upstream.iso();
    let machine = Machine::default().disk(&disk, Bus::Virtio);
    gives_up(
        machine,
        &["/etc/octavia/amphora-agent.conf is not supported yet. Missing: /etc/krater/agent.toml"],
    );
}

#[test]
fn a_missing_certificate_is_named_and_the_machine_restarts_after_three_agents() {
    let _alone = alone();
    let pki = Pki::new();
    let mut files = pki.files();
    files.retain(|(path, _)| !path.ends_with("server.pem"));
    let disk = Drive::new(&files).iso();
    let machine = Machine::default().disk(&disk, Bus::Virtio);
    gives_up(
        machine,
        &[
            "agent: ended with status 1",
            "read /etc/krater/server.pem: No such file or directory",
            "a new one starts in 5 s",
        ],
    );
}

#[test]
fn the_power_button_ends_it_in_order() {
    let _alone = alone();
    let (mut guest, pki, _disk) = serving(Machine::default());
    guest.monitor("system_powerdown", &json!({}));
    guest.goes_off();
    let console = guest.console();
    assert!(
        console.contains("power button: the machine goes off"),
        "{console}"
    );
    drop((guest, pki));

    // Negative control: with another key nothing ends; Ctrl-Alt-Del restarts.
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
    assert!(
        console.contains("ctrl-alt-del: the machine restarts"),
        "{console}"
    );
    assert!(!console.contains("power button"), "{console}");
}

#[test]
fn the_default_image_has_no_shell_and_the_debug_variant_shows_what_the_guest_can_write() {
    let _alone = alone();
    let (guest, pki, _disk) = serving(Machine::default());
    guest.types("/bin/busybox echo here-$((40+2))");
    let (mut debug, ..) = serving(Machine::default().debug());
    debug.types("/bin/busybox echo here-$((40+2))");
    // Negative control: the same line does something where there is a shell.
    debug.says("here-42");
    assert!(!guest.console().contains("here-42"), "{}", guest.console());
    drop((guest, pki));

    debug.types(
        "/bin/busybox touch /x /etc/x /lib/x; /bin/busybox touch /run/x && echo run-$((1+1))",
    );
    let console = debug.says("run-2");
    for path in ["/x", "/etc/x", "/lib/x"] {
        assert!(
            console.contains(&format!("touch: {path}: Read-only file system")),
            "{console}"
        );
    }
    debug.types(
        "/bin/busybox stat -c %a:%U:%n /etc/krater /etc/krater/server.pem; echo stat-$((1+1))",
    );
    let console = debug.says("stat-2");
    assert!(
        console.contains("700:") && console.contains("600:"),
        "{console}"
    );
    debug.types("/bin/busybox grep -c . /proc/modules; /bin/busybox hostname; echo name-$((1+1))");
    assert!(debug.says("name-2").contains("amphora-e2e"));
}

#[test]
fn a_killed_agent_comes_back_and_adopts_what_serves() {
    let _alone = alone();
    let (mut guest, pki, _disk) = serving(Machine::default().debug());
    let data_plane = |status: &Value| process(status, "dataplane");
    let before = wait::until("the data plane runs", || data_plane(&status(&guest, &pki)?));
    let agent = process(&status(&guest, &pki).expect("a status"), "agent").expect("a process");
    guest.types(&format!("kill -9 {agent}"));
    guest.says("agent: ended by SIGKILL");
    guest.says_times("agent started", 2);
    let after = wait::until("the next agent knows it", || {
        data_plane(&status(&guest, &pki)?)
    });
    assert_eq!(before, after);
}

fn process(status: &Value, name: &str) -> Option<u64> {
    let processes = status["processes"].as_array().expect("processes");
    let found = processes.iter().find(|p| p["name"] == name);
    found.and_then(|p| p["pid"].as_u64()).filter(|pid| *pid > 0)
}

fn status(guest: &Guest, pki: &Pki) -> Option<Value> {
    let answer = guest
        .agent(pki)
        .send(&pki.controller(), "GET", "/2.0/status", "");
    serde_json::from_str(&answer.ok()?.body).ok()
}

#[test]
fn a_panic_of_process_1_is_told_and_restarts() {
    let _alone = alone();
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
fn the_data_partition_is_used_and_a_full_or_broken_one_is_told() {
    let _alone = alone();
    let (pki, drive) = good();
    let config = drive.iso();
    let data = Disk::data(1);
    let machine = || Machine::default().disk(&config, Bus::Virtio);
    let mut guest = machine().disk(&data, Bus::Virtio).boot();
    guest.answers(&pki);
    assert!(
        guest
            .says("is at /var/lib/krater")
            .contains("data partition vdb")
    );
    drop(guest);

    let full = Disk::data(25 << 20);
    let mut guest = machine().disk(&full, Bus::Virtio).boot();
    guest.says("data partition is full");
    guest.answers(&pki);
    drop(guest);

    data.damage(4_096, &vec![0xa5; 1 << 20]);
    let mut guest = machine().disk(&data, Bus::Virtio).boot();
    guest.says("data partition vdb cannot be mounted");
    guest.answers(&pki);
}

#[test]
fn a_nic_that_is_plugged_in_is_claimed_by_its_address() {
    let _alone = alone();
    let (mut guest, pki, _disk) = serving(Machine::default());
    let mac = "52:54:00:00:00:77";
    let netdev = json!({"type": "user", "id": "n1", "restrict": true});
    guest.monitor("netdev_add", &netdev);
    let device =
        json!({"driver": "virtio-net-pci", "id": "d1", "netdev": "n1", "mac": mac, "romfile": ""});
    guest.monitor("device_add", &device);
    guest.says(&format!("({mac}) is there"));
    let state = json!({
        "schema": 1, "amphora_id": pki.amphora, "epoch": 1, "generation": 1, "request_id": "req-e2e",
        "interfaces": [{"name": "eth1", "mac": mac, "role": "vip", "mtu": 1400, "addresses": ["192.0.2.5/24"]}],
    });
    let agent = guest.agent(&pki).patient(wait::LONG);
    let answer = agent.send(&pki.controller(), "PUT", "/2.0/state", &state.to_string());
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(
        answer.body.contains("claim eth1 as eth1"),
        "{}",
        answer.body
    );
    guest.says("NIC eth1 left the management namespace");
    // The management NIC cannot be named.
    let mut wrong = state;
    wrong["generation"] = json!(2);
    wrong["interfaces"][0]["mac"] = json!(krater_e2e::guest::MANAGEMENT_MAC);
    let answer = agent.send(&pki.controller(), "PUT", "/2.0/state", &wrong.to_string());
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert!(
        answer.body.contains("is the management NIC"),
        "{}",
        answer.body
    );
}

#[test]
fn a_frozen_kernel_is_restarted_by_the_watchdog() {
    let _alone = alone();
    let (pki, drive) = good();
    let disk = drive.iso();
    // An interrupt that nobody expects panics the kernel, which then stands still for ever.
    let machine = || {
        let words = "panic=0 unknown_nmi_panic";
        Machine::default().append(words).disk(&disk, Bus::Virtio)
    };
    let mut guest = machine()
        .with(&["-device", "i6300esb", "-action", "watchdog=reset"])
        .boot();
    guest.answers(&pki);
    guest.says("watchdog: restarts the machine after 60 s");
    guest.monitor("inject-nmi", &json!({}));
    guest.says("Kernel panic");
    guest.says_times("Linux version", 2);
}

#[test]
fn init_refuses_to_be_anything_but_process_1() {
    let mut command = std::process::Command::new(krater_e2e::bin("amphora"));
    let output = command.arg("init").output().expect("amphora");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("init runs as process 1 only"), "{text}");
}
