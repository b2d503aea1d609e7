//! `amphora run`: an appliance. A file in the place of a controller; the same children get the same documents.
//!
//! Owns: reading the file, giving each child its part, reading it anew, stopping the children. What it does
//! not touch: interfaces, addresses, routes, sysctls. The VIPs of `[[vrrp]]` are vrrp's.
//!
//! Tasks: one supervises each child, one gives a child that came up its part, one serves the control
//! socket, one gives the data plane new addresses of names. A new file is taken by one at a time.

mod names;
mod server;
mod upgrade;

use crate::apply::{Family, PushError};
use crate::cli::Only;
use crate::family::Children;
use crate::notify::Notifier;
use crate::supervise::{self, DATAPLANE_ENDS, DRAIN_SLACK, Event, Kind, Plan, VRRP_ENDS};
use crate::{clock, control, memory};
use anyhow::Context;
use http::Method;
use krater_model::config::appliance::{Appliance, Book, FileError, Settings};
use krater_model::control::Applied;
use krater_model::{Epoch, FieldError, Generation, Revision};

use krater_telemetry::{LogControl, LogSettings, LogTarget};
use names::Names;
use nix::sys::stat::{Mode, umask};
use nix::unistd::Uid;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinHandle;

pub(crate) use names::NameStatus;
pub(crate) use server::{Drain, RELOAD, SOCKET};
pub(crate) use upgrade::About;

/// Largest certificate file that is read: bundles of all public CAs have 300 kB.
const MAX_PEM: u64 = 4 * 1024 * 1024;
/// Events of two children; more never wait.
const EVENTS: usize = 16;
/// Until a document that a child did not take is tried again.
const REPUSH: Duration = Duration::from_secs(1);
/// A document waits so long for names that were never asked for; it then goes without their addresses.
const FIRST_ANSWERS: Duration = Duration::from_secs(5);
/// A new data plane has so long to open what it was given before the old one drains.
const SUCCESSOR_SERVES: Duration = Duration::from_secs(5);

/// Why a file is not in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: FileError },
    /// The file is good; a process is not able to follow it.
    #[error("{0}")]
    Child(String),
}

/// Reads and checks a file as the children would. Paths in it are relative to its folder.
pub(crate) fn load(path: &Path) -> Result<Appliance, LoadError> {
    let failed = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let text = fs::read_to_string(path).map_err(failed)?;
    let absolute = std::path::absolute(path).map_err(failed)?;
    let dir = absolute.parent().unwrap_or_else(|| Path::new("/"));
    let refused = |source| LoadError::File {
        path: path.to_owned(),
        source,
    };
    let mut file = Appliance::parse(&text, |name| {
        pem(&dir.join(name)).map_err(|error| error.to_string())
    })
    .map_err(refused)?;
    let settings = &mut file.settings;
    settings.run_dir = dir.join(&settings.run_dir);
    settings.log_dir = dir.join(&settings.log_dir);
    settings.netns = settings.netns.take().map(|netns| dir.join(netns));
    judge(&file).map_err(|error| refused(file.locate(error)))?;
    Ok(file)
}

fn pem(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_PEM).read_to_string(&mut text)?;
    Ok(text)
}

/// What only the children know to be wrong.
fn judge(file: &Appliance) -> Result<(), FieldError> {
    let snapshot = file.snapshot(Revision::default(), &Book::default());
    let snapshot = serde_json::to_vec(&snapshot);
    let snapshot = snapshot.map_err(|error| FieldError::new("file", error.to_string()))?;
    krater_dataplane::check(&snapshot)?;
    krater_vrrp::check(&file.vrrp_config(Revision::default())).map_err(of_vrrp)
}

/// What vrrp calls `routers` is `vrrp` in the file.
fn of_vrrp(mut error: FieldError) -> FieldError {
    if let Some(rest) = error.field.strip_prefix("routers") {
        error.field = format!("vrrp{rest}");
    }
    error
}

