//! NICs, certificates, logs, the command line.

use super::rig::{PORT, Rig, VIP};
use krater_model::control::ListenerState;
use krater_model::id::CertificateId;
use krater_model::net::MacAddr;
use krater_net::link::VethSpec;
use krater_net::sync::NetlinkSocket;
use std::fs;
use std::os::fd::AsFd;
use std::process::Command;

const SECOND: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 1, 2, 4]);

fn plug(rig: &Rig, name: &str, mac: MacAddr) {
    let netlink = NetlinkSocket::open_in(&rig.client).unwrap();
    netlink
        .create_veth(&VethSpec {
            name,
            mac: None,
            master: None,
            mtu: None,
            up: true,
            peer: "hotplug0",
            peer_mac: Some(mac),
            peer_netns: Some(rig.management.as_fd()),
        })
        .unwrap();
}

#[test]
fn nics_come_late_change_and_go() {
    let rig = Rig::started();
    rig.apply(&rig.state(1));
    let mut two = rig.state(2);
    let second = serde_json::json!({
        "name": "eth2", "mac": SECOND, "role": "member",
        "addresses": ["198.51.100.5/24", "2001:db8:5::5/64"],
        "routes": [{"to": "203.0.113.0/24", "via": "198.51.100.1"},
                   {"to": "2001:db8:6::/48", "via": "2001:db8:5::1"},
                   {"to": "0.0.0.0/0", "via": "198.51.100.1", "table": 100}],
        "rules": [{"from": "198.51.100.0/24", "table": 100, "priority": 100}],
    });
    two["interfaces"].as_array_mut().unwrap().push(second);
    std::thread::scope(|scope| {
        let applying = scope.spawn(|| rig.apply(&two));
        // Only when the agent waits for it.
        rig.wait("the request is on its way", |rig| {
            let netlink = NetlinkSocket::open_in(&rig.management).unwrap();
            netlink.links().is_ok()
        });
        plug(&rig, "net1", SECOND);
        assert!(applying.join().unwrap().changed);
    });
    let vip = NetlinkSocket::open_in(&rig.vip).unwrap();
    let eth2 = vip.link_by_name("eth2").unwrap().unwrap();
    let has = |text: &str| {
        let all = vip
            .tagged_addresses(eth2.index, krater_net::PROTO_AGENT)
            .unwrap();
        all.iter().any(|address| address.net.to_string() == text)
    };
    assert!(has("198.51.100.5/24") && has("2001:db8:5::5/64"));
    assert_eq!(
        vip.rules()
            .unwrap()
            .iter()
            .filter(|r| r.table == 100)
            .count(),
        1
    );

    // Nothing to do for the kernel when only the load balancer changes.
    two["generation"] = 3.into();
    let steps = rig.apply(&two).steps;
    assert_eq!(steps, ["dataplane", "vrrp", "ledger"]);

    two["generation"] = 4.into();
    two["interfaces"][1]["addresses"] = serde_json::json!(["198.51.100.6/24", "2001:db8:5::5/64"]);
    two["interfaces"][1]["routes"]
        .as_array_mut()
        .unwrap()
        .remove(0);
    rig.apply(&two);
    assert!(has("198.51.100.6/24") && !has("198.51.100.5/24"));
    let routes = vip.routes().unwrap();
    assert!(
        !routes
            .iter()
            .any(|route| route.to.to_string() == "203.0.113.0/24")
    );
    assert!(routes.iter().any(|route| route.table == 100));

    rig.apply(&rig.state(5));
    assert!(vip.link_by_name("eth2").unwrap().is_none());
    assert_eq!(
        vip.rules()
            .unwrap()
            .iter()
            .filter(|r| r.table == 100)
            .count(),
        0
    );
    let management = NetlinkSocket::open_in(&rig.management).unwrap();
    assert_eq!(
        management.link_by_name("eth2").unwrap().unwrap().mac,
        Some(SECOND)
    );
    rig.apply(&{
        two["generation"] = 6.into();
        two
    });
    assert!(
        vip.link_by_name("eth2").unwrap().is_some(),
        "and back again"
    );
}

