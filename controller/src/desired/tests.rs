use super::*;
use crate::db::entity::{address, load_balancer, network, port};
use crate::secrets::vault::Vault;
use krater_model::Centiseconds;
use uuid::Uuid;

fn text(n: u128) -> String {
    Uuid::from_u128(n).to_string()
}

fn subnet(n: u128, network: u128, cidr: &str, gateway: &str) -> subnet::Model {
    subnet::Model {
        id: text(n),
        network_id: text(network),
        name: String::new(),
        cidr: cidr.into(),
        gateway_ip: Some(gateway.into()),
        created_at: 0,
    }
}

fn nic(n: u128, amphora: u128, name: &str, network: u128, addresses: &[(u128, &str)]) -> Nic {
    Nic {
        port: port::Model {
            id: text(n),
            network_id: text(network),
            project_id: String::new(),
            name: port_name(&text(amphora), name),
            mac_address: format!("fa:16:3e:00:00:{n:02x}"),
            device_owner: String::new(),
            device_id: text(amphora),
            admin_state_up: true,
            created_at: 0,
        },
        addresses: addresses
            .iter()
            .map(|(subnet, ip)| address::Model {
                subnet_id: text(*subnet),
                ip_address: (*ip).to_owned(),
                port_id: text(n),
                position: 0,
            })
            .collect(),
    }
}

fn amphora(n: u128, role: &str, priority: i32, vrrp_ip: &str, vrrp_port: u128) -> amphora::Model {
    amphora::Model {
        id: text(n),
        load_balancer_id: Some(text(9)),
        compute_id: None,
        status: "ALLOCATED".into(),
        role: Some(role.into()),
        lb_network_ip: Some(format!("100.96.0.1{n}")),
        mgmt_port_id: None,
        mgmt_mac: None,
        vrrp_ip: Some(vrrp_ip.into()),
        ha_ip: None,
        vrrp_port_id: Some(text(vrrp_port)),
        ha_port_id: None,
        vrrp_mac: None,
        vrrp_interface: None,
        vrrp_id: Some(1),
        vrrp_priority: Some(priority),
        cert_expiration: None,
        cert_busy: false,
        cached_zone: None,
        image_id: None,
        compute_flavor: None,
        epoch_desired: 1,
        generation_desired: 1,
        epoch_applied: 1,
        generation_applied: 1,
        revision_digest: None,
        error_reason: None,
        created_at: 0,
        updated_at: None,
    }
}

fn member(n: u128, subnet: Option<u128>, status: &str) -> member::Model {
    member::Model {
        id: text(n),
        pool_id: text(50),
        project_id: String::new(),
        name: String::new(),
        enabled: true,
        address: "192.0.2.10".into(),
        protocol_port: 80,
        weight: 2,
        backup: false,
        subnet_id: subnet.map(text),
        monitor_address: None,
        monitor_port: None,
        provisioning_status: status.into(),
        operating_status: "ONLINE".into(),
        created_at: 0,
        updated_at: None,
    }
}

/// A pair (1, 2) with a VIP on network 100 and a NIC on network 200.
fn graph() -> Graph {
    Graph {
        load_balancer: load_balancer::Model {
            id: text(9),
            project_id: String::new(),
            name: "lb1".into(),
            description: String::new(),
            enabled: true,
            topology: "ACTIVE_STANDBY".into(),
            flavor_id: None,
            availability_zone: None,
            provider: String::new(),
            vip_address: "203.0.113.2".into(),
            vip_port_id: text(90),
            vip_subnet_id: text(101),
            vip_network_id: text(100),
            additional_vips: None,
            vip_port_owned: true,
            locked_by_flow: None,
            error_reason: None,
            provisioning_status: "ACTIVE".into(),
            operating_status: "ONLINE".into(),
            created_at: 0,
            updated_at: None,
        },
        listeners: Vec::new(),
        pools: vec![pool::Model {
            id: text(50),
            load_balancer_id: text(9),
            project_id: String::new(),
            name: String::new(),
            description: String::new(),
            enabled: true,
            protocol: "HTTP".into(),
            lb_algorithm: "LEAST_CONNECTIONS".into(),
            provisioning_status: "ACTIVE".into(),
            operating_status: "ONLINE".into(),
            created_at: 0,
            updated_at: None,
            tls: None,
        }],
        persistence: Vec::new(),
        members: vec![member(60, Some(201), "ACTIVE"), member(61, None, "ACTIVE")],
        monitors: Vec::new(),
        policies: Vec::new(),
        rules: Vec::new(),
        amphorae: vec![
            amphora(1, "MASTER", 100, "203.0.113.3", 11),
            amphora(2, "BACKUP", 90, "203.0.113.4", 21),
        ],
        nics: vec![
            nic(11, 1, "eth1", 100, &[(101, "203.0.113.3")]),
            nic(12, 1, "eth2", 200, &[(201, "192.0.2.3")]),
            nic(21, 2, "eth1", 100, &[(101, "203.0.113.4")]),
        ],
        networks: vec![network::Model {
            id: text(100),
            name: String::new(),
            description: String::new(),
            mtu: 1_450,
            internal: false,
            created_at: 0,
        }],
        subnets: vec![
            subnet(101, 100, "203.0.113.0/24", "203.0.113.1"),
            subnet(201, 200, "192.0.2.0/24", "192.0.2.1"),
        ],
        bundles: Vec::new(),
    }
}

