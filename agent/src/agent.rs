//! `amphora agent`: everything put together.

use crate::apply::{Applier, HOT_PLUG, Links, PushError};
use crate::family::Children;
use crate::metrics::{ChildLabel, Metrics};
use crate::server::tls::{Identity, Shown};
use crate::supervise::{Event, Kind, Plan};
use crate::{boot_id, clock, config, heartbeat, ledger, memory, server};
use anyhow::Context;
use krater_model::config::{AgentConfig, DATAPLANE_UID};
use krater_model::state::Heartbeat;
use krater_net::netns::NetNs;
use krater_net::rtnl::Rtnl;
use krater_net::sysctl;
use krater_telemetry::{LogControl, LogSettings, LogTarget};
use nix::sys::stat::{Mode, umask};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Events of two children; more never wait.
const EVENTS: usize = 16;
/// After the last of several changes, an agent has nothing to do.
const REST: Duration = Duration::from_secs(3);
/// Until a document that a child did not take is tried again.
const REPUSH: Duration = Duration::from_secs(1);
/// The kernel kills others first when memory is short; not the last resort, this is not init.
const OOM_SCORE: &str = "-500";
/// The server certificate that a controller sent, while there is no seal key: on tmpfs.
const SERVER_PEM: &str = "server.pem";

/// The agent's state, shared by its tasks.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) config: AgentConfig,
    pub(crate) boot_id: String,
    pub(crate) started_at: String,
    pub(crate) metrics: Metrics,
    pub(crate) shown: Arc<Shown>,
    pub(crate) children: Arc<Children>,
    pub(crate) applier: Applier<Rtnl, NetNs, Arc<Children>>,
    /// Something changed that health managers want to know at once.
    pub(crate) beat_now: Notify,
}

impl Agent {
    /// Heartbeats as the state in force says, else as the configuration says.
    pub(crate) fn heartbeat(&self) -> Option<Heartbeat> {
        let current = self.applier.current();
        current
            .and_then(|current| current.state.heartbeat.clone())
            // Restored without the seal key.
            .filter(|heartbeat| !heartbeat.key.expose().is_empty())
            .or_else(|| self.config.heartbeat.clone())
    }

    /// Checks a server certificate, keeps it for later starts, and shows it from now on.
    pub(crate) fn rotate(&self, pem: &str) -> Result<(), server::error::ApiError> {
        let identity = Identity::parse(pem, &self.config.amphora_id.to_string())?;
        store_identity(&self.config, pem).map_err(|error| {
            server::error::ApiError::internal(
                "apply-failed",
                format!("keep certificate: {error:#}"),
            )
        })?;
        self.metrics.certificate_expires.set(identity.not_after);
        self.shown.set(identity);
        Ok(())
    }
}

/// Runs the agent until SIGTERM or SIGINT; the children go on.
pub(crate) fn run(path: &Path) -> anyhow::Result<()> {
    let config = config::load(path)?;
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    for dir in [&config.run_dir, &config.state_dir, &config.log_dir] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("make folder {}", dir.display()))?;
    }
    // Number 3 is what children inherit: nothing of ours that opens and closes may have it.
    let reserved = File::open("/dev/null").context("open /dev/null")?;
    let log = krater_telemetry::init(LogSettings {
        target: LogTarget::file(config.log_dir.join("agent.log")),
        json: config.log_json,
        level: config.log_level.clone(),
    })?;
    let outcome = start(config, log);
    if let Err(error) = &outcome {
        tracing::error!(error = format!("{error:#}"), "agent ends");
    }
    drop(reserved);
    outcome
}

fn start(config: AgentConfig, log: LogControl) -> anyhow::Result<()> {
    let version = krater_telemetry::version();
    tracing::info!(version, amphora = %config.amphora_id, "agent starts");
    std::env::set_current_dir(&config.run_dir).context("enter run_dir")?;
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        tracing::debug!(%error, "oom_score_adj not set");
    }
    raise_file_limit();
    link_logs(&config).context("link the log folder into run_dir")?;
    let key = config::seal_key(&config)?;
    let client_ca = config::text(&config.client_ca)?;
    let identity = identity(&config, key.as_ref())?;
    let vip = NetNs::ensure(&config.vip_netns)
        .with_context(|| format!("VIP namespace {}", config.vip_netns.display()))?;
    prepare_namespace(&vip).context("prepare the VIP namespace")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Only disk writes and look-ups in /proc go there, one or two at a time.
        .max_blocking_threads(4)
        .build()?;
    runtime.block_on(async move {
        let agent = Arc::new(assemble(config, log, key, identity, vip)?);
        let listener = server::listen(agent.config.listen)
            .with_context(|| format!("listen on {}", agent.config.listen))?;
        let tls = server::tls::server_config(&client_ca, Arc::clone(&agent.shown))
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("client CA {}", agent.config.client_ca.display()))?;
        serve(agent, listener, tls).await
    })
}

