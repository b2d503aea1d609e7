//! Cross-references and rules that span fields. Run once, by `DesiredState::parse`.

use super::*;
use std::collections::HashMap;

type Checked = Result<(), FieldError>;

pub(super) fn references(state: &DesiredState) -> Checked {
    known_schema(state.schema)?;
    interfaces(state)?;
    let certificates = certificates(state)?;
    unique(
        "vrrp",
        "vrid on an interface",
        state.vrrp.iter().map(|r| (&r.interface, r.vrid)),
    )?;
    for (i, router) in state.vrrp.iter().enumerate() {
        virtual_router(state, router).map_err(|e| e.within(format!("vrrp[{i}]")))?;
    }
    load_balancers(&state.load_balancers, &certificates)?;
    if let Some(heartbeat) = &state.heartbeat
        && heartbeat.interval.value() < 50
    {
        return Err(FieldError::new("heartbeat.interval", "use at least 50 ms"));
    }
    if !["error", "warn", "info", "debug", "trace"].contains(&state.logging.level.as_str()) {
        return Err(FieldError::new(
            "logging.level",
            format!(
                "{:?}: use error, warn, info, debug or trace",
                state.logging.level
            ),
        ));
    }
    Ok(())
}

/// The data plane's part alone. Certificates may be missing: after a reboot without a sealing key
/// the agent has none, and the listeners that need them stay down by themselves.
pub(crate) fn snapshot(schema: u32, balancers: &[LoadBalancer]) -> Checked {
    known_schema(schema)?;
    let listeners = balancers.iter().flat_map(|lb| &lb.listeners);
    let by_listeners = listeners.filter_map(|l| l.tls.as_ref()).flat_map(|tls| {
        std::iter::once(&tls.default_certificate)
            .chain(&tls.sni_certificates)
            .chain(&tls.client_ca)
            .chain(&tls.client_crl)
    });
    let pools = balancers.iter().flat_map(|lb| &lb.pools);
    let by_pools = pools
        .filter_map(|p| p.tls.as_ref())
        .flat_map(|tls| tls.certificate.iter().chain(&tls.ca).chain(&tls.crl));
    load_balancers(balancers, &by_listeners.chain(by_pools).collect())
}

/// An appliance's file: a desired state without an agent. Interfaces are the operator's own.
pub(crate) fn appliance(
    balancers: &[LoadBalancer],
    certificates: &[Certificate],
    routers: &[VirtualRouter],
) -> Checked {
    let certificates = certificates.iter().map(|c| &c.id).collect();
    load_balancers(balancers, &certificates)?;
    unique(
        "vrrp",
        "vrid on an interface",
        routers.iter().map(|r| (&r.interface, r.vrid)),
    )?;
    for (i, router) in routers.iter().enumerate() {
        addresses_of(router).map_err(|e| e.within(format!("vrrp[{i}]")))?;
    }
    Ok(())
}

fn load_balancers(balancers: &[LoadBalancer], certificates: &HashSet<&CertificateId>) -> Checked {
    unique("load_balancers", "id", balancers.iter().map(|lb| lb.id))?;
    let mut endpoints = HashMap::new();
    for (i, lb) in balancers.iter().enumerate() {
        let at = |e: FieldError| e.within(format!("load_balancers[{i}]"));
        load_balancer(lb, certificates).map_err(at)?;
        for listener in lb.listeners.iter().filter(|l| l.enabled && lb.enabled) {
            for vip in &lb.vips {
                if let Some(other) = endpoints.insert((*vip, listener.port), listener.id) {
                    return Err(at(FieldError::new(
                        "listeners",
                        format!(
                            "{} and {other} both listen on {vip}:{}",
                            listener.id, listener.port
                        ),
                    )));
                }
            }
        }
    }
    Ok(())
}

fn known_schema(schema: u32) -> Checked {
    if schema != crate::SCHEMA && schema.saturating_add(1) != crate::SCHEMA {
        return Err(FieldError::new(
            "schema",
            format!(
                "{schema} is not understood: this amphora reads {}",
                crate::SCHEMA
            ),
        ));
    }
    Ok(())
}