fn common() -> Common {
    Common {
        epoch: Epoch(3),
        heartbeat: Heartbeat {
            targets: vec!["100.96.0.1:5555".parse().unwrap()],
            interval: Millis::literal(1_000),
            key: Secret::new("k"),
        },
        vrrp: Vrrp::default(),
        logging: Logging::default(),
        vault: Vault::parse(&"0f".repeat(32)).unwrap(),
    }
}

fn built(graph: &Graph) -> DesiredState {
    let (first, second) = (&graph.amphorae[0], &graph.amphorae[1]);
    build(graph, first, &[second], &common()).unwrap()
}

/// What upstream configures: version 2 with a password, the same on both amphorae, unicast.
#[test]
fn version_2_with_a_password() {
    let graph = graph();
    let mut common = common();
    common.vrrp = Vrrp {
        advert_centiseconds: Centiseconds::new(100).unwrap(),
        version: VrrpVersion::V2,
        auth: VrrpAuth::Pass,
        ..Vrrp::default()
    };
    let (first, second) = (&graph.amphorae[0], &graph.amphorae[1]);
    let of = |own, peer| build(&graph, own, &[peer], &common).unwrap().vrrp.remove(0);
    let (a, b) = (of(first, second), of(second, first));
    assert_eq!((a.version, a.multicast), (VrrpVersion::V2, false));
    let password = a.password.as_ref().unwrap().expose();
    assert_eq!(password.len(), 7);
    assert_eq!(a.password, b.password);
    assert_ne!(
        a.password,
        Some(super::password(&common.heartbeat.key, "another"))
    );
    // The default has none.
    assert_eq!(built(&graph).vrrp[0].password, None);
}

/// Both get the same key, another load balancer another one, and each the other's addresses on both networks.
#[test]
fn a_pair_has_a_liveness_session_over_both_networks() {
    let graph = graph();
    let (first, second) = (&graph.amphorae[0], &graph.amphorae[1]);
    let of = |graph: &Graph, own, peer, common: &Common| {
        let router = build(graph, own, &[peer], common).unwrap().vrrp.remove(0);
        router.liveness
    };
    let common = common();
    let a = of(&graph, first, second, &common).unwrap();
    let b = of(&graph, second, first, &common).unwrap();
    assert_eq!((a.interval, &a.key), (Millis::literal(30), &b.key));
    assert_eq!(a.key.expose().len(), 64);
    let path = |liveness: &Liveness| {
        let path = liveness.second_path.clone().unwrap();
        (path.source.to_string(), path.peers[0].to_string())
    };
    let (one, two) = ("100.96.0.11".to_owned(), "100.96.0.12".to_owned());
    assert_eq!(path(&a), (one.clone(), two.clone()));
    assert_eq!(path(&b), (two, one));
    // Another load balancer, and another controller.
    let mut other = graph.clone();
    other.load_balancer.id = text(8);
    assert_ne!(of(&other, first, second, &common).unwrap().key, a.key);
    let stranger = Common {
        vault: Vault::parse(&"0e".repeat(32)).unwrap(),
        ..common.clone()
    };
    assert_ne!(of(&graph, first, second, &stranger).unwrap().key, a.key);
    // Without an address on the management network: one path.
    let mut unknown = graph.clone();
    unknown.amphorae[1].lb_network_ip = None;
    let (first, second) = (&unknown.amphorae[0], &unknown.amphorae[1]);
    let a = of(&unknown, first, second, &common).unwrap();
    assert_eq!(a.second_path, None);
    // Switched off, and alone.
    let mut off = common.clone();
    off.vrrp.liveness_ms = Millis::default();
    assert_eq!(of(&graph, first, second, &off), None);
    let alone = build(&graph, first, &[], &common).unwrap();
    assert_eq!(alone.vrrp[0].liveness, None);
}