#[test]
fn without_the_seal_key_listeners_wait_for_their_certificates() {
    let mut rig = Rig::new();
    let config = rig.dir.join("agent.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("seal_key = \"seal.key\"\n", "")).unwrap();
    rig.start_agent();
    let usage = rcgen::ExtendedKeyUsagePurpose::ServerAuth;
    let pem = rig.server_ca.issue("www.example.com", usage);
    let id = CertificateId::of(pem.as_bytes());
    let mut state = rig.state(1);
    state["certificates"] = serde_json::json!([{"id": id, "pem": pem}]);
    let listener = &mut state["load_balancers"][0]["listeners"][0];
    listener["protocol"] = "TERMINATED_HTTPS".into();
    listener["tls"] = serde_json::json!({"default_certificate": id});
    state["load_balancers"][0]["pools"][0]["protocol"] = "HTTP".into();
    rig.apply(&state);
    rig.wait("active", Rig::is_active);
    let ledger = fs::read_to_string(rig.dir.join("state/ledger.json")).unwrap();
    assert!(!ledger.contains("PRIVATE KEY"));

    rig.kill_agent();
    let vip = rig.vip.id().unwrap();
    krater_net::process::kill_all_in(&[vip], std::time::Duration::from_secs(20)).unwrap();
    rig.start_agent();
    rig.wait("the listener says what it lacks", |rig| {
        let dataplane = rig.status().dataplane;
        let listeners = dataplane.map(|d| d.listeners).unwrap_or_default();
        let lacks = |state: &ListenerState| {
            matches!(state, ListenerState::Failed(why) if why.contains("certificate-missing"))
        };
        listeners.iter().any(|listener| lacks(&listener.state))
    });
    assert!(!rig.is_active(), "and the VIP is not taken");
    assert_eq!(rig.call("GET", "/readyz", "").0, 503);
    assert!(
        rig.apply(&state).changed,
        "the same document again mends it"
    );
    rig.wait("active again", Rig::is_active);
    assert!(!rig.apply(&state).changed);
}

#[test]
fn logs_are_followed() {
    let rig = Rig::started();
    let pem = rig
        .client_ca
        .client(krater_model::wire::agent::CONTROLLER_NAME);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let mut stream = rig.tls(Some(&pem)).await.unwrap();
        let request = "GET /2.0/logs?process=agent&lines=1&follow=true HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        // Reading until the line of a request that is made after the head has arrived.
        let mut asked = false;
        let patience = std::time::Duration::from_secs(30);
        let reading = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if !asked {
                    asked = true;
                    std::thread::scope(|scope| {
                        scope.spawn(|| rig.call("GET", "/2.0/nowhere", ""));
                    });
                }
                if line.contains("/2.0/nowhere") {
                    return;
                }
            }
            panic!("the log ended");
        };
        tokio::time::timeout(patience, reading).await.unwrap();
    });
}

#[test]
fn the_command_line_answers() {
    let rig = Rig::started();
    rig.apply(&rig.state(1));
    let amphora = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_amphora"))
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap();
        (out.status.success(), text)
    };
    let run_dir = rig.dir.join("run").display().to_string();
    let ctl = |args: &[&str]| amphora(&[&["ctl", "--run-dir", &run_dir], args].concat());
    let (ok, text) = ctl(&["status"]);
    assert!(
        ok && text.contains("revision 1.1") && text.contains("open") && text.contains(VIP),
        "{text}"
    );
    let (ok, text) = ctl(&["stats", "--json"]);
    let stats: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(ok && stats[0]["stats"]["total_connections"] == 0, "{text}");
    assert!(ctl(&["vrrp"]).1.contains("vrid 1 on eth1"));
    assert!(ctl(&["logs", "--process", "vrrp"]).1.contains("vrrp runs"));
    assert!(ctl(&["log-level", "info"]).0);
    let (ok, text) = ctl(&["log-level", "loud"]);
    assert!(!ok && text.contains("use error, warn"), "{text}");
    let (_, text) = ctl(&["status"]);
    let member = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("member "))
        .and_then(|line| line.split(' ').next())
        .unwrap_or_else(|| panic!("no member in {text}"));
    let drains = || ctl(&["status"]).1.contains("Drain set by amphora ctl");
    for (what, drained) in [
        (&["drain"][..], true),
        (&["ready"], false),
        (&["weight", "0"], true),
        (&["weight"], false),
    ] {
        let (ok, text) = ctl(&[&["member", "set", member], what].concat());
        assert!(ok && drains() == drained, "{what:?}: {text}");
    }
    let (ok, text) = ctl(&["member", "set", member, "drain", "7"]);
    assert!(!ok && text.contains("for weight alone"), "{text}");
    let nobody = "00000000-0000-4000-8000-000000009999";
    let (ok, text) = ctl(&["member", "set", nobody, "drain"]);
    assert!(!ok && text.contains("no member"), "{text}");
    let (ok, text) = amphora(&["ctl", "--run-dir", "/nonexistent", "status"]);
    assert!(!ok && text.contains("--run-dir /nonexistent"), "{text}");

    let (ok, text) = amphora(&["--version"]);
    assert!(ok && text.contains("schema 1"), "{text}");
    let file = rig.dir.join("state.json");
    let path = file.display().to_string();
    fs::write(&file, rig.state(9).to_string()).unwrap();
    let (ok, text) = amphora(&["check", &path]);
    assert!(ok && text.starts_with("ok: desired state 1.9"), "{text}");
    fs::write(
        &file,
        rig.state(9).to_string().replace(&PORT.to_string(), "99999"),
    )
    .unwrap();
    let (ok, text) = amphora(&["check", &path]);
    assert!(
        !ok && text.contains("listeners[0].port") && text.contains("use 1 to 65535"),
        "{text}"
    );
    let toml = rig.dir.join("agent.toml").display().to_string();
    assert!(amphora(&["check", &toml]).0);
}
