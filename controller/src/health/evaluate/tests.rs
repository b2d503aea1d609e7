use super::*;
use crate::db::entity::{listener, load_balancer, member, pool};
use krater_model::control::ListenerStats;
use krater_model::wire::heartbeat::ListenerBeat;
use krater_model::{AmphoraId, ListenerId, MemberId, Revision};
use uuid::Uuid;

fn text(n: u128) -> String {
    Uuid::from_u128(n).to_string()
}

/// One listener (1) with one pool (2) of three members (11, 12, 13).
fn graph() -> Graph {
    let member = |n: u128| member::Model {
        id: text(n),
        pool_id: text(2),
        project_id: String::new(),
        name: String::new(),
        enabled: true,
        address: "192.0.2.1".into(),
        protocol_port: 80,
        weight: 1,
        backup: false,
        subnet_id: None,
        monitor_address: None,
        monitor_port: None,
        provisioning_status: "ACTIVE".into(),
        operating_status: "ONLINE".into(),
        created_at: 0,
        updated_at: None,
    };
    Graph {
        load_balancer: load_balancer::Model {
            id: text(9),
            project_id: String::new(),
            name: String::new(),
            description: String::new(),
            enabled: true,
            topology: "ACTIVE_STANDBY".into(),
            flavor_id: None,
            availability_zone: None,
            provider: String::new(),
            vip_address: "203.0.113.2".into(),
            vip_port_id: text(90),
            vip_subnet_id: text(91),
            vip_network_id: text(92),
            additional_vips: None,
            vip_port_owned: true,
            locked_by_flow: None,
            error_reason: None,
            provisioning_status: "ACTIVE".into(),
            operating_status: "ONLINE".into(),
            created_at: 0,
            updated_at: None,
        },
        listeners: vec![listener::Model {
            id: text(1),
            load_balancer_id: text(9),
            project_id: String::new(),
            name: String::new(),
            description: String::new(),
            enabled: true,
            protocol: "HTTP".into(),
            protocol_port: 80,
            connection_limit: -1,
            default_pool_id: Some(text(2)),
            insert_headers: "{}".into(),
            allowed_cidrs: "[]".into(),
            timeout_client_data: 1,
            timeout_member_connect: 1,
            timeout_member_data: 1,
            timeout_tcp_inspect: 0,
            provisioning_status: "ACTIVE".into(),
            operating_status: "ONLINE".into(),
            created_at: 0,
            updated_at: None,
            tls: None,
        }],
        pools: vec![pool::Model {
            id: text(2),
            load_balancer_id: text(9),
            project_id: String::new(),
            name: String::new(),
            description: String::new(),
            enabled: true,
            protocol: "HTTP".into(),
            lb_algorithm: "ROUND_ROBIN".into(),
            provisioning_status: "ACTIVE".into(),
            operating_status: "ONLINE".into(),
            created_at: 0,
            updated_at: None,
            tls: None,
        }],
        persistence: Vec::new(),
        members: vec![member(11), member(12), member(13)],
        monitors: Vec::new(),
        policies: Vec::new(),
        rules: Vec::new(),
        amphorae: Vec::new(),
        nics: Vec::new(),
        networks: Vec::new(),
        subnets: Vec::new(),
        bundles: Vec::new(),
    }
}

fn beat(members: [MemberHealth; 3], full: bool) -> Beat {
    let listener = ListenerBeat {
        full,
        stats: ListenerStats::default(),
    };
    Beat {
        amphora_id: AmphoraId::random(),
        boot_id: "b".into(),
        seq: 1,
        part: 0,
        parts: 1,
        revision: Some(Revision::default()),
        dataplane_ready: true,
        listeners: BTreeMap::from([(ListenerId(Uuid::from_u128(1)), listener)]),
        members: (11..14)
            .zip(members)
            .map(|(n, health)| (MemberId(Uuid::from_u128(n)), health))
            .collect(),
        routers: BTreeMap::new(),
    }
}

fn changes(graph: &Graph, beat: Option<&Beat>, fit: usize) -> Vec<(Kind, &'static str)> {
    let heard = Heard {
        speaker: beat,
        fit,
        wanted: 2,
    };
    evaluate(graph, &heard)
        .into_iter()
        .map(|((kind, _), status)| (kind, status))
        .collect()
}

#[test]
fn members_make_pools_make_the_load_balancer() {
    use Kind::{LoadBalancer, Member, Pool};
    use MemberHealth::{Down, Drain, Maint, NoCheck, Up};
    let graph = graph();
    let of = |members| changes(&graph, Some(&beat(members, false)), 2);
    assert_eq!(of([Up, Up, Up]), []);
    assert_eq!(
        of([Up, Down, Up]),
        [
            (LoadBalancer, "DEGRADED"),
            (Pool, "DEGRADED"),
            (Member, "ERROR")
        ]
    );
    let all = of([Down, Down, Down]);
    assert_eq!(&all[..2], [(LoadBalancer, "ERROR"), (Pool, "ERROR")]);
    assert_eq!(
        of([NoCheck, Drain, Maint]),
        [
            (Member, "NO_MONITOR"),
            (Member, "DRAINING"),
            (Member, "OFFLINE")
        ]
    );
    // What is in maintenance does not count: the only one that could serve is down.
    let mixed = of([Down, Maint, Maint]);
    assert_eq!(&mixed[..2], [(LoadBalancer, "ERROR"), (Pool, "ERROR")]);
}

#[test]
fn a_missing_amphora_and_a_full_listener_degrade() {
    use Kind::{Listener, LoadBalancer};
    use MemberHealth::Up;
    let graph = graph();
    let fine = beat([Up, Up, Up], false);
    assert_eq!(
        changes(&graph, Some(&fine), 1),
        [(LoadBalancer, "DEGRADED")]
    );
    assert_eq!(changes(&graph, None, 0), [(LoadBalancer, "ERROR")]);
    let full = beat([Up, Up, Up], true);
    assert_eq!(
        changes(&graph, Some(&full), 2),
        [(LoadBalancer, "DEGRADED"), (Listener, "DEGRADED")]
    );
    let mut closed = fine;
    closed.listeners.clear();
    assert_eq!(
        changes(&graph, Some(&closed), 2),
        [(LoadBalancer, "DEGRADED"), (Listener, "ERROR")]
    );
}

#[test]
fn what_is_switched_off_is_offline() {
    use Kind::{Listener, LoadBalancer, Member, Pool};
    let up = beat([MemberHealth::Up; 3], false);
    let mut graph = graph();
    graph.members[0].enabled = false;
    graph.pools[0].enabled = false;
    graph.listeners[0].enabled = false;
    assert_eq!(
        changes(&graph, Some(&up), 2),
        [
            (Listener, "OFFLINE"),
            (Pool, "OFFLINE"),
            (Member, "OFFLINE")
        ]
    );
    graph.load_balancer.enabled = false;
    assert!(changes(&graph, Some(&up), 2).contains(&(LoadBalancer, "OFFLINE")));
}

#[test]
fn a_probe_that_has_not_ended_changes_nothing() {
    let checking = beat([MemberHealth::Checking; 3], false);
    let mut graph = graph();
    graph.members[1].operating_status = "NO_MONITOR".into();
    graph.members[2].operating_status = "ERROR".into();
    assert_eq!(
        changes(&graph, Some(&checking), 2),
        [(Kind::Member, "OFFLINE")]
    );
}