fn assemble(
    config: AgentConfig,
    log: LogControl,
    key: Option<ledger::SealKey>,
    identity: Identity,
    vip: NetNs,
) -> anyhow::Result<Agent> {
    let workers = config.workers.unwrap_or_else(|| {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        u16::try_from(cpus).unwrap_or(u16::MAX)
    });
    let plan = Plan {
        vip_netns: Some(config.vip_netns.clone()),
        share_stdout: false,
        log_dir: config.log_dir.clone(),
        log_json: config.log_json,
        workers,
        metrics: None,
        succession: false,
    };
    let children = Arc::new(Children::new(plan, log.clone()));
    let links = Links {
        management: Rtnl::current()?,
        management_ns: NetNs::current()?,
        vip: Rtnl::new(NetNs::open(&config.vip_netns)?)?,
        vip_ns: vip,
        patience: HOT_PLUG,
    };
    let ledger = ledger::Ledger::new(&config.state_dir, config.amphora_id, key);
    let family = Arc::clone(&children);
    let applier = Applier::new(ledger, links, family, config.listen.ip(), config.log_json);
    let metrics = Metrics::new(log);
    metrics.certificate_expires.set(identity.not_after);
    let now = i64::try_from(clock::unix_ms() / 1_000).unwrap_or(i64::MAX);
    Ok(Agent {
        boot_id: boot_id::load(&config.run_dir).context("boot id in run_dir")?,
        started_at: clock::rfc3339(now),
        config,
        metrics,
        shown: Arc::new(Shown::new(identity)),
        children,
        applier,
        beat_now: Notify::new(),
    })
}

async fn serve(
    agent: Arc<Agent>,
    listener: tokio::net::TcpListener,
    tls: rustls::ServerConfig,
) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // The library's first random number takes 70 ms (it measures the jitter of the CPU). Not on this thread,
    // and before the first handshake needs it: the children start meanwhile.
    let seeded = tokio::task::spawn_blocking(|| {
        let started = std::time::Instant::now();
        let filled = aws_lc_rs::rand::fill(&mut [0; 1]).is_ok();
        tracing::debug!(
            filled,
            us = started.elapsed().as_micros(),
            "random generator seeded"
        );
    });
    agent.applier.load();
    let (events, inbox) = mpsc::channel(EVENTS);
    for kind in [Kind::Dataplane, Kind::Vrrp] {
        tokio::spawn(Arc::clone(&agent.children).supervise(kind, events.clone()));
    }
    tokio::spawn(follow(Arc::clone(&agent), inbox));
    let restoring = Arc::clone(&agent);
    tokio::spawn(async move { restoring.applier.restore_links().await });
    tokio::spawn(heartbeat::run(Arc::clone(&agent)));
    tokio::spawn(rest(Arc::clone(&agent)));
    seeded.await?;
    tracing::info!(listen = %agent.config.listen, "agent serves");
    tokio::select! {
        () = server::run(agent, listener, tls) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("agent ends; data plane and vrrp go on");
    Ok(())
}