/// For `amphora check`.
pub(crate) fn summary(file: &Appliance) -> String {
    let lbs = &file.load_balancers;
    let pools = || lbs.iter().flat_map(|lb| &lb.pools);
    format!(
        "appliance: {} load balancers, {} listeners, {} pools, {} members, {} certificates, {} virtual routers",
        lbs.len(),
        lbs.iter().map(|lb| lb.listeners.len()).sum::<usize>(),
        pools().count(),
        pools().map(|pool| pool.members.len()).sum::<usize>(),
        file.certificates.len(),
        file.vrrp.len(),
    )
}

/// Runs the appliance until SIGTERM or SIGINT, which end its children too, or until a new version takes its place.
pub(crate) fn run(path: &Path, only: Option<Only>) -> anyhow::Result<()> {
    let program = upgrade::program()?;
    let path = std::path::absolute(path)?;
    let file = load(&path)?;
    able(&file, only).map_err(|error| LoadError::File {
        path: path.clone(),
        source: file.locate(error),
    })?;
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let settings = &file.settings;
    for dir in [&settings.run_dir, &settings.log_dir] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("make folder {}", dir.display()))?;
    }
    // Number 3 is what children inherit: nothing of ours that opens and closes may have it.
    let reserved = File::open("/dev/null").context("open /dev/null")?;
    let log = krater_telemetry::init(LogSettings {
        target: LogTarget::Stderr,
        json: settings.log_json,
        level: settings.log_level.clone(),
    })?;
    std::env::set_current_dir(&settings.run_dir).context("enter run_dir")?;
    link_logs(&settings.log_dir).context("link the log folder into run_dir")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()?;
    let outcome = runtime.block_on(serve(program.clone(), path.clone(), file, only, log));
    drop(runtime);
    drop(reserved);
    match outcome? {
        End::Upgrade => Err(upgrade::become_it(&program, &path, only)),
        End::Drain(_) => Ok(()),
    }
}

/// Why we end.
#[derive(Debug, Clone, Copy)]
enum End {
    /// With the children, and the drain's deadline if somebody named one.
    Drain(Option<Duration>),
    /// Alone: a new version follows.
    Upgrade,
}

/// What this process may not do says so before anything starts.
fn able(file: &Appliance, only: Option<Only>) -> Result<(), FieldError> {
    let root = Uid::effective().is_root();
    let able = root || has_vrrp_capabilities();
    if !file.vrrp.is_empty() && only != Some(Only::Dataplane) && !able {
        let why = "virtual routers need root, or CAP_NET_ADMIN and CAP_NET_RAW: start with these, or use --only dataplane";
        return Err(FieldError::new("vrrp", why));
    }
    if file.settings.netns.is_some() && !root {
        let why = "another network namespace needs root: leave it out";
        return Err(FieldError::new("netns", why));
    }
    let tracks = file.vrrp.iter().position(|router| router.track_dataplane);
    if let (Some(Only::Vrrp), Some(i)) = (only, tracks) {
        let why = "there is no data plane to track with --only vrrp: set it to false";
        return Err(FieldError::new(format!("vrrp[{i}].track_dataplane"), why));
    }
    Ok(())
}

/// Whether this process has what vrrp keeps of root, as a service manager gives it to a user.
fn has_vrrp_capabilities() -> bool {
    /// CAP_NET_ADMIN and CAP_NET_RAW.
    const NEEDED: u64 = 1 << 12 | 1 << 13;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits & NEEDED == NEEDED)
}

/// `run_dir/log`, so that `amphora ctl --run-dir` finds the logs.
fn link_logs(log_dir: &Path) -> io::Result<()> {
    match fs::remove_file("log") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(log_dir, "log")
}

