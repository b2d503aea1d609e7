//! Links, addresses, routes, rules and frames, through both controls.

use crate::Lab;
use krater_model::net::MacAddr;
use krater_net::announce::Announcer;
use krater_net::fake::FakeKernel;
use krater_net::link::{Address, LinkChange, LinkControl, Route, Rule, VethSpec};
use krater_net::netns::NetNs;
use krater_net::rtnl::Rtnl;
use krater_net::sync::NetlinkSocket;
use krater_net::watch::Event;
use krater_net::{PROTO_AGENT, PROTO_VRRP};
use socket2::{Domain, Protocol, Type};
use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

const NEAR: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);
const FAR: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 2]);

fn veth<'a>(peer_netns: Option<&'a impl AsFd>) -> VethSpec<'a> {
    VethSpec {
        name: "near",
        mac: Some(NEAR),
        master: None,
        mtu: Some(1400),
        up: true,
        peer: "far",
        peer_mac: Some(FAR),
        peer_netns: peer_netns.map(AsFd::as_fd),
    }
}

fn far_up(netns: &NetNs) {
    let netlink = NetlinkSocket::open_in(netns).unwrap();
    let far = netlink.link_by_name("far").unwrap().unwrap();
    assert!(!far.up);
    netlink.set_up(far.index, true).unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Everything that the agent does to links; the same for the kernel and for the fake.
async fn links_behave(a: &impl LinkControl, b: &impl LinkControl, b_netns: &impl AsFd) {
    let mut events = b.watch().unwrap();
    a.create_bridge("br0", None, None).await.unwrap();
    let bridge = a.link_by_name("br0").await.unwrap().unwrap();
    assert_eq!((bridge.kind.as_deref(), bridge.up), (Some("bridge"), true));
    let mut spec = veth(Some(b_netns));
    spec.master = Some(bridge.index);
    spec.mtu = None;
    a.create_veth(&spec).await.unwrap();
    assert!(a.create_veth(&spec).await.unwrap_err().is_exists());
    let near = a.link_by_name("near").await.unwrap().unwrap();
    assert_eq!((near.mac, near.master), (Some(NEAR), Some(bridge.index)));
    assert!(a.link_by_mac(FAR).await.unwrap().is_none());
    let far = b.link_by_mac(FAR).await.unwrap().unwrap();
    b.up(far.index).await.unwrap();
    assert!(far.name == "far" && far.kind.as_deref() == Some("veth"));
    while !matches!(events.next().await.unwrap(), Event::Link(link) if link.mac == Some(FAR)) {}

    // Move with a new name in one step; back again.
    let change = LinkChange {
        name: Some("eth1"),
        netns: Some(b_netns.as_fd()),
        ..LinkChange::default()
    };
    a.create_bridge("stray", Some(MacAddr([2, 0, 0, 0, 0, 9])), None)
        .await
        .unwrap();
    let stray = a.link_by_name("stray").await.unwrap().unwrap();
    a.delete_link(stray.index).await.unwrap();
    a.delete_link(stray.index).await.unwrap();
    assert!(
        a.set_link(stray.index, &change)
            .await
            .unwrap_err()
            .is_not_found()
    );

    let address = Address {
        link: far.index,
        net: "192.0.2.9/24".parse().unwrap(),
        protocol: PROTO_AGENT,
        no_prefix_route: false,
    };
    b.add_address(&address).await.unwrap();
    b.add_address(&address).await.unwrap();
    assert!(b.addresses().await.unwrap().contains(&address));
    while events.next().await.unwrap() != Event::Address(address.clone()) {}
    let retagged = Address {
        protocol: PROTO_VRRP,
        ..address.clone()
    };
    b.add_address(&retagged).await.unwrap();
    let all = b.addresses().await.unwrap();
    assert!(
        all.contains(&retagged) && !all.contains(&address),
        "{all:?}"
    );

    let route = Route {
        to: "0.0.0.0/0".parse().unwrap(),
        via: Some([192, 0, 2, 1].into()),
        link: Some(far.index),
        table: 1,
        source: Some([192, 0, 2, 9].into()),
        onlink: true,
        metric: None,
        protocol: PROTO_VRRP,
    };
    let other = Route {
        via: Some([192, 0, 2, 2].into()),
        ..route.clone()
    };
    b.add_route(&other).await.unwrap();
    b.add_route(&route).await.unwrap();
    let ours = |routes: Vec<Route>| -> Vec<_> {
        routes
            .into_iter()
            .filter(|r| r.protocol == PROTO_VRRP)
            .collect()
    };
    assert_eq!(
        ours(b.routes().await.unwrap()),
        std::slice::from_ref(&route),
        "replaced"
    );
    let foreign = Route {
        protocol: PROTO_AGENT,
        ..route.clone()
    };
    b.delete_route(&foreign).await.unwrap();
    assert_eq!(ours(b.routes().await.unwrap()).len(), 1, "of another owner");
    b.delete_route(&route).await.unwrap();
    b.delete_route(&route).await.unwrap();
    assert_eq!(ours(b.routes().await.unwrap()), []);

    let rule = Rule {
        from: "192.0.2.9/32".parse().unwrap(),
        table: 1,
        priority: 100,
        protocol: PROTO_VRRP,
    };
    b.add_rule(&rule).await.unwrap();
    b.add_rule(&rule).await.unwrap();
    let count = |rules: Vec<Rule>| rules.into_iter().filter(|r| *r == rule).count();
    assert_eq!(count(b.rules().await.unwrap()), 1);
    b.delete_rule(&Rule {
        protocol: PROTO_AGENT,
        ..rule.clone()
    })
    .await
    .unwrap();
    assert_eq!(count(b.rules().await.unwrap()), 1, "of another owner");
    b.delete_rule(&rule).await.unwrap();
    b.delete_rule(&rule).await.unwrap();
    assert_eq!(count(b.rules().await.unwrap()), 0);

    b.delete_address(&address).await.unwrap();
    b.delete_address(&address).await.unwrap();
    while events.next().await.unwrap() != Event::AddressGone(retagged.clone()) {}

    // A veth takes its peer along.
    a.delete_link(near.index).await.unwrap();
    assert!(b.link_by_mac(FAR).await.unwrap().is_none());
    while !matches!(events.next().await.unwrap(), Event::LinkGone(link) if link.index == far.index)
    {
    }
}

#[test]
fn kernel_and_fake_agree() {
    let lab = Lab::make();
    let (a, b) = (lab.netns("a"), lab.netns("b"));
    let b_fd = NetNs::open(&lab.path("b")).unwrap();
    let fake = FakeKernel::default();
    let (c, d) = (fake.namespace().unwrap(), fake.namespace().unwrap());
    runtime().block_on(async {
        links_behave(&c, &d, &d).await;
        let (a, b) = (Rtnl::new(a).unwrap(), Rtnl::new(b).unwrap());
        links_behave(&a, &b, &b_fd).await;
    });
}

#[test]
fn a_nic_moves_with_its_new_name_although_the_old_one_is_taken_there() {
    let lab = Lab::make();
    let (mgmt, vip) = (lab.netns("mgmt"), lab.netns("vip"));
    let fake = FakeKernel::default();
    let (fake_mgmt, fake_vip) = (fake.namespace().unwrap(), fake.namespace().unwrap());
    async fn moves(mgmt: &impl LinkControl, vip: &impl LinkControl, vip_fd: &impl AsFd) {
        mgmt.create_veth(&veth(None::<&NetNs>)).await.unwrap();
        vip.create_bridge("far", None, None).await.unwrap();
        let nic = mgmt.link_by_mac(FAR).await.unwrap().unwrap();
        let mut change = LinkChange {
            netns: Some(vip_fd.as_fd()),
            ..LinkChange::default()
        };
        assert!(
            mgmt.set_link(nic.index, &change)
                .await
                .unwrap_err()
                .is_exists()
        );
        change.name = Some("eth1");
        mgmt.set_link(nic.index, &change).await.unwrap();
        assert!(mgmt.link_by_mac(FAR).await.unwrap().is_none());
        let nic = vip.link_by_mac(FAR).await.unwrap().unwrap();
        assert_eq!((nic.name.as_str(), nic.up), ("eth1", false));
        vip.up(nic.index).await.unwrap();
        assert!(vip.link_by_name("eth1").await.unwrap().unwrap().up);
    }
    let vip_fd = NetNs::open(&lab.path("vip")).unwrap();
    runtime().block_on(async {
        moves(&fake_mgmt, &fake_vip, &fake_vip).await;
        let (mgmt, vip) = (Rtnl::new(mgmt).unwrap(), Rtnl::new(vip).unwrap());
        moves(&mgmt, &vip, &vip_fd).await;
    });
}

#[test]
fn a_flooded_watch_asks_for_a_resync() {
    let lab = Lab::make();
    let a = lab.netns("a");
    let netlink = NetlinkSocket::open_in(&a).unwrap();
    runtime().block_on(async {
        let control = Rtnl::new(a).unwrap();
        let mut events = control.watch().unwrap();
        let address = |n: u32| Address {
            link: 1,
            net: ipnet::Ipv4Net::new((0x7f01_0000 + n).into(), 32)
                .unwrap()
                .into(),
            protocol: PROTO_AGENT,
            no_prefix_route: true,
        };
        for n in 0..4000 {
            netlink.add_address(&address(n)).unwrap();
        }
        while events.next().await.unwrap() != Event::Resync {}
        // And goes on afterwards.
        let last = address(5000);
        netlink.add_address(&last).unwrap();
        while events.next().await.unwrap() != Event::Address(last.clone()) {}
    });
}

#[test]
fn the_synchronous_path_moves_a_vip_by_tag() {
    let lab = Lab::make();
    let (a, b) = (lab.netns("a"), lab.netns("b"));
    let netlink = NetlinkSocket::open_in(&a).unwrap();
    netlink.create_veth(&veth(Some(&b))).unwrap();
    far_up(&b);
    let link = netlink.link_by_name("near").unwrap().unwrap();
    assert_eq!(link.mtu, 1400);
    assert_eq!(netlink.link_by_name("nothing").unwrap(), None);
    for (own, vip) in [
        ("203.0.113.5/24", "203.0.113.9/32"),
        ("2001:db8::5/64", "2001:db8::9/128"),
    ] {
        let own = Address {
            link: link.index,
            net: own.parse().unwrap(),
            protocol: PROTO_AGENT,
            no_prefix_route: false,
        };
        let vip = Address {
            net: vip.parse().unwrap(),
            protocol: PROTO_VRRP,
            no_prefix_route: true,
            ..own.clone()
        };
        netlink.add_address(&own).unwrap();
        netlink.add_address(&vip).unwrap();
        netlink.add_address(&vip).unwrap();
        let tagged = netlink.tagged_addresses(link.index, PROTO_VRRP).unwrap();
        assert_eq!(tagged, std::slice::from_ref(&vip));
        // It can be bound at once: no duplicate address detection.
        a.tcp_listener((vip.net.addr(), 0).into()).unwrap();
        let to_prefix = |net: &ipnet::IpNet| {
            let routes = netlink.routes().unwrap();
            routes.iter().any(|r| r.to == net.trunc())
        };
        assert!(to_prefix(&own.net));
        assert!(!to_prefix(&vip.net), "noprefixroute");
        netlink.delete_address(&vip).unwrap();
        netlink.delete_address(&vip).unwrap();
        assert_eq!(
            netlink.tagged_addresses(link.index, PROTO_VRRP).unwrap(),
            []
        );
        assert!(a.tcp_listener((vip.net.addr(), 0).into()).is_err());
    }
    let error = netlink
        .add_address(&Address {
            link: 4711,
            net: "192.0.2.1/24".parse().unwrap(),
            protocol: PROTO_VRRP,
            no_prefix_route: false,
        })
        .unwrap_err();
    assert!(error.is_not_found());
    assert!(
        error
            .to_string()
            .contains("add address 192.0.2.1/24 to link 4711"),
        "{error}"
    );
}

#[test]
fn ipv6_routes_and_rules_compare_equal_to_what_was_added() {
    let lab = Lab::make();
    let (a, b) = (lab.netns("a"), lab.netns("b"));
    let netlink = NetlinkSocket::open_in(&a).unwrap();
    netlink.create_veth(&veth(Some(&b))).unwrap();
    far_up(&b);
    let link = netlink.link_by_name("near").unwrap().unwrap().index;
    let route = Route {
        to: "::/0".parse().unwrap(),
        via: Some("2001:db8::1".parse().unwrap()),
        link: Some(link),
        table: 1,
        source: None,
        onlink: true,
        metric: None,
        protocol: PROTO_AGENT,
    };
    let on_link = Route {
        to: "2001:db8:7::/64".parse().unwrap(),
        via: None,
        onlink: false,
        table: 254,
        ..route.clone()
    };
    let rule = Rule {
        from: "2001:db8::9/128".parse().unwrap(),
        table: 1,
        priority: 100,
        protocol: PROTO_AGENT,
    };
    for _ in 0..2 {
        netlink.add_route(&route).unwrap();
        netlink.add_route(&on_link).unwrap();
        netlink.add_rule(&rule).unwrap();
    }
    let mut routes = netlink.routes().unwrap();
    routes.retain(|r| r.protocol == PROTO_AGENT);
    routes.sort();
    let mut wanted = [route.clone(), on_link.clone()];
    wanted.sort();
    assert_eq!(routes, wanted);
    assert_eq!(
        netlink
            .rules()
            .unwrap()
            .iter()
            .filter(|r| **r == rule)
            .count(),
        1
    );
    for _ in 0..2 {
        netlink.delete_route(&route).unwrap();
        netlink.delete_route(&on_link).unwrap();
        netlink.delete_rule(&rule).unwrap();
    }
    assert!(
        !netlink
            .routes()
            .unwrap()
            .iter()
            .any(|r| r.protocol == PROTO_AGENT)
    );
    assert!(!netlink.rules().unwrap().contains(&rule));
}

#[test]
fn announcements_arrive_and_neighbours_learn() {
    let lab = Lab::make();
    let (a, b) = (lab.netns("a"), lab.netns("b"));
    let netlink = NetlinkSocket::open_in(&a).unwrap();
    netlink.create_veth(&veth(Some(&b))).unwrap();
    far_up(&b);
    let index = netlink.link_by_name("near").unwrap().unwrap().index;
    // ETH_P_ALL, in network byte order.
    let all = Protocol::from(i32::from(0x0003_u16.to_be()));
    let mut sniffer = b.socket(Domain::PACKET, Type::RAW, Some(all)).unwrap();
    sniffer
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let announcer = Announcer::open_in(&a, index).unwrap();
    for vip in ["203.0.113.9", "2001:db8::9"] {
        let vip = vip.parse().unwrap();
        announcer.announce(NEAR, vip).unwrap();
        let wanted = krater_net::announce::frame(NEAR, vip);
        let mut frame = [0; 2048];
        loop {
            let length = sniffer.read(&mut frame).unwrap();
            if frame[..length] == *wanted {
                break;
            }
        }
    }
}
