//! `krater up` and `krater controller`: the process from start to end.
//!
//! Order: configuration, checks of the host, lock of the state folder, listener, database, private CA,
//! networks, adoption of living amphorae, then the roles. At SIGTERM or Ctrl-C the roles stop; amphorae
//! live on, and what a flow was doing is in its journal.
#![allow(
    clippy::print_stdout,
    reason = "prints where it listens, for people and scripts"
)]

use crate::admin::{self, Admin};
use crate::agent_client::{AgentApi, Client, Dial};
use crate::app::AppState;
use crate::app::policy::file::Overrides;
use crate::auth::Auth;
use crate::auth::keystone::Keystone;
use crate::cli::{Machines, StateDir, doctor};
use crate::config::{Config, Drivers, SecretsDriver};
use crate::db::server::Address;
use crate::db::{Db, query::journal};
use crate::desired::Common;
use crate::drivers::compute::Compute;
use crate::drivers::compute::netns::{NetnsCompute, amphora_bin};
use crate::drivers::compute::qemu::{self, QemuCompute, image::Image};
use crate::drivers::layout::Layout;
use crate::drivers::network::Networks as _;
use crate::drivers::network::local::LocalNetworks;
use crate::drivers::noop::Noop;
use crate::flow::crash::FromEnvironment;
use crate::flow::engine::Worker;
use crate::flow::{Settings, World};
use crate::health::{self, HealthManager};
use crate::housekeeping::Housekeeping;
use crate::http::{access, serve, tls};
use crate::pki::Pki;
use crate::secrets::barbican::Barbican;
use crate::secrets::vault::Vault;
use crate::tokens::Tokens;
use crate::{files, inventory, reconcile, transaction};
use anyhow::{Context as _, bail};
use futures_util::future::BoxFuture;
use krater_model::state::{Heartbeat, Logging};
use krater_model::wire::heartbeat;
use krater_model::{Epoch, Secret};
use krater_telemetry::{LogControl, LogSettings, LogTarget};
use nix::fcntl::{Flock, FlockArg};
use sea_orm::DbErr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long requests in progress may take when the controller stops.
const DRAIN: Duration = Duration::from_secs(3);

/// Arguments of `krater up`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    state: StateDir,
    /// Where the API listens. [default: 127.0.0.1:9876]
    #[arg(long, env = "KRATER_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// File with the tokens of those who may use the API; without it everybody may.
    #[arg(long, env = "KRATER_TOKENS", value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Listen on other addresses than loopback without authentication: everybody who reaches them may do everything.
    #[arg(long)]
    allow_unauthenticated: bool,
    /// PEM file with the API's certificate and what it was issued by: the API is HTTPS then.
    #[arg(long, env = "KRATER_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// PEM file with that certificate's key.
    #[arg(long, env = "KRATER_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Configuration file (krater.toml).
    #[arg(long, env = "KRATER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The `amphora` program. [default: the file of that name beside krater]
    #[arg(long, env = "KRATER_AMPHORA_BIN", value_name = "FILE")]
    amphora_bin: Option<PathBuf>,
    /// What makes amphorae and their networks; noop makes nothing, for test suites of the API. [default: netns]
    #[arg(long, visible_alias = "compute", value_enum, env = "KRATER_DRIVERS")]
    drivers: Option<Drivers>,
    #[command(flatten)]
    machines: Machines,
    /// The database, instead of a file in the state folder: postgres://USER:PASSWORD@HOST/DATABASE or mysql://…
    ///
    /// Other users of this host see the command line: a password belongs into the variable or the configuration file.
    #[arg(
        long,
        env = "KRATER_DATABASE",
        hide_env_values = true,
        value_name = "URL"
    )]
    database: Option<Address>,
    /// Print the configuration in force (file, environment and options over the defaults) as krater.toml, and end.
    #[arg(long)]
    print_config: bool,
}

/// Arguments of `krater controller`.
#[derive(Debug, clap::Args)]
pub struct ControllerArgs {
    #[command(flatten)]
    up: Args,
    /// What this process does.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "api,worker,health-manager,housekeeping"
    )]
    role: Vec<Role>,
}

/// Parts of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The REST API.
    Api,
    /// Runs flows.
    Worker,
    /// Takes heartbeats, starts failovers.
    HealthManager,
    /// Rotates certificates, removes what was deleted.
    Housekeeping,
}

