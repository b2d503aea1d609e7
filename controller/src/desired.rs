//! Rows of the database → the desired state of one amphora. Pure: no I/O, no clock.
//!
//! Children that are PENDING_DELETE are left out: the document is what shall be when the flow has ended. So
//! are those in ERROR: their creation was undone, and they serve nobody until they are changed.
//! The result went through `DesiredState::parse`'s checks, so that an agent has no reason to refuse it.

use crate::app::tls::{self, ListenerTls, PoolTls};
use crate::app::vip;
use crate::config::{Vrrp, VrrpAuth};
use crate::db::entity::{
    amphora, health_monitor, l7policy, l7rule, listener, member, pool, subnet,
};
use crate::db::query::graph::{Graph, Nic};
use crate::secrets::vault::Vault;
use ipnet::IpNet;
use krater_model::net::everything;
use krater_model::state::{
    Algorithm, Announce, Certificate, HealthCheck, HealthMonitor, Heartbeat, HttpCheck,
    HttpVersion, InsertHeader, Interface, InterfaceRole, L7Action, L7Compare, L7Policy, L7Rule,
    L7Subject, Listener, ListenerOptions, ListenerProtocol, Liveness, LoadBalancer, Logging,
    Member, Persistence, Pool, PoolOptions, PoolProtocol, Route, Rule, SecondPath, Timeouts,
    VirtualRouter, VrrpChecksum,
};
use krater_model::{
    AmphoraId, CertificateId, DesiredState, Epoch, FieldError, Generation, HopLimit, Millis, Port,
    Priority, ProbeCount, SCHEMA, Secret, StatusCode, Vrid, VrrpVersion, Weight,
};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

/// Name of the NIC that carries the VIP.
pub const VIP_INTERFACE: &str = "eth1";
/// Routing table of packets from the VIP: they leave where clients came in, whatever member networks
/// the amphora is connected to. Further VIPs have the tables that follow.
const VIP_TABLE: u32 = 1;
/// Preference of the rule that selects it; before the main table's 32766.
const VIP_RULE: u32 = 100;
/// The kernel's table of everything else.
const MAIN_TABLE: u32 = 254;
/// What the virtual routers of a load balancer with VIPs of both families are called together: their addresses move together.
const SYNC_GROUP: &str = "vips";
/// Entries of a SOURCE_IP table without a time-out of their own.
const PERSISTENCE: Millis = Millis::literal(86_400_000);
/// VRRP priorities, as Octavia has them.
pub const MASTER_PRIORITY: u8 = 100;
/// See [`MASTER_PRIORITY`].
pub const BACKUP_PRIORITY: u8 = 90;

/// What does not come from the load balancer's rows.
#[derive(Debug, Clone)]
pub struct Common {
    /// Epoch of the database.
    pub epoch: Epoch,
    /// Where heartbeats go.
    pub heartbeat: Heartbeat,
    /// How the amphorae of a pair speak VRRP.
    pub vrrp: Vrrp,
    /// Logging of the amphora's processes.
    pub logging: Logging,
    /// Opens the copies of certificates.
    pub vault: Vault,
}

type Built<T> = Result<T, FieldError>;

/// Builds the document of `amphora`, with generation 0 and no request id: the caller sets both.
/// `peers` are the other amphorae of the load balancer that shall stay.
pub fn build(
    graph: &Graph,
    amphora: &amphora::Model,
    peers: &[&amphora::Model],
    common: &Common,
) -> Built<DesiredState> {
    let interfaces = interfaces(graph, amphora)?;
    let load_balancer = load_balancer(graph)?;
    let state = DesiredState {
        schema: SCHEMA,
        epoch: common.epoch,
        generation: Generation(0),
        amphora_id: parse::<AmphoraId>("amphora.id", &amphora.id)?,
        request_id: String::new(),
        vrrp: routers(graph, amphora, peers, common)?,
        interfaces,
        certificates: certificates(graph, &load_balancer, common)?,
        load_balancers: vec![load_balancer],
        heartbeat: Some(common.heartbeat.clone()),
        logging: common.logging.clone(),
    };
    // Proves references and ranges that span rows; the agent would refuse the same.
    let text = serde_json::to_vec(&state)
        .map_err(|error| FieldError::new("document", error.to_string()))?;
    DesiredState::parse(&text)
}

