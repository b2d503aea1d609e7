use super::*;
use krater_model::state::InterfaceRole;

fn mac(last: u8) -> MacAddr {
    MacAddr([0xfa, 0x16, 0x3e, 0, 0, last])
}

fn interface(name: &str, last: u8) -> Interface {
    Interface {
        name: name.into(),
        mac: mac(last),
        role: InterfaceRole::Vip,
        mtu: Some(1_450),
        addresses: vec!["192.0.2.10/24".parse().unwrap()],
        routes: vec![
            route("0.0.0.0/0", Some("192.0.2.1")),
            route("198.51.100.0/24", None),
        ],
        rules: vec![Rule {
            from: "192.0.2.0/24".parse().unwrap(),
            table: 1,
            priority: 100,
        }],
    }
}

fn route(to: &str, via: Option<&str>) -> Route {
    Route {
        to: to.parse().unwrap(),
        via: via.map(|via| via.parse().unwrap()),
        table: 254,
        source: None,
        onlink: false,
    }
}

fn bare(name: &str, index: u32, last: u8) -> Link {
    Link {
        index,
        name: name.into(),
        mac: mac(last),
        up: false,
        mtu: 1_500,
        addresses: vec![],
        routes: vec![],
    }
}

/// A link as it is after its configuration was applied.
fn configured(interface: &Interface, index: u32) -> Link {
    Link {
        index,
        name: interface.name.clone(),
        mac: interface.mac,
        up: true,
        mtu: 1_450,
        addresses: interface.addresses.clone(),
        routes: interface.routes.clone(),
    }
}

fn words(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn a_plugged_nic_is_claimed_and_named() {
    let desired = [interface("eth1", 1)];
    let observed = Observed {
        management: vec![bare("mgmt0", 2, 9), bare("veth7", 3, 1)],
        ..Observed::default()
    };
    assert_eq!(
        words(&placement(&desired, &observed)),
        ["claim veth7 as eth1"]
    );
    assert!(missing(&desired, &observed).is_empty());
}

#[test]
fn a_half_renamed_nic_is_finished() {
    let desired = [interface("eth1", 1)];
    let parked_inside = Observed {
        vip: vec![bare("krater000001", 3, 1)],
        ..Observed::default()
    };
    assert_eq!(
        words(&placement(&desired, &parked_inside)),
        ["rename krater000001 to eth1"]
    );
}

#[test]
fn names_swap_without_a_collision() {
    let desired = [interface("eth1", 1), interface("eth2", 2)];
    let observed = Observed {
        vip: vec![bare("eth2", 4, 1), bare("eth1", 5, 2)],
        ..Observed::default()
    };
    assert_eq!(
        words(&placement(&desired, &observed)),
        [
            "rename eth2 to krater000001",
            "rename eth1 to krater000002",
            "rename krater000001 to eth1",
            "rename krater000002 to eth2",
        ]
    );
}

#[test]
fn an_unwanted_nic_makes_room_for_its_name() {
    let desired = [interface("eth1", 1)];
    let observed = Observed {
        management: vec![bare("veth7", 3, 1)],
        vip: vec![bare("eth1", 5, 2)],
        ..Observed::default()
    };
    assert_eq!(
        words(&placement(&desired, &observed)),
        ["rename eth1 to krater000002", "claim veth7 as eth1"]
    );
}

#[test]
fn what_is_in_place_needs_no_step() {
    let desired = [interface("eth1", 1)];
    let observed = Observed {
        vip: vec![configured(&desired[0], 3)],
        rules: desired[0].rules.clone(),
        ..Observed::default()
    };
    assert!(placement(&desired, &observed).is_empty());
    let plan = configuration(&desired, &desired, &observed);
    assert_eq!(plan, Configuration::default());
}

#[test]
fn a_bare_nic_gets_everything_in_order() {
    let desired = [interface("eth1", 1)];
    let observed = Observed {
        vip: vec![bare("eth1", 3, 1)],
        ..Observed::default()
    };
    let plan = configuration(&[], &desired, &observed);
    assert_eq!(
        words(&plan.grow),
        [
            "mtu of eth1 to 1450",
            "add 192.0.2.10/24 to eth1",
            "eth1 up",
            "add route 198.51.100.0/24 on eth1",
            "add route 0.0.0.0/0 on eth1",
            "add rule from 192.0.2.0/24 table 1",
        ]
    );
    assert!(plan.shrink.is_empty());
}

#[test]
fn only_the_difference_is_changed() {
    let before = [interface("eth1", 1)];
    let mut desired = before.clone();
    desired[0].addresses = vec!["192.0.2.11/24".parse().unwrap()];
    desired[0].routes.pop();
    desired[0].rules.clear();
    let observed = Observed {
        vip: vec![configured(&before[0], 3)],
        rules: before[0].rules.clone(),
        ..Observed::default()
    };
    let plan = configuration(&before, &desired, &observed);
    assert_eq!(words(&plan.grow), ["add 192.0.2.11/24 to eth1"]);
    assert_eq!(
        words(&plan.shrink),
        [
            "remove rule from 192.0.2.0/24 table 1",
            "remove route 198.51.100.0/24 from eth1",
            "remove 192.0.2.10/24 from eth1",
        ]
    );
}

#[test]
fn a_nic_no_longer_wanted_goes_back_and_a_strange_one_stays() {
    let before = [interface("eth1", 1)];
    let observed = Observed {
        vip: vec![configured(&before[0], 3), bare("strange", 4, 8)],
        ..Observed::default()
    };
    let plan = configuration(&before, &[], &observed);
    assert!(plan.grow.is_empty());
    assert_eq!(
        words(&plan.shrink),
        ["remove 192.0.2.10/24 from eth1", "release eth1"]
    );
}

#[test]
fn host_bits_and_onlink_do_not_make_another_route() {
    let mut desired = [interface("eth1", 1)];
    desired[0].routes[1].to = "198.51.100.7/24".parse().unwrap();
    desired[0].routes[1].onlink = true;
    let observed = Observed {
        vip: vec![configured(&interface("eth1", 1), 3)],
        rules: desired[0].rules.clone(),
        ..Observed::default()
    };
    assert_eq!(
        configuration(&desired, &desired, &observed),
        Configuration::default()
    );
}

#[test]
fn a_missing_nic_is_named() {
    let desired = [interface("eth1", 1)];
    assert_eq!(missing(&desired, &Observed::default()), [&desired[0]]);
}