impl Role {
    /// All roles: `krater up`.
    pub const ALL: [Self; 4] = [
        Self::Api,
        Self::Worker,
        Self::HealthManager,
        Self::Housekeeping,
    ];

    /// As on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::HealthManager => "health-manager",
            Self::Housekeeping => "housekeeping",
        }
    }
}

/// `krater up`
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    start(args, &Role::ALL)
}

/// `krater controller`
pub fn run_controller(args: ControllerArgs) -> anyhow::Result<ExitCode> {
    let ControllerArgs { up, role } = args;
    start(up, &role)
}

fn start(args: Args, roles: &[Role]) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(args.config.as_deref())?;
    if let Some(listen) = args.listen {
        config.api.listen = listen;
    }
    if let Some(drivers) = args.drivers {
        config.controller.drivers = drivers;
    }
    args.machines.over(&mut config.qemu);
    if let Some(address) = args.database {
        config.database.url = Some(address);
    }
    if let Some(program) = args.amphora_bin {
        config.controller.amphora_bin = Some(program);
    }
    if let Some(tokens) = args.tokens {
        config.api.tokens = Some(tokens);
    }
    if let Some(certificate) = args.tls_cert {
        config.api.tls_cert = Some(certificate);
    }
    if let Some(key) = args.tls_key {
        config.api.tls_key = Some(key);
    }
    config.api.allow_unauthenticated |= args.allow_unauthenticated;
    config.check_access()?;
    let open = config.api.is_open(&config.keystone);
    if !config.api.listen.ip().is_loopback() && open && !config.api.allow_unauthenticated {
        bail!(
            "--listen {}: without authentication the API listens on loopback only; use 127.0.0.1 or [::1] \
             and a proxy that authenticates in front of it, --tokens FILE, keystone.url, or --allow-unauthenticated",
            config.api.listen
        );
    }
    if args.print_config {
        io::stdout()
            .lock()
            .write_all(config.to_toml()?.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let logging = &config.logging;
    let log = krater_telemetry::init(LogSettings {
        target: match &logging.file {
            Some(path) => LogTarget::File {
                path: path.clone(),
                max_bytes: logging.max_bytes,
                keep: logging.keep,
            },
            None => LogTarget::Stderr,
        },
        json: logging.json,
        level: logging.level.clone(),
    })?;
    let makes = Makes::of(&config, &args.state.state_dir)?;
    let layout = Layout::create(&args.state.state_dir)
        .with_context(|| format!("state folder {}", args.state.state_dir.display()))?;
    let _lock = lock(&layout.state_dir().join("lock"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("krater")
        .build()?;
    runtime.block_on(serve(config, layout, makes, roles, log))?;
    // Blocking helpers (namespaces) may still run; nobody waits for them.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(ExitCode::SUCCESS)
}

/// One controller per state folder. The file holds the process id of its owner.
pub(crate) fn lock(path: &Path) -> anyhow::Result<Flock<File>> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(|| path.display().to_string())?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())?;
            Ok(lock)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut owner = String::new();
            let _ = file.read_to_string(&mut owner);
            bail!(
                "the state folder is in use by another controller (process {}): stop it, or name \
                 another folder by --state-dir",
                owner.trim()
            );
        }
        Err((_, errno)) => Err(io::Error::from(errno)).with_context(|| path.display().to_string()),
    }
}

