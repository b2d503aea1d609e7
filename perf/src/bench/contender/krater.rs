//! Krater as shipped: the release `amphora`, its own uid, a snapshot as the controller makes it.

use super::{Seen, Task, logged};
use crate::bench::topology::Place;
use crate::bench::workload::Service;
use crate::sys;
use anyhow::{Context, bail};
use krater_model::config::DATAPLANE_UID;
use krater_model::control::{DataplaneStatus, Progress, Snapshot};
use krater_model::state::{
    Algorithm, Certificate, HealthCheck, HealthMonitor, HttpCheck, HttpVersion, InsertHeader,
    L7Action, L7Compare, L7Policy, L7Rule, L7Subject, Listener, ListenerProtocol, ListenerTls,
    LoadBalancer, Member, Pool, PoolProtocol, Timeouts,
};
use krater_model::{
    CertificateId, Epoch, Generation, HealthMonitorId, L7PolicyId, L7RuleId, ListenerId,
    LoadBalancerId, MemberId, Millis, PoolId, Port, ProbeCount, Revision, SCHEMA, Secret,
    StatusCode, Weight,
};
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// How long the control socket may take to come, and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

fn socket(folder: &Path) -> PathBuf {
    folder.join("dataplane.sock")
}

pub(super) fn start(
    task: &Task<'_>,
    amphora: &Path,
    folder: &Path,
    address: SocketAddr,
) -> anyhow::Result<(Child, String)> {
    let log = folder.join("dataplane");
    fs::create_dir_all(&log)?;
    std::os::unix::fs::chown(&log, Some(DATAPLANE_UID), Some(DATAPLANE_UID))?;
    let _stale = fs::remove_file(socket(folder));
    // What the agent gives it: see agent/src/supervise/spawn.rs.
    let mut command = Command::new(amphora);
    command
        .env_clear()
        .arg("dataplane")
        .arg("--netns")
        .arg(task.topology.path(Place::Balancer)?)
        .arg("--control")
        .arg(socket(folder))
        .args(["--uid", &DATAPLANE_UID.to_string()])
        .arg("--log-file")
        .arg(log.join("dataplane.log"))
        .args(["--log-level", "info", "--workers", "1"])
        .args(["--progress-fd", &sys::INHERITED.to_string()]);
    logged(&mut command, folder)?;
    let progress =
        nix::sys::memfd::memfd_create("krater-progress", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    nix::unistd::ftruncate(&progress, i64::try_from(Progress::SIZE)?)?;
    sys::inherit(&mut command, progress)?;
    let child = task.topology.spawn(Place::Balancer, command)?;
    let snapshot = snapshot(task, address)?;
    let mut shown = serde_json::to_value(&snapshot)?;
    shown["certificates"] = serde_json::Value::from("(left out of the report)");
    let shown = serde_json::to_string_pretty(&shown)?;
    let body = serde_json::to_vec(&snapshot)?;
    // The data plane would refuse the same; here the field is named without a look into its log.
    Snapshot::parse(&body)?;
    let end = Instant::now() + PATIENCE;
    while UnixStream::connect(socket(folder)).is_err() {
        if Instant::now() > end {
            bail!("amphora: no control socket:\n{}", super::log(folder));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    request(folder, "PUT", "/snapshot", &body)?;
    Ok((child, shown))
}

/// A request on the control socket; the body of a good answer.
fn request(folder: &Path, method: &str, path: &str, body: &[u8]) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket(folder)).context("control socket")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("{method} {path}: an answer without head"))?;
    if !head.starts_with("HTTP/1.1 2") {
        bail!("{method} {path}: {body}");
    }
    Ok(body.to_owned())
}

pub(super) fn seen(folder: &Path) -> anyhow::Result<Seen> {
    let text = request(folder, "GET", "/status", b"")?;
    let status: DataplaneStatus = serde_json::from_str(&text)?;
    let mut seen = Seen::default();
    for listener in status.listeners {
        seen.connections += listener.stats.total_connections;
        seen.bytes_in += listener.stats.bytes_in;
        seen.bytes_out += listener.stats.bytes_out;
    }
    Ok(seen)
}

fn ranged<T>(value: Result<T, String>) -> anyhow::Result<T> {
    value.map_err(anyhow::Error::msg)
}

