//! A data plane in this process, members made by hand, and a client that reads what it gets.

/// An address where nobody listens.
pub(crate) use crate::kit::refusing as nobody;
use krater_dataplane::Settings;
use krater_model::control::{DataplaneStatus, ListenerStats};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Long enough for a loaded machine; a test that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A VIP that no other test uses: any loopback address can be bound.
fn vip() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let n = NEXT.fetch_add(1, SeqCst);
    let process = std::process::id();
    let [_, _, high, low] = process.to_be_bytes();
    Ipv4Addr::new(
        127,
        100 + (high & 0x7f),
        low,
        u8::try_from(n % 250 + 1).unwrap(),
    )
}

pub fn uuid(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// A running data plane with one load balancer.
pub struct Plane {
    pub vip: SocketAddr,
    control: PathBuf,
    generation: u64,
    pub listener: serde_json::Value,
    pub pools: Vec<serde_json::Value>,
    thread: Option<std::thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Plane {
    /// One HTTP listener whose default pool has `members`.
    pub fn with(members: &[SocketAddr]) -> Self {
        let mut plane = Self::start(2);
        plane.pools = vec![pool(1, members)];
        plane.listener["default_pool"] = uuid(1).into();
        plane.apply();
        plane
    }

    /// Nothing applied yet.
    pub fn start(workers: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("dataplane.sock");
        let settings = Settings {
            netns: None,
            control: control.clone(),
            uid: None,
            workers,
            metrics: None,
            progress_fd: None,
            version: "test".into(),
            log: Arc::new(|_| Ok(())),
        };
        let thread = std::thread::spawn(move || krater_dataplane::run(settings).unwrap());
        let listener = serde_json::json!({
            "id": uuid(100), "protocol": "HTTP", "port": 8080,
            "insert_headers": ["X-Forwarded-For"],
        });
        let plane = Self {
            vip: SocketAddr::new(IpAddr::V4(vip()), 8080),
            control,
            generation: 0,
            listener,
            pools: Vec::new(),
            thread: Some(thread),
            _folder: folder,
        };
        until("the control socket", || {
            UnixStream::connect(&plane.control).is_ok()
        });
        plane
    }

    /// Pushes `listener` and `pools`.
    pub fn apply(&mut self) {
        self.generation += 1;
        let snapshot = serde_json::json!({
            "schema": 1,
            "revision": {"epoch": 1, "generation": self.generation},
            "request_id": "req-test",
            "load_balancers": [{
                "id": uuid(200), "vips": [self.vip.ip()],
                "listeners": [self.listener], "pools": self.pools,
            }],
            "certificates": [],
        });
        let (status, body) = self.control("PUT", "/snapshot", &snapshot.to_string());
        assert_eq!(status, 200, "{body}");
    }

    pub fn stats(&self) -> ListenerStats {
        let (status, body) = self.control("GET", "/status", "");
        assert_eq!(status, 200, "{body}");
        let status: DataplaneStatus = serde_json::from_str(&body).unwrap();
        status.listeners[0].stats
    }

    /// Value of a metric without labels.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.control("GET", "/metrics", "");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }

    fn control(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.control).unwrap();
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.into())
    }

    /// Stops accepting; the process ends when no connection is left, or late.
    pub fn drain(&self, deadline_ms: u32) {
        // A process that has drained already has no socket any more.
        if UnixStream::connect(&self.control).is_ok() {
            self.control(
                "POST",
                "/drain",
                &format!("{{\"deadline_ms\":{deadline_ms}}}"),
            );
        }
    }

    /// Whether the data plane has ended.
    pub fn ended(&self) -> bool {
        self.thread
            .as_ref()
            .is_none_or(std::thread::JoinHandle::is_finished)
    }

    pub fn client(&self) -> Client {
        Client::new(TcpStream::connect(self.vip).unwrap())
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return; // the process ends anyhow
        }
        self.drain(0);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

pub fn pool(n: u32, members: &[SocketAddr]) -> serde_json::Value {
    let members: Vec<_> = members
        .iter()
        .enumerate()
        .map(|(i, member)| {
            let id = uuid(n * 1000 + u32::try_from(i).unwrap());
            serde_json::json!({"id": id, "address": member.ip(), "port": member.port(), "weight": 1})
        })
        .collect();
    serde_json::json!({
        "id": uuid(n), "protocol": "HTTP", "algorithm": "ROUND_ROBIN", "members": members,
    })
}

/// Waits until `ready` holds.
pub fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// Start line and fields, without the empty line.
    pub head: String,
    /// Body without chunked coding.
    pub body: Vec<u8>,
}