/// The document that makes an amphora let go of everything: it resigns as Active at once, so that
/// its peer takes over without waiting, and serves nothing.
pub fn resigned(amphora: AmphoraId, common: &Common) -> DesiredState {
    DesiredState {
        schema: SCHEMA,
        epoch: common.epoch,
        generation: Generation(0),
        amphora_id: amphora,
        request_id: String::new(),
        interfaces: Vec::new(),
        vrrp: Vec::new(),
        load_balancers: Vec::new(),
        certificates: Vec::new(),
        heartbeat: Some(common.heartbeat.clone()),
        logging: common.logging.clone(),
    }
}

/// Subnets in which the load balancer's amphorae need an address, by network; the VIP's network first.
/// Members without a subnet are reached through the VIP's network.
pub fn needed_subnets(graph: &Graph) -> Vec<(String, Vec<String>)> {
    let balancer = &graph.load_balancer;
    let more = vip::additional(balancer).into_iter();
    let subnets = std::iter::once(balancer.vip_subnet_id.clone()).chain(more.map(|v| v.subnet_id));
    let mut needed = vec![(balancer.vip_network_id.clone(), subnets.collect::<Vec<_>>())];
    let members = graph
        .members
        .iter()
        .filter(|m| stays(&m.provisioning_status));
    for id in members.filter_map(|m| m.subnet_id.as_ref()) {
        let Some(subnet) = graph.subnets.iter().find(|s| s.id == *id) else {
            continue; // The subnet was removed from the inventory; nothing to plug into.
        };
        match needed
            .iter_mut()
            .find(|(network, _)| *network == subnet.network_id)
        {
            Some((_, subnets)) if subnets.contains(id) => {}
            Some((_, subnets)) => subnets.push(id.clone()),
            None => needed.push((subnet.network_id.clone(), vec![id.clone()])),
        }
    }
    needed
}

/// Interface name of a NIC; it is part of its port's name and never changes.
pub fn interface_name(nic: &Nic) -> Option<&str> {
    let (_, name) = nic.port.name.rsplit_once('-')?;
    name.starts_with("eth").then_some(name)
}

/// Name of the port of an amphora's interface.
pub fn port_name(amphora_id: &str, interface: &str) -> String {
    format!("amphora-{amphora_id}-{interface}")
}

fn stays(provisioning_status: &str) -> bool {
    !["PENDING_DELETE", "DELETED", "ERROR"].contains(&provisioning_status)
}

fn interfaces(graph: &Graph, amphora: &amphora::Model) -> Built<Vec<Interface>> {
    let needed = needed_subnets(graph);
    let mut interfaces = Vec::new();
    for nic in graph
        .nics
        .iter()
        .filter(|nic| nic.port.device_id == amphora.id)
    {
        let is_vip = amphora.vrrp_port_id.as_ref() == Some(&nic.port.id);
        let Some((_, subnets)) = needed.iter().find(|(id, _)| *id == nic.port.network_id) else {
            continue; // Not needed any more: unplugged after the push.
        };
        let name = interface_name(nic).ok_or_else(|| {
            FieldError::new(
                "port.name",
                format!("{:?} names no interface", nic.port.name),
            )
        })?;
        let mut addresses = Vec::new();
        for address in nic
            .addresses
            .iter()
            .filter(|a| subnets.contains(&a.subnet_id))
        {
            let ip: IpAddr = parse("address.ip_address", &address.ip_address)?;
            let cidr = cidr(subnet_of(graph, &address.subnet_id)?)?;
            addresses.push(
                IpNet::new(ip, cidr.prefix_len())
                    .map_err(|error| FieldError::new("address", error.to_string()))?,
            );
        }
        let network = graph.networks.iter().find(|n| n.id == nic.port.network_id);
        let (routes, rules) = if is_vip {
            vip_routes(graph)?
        } else {
            Default::default()
        };
        interfaces.push(Interface {
            name: name.to_owned(),
            mac: parse("port.mac_address", &nic.port.mac_address)?,
            role: if is_vip {
                InterfaceRole::Vip
            } else {
                InterfaceRole::Member
            },
            mtu: network.and_then(|n| u16::try_from(n.mtu).ok()),
            addresses,
            routes,
            rules,
        });
    }
    interfaces.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    Ok(interfaces)
}