fn interfaces(state: &DesiredState) -> Checked {
    unique(
        "interfaces",
        "name",
        state.interfaces.iter().map(|i| &i.name),
    )?;
    unique("interfaces", "mac", state.interfaces.iter().map(|i| i.mac))?;
    for (i, interface) in state.interfaces.iter().enumerate() {
        let name = &interface.name;
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        if name.is_empty() || name.len() > 15 || !name.bytes().all(plain) || name.starts_with('.') {
            return Err(FieldError::new(
                format!("interfaces[{i}].name"),
                format!("{name:?} is not an interface name: 1 to 15 of a-z 0-9 - _ ."),
            ));
        }
        if interface.mtu.is_some_and(|mtu| mtu < 576) {
            return Err(FieldError::new(
                format!("interfaces[{i}].mtu"),
                "use at least 576",
            ));
        }
        for (r, route) in interface.routes.iter().enumerate() {
            same_family(route).map_err(|e| e.within(format!("interfaces[{i}].routes[{r}]")))?;
        }
    }
    Ok(())
}

fn same_family(route: &Route) -> Checked {
    let v4 = route.to.addr().is_ipv4();
    for (field, address) in [("via", route.via), ("source", route.source)] {
        if address.is_some_and(|address| address.is_ipv4() != v4) {
            return Err(FieldError::new(
                field,
                format!("not of the family of {}", route.to),
            ));
        }
    }
    Ok(())
}

fn certificates(state: &DesiredState) -> Result<HashSet<&CertificateId>, FieldError> {
    for (i, certificate) in state.certificates.iter().enumerate() {
        let real = CertificateId::of(certificate.pem.expose().as_bytes());
        if real != certificate.id {
            return Err(FieldError::new(
                format!("certificates[{i}].id"),
                format!("{} but the SHA-256 of pem is {real}", certificate.id),
            ));
        }
    }
    Ok(state.certificates.iter().map(|c| &c.id).collect())
}

fn virtual_router(state: &DesiredState, router: &VirtualRouter) -> Checked {
    let known = |i: &&Interface| i.name == router.interface && i.role == InterfaceRole::Vip;
    if !state.interfaces.iter().any(|i| known(&i)) {
        return Err(FieldError::new(
            "interface",
            format!(
                "{:?} is not among interfaces with role vip",
                router.interface
            ),
        ));
    }
    addresses_of(router)
}

fn addresses_of(router: &VirtualRouter) -> Checked {
    if router.addresses.is_empty() || router.addresses.len() > 255 {
        return Err(FieldError::new(
            "addresses",
            "1 to 255 addresses (RFC 9568 section 5.2.5)",
        ));
    }
    let v4 = router.source.is_ipv4();
    if router.addresses.iter().any(|a| a.addr().is_ipv4() != v4) {
        return Err(FieldError::new(
            "addresses",
            "all must be of the family of source",
        ));
    }
    if router.peers.iter().any(|p| p.is_ipv4() != v4) {
        return Err(FieldError::new(
            "peers",
            "all must be of the family of source",
        ));
    }
    if router.peers.contains(&router.source) {
        return Err(FieldError::new("peers", "must not contain source"));
    }
    router.check_protocol()
}

fn load_balancer(lb: &LoadBalancer, certificates: &HashSet<&CertificateId>) -> Checked {
    unique("listeners", "id", lb.listeners.iter().map(|l| l.id))?;
    unique("pools", "id", lb.pools.iter().map(|p| p.id))?;
    let pools: HashMap<PoolId, &Pool> = lb.pools.iter().map(|p| (p.id, p)).collect();
    for (i, pool) in lb.pools.iter().enumerate() {
        self::pool(pool, certificates).map_err(|e| e.within(format!("pools[{i}]")))?;
    }
    for (i, listener) in lb.listeners.iter().enumerate() {
        self::listener(listener, &pools, certificates)
            .map_err(|e| e.within(format!("listeners[{i}]")))?;
    }
    Ok(())
}