async fn serve(
    config: Config,
    layout: Layout,
    makes: Makes,
    roles: &[Role],
    log: LogControl,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(config.api.listen)
        .await
        .with_context(|| {
            format!(
                "the API cannot listen on {}: another program has the port; use --listen",
                config.api.listen
            )
        })?;
    let listen = listener.local_addr()?;
    let tls = match (&config.api.tls_cert, &config.api.tls_key) {
        (Some(certificate), Some(key)) => Some(tls::load(certificate, key)?),
        _ => None,
    };
    let db = match &config.database.url {
        None => Db::open_sqlite(&layout.state_dir().join("krater.db")).await?,
        Some(address) => Db::connect(address)
            .await
            .with_context(|| format!("the {} cannot be used", address.name()))?,
    };
    let pki = Arc::new(Pki::open(
        &layout.state_dir().join("pki"),
        SystemTime::now(),
    )?);
    let vault = Vault::open(layout.state_dir(), &db).await?;
    let amphorae = Amphorae::new(&db, &config, &layout, &pki, makes, roles).await?;
    let compute = amphorae.compute.clone();
    let heartbeat_key = heartbeat_key(&layout.state_dir().join("heartbeat.key"))?;
    let world = Arc::new(World {
        db: db.clone(),
        compute: compute.clone(),
        agents: amphorae.agents.clone(),
        pki: pki.clone(),
        common: common(&config, heartbeat_key, vault.clone()),
        settings: settings(&config),
        crash: Arc::new(FromEnvironment::new()),
    });
    // The folder is locked: whoever of this instance held a lease is dead.
    let freed: Result<u64, DbErr> = transaction!(db, |txn| {
        journal::release_all(txn, layout.instance()).await
    });
    let freed = freed?;
    if freed > 0 {
        tracing::warn!(flows = freed, "flows were interrupted and go on");
    }
    let has = |role| roles.contains(&role);
    if has(Role::Worker) {
        let plan = reconcile::run(&db, compute.as_ref()).await?;
        tracing::info!(
            adopted = plan.adopt.len(),
            restarted = plan.restart.len(),
            rebuilding = plan.rebuild.len(),
            removed = plan.remove.len(),
            "amphorae adopted"
        );
    }
    let auth = auth(&config)?.map(Arc::new);
    let barbican = match config.secrets.driver {
        SecretsDriver::Local => None,
        SecretsDriver::Barbican => Some(Arc::new(Barbican::new(&config.secrets)?)),
    };
    let (stop, stopped) = watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    if has(Role::Worker) {
        let name = format!("{}-{}", layout.instance(), uuid::Uuid::new_v4().simple());
        let worker = Worker::new(world.clone(), &name, config.controller.workers);
        tasks.spawn(worker.run(stopped.clone()));
    }
    let health = health::Shared::default();
    // Nothing of the noop drivers reports.
    if has(Role::HealthManager) && amphorae.client.is_some() {
        let management = layout.open_management()?;
        let socket = management
            .udp_socket(heartbeat_target())
            .context("heartbeat socket in the management namespace")?;
        let settings = health::Settings {
            key: world.common.heartbeat.key.clone(),
            stale_after: config.heartbeat.stale_after_ms.duration(),
            // A beat that is half an interval late; `stale_after` is two intervals at least.
            restart_after: config.heartbeat.interval_ms.duration() * 3 / 2,
            check: config.heartbeat.check_ms.duration(),
            failover_threshold: config.heartbeat.failover_threshold,
        };
        let manager = HealthManager::new(db.clone(), compute.clone(), settings, health.clone());
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        tasks.spawn(manager.run(socket, stopped.clone()));
    }
    if has(Role::Housekeeping) {
        let housekeeping = Housekeeping::new(db.clone(), compute.clone(), &config);
        tasks.spawn(housekeeping.run(stopped.clone()));
    }
    let ready = Arc::new(AtomicBool::new(false));
    let mut routes = admin::router(Admin {
        db: db.clone(),
        ready: ready.clone(),
        roles: roles.iter().map(|role| role.as_str()).collect(),
        health: health.clone(),
        agents: amphorae.client,
        pki,
        log,
    })
    .layer(axum::middleware::from_fn_with_state(
        auth.clone(),
        access::operators,
    ));
    if has(Role::Api) {
        let state = AppState::new(db.clone(), config.controller.topology, vault)
            .with_drivers(config.controller.drivers)
            .with_deadline(config.api.deadline_ms.duration())
            .with_encryption(tls.is_some())
            .with_barbican(barbican)
            .with_auth(auth);
        routes = routes.merge(crate::http::router(state));
    }
    let encrypted = tls.is_some();
    let patience = config.api.deadline_ms.duration();
    let server = match tls {
        None => tokio::spawn(serve::serve(listener, routes, patience, stopped)),
        Some(tls) => {
            let listener = tls::TlsListener::new(listener, tls)?;
            tokio::spawn(serve::serve(listener, routes, patience, stopped))
        }
    };
    ready.store(true, Ordering::Release);
    announce(listen, encrypted);
    tracing::info!(
        %listen,
        version = krater_telemetry::version(),
        instance = layout.instance(),
        roles = roles.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(","),
        "ready"
    );
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping; amphorae live on"),
        _ = interrupt.recv() => tracing::info!("interrupted: stopping; amphorae live on"),
    }
    stop.send_replace(true);
    let _ = tokio::time::timeout(DRAIN, server).await;
    let all = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, all).await;
    Ok(())
}