/// A VIP with its subnet.
struct Vip<'a> {
    address: IpAddr,
    subnet: &'a subnet::Model,
}

/// All VIPs, the first one first.
fn vips(graph: &Graph) -> Built<Vec<Vip<'_>>> {
    let row = &graph.load_balancer;
    let mut all = vec![Vip {
        address: parse("load_balancer.vip_address", &row.vip_address)?,
        subnet: subnet_of(graph, &row.vip_subnet_id)?,
    }];
    for more in vip::additional(row) {
        all.push(Vip {
            address: more.ip_address,
            subnet: subnet_of(graph, &more.subnet_id)?,
        });
    }
    Ok(all)
}

/// Default routes over the VIPs' subnets, and a table for packets from each VIP.
fn vip_routes(graph: &Graph) -> Built<(Vec<Route>, Vec<Rule>)> {
    let (mut routes, mut rules) = (Vec::new(), Vec::new());
    let mut defaults: Vec<bool> = Vec::new();
    for (table, vip) in (VIP_TABLE..).zip(vips(graph)?) {
        routes.push(Route {
            to: cidr(vip.subnet)?.trunc(),
            via: None,
            table,
            source: None,
            onlink: false,
        });
        if let Some(gateway) = &vip.subnet.gateway_ip {
            let via: IpAddr = parse("subnet.gateway_ip", gateway)?;
            // The first VIP of its family decides where everything else leaves.
            let first = !defaults.contains(&via.is_ipv4());
            defaults.push(via.is_ipv4());
            for table in first.then_some(MAIN_TABLE).into_iter().chain([table]) {
                routes.push(Route {
                    to: everything(vip.address),
                    via: Some(via),
                    table,
                    source: None,
                    onlink: false,
                });
            }
        }
        rules.push(Rule {
            from: IpNet::from(vip.address),
            table,
            priority: VIP_RULE,
        });
    }
    Ok((routes, rules))
}

/// One virtual router for each family of the VIPs, that of the first VIP first.
fn routers(
    graph: &Graph,
    amphora: &amphora::Model,
    peers: &[&amphora::Model],
    common: &Common,
) -> Built<Vec<VirtualRouter>> {
    let vips = vips(graph)?;
    let first = vips.first().is_none_or(|vip| vip.address.is_ipv4());
    let (same, other): (Vec<_>, Vec<_>) =
        vips.iter().partition(|vip| vip.address.is_ipv4() == first);
    let vrid = amphora.vrrp_id.unwrap_or(1);
    let mut routers = vec![router(graph, amphora, peers, common, vrid, &same)?];
    if !other.is_empty() {
        let mut second = router(graph, amphora, peers, common, vrid + 1, &other)?;
        // A heartbeat on the management network says which peer it is of, not which router: one session has it.
        if let Some(liveness) = &mut second.liveness {
            liveness.second_path = None;
        }
        routers.push(second);
        // Who has no peer waits for nobody.
        if !peers.is_empty() {
            for router in &mut routers {
                router.sync_group = Some(SYNC_GROUP.to_owned());
            }
        }
    }
    Ok(routers)
}

/// An amphora's own address in a subnet of a VIP, from which it speaks to its peers.
fn own_address(graph: &Graph, row: &amphora::Model, subnet: &str) -> Built<IpAddr> {
    if subnet == graph.load_balancer.vip_subnet_id {
        let text = row.vrrp_ip.as_deref().unwrap_or_default();
        return parse("amphora.vrrp_ip", text);
    }
    let nics = graph.nics.iter().filter(|nic| nic.port.device_id == row.id);
    let mut addresses = nics.flat_map(|nic| &nic.addresses);
    let own = addresses.find(|address| address.subnet_id == subnet);
    let own = own.ok_or_else(|| {
        let why = format!("amphora {} has none in subnet {subnet}", row.id);
        FieldError::new("address", why)
    })?;
    parse("address.ip_address", &own.ip_address)
}