#[test]
fn interfaces_routes_and_router_of_an_amphora() {
    let state = built(&graph());
    let [vip, tenant] = state.interfaces.as_slice() else {
        panic!("{:?}", state.interfaces);
    };
    assert_eq!(
        (vip.name.as_str(), vip.role, vip.mtu),
        ("eth1", InterfaceRole::Vip, Some(1_450))
    );
    assert_eq!(vip.addresses, ["203.0.113.3/24".parse::<IpNet>().unwrap()]);
    let routes: Vec<String> = vip
        .routes
        .iter()
        .map(|r| format!("{} {:?} {}", r.to, r.via, r.table))
        .collect();
    assert_eq!(
        routes,
        [
            "203.0.113.0/24 None 1",
            "0.0.0.0/0 Some(203.0.113.1) 254",
            "0.0.0.0/0 Some(203.0.113.1) 1",
        ]
    );
    assert_eq!(vip.rules[0].from.to_string(), "203.0.113.2/32");
    assert_eq!(
        (tenant.name.as_str(), tenant.role),
        ("eth2", InterfaceRole::Member)
    );
    assert!(
        tenant.routes.is_empty(),
        "only the VIP's network has a default route"
    );
    let router = &state.vrrp[0];
    assert_eq!(router.priority.value(), 100);
    assert_eq!(router.source.to_string(), "203.0.113.3");
    assert_eq!(router.peers, ["203.0.113.4".parse::<IpAddr>().unwrap()]);
    assert_eq!(router.addresses[0].to_string(), "203.0.113.2/24");
    assert!(!router.preempt);
    assert_eq!(state.epoch, Epoch(3));
    assert_eq!(state.load_balancers[0].pools[0].members.len(), 2);
}

#[test]
fn a_single_amphora_has_no_peers() {
    let graph = graph();
    let state = build(&graph, &graph.amphorae[0], &[], &common()).unwrap();
    assert!(state.vrrp[0].peers.is_empty());
}

#[test]
fn what_is_going_is_left_out_with_its_network() {
    let mut graph = graph();
    graph.members[0] = member(60, Some(201), "PENDING_DELETE");
    let state = built(&graph);
    assert_eq!(state.interfaces.len(), 1);
    assert_eq!(state.load_balancers[0].pools[0].members.len(), 1);
    assert_eq!(needed_subnets(&graph), [(text(100), vec![text(101)])]);
    graph.pools[0].provisioning_status = "PENDING_DELETE".into();
    assert!(built(&graph).load_balancers[0].pools.is_empty());
}

#[test]
fn an_ipv6_vip_has_a_router_of_its_family() {
    let mut graph = graph();
    graph.load_balancer.vip_address = "2001:db8:1::2".into();
    graph.subnets[0] = subnet(101, 100, "2001:db8:1::/64", "2001:db8:1::1");
    graph.amphorae[0].vrrp_ip = Some("2001:db8:1::3".into());
    graph.amphorae[1].vrrp_ip = Some("2001:db8:1::4".into());
    graph.nics[0] = nic(11, 1, "eth1", 100, &[(101, "2001:db8:1::3")]);
    let state = built(&graph);
    assert_eq!(state.vrrp[0].addresses[0].to_string(), "2001:db8:1::2/64");
    assert_eq!(state.interfaces[0].routes[1].to.to_string(), "::/0");
    assert_eq!(
        state.interfaces[0].rules[0].from.to_string(),
        "2001:db8:1::2/128"
    );
}