/// Who may use the API, if not everybody.
fn auth(config: &Config) -> anyhow::Result<Option<Auth>> {
    let auth = match (&config.api.tokens, &config.keystone.url) {
        (Some(path), _) => Auth::tokens(Tokens::load(path)?),
        (None, Some(_)) => Auth::keystone(Keystone::new(&config.keystone)?),
        (None, None) => return Ok(None),
    };
    Ok(Some(match &config.api.policy {
        Some(path) => auth.with_overrides(Overrides::load(path, &access::policy_names())?),
        None => auth,
    }))
}

/// What amphorae are made of, and with what; looked for before anything is changed.
#[derive(Debug)]
enum Makes {
    /// Nothing.
    Nothing,
    /// Processes of this program.
    Processes(PathBuf),
    /// Virtual machines.
    Machines(Box<qemu::Settings>),
}

impl Makes {
    fn of(config: &Config, state_dir: &Path) -> anyhow::Result<Self> {
        let require = |amphorae| {
            doctor::require(&doctor::Subject {
                state_dir,
                // An occupied port is reported by the bind later, which names the option.
                listen: None,
                amphorae,
            })
        };
        let given = config.controller.amphora_bin.as_deref();
        let machines = &config.qemu;
        Ok(match config.controller.drivers {
            Drivers::Noop => Self::Nothing,
            Drivers::Netns => {
                require(doctor::Amphorae::Processes(given))?;
                Self::Processes(amphora_bin(given)?)
            }
            Drivers::Qemu => {
                require(doctor::Amphorae::Machines(machines))?;
                let folder = machines.image.as_deref().unwrap_or_else(|| Path::new(""));
                Self::Machines(Box::new(qemu::Settings {
                    program: qemu::find_program(&machines.binary)?,
                    console_writer: std::env::current_exe()?,
                    image: Image::open(folder, machines.boot)?,
                    acceleration: machines.accel,
                    memory: machines.memory_mib,
                    cpus: machines.cpus,
                }))
            }
        })
    }

    /// None for nothing.
    fn driver(self, layout: &Layout) -> io::Result<Option<Arc<dyn Compute>>> {
        let layout = layout.clone();
        Ok(match self {
            Self::Nothing => None,
            Self::Processes(program) => Some(Arc::new(NetnsCompute::new(layout, program))),
            Self::Machines(settings) => Some(Arc::new(QemuCompute::new(layout, *settings)?)),
        })
    }
}

/// What makes amphorae, and what talks to them.
#[derive(Debug)]
struct Amphorae {
    compute: Arc<dyn Compute>,
    agents: Arc<dyn AgentApi>,
    /// None with the `noop` drivers.
    client: Option<Arc<Client>>,
}

impl Amphorae {
    /// Of the drivers that the configuration names; makes the networks of the inventory too.
    async fn new(
        db: &Db,
        config: &Config,
        layout: &Layout,
        pki: &Pki,
        makes: Makes,
        roles: &[Role],
    ) -> anyhow::Result<Self> {
        let Some(compute) = makes.driver(layout)? else {
            if inventory::host(db, inventory::NOOP).await? != inventory::NOOP {
                bail!(
                    "the {} was made with drivers netns or qemu: --drivers noop would forget its amphorae, use another one",
                    db.name()
                );
            }
            inventory::make(db, config).await?;
            let noop = Arc::new(Noop::new(db.clone()));
            return Ok(Self {
                compute: noop.clone(),
                agents: noop,
                client: None,
            });
        };
        if config.database.url.is_none() || roles.iter().any(|role| *role != Role::Api) {
            own_amphorae(db, config, layout.instance()).await?;
        }
        inventory::make(db, config).await?;
        let networks = inventory::networks(db).await?;
        LocalNetworks::new(layout.clone()).ensure(networks).await?;
        let dial = Arc::new(ManagementDial {
            layout: layout.clone(),
        });
        let client = Client::new(dial, pki.client_tls()?);
        let client = Arc::new(client.patient(patience(config)));
        Ok(Self {
            compute,
            agents: client.clone(),
            client: Some(client),
        })
    }
}

