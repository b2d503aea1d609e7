//! Access logs: workers gather lines, one thread writes them.
//!
//! A worker never waits: it hands a batch over with every tick, or when the batch is large, and drops the batch
//! when the bounded queue to the writer is full. The writer alone opens, writes and reopens files, so that a
//! slow disk or reader slows down nothing else. Lines that are lost are counted. Without a listener that
//! logs there is neither thread nor queue.

use crate::runtime::Shared;
use krater_dataplane_core::access_log::Entry;
use krater_model::report;
use krater_model::state::{AccessLog, AccessLogFormat};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A batch goes out when it has this many bytes, before the next tick.
const BATCH: usize = 32 * 1024;
/// Batches on their way to the writer: 8 MiB of lines, a second of a busy process and a disk that hangs.
const QUEUE: usize = 256;
/// A destination that failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);

/// A destination of lines.
#[derive(Debug)]
pub(crate) struct Sink {
    to: String,
    /// The writer's alone.
    output: Mutex<Output>,
}

#[derive(Debug, Default)]
struct Output {
    file: Option<File>,
    /// A line was cut off by an error: the next one must not continue it.
    torn: bool,
    failed: Option<Instant>,
}

/// How one listener logs.
#[derive(Debug)]
pub struct ListenerLog {
    format: AccessLogFormat,
    sink: Arc<Sink>,
}

/// All access logs of the process.
#[derive(Debug, Default)]
pub struct AccessLogs {
    state: Mutex<State>,
    written: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    sinks: HashMap<String, Weak<Sink>>,
    writer: Option<SyncSender<Message>>,
}

#[derive(Debug)]
enum Message {
    Batch(Batch),
    /// Everything before is written: close and open all files.
    Reopen(oneshot::Sender<()>),
    /// Everything before is written.
    Flush(SyncSender<()>),
}

#[derive(Debug)]
struct Batch {
    sink: Arc<Sink>,
    lines: u64,
    text: String,
}

impl AccessLogs {
    /// How a listener that is configured so logs. Starts the writer when it is the first.
    pub(crate) fn listener(self: &Arc<Self>, conf: &AccessLog) -> io::Result<Arc<ListenerLog>> {
        let mut state = self.lock();
        if state.writer.is_none() {
            let (sender, receiver) = sync_channel(QUEUE);
            let logs = Arc::clone(self);
            std::thread::Builder::new()
                .name("access-log".into())
                .stack_size(256 * 1024)
                .spawn(move || logs.write(&receiver))?;
            state.writer = Some(sender);
        }
        state.sinks.retain(|_, sink| sink.strong_count() > 0);
        let known = state.sinks.get(&conf.to).and_then(Weak::upgrade);
        let sink = known.unwrap_or_else(|| {
            Arc::new(Sink {
                to: conf.to.clone(),
                output: Mutex::default(),
            })
        });
        state.sinks.insert(conf.to.clone(), Arc::downgrade(&sink));
        let format = conf.format;
        Ok(Arc::new(ListenerLog { format, sink }))
    }

    /// Lines that reached their destination.
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Lines that were lost: the queue was full, or their destination failed.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Closes and opens all files. None: there is no log. An error: the writer is too far behind.
    pub(crate) fn reopen(&self) -> Option<Result<oneshot::Receiver<()>, Behind>> {
        let writer = self.lock().writer.clone()?;
        let (done, receiver) = oneshot::channel();
        let sent = writer.try_send(Message::Reopen(done));
        Some(sent.map(|()| receiver).map_err(|_| Behind))
    }

