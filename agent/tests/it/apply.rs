//! Desired states.

use super::rig::{BEAT_KEY, MAC, Rig};
use krater_model::Secret;
use krater_model::control::{MemberHealth, RouterState};
use krater_model::wire::agent::StateView;
use krater_model::wire::heartbeat::{Beat, ReplayGuard};
use krater_net::PROTO_AGENT;
use krater_net::sync::NetlinkSocket;
use std::fs;

#[test]
fn a_state_brings_up_nic_addresses_listener_and_vip() {
    let rig = Rig::started();
    rig.serve_member("hello");
    let applied = rig.apply(&rig.state(1));
    assert!(applied.changed);
    rig.wait("the VIP answers", |rig| {
        rig.fetch().is_ok_and(|text| text == "hello")
    });
    let netlink = NetlinkSocket::open_in(&rig.vip).unwrap();
    let link = netlink.link_by_name("eth1").unwrap().unwrap();
    assert_eq!((link.mac, link.mtu, link.up), (Some(MAC), 1400, true));
    let own = netlink.tagged_addresses(link.index, PROTO_AGENT).unwrap();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0].net.to_string(), "192.0.2.5/24");
    let routes = netlink.routes().unwrap();
    assert!(
        routes
            .iter()
            .any(|r| r.protocol == PROTO_AGENT && r.to.prefix_len() == 0)
    );

    let again = rig.apply(&rig.state(1));
    assert!(!again.changed);
    let view: StateView = rig.get("/2.0/state");
    assert_eq!(view.revision.unwrap().to_string(), "1.1");
    assert!(view.digest.unwrap().len() == 64 && view.state.is_some());
    assert_eq!(rig.pools()[0].members[0].health, MemberHealth::NoCheck);
}

#[test]
fn older_conflicting_foreign_and_wrong_documents_change_nothing() {
    let rig = Rig::started();
    rig.apply(&rig.state(5));
    let refused = |state: &serde_json::Value, status: u16, code: &str| {
        let (got, body) = rig.put_state(state).unwrap_err();
        assert_eq!((got, body.code.as_str()), (status, code), "{body:?}");
        body
    };
    refused(&rig.state(4), 409, "older-revision");
    let mut other = rig.state(5);
    other["load_balancers"][0]["listeners"][0]["port"] = 8081.into();
    refused(&other, 409, "conflicting-revision");
    let mut foreign = rig.state(6);
    foreign["amphora_id"] = uuid::Uuid::new_v4().to_string().into();
    let body = refused(&foreign, 400, "bad-field");
    assert_eq!(body.field.as_deref(), Some("amphora_id"));
    let mut wrong = rig.state(6);
    wrong["load_balancers"][0]["listeners"][0]["port"] = 70_000.into();
    let body = refused(&wrong, 400, "bad-field");
    assert_eq!(
        body.field.as_deref(),
        Some("load_balancers[0].listeners[0].port")
    );
    let mut unplugged = rig.state(6);
    unplugged["interfaces"][0]["mac"] = "fa:16:3e:99:99:99".into();
    let body = refused(&unplugged, 500, "apply-failed");
    assert!(
        body.message.contains("fa:16:3e:99:99:99 of interface eth1"),
        "{body:?}"
    );
    let view: StateView = rig.get("/2.0/state");
    assert_eq!(view.revision.unwrap().to_string(), "1.5");
    rig.apply(&rig.state(6));
}

#[test]
fn children_are_unprivileged_and_log_for_themselves() {
    let rig = Rig::started();
    rig.apply(&rig.state(1));
    const NET_BIND_SERVICE: u64 = 1 << 10;
    const NET_ADMIN_AND_RAW: u64 = 1 << 12 | 1 << 13;
    for (name, uid, capabilities) in [
        ("dataplane", 64_501, NET_BIND_SERVICE),
        ("vrrp", 64_502, NET_ADMIN_AND_RAW),
    ] {
        let pid = rig.process(name).pid;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap().trim().to_owned()
        };
        let ids: Vec<u32> = field("Uid:")
            .split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect();
        assert_eq!(ids, [uid; 4], "{name}");
        assert_eq!(
            u64::from_str_radix(&field("CapEff:"), 16).unwrap(),
            capabilities,
            "{name}"
        );
        assert_eq!(
            u64::from_str_radix(&field("CapPrm:"), 16).unwrap(),
            capabilities,
            "{name}"
        );
        assert_eq!(field("NoNewPrivs:"), "1", "{name}");
        // Its own session, no descriptor of the agent but standard ones.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let session = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(3)
            .unwrap();
        assert_eq!(session, pid.to_string(), "{name}");
        let log = rig.dir.join(format!("log/{name}/{name}.log"));
        assert!(fs::metadata(log).unwrap().len() > 0, "{name}");
    }
    assert!(rig.process("vrrp-guard").pid > 1);
}

#[test]
fn heartbeats_are_authentic_and_say_what_is() {
    let rig = Rig::started();
    rig.apply(&rig.state(1));
    let key = Secret::new(BEAT_KEY);
    let mut guard = ReplayGuard::default();
    let mut buffer = vec![0; 65_536];
    rig.wait("a beat of an active amphora", |rig| {
        let length = rig.beats.recv(&mut buffer).unwrap();
        let datagram = &buffer[..length];
        assert!(Beat::decode(datagram, &Secret::new("other")).is_err());
        let beat = Beat::decode(datagram, &key).unwrap();
        guard.accept(&beat).unwrap();
        assert_eq!(beat.amphora_id, rig.amphora);
        beat.revision.is_some()
            && beat.dataplane_ready
            && beat.listeners.len() == 1
            && beat.members.len() == 1
            && beat
                .routers
                .values()
                .any(|state| *state == RouterState::Active)
    });
}

#[test]
fn a_full_disk_keeps_the_old_state() {
    let mut rig = Rig::started();
    rig.apply(&rig.state(1));
    // A folder in the place of the new file stands for a disk that takes no more; the ledger's own
    // tests fill a real one.
    let new = rig.dir.join("state/ledger.json.new");
    fs::create_dir(&new).unwrap();
    let mut next = rig.state(2);
    next["load_balancers"][0]["listeners"][0]["port"] = 8081.into();
    let (status, body) = rig.put_state(&next).unwrap_err();
    assert_eq!((status, body.code.as_str()), (500, "apply-failed"));
    assert!(body.message.contains("state/ledger.json.new"), "{body:?}");
    rig.serve_member("old");
    rig.wait("the old state serves", |rig| {
        rig.fetch().is_ok_and(|text| text == "old")
    });
    rig.kill_agent();
    rig.start_agent();
    rig.wait("the old state is back", |rig| {
        rig.status().revision.is_some()
    });
    assert_eq!(rig.status().revision.unwrap().to_string(), "1.1");
    fs::remove_dir(&new).unwrap();
    rig.apply(&next);
}