/// Amphorae of the `netns` driver live on one host. Two controllers that each missed the other's amphorae on their own
/// host would replace them for ever.
async fn own_amphorae(db: &Db, config: &Config, instance: &str) -> anyhow::Result<()> {
    let host = inventory::host(db, instance).await?;
    if host == inventory::NOOP {
        bail!(
            "the {} was made with drivers noop: its amphorae do not exist, use another one",
            db.name()
        );
    }
    if host != instance && config.database.url.is_none() {
        // The database of a state folder goes where its operator takes it.
        inventory::take_over(db, instance).await?;
    } else if host != instance {
        bail!(
            "the amphorae of the {} are on the host of instance {host}, this is instance {instance}: start this \
             controller with --role api; if that host is gone for good, \
             `krater db take-over --database URL` lets this one make all amphorae anew",
            db.name()
        );
    }
    Ok(())
}

/// The lines that people copy into a shell. A reader that went away ends nothing.
fn announce(listen: SocketAddr, encrypted: bool) {
    let scheme = if encrypted { "https" } else { "http" };
    let url = format!("{scheme}://{listen}");
    // In one write: who waits for the first line finds the second one too.
    let text = format!(
        "ready: {url}\n\
         export OS_AUTH_TYPE=none OS_ENDPOINT={url} OS_LOAD_BALANCER_ENDPOINT_OVERRIDE={url} \
         OS_NETWORK_ENDPOINT_OVERRIDE={url}/network\n"
    );
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// How many times as long everything may take that a virtual machine does.
const fn patience(config: &Config) -> u32 {
    match config.controller.drivers {
        Drivers::Qemu => config.qemu.patience,
        Drivers::Netns | Drivers::Noop => 1,
    }
}

fn settings(config: &Config) -> Settings {
    let usual = Settings::default();
    let patience = patience(config);
    Settings {
        certificate_days: config.certificates.validity_days,
        amphora_workers: config.controller.amphora_workers,
        boot_timeout: match config.controller.drivers {
            Drivers::Qemu => config.qemu.boot_timeout_ms.duration(),
            Drivers::Netns | Drivers::Noop => config.controller.boot_timeout_ms.duration(),
        },
        // Who hears no Active waits for three intervals and a part of one before it becomes that (RFC 9568 section 6.1).
        ready_timeout: usual.ready_timeout * patience
            + config.vrrp.advert_centiseconds.duration() * 4,
        step_budget: usual.step_budget * patience,
        undo_budget: usual.undo_budget * patience,
        ..usual
    }
}

/// Where amphorae send heartbeats.
const fn heartbeat_target() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(inventory::CONTROLLER_ADDRESS), heartbeat::PORT)
}

fn common(config: &Config, key: Secret, vault: Vault) -> Common {
    Common {
        epoch: Epoch(1),
        heartbeat: Heartbeat {
            targets: vec![heartbeat_target()],
            interval: config.heartbeat.interval_ms,
            key,
        },
        vrrp: config.vrrp.clone(),
        // Amphorae log to files as text; an agent does not change its format while it lives.
        logging: Logging {
            level: config.logging.level.clone(),
            json: false,
        },
        vault,
    }
}

/// 256 random bits as hex, made at the first start.
fn heartbeat_key(path: &Path) -> anyhow::Result<Secret> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().len() >= 32 => Ok(Secret::new(text.trim())),
        Ok(_) => bail!(
            "{}: shorter than 32 characters; restore it, or remove it and fail over all load balancers",
            path.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0_u8; 32];
            aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no randomness"))?;
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            files::write_private(path, text.as_bytes())?;
            Ok(Secret::new(text))
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Connects from inside the management namespace.
#[derive(Debug)]
pub struct ManagementDial {
    layout: Layout,
}

impl Dial for ManagementDial {
    fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(async move {
            let layout = self.layout.clone();
            let socket =
                tokio::task::spawn_blocking(move || layout.open_management()?.tcp_socket(to));
            let socket = socket.await.map_err(io::Error::other)??;
            TcpSocket::from_std_stream(socket.into()).connect(to).await
        })
    }
}
