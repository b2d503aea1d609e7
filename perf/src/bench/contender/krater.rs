//! Krater as shipped: the release `amphora`, its own uid, a snapshot as the controller makes it.

use super::{Seen, Task, logged};
use crate::bench::topology::Place;
use crate::bench::workload::Service;
use crate::sys;
use anyhow::{Context, bail};
use krater_model::config::DATAPLANE_UID;
use krater_model::control::{DataplaneStatus, Progress, Snapshot};
use krater_model::{
    CertificateId, HealthMonitorId, L7PolicyId, L7RuleId, ListenerId, LoadBalancerId, MemberId,
    PoolId, SCHEMA,
};
use serde_json::{Value, json};
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
    let mut shown = snapshot.clone();
    shown["certificates"] = Value::from("(left out of the report)");
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
    fs::write(snapshot_file(folder), &body)?;
    Ok((child, shown))
}

fn snapshot_file(folder: &Path) -> PathBuf {
    folder.join("snapshot.json")
}

/// The next generation, as the agent sends it: the answer comes when it serves.
pub(super) fn change(folder: &Path, number: u32) -> anyhow::Result<()> {
    let mut snapshot: Value = serde_json::from_slice(&fs::read(snapshot_file(folder))?)?;
    snapshot["revision"]["generation"] = (number + 1).into();
    snapshot["load_balancers"][0]["pools"][0]["members"][0]["weight"] = (1 + number % 2).into();
    request(folder, "PUT", "/snapshot", &serde_json::to_vec(&snapshot)?)?;
    Ok(())
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

/// The document that the controller would make of such a load balancer. Written as JSON, so that fields
/// that come later have the values that the controller's document has without them.
fn snapshot(task: &Task<'_>, address: SocketAddr) -> anyhow::Result<Value> {
    let port = task.member_port()?;
    let id = PoolId::random;
    let protocol = match task.service {
        Service::Udp => bail!("not supported yet: UDP listeners"),
        Service::Http2 => bail!("not supported yet: HTTP/2"),
        Service::Echo | Service::Bulk => "TCP",
        Service::TlsEcdsa | Service::TlsRsa => "TERMINATED_HTTPS",
        Service::Http | Service::Policies(_) | Service::Pools(_) => "HTTP",
    };
    let check = if task.is_http() {
        json!({ "type": "HTTP", "method": "GET", "path": "/health", "expected": [[200, 200]] })
    } else {
        json!({ "type": "TCP" })
    };
    let pool = |id: PoolId| {
        let members: Vec<Value> = task
            .members()
            .iter()
            .map(|to| json!({ "id": MemberId::random(), "address": to, "port": port, "weight": 1 }))
            .collect();
        // Checked every five seconds, as in the other configurations.
        let mut pool = json!({
            "id": id, "protocol": if task.is_http() { "HTTP" } else { "TCP" },
            "algorithm": "ROUND_ROBIN", "members": members,
        });
        if task.has_checks() {
            pool["health_monitor"] = json!({ "id": HealthMonitorId::random(), "enabled": true,
                "check": check, "delay": 5_000, "timeout": 5_000, "rise": 2, "fall": 3 });
        }
        pool
    };
    let default = id();
    let mut pools = vec![pool(default)];
    let mut policies = Vec::new();
    for n in 1..=task.policies() {
        let target = id();
        pools.push(pool(target));
        policies.push(json!({
            "id": L7PolicyId::random(), "position": n,
            "action": { "type": "REDIRECT_TO_POOL", "pool": target },
            "rules": [{ "id": L7RuleId::random(), "subject": { "type": "PATH" },
                "compare": "STARTS_WITH", "value": task.prefix(n) }],
        }));
    }
    let mut listener = json!({
        "id": ListenerId::random(), "protocol": protocol, "port": address.port(),
        "default_pool": default, "l7_policies": policies,
    });
    if task.is_http() {
        listener["insert_headers"] = json!(["X-Forwarded-For"]);
    }
    let mut certificates = Vec::new();
    if task.is_tls() {
        let id = CertificateId::of(task.pem.as_bytes());
        listener["tls"] = json!({ "default_certificate": id });
        certificates.push(json!({ "id": id, "pem": task.pem }));
    }
    Ok(json!({
        "schema": SCHEMA, "revision": { "epoch": 1, "generation": 1 },
        "request_id": "req-krater-perf", "certificates": certificates,
        "load_balancers": [{ "id": LoadBalancerId::random(), "name": "perf",
            "vips": [address.ip()], "listeners": [listener], "pools": pools }],
    }))
}