/// The running appliance, shared by its tasks.
#[derive(Debug)]
struct Running {
    program: PathBuf,
    path: PathBuf,
    only: Option<Only>,
    /// Of this start.
    instance: uuid::Uuid,
    notifier: Notifier,
    /// All children have what they were to get first.
    ready: AtomicBool,
    given: std::sync::Mutex<Vec<Kind>>,
    /// Places on the control socket.
    visitors: Arc<Semaphore>,
    children: Arc<Children>,
    events: mpsc::Sender<Event>,
    names: Arc<Names>,
    tasks: std::sync::Mutex<Vec<JoinHandle<()>>>,
    /// An operator's word to end.
    end: mpsc::Sender<End>,
    /// Milliseconds, of the file in force; read while a reload may hold all else.
    drain_timeout: AtomicU32,
    /// Held while a child is given something.
    force: Mutex<Force>,
}

/// What is in force.
#[derive(Debug)]
struct Force {
    file: Appliance,
    /// Addresses of the file's names.
    book: Book,
    generation: u64,
    /// Children that are supervised.
    kinds: Vec<Kind>,
}

impl Force {
    /// Newer than what any child has: by the clock, or else by count.
    fn next(&mut self) -> Revision {
        self.generation = clock::unix_ms().max(self.generation + 1);
        Revision {
            epoch: Epoch(1),
            generation: Generation(self.generation),
        }
    }
}

async fn serve(
    program: PathBuf,
    path: PathBuf,
    file: Appliance,
    only: Option<Only>,
    log: LogControl,
) -> anyhow::Result<End> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut reopen = signal(SignalKind::user_defined1())?;
    let listener = server::listen().context("make the control socket")?;
    let children = Children::new(plan(&file.settings), log);
    let (events, inbox) = mpsc::channel(EVENTS);
    let (end, mut ended) = mpsc::channel(1);
    let names = Names::new();
    names.follow(file.hosts.names(), &file.settings.resolver);
    let running = Arc::new(Running {
        program,
        path,
        only,
        instance: uuid::Uuid::new_v4(),
        notifier: Notifier::from_env(),
        ready: AtomicBool::new(false),
        given: std::sync::Mutex::default(),
        visitors: Arc::new(Semaphore::new(server::CONNECTIONS)),
        children: Arc::new(children),
        events,
        names,
        tasks: std::sync::Mutex::default(),
        end,
        drain_timeout: AtomicU32::new(file.settings.drain_timeout.value()),
        force: Mutex::new(Force {
            file,
            book: Book::default(),
            generation: 0,
            kinds: Vec::new(),
        }),
    });
    running.start(&mut *running.force.lock().await);
    running.task(follow(Arc::clone(&running), inbox));
    running.task(server::serve(Arc::clone(&running), listener));
    running.task(follow_names(Arc::clone(&running)));
    memory::give_back();
    let (config, version) = (running.path.display(), krater_telemetry::version());
    tracing::info!(%config, version, "appliance runs");
    let end = loop {
        tokio::select! {
            _ = hangup.recv() => drop(running.reload().await),
            _ = reopen.recv() => running.reopen_logs().await,
            _ = terminate.recv() => break End::Drain(None),
            _ = interrupt.recv() => break End::Drain(None),
            Some(end) = ended.recv() => break end,
        }
    };
    let End::Drain(deadline) = end else {
        running.abort_tasks();
        server::all_answered(&running.visitors).await;
        tracing::info!(program = %running.program.display(), "becoming the new version");
        return Ok(end);
    };
    let again = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    running.stop(deadline, again).await;
    tracing::info!("appliance ends");
    Ok(end)
}

fn plan(settings: &Settings) -> Plan {
    let workers = settings.workers.unwrap_or_else(|| {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let cpus = u16::try_from(cpus).unwrap_or(u16::MAX);
        cpus.min(krater_dataplane::MAX_WORKERS)
    });
    Plan {
        vip_netns: settings.netns.clone(),
        share_stdout: true,
        log_dir: settings.log_dir.clone(),
        log_json: settings.log_json,
        workers,
        metrics: settings.metrics,
        succession: true,
    }
}

