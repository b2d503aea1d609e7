//! `amphora init` in virtual machines: what stands on the console, what answers, what cannot be done.
//!
//! What every run shows is here, several claims to a boot, for a boot takes ten seconds of a processor. What is rarer is in
//! [`nightly`].

mod nightly;

use krater_e2e::agent::Identity;
use krater_e2e::backend::Backend;
use krater_e2e::client::{self, Kind, Load};
use krater_e2e::guest::{
    Bus, CLIENTS_MAC, CLIENTS_PORT, Disk, Drive, Guest, HOST, MANAGEMENT_MAC, Machine, Pki, VIP,
};
use krater_e2e::system::beside;
use krater_e2e::wait;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where the member listens.
const MEMBER_PORT: u16 = 9_000;
/// What it answers.
const MEMBER: &str = "member";
/// The least memory that the docs give an amphora, in MiB.
const LEAST_MEMORY: u32 = 96;
/// A state may take so long on a machine that translates several others.
const PATIENCE: Duration = Duration::from_secs(120);

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

/// A stranger with the right name is not answered.
fn no_stranger(guest: &Guest, pki: &Pki) {
    let stranger = Identity::foreign("krater-controller");
    let answer = guest.agent(pki).send(&stranger, "GET", "/2.0/info", "");
    assert!(answer.is_err(), "{answer:?}");
}

/// One load balancer at [`VIP`], whose member is `member`; more interfaces than the one for clients.
fn state(pki: &Pki, generation: u64, member: (&str, u16), interfaces: &[Value]) -> Value {
    let id = |number: u128| uuid::Uuid::from_u128(number).to_string();
    let clients = json!({
        "name": "eth1", "mac": CLIENTS_MAC, "role": "vip", "mtu": 1500, "addresses": ["192.0.2.5/24"],
    });
    let interfaces: Vec<Value> = std::iter::once(clients)
        .chain(interfaces.iter().cloned())
        .collect();
    let (address, port) = member;
    json!({
        "schema": krater_model::SCHEMA, "amphora_id": pki.amphora, "epoch": 1, "generation": generation,
        "request_id": "req-e2e", "interfaces": interfaces,
        "vrrp": [{
            "vrid": 1, "interface": "eth1", "priority": 100, "advert_interval": 100, "source": "192.0.2.5",
            "addresses": [format!("{VIP}/32")],
        }],
        "load_balancers": [{
            "id": id(1), "vips": [VIP],
            "listeners": [{"id": id(2), "protocol": "HTTP", "port": 80, "default_pool": id(3)}],
            "pools": [{
                "id": id(3), "protocol": "HTTP", "algorithm": "ROUND_ROBIN",
                "members": [{"id": id(4), "address": address, "port": port, "weight": 1}],
            }],
        }],
    })
}

/// Puts a state; the status and the text of the answer.
fn put(guest: &Guest, pki: &Pki, state: &Value) -> (u16, String) {
    let agent = guest.agent(pki).patient(PATIENCE);
    let answer = agent.send(&pki.controller(), "PUT", "/2.0/state", &state.to_string());
    let answer = answer.expect("an answer");
    (answer.status, answer.body)
}

fn get(guest: &Guest, pki: &Pki, path: &str) -> Option<String> {
    let agent = guest.agent(pki);
    let answer = agent.send(&pki.controller(), "GET", path, "").ok()?;
    (answer.status == 200).then_some(answer.body)
}

fn status(guest: &Guest, pki: &Pki) -> Option<Value> {
    serde_json::from_str(&get(guest, pki, "/2.0/status")?).ok()
}

fn process(status: &Value, name: &str) -> Option<u64> {
    let processes = status["processes"].as_array().expect("processes");
    let found = processes.iter().find(|p| p["name"] == name);
    found.and_then(|p| p["pid"].as_u64()).filter(|pid| *pid > 0)
}

/// Where clients go, in the machine's namespace.
fn clients() -> SocketAddr {
    ([127, 0, 0, 1], CLIENTS_PORT).into()
}

/// Waits until clients are served by the member.
fn serves(guest: &Guest, who: &str) {
    let place = guest.place();
    wait::within(PATIENCE, "clients are served", || {
        let answer = client::get(&place, clients(), "/").ok()?;
        (answer.status == 200 && answer.text().trim_end() == who).then_some(())
    });
}

#[test]
fn the_agent_answers_its_controller_alone_no_shell_answers_and_a_new_nic_is_claimed() {
    let _beside = beside();
    let (pki, drive) = good();
    // A FAT config drive; the ISO form is that of the other tests.
    let disk = drive.vfat();
    let mut guest = Machine::default().disk(&disk, Bus::Virtio).boot();
    let info = guest.answers(&pki);
    assert_eq!(info["amphora_id"], pki.amphora, "{info}");
    no_stranger(&guest, &pki);
    let console = guest.says("the root file system is read-only");
    for line in [
        "4 files in memory",
        "has 10.0.2.15/24 for 86400 s, by DHCP of 10.0.2.2",
    ] {
        assert!(console.contains(line), "{line}\n{console}");
    }
    // Its control is the debug variant's test: there the same line does something.
    guest.types("/bin/busybox echo here-$((40+2))");

    let netdev = json!({"type": "user", "id": "n1", "restrict": true});
    guest.monitor("netdev_add", &netdev);
    let device = json!({
        "driver": "virtio-net-pci", "id": "d1", "netdev": "n1", "mac": CLIENTS_MAC, "romfile": "",
    });
    guest.monitor("device_add", &device);
    guest.says(&format!("({CLIENTS_MAC}) is there"));
    let wanted = state(&pki, 1, (HOST, MEMBER_PORT), &[]);
    let (code, body) = put(&guest, &pki, &wanted);
    assert_eq!(code, 200, "{body}");
    assert!(body.contains("claim eth1 as eth1"), "{body}");
    guest.says("NIC eth1 left the management namespace");
    // The management NIC cannot be named.
    let mut wrong = wanted;
    wrong["generation"] = json!(2);
    wrong["interfaces"][0]["mac"] = json!(MANAGEMENT_MAC);
    let (code, body) = put(&guest, &pki, &wrong);
    assert_eq!(code, 400, "{body}");
    assert!(body.contains("is the management NIC"), "{body}");

    assert!(!guest.console().contains("here-42"), "{}", guest.console());
    guest.monitor("system_powerdown", &json!({}));
    guest.goes_off();
    let console = guest.console();
    let last = "power button: the machine goes off";
    assert!(console.contains(last), "{console}");
}