fn pool(pool: &Pool, certificates: &HashSet<&CertificateId>) -> Checked {
    unique("members", "id", pool.members.iter().map(|m| m.id))?;
    let opaque = matches!(pool.protocol, PoolProtocol::Tcp | PoolProtocol::Https);
    match &pool.persistence {
        Some(persistence) if opaque && persistence.by_cookie() => {
            let why = format!("a {:?} pool sees no cookie: use SOURCE_IP", pool.protocol);
            return Err(FieldError::new("persistence", why));
        }
        Some(Persistence::AppCookie { cookie_name }) if !is_cookie_name(cookie_name) => {
            let why = format!("{cookie_name:?} is no name of a cookie (RFC 6265 section 4.1.1)");
            return Err(FieldError::new("persistence.cookie_name", why));
        }
        _ => {}
    }
    if let Some(tls) = &pool.tls {
        for (field, id) in [
            ("certificate", &tls.certificate),
            ("ca", &tls.ca),
            ("crl", &tls.crl),
        ] {
            known_certificate(field, id.as_ref(), certificates).map_err(|e| e.within("tls"))?;
        }
        if tls.crl.is_some() && tls.ca.is_none() {
            return Err(FieldError::new("tls.crl", "needs ca"));
        }
        if pool.protocol == PoolProtocol::Https {
            let why = "an HTTPS pool passes the client's TLS through: use TCP, HTTP or PROXY";
            return Err(FieldError::new("tls", why));
        }
    }
    match (pool.options.failures_in_a_row, &pool.health_monitor) {
        (Some(0), _) => {
            let why = "use at least 1, or leave it out";
            return Err(FieldError::new("options.failures_in_a_row", why));
        }
        (Some(_), None) => {
            let why = "needs health_monitor, which brings members back";
            return Err(FieldError::new("options.failures_in_a_row", why));
        }
        _ => {}
    }
    if let Some(slow_start) = pool.options.slow_start {
        let refuse = |why: String| Err(FieldError::new("options.slow_start", why));
        if slow_start.value() == 0 {
            return refuse("use at least 1 ms, or leave it out".into());
        }
        if pool.health_monitor.is_none() {
            return refuse("needs health_monitor: only what was down comes back slowly".into());
        }
        if matches!(
            pool.algorithm,
            Algorithm::SourceIp | Algorithm::SourceIpPort
        ) {
            let hash = pool.algorithm;
            return refuse(format!(
                "{hash:?} goes by the configured weights, so that clients keep their members: use ROUND_ROBIN or LEAST_CONNECTIONS"
            ));
        }
    }
    queue(pool)?;
    let Some(monitor) = &pool.health_monitor else {
        return Ok(());
    };
    let at = |field: &str, why: &str| Err(FieldError::new(format!("health_monitor.{field}"), why));
    if monitor.delay < HealthMonitor::MIN_DELAY {
        let (delay, least) = (monitor.delay.value(), HealthMonitor::MIN_DELAY.value());
        let why = format!("{delay} ms is out of range: use {least} to {}", Millis::MAX);
        return at("delay", &why);
    }
    if monitor.timeout.value() == 0 {
        return at("timeout", "use at least 1 ms");
    }
    if let HealthCheck::Http(check) | HealthCheck::Https(check) = &monitor.check {
        let printable = |c: u8| c.is_ascii_graphic();
        if !check.path.starts_with('/') || !check.path.bytes().all(printable) {
            return at(
                "check.path",
                "must begin with / and hold no space or control character",
            );
        }
        if check.method.is_empty() || !check.method.bytes().all(|c| c.is_ascii_alphabetic()) {
            return at("check.method", "must be a token such as GET");
        }
        if check.expected.is_empty() || check.expected.iter().any(|(a, b)| a > b) {
            return at(
                "check.expected",
                "needs at least one range, lower end first",
            );
        }
        let host_ok = |h: &String| !h.is_empty() && h.bytes().all(printable);
        if check.host.as_ref().is_some_and(|h| !host_ok(h)) {
            return at("check.host", "must be a host name");
        }
    }
    Ok(())
}

