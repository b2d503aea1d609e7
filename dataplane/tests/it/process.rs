//! The data plane as a process of its own: privileges, restart after a kill, exhausted descriptors.
//! The process is this test binary, started again to run [`child`] alone.

use crate::kit::*;
use krater_dataplane::{Settings, run};
use krater_model::config::DATAPLANE_UID;
use krater_model::state::ListenerProtocol;
use nix::sys::resource::{Resource, setrlimit};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

const CONTROL: &str = "KRATER_IT_CONTROL";
const FILES: &str = "KRATER_IT_FILES";
const LOG: &str = "KRATER_IT_LOG";
/// Workers of the child; 2 without it.
pub(crate) const WORKERS: &str = "KRATER_IT_WORKERS";
/// The child panics in the middle of what logs a line that contains this.
pub(crate) const PANIC: &str = "KRATER_IT_PANIC";

/// Not a test: the program of the other tests here. Without its variable it is nothing.
#[test]
fn child() {
    let Ok(control) = std::env::var(CONTROL) else {
        return;
    };
    if let Some(log) = std::env::var_os(LOG) {
        let log = std::fs::File::options().append(true).open(log).unwrap();
        tracing::subscriber::set_global_default(ErrorLog(log)).unwrap();
    }
    if let Ok(words) = std::env::var(PANIC) {
        tracing::subscriber::set_global_default(Panics(words)).unwrap();
    }
    if let Ok(files) = std::env::var(FILES) {
        let files = files.parse().unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, files, files).unwrap();
    }
    run(Settings {
        netns: Some("/proc/self/ns/net".into()),
        control: control.into(),
        uid: Some(DATAPLANE_UID),
        workers: std::env::var(WORKERS).map_or(2, |n| n.parse().unwrap()),
        metrics: None,
        progress_fd: None,
        version: "child".into(),
        log: Arc::new(|_| Ok(())),
    })
    .unwrap();
}

pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// With so many open files, and errors logged to a file.
    pub(crate) fn start(control: &Path, files: Option<u64>, log: Option<&Path>) -> Self {
        Self::start_to(control, files, log, Stdio::null())
    }

    /// With these variables.
    pub(crate) fn start_with(control: &Path, variables: &[(&str, String)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "process::child", "--nocapture"]);
        command.env(CONTROL, control).stdout(Stdio::null());
        command
            .stderr(Stdio::null())
            .envs(variables.iter().map(|(name, value)| (*name, value)));
        let process = Self(command.spawn().unwrap());
        until("control socket", || UnixStream::connect(control).ok());
        process
    }

    /// With standard output going there.
    pub(crate) fn start_to(
        control: &Path,
        files: Option<u64>,
        log: Option<&Path>,
        stdout: Stdio,
    ) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "process::child", "--nocapture"]);
        command.env(CONTROL, control).stdout(stdout);
        command.envs(files.map(|n| (FILES, n.to_string())));
        command.envs(log.map(|path| (LOG, path)));
        let process = Self(command.spawn().unwrap());
        until("control socket", || UnixStream::connect(control).ok());
        process
    }
}

/// An empty file in `folder` that the child can log to under the uid that it changes to.
pub(crate) fn log_in(folder: &Path) -> PathBuf {
    let log = folder.join("log");
    std::fs::write(&log, "").unwrap();
    std::fs::set_permissions(&log, PermissionsExt::from_mode(0o666)).unwrap();
    log
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn only_what_it_needs_is_left_of_root() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("c.sock");
    let process = Process::start(&control, None, None);
    let dataplane = Dataplane::attach(&control);
    let mut setup = Setup::tcp(&[echo()]);
    setup.listener().port = krater_model::Port::new(80).unwrap();
    setup.apply(&dataplane);
    assert!(
        goes_round(&mut setup.connect()),
        "a privileged port, bound after root was given up"
    );
    let pid = process.0.id();
    let mut threads = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap();
        if task.file_name().to_str() == Some(&pid.to_string()) {
            continue; // the test harness's own thread
        }
        threads += 1;
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let uid = DATAPLANE_UID.to_string();
        let four = [uid.as_str(); 4].join(" ");
        assert_eq!((field("Uid:"), field("Gid:")), (four.clone(), four));
        assert_eq!(field("Groups:"), "");
        assert_eq!(field("NoNewPrivs:"), "1");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), format!("{:016x}", 1 << 10), "{set}");
        }
    }
    assert!(
        threads >= 3,
        "control thread and two workers, saw {threads}"
    );
}

