//! Against the real kernel, with a shell script in QEMU's place and a monitor that the test plays. Needs root. With
//! QEMU itself: e2e/tests/it/machines.rs.

mod fake;

use super::*;
use crate::config::BootFrom;
use crate::drivers::network::local::LocalNetworks;
use crate::drivers::network::{self, Networks as _};
use crate::drivers::testing::TestState;
use fake::FakeMonitor;
use krater_model::state::Heartbeat;
use krater_model::{Millis, NetworkId, Secret};
use std::os::unix::fs::PermissionsExt as _;

const MANAGEMENT_MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);
const NIC_MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 2]);

/// A state folder with a fabric; goes away with everything in it.
struct Host {
    layout: Layout,
    compute: QemuCompute,
    tenant: NetworkId,
    runtime: tokio::runtime::Runtime,
    state: TestState,
}

impl Host {
    /// `script` is what QEMU does, in shell; `$NEVER` is what it can wait for.
    fn new(script: &str) -> Self {
        let state = TestState::new();
        let layout = state.layout.clone();
        let file = |name: &str| state.folder().join(name);
        let never = file("never");
        nix::unistd::mkfifo(&never, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let program = |name: &str, text: &str| {
            let path = file(name);
            let text = format!("#!/bin/sh\nNEVER={}\n{text}\n", never.display());
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        std::fs::create_dir(file("image")).unwrap();
        for name in [krater_image::KERNEL, krater_image::INITRD] {
            std::fs::write(file("image").join(name), "").unwrap();
        }
        let settings = Settings {
            program: program("qemu", script),
            console_writer: program("krater", "exec cat > \"$2\""),
            image: Image::open(&file("image"), BootFrom::Kernel).unwrap(),
            acceleration: Acceleration::Tcg,
            memory: 128,
            cpus: 1,
        };
        let host = Self {
            compute: QemuCompute::new(layout.clone(), settings).unwrap(),
            tenant: NetworkId::random(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            layout,
            state,
        };
        let network = |id, name: &str, gateway: &str, management| network::Network {
            id,
            name: name.into(),
            mtu: 1450,
            gateways: vec![gateway.parse().unwrap()],
            management,
        };
        let nil = NetworkId(uuid::Uuid::nil());
        let networks = vec![
            network(nil, "mgmt", "100.96.0.1/16", true),
            network(host.tenant, "tenant", "192.0.2.1/24", false),
        ];
        let driver = LocalNetworks::new(host.layout.clone());
        host.runtime.block_on(driver.ensure(networks)).unwrap();
        host
    }

    /// One that lives, and its monitor.
    fn machine(&self, amphora: AmphoraId) -> FakeMonitor {
        std::fs::create_dir_all(self.layout.amphora_dir(amphora)).unwrap();
        FakeMonitor::listen(&self.compute.inner.socket(amphora))
    }

    fn boot(&self, amphora: AmphoraId) -> Result<String, Error> {
        let boot = Boot {
            amphora,
            management_mac: MANAGEMENT_MAC,
            management_address: "100.96.0.7/16".parse().unwrap(),
            server_pem: Secret::new("SERVER PEM"),
            client_ca_pem: "CA PEM".into(),
            heartbeat: Heartbeat {
                targets: vec!["100.96.0.1:5555".parse().unwrap()],
                interval: Millis::literal(1000),
                key: Secret::new("HMAC KEY"),
            },
            workers: Some(2),
            log_level: "info".into(),
            log_json: false,
        };
        self.runtime.block_on(self.compute.boot(boot))
    }

    fn plug(&self, amphora: AmphoraId) -> Result<(), Error> {
        let nic = Nic {
            mac: NIC_MAC,
            network: self.tenant,
            mtu: 1450,
        };
        self.runtime.block_on(self.compute.plug(amphora, nic))
    }

    fn unplug(&self, amphora: AmphoraId) -> Result<(), Error> {
        let call = self.compute.unplug(amphora, NIC_MAC);
        self.runtime.block_on(call)
    }

    fn list(&self) -> Vec<Instance> {
        self.runtime.block_on(self.compute.list()).unwrap()
    }

    fn links(&self, netns: NetNs) -> Vec<Link> {
        let links = NetlinkSocket::open_in(&netns).unwrap().links().unwrap();
        let port = |link: &Link| link.name.starts_with('v');
        links.into_iter().filter(port).collect()
    }

    fn fabric(&self) -> Vec<Link> {
        self.links(self.layout.open_fabric().unwrap())
    }

    fn management(&self) -> Vec<Link> {
        self.links(self.layout.open_management().unwrap())
    }
}

const LIVES: &str = "echo booting; read _ < $NEVER; true";

#[test]
fn boot_is_repeatable_and_delete_leaves_nothing() {
    let host = Host::new(LIVES);
    let amphora = AmphoraId::random();
    let monitor = host.machine(amphora);
    let id = host.boot(amphora).unwrap();
    assert_eq!(id, format!("{}-{amphora}", host.layout.instance()));
    let machine = host.compute.inner.machine(amphora).unwrap();
    let machine = machine.expect("the machine runs");
    let drive = host.compute.inner.drive(amphora);
    let before = std::fs::read(&drive).unwrap();
    host.boot(amphora).unwrap();
    let again = host.compute.inner.machine(amphora).unwrap();
    assert_eq!(again, Some(machine), "the same process");
    assert_eq!(
        std::fs::read(&drive).unwrap(),
        before,
        "with the same drive"
    );

    let text = String::from_utf8_lossy(&before);
    for part in [
        "config-2",
        "SERVER PEM",
        "CA PEM",
        "HMAC KEY",
        "/etc/krater/agent.toml",
    ] {
        assert!(text.contains(part), "{part} is not on the drive");
    }
    let mode = std::fs::metadata(&drive).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ports = host.management();
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0].name, port_name(MANAGEMENT_MAC));
    assert!(ports[0].up && ports[0].master.is_some() && ports[0].mtu == 1450);
    let words = machine.command_line().unwrap();
    assert!(
        words
            .iter()
            .any(|word| word == "tcg,thread=multi,tb-size=64"),
        "{words:?}"
    );
    let expected = Instance {
        amphora,
        compute_id: id,
        agent_alive: true,
        intact: true,
    };
    assert_eq!(host.list(), [expected]);
    let call = host.compute.restart_agent(amphora);
    host.runtime.block_on(call).unwrap();
    let console = host.layout.console(amphora);
    let deadline = Instant::now() + START_WITHIN;
    while std::fs::read(&console).unwrap_or_default() != b"booting\n" {
        assert!(Instant::now() < deadline, "the console is not written");
        std::thread::sleep(LOOK_EVERY);
    }

    drop(monitor);
    for _ in 0..2 {
        host.runtime.block_on(host.compute.delete(amphora)).unwrap();
        assert!(!machine.is_alive());
        assert_eq!(host.management(), []);
        assert_eq!(host.layout.pinned().unwrap().len(), 2, "the networks alone");
        assert!(!host.layout.amphora_dir(amphora).exists());
        assert_eq!(host.list(), []);
        let kept = std::fs::read(host.layout.kept_console(amphora)).unwrap();
        assert_eq!(kept, b"booting\n");
    }
    let calls = &host.compute.inner.calls;
    assert!(calls.children.lock().unwrap().is_empty(), "reaped");
}

#[test]
fn a_killed_machine_leaves_no_interface_and_is_not_started_again() {
    let host = Host::new(LIVES);
    let amphora = AmphoraId::random();
    let monitor = host.machine(amphora);
    host.boot(amphora).unwrap();
    let machine = host.compute.inner.machine(amphora).unwrap().unwrap();
    assert_eq!(host.management().len(), 1);
    machine.signal(libc::SIGKILL).unwrap();
    assert!(machine.wait(START_WITHIN).unwrap());
    assert_eq!(host.management(), []);
    drop(monitor);
    let list = host.list();
    assert!(!list[0].agent_alive && !list[0].intact, "to be rebuilt");
    let again = host.runtime.block_on(host.compute.restart_agent(amphora));
    let error = again.unwrap_err();
    assert!(!error.retryable);
    let plugged = host.plug(amphora).unwrap_err();
    assert!(krater_model::report(&plugged).contains("has ended"));
    host.unplug(amphora).unwrap();
    host.runtime.block_on(host.compute.delete(amphora)).unwrap();
    assert_eq!(host.layout.pinned().unwrap().len(), 2);
}

#[test]
fn nics_are_plugged_and_unplugged_while_it_runs() {
    let host = Host::new(LIVES);
    let amphora = AmphoraId::random();
    let monitor = host.machine(amphora);
    host.boot(amphora).unwrap();
    for _ in 0..2 {
        host.plug(amphora).unwrap();
        let ports = host.fabric();
        assert_eq!(ports.len(), 1, "{ports:?}");
        assert_eq!(
            (ports[0].name.as_str(), ports[0].mtu),
            (&*port_name(NIC_MAC), 1450)
        );
        assert!(ports[0].up && ports[0].master.is_some());
    }
    assert_eq!(monitor.devices(), [device_id(NIC_MAC)]);
    for _ in 0..2 {
        host.unplug(amphora).unwrap();
        assert_eq!(host.fabric(), []);
        assert_eq!(monitor.devices(), [""; 0]);
    }
    // A guest that holds on to a NIC: no interface is left all the same, and it cannot be plugged meanwhile.
    host.plug(amphora).unwrap();
    monitor.hold_on();
    host.unplug(amphora).unwrap();
    assert_eq!(host.fabric(), []);
    let error = host.plug(amphora).unwrap_err();
    assert!(error.retryable && krater_model::report(&error).contains("let go"));
    let nowhere = Nic {
        mac: MacAddr([0xfa, 0x16, 0x3e, 0, 0, 3]),
        network: NetworkId::random(),
        mtu: 1450,
    };
    let call = host.compute.plug(amphora, nowhere);
    let error = host.runtime.block_on(call).unwrap_err();
    assert!(krater_model::report(&error).contains("does not exist"));
}

#[test]
fn one_that_ends_at_once_says_why() {
    let host = Host::new("echo 'no such accelerator' >&2; exit 1");
    let amphora = AmphoraId::random();
    let error = host.boot(amphora).unwrap_err();
    let text = krater_model::report(&error);
    assert!(
        text.contains("ended at once") && text.contains("no such accelerator"),
        "{text}"
    );
    assert_eq!(host.management(), []);
    host.runtime.block_on(host.compute.delete(amphora)).unwrap();
    assert_eq!(host.list(), []);
}

#[test]
fn a_path_that_no_socket_can_have_is_refused_at_the_start() {
    let host = Host::new(LIVES);
    let deep = host.state.folder().join("x".repeat(100));
    let layout = Layout::create(&deep).unwrap();
    let settings = host.compute.inner.settings.clone();
    let error = QemuCompute::new(layout, settings).unwrap_err().to_string();
    assert!(error.contains("--state-dir"), "{error}");
}

#[test]
fn the_program_is_looked_up() {
    let found = find_program(Path::new("sh")).unwrap();
    assert!(found.is_absolute() && found.ends_with("sh"));
    assert_eq!(find_program(&found).unwrap(), found);
    for name in ["no-such-program", "/nonexistent/qemu"] {
        let error = find_program(Path::new(name)).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("--qemu-binary"),
            "{error}"
        );
    }
}