    /// Waits until what was handed over is written, for `patience` at most.
    pub(crate) fn flush(&self, patience: Duration) {
        let Some(writer) = self.lock().writer.clone() else {
            return;
        };
        let (done, receiver) = sync_channel(1);
        if writer.try_send(Message::Flush(done)).is_ok() {
            // Late or not, the process ends.
            let _late = receiver.recv_timeout(patience);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer's thread, which ends with the process.
    fn write(&self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            match message {
                Message::Batch(batch) => {
                    let to = match batch.sink.write(batch.text.as_bytes()) {
                        Ok(()) => &self.written,
                        Err(_said) => &self.dropped,
                    };
                    to.fetch_add(batch.lines, Relaxed);
                }
                Message::Reopen(done) => {
                    let sinks: Vec<_> = self.lock().sinks.values().cloned().collect();
                    for sink in sinks.iter().filter_map(Weak::upgrade) {
                        sink.reopen();
                    }
                    // Who asked may have gone.
                    let _gone = done.send(());
                }
                Message::Flush(done) => drop(done.try_send(())),
            }
        }
    }
}

/// The writer has not kept up.
#[derive(Debug, thiserror::Error)]
#[error("the writer of access logs is behind: its disk or reader is too slow")]
pub(crate) struct Behind;

impl Sink {
    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        let mut output = self.output();
        if output.failed.is_some_and(|at| at.elapsed() < RETRY) {
            return Err(io::ErrorKind::Other.into()); // said when it failed
        }
        let written = self.try_write(&mut output, text);
        match &written {
            Ok(()) if output.failed.take().is_some() => {
                tracing::info!(to = self.to, "access log works again");
            }
            Ok(()) => {}
            Err(error) => {
                if output.failed.replace(Instant::now()).is_none() {
                    let reason = report(error);
                    tracing::error!(
                        to = self.to,
                        reason,
                        "access log cannot be written; lines are lost"
                    );
                }
                output.file = None;
            }
        }
        written
    }

    fn try_write(&self, output: &mut Output, text: &[u8]) -> io::Result<()> {
        if output.file.is_none() {
            output.file = Some(self.open()?);
        }
        let Some(file) = &mut output.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if output.torn {
            file.write_all(b"\n")?;
            output.torn = false;
        }
        let mut left = text;
        while !left.is_empty() {
            match file.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    let (done, rest) = left.split_at(n);
                    output.torn = done.last() != Some(&b'\n');
                    left = rest;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn open(&self) -> io::Result<File> {
        if self.to == AccessLog::STDOUT {
            let stdout = nix::unistd::dup(io::stdout())?;
            return Ok(File::from(stdout));
        }
        let mut options = OpenOptions::new();
        // Group and others get nothing: addresses and URLs are personal data.
        options.append(true).create(true).mode(0o600);
        // A FIFO without a reader would hold up all other logs.
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = options.open(&self.to)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("is no regular file"));
        }
        Ok(file)
    }

    fn reopen(&self) {
        let mut output = self.output();
        *output = Output::default();
        match self.open() {
            Ok(file) => output.file = Some(file),
            Err(error) => {
                let reason = report(&error);
                tracing::error!(to = self.to, reason, "access log cannot be opened");
                output.failed = Some(Instant::now());
            }
        }
    }
}

/// Lines of one worker that are not handed over yet.
#[derive(Debug, Default)]
pub struct Lines(RefCell<Vec<Batch>>);

impl Lines {
    /// Adds an entry's line.
    pub(crate) fn add(&self, shared: &Shared, log: &ListenerLog, entry: &Entry<'_>) {
        let mut batches = self.0.borrow_mut();
        let at = batches
            .iter()
            .position(|batch| Arc::ptr_eq(&batch.sink, &log.sink));
        let at = at.unwrap_or_else(|| {
            batches.push(Batch {
                sink: Arc::clone(&log.sink),
                lines: 0,
                text: String::new(),
            });
            batches.len() - 1
        });
        let batch = &mut batches[at];
        match log.format {
            AccessLogFormat::Json => entry.json(&mut batch.text),
            AccessLogFormat::Haproxy => entry.haproxy(&mut batch.text),
        }
        batch.lines += 1;
        if batch.text.len() >= BATCH {
            let batch = batches.swap_remove(at);
            hand_over(&shared.access_logs, [batch]);
        }
    }

    /// Hands everything over.
    pub(crate) fn flush(&self, shared: &Shared) {
        let mut batches = self.0.borrow_mut();
        if !batches.is_empty() {
            hand_over(&shared.access_logs, batches.drain(..));
        }
    }
}

fn hand_over(logs: &AccessLogs, batches: impl IntoIterator<Item = Batch>) {
    // Held for a moment only: once per tick and worker, or once per 32 KiB of lines.
    let writer = logs.lock().writer.clone();
    for batch in batches {
        let lines = batch.lines;
        let sent = writer
            .as_ref()
            .map(|writer| writer.try_send(Message::Batch(batch)));
        if !matches!(sent, Some(Ok(()))) {
            logs.dropped.fetch_add(lines, Relaxed);
        }
    }
}
