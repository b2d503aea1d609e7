//! Against the real kernel, with a shell script in the agent's place. Needs root.

use super::*;
use crate::drivers::network::local::{LocalNetworks, segments};
use crate::drivers::network::{Network, Networks};
use crate::drivers::testing::TestState;
use krater_model::state::Heartbeat;
use krater_model::{Millis, NetworkId, Secret};
use krater_net::process::kill_all_in;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

const MANAGEMENT_MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);
const NIC_MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 2]);

/// A state folder with a fabric of two networks; goes away with everything in it.
struct Host {
    layout: Layout,
    compute: NetnsCompute,
    tenant: NetworkId,
    runtime: tokio::runtime::Runtime,
    state: TestState,
}

impl Host {
    fn new() -> Self {
        let host = Self::without_management();
        host.ensure();
        host
    }

    /// With the tenants' network alone.
    fn without_management() -> Self {
        let state = TestState::new();
        let layout = state.layout.clone();
        let script = state.folder().join("amphora");
        let never = state.folder().join("never");
        nix::unistd::mkfifo(&never, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(&script, format!("#!/bin/sh\n{}\n", waiting(&never))).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let host = Self {
            compute: NetnsCompute::new(layout.clone(), script),
            tenant: NetworkId::random(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            layout,
            state,
        };
        host.make(false);
        host
    }

    fn ensure(&self) {
        self.make(true);
    }

    fn make(&self, with_management: bool) {
        let network = |id, name: &str, gateways: &[&str], management| Network {
            id,
            name: name.into(),
            mtu: 1450,
            gateways: gateways.iter().map(|g| g.parse().unwrap()).collect(),
            management,
        };
        let mut networks = vec![
            network(
                NetworkId(uuid::Uuid::nil()),
                "mgmt",
                &["100.96.0.1/16"],
                true,
            ),
            network(
                self.tenant,
                "tenant",
                &["192.0.2.1/24", "2001:db8:2::1/64"],
                false,
            ),
        ];
        networks.retain(|network| with_management || !network.management);
        let driver = LocalNetworks::new(self.layout.clone());
        self.runtime.block_on(driver.ensure(networks)).unwrap();
    }

    fn boot(&self, amphora: AmphoraId) -> Result<String, Error> {
        self.runtime.block_on(self.compute.boot(spec(amphora)))
    }

    /// Ports of amphorae, in both namespaces of the networks.
    fn ports(&self) -> Vec<String> {
        let mut names = Vec::new();
        for netns in [self.layout.open_fabric(), self.layout.open_management()] {
            let links = NetlinkSocket::open_in(&netns.unwrap()).unwrap().links();
            names.extend(links.unwrap().into_iter().map(|link| link.name));
        }
        names.retain(|name| name.starts_with('v'));
        names
    }

    fn agent(&self, amphora: AmphoraId) -> Option<ProcessId> {
        self.compute.inner.agent(amphora).unwrap()
    }
}

/// What a shell does until it is killed, without a child: that would be a process of the same name until it
/// runs its own program.
fn waiting(never: &Path) -> String {
    format!("read _ < {}; true", never.display())
}

fn spec(amphora: AmphoraId) -> Boot {
    Boot {
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
    }
}

#[test]
fn boot_is_repeatable_and_delete_leaves_nothing() {
    let host = Host::new();
    let amphora = AmphoraId::random();
    let id = host.boot(amphora).unwrap();
    assert_eq!(id, format!("{}-{amphora}", host.layout.instance()));
    let agent = host.agent(amphora).expect("the agent runs");
    host.boot(amphora).unwrap();
    assert_eq!(host.agent(amphora), Some(agent), "the same process");

    let text = std::fs::read_to_string(host.layout.agent_toml(amphora)).unwrap();
    let config = AgentConfig::parse(&text).unwrap();
    assert_eq!(config.listen, "100.96.0.7:9443".parse().unwrap());
    assert_eq!(config.heartbeat.unwrap().key.expose(), "HMAC KEY");
    assert_eq!(std::fs::read(&config.server_pem).unwrap(), b"SERVER PEM");
    let key = std::fs::read_to_string(config.seal_key.unwrap()).unwrap();
    assert!(key.len() == 64 && key.bytes().all(|c| c.is_ascii_hexdigit()));
    for file in [&config.server_pem, &host.layout.agent_toml(amphora)] {
        let mode = std::fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    // The management network works, and nothing of it is in the host's namespace.
    let management = NetNs::open(&host.layout.amphora_netns(amphora, Role::Mgmt)).unwrap();
    let listener = management
        .tcp_listener("100.96.0.7:0".parse().unwrap())
        .unwrap();
    let controller = host.layout.open_management().unwrap();
    let address = listener.local_addr().unwrap();
    controller
        .tcp_connect(address, Duration::from_secs(5))
        .unwrap();
    let own = NetlinkSocket::open().unwrap();
    assert_eq!(own.link_by_name(&port_name(MANAGEMENT_MAC)).unwrap(), None);
    drop(listener);

    let listed = host.runtime.block_on(host.compute.list()).unwrap();
    let expected = Instance {
        amphora,
        compute_id: id,
        agent_alive: true,
        intact: true,
    };
    assert_eq!(listed, [expected]);

    for _ in 0..2 {
        host.runtime.block_on(host.compute.delete(amphora)).unwrap();
        assert!(!agent.is_alive());
        assert_eq!(host.ports(), Vec::<String>::new());
        assert_eq!(host.layout.pinned().unwrap().len(), 2, "the networks alone");
        assert!(!host.layout.amphora_dir(amphora).exists());
        assert_eq!(host.runtime.block_on(host.compute.list()).unwrap(), []);
    }
    assert!(
        host.compute.inner.calls.children.lock().unwrap().is_empty(),
        "reaped"
    );
}

#[test]
fn nics_are_plugged_into_the_management_namespace_by_mac() {
    let host = Host::new();
    let amphora = AmphoraId::random();
    host.boot(amphora).unwrap();
    let nic = Nic {
        mac: NIC_MAC,
        network: host.tenant,
        mtu: 1450,
    };
    let plug = || {
        host.runtime
            .block_on(host.compute.plug(amphora, nic.clone()))
    };
    plug().unwrap();
    plug().unwrap();
    let management = NetNs::open(&host.layout.amphora_netns(amphora, Role::Mgmt)).unwrap();
    let netlink = NetlinkSocket::open_in(&management).unwrap();
    let by_mac = || {
        netlink
            .links()
            .unwrap()
            .into_iter()
            .find(|l| l.mac == Some(NIC_MAC))
    };
    let found = by_mac().expect("plugged");
    assert_eq!(found.mtu, 1450);

    // As the agent does: move it away. It stays plugged, and reaches the gateway.
    let vip = NetNs::open(&host.layout.amphora_netns(amphora, Role::Vip)).unwrap();
    let change = LinkChange {
        name: Some("eth1"),
        netns: Some(vip.as_fd()),
        ..LinkChange::default()
    };
    netlink.set_link(found.index, &change).unwrap();
    plug().unwrap();
    assert!(by_mac().is_none());
    let inside = NetlinkSocket::open_in(&vip).unwrap();
    let link = inside.link_by_name("eth1").unwrap().unwrap();
    inside.set_up(link.index, true).unwrap();
    inside
        .add_address(&Address {
            link: link.index,
            net: "192.0.2.9/24".parse().unwrap(),
            protocol: 0,
            no_prefix_route: false,
        })
        .unwrap();
    let fabric = host.layout.open_fabric().unwrap();
    let listener = fabric.tcp_listener("192.0.2.1:0".parse().unwrap()).unwrap();
    let gateway = listener.local_addr().unwrap();
    vip.tcp_connect(gateway, Duration::from_secs(5)).unwrap();

    for _ in 0..2 {
        host.runtime
            .block_on(host.compute.unplug(amphora, NIC_MAC))
            .unwrap();
        assert!(inside.link_by_name("eth1").unwrap().is_none());
    }
    let nowhere = Nic {
        network: NetworkId::random(),
        ..nic
    };
    let error = host
        .runtime
        .block_on(host.compute.plug(amphora, nowhere))
        .unwrap_err();
    assert!(error.retryable);
    let text = krater_model::error::report(&error);
    assert!(text.contains("does not exist"), "{text}");
}

#[test]
fn an_agent_that_died_is_started_again_and_a_reboot_is_noticed() {
    let host = Host::new();
    let amphora = AmphoraId::random();
    host.boot(amphora).unwrap();
    let agent = host.agent(amphora).unwrap();
    agent.signal(libc::SIGKILL).unwrap();
    assert!(agent.wait(Duration::from_secs(20)).unwrap());
    let list = || host.runtime.block_on(host.compute.list()).unwrap();
    assert!(!list()[0].agent_alive && list()[0].intact);
    host.runtime
        .block_on(host.compute.restart_agent(amphora))
        .unwrap();
    let second = host.agent(amphora).unwrap();
    assert_ne!(second, agent);

    // What a reboot of the host leaves: folders, and files where namespaces were pinned.
    let path = host.layout.amphora_netns(amphora, Role::Vip);
    let id = NetNs::open(&host.layout.amphora_netns(amphora, Role::Mgmt))
        .unwrap()
        .id()
        .unwrap();
    kill_all_in(&[id], Duration::from_secs(20)).unwrap();
    krater_net::netns::delete(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    assert!(!list()[0].agent_alive && !list()[0].intact);
    host.runtime.block_on(host.compute.delete(amphora)).unwrap();
    assert_eq!(list(), []);
}

#[test]
fn the_fabric_is_made_once_and_knows_nothing_of_management() {
    let host = Host::new();
    let id = || host.layout.open_fabric().unwrap().id().unwrap();
    let before = id();
    host.ensure();
    assert_eq!(id(), before);
    let fabric = host.layout.open_fabric().unwrap();
    let read = |key: &str| krater_net::sysctl::read(&fabric, key).unwrap();
    let bridge = bridge_name(host.tenant, false);
    assert_eq!(read(&format!("net/ipv4/conf/{bridge}/forwarding")), "1");
    let management = host.layout.open_management().unwrap();
    let off = krater_net::sysctl::read(&management, "net/ipv4/ip_forward");
    assert_eq!(off.unwrap(), "0");
    let addresses = |netns: &NetNs| -> Vec<String> {
        let netlink = NetlinkSocket::open_in(netns).unwrap();
        let addresses = netlink.addresses().unwrap();
        addresses.iter().map(|a| a.net.to_string()).collect()
    };
    let routed = addresses(&fabric);
    for wanted in ["192.0.2.1/24", "2001:db8:2::1/64"] {
        assert!(routed.iter().any(|a| a == wanted), "{wanted} in {routed:?}");
    }
    let controller = "100.96.0.1/16".to_owned();
    assert!(!routed.contains(&controller), "{routed:?}");
    assert!(addresses(&management).contains(&controller));
    let known = segments(&host.layout).unwrap();
    assert_eq!(known.len(), 1, "nobody is put on the management network");
    assert_eq!(
        (known[0].name.as_str(), &known[0].bridge),
        ("tenant", &bridge)
    );
}

#[test]
fn vips_go_only_when_nobody_in_the_amphora_could_take_them_away() {
    let host = Host::new();
    let amphora = AmphoraId::random();
    host.boot(amphora).unwrap();
    let vip = NetNs::open(&host.layout.amphora_netns(amphora, Role::Vip)).unwrap();
    let inside = NetlinkSocket::open_in(&vip).unwrap();
    let loopback = inside.link_by_name("lo").unwrap().unwrap();
    let give = |net: &str, protocol| {
        let address = Address {
            link: loopback.index,
            net: net.parse().unwrap(),
            protocol,
            no_prefix_route: false,
        };
        inside.add_address(&address).unwrap();
    };
    give("203.0.113.9/32", PROTO_VRRP);
    give("203.0.113.10/32", krater_net::PROTO_AGENT);
    let has = |net: &str| {
        let all = inside.addresses().unwrap();
        all.iter().any(|address| address.net.to_string() == net)
    };
    let restart = || {
        let done = host.compute.restart_agent(amphora);
        host.runtime.block_on(done)
    };
    let kill = |process: ProcessId| {
        process.signal(libc::SIGKILL).unwrap();
        assert!(process.wait(Duration::from_secs(20)).unwrap());
    };
    restart().unwrap();
    assert!(has("203.0.113.9/32"), "its agent lives");
    kill(host.agent(amphora).unwrap());
    let never = host.state.folder().join("never");
    let mut guard = spawn_detached(&Detached {
        program: Path::new("/bin/sh"),
        args: &["-c".into(), waiting(&never).into(), "vrrp-guard".into()],
        netns: &vip,
        stderr: None,
    })
    .unwrap();
    restart().unwrap();
    assert!(has("203.0.113.9/32"), "its guard lives");
    guard.kill().unwrap();
    guard.wait().unwrap();
    kill(host.agent(amphora).unwrap());
    // Also when no agent can be started.
    std::fs::remove_file(host.layout.agent_toml(amphora)).unwrap();
    assert!(restart().is_err());
    assert!(!has("203.0.113.9/32") && has("203.0.113.10/32"));
}

#[test]
fn an_agent_is_started_once_however_many_ask_and_never_in_an_amphora_that_goes() {
    let host = Host::new();
    let amphora = AmphoraId::random();
    host.boot(amphora).unwrap();
    let first = host.agent(amphora).unwrap();
    first.signal(libc::SIGKILL).unwrap();
    assert!(first.wait(Duration::from_secs(20)).unwrap());
    let restarts = (0..8).map(|_| host.compute.restart_agent(amphora));
    let done = host
        .runtime
        .block_on(futures_util::future::join_all(restarts));
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    let started = host.compute.inner.calls.children.lock().unwrap().len();
    assert_eq!(started, 1, "the first was reaped");

    let management = NetNs::open(&host.layout.amphora_netns(amphora, Role::Mgmt)).unwrap();
    let restarts = (0..8).map(|_| host.compute.restart_agent(amphora));
    let all = async {
        let both = tokio::join!(
            host.compute.delete(amphora),
            futures_util::future::join_all(restarts)
        );
        both.0
    };
    host.runtime.block_on(all).unwrap();
    let left = processes_in(&[management.id().unwrap()]).unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert!(host.compute.inner.calls.busy.lock().unwrap().len() <= 1);
}

mod isolation;

#[test]
fn two_amphorae_at_the_same_time() {
    let host = Host::new();
    let ids = [AmphoraId::random(), AmphoraId::random()];
    let started = Instant::now();
    let boots = ids.map(|amphora| {
        let mut boot = spec(amphora);
        let number = amphora.0.as_bytes()[0];
        boot.management_mac = MacAddr([2, 0, 0, 0, 1, number]);
        boot.management_address = format!("100.96.1.{number}/16").parse().unwrap();
        host.compute.boot(boot)
    });
    let done = host.runtime.block_on(futures_util::future::join_all(boots));
    println!("two boots took {:?}", started.elapsed());
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    assert_eq!(host.runtime.block_on(host.compute.list()).unwrap().len(), 2);
    let started = Instant::now();
    let ends = ids.map(|amphora| host.compute.delete(amphora));
    let done = host.runtime.block_on(futures_util::future::join_all(ends));
    println!("two deletes took {:?}", started.elapsed());
    assert!(done.iter().all(Result::is_ok), "{done:?}");
}

#[test]
fn a_missing_program_is_named_and_not_retried() {
    let host = Host::new();
    let error = amphora_bin(Some(Path::new("/nonexistent/amphora"))).unwrap_err();
    assert!(error.to_string().contains("--amphora-bin"), "{error}");
    let gone = NetnsCompute::new(host.layout.clone(), "/nonexistent/amphora".into());
    let error = host
        .runtime
        .block_on(gone.boot(spec(AmphoraId::random())))
        .unwrap_err();
    assert!(!error.retryable);
    let text = krater_model::error::report(&error);
    assert!(text.contains("/nonexistent/amphora"), "{text}");
}

/// A lost SYN costs a second: nothing may be remembered of the last owner of an address.
#[test]
fn a_used_management_address_is_free_of_its_last_owner() {
    let host = Host::new();
    let management = host.layout.open_management().unwrap();
    let neighbours = || {
        let read = || std::fs::read_to_string("/proc/thread-self/net/arp");
        management.run(read).unwrap().unwrap()
    };
    // Without another the bridge loses its carrier with the first, and the kernel forgets everybody.
    let mut other = spec(AmphoraId::random());
    other.management_mac = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 8]);
    other.management_address = "100.96.0.8/16".parse().unwrap();
    host.runtime.block_on(host.compute.boot(other)).unwrap();
    let first = AmphoraId::random();
    host.boot(first).unwrap();
    let old = MANAGEMENT_MAC.to_string();
    let ask = || std::net::UdpSocket::bind("100.96.0.1:0")?.send_to(b"x", "100.96.0.7:9");
    let started = Instant::now();
    while !neighbours().contains(&old) {
        assert!(started.elapsed() < Duration::from_secs(20), "not learned");
        management.run(ask).unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    host.runtime.block_on(host.compute.delete(first)).unwrap();
    assert!(neighbours().contains(&old), "{}", neighbours());
    let mut second = spec(AmphoraId::random());
    second.management_mac = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 9]);
    host.runtime.block_on(host.compute.boot(second)).unwrap();
    assert!(!neighbours().contains(&old), "{}", neighbours());
}
