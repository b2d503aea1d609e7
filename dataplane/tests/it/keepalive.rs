//! Clients whose host or network vanished are noticed by TCP's keepalive, whatever the time-outs are.

use crate::kit::*;
use krater_model::state::ListenerProtocol;
use std::net::SocketAddr;

/// Hundredths of a second until the kernel asks the other end of the connection from `client` whether
/// it is alive, as the kernel tells it to anybody; none while no such timer runs.
fn keepalive(server: SocketAddr, client: SocketAddr) -> Option<u64> {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => {
            let ip = u32::from_le_bytes(v4.ip().octets());
            format!("{ip:08X}:{:04X}", v4.port())
        }
        SocketAddr::V6(_) => panic!("{address} is not in this table"),
    };
    let ends = [hex(server), hex(client)];
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let connection = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(1..3)? == ends).then_some(fields)
    });
    // The kind of the timer (2 is keepalive), and when it fires.
    let connection = connection.unwrap_or_else(|| panic!("{ends:?} is not in {table}"));
    let (kind, when) = connection[5].split_once(':').unwrap();
    (kind == "02").then(|| u64::from_str_radix(when, 16).unwrap())
}

#[test]
fn silent_clients_are_asked_after_a_minute() {
    for protocol in [ListenerProtocol::Tcp, ListenerProtocol::Http] {
        let dataplane = Dataplane::start(1);
        let setup = Setup::new(protocol, &[named_echo(b'x')]);
        setup.apply(&dataplane);
        let client = setup.connect();
        let id = setup.lb.listeners[0].id;
        until("accepted", || {
            let stats = dataplane.listener(id).stats;
            (stats.active_connections == 1).then_some(())
        });
        // A retransmission may have its turn first.
        let left = until("the timer of keepalive", || {
            keepalive(setup.address(), client.local_addr().unwrap())
        });
        assert!((1..=6_000).contains(&left), "{protocol:?}: {left}");
    }
}
