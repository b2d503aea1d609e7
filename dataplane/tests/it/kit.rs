//! Starting data planes, members and clients.

use krater_dataplane::{Settings, run};
use krater_model::control::{Applied, DataplaneStatus, ListenerStatus, MemberStatus, Snapshot};
use krater_model::state::*;
use krater_model::*;
use socket2::{Domain, Socket, Type};
use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No condition in a test takes longer, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a condition.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A running data plane; drained on drop.
pub(crate) struct Dataplane {
    control: PathBuf,
    _folder: Option<tempfile::TempDir>,
    thread: Option<JoinHandle<()>>,
    generation: AtomicU32,
}

impl Dataplane {
    pub(crate) fn start(workers: u16) -> Self {
        Self::start_with(workers, None)
    }

    /// With a file that progress records go to.
    pub(crate) fn start_with(workers: u16, progress: Option<std::os::fd::OwnedFd>) -> Self {
        Self::start_all(workers, progress, None)
    }

    /// With metrics on an address of their own.
    pub(crate) fn start_metrics(metrics: SocketAddr) -> Self {
        Self::start_all(1, None, Some(metrics))
    }

    fn start_all(
        workers: u16,
        progress: Option<std::os::fd::OwnedFd>,
        metrics: Option<SocketAddr>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("dataplane.sock");
        let settings = Settings {
            netns: None,
            control: control.clone(),
            uid: None,
            workers,
            metrics,
            progress_fd: progress.map(std::os::fd::IntoRawFd::into_raw_fd),
            version: "test".into(),
            log: Arc::new(|level| match level {
                "debug" | "info" => Ok(()),
                other => Err(format!("{other:?} is not a level")),
            }),
        };
        let thread = std::thread::spawn(move || run(settings).unwrap());
        let this = Self {
            control,
            _folder: Some(folder),
            thread: Some(thread),
            generation: AtomicU32::new(0),
        };
        until("control socket", || UnixStream::connect(&this.control).ok());
        this
    }

    /// One that runs elsewhere and is not ended by us.
    pub(crate) fn attach(control: &Path) -> Self {
        Self {
            control: control.to_owned(),
            _folder: None,
            thread: None,
            generation: AtomicU32::new(0),
        }
    }

    /// Path of the control socket.
    pub(crate) fn control(&self) -> &Path {
        &self.control
    }

    /// A request on the control socket: status and body.
    pub(crate) fn request(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.control).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// A snapshot with the next generation.
    pub(crate) fn snapshot(&self, load_balancers: Vec<LoadBalancer>) -> Snapshot {
        let generation = u64::from(self.generation.fetch_add(1, Relaxed) + 1);
        Snapshot {
            schema: SCHEMA,
            revision: Revision {
                epoch: Epoch(1),
                generation: Generation(generation),
            },
            request_id: format!("req-{generation}"),
            load_balancers,
            certificates: Vec::new(),
        }
    }

    pub(crate) fn put(&self, snapshot: &Snapshot) -> (u16, String) {
        self.request("PUT", "/snapshot", &serde_json::to_vec(snapshot).unwrap())
    }