#[test]
fn after_a_kill_the_next_one_serves_the_same_address() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("c.sock");
    let setup = Setup::tcp(&[echo()]);
    let mut open = Vec::new();
    for _ in 0..2 {
        let process = Process::start(&control, None, None);
        setup.apply(&Dataplane::attach(&control));
        open.push(setup.connect());
        assert!(open.last_mut().is_some_and(goes_round));
        drop(process); // SIGKILL: the socket file stays behind
    }
    let _living = Process::start(&control, None, None);
    let mut second = Command::new(std::env::current_exe().unwrap());
    second
        .args(["--exact", "process::child"])
        .env(CONTROL, &control)
        .stdout(Stdio::null());
    let refused = second.stderr(Stdio::null()).status().unwrap();
    assert!(!refused.success(), "two on one control socket");
}

/// Descriptors run out while clients stay: accepting pauses, says so once, and does not spin; whoever
/// is inside is served, and when places come back the others get in.
#[test]
fn without_descriptors_it_waits_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("c.sock");
    let log = log_in(folder.path());
    // 128 are in pipes, some 20 in runtimes and listeners; this one connection comes in early.
    let _process = Process::start(&control, Some(200), Some(&log));
    let dataplane = Dataplane::attach(&control);
    let member = server(|mut stream| {
        let mut request = [0; 1024];
        while matches!(stream.read(&mut request), Ok(1..)) {
            let _gone = stream.write_all(b"HTTP/1.1 204 Fine\r\n\r\n");
        }
    });
    let setup = Setup::new(ListenerProtocol::Http, &[member]);
    setup.apply(&dataplane);
    let served = |stream: &mut TcpStream| {
        let mut answer = [0; 21];
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && answer.starts_with(b"HTTP/1.1 204 ")
    };
    let mut inside = setup.connect();
    assert!(served(&mut inside));
    // A new one to the control socket would need a descriptor.
    let mut watch = Watch::new(&control);
    assert_eq!(watch.pauses(), 0);
    let begin = std::time::Instant::now();
    let mut crowd: Vec<_> = (0..150).map(|_| setup.connect()).collect();
    until("exhausted for a while", || {
        (watch.pauses() >= 20).then_some(())
    });
    assert!(served(&mut inside), "who is inside is served");
    // Two workers accept on the address, and each pauses for 50 ms after a failure.
    let most = 2 * (begin.elapsed().as_millis() / 50 + 1);
    let paused = u128::from(watch.pauses());
    assert!(paused <= most, "{paused} pauses, at most {most}");
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(said.matches("accepting pauses").count(), 1, "{said}");
    crowd.truncate(10);
    until("served again", || {
        served(&mut setup.connect()).then_some(())
    });
    assert!(served(&mut inside));
    drop((crowd, inside));
    until("all gone", || {
        let stats = dataplane.listener(setup.lb.listeners[0].id).stats;
        (stats.active_connections == 0).then_some(())
    });
    assert_eq!(dataplane.metric("krater_dataplane_panics_total"), 0);
    assert_eq!(
        dataplane.metric("krater_dataplane_worker_restarts_total"),
        0
    );
}

/// A connection to the control socket that stays.
pub(crate) struct Watch(BufReader<UnixStream>);

impl Watch {
    pub(crate) fn new(control: &Path) -> Self {
        let stream = UnixStream::connect(control).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Times that accepting paused.
    pub(crate) fn pauses(&mut self) -> u64 {
        self.metric("krater_dataplane_accept_failures_total")
    }

    /// A metric, with its labels as they are written.
    pub(crate) fn metric(&mut self, name: &str) -> u64 {
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        self.0.get_mut().write_all(request).unwrap();
        let (mut length, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "kept open");
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap().parse().unwrap()
    }
}

/// Writes a line for every error that is logged.
struct ErrorLog(std::fs::File);

impl tracing::Subscriber for ErrorLog {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let line = format!("{event:?}\n").replace("\\n", " ");
        (&self.0).write_all(line.as_bytes()).unwrap();
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// A fault in our own code, wherever the wanted line is logged.
struct Panics(String);

impl tracing::Subscriber for Panics {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        assert!(!format!("{event:?}").contains(&self.0), "on purpose");
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