/// Gives each child that comes up its part.
async fn follow(running: Arc<Running>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        if let Event::Up(kind) = event {
            running.task(supply(Arc::clone(&running), kind));
        }
    }
}

/// Until the child has it or is gone.
async fn supply(running: Arc<Running>, kind: Kind) {
    let child = running.children.child(kind).running();
    let pid = |child: &Option<supervise::Running>| child.as_ref().map(|child| child.pid);
    let Some(mine) = pid(&child.borrow()) else {
        return;
    };
    let (name, mut given, mut tracked) = (kind.name(), false, false);
    // Until it serves, vrrp goes on watching the data plane that does.
    let succeeds = kind == Kind::Dataplane && running.children.dataplane.has_predecessor();
    let mut serves = !succeeds;
    while pid(&child.borrow()) == Some(mine) {
        if !tracked && serves {
            match running.children.track() {
                Ok(()) => tracked = true,
                Err(error) => tracing::warn!(%error, "vrrp cannot watch the data plane yet"),
            }
        }
        if !given {
            if kind == Kind::Dataplane {
                running.names.settled(FIRST_ANSWERS).await;
            }
            let mut force = running.force.lock().await;
            let Force { file, book, .. } = &mut *force;
            book.follow(&file.hosts, &running.names.found());
            let revision = force.next();
            match running.give(kind, &force.file, &force.book, revision).await {
                Ok(applied) => {
                    given = true;
                    tracing::info!(child = name, revision = %applied.revision, "file given");
                }
                Err(PushError::Newer(why)) => {
                    // Of an earlier run, by a clock that was ahead.
                    tracing::warn!(child = name, why, "child has a newer document");
                    force.generation = running.generation_of(kind).await;
                }
                Err(error) => tracing::error!(child = name, %error, "file not given; trying again"),
            }
        }
        if given && !serves {
            running.children.dataplane.serves(SUCCESSOR_SERVES).await;
            serves = true;
            continue;
        }
        if given && tracked {
            if succeeds {
                running.task(retire(Arc::clone(&running)));
            }
            return running.has(kind).await;
        }
        tokio::time::sleep(REPUSH).await;
    }
}

/// Lets the data plane of an earlier version end; the time for what is open there is that of any drain.
async fn retire(running: Arc<Running>) {
    let deadline = running.drain_timeout.load(Relaxed);
    let deadline = Duration::from_millis(deadline.into());
    running
        .children
        .dataplane
        .retire_predecessor(deadline)
        .await;
}

/// Gives the data plane the addresses of names when they change, until it has them.
async fn follow_names(running: Arc<Running>) {
    let mut changes = running.names.changes();
    let mut stale = false;
    loop {
        if stale {
            let _either = tokio::time::timeout(REPUSH, changes.changed()).await;
        } else if changes.changed().await.is_err() {
            return;
        }
        let mut force = running.force.lock().await;
        let Force { file, book, .. } = &mut *force;
        stale |= book.follow(&file.hosts, &running.names.found());
        let up = running.children.dataplane.running().borrow().is_some();
        if !stale || !up || !force.kinds.contains(&Kind::Dataplane) {
            stale = false; // one that comes up later gets all of it
            continue;
        }
        let revision = force.next();
        match running
            .give(Kind::Dataplane, &force.file, &force.book, revision)
            .await
        {
            Ok(_) => stale = false,
            Err(PushError::Newer(_)) => {
                force.generation = running.generation_of(Kind::Dataplane).await;
            }
            Err(error) => tracing::error!(%error, "addresses of names not given; trying again"),
        }
    }
}

impl Running {
    fn task(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(tokio::spawn(task));
    }

    fn abort_tasks(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.iter().for_each(JoinHandle::abort);
    }

