//! Changes of configuration under open connections.

use crate::kit::*;
use krater_model::Weight;

#[test]
fn changes_leave_open_connections_alone_and_hold_no_old_snapshot() {
    let dataplane = Dataplane::start(2);
    let mut setup = Setup::tcp(&[echo(), echo()]);
    setup.apply(&dataplane);
    let mut open: Vec<_> = (0..50).map(|_| setup.connect()).collect();
    for round in 0..200_usize {
        let weight = u64::try_from(1 + round % 5).unwrap();
        setup.pool().members[0].weight = Weight::new(weight).unwrap();
        setup.listener().name = format!("round {round}");
        setup.apply(&dataplane);
        let one = round % open.len();
        assert!(goes_round(&mut open[one]));
        assert!(dataplane.status().snapshots_alive <= 2);
    }
    assert!(open.iter_mut().all(goes_round));
    let stats = dataplane.listener(setup.listener().id).stats;
    assert_eq!(
        (stats.active_connections, stats.total_connections),
        (50, 50)
    );
}

#[test]
fn members_come_go_and_drain() {
    let dataplane = Dataplane::start(2);
    let mut setup = Setup::tcp(&[named_echo(b'a')]);
    setup.apply(&dataplane);
    let mut old = setup.connect();
    assert_eq!(byte(&mut old), Some(b'a'));
    setup.pool().members.push(member(named_echo(b'b')));
    setup.pool().members[0].weight = Weight::new(0).unwrap();
    setup.apply(&dataplane);
    for _ in 0..4 {
        assert_eq!(byte(&mut setup.connect()), Some(b'b'));
    }
    assert!(goes_round(&mut old), "a drained member keeps what it has");
    setup.pool().members.remove(0);
    setup.apply(&dataplane);
    assert!(goes_round(&mut old), "a removed member too");
    setup.pool().enabled = false;
    setup.apply(&dataplane);
    assert_eq!(byte(&mut setup.connect()), None);
}

#[test]
fn counters_survive_and_a_removed_listener_ends() {
    let dataplane = Dataplane::start(2);
    let (mut kept, mut gone) = (Setup::tcp(&[echo()]), Setup::tcp(&[echo()]));
    dataplane.apply(vec![kept.lb.clone(), gone.lb.clone()]);
    let (mut a, mut b) = (kept.connect(), gone.connect());
    assert!(goes_round(&mut a) && goes_round(&mut b));
    gone.listener().enabled = false;
    kept.listener().name = "changed".into();
    dataplane.apply(vec![kept.lb.clone(), gone.lb.clone()]);
    assert!(goes_round(&mut b), "there is a grace");
    until("port closed", || {
        std::net::TcpStream::connect(gone.address()).err()
    });
    assert_eq!(byte(&mut b), None, "closed after the grace");
    assert!(goes_round(&mut a));
    assert_eq!(dataplane.listener(kept.listener().id).stats.bytes_in, 2);
    // And back.
    gone.listener().enabled = true;
    dataplane.apply(vec![kept.lb.clone(), gone.lb.clone()]);
    assert!(goes_round(&mut gone.connect()));
}

#[test]
fn an_address_can_pass_to_another_listener() {
    let dataplane = Dataplane::start(2);
    let mut setup = Setup::tcp(&[named_echo(b'a')]);
    setup.apply(&dataplane);
    assert_eq!(byte(&mut setup.connect()), Some(b'a'));
    setup.listener().id = krater_model::ListenerId::random();
    setup.apply(&dataplane);
    assert_eq!(byte(&mut setup.connect()), Some(b'a'));
    assert_eq!(
        dataplane
            .listener(setup.listener().id)
            .stats
            .total_connections,
        1
    );
}

#[test]
fn drain_serves_what_is_open_and_then_ends() {
    let dataplane = Dataplane::start(2);
    let setup = Setup::tcp(&[echo()]);
    setup.apply(&dataplane);
    let mut open = setup.connect();
    assert!(goes_round(&mut open));
    assert_eq!(
        dataplane
            .request("POST", "/drain", br#"{"deadline_ms":60000}"#)
            .0,
        204
    );
    until("port closed", || {
        std::net::TcpStream::connect(setup.address()).err()
    });
    assert!(goes_round(&mut open));
}

#[test]
fn what_an_operator_sets_survives_snapshots() {
    use krater_model::control::MemberHealth;
    let dataplane = Dataplane::start(2);
    let mut setup = Setup::tcp(&[named_echo(b'a'), named_echo(b'b')]);
    setup.apply(&dataplane);
    let id = setup.pool().members[0].id;
    let set = |body: &str| {
        let path = format!("/members/{id}");
        let (status, answer) = dataplane.request("PUT", &path, body.as_bytes());
        (status, answer)
    };
    let count = |setup: &Setup| {
        let names = (0..12).map(|_| byte(&mut setup.connect()));
        names.filter(|name| *name == Some(b'a')).count()
    };
    assert_eq!(count(&setup), 6);
    let mut before = setup.connect();
    while byte(&mut before) != Some(b'a') {
        before = setup.connect();
    }
    for (body, share, health) in [
        (r#"{"state":"drain"}"#, 0, MemberHealth::Drain),
        (r#"{"state":"maint"}"#, 0, MemberHealth::Maint),
        (r#"{"state":"ready"}"#, 6, MemberHealth::NoCheck),
        (r#"{"weight":3}"#, 9, MemberHealth::NoCheck),
        (r#"{"weight":0}"#, 0, MemberHealth::Drain),
        (r#"{"weight":null}"#, 6, MemberHealth::NoCheck),
    ] {
        assert_eq!(set(body).0, 204, "{body}");
        assert_eq!(count(&setup), share, "{body}");
        // Another snapshot, in which the pool is another one too.
        setup.pool().name.push('x');
        setup.apply(&dataplane);
        assert_eq!(count(&setup), share, "{body} after a snapshot");
        assert_eq!(dataplane.member(id).health, health, "{body}");
    }
    assert!(goes_round(&mut before), "what was open goes on");
    for (body, status) in [
        (r#"{"state":"sleep"}"#, 400),
        (r#"{"weight":257}"#, 400),
        (r#"{"weight":-1}"#, 400),
        (r#"{"colour":1}"#, 400),
    ] {
        assert_eq!(set(body).0, status, "{body}");
    }
    let (status, answer) = dataplane.request("PUT", "/members/none", br#"{"state":"drain"}"#);
    assert!(status == 404 && answer.contains("none"), "{answer}");
}