/// With the shell, which only takes memory more.
#[test]
fn the_smallest_amphora_serves_through_its_agents_death_and_a_power_cycle() {
    let _beside = beside();
    let (pki, drive) = good();
    let (config, data) = (drive.iso(), Disk::data(1));
    let machine = || {
        let machine = Machine::default().memory(LEAST_MEMORY).clients();
        let machine = machine.disk(&config, Bus::Virtio);
        machine.disk(&data, Bus::Virtio)
    };
    let mut guest = machine().debug().boot();
    guest.answers(&pki);
    let console = guest.says("is at /var/lib/krater");
    assert!(console.contains("data partition vdb"), "{console}");
    the_shell_shows_what_can_be_written(&mut guest);
    let member = Backend::at(guest.place(), MEMBER_PORT, MEMBER);
    let (code, body) = put(&guest, &pki, &state(&pki, 1, (HOST, MEMBER_PORT), &[]));
    assert_eq!(code, 200, "{body}");
    serves(&guest, MEMBER);

    let before = status(&guest, &pki).and_then(|status| process(&status, "dataplane"));
    under_load(&guest, || {
        let agent = process(&status(&guest, &pki).expect("a status"), "agent");
        guest.types(&format!("kill -9 {}", agent.expect("a process")));
    });
    guest.says("agent: ended by SIGKILL");
    guest.says_times("agent started", 2);
    let after = wait::within(PATIENCE, "the next agent knows the data plane", || {
        process(&status(&guest, &pki)?, "dataplane")
    });
    assert_eq!(before, Some(after), "the same data plane");
    guest.types("/bin/busybox grep -E 'Mem(Total|Available)' /proc/meminfo; /bin/busybox grep oom_kill /proc/vmstat; echo memory-$((1+1))");
    let console = guest.says("memory-2");
    assert!(console.contains("oom_kill 0"), "{console}");
    for line in console.lines().filter(|line| line.starts_with("Mem")) {
        eprintln!("under traffic: {line}");
    }

    // The plug is pulled. No controller sends anything to the next life, whose members are others.
    drop((guest, member));
    let mut guest = machine().boot();
    let _member = Backend::at(guest.place(), MEMBER_PORT, "another");
    guest.answers(&pki);
    serves(&guest, "another");
    let view = get(&guest, &pki, "/2.0/state").expect("a state");
    let view: Value = serde_json::from_str(&view).expect("JSON");
    assert_eq!(view["revision"]["generation"], 1, "{view}");
}

/// Several kinds of clients at once, while something happens; none of them fails.
fn under_load(guest: &Guest, happens: impl FnOnce()) {
    const ANSWERS: u64 = 100;
    let place = Arc::new(guest.place());
    let load = |kind| Load::start(Arc::clone(&place), clients(), kind, &[MEMBER]);
    let loads = [Kind::KeepAlive, Kind::New, Kind::Large, Kind::KeepAlive].map(load);
    let done = |loads: &[Load]| loads.iter().map(Load::done).sum::<u64>();
    let answers = |at_least: u64| {
        wait::within(PATIENCE, "answers", || {
            (done(&loads) >= at_least).then_some(())
        });
    };
    answers(ANSWERS);
    happens();
    answers(done(&loads) + ANSWERS);
    eprintln!("{} answers", done(&loads));
    for load in loads {
        assert_eq!(load.stop(), [""; 0]);
    }
}

/// And that there is a shell, which is the control of the test that there is none.
fn the_shell_shows_what_can_be_written(debug: &mut Guest) {
    debug.types("/bin/busybox echo here-$((40+2))");
    debug.says("here-42");
    debug.types(
        "/bin/busybox touch /x /etc/x /lib/x; /bin/busybox touch /run/x && echo run-$((1+1))",
    );
    let console = debug.says("run-2");
    for path in ["/x", "/etc/x", "/lib/x"] {
        let refused = format!("touch: {path}: Read-only file system");
        assert!(console.contains(&refused), "{console}");
    }
    debug.types(
        "/bin/busybox stat -c %a:%U:%n /etc/krater /etc/krater/server.pem; echo stat-$((1+1))",
    );
    let console = debug.says("stat-2");
    let modes = ["700:", "600:"].map(|mode| console.contains(mode));
    assert_eq!(modes, [true; 2], "{console}");
    debug.types("/bin/busybox hostname; echo name-$((1+1))");
    assert!(debug.says("name-2").contains("amphora-e2e"));
}

#[test]
fn init_refuses_to_be_anything_but_process_1() {
    let mut command = std::process::Command::new(krater_e2e::bin("amphora"));
    let output = command.arg("init").output().expect("amphora");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("init runs as process 1 only"), "{text}");
}