/// Limits of members, why they are down, and what those who wait for them may.
fn queue(pool: &Pool) -> Checked {
    for (m, member) in pool.members.iter().enumerate() {
        if let Some(down) = &member.down
            && !(1..=Member::MAX_DOWN).contains(&down.len())
        {
            let why = format!(
                "{} bytes: give a reason of 1 to {} bytes, or leave it out",
                down.len(),
                Member::MAX_DOWN
            );
            return Err(FieldError::new(format!("members[{m}].down"), why));
        }
        if member.connection_limit == Some(0) {
            let why = "use at least 1, or leave it out; weight 0 drains a member";
            let field = format!("members[{m}].connection_limit");
            return Err(FieldError::new(field, why));
        }
    }
    let options = &pool.options;
    let limited = pool.members.iter().any(|m| m.connection_limit.is_some());
    let set = [
        ("queue_limit", options.queue_limit.is_some()),
        ("queue_timeout", options.queue_timeout.is_some()),
    ];
    if let Some((field, _)) = set.iter().find(|(_, set)| *set && !limited) {
        let why = "needs a member with connection_limit: nobody waits for one without";
        return Err(FieldError::new(format!("options.{field}"), why));
    }
    if let Some(limit) = options.queue_limit.filter(|l| *l > PoolOptions::MAX_QUEUE) {
        let why = format!(
            "{limit} is out of range: use 0 to {}",
            PoolOptions::MAX_QUEUE
        );
        return Err(FieldError::new("options.queue_limit", why));
    }
    if options.queue_timeout == Some(Millis::literal(0)) {
        let why = "use at least 1 ms, or leave it out; queue_limit 0 lets nobody wait";
        return Err(FieldError::new("options.queue_timeout", why));
    }
    Ok(())
}