#[test]
fn a_row_that_cannot_be_is_named() {
    let mut graph = graph();
    graph.members[1].weight = 900;
    let error = build(&graph, &graph.amphorae[0], &[], &common()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("member {}", graph.members[1].id)),
        "{text}"
    );
    assert!(text.contains("weight 900 is out of range"), "{text}");
}

#[test]
fn expected_codes_of_a_monitor() {
    let codes = |text: &str| -> Vec<(u16, u16)> {
        let ranges = expected(text).unwrap();
        ranges.iter().map(|(a, b)| (a.value(), b.value())).collect()
    };
    assert_eq!(codes("200"), [(200, 200)]);
    assert_eq!(codes("200,202"), [(200, 200), (202, 202)]);
    assert_eq!(codes("200-204"), [(200, 204)]);
    assert!(expected("20x").is_err());
}

#[test]
fn who_resigns_keeps_nothing_but_its_heartbeat() {
    let state = resigned(AmphoraId::random(), &common());
    let text = serde_json::to_vec(&state).unwrap();
    let state = DesiredState::parse(&text).unwrap();
    assert!(state.vrrp.is_empty() && state.load_balancers.is_empty());
    assert!(state.heartbeat.is_some());
}

/// Each amphora of a pair gets the copies that its listeners and pools use, and no other.
#[test]
fn certificates_that_are_used_are_in_the_document() {
    use crate::app::tls::{Copies, ListenerTls, PoolTls};
    use crate::db::entity::tls_bundle;
    let common = common();
    let bundle = |pem: &str| {
        let id = CertificateId::of(pem.as_bytes()).to_string();
        let owner = format!("tls bundle {id}");
        tls_bundle::Model {
            sealed: common.vault.seal(pem.as_bytes(), &owner).unwrap(),
            id,
            created_at: 0,
        }
    };
    let (cert, second, ca) = (bundle("cert"), bundle("second"), bundle("ca"));
    let mut graph = graph();
    graph.bundles = vec![ca.clone(), bundle("unused"), cert.clone(), second.clone()];
    let mut tls = ListenerTls {
        default_ref: None,
        sni_refs: vec!["b".into(), "a".into()],
        client_ca_ref: Some("ca".into()),
        hsts_max_age: Some(7),
        ..ListenerTls::default()
    };
    tls.copies.certificates = [
        ("a".into(), cert.id.clone()),
        ("b".into(), second.id.clone()),
    ]
    .into();
    tls.copies.ca = Some(ca.id.clone());
    graph.listeners = vec![listener::Model {
        id: text(70),
        load_balancer_id: text(9),
        project_id: String::new(),
        name: String::new(),
        description: String::new(),
        enabled: true,
        protocol: "TERMINATED_HTTPS".into(),
        protocol_port: 443,
        connection_limit: -1,
        default_pool_id: None,
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
        tls: Some(tls.to_text()),
    }];
    let (first, standby) = (&graph.amphorae[0], &graph.amphorae[1]);
    let state = build(&graph, first, &[standby], &common).unwrap();
    let made = state.load_balancers[0].listeners[0].tls.as_ref().unwrap();
    // Without a default the first by server name is it; an authority waits until clients are asked.
    assert_eq!(made.default_certificate.as_str(), second.id);
    assert_eq!(made.sni_certificates.len(), 1);
    assert_eq!((&made.client_ca, made.hsts.unwrap().max_age), (&None, 7));
    let ids = |state: &DesiredState| -> Vec<String> {
        state
            .certificates
            .iter()
            .map(|c| c.id.to_string())
            .collect()
    };
    let mut wanted = vec![cert.id.clone(), second.id.clone()];
    wanted.sort();
    assert_eq!(ids(&state), wanted);
    let other = build(&graph, standby, &[first], &common).unwrap();
    assert_eq!(other.certificates, state.certificates);

    tls.client_authentication = "MANDATORY".into();
    graph.listeners[0].tls = Some(tls.to_text());
    let pool = PoolTls {
        enabled: true,
        ca_ref: Some("ca".into()),
        copies: Copies {
            ca: Some(ca.id.clone()),
            ..Default::default()
        },
        ..PoolTls::default()
    };
    graph.pools[0].tls = Some(pool.to_text());
    let (first, standby) = (&graph.amphorae[0], &graph.amphorae[1]);
    let state = build(&graph, first, &[standby], &common).unwrap();
    assert_eq!(ids(&state).len(), 3, "the authority once, for both");
    let in_pool = state.load_balancers[0].pools[0].tls.as_ref().unwrap();
    assert_eq!(in_pool.ca.as_ref().unwrap().as_str(), ca.id);

    // A copy that is gone, or sealed under another key, is named.
    let another = Common {
        vault: Vault::parse(&"0e".repeat(32)).unwrap(),
        ..common.clone()
    };
    let error = build(&graph, first, &[standby], &another).unwrap_err();
    assert!(error.to_string().contains("another key"), "{error}");
    let mut gone = graph.clone();
    gone.bundles.retain(|row| row.id != ca.id);
    let error = build(&gone, first, &[standby], &common).unwrap_err();
    assert!(error.to_string().contains(&ca.id), "{error}");
}