/// The virtual router of VIPs of one family.
fn router(
    graph: &Graph,
    amphora: &amphora::Model,
    peers: &[&amphora::Model],
    common: &Common,
    vrid: i32,
    vips: &[&Vip<'_>],
) -> Built<VirtualRouter> {
    let first = vips
        .first()
        .ok_or_else(|| FieldError::new("vips", "there is none".to_owned()))?;
    let own = |row: &amphora::Model| own_address(graph, row, &first.subnet.id);
    let mut addresses = Vec::new();
    for vip in vips {
        let prefix = cidr(vip.subnet)?.prefix_len();
        let address = IpNet::new(vip.address, prefix);
        let wrong =
            |error: ipnet::PrefixLenError| FieldError::new("vip_address", error.to_string());
        addresses.push(address.map_err(wrong)?);
    }
    let priority = amphora
        .vrrp_priority
        .unwrap_or_else(|| i32::from(MASTER_PRIORITY));
    // Version 2 knows IPv4 only.
    let version = match first.address {
        IpAddr::V4(_) => common.vrrp.version,
        IpAddr::V6(_) => VrrpVersion::V3,
    };
    let pass = version == VrrpVersion::V2 && common.vrrp.auth == VrrpAuth::Pass;
    Ok(VirtualRouter {
        vrid: ranged("amphora.vrrp_id", vrid, Vrid::new)?,
        interface: VIP_INTERFACE.into(),
        version,
        password: pass.then(|| password(&common.heartbeat.key, &graph.load_balancer.id)),
        checksum: VrrpChecksum::Learn,
        multicast: false,
        min_hop_limit: HopLimit::MAX,
        accept: true,
        virtual_mac: false,
        priority: ranged("amphora.vrrp_priority", priority, Priority::new)?,
        advert_interval: common.vrrp.advert_centiseconds,
        preempt: false,
        preempt_delay: Millis::default(),
        source: own(amphora)?,
        peers: peers.iter().map(|peer| own(peer)).collect::<Built<_>>()?,
        addresses,
        excluded_addresses: Vec::new(),
        routes: Vec::new(),
        rules: Vec::new(),
        track_interfaces: Vec::new(),
        track_checks: Vec::new(),
        sync_group: None,
        liveness: liveness(graph, amphora, peers, common)?,
        track_dataplane: true,
        track_members: false,
        announce: Announce::default(),
    })
}

/// A session with each peer, over the VIP's network and, where all have an address there, the management network. Its
/// key is the load balancer's own, the same at each call, and in no table.
fn liveness(
    graph: &Graph,
    amphora: &amphora::Model,
    peers: &[&amphora::Model],
    common: &Common,
) -> Built<Option<Liveness>> {
    let interval = common.vrrp.liveness_ms;
    if interval == Millis::default() || peers.is_empty() {
        return Ok(None);
    }
    let management = |row: &amphora::Model| -> Built<Option<IpAddr>> {
        let text = row.lb_network_ip.as_deref();
        text.map(|text| parse("amphora.lb_network_ip", text))
            .transpose()
    };
    let others = peers.iter().map(|peer| management(peer));
    let others: Option<Vec<IpAddr>> = others.collect::<Built<_>>()?;
    let second_path = management(amphora)?
        .zip(others)
        .map(|(source, peers)| SecondPath { source, peers });
    let purpose = format!("vrrp liveness of {}", graph.load_balancer.id);
    Ok(Some(Liveness {
        interval,
        key: common.vault.derive(&purpose),
        second_path,
    }))
}

/// Seven characters, as Octavia has them, the same at each call and other ones for each load balancer.
/// Derived, so that no table holds it; it is readable on the VIP network whoever made it.
fn password(key: &Secret, load_balancer: &str) -> Secret {
    use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
    let tag = sign(
        &Key::new(HMAC_SHA256, key.expose().as_bytes()),
        format!("krater vrrp password {load_balancer}").as_bytes(),
    );
    let hex: String = tag
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Secret::new(hex.get(..7).unwrap_or_default())
}

fn load_balancer(graph: &Graph) -> Built<LoadBalancer> {
    let row = &graph.load_balancer;
    let listeners = graph
        .listeners
        .iter()
        .filter(|l| stays(&l.provisioning_status));
    let pools = graph.pools.iter().filter(|p| stays(&p.provisioning_status));
    Ok(LoadBalancer {
        id: parse("load_balancer.id", &row.id)?,
        name: row.name.clone(),
        enabled: row.enabled,
        vips: vips(graph)?.iter().map(|vip| vip.address).collect(),
        listeners: listeners
            .map(|l| listener(graph, l).map_err(at("listener", &l.id)))
            .collect::<Built<_>>()?,
        pools: pools
            .map(|p| pool(graph, p).map_err(at("pool", &p.id)))
            .collect::<Built<_>>()?,
    })
}

/// What the listeners and pools refer to, in the order of the ids.
fn certificates(
    graph: &Graph,
    load_balancer: &LoadBalancer,
    common: &Common,
) -> Built<Vec<Certificate>> {
    let mut wanted: BTreeSet<&CertificateId> = BTreeSet::new();
    for tls in load_balancer
        .listeners
        .iter()
        .filter_map(|l| l.tls.as_ref())
    {
        wanted.insert(&tls.default_certificate);
        wanted.extend(
            tls.sni_certificates
                .iter()
                .chain(&tls.client_ca)
                .chain(&tls.client_crl),
        );
    }
    for tls in load_balancer.pools.iter().filter_map(|p| p.tls.as_ref()) {
        wanted.extend(tls.certificate.iter().chain(&tls.ca).chain(&tls.crl));
    }
    let mut certificates = Vec::new();
    for id in wanted {
        let row = graph.bundles.iter().find(|row| row.id == id.as_str());
        let pem = row.and_then(|row| tls::open(&common.vault, row));
        let pem = pem.ok_or_else(|| {
            FieldError::new(
                "tls",
                format!("the copy {id} is gone, or sealed under another key"),
            )
        })?;
        certificates.push(Certificate {
            id: id.clone(),
            pem,
        });
    }
    Ok(certificates)
}

fn listener(graph: &Graph, row: &listener::Model) -> Built<Listener> {
    let tls = ListenerTls::of(row).map_err(|error| FieldError::new("tls", error.to_string()))?;
    let protocol: ListenerProtocol = named("protocol", &row.protocol)?;
    let headers: BTreeMap<String, serde_json::Value> = json("insert_headers", &row.insert_headers)?;
    let mut insert_headers = Vec::new();
    for (name, value) in &headers {
        let on = value.as_bool().unwrap_or_else(|| {
            value
                .as_str()
                .is_some_and(|text| text.eq_ignore_ascii_case("true"))
        });
        if on {
            insert_headers.push(named::<InsertHeader>("insert_headers", name)?);
        }
    }
    insert_headers.sort_unstable();
    let pool_stays = |id: &String| {
        graph
            .pools
            .iter()
            .any(|p| p.id == *id && stays(&p.provisioning_status))
    };
    let policies = graph
        .policies
        .iter()
        .filter(|p| p.listener_id == row.id && stays(&p.provisioning_status));
    Ok(Listener {
        options: ListenerOptions::default(),
        id: parse("id", &row.id)?,
        name: row.name.clone(),
        enabled: row.enabled,
        protocol,
        port: ranged("protocol_port", row.protocol_port, Port::new)?,
        connection_limit: u32::try_from(row.connection_limit).ok(),
        timeouts: Timeouts {
            client_data: millis("timeout_client_data", row.timeout_client_data, 1)?,
            member_connect: millis("timeout_member_connect", row.timeout_member_connect, 1)?,
            member_data: millis("timeout_member_data", row.timeout_member_data, 1)?,
            tcp_inspect: millis("timeout_tcp_inspect", row.timeout_tcp_inspect, 1)?,
        },
        allowed_cidrs: json("allowed_cidrs", &row.allowed_cidrs)?,
        insert_headers,
        tls: tls.map(|tls| tls.desired()).transpose()?,
        default_pool: row
            .default_pool_id
            .as_ref()
            .filter(|id| pool_stays(id))
            .map(|id| parse("default_pool_id", id))
            .transpose()?,
        l7_policies: policies
            .map(|p| policy(graph, p).map_err(at("l7policy", &p.id)))
            .collect::<Built<_>>()?,
    })
}

fn policy(graph: &Graph, row: &l7policy::Model) -> Built<L7Policy> {
    let text = |field: &str, value: &Option<String>| {
        value
            .clone()
            .ok_or_else(|| FieldError::new(field, format!("missing for action {}", row.action)))
    };
    let code = || {
        ranged(
            "redirect_http_code",
            row.redirect_http_code.unwrap_or(302),
            StatusCode::new,
        )
    };
    let action = match row.action.as_str() {
        "REJECT" => L7Action::Reject,
        "REDIRECT_TO_POOL" => L7Action::RedirectToPool {
            pool: parse(
                "redirect_pool_id",
                &text("redirect_pool_id", &row.redirect_pool_id)?,
            )?,
        },
        "REDIRECT_TO_URL" => L7Action::RedirectToUrl {
            url: text("redirect_url", &row.redirect_url)?,
            code: code()?,
        },
        "REDIRECT_PREFIX" => L7Action::RedirectPrefix {
            prefix: text("redirect_prefix", &row.redirect_prefix)?,
            code: code()?,
        },
        other => return Err(FieldError::not_supported(format!("action {other}"))),
    };
    let rules = graph
        .rules
        .iter()
        .filter(|r| r.l7policy_id == row.id && stays(&r.provisioning_status));
    Ok(L7Policy {
        id: parse("id", &row.id)?,
        enabled: row.enabled,
        position: u32::try_from(row.position)
            .map_err(|_| FieldError::new("position", row.position.to_string()))?,
        action,
        rules: rules
            .map(|r| rule(r).map_err(at("l7rule", &r.id)))
            .collect::<Built<_>>()?,
    })
}

fn rule(row: &l7rule::Model) -> Built<L7Rule> {
    let key = || {
        row.key
            .clone()
            .ok_or_else(|| FieldError::new("key", format!("missing for type {}", row.kind)))
    };
    let subject = match row.kind.as_str() {
        "HOST_NAME" => L7Subject::HostName,
        "PATH" => L7Subject::Path,
        "FILE_TYPE" => L7Subject::FileType,
        "HEADER" => L7Subject::Header { key: key()? },
        "COOKIE" => L7Subject::Cookie { key: key()? },
        "SSL_CONN_HAS_CERT" => L7Subject::SslConnHasCert,
        "SSL_VERIFY_RESULT" => L7Subject::SslVerifyResult,
        "SSL_DN_FIELD" => L7Subject::SslDnField { key: key()? },
        other => return Err(FieldError::not_supported(format!("type {other}"))),
    };
    Ok(L7Rule {
        id: parse("id", &row.id)?,
        enabled: row.enabled,
        subject,
        compare: named::<L7Compare>("compare_type", &row.compare_type)?,
        value: row.value.clone(),
        invert: row.invert,
    })
}

fn pool(graph: &Graph, row: &pool::Model) -> Built<Pool> {
    let tls = PoolTls::of(row).map_err(|error| FieldError::new("tls", error.to_string()))?;
    let stickiness = graph.persistence.iter().find(|p| p.pool_id == row.id);
    let persistence = match stickiness {
        None => None,
        Some(p) => Some(match p.kind.as_str() {
            "SOURCE_IP" => Persistence::SourceIp {
                timeout: match p.persistence_timeout {
                    Some(seconds) => millis("persistence_timeout", seconds, 1_000)?,
                    None => PERSISTENCE,
                },
            },
            "HTTP_COOKIE" => Persistence::HttpCookie,
            "APP_COOKIE" => Persistence::AppCookie {
                cookie_name: p.cookie_name.clone().unwrap_or_default(),
            },
            other => return Err(FieldError::not_supported(format!("persistence {other}"))),
        }),
    };
    let monitor = graph
        .monitors
        .iter()
        .find(|m| m.pool_id == row.id && stays(&m.provisioning_status));
    let members = graph
        .members
        .iter()
        .filter(|m| m.pool_id == row.id && stays(&m.provisioning_status));
    Ok(Pool {
        options: PoolOptions::default(),
        id: parse("id", &row.id)?,
        name: row.name.clone(),
        enabled: row.enabled,
        protocol: named::<PoolProtocol>("protocol", &row.protocol)?,
        algorithm: named::<Algorithm>("lb_algorithm", &row.lb_algorithm)?,
        persistence,
        health_monitor: monitor
            .map(|m| health_monitor(m).map_err(at("health_monitor", &m.id)))
            .transpose()?,
        tls: match tls {
            Some(tls) => tls.desired()?,
            None => None,
        },
        members: members
            .map(|m| member(m).map_err(at("member", &m.id)))
            .collect::<Built<_>>()?,
    })
}

fn member(row: &member::Model) -> Built<Member> {
    Ok(Member {
        id: parse("id", &row.id)?,
        name: row.name.clone(),
        enabled: row.enabled,
        address: parse("address", &row.address)?,
        port: ranged("protocol_port", row.protocol_port, Port::new)?,
        weight: ranged("weight", row.weight, Weight::new)?,
        backup: row.backup,
        monitor_address: row
            .monitor_address
            .as_ref()
            .map(|text| parse("monitor_address", text))
            .transpose()?,
        monitor_port: row
            .monitor_port
            .map(|port| ranged("monitor_port", port, Port::new))
            .transpose()?,
        connection_limit: None,
        down: None,
    })
}

fn health_monitor(row: &health_monitor::Model) -> Built<HealthMonitor> {
    let check = match row.kind.as_str() {
        "TCP" => HealthCheck::Tcp,
        "PING" => HealthCheck::Ping,
        "TLS-HELLO" => HealthCheck::TlsHello,
        "HTTP" => HealthCheck::Http(http_check(row)?),
        "HTTPS" => HealthCheck::Https(http_check(row)?),
        other => return Err(FieldError::not_supported(format!("type {other}"))),
    };
    Ok(HealthMonitor {
        id: parse("id", &row.id)?,
        enabled: row.enabled,
        check,
        delay: millis("delay", row.delay, 1_000)?,
        timeout: millis("timeout", row.timeout, 1_000)?,
        rise: ranged("max_retries", row.max_retries, ProbeCount::new)?,
        fall: ranged("max_retries_down", row.max_retries_down, ProbeCount::new)?,
    })
}

fn http_check(row: &health_monitor::Model) -> Built<HttpCheck> {
    Ok(HttpCheck {
        method: row.http_method.clone().unwrap_or_else(|| "GET".into()),
        path: row.url_path.clone().unwrap_or_else(|| "/".into()),
        expected: expected(row.expected_codes.as_deref().unwrap_or("200"))?,
        version: match row.http_version.as_deref() {
            Some("1.1") => HttpVersion::Http11,
            _ => HttpVersion::Http10,
        },
        host: row.domain_name.clone(),
    })
}

/// `200`, `200,202` or `200-204`.
fn expected(text: &str) -> Built<Vec<(StatusCode, StatusCode)>> {
    let code = |text: &str| -> Built<StatusCode> {
        let number: u64 = parse("expected_codes", text.trim())?;
        StatusCode::new(number).map_err(|why| FieldError::new("expected_codes", why))
    };
    text.split(',')
        .map(|part| match part.split_once('-') {
            Some((low, high)) => Ok((code(low)?, code(high)?)),
            None => code(part).map(|code| (code, code)),
        })
        .collect()
}

fn subnet_of<'a>(graph: &'a Graph, id: &str) -> Built<&'a subnet::Model> {
    graph
        .subnets
        .iter()
        .find(|s| s.id == id)
        .ok_or_else(|| FieldError::new("subnet", format!("{id} is not in the inventory")))
}