/// Gives memory back a while after the start and after each change.
async fn rest(agent: Arc<Agent>) {
    let mut changes = agent.applier.changes();
    loop {
        // Until no change has come for a while.
        while let Ok(changed) = tokio::time::timeout(REST, changes.changed()).await {
            if changed.is_err() {
                return;
            }
        }
        memory::give_back();
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Reacts to what happens to the children.
async fn follow(agent: Arc<Agent>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        let (kind, up) = match event {
            Event::Up(kind) => (kind, true),
            Event::Down(kind) => (kind, false),
        };
        let child = ChildLabel { child: kind.name() };
        agent
            .metrics
            .child_up
            .get_or_create(&child)
            .set(i64::from(up));
        if up {
            tokio::spawn(supply(Arc::clone(&agent), kind));
        }
    }
}

/// Gives a child that is up what it needs, until it has it or is gone.
async fn supply(agent: Arc<Agent>, kind: Kind) {
    let running = agent.children.child(kind).running();
    let pid = |running: &Option<crate::supervise::Running>| running.as_ref().map(|r| r.pid);
    let Some(mine) = pid(&running.borrow()) else {
        return;
    };
    let mut tracked = false;
    while pid(&running.borrow()) == Some(mine) {
        if !tracked {
            match agent.children.track() {
                Ok(()) => tracked = true,
                Err(error) => tracing::warn!(%error, "vrrp cannot watch the data plane yet"),
            }
        }
        let pushed = match kind {
            Kind::Dataplane => agent.applier.push_snapshot().await,
            Kind::Vrrp => agent.applier.push_vrrp().await,
        };
        let child = kind.name();
        match pushed {
            Ok(Some(applied)) if applied.changed => {
                tracing::info!(child, revision = %applied.revision, "document given again");
            }
            Ok(_) => {}
            Err(PushError::Newer(why)) => {
                tracing::warn!(child, why, "child has a newer document; left alone");
            }
            Err(PushError::Field(error)) => {
                tracing::error!(child, %error, "child refuses what was in force");
            }
            Err(PushError::Failed(why)) => {
                tracing::warn!(child, why, "document not given; trying again");
                tokio::time::sleep(REPUSH).await;
                continue;
            }
        }
        agent.beat_now.notify_one();
        if tracked {
            return;
        }
        tokio::time::sleep(REPUSH).await;
    }
}

/// What the kernel must do differently in the VIP namespace.
fn prepare_namespace(vip: &NetNs) -> io::Result<()> {
    let ping = format!("{DATAPLANE_UID} {DATAPLANE_UID}");
    sysctl::write_all(
        vip,
        &[
            // PING monitors use unprivileged ICMP sockets.
            ("net/ipv4/ping_group_range", &ping),
            // Connections that wait on a listener's socket move to its siblings when it is closed.
            ("net/ipv4/tcp_migrate_req", "1"),
            // A Backup answers no ARP for what another interface has, and announces nothing else.
            ("net/ipv4/conf/all/arp_ignore", "1"),
            ("net/ipv4/conf/all/arp_announce", "2"),
            // Removing the first address of a subnet must not remove the others.
            ("net/ipv4/conf/all/promote_secondaries", "1"),
            ("net/ipv4/conf/default/promote_secondaries", "1"),
            // Answers may leave by another NIC; new namespaces copy what the host has.
            ("net/ipv4/conf/all/rp_filter", "2"),
            ("net/ipv4/ip_forward", "0"),
        ],
    )?;
    let v6 = [
        // Only what the desired state names, usable at once.
        ("net/ipv6/conf/all/accept_ra", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv6/conf/default/autoconf", "0"),
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
    ];
    match sysctl::write_all(vip, &v6) {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Below this the data plane serves fewer clients than a small load balancer should.
const FEW_FILES: u64 = 65_536;

/// For the data plane, which may use what it inherits: two descriptors per connection.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let most = fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let most = most.trim().parse().unwrap_or(hard).max(hard);
    // Forbidden in some containers.
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, soft, most)
        && hard < FEW_FILES
    {
        tracing::warn!(%error, hard, "few open files allowed: raise ulimit -n of who starts the agent");
    }
}

/// `run_dir/log`, so that `amphora ctl --run-dir` finds the logs.
fn link_logs(config: &AgentConfig) -> io::Result<()> {
    let link = config.run_dir.join("log");
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(&config.log_dir, link)
}

/// The certificate of the config drive, or one that a controller sent later.
fn identity(config: &AgentConfig, key: Option<&ledger::SealKey>) -> anyhow::Result<Identity> {
    let name = config.amphora_id.to_string();
    let pem = zeroize::Zeroizing::new(config::text(&config.server_pem)?);
    let original = Identity::parse(&pem, &name)
        .with_context(|| format!("server certificate {}", config.server_pem.display()));
    let kept = kept_identity(config, key).and_then(|pem| match Identity::parse(&pem, &name) {
        Ok(identity) => Some(identity),
        Err(error) => {
            tracing::warn!(%error, "kept server certificate not usable");
            None
        }
    });
    match (original, kept) {
        (Ok(original), Some(kept)) if kept.not_after >= original.not_after => Ok(kept),
        (Err(_), Some(kept)) => Ok(kept),
        (original, _) => original,
    }
}

const SEAL_CONTEXT: &[u8] = b"krater server certificate";

fn kept_identity(
    config: &AgentConfig,
    key: Option<&ledger::SealKey>,
) -> Option<zeroize::Zeroizing<String>> {
    let text = match key {
        Some(key) => {
            let sealed = fs::read_to_string(config.state_dir.join("server.pem.sealed")).ok()?;
            let plain = ledger::seal::open(key, sealed.trim(), SEAL_CONTEXT)?;
            String::from_utf8(plain.to_vec()).ok()?
        }
        None => fs::read_to_string(config.run_dir.join(SERVER_PEM)).ok()?,
    };
    Some(zeroize::Zeroizing::new(text))
}

/// Sealed on disk, or in clear on tmpfs (and gone at the next boot) without a seal key.
fn store_identity(config: &AgentConfig, pem: &str) -> anyhow::Result<()> {
    match config::seal_key(config)? {
        Some(key) => {
            let sealed = ledger::seal::seal(&key, pem.as_bytes(), SEAL_CONTEXT)?;
            ledger::replace_file(&config.state_dir, "server.pem.sealed", sealed.as_bytes())?;
        }
        None => ledger::replace_file(&config.run_dir, SERVER_PEM, pem.as_bytes())?,
    }
    Ok(())
}