impl Message {
    pub fn start(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub fn status(&self) -> u16 {
        self.start()
            .get(9..12)
            .and_then(|s| s.parse().ok())
            .unwrap_or(0)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// A connection on which messages are read and bytes are written.
pub struct Client {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        // A proxy that refused may have closed already; what it answered is still to be read.
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    pub fn get(&mut self, path: &str) -> Message {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        self.response().unwrap()
    }

    /// A head; none at the end of the stream.
    pub fn head(&mut self) -> Option<Message> {
        let mut head = String::new();
        loop {
            let mut line = Vec::new();
            match self.reader.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return None,
                Ok(_) if line == b"\r\n" => break,
                Ok(_) => head.push_str(&String::from_utf8_lossy(&line)),
            }
        }
        Some(Message {
            head,
            body: Vec::new(),
        })
    }

    /// A request with its body.
    pub fn request(&mut self) -> Option<Message> {
        let mut message = self.head()?;
        self.body(&mut message, false)?;
        Some(message)
    }

    /// A response to anything but HEAD.
    pub fn response(&mut self) -> Option<Message> {
        let mut message = self.head()?;
        if !matches!(message.status(), 100..200 | 204 | 304) {
            self.body(&mut message, true)?;
        }
        Some(message)
    }

    fn body(&mut self, message: &mut Message, response: bool) -> Option<()> {
        if message.field("transfer-encoding").is_some() {
            loop {
                let mut line = String::new();
                self.reader.read_line(&mut line).ok()?;
                let size = line.trim_end().split(';').next()?;
                let size = usize::from_str_radix(size, 16).ok()?;
                let mut data = vec![0; size];
                self.reader.read_exact(&mut data).ok()?;
                message.body.extend_from_slice(&data);
                let mut end = String::new();
                while size == 0 && end != "\r\n" {
                    end.clear();
                    self.reader.read_line(&mut end).ok().filter(|n| *n > 0)?;
                }
                if size == 0 {
                    return Some(());
                }
                self.reader.read_line(&mut end).ok()?;
            }
        }
        if let Some(length) = message.field("content-length") {
            message.body = vec![0; length.parse().ok()?];
            return self.reader.read_exact(&mut message.body).ok();
        }
        if response {
            self.reader.read_to_end(&mut message.body).ok()?;
        }
        Some(())
    }

    pub fn read_exact(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Everything until the connection ends, in order or by a reset. One that stays open fails the test.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err(error) = self.reader.read_to_end(&mut bytes) {
            let silent = [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind());
            assert!(!silent, "no end of the connection after {bytes:?}");
        }
        bytes
    }

    /// Reads to the end; whether it was a reset.
    pub fn ends_by_reset(&mut self) -> bool {
        let mut bytes = Vec::new();
        let end = self.reader.read_to_end(&mut bytes);
        end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    }

    pub fn finish(&mut self) -> &mut Self {
        let _ = self.stream.shutdown(Shutdown::Write);
        self
    }

    /// Closes with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
}

/// A member: what it does on each connection is the test's business.
pub struct Member {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<Message>>>,
    stop: Arc<AtomicBool>,
}

impl Member {
    /// `serve` gets each connection and its number from 0.
    pub fn new(serve: impl Fn(Client, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let member = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
            stop: Arc::default(),
        };
        let (connections, stop) = (Arc::clone(&member.connections), Arc::clone(&member.stop));
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(SeqCst) {
                    return;
                }
                let n = connections.fetch_add(1, SeqCst);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(Client::new(stream.unwrap()), n));
            }
        });
        member
    }

    /// Answers every request with what `answer` says, and remembers the requests.
    pub fn answering(answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let requests: Arc<Mutex<Vec<Message>>> = Arc::default();
        let seen = Arc::clone(&requests);
        let mut member = Self::new(move |mut connection, _| {
            while let Some(request) = connection.request() {
                let bytes = answer(&request);
                seen.lock().unwrap().push(request);
                connection.send(bytes);
            }
        });
        member.requests = requests;
        member
    }

    /// Answers with `text`.
    pub fn text(text: &'static str) -> Self {
        Self::answering(move |_| ok(text))
    }

    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    pub fn requests(&self) -> Vec<Message> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

pub fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
