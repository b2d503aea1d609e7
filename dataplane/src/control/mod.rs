//! The control thread: control socket, progress records, supervision of workers.

mod scrape;
mod server;
mod status;

use crate::apply::Applier;
use crate::runtime::Shared;
use crate::worker::{Heart, TICK, Workers};
use crate::{SetLevel, probe};
use krater_model::control::Progress;
use std::cell::RefCell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, LocalSet};

/// How often draining looks whether all connections ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// Members are counted in every so many progress records: with 10,000 of them it takes a while. That none is up must show within
/// 50 ms.
const COUNT_EVERY: u64 = 4;

/// At the end of the process, for what is not written yet.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What could not listen is tried again once a second.
const RETRY_EVERY: u64 = 100;

/// What the control thread knows.
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) version: String,
    pub(crate) log: SetLevel,
    /// Root and this user may use the control socket.
    pub(crate) own_uid: u32,
}

/// State of the control thread.
pub(crate) struct Control {
    pub(crate) shared: Arc<Shared>,
    pub(crate) version: String,
    pub(crate) log: SetLevel,
    pub(crate) own_uid: u32,
    /// The control thread never waits for it: a snapshot may be applied elsewhere just now.
    pub(crate) applier: Arc<Mutex<Applier>>,
    pub(crate) probes: probe::Prober,
    /// Says that the process shall end.
    pub(crate) exit: Notify,
    /// Serves metrics over TCP.
    scraping: RefCell<Option<AbortHandle>>,
}

/// Serves until the process shall end.
pub(crate) fn serve(
    context: Context,
    workers: Workers,
    listener: std::os::unix::net::UnixListener,
    metrics: Option<std::net::TcpListener>,
    progress: Option<OwnedFd>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2) // one applies a snapshot; one to spare
        .thread_stack_size(1024 * 1024)
        .build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let hearts = workers.hearts();
        let applier = Applier::new(Arc::clone(&context.shared), workers.plan(), hearts.len());
        let control = Rc::new(Control {
            probes: probe::Prober::new(Arc::clone(&context.shared)),
            shared: context.shared,
            version: context.version,
            log: context.log,
            own_uid: context.own_uid,
            applier: Arc::new(Mutex::new(applier)),
            exit: Notify::new(),
            scraping: RefCell::default(),
        });
        tokio::task::spawn_local(server::serve(Rc::clone(&control), listener));
        if let Some(metrics) = metrics {
            let metrics = tokio::net::TcpListener::from_std(metrics)?;
            let scraping = tokio::task::spawn_local(scrape::serve(Rc::clone(&control), metrics));
            control.scraping.replace(Some(scraping.abort_handle()));
        }
        let watching = watch(
            Rc::clone(&control),
            workers,
            hearts,
            progress.map(File::from),
        );
        tokio::task::spawn_local(watching);
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut int = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        tokio::task::spawn_local(reopen_on_signals(Rc::clone(&control))?);
        tracing::info!(version = control.version, "data plane started");
        tokio::select! {
            () = control.exit.notified() => tracing::info!("drained"),
            _ = term.recv() => tracing::info!("terminated"),
            _ = int.recv() => tracing::info!("interrupted"),
        }
        // What is in the workers' hands goes to the writer with the next tick.
        tokio::time::sleep(2 * TICK).await;
        let logs = Arc::clone(&control.shared.access_logs);
        let flushed = tokio::task::spawn_blocking(move || logs.flush(LAST_LINES));
        let _ended = flushed.await;
        Ok(())
    })
}

impl Control {
    /// Stops accepting; ends the process when no connection is left, or after `deadline`.
    pub(crate) fn drain(self: &Rc<Self>, deadline: Duration) {
        // A successor may listen there too: a scrape must not meet now one and now the other.
        if let Some(scraping) = self.scraping.take() {
            scraping.abort();
        }
        let control = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let applier = Arc::clone(&control.applier);
            let queues = tokio::task::spawn_blocking(move || lock(&applier).drain()).await;
            // Those who wait there saw their connection established, and count only when a worker has it.
            let queues = queues.unwrap_or_default();
            let queued = || queues.iter().any(|queue| queue.strong_count() > 0);
            let idle = async {
                while queued() || control.connections() > 0 {
                    tokio::time::sleep(DRAIN_POLL).await;
                }
            };
            if tokio::time::timeout(deadline, idle).await.is_err() {
                tracing::warn!(
                    connections = control.connections(),
                    "drain deadline: closing"
                );
            }
            control.exit.notify_one();
        });
    }

    fn connections(&self) -> u64 {
        let routes = self.shared.routes();
        routes
            .listeners
            .values()
            .map(|view| view.runtime.snapshot().active_connections)
            .sum()
    }
}

pub(crate) fn lock(applier: &Mutex<Applier>) -> std::sync::MutexGuard<'_, Applier> {
    applier
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// SIGUSR1 and SIGHUP: the files of access logs were moved away.
fn reopen_on_signals(control: Rc<Control>) -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut usr1 = signal(SignalKind::user_defined1())?;
    let mut hup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = usr1.recv() => {}
                _ = hup.recv() => {}
            }
            match control.shared.access_logs.reopen() {
                Some(Err(behind)) => tracing::error!(error = %behind, "cannot reopen access logs"),
                Some(Ok(_)) => tracing::info!("access logs reopened"),
                None => {}
            }
        }
    })
}

/// Writes progress while all workers tick, and starts dead workers again.
async fn watch(
    control: Rc<Control>,
    mut workers: Workers,
    hearts: Vec<Arc<Heart>>,
    progress: Option<File>,
) {
    let mut interval = tokio::time::interval(Progress::INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen: Vec<u64> = hearts.iter().map(|heart| heart.beats()).collect();
    let mut ticks = 0;
    let (mut members_up, mut members_total) = (0, 0);
    for round in 0_u64.. {
        interval.tick().await;
        workers.supervise();
        if round.is_multiple_of(RETRY_EVERY) && control.shared.has_failures() {
            let applier = Arc::clone(&control.applier);
            tokio::task::spawn_blocking(move || lock(&applier).retry());
        }
        let now: Vec<u64> = hearts.iter().map(|heart| heart.beats()).collect();
        if now.iter().zip(&seen).all(|(now, seen)| now != seen) {
            seen = now;
            ticks += 1;
        }
        let Some(file) = &progress else {
            continue;
        };
        if round.is_multiple_of(COUNT_EVERY) {
            (members_up, members_total) = status::members(&control.shared.routes());
        }
        let record = Progress {
            ticks,
            ready: control.shared.is_ready(),
            members_up,
            members_total,
        };
        if let Err(error) = file.write_all_at(&record.encode(), 0) {
            tracing::error!(%error, "cannot write the progress record");
            return;
        }
    }
}
