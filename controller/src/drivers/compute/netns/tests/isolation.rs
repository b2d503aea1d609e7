//! The management network cannot be reached from where clients, members and data planes are.

use super::*;
use crate::drivers::network::client::Client;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

const CONTROLLER: &str = "100.96.0.1:5555";
const PATIENCE: Duration = Duration::from_secs(5);

fn say(from: &NetNs, to: SocketAddr, text: &str) -> io::Result<()> {
    let any: IpAddr = match to.is_ipv4() {
        true => [0, 0, 0, 0].into(),
        false => [0; 16].into(),
    };
    let socket = from.udp_socket((any, 0).into())?;
    socket.set_nonblocking(false)?;
    socket.send_to(text.as_bytes(), to).map(drop)
}

/// The next datagram.
fn heard(socket: &UdpSocket) -> String {
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).expect("a datagram");
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// The management network as earlier versions made it, in the fabric, with an amphora on it.
fn old_management(host: &Host, amphora: AmphoraId) -> NetNs {
    let fabric = NetlinkSocket::open_in(&host.layout.open_fabric().unwrap()).unwrap();
    fabric.create_bridge(MANAGEMENT_BRIDGE, None, None).unwrap();
    let bridge = fabric.link_by_name(MANAGEMENT_BRIDGE).unwrap().unwrap();
    fabric.set_up(bridge.index, true).unwrap();
    address(&fabric, bridge.index, "100.96.0.1/16");
    let netns = NetNs::create(&host.layout.amphora_netns(amphora, Role::Mgmt)).unwrap();
    fabric
        .create_veth(&VethSpec {
            name: &port_name(MANAGEMENT_MAC),
            mac: None,
            master: Some(bridge.index),
            mtu: None,
            up: true,
            peer: MANAGEMENT_NIC,
            peer_mac: Some(MANAGEMENT_MAC),
            peer_netns: Some(netns.as_fd()),
        })
        .unwrap();
    let inside = NetlinkSocket::open_in(&netns).unwrap();
    let nic = inside.link_by_name(MANAGEMENT_NIC).unwrap().unwrap();
    inside.set_up(nic.index, true).unwrap();
    address(&inside, nic.index, "100.96.0.7/16");
    netns
}

fn address(netlink: &NetlinkSocket, link: u32, net: &str) {
    let address = Address {
        link,
        net: net.parse().unwrap(),
        protocol: 0,
        no_prefix_route: false,
    };
    netlink.add_address(&address).unwrap();
}

#[test]
fn clients_and_members_reach_neither_the_controller_nor_an_agent() {
    let host = Host::without_management();
    let amphora = AmphoraId::random();
    let agents = old_management(&host, amphora);
    let client = Client::new(&host.layout, "tenant", None).unwrap();
    let controller: SocketAddr = CONTROLLER.parse().unwrap();
    let listener = agents
        .tcp_listener("100.96.0.7:9443".parse().unwrap())
        .unwrap();
    let agent = listener.local_addr().unwrap();

    // The control: with the address in the fabric, what a client says is heard.
    let fabric = host.layout.open_fabric().unwrap();
    let old = fabric.udp_socket(controller).unwrap();
    say(client.netns(), controller, "client").unwrap();
    assert_eq!(heard(&old), "client");
    drop(old);

    // A controller of this version starts, twice, and takes the living amphora over.
    host.ensure();
    host.ensure();
    let links = NetlinkSocket::open_in(&fabric).unwrap().links().unwrap();
    let left = |name: &str| links.iter().any(|link| link.name == name);
    assert!(!left(MANAGEMENT_BRIDGE) && !left(&port_name(MANAGEMENT_MAC)));

    let management = host.layout.open_management().unwrap();
    let socket = management.udp_socket(controller).unwrap();
    // From the fabric itself too: whatever is routed there ends there.
    for stranger in [client.netns(), &fabric] {
        let _ = say(stranger, controller, "stranger");
        let error = stranger.tcp_connect(agent, PATIENCE).unwrap_err();
        let kinds = [ErrorKind::NetworkUnreachable, ErrorKind::HostUnreachable];
        assert!(kinds.contains(&error.kind()), "{error:?}");
    }
    // Its own, over the port that came along: first come, first heard.
    say(&agents, controller, "agent").unwrap();
    assert_eq!(heard(&socket), "agent");
    management.tcp_connect(agent, PATIENCE).unwrap();
    // And the client still reaches what it may.
    let open = fabric.tcp_listener("192.0.2.1:0".parse().unwrap()).unwrap();
    let gateway = open.local_addr().unwrap();
    client.netns().tcp_connect(gateway, PATIENCE).unwrap();

    // A new amphora beside the adopted one.
    let mut boot = spec(AmphoraId::random());
    boot.management_mac = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 9]);
    boot.management_address = "100.96.0.9/16".parse().unwrap();
    let second = boot.amphora;
    host.runtime.block_on(host.compute.boot(boot)).unwrap();
    let second = NetNs::open(&host.layout.amphora_netns(second, Role::Mgmt)).unwrap();
    say(&second, controller, "second").unwrap();
    assert_eq!(heard(&socket), "second");
    assert_eq!(host.ports().len(), 2);
}