/// A further VIP of the same family in another subnet, and one of the other family.
#[test]
fn further_vips_have_tables_and_each_family_a_router_of_one_group() {
    let mut graph = graph();
    graph.load_balancer.additional_vips = Some(
        serde_json::json!([
            {"subnet_id": text(102), "ip_address": "198.51.100.2"},
            {"subnet_id": text(103), "ip_address": "2001:db8:1::2"},
        ])
        .to_string(),
    );
    graph.subnets.extend([
        subnet(102, 100, "198.51.100.0/24", "198.51.100.1"),
        subnet(103, 100, "2001:db8:1::/64", "2001:db8:1::1"),
    ]);
    for (nic, own) in [(0, "3"), (2, "4")] {
        for (of, ip) in [(102, "198.51.100."), (103, "2001:db8:1::")] {
            graph.nics[nic].addresses.push(address::Model {
                subnet_id: text(of),
                ip_address: format!("{ip}{own}"),
                port_id: String::new(),
                position: 1,
            });
        }
    }
    assert_eq!(
        needed_subnets(&graph)[0],
        (text(100), vec![text(101), text(102), text(103)])
    );
    let state = built(&graph);
    let shown = |all: &[IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        shown(&state.load_balancers[0].vips),
        ["203.0.113.2", "198.51.100.2", "2001:db8:1::2"]
    );
    let [four, six] = state.vrrp.as_slice() else {
        panic!("{:?}", state.vrrp)
    };
    let addresses = |router: &VirtualRouter| {
        let all = router.addresses.iter();
        all.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(addresses(four), ["203.0.113.2/24", "198.51.100.2/24"]);
    assert_eq!(addresses(six), ["2001:db8:1::2/64"]);
    assert_ne!(four.vrid, six.vrid);
    assert_eq!(four.source.to_string(), "203.0.113.3");
    assert_eq!(six.source.to_string(), "2001:db8:1::3");
    assert_eq!(shown(&six.peers), ["2001:db8:1::4"]);
    assert!(four.sync_group.is_some());
    assert_eq!(four.sync_group, six.sync_group);
    // A session each, and one of them on the management network.
    let second = |router: &VirtualRouter| router.liveness.as_ref().unwrap().second_path.is_some();
    assert!(second(four) && !second(six));
    let nic = &state.interfaces[0];
    assert_eq!(nic.addresses.len(), 3);
    let rules: Vec<String> = nic
        .rules
        .iter()
        .map(|rule| format!("{} {}", rule.from, rule.table))
        .collect();
    assert_eq!(
        rules,
        [
            "203.0.113.2/32 1",
            "198.51.100.2/32 2",
            "2001:db8:1::2/128 3"
        ]
    );
    let main: Vec<String> = nic
        .routes
        .iter()
        .filter(|route| route.table == 254)
        .filter_map(|route| route.via.map(|via| via.to_string()))
        .collect();
    // One for each family, that of its first VIP.
    assert_eq!(main, ["203.0.113.1", "2001:db8:1::1"]);
    // Who is alone waits for nobody.
    let alone = build(&graph, &graph.amphorae[0], &[], &common()).unwrap();
    assert!(alone.vrrp.iter().all(|router| router.sync_group.is_none()));
    // An amphora without an address there cannot be described.
    graph.nics[0].addresses.pop();
    let refused = build(&graph, &graph.amphorae[0], &[], &common()).unwrap_err();
    assert!(refused.to_string().contains(&text(103)), "{refused}");
}
