//! Who may do what: read from the processes themselves.

use crate::story::Story;
use krater_e2e::amphora::Amphora;
use krater_e2e::api::text;
use krater_e2e::place::Place;
use krater_e2e::system::{System, alone};
use krater_net::process::ProcessId;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;

const BIND: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;

fn status(process: ProcessId, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).expect("status");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{field} in {text}"))
        .trim()
        .to_owned()
}

fn check(story: &Story) {
    for id in story.amphorae() {
        let amphora = Amphora::find(&story.system, &id);
        for (part, uid, capabilities) in [
            ("dataplane", krater_model::config::DATAPLANE_UID, BIND),
            ("vrrp", krater_model::config::VRRP_UID, NET_ADMIN | NET_RAW),
        ] {
            let process = amphora.part(part);
            let uids = status(process, "Uid");
            assert!(
                uids.split_whitespace().all(|word| word == uid.to_string()),
                "{part}: uid {uids}"
            );
            let effective = u64::from_str_radix(&status(process, "CapEff"), 16).expect("hex");
            assert_eq!(effective, capabilities, "{part}: CapEff {effective:x}");
            assert_eq!(status(process, "NoNewPrivs"), "1", "{part}");
            assert_eq!(status(process, "Groups"), "", "{part} is in no other group");
        }
        // Control: the agent is root, so the fields above are not the same for everybody.
        assert!(status(amphora.part("agent"), "Uid").starts_with('0'));
    }
}

#[test]
fn data_plane_and_vrrp_have_what_they_need_and_no_more() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    check(&story);

    for entry in std::fs::read_dir(story.system.state_dir().join("pki")).expect("pki") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
    let log = story.system.log();
    let key = std::fs::read_to_string(story.system.state_dir().join("heartbeat.key"))
        .expect("heartbeat.key");
    assert!(!log.contains(key.trim()), "the heartbeat key is in the log");
    assert!(!log.contains("PRIVATE KEY"), "a private key is in the log");
}

#[test]
fn it_runs_from_a_checkout_that_only_root_can_enter() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).expect("0700");
    for name in ["krater", "amphora"] {
        std::fs::copy(krater_e2e::bin(name), folder.path().join(name)).expect("a copy");
    }
    let story = Story::on(System::of(folder.path()));
    story.answers();
    check(&story);
    drop(story);
}

#[test]
fn clients_and_members_cannot_reach_the_management_network() {
    let _alone = alone();
    let story = Story::new();
    let agent = text(&story.system.api.amphorae(&story.load_balancer)[0]["lb_network_ip"]);
    let agent: IpAddr = agent.parse().expect("lb_network_ip");
    let agent = (agent, krater_model::wire::agent::PORT).into();
    let member = Place::new(&story.system, "tenant", "192.0.2.210");
    // Control: both reach each other.
    let listener = member.listen(80).expect("a listener");
    let open = listener.local_addr().expect("its address");
    story.client.connect(open).expect("a connection");
    for place in [story.client.as_ref(), &member] {
        let error = place.connect(agent).expect_err("no way there");
        let kinds = [ErrorKind::NetworkUnreachable, ErrorKind::HostUnreachable];
        assert!(kinds.contains(&error.kind()), "{error:?}");
    }
}