fn cidr(subnet: &subnet::Model) -> Built<IpNet> {
    parse("subnet.cidr", &subnet.cidr)
}

fn parse<T: FromStr<Err: Display>>(field: &str, text: &str) -> Built<T> {
    text.parse()
        .map_err(|error: T::Err| FieldError::new(field, format!("{text:?}: {error}")))
}

fn named<T: DeserializeOwned>(field: &str, text: &str) -> Built<T> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|error| FieldError::new(field, error.to_string()))
}

fn json<T: DeserializeOwned>(field: &str, text: &str) -> Built<T> {
    serde_json::from_str(text).map_err(|error| FieldError::new(field, error.to_string()))
}

fn ranged<T>(field: &str, value: i32, new: impl Fn(u64) -> Result<T, String>) -> Built<T> {
    u64::try_from(value)
        .map_err(|_| format!("{value} is negative"))
        .and_then(new)
        .map_err(|why| FieldError::new(field, why))
}

fn millis(field: &str, value: i32, unit: u64) -> Built<Millis> {
    ranged(field, value, |value| {
        Millis::new(value.saturating_mul(unit))
    })
}

fn at(kind: &'static str, id: &str) -> impl Fn(FieldError) -> FieldError {
    move |error| error.within(format!("{kind} {id}"))
}

#[cfg(test)]
mod tests;
