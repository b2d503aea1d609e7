use super::*;
use krater_model::state::{
    HealthCheck, L7Compare, L7Policy, L7Rule, L7Subject, ListenerOptions, ListenerProtocol,
    PoolOptions,
};
use krater_model::{
    Epoch, Generation, HealthMonitorId, L7PolicyId, L7RuleId, Millis, Port, ProbeCount, SCHEMA,
    Weight,
};

fn member() -> Member {
    Member {
        id: MemberId::random(),
        name: String::new(),
        enabled: true,
        address: [192, 0, 2, 1].into(),
        port: Port::new(80).unwrap(),
        weight: Weight::new(1).unwrap(),
        backup: false,
        monitor_address: None,
        monitor_port: Some(Port::new(81).unwrap()),
        connection_limit: None,
        down: None,
    }
}

fn pool(members: usize) -> Pool {
    Pool {
        options: PoolOptions::default(),
        id: PoolId::random(),
        name: String::new(),
        enabled: true,
        protocol: PoolProtocol::Http,
        algorithm: Algorithm::RoundRobin,
        persistence: None,
        health_monitor: None,
        tls: None,
        members: (0..members).map(|_| member()).collect(),
    }
}

fn listener(port: u64, default_pool: PoolId) -> Listener {
    Listener {
        options: ListenerOptions::default(),
        id: ListenerId::random(),
        name: String::new(),
        enabled: true,
        protocol: ListenerProtocol::Http,
        port: Port::new(port).unwrap(),
        connection_limit: None,
        timeouts: Timeouts::default(),
        allowed_cidrs: Vec::new(),
        insert_headers: Vec::new(),
        tls: None,
        default_pool: Some(default_pool),
        l7_policies: Vec::new(),
    }
}

fn snapshot() -> Snapshot {
    let pools = vec![pool(2), pool(1)];
    let listeners = vec![listener(80, pools[0].id), listener(81, pools[1].id)];
    Snapshot {
        schema: SCHEMA,
        revision: Revision {
            epoch: Epoch(1),
            generation: Generation(1),
        },
        request_id: "req-1".into(),
        load_balancers: vec![LoadBalancer {
            id: LoadBalancerId::random(),
            name: String::new(),
            enabled: true,
            vips: vec![[203, 0, 113, 1].into(), "2001:db8::1".parse().unwrap()],
            listeners,
            pools,
        }],
        certificates: Vec::new(),
    }
}

fn compile(snapshot: &Snapshot, previous: Option<&RoutingTable>) -> RoutingTable {
    RoutingTable::compile(snapshot.clone(), previous).unwrap()
}

#[test]
fn what_did_not_change_is_the_same() {
    let mut snapshot = snapshot();
    let first = compile(&snapshot, None);
    let second = compile(&snapshot, Some(&first));
    let same = |a: &RoutingTable, b: &RoutingTable| -> (Vec<bool>, Vec<bool>) {
        let listeners = a
            .listeners
            .iter()
            .zip(&b.listeners)
            .map(|(a, b)| Arc::ptr_eq(a, b));
        let pools = a.pools.iter().zip(&b.pools).map(|(a, b)| Arc::ptr_eq(a, b));
        (listeners.collect(), pools.collect())
    };
    assert_eq!(same(&first, &second), (vec![true, true], vec![true, true]));
    snapshot.load_balancers[0].pools[0].members[1].weight = Weight::new(5).unwrap();
    snapshot.load_balancers[0].listeners[1].connection_limit = Some(9);
    let third = compile(&snapshot, Some(&second));
    assert_eq!(
        same(&second, &third),
        (vec![true, false], vec![false, true])
    );
    let members = |t: &RoutingTable| t.pools[0].members.clone();
    assert!(
        Arc::ptr_eq(&members(&second)[0], &members(&third)[0]),
        "the other member"
    );
    snapshot.load_balancers[0].vips.pop();
    let fourth = compile(&snapshot, Some(&third));
    assert_eq!(
        same(&third, &fourth),
        (vec![false, false], vec![true, true])
    );
    assert_eq!(
        (
            third.listeners[0].binds.len(),
            fourth.listeners[0].binds.len()
        ),
        (2, 1)
    );
}

#[test]
fn monitors_and_addresses() {
    let mut snapshot = snapshot();
    let monitor = HealthMonitor {
        id: HealthMonitorId::random(),
        enabled: false,
        check: HealthCheck::Tcp,
        delay: Millis::literal(1_000),
        timeout: Millis::literal(1_000),
        rise: ProbeCount::new(1).unwrap(),
        fall: ProbeCount::new(1).unwrap(),
    };
    snapshot.load_balancers[0].pools[0].health_monitor = Some(monitor.clone());
    let table = compile(&snapshot, None);
    assert!(
        table.pools[0].monitor.is_none(),
        "disabled: as if there were none"
    );
    assert_eq!(
        table.pools[0].members[0].monitor_address.to_string(),
        "192.0.2.1:81"
    );
    let enabled = HealthMonitor {
        enabled: true,
        ..monitor
    };
    snapshot.load_balancers[0].pools[0].health_monitor = Some(enabled.clone());
    assert_eq!(compile(&snapshot, None).pools[0].monitor, Some(enabled));
}

#[test]
fn allowed_networks_know_mapped_addresses() {
    let mut snapshot = snapshot();
    let cidrs = ["192.0.2.0/24", "2001:db8::/32"];
    snapshot.load_balancers[0].listeners[0].allowed_cidrs =
        cidrs.iter().map(|c| c.parse().unwrap()).collect();
    let table = compile(&snapshot, None);
    let allows = |ip: &str| table.listeners[0].allows(ip.parse().unwrap());
    assert!(allows("192.0.2.255") && allows("::ffff:192.0.2.1") && allows("2001:db8:ffff::1"));
    assert!(!allows("192.0.3.0") && !allows("2001:db9::1"));
    assert!(
        table.listeners[1].allows("198.51.100.1".parse().unwrap()),
        "empty: all"
    );
}

#[test]
fn a_policy_to_a_disabled_pool_is_left_out() {
    let mut snapshot = snapshot();
    let lb = &mut snapshot.load_balancers[0];
    let target = lb.pools[1].id;
    lb.listeners[0].l7_policies = vec![L7Policy {
        id: L7PolicyId::random(),
        enabled: true,
        position: 1,
        action: L7Action::RedirectToPool { pool: target },
        rules: vec![L7Rule {
            id: L7RuleId::random(),
            enabled: true,
            subject: L7Subject::Path,
            compare: L7Compare::StartsWith,
            value: "/x".into(),
            invert: false,
        }],
    }];
    let ids = |t: &RoutingTable| t.listeners[0].pool_ids().collect::<Vec<_>>();
    let with = compile(&snapshot, None);
    assert!(ids(&with).contains(&target));
    snapshot.load_balancers[0].pools[1].enabled = false;
    let without = compile(&snapshot, Some(&with));
    assert!(!ids(&without).contains(&target));
    assert!(!Arc::ptr_eq(&with.listeners[0], &without.listeners[0]));
}

#[test]
fn what_cannot_be_is_refused_by_field() {
    let refused = |edit: &dyn Fn(&mut LoadBalancer)| {
        let mut snapshot = snapshot();
        edit(&mut snapshot.load_balancers[0]);
        RoutingTable::compile(snapshot, None).unwrap_err()
    };
    let error = refused(&|lb| lb.pools[1].members[0].id = lb.pools[0].members[0].id);
    assert_eq!(error.field, "load_balancers[0].pools[1].members[0].id");
}