fn listener(
    listener: &Listener,
    pools: &HashMap<PoolId, &Pool>,
    certificates: &HashSet<&CertificateId>,
) -> Checked {
    let http = listener.protocol.is_http();
    let terminated = listener.protocol == ListenerProtocol::TerminatedHttps;
    let fit = |field: &str, id: PoolId| -> Checked {
        let Some(pool) = pools.get(&id) else {
            return Err(FieldError::new(
                field,
                format!("pool {id} is not in this load balancer"),
            ));
        };
        if listener.protocol == ListenerProtocol::Https && pool.needs_requests() {
            let why = format!("an HTTPS listener sees no cookie, but pool {id} needs it");
            Err(FieldError::new(field, why))
        } else if compatible(listener.protocol, pool.protocol) {
            Ok(())
        } else {
            let (l, p) = (listener.protocol, pool.protocol);
            Err(FieldError::new(
                field,
                format!("a {l:?} listener cannot use a {p:?} pool"),
            ))
        }
    };
    if let Some(id) = listener.default_pool {
        fit("default_pool", id)?;
    }
    if listener.connection_limit == Some(0) {
        return Err(FieldError::new(
            "connection_limit",
            "use at least 1, or leave it out",
        ));
    }
    if listener.options.connections_per_client == Some(0) {
        return Err(FieldError::new(
            "options.connections_per_client",
            "use at least 1, or leave it out",
        ));
    }
    if let Some(log) = &listener.options.access_log {
        let path = log.to.starts_with('/') && !log.to.ends_with('/') && !log.to.contains('\0');
        if log.to != AccessLog::STDOUT && (!path || log.to.len() > AccessLog::MAX_PATH) {
            let why = format!(
                "{:?}: use stdout, or the absolute path of a file",
                log.to.chars().take(100).collect::<String>()
            );
            return Err(FieldError::new("options.access_log.to", why));
        }
    }
    match &listener.tls {
        None if terminated => {
            return Err(FieldError::new("tls", "required for TERMINATED_HTTPS"));
        }
        Some(_) if !terminated => {
            return Err(FieldError::new("tls", "only for TERMINATED_HTTPS"));
        }
        Some(tls) => listener_tls(tls, certificates).map_err(|e| e.within("tls"))?,
        None => {}
    }
    if !http && !listener.insert_headers.is_empty() {
        return Err(FieldError::new(
            "insert_headers",
            "only for HTTP and TERMINATED_HTTPS",
        ));
    }
    if !terminated && listener.insert_headers.iter().any(|h| h.needs_tls()) {
        return Err(FieldError::new(
            "insert_headers",
            "X-SSL-… only for TERMINATED_HTTPS",
        ));
    }
    if !http && !listener.l7_policies.is_empty() {
        return Err(FieldError::new(
            "l7_policies",
            "only for HTTP and TERMINATED_HTTPS",
        ));
    }
    unique(
        "l7_policies",
        "id",
        listener.l7_policies.iter().map(|p| p.id),
    )?;
    for (i, policy) in listener.l7_policies.iter().enumerate() {
        let at = |e: FieldError| e.within(format!("l7_policies[{i}]"));
        match &policy.action {
            L7Action::RedirectToPool { pool } => fit("action.pool", *pool).map_err(at)?,
            L7Action::RedirectToUrl { code, .. } | L7Action::RedirectPrefix { code, .. }
                if ![301, 302, 303, 307, 308].contains(&code.value()) =>
            {
                let why = format!("{code}: use 301, 302, 303, 307 or 308");
                return Err(at(FieldError::new("action.code", why)));
            }
            L7Action::RedirectToUrl { url: text, .. }
            | L7Action::RedirectPrefix { prefix: text, .. }
                if text.is_empty() || !text.bytes().all(|c| c.is_ascii_graphic()) =>
            {
                return Err(at(FieldError::new(
                    "action",
                    "the URL holds a space or control byte",
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

fn listener_tls(tls: &ListenerTls, certificates: &HashSet<&CertificateId>) -> Checked {
    known_certificate(
        "default_certificate",
        Some(&tls.default_certificate),
        certificates,
    )?;
    for id in &tls.sni_certificates {
        known_certificate("sni_certificates", Some(id), certificates)?;
    }
    known_certificate("client_ca", tls.client_ca.as_ref(), certificates)?;
    known_certificate("client_crl", tls.client_crl.as_ref(), certificates)?;
    if tls.client_authentication != ClientAuthentication::None && tls.client_ca.is_none() {
        return Err(FieldError::new(
            "client_ca",
            "required with client_authentication",
        ));
    }
    if tls.client_authentication == ClientAuthentication::None {
        let why = "has no effect without client_authentication: use OPTIONAL or MANDATORY, or leave it out";
        for (field, id) in [
            ("client_ca", &tls.client_ca),
            ("client_crl", &tls.client_crl),
        ] {
            if id.is_some() {
                return Err(FieldError::new(field, why));
            }
        }
    }
    if tls.client_crl.is_some() && tls.client_ca.is_none() {
        return Err(FieldError::new("client_crl", "needs client_ca"));
    }
    Ok(())
}

fn known_certificate(
    field: &str,
    id: Option<&CertificateId>,
    certificates: &HashSet<&CertificateId>,
) -> Checked {
    match id {
        Some(id) if !certificates.contains(id) => Err(FieldError::new(
            field,
            format!("{id} is not among certificates"),
        )),
        _ => Ok(()),
    }
}

/// The matrix of spec/octavia-api.md section 2.
pub(crate) const fn compatible(listener: ListenerProtocol, pool: PoolProtocol) -> bool {
    use PoolProtocol::{Http, Https, Proxy, Proxyv2, Tcp};
    match listener {
        ListenerProtocol::Tcp => true,
        ListenerProtocol::Http | ListenerProtocol::TerminatedHttps => {
            matches!(pool, Http | Proxy | Proxyv2)
        }
        ListenerProtocol::Https => matches!(pool, Https | Tcp | Proxy | Proxyv2),
    }
}

/// A token of at most 255 bytes (RFC 9110 section 5.6.2, as RFC 6265 section 4.1.1 demands).
pub(crate) fn is_cookie_name(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=255).contains(&name.len()) && name.bytes().all(token)
}

fn unique<T: std::hash::Hash + Eq>(
    field: &str,
    what: &str,
    items: impl Iterator<Item = T>,
) -> Checked {
    let mut seen = HashSet::new();
    for (i, item) in items.enumerate() {
        if !seen.insert(item) {
            return Err(FieldError::new(
                format!("{field}[{i}]"),
                format!("{what} stands twice"),
            ));
        }
    }
    Ok(())
}