    /// A child has its part; when all have, everything is served.
    async fn has(&self, kind: Kind) {
        let wanted = self.force.lock().await.kinds.clone();
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if !given.contains(&kind) {
            given.push(kind);
        }
        let all = wanted.iter().all(|kind| given.contains(kind));
        if all && !self.ready.swap(true, Relaxed) {
            let (path, version) = (self.path.display(), krater_telemetry::version());
            self.notifier.ready(&format!("{version} serves {path}"));
        }
    }

    /// Starts the children that the file needs and that do not run yet.
    fn start(self: &Arc<Self>, force: &mut Force) {
        let mut wanted = Vec::new();
        if self.only != Some(Only::Vrrp) {
            wanted.push(Kind::Dataplane);
        }
        if self.only == Some(Only::Vrrp) || self.only.is_none() && !force.file.vrrp.is_empty() {
            wanted.push(Kind::Vrrp);
        }
        for kind in wanted {
            if !force.kinds.contains(&kind) {
                force.kinds.push(kind);
                let (children, events) = (Arc::clone(&self.children), self.events.clone());
                self.task(children.supervise(kind, events));
            }
        }
    }

    async fn give(
        &self,
        kind: Kind,
        file: &Appliance,
        book: &Book,
        revision: Revision,
    ) -> Result<Applied, PushError> {
        match kind {
            Kind::Dataplane => self.children.snapshot(&file.snapshot(revision, book)).await,
            Kind::Vrrp => self.children.vrrp(&file.vrrp_config(revision)).await,
        }
    }

    /// What a child has in force.
    async fn generation_of(&self, kind: Kind) -> u64 {
        let revision = match kind {
            Kind::Dataplane => {
                let status = self.children.dataplane_status(REPUSH).await;
                status.ok().and_then(|status| status.revision)
            }
            Kind::Vrrp => {
                let status = self.children.vrrp_status(REPUSH).await;
                status.ok().and_then(|status| status.revision)
            }
        };
        revision.map_or(0, |revision| revision.generation.0)
    }

    /// Reads the file anew. A bad one changes nothing, and the error says what is wrong with it.
    async fn reload(self: &Arc<Self>) -> Result<(), LoadError> {
        let result = self.try_reload().await;
        match &result {
            Ok(()) => {
                tracing::info!("file read anew");
                let (path, version) = (self.path.display(), krater_telemetry::version());
                self.notifier.status(&format!("{version} serves {path}"));
            }
            Err(error) => {
                let force = self.force.lock().await;
                let file = &force.file;
                self.names
                    .follow(file.hosts.names(), &file.settings.resolver);

                let reason = krater_model::report(error);
                tracing::error!(reason, "file not read anew; what was in force stays");
                self.notifier
                    .status(&format!("file not read anew: {reason}"));
            }
        }
        result
    }

    async fn try_reload(self: &Arc<Self>) -> Result<(), LoadError> {
        let mut force = self.force.lock().await;
        let file = load(&self.path)?;
        let refused = |error| LoadError::File {
            path: self.path.clone(),
            source: file.locate(error),
        };
        able(&file, self.only).map_err(refused)?;
        same_host(&force.file.settings, &file.settings).map_err(refused)?;
        self.names
            .follow(file.hosts.names(), &file.settings.resolver);
        self.names.settled(FIRST_ANSWERS).await;
        let mut book = force.book.clone();
        book.follow(&file.hosts, &self.names.found());
        let kinds = force.kinds.clone();
        let mut changed = Vec::new();
        for kind in kinds {
            let revision = force.next();
            let Err(error) = self.give(kind, &file, &book, revision).await else {
                changed.push(kind);
                continue;
            };
            for kind in changed {
                let revision = force.next();
                let given = self.give(kind, &force.file, &force.book, revision);
                if let Err(error) = given.await {
                    tracing::error!(child = kind.name(), %error, "old file not given back");
                }
            }
            return Err(match error {
                PushError::Field(error) if kind == Kind::Vrrp => refused(of_vrrp(error)),
                PushError::Field(error) => refused(error),
                other => LoadError::Child(format!("{}: {other}", kind.name())),
            });
        }
        let level = &file.settings.log_level;
        if *level != force.file.settings.log_level
            && let Err(error) = self.children.level(level).await
        {
            tracing::warn!(%error, "log level not set everywhere");
        }
        let drain_timeout = file.settings.drain_timeout.value();
        self.drain_timeout.store(drain_timeout, Relaxed);
        (force.file, force.book) = (file, book);
        self.start(&mut force);
        Ok(())
    }