    /// Applies a snapshot that must be taken.
    pub(crate) fn apply(&self, load_balancers: Vec<LoadBalancer>) -> Applied {
        let (status, body) = self.put(&self.snapshot(load_balancers));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub(crate) fn status(&self) -> DataplaneStatus {
        let (status, body) = self.request("GET", "/status", b"");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub(crate) fn listener(&self, id: ListenerId) -> ListenerStatus {
        let status = self.status();
        status.listeners.into_iter().find(|l| l.id == id).unwrap()
    }

    pub(crate) fn member(&self, id: MemberId) -> MemberStatus {
        let pools = self.status().pools;
        pools
            .into_iter()
            .flat_map(|p| p.members)
            .find(|m| m.id == id)
            .unwrap()
    }

    /// A metric, with its labels as they are written.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.request("GET", "/metrics", b"");
        let line = text.lines().find(|l| l.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        if std::thread::panicking() {
            return;
        }
        let (status, body) = self.request("POST", "/drain", br#"{"deadline_ms":0}"#);
        assert_eq!(status, 204, "{body}");
        thread.join().unwrap();
    }
}

/// A VIP that no other test uses: the whole of 127/8 is local.
pub(crate) fn vip() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [a, b, _, _] = std::process::id().reverse_bits().to_be_bytes();
    let [.., c] = NEXT.fetch_add(1, Relaxed).to_be_bytes();
    Ipv4Addr::new(127, a | 1, b, c)
}

/// A load balancer with one listener and one pool.
pub(crate) struct Setup {
    pub(crate) lb: LoadBalancer,
}

impl Setup {
    pub(crate) fn new(protocol: ListenerProtocol, members: &[SocketAddr]) -> Self {
        let vip = vip();
        let port = TcpListener::bind((vip, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let pool = Pool {
            options: PoolOptions::default(),
            id: PoolId::random(),
            name: String::new(),
            enabled: true,
            protocol: if protocol.is_http() {
                PoolProtocol::Http
            } else {
                PoolProtocol::Tcp
            },
            algorithm: Algorithm::RoundRobin,
            persistence: None,
            health_monitor: None,
            tls: None,
            members: members.iter().map(|address| member(*address)).collect(),
        };
        let listener = Listener {
            options: ListenerOptions::default(),
            id: ListenerId::random(),
            name: String::new(),
            enabled: true,
            protocol,
            port: Port::new(port.into()).unwrap(),
            connection_limit: None,
            timeouts: Timeouts::default(),
            allowed_cidrs: Vec::new(),
            insert_headers: Vec::new(),
            tls: None,
            default_pool: Some(pool.id),
            l7_policies: Vec::new(),
        };
        let lb = LoadBalancer {
            id: LoadBalancerId::random(),
            name: String::new(),
            enabled: true,
            vips: vec![IpAddr::V4(vip)],
            listeners: vec![listener],
            pools: vec![pool],
        };
        Self { lb }
    }

    pub(crate) fn tcp(members: &[SocketAddr]) -> Self {
        Self::new(ListenerProtocol::Tcp, members)
    }

    pub(crate) fn listener(&mut self) -> &mut Listener {
        &mut self.lb.listeners[0]
    }

    pub(crate) fn pool(&mut self) -> &mut Pool {
        &mut self.lb.pools[0]
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.lb.vips[0], self.lb.listeners[0].port.value())
    }

    pub(crate) fn connect(&self) -> TcpStream {
        client(self.address())
    }

    pub(crate) fn apply(&self, dataplane: &Dataplane) {
        assert!(dataplane.apply(vec![self.lb.clone()]).changed);
    }
}

pub(crate) fn client(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub(crate) fn member(address: SocketAddr) -> Member {
    Member {
        id: MemberId::random(),
        name: String::new(),
        enabled: true,
        address: address.ip(),
        port: Port::new(address.port().into()).unwrap(),
        weight: Weight::new(1).unwrap(),
        backup: false,
        monitor_address: None,
        monitor_port: None,
        connection_limit: None,
        down: None,
    }
}

pub(crate) fn monitor(check: HealthCheck) -> HealthMonitor {
    HealthMonitor {
        id: HealthMonitorId::random(),
        enabled: true,
        check,
        delay: Millis::literal(50),
        timeout: Millis::literal(5_000),
        rise: ProbeCount::new(2).unwrap(),
        fall: ProbeCount::new(2).unwrap(),
    }
}

/// A member: each connection runs `serve` on a thread of its own. Lives as long as the tests.
pub(crate) fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (serve, stream) = (Arc::clone(&serve), stream.unwrap());
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A member that says its name and then echoes until the end.
pub(crate) fn named_echo(name: u8) -> SocketAddr {
    server(move |mut stream| {
        let _gone = stream.write_all(&[name]);
        let mut reader = stream.try_clone().unwrap();
        let _gone = std::io::copy(&mut reader, &mut stream);
        let _gone = stream.shutdown(std::net::Shutdown::Write);
    })
}

/// A member that echoes until the end.
pub(crate) fn echo() -> SocketAddr {
    server(|mut stream| {
        let mut reader = stream.try_clone().unwrap();
        let _gone = std::io::copy(&mut reader, &mut stream);
        let _gone = stream.shutdown(std::net::Shutdown::Write);
    })
}

/// An address that refuses connections until the test listens on it. Nobody else gets its port: a socket
/// that does not listen keeps it for as long as the tests run.
pub(crate) fn refusing() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

/// The next byte; none at the end of the connection, in order or by a reset. Silence is neither: a
/// connection that stays open without a word fails the test.
pub(crate) fn byte(stream: &mut TcpStream) -> Option<u8> {
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) => return Some(byte[0]),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => return None,
                _ => panic!("neither a byte nor an end: {error}"),
            },
        }
    }
}

/// Whether the stream works: a byte goes round.
pub(crate) fn goes_round(stream: &mut TcpStream) -> bool {
    stream.write_all(b"!").is_ok() && byte(stream) == Some(b'!')
}

/// A program that `cargo xtask setup` has fetched, and knows its libraries; or the host's own. Fetched
/// ones are in `peers/tree` of the target folder, in which this test runs from `<profile>/deps`.
pub(crate) fn peer(program: &str) -> Command {
    let own = std::env::current_exe().unwrap();
    let tree = own.ancestors().nth(3).unwrap().join("peers/tree");
    let fetched = tree.join(program);
    if fetched.exists() {
        let mut command = Command::new(fetched);
        command.env("LD_LIBRARY_PATH", tree.join("usr/lib/x86_64-linux-gnu"));
        return command;
    }
    let file = Path::new("/").join(program);
    assert!(
        file.exists(),
        "no {program}, neither here nor below {}: run `cargo xtask setup`",
        tree.display()
    );
    Command::new(file)
}

/// An address of its own for a peer, with a port that nobody uses now.
pub(crate) fn free() -> SocketAddr {
    let free = TcpListener::bind((vip(), 0)).unwrap();
    free.local_addr().unwrap()
}

/// A peer that runs until it is dropped. The shell that started it ends it when its input closes, so
/// that nothing is left when the test is killed.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    input: Option<ChildStdin>,
}

impl Peer {
    pub(crate) fn start(program: &str, arguments: &[OsString]) -> Self {
        let peer = peer(program);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "\"$@\" & read -r end; kill $!; wait", "sh"])
            .arg(peer.get_program())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        for (name, value) in peer.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        let mut child = shell.spawn().unwrap();
        let input = child.stdin.take();
        Self { child, input }
    }

    /// HAProxy with this configuration, which is written into the folder; it listens at the addresses.
    pub(crate) fn haproxy(folder: &Path, text: &str, addresses: &[SocketAddr]) -> Self {
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let arguments = [
            "-db".into(),
            "-q".into(),
            "-f".into(),
            file.into_os_string(),
        ];
        let haproxy = Self::start("usr/sbin/haproxy", &arguments);
        for address in addresses {
            until("HAProxy", || TcpStream::connect(address).ok());
        }
        haproxy
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.input = None;
        let _gone = self.child.wait();
    }
}