/// The document that the controller would make of such a load balancer.
fn snapshot(task: &Task<'_>, address: SocketAddr) -> anyhow::Result<Snapshot> {
    let pool = |name: &str| -> anyhow::Result<Pool> {
        let members = task.topology.members.iter().map(|to| {
            Ok(Member {
                id: MemberId::random(),
                name: String::new(),
                enabled: true,
                address: *to,
                port: ranged(Port::new(task.member_port()?.into()))?,
                weight: ranged(Weight::new(1))?,
                backup: false,
                monitor_address: None,
                monitor_port: None,
            })
        });
        Ok(Pool {
            options: Default::default(),
            id: PoolId::random(),
            name: name.into(),
            enabled: true,
            protocol: if task.is_http() {
                PoolProtocol::Http
            } else {
                PoolProtocol::Tcp
            },
            algorithm: Algorithm::RoundRobin,
            persistence: None,
            health_monitor: Some(monitor(task)?),
            tls: None,
            members: members.collect::<anyhow::Result<_>>()?,
        })
    };
    let mut pools = vec![pool("default")?];
    let mut policies = Vec::new();
    for n in 1..=task.policies() {
        let target = pool(&format!("policy-{n}"))?;
        policies.push(L7Policy {
            id: L7PolicyId::random(),
            enabled: true,
            position: n.into(),
            action: L7Action::RedirectToPool { pool: target.id },
            rules: vec![L7Rule {
                id: L7RuleId::random(),
                enabled: true,
                subject: L7Subject::Path,
                compare: L7Compare::StartsWith,
                value: task.prefix(n),
                invert: false,
            }],
        });
        pools.push(target);
    }
    let certificate = Certificate {
        id: CertificateId::of(task.pem.as_bytes()),
        pem: Secret::new(task.pem),
    };
    let listener = Listener {
        id: ListenerId::random(),
        name: String::new(),
        enabled: true,
        protocol: match task.service {
            Service::Udp => bail!("not supported yet: UDP listeners"),
            Service::Echo | Service::Bulk => ListenerProtocol::Tcp,
            Service::TlsEcdsa | Service::TlsRsa => ListenerProtocol::TerminatedHttps,
            Service::Http | Service::Policies(_) => ListenerProtocol::Http,
        },
        port: ranged(Port::new(address.port().into()))?,
        connection_limit: None,
        timeouts: Timeouts::default(),
        allowed_cidrs: Vec::new(),
        options: Default::default(),
        insert_headers: if task.is_http() {
            vec![InsertHeader::XForwardedFor]
        } else {
            Vec::new()
        },
        tls: task.is_tls().then(|| ListenerTls {
            default_certificate: certificate.id.clone(),
            sni_certificates: Vec::new(),
            versions: Vec::new(),
            ciphers: Vec::new(),
            alpn: Vec::new(),
            client_authentication: Default::default(),
            client_ca: None,
            client_crl: None,
            hsts: None,
        }),
        default_pool: pools.first().map(|pool| pool.id),
        l7_policies: policies,
    };
    Ok(Snapshot {
        schema: SCHEMA,
        revision: Revision {
            epoch: Epoch(1),
            generation: Generation(1),
        },
        request_id: "req-krater-perf".into(),
        load_balancers: vec![LoadBalancer {
            id: LoadBalancerId::random(),
            name: "perf".into(),
            enabled: true,
            vips: vec![address.ip()],
            listeners: vec![listener],
            pools,
        }],
        certificates: if task.is_tls() {
            vec![certificate]
        } else {
            Vec::new()
        },
    })
}

/// Every five seconds, as in the other configurations.
fn monitor(task: &Task<'_>) -> anyhow::Result<HealthMonitor> {
    Ok(HealthMonitor {
        id: HealthMonitorId::random(),
        enabled: true,
        check: if task.is_http() {
            HealthCheck::Http(HttpCheck {
                method: "GET".into(),
                path: "/health".into(),
                expected: vec![(ranged(StatusCode::new(200))?, ranged(StatusCode::new(200))?)],
                version: HttpVersion::Http10,
                host: None,
            })
        } else {
            HealthCheck::Tcp
        },
        delay: Millis::literal(5_000),
        timeout: Millis::literal(5_000),
        rise: ranged(ProbeCount::new(2))?,
        fall: ranged(ProbeCount::new(3))?,
    })
}