    async fn reopen_logs(&self) {
        let socket = Kind::Dataplane.socket();
        let asked = control::request(socket, Method::POST, "/reopen-logs", None::<&()>, REPUSH);
        if let Err(error) = asked.await {
            let reason = krater_model::report(&error);
            tracing::error!(reason, "access logs not reopened");
        }
    }

    /// Ends the children, vrrp first: the VIP goes to the peer while the data plane still serves. What is open then
    /// has until the deadline to end by itself, or until it is asked `again`.
    async fn stop(&self, deadline: Option<Duration>, again: impl Future<Output = ()>) {
        self.abort_tasks();
        let deadline = deadline.unwrap_or_else(|| {
            let configured = self.drain_timeout.load(Relaxed);
            Duration::from_millis(configured.into())
        });
        self.notifier
            .stopping(deadline + VRRP_ENDS + DRAIN_SLACK + DATAPLANE_ENDS * 3);
        tokio::pin!(again);
        for (child, patience) in [
            (&self.children.vrrp, VRRP_ENDS),
            (&self.children.dataplane, DATAPLANE_ENDS),
        ] {
            let running = child.running().borrow().clone();
            let Some(running) = running else {
                continue;
            };
            let name = child.kind.name();
            if child.kind == Kind::Dataplane && !deadline.is_zero() {
                tokio::select! {
                    biased;
                    () = &mut again => {
                        tracing::info!("asked again: what is open ends now");
                    }
                    () = drain(&running, deadline) => {}
                }
            }
            match supervise::stop(&running, patience).await {
                Ok(()) => tracing::info!(child = name, "child ended"),
                Err(error) => tracing::error!(child = name, %error, "child not ended"),
            }
        }
        self.children.dataplane.end_predecessor().await;
    }
}

/// Lets the data plane end by itself: it accepts nothing more, and closes at the deadline what is left.
async fn drain(running: &supervise::Running, deadline: Duration) {
    let ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    let body = serde_json::json!({ "deadline_ms": ms });
    let socket = Kind::Dataplane.socket();
    tracing::info!(deadline_ms = ms, "draining");
    let asked = control::request(socket, Method::POST, "/drain", Some(&body), REPUSH);
    if let Err(error) = asked.await {
        let reason = krater_model::report(&error);
        tracing::error!(reason, "the data plane does not drain: it ends now");
        return;
    }
    let ended = supervise::ended(running);
    if tokio::time::timeout(deadline + DRAIN_SLACK, ended)
        .await
        .is_err()
    {
        tracing::error!("the data plane is still there after its deadline");
    }
}

/// What a running appliance cannot change.
fn same_host(old: &Settings, new: &Settings) -> Result<(), FieldError> {
    let fields = [
        ("run_dir", old.run_dir == new.run_dir),
        ("log_dir", old.log_dir == new.log_dir),
        ("workers", old.workers == new.workers),
        ("netns", old.netns == new.netns),
        ("metrics", old.metrics == new.metrics),
        ("log_json", old.log_json == new.log_json),
    ];
    match fields.iter().find(|(_, same)| !same) {
        Some((field, _)) => {
            let why = "cannot change while it runs: put it back, or restart";
            Err(FieldError::new(*field, why))
        }
        None => Ok(()),
    }
}
