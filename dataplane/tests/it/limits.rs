//! Connection limits and allowed networks.

use crate::kit::*;
use krater_model::control::ListenerState;

#[test]
fn excess_connections_wait_and_come_in_when_a_place_is_free() {
    for workers in [1, 2, 8] {
        let dataplane = Dataplane::start(workers);
        let mut setup = Setup::tcp(&[named_echo(b'x')]);
        let id = setup.listener().id;
        setup.listener().connection_limit = Some(3);
        setup.apply(&dataplane);
        let mut inside: Vec<_> = (0..2).map(|_| setup.connect()).collect();
        inside
            .iter_mut()
            .for_each(|s| assert_eq!(byte(s), Some(b'x')));
        assert_eq!(
            dataplane.listener(id).state,
            ListenerState::Open,
            "limit - 1"
        );
        inside.push(setup.connect());
        assert_eq!(byte(&mut inside[2]), Some(b'x'));
        assert_eq!(dataplane.listener(id).state, ListenerState::Full, "limit");
        // Wait in the backlog of whatever worker the kernel chose.
        let mut waiting: Vec<_> = (0..6).map(|_| setup.connect()).collect();
        assert_eq!(
            dataplane.listener(id).stats.total_connections,
            3,
            "limit + 1"
        );
        for stream in inside.drain(..) {
            drop(stream);
        }
        // The order among workers' backlogs is the kernel's: each that is served makes way.
        let served = std::thread::scope(|scope| {
            let threads: Vec<_> = waiting
                .iter_mut()
                .map(|s| {
                    scope.spawn(|| {
                        let served = byte(s) == Some(b'x');
                        s.shutdown(std::net::Shutdown::Both).unwrap();
                        served
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap())
                .filter(|s| *s)
                .count()
        });
        assert_eq!(served, 6);
        until("empty", || {
            (dataplane.listener(id).stats.active_connections == 0).then_some(())
        });
        assert_eq!(dataplane.listener(id).stats.total_connections, 9);
    }
}

#[test]
fn a_raised_limit_acts_at_once() {
    let dataplane = Dataplane::start(2);
    let mut setup = Setup::tcp(&[named_echo(b'x')]);
    setup.listener().connection_limit = Some(1);
    setup.apply(&dataplane);
    let mut first = setup.connect();
    assert_eq!(byte(&mut first), Some(b'x'));
    let mut second = setup.connect();
    setup.listener().connection_limit = Some(2);
    setup.apply(&dataplane);
    assert_eq!(byte(&mut second), Some(b'x'));
    assert!(goes_round(&mut first));
}

#[test]
fn clients_outside_the_allowed_networks_are_closed_before_a_byte() {
    let dataplane = Dataplane::start(2);
    let mut setup = Setup::tcp(&[named_echo(b'x')]);
    let id = setup.listener().id;
    setup.listener().allowed_cidrs = vec!["192.0.2.0/24".parse().unwrap()];
    setup.apply(&dataplane);
    assert_eq!(byte(&mut setup.connect()), None);
    assert_eq!(
        dataplane.metric("krater_dataplane_refused_clients_total"),
        1
    );
    assert_eq!(dataplane.listener(id).stats.total_connections, 0);
    setup
        .listener()
        .allowed_cidrs
        .push("127.0.0.0/8".parse().unwrap());
    setup.apply(&dataplane);
    assert_eq!(byte(&mut setup.connect()), Some(b'x'));
}

#[test]
fn one_client_cannot_take_all_places() {
    use std::net::{SocketAddr, TcpStream};
    for workers in [1, 4] {
        let dataplane = Dataplane::start(workers);
        let mut setup = Setup::tcp(&[named_echo(b'x')]);
        let id = setup.listener().id;
        setup.listener().options.connections_per_client = Some(3);
        setup.apply(&dataplane);
        let from = |client: [u8; 4]| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.unwrap();
            socket.bind(&SocketAddr::from((client, 0)).into()).unwrap();
            socket.connect(&setup.address().into()).unwrap();
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        };
        let [greedy, other] = [[127, 3, 3, 1], [127, 3, 3, 2]];
        let mut inside: Vec<_> = (0..3).map(|_| from(greedy)).collect();
        for stream in &mut inside {
            assert_eq!(byte(stream), Some(b'x'), "up to the limit");
        }
        assert_eq!(byte(&mut from(greedy)), None, "limit + 1");
        assert_eq!(byte(&mut from(other)), Some(b'x'));
        let limited = "krater_dataplane_limited_clients_total";
        assert_eq!(dataplane.metric(limited), 1);
        assert_eq!(dataplane.listener(id).stats.total_connections, 4);
        drop(inside.pop());
        until("a place came back", || {
            (byte(&mut from(greedy)) == Some(b'x')).then_some(())
        });
        assert!(inside.iter_mut().all(goes_round));
    }
}
