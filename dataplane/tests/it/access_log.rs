//! Access logs: what stands in a line, that nothing is lost or mixed up, that a writer which cannot write
//! holds up nobody, and HAProxy's own lines for the same traffic.

use crate::kit::*;
use crate::process::Process;
use krater_model::state::ListenerProtocol::{Http, Tcp};
use krater_model::state::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A member that answers whole requests: `/cut` ends in the middle, `/gone` without an answer.
fn web() -> SocketAddr {
    server(|mut stream| {
        let mut head = Vec::new();
        while let Some(next) = byte(&mut stream) {
            head.push(next);
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            let text = String::from_utf8_lossy(&head).into_owned();
            head.clear();
            let length = text.to_ascii_lowercase();
            let length = length
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            stream.read_exact(&mut body).unwrap();
            let answer: &[u8] = match text.split(' ').nth(1) {
                Some("/cut") => b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
                Some("/gone") => b"",
                Some("/hints") => {
                    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
                }
                _ if text.starts_with("HEAD") => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
                _ => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            };
            let _gone = stream.write_all(answer);
            if text.contains("/cut") || text.contains("/gone") {
                return;
            }
        }
    })
}

/// Sends bytes on a connection of its own and reads to the end of what comes.
fn exchange(address: SocketAddr, bytes: &[u8]) -> (SocketAddr, Vec<u8>) {
    let mut stream = client(address);
    let from = stream.local_addr().unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    while let Some(next) = byte(&mut stream) {
        answer.push(next);
    }
    (from, answer)
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

struct Log {
    folder: tempfile::TempDir,
}

impl Log {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    /// Lets the setup's listener log here.
    fn take(&self, setup: &mut Setup, format: AccessLogFormat) {
        let to = self.path().to_str().unwrap().to_owned();
        setup.listener().options.access_log = Some(AccessLog { format, to });
        setup.listener().name = "front".into();
        setup.pool().name = "back".into();
        for (member, name) in setup.pool().members.iter_mut().zip(["s1", "s2"]) {
            member.name = name.into();
        }
    }

    fn lines_of(path: &Path, count: usize) -> Vec<String> {
        let lines = until("lines of the log", || {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        });
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }

    fn lines(&self, count: usize) -> Vec<String> {
        Self::lines_of(&self.path(), count)
    }
}

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn a_request_is_one_object() {
    // One worker, whose lines are in order.
    let (log, dataplane) = (Log::new(), Dataplane::start(1));
    let mut setup = Setup::new(Http, &[web()]);
    log.take(&mut setup, AccessLogFormat::Json);
    setup.apply(&dataplane);
    let (from, answer) = exchange(setup.address(), get("/a?b=c").as_bytes());
    let line = json(&log.lines(1)[0]);
    assert_eq!(line["client"], from.ip().to_string());
    assert_eq!(line["client_port"], from.port());
    let words = [
        "listener", "pool", "member", "method", "target", "version", "end",
    ];
    let words = words.map(|key| line[key].as_str().unwrap());
    assert_eq!(
        words,
        ["front", "back", "s1", "GET", "/a?b=c", "HTTP/1.1", "--"]
    );
    assert_eq!(
        (&line["status"], &line["bytes"]),
        (&200.into(), &answer.len().into())
    );
    for key in [
        "request_ms",
        "queue_ms",
        "connect_ms",
        "response_ms",
        "total_ms",
    ] {
        assert!(line[key].is_u64(), "{key} of {line}");
    }
    let year = line["time"].as_str().unwrap().get(..2);
    assert_eq!(year, Some("20"), "{line}");
    // What we answer ourselves, and why.
    setup.pool().members.clear();
    setup.apply(&dataplane);
    exchange(setup.address(), get("/b").as_bytes());
    exchange(setup.address(), b"GET / HTTP/1.1\r\nHost : a\r\n\r\n");
    let lines = log.lines(3);
    let (none, bad) = (json(&lines[1]), json(&lines[2]));
    assert_eq!((&none["status"], &none["end"]), (&503.into(), &"SC".into()));
    assert_eq!(
        (&none["reason"], &none["target"]),
        (&"no member available".into(), &"/b".into())
    );
    assert!(none["member"].is_null());
    assert_eq!((&bad["status"], &bad["end"]), (&400.into(), &"PR".into()));
    assert_eq!(bad["reason"], "white space before the colon");
    assert!(bad["method"].is_null());
}

/// Interim answers count where they are sent: an HTTP/1.0 client gets none, and nothing of another request's.
#[test]
fn bytes_are_those_that_were_sent() {
    let (log, dataplane) = (Log::new(), Dataplane::start(1));
    let mut setup = Setup::new(Http, &[web()]);
    log.take(&mut setup, AccessLogFormat::Json);
    setup.apply(&dataplane);
    let requests = [
        get("/hints"),
        "GET /hints HTTP/1.0\r\n\r\n".into(),
        get("/a"),
    ];
    let sent = requests.map(|request| exchange(setup.address(), request.as_bytes()).1);
    assert!(sent[0].starts_with(b"HTTP/1.1 103") && sent[1].starts_with(b"HTTP/1.1 200"));
    for (line, sent) in log.lines(3).iter().zip(sent) {
        assert_eq!(json(line)["bytes"], sent.len(), "{line}");
    }
}

#[test]
fn without_an_option_there_is_no_line() {
    let (log, dataplane) = (Log::new(), Dataplane::start(1));
    let mut setup = Setup::new(Http, &[web()]);
    setup.apply(&dataplane);
    exchange(setup.address(), get("/silent").as_bytes());
    log.take(&mut setup, AccessLogFormat::Json);
    setup.apply(&dataplane);
    exchange(setup.address(), get("/logged").as_bytes());
    assert_eq!(json(&log.lines(1)[0])["target"], "/logged");
    setup.listener().options.access_log = None;
    setup.apply(&dataplane);
    exchange(setup.address(), get("/silent").as_bytes());
    assert_eq!(
        dataplane.metric("krater_dataplane_access_log_lines_total"),
        1
    );
}

/// Whatever clients send, and however things are called, an entry is one line.
#[test]
fn nobody_forges_a_line() {
    for format in [AccessLogFormat::Json, AccessLogFormat::Haproxy] {
        let (log, dataplane) = (Log::new(), Dataplane::start(1));
        let mut setup = Setup::new(Http, &[web()]);
        log.take(&mut setup, format);
        setup.listener().name = "a\n127.0.0.1 forged \"".into();
        setup.pool().name = "\u{1b}[2J".into();
        setup.apply(&dataplane);
        let hostile = [
            &b"GET /\x1b[2J HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"[..],
            b"GET /\"} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            b"GET /a\nb HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /\xff\xe2\x80\xa8 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            b"G\x00T / HTTP/1.1\r\n\r\n",
        ];
        for bytes in hostile {
            exchange(setup.address(), bytes);
        }
        for line in log.lines(hostile.len()) {
            assert!(line.bytes().all(|c| (b' '..=b'~').contains(&c)), "{line:?}");
            assert!(!line.contains("forged"), "{line}");
            let id = setup.lb.listeners[0].id.to_string();
            assert!(
                line.contains(&id),
                "by its id, as the name is no word: {line}"
            );
            if format == AccessLogFormat::Json {
                json(&line);
            } else {
                assert_eq!(line.matches('"').count(), 2, "{line}");
            }
        }
    }
}

/// Each request has its line, whole, however many workers write.
#[test]
fn no_line_is_lost_or_mixed_up() {
    for workers in [1, 2, 4] {
        let (log, dataplane) = (Log::new(), Dataplane::start(workers));
        let mut setup = Setup::new(Http, &[web()]);
        log.take(&mut setup, AccessLogFormat::Json);
        setup.apply(&dataplane);
        let address = setup.address();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    for n in 0..50 {
                        exchange(address, get(&format!("/{thread}/{n}")).as_bytes());
                    }
                });
            }
        });
        let mut targets: Vec<_> = log
            .lines(400)
            .iter()
            .map(|line| json(line)["target"].as_str().unwrap().to_owned())
            .collect();
        targets.sort();
        targets.dedup();
        assert_eq!(targets.len(), 400, "{workers} workers");
        let metric = |name| dataplane.metric(name);
        assert_eq!(metric("krater_dataplane_access_log_lines_total"), 400);
        assert_eq!(metric("krater_dataplane_access_log_lines_dropped_total"), 0);
    }
}

#[test]
fn a_file_that_was_moved_away_is_opened_anew() {
    let (log, dataplane) = (Log::new(), Dataplane::start(2));
    let mut setup = Setup::new(Http, &[web()]);
    log.take(&mut setup, AccessLogFormat::Json);
    setup.apply(&dataplane);
    exchange(setup.address(), get("/1").as_bytes());
    log.lines(1);
    let old = log.folder.path().join("access.log.1");
    std::fs::rename(log.path(), &old).unwrap();
    // Until it is told, it writes on.
    exchange(setup.address(), get("/2").as_bytes());
    Log::lines_of(&old, 2);
    assert!(!log.path().exists());
    let (status, body) = dataplane.request("POST", "/reopen-logs", b"");
    assert_eq!(status, 204, "{body}");
    assert!(log.path().exists(), "before the next line");
    exchange(setup.address(), get("/3").as_bytes());
    assert_eq!(json(&log.lines(1)[0])["target"], "/3");
    Log::lines_of(&old, 2);
}

#[test]
fn signals_open_files_anew() {
    let log = Log::new();
    let folder = tempfile::tempdir().unwrap();
    // The child is another user.
    let open = |path: &Path| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(path, mode).unwrap();
    };
    open(log.folder.path());
    let control = folder.path().join("c.sock");
    let process = Process::start(&control, None, None);
    let dataplane = Dataplane::attach(&control);
    let mut setup = Setup::new(Http, &[web()]);
    log.take(&mut setup, AccessLogFormat::Haproxy);
    setup.apply(&dataplane);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(process.0.id()).unwrap());
    for (n, signal) in [nix::sys::signal::SIGUSR1, nix::sys::signal::SIGHUP]
        .into_iter()
        .enumerate()
    {
        exchange(setup.address(), get("/1").as_bytes());
        log.lines(1);
        std::fs::rename(log.path(), log.folder.path().join(n.to_string())).unwrap();
        nix::sys::signal::kill(pid, signal).unwrap();
        until("the file", || log.path().exists().then_some(()));
    }
}

/// Where nothing can be written, requests go on and the lines are counted.
#[test]
fn what_cannot_be_written_is_counted() {
    let (log, dataplane) = (Log::new(), Dataplane::start(2));
    let mut setup = Setup::new(Http, &[web()]);
    log.take(&mut setup, AccessLogFormat::Json);
    let missing = log.folder.path().join("missing");
    let to = missing.join("access.log");
    for wrong in [to.to_str().unwrap(), "/dev/null"] {
        let options = &mut setup.listener().options;
        options.access_log.as_mut().unwrap().to = wrong.into();
        setup.apply(&dataplane);
        let dropped = || dataplane.metric("krater_dataplane_access_log_lines_dropped_total");
        let before = dropped();
        for _ in 0..20 {
            let (_, answer) = exchange(setup.address(), get("/").as_bytes());
            assert!(answer.ends_with(b"hello"));
        }
        until("lines counted", || (dropped() == before + 20).then_some(()));
    }
    assert_eq!(
        dataplane.metric("krater_dataplane_access_log_lines_total"),
        0
    );
    // It is tried again: nobody has to do anything but mend it.
    let options = &mut setup.listener().options;
    options.access_log.as_mut().unwrap().to = to.to_str().unwrap().into();
    setup.apply(&dataplane);
    std::fs::create_dir(&missing).unwrap();
    until("a line", || {
        exchange(setup.address(), get("/").as_bytes());
        std::fs::read_to_string(&to)
            .is_ok_and(|text| !text.is_empty())
            .then_some(())
    });
}

/// Standard output whose reader has stopped reading.
#[test]
fn a_reader_that_stops_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("c.sock");
    let mut process = Process::start_to(&control, None, None, Stdio::piped());
    let stdout = process.0.stdout.take().unwrap();
    let dataplane = Dataplane::attach(&control);
    let mut setup = Setup::new(Http, &[web()]);
    let (format, to) = (AccessLogFormat::Haproxy, "stdout".to_owned());
    setup.listener().options.access_log = Some(AccessLog { format, to });
    setup.apply(&dataplane);
    let dropped = || dataplane.metric("krater_dataplane_access_log_lines_dropped_total");
    // Long lines: the pipe and then the queue of 8 MiB overflow.
    let long = format!("/{}", "x".repeat(4_000));
    let mut asked = 0;
    let mut stream = setup.connect();
    until("lines dropped", || {
        for _ in 0..500 {
            asked += 1;
            let request = format!("GET {long} HTTP/1.1\r\nHost: a\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = [0; 43];
            stream.read_exact(&mut answer).unwrap();
            assert!(answer.ends_with(b"hello"));
        }
        (dropped() > 0).then_some(())
    });
    // The same traffic with a reader: the rest comes, and each line is there or counted.
    drop(stream);
    let mut reader = BufReader::new(stdout);
    let mut seen = 0;
    while seen + dropped() < asked {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        seen += u64::from(line.contains(&long));
    }
    assert_eq!(seen + dropped(), asked);
}

#[test]
fn destinations_that_are_none_are_refused() {
    let dataplane = Dataplane::start(1);
    for to in [
        "",
        "access.log",
        "/var/log/",
        "/a\0b",
        &format!("/{}", "x".repeat(4_095)),
    ] {
        let mut setup = Setup::tcp(&[]);
        let (format, to) = (AccessLogFormat::Json, to.to_owned());
        setup.listener().options.access_log = Some(AccessLog { format, to });
        let (status, body) = dataplane.put(&dataplane.snapshot(vec![setup.lb.clone()]));
        assert_eq!(status, 400, "{body}");
        assert!(
            body.contains("listeners[0].options.access_log.to")
                && body.contains("use stdout, or the absolute path of a file"),
            "{body}"
        );
    }
}

/// Debian's HAProxy with one HTTP and one TCP frontend whose lines come over a socket.
struct HaProxy {
    http: SocketAddr,
    tcp: SocketAddr,
    lines: UnixDatagram,
    _process: Peer,
    _folder: tempfile::TempDir,
}

impl HaProxy {
    fn start(member: SocketAddr, echo: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("log");
        let lines = UnixDatagram::bind(&socket).unwrap();
        lines.set_read_timeout(Some(PATIENCE)).unwrap();
        let (http, tcp) = (free(), free());
        let text = format!(
            "global\n log {} len 16384 format raw local0\n\
             defaults\n log global\n option redispatch\n retries 0\n timeout connect 5000\n timeout client 50000\n timeout server 50000\n\
             frontend front\n mode http\n option httplog\n bind {http}\n use_backend none if {{ path /none }}\n default_backend back\n\
             frontend tcp\n mode tcp\n option tcplog\n bind {tcp}\n default_backend echo\n\
             backend back\n mode http\n server s1 {member}\n\
             backend none\n mode http\n\
             backend echo\n mode tcp\n server s1 {echo}\n",
            socket.display()
        );
        let process = Peer::haproxy(folder.path(), &text, &[http, tcp]);
        Self {
            http,
            tcp,
            lines,
            _process: process,
            _folder: folder,
        }
    }

    /// The line about this client.
    fn line(&self, client: SocketAddr) -> String {
        until("HAProxy's line", || {
            let mut bytes = vec![0; 32 * 1024];
            let n = self.lines.recv(&mut bytes).unwrap();
            let line = String::from_utf8_lossy(&bytes[..n]).trim_end().to_owned();
            line.starts_with(&format!("{client} ")).then_some(line)
        })
    }
}

/// What two lines about the same thing must have in common: everything but ports, dates, and how long it
/// took, where only it matters whether it came to that. HAProxy counts the bytes of HTTP in its inner form, not
/// as they are sent.
fn comparable(line: &str) -> String {
    let (head, request) = match line.split_once('"') {
        Some((head, request)) => (head, format!("\"{request}")),
        None => (line, String::new()),
    };
    let mut fields: Vec<String> = head.split_whitespace().map(str::to_owned).collect();
    assert!(fields[0].rsplit(':').next().unwrap().parse::<u16>().is_ok());
    let date = fields[1].clone();
    let shape: String = date
        .chars()
        .map(|c| if c.is_ascii_digit() { '9' } else { c })
        .collect();
    assert!(
        shape.len() == 26 && shape.ends_with(":99:99:99.999]") && shape.starts_with("[99/"),
        "{date}"
    );
    fields[0] = "client".into();
    fields[1] = "date".into();
    let times = fields[4].split('/').map(|ms| match ms.parse::<i64>() {
        Ok(-1) => "-1",
        Ok(0..) => "ms",
        _ => panic!("{ms} in {line}"),
    });
    fields[4] = times.collect::<Vec<_>>().join("/");
    if !request.is_empty() {
        assert!(fields[6].parse::<u64>().is_ok(), "{line}");
        fields[6] = "bytes".into();
    }
    format!("{} {request}", fields.join(" "))
}

/// HAProxy's own lines for the same requests and connections.
#[test]
fn lines_are_haproxys() {
    let (member, echo) = (web(), echo());
    let haproxy = HaProxy::start(member, echo);
    let (log, dataplane) = (Log::new(), Dataplane::start(1));
    let mut setup = Setup::new(Http, &[member]);
    log.take(&mut setup, AccessLogFormat::Haproxy);
    setup.apply(&dataplane);
    let mut count = 0;
    let requests = [
        get("/a?b=c"),
        get("/with\"quote"),
        get("/{|}[]'"),
        "POST /form HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
            .into(),
        "HEAD /h HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(),
        "GET /old HTTP/1.0\r\n\r\n".into(),
        get("/gone"),
        get("/cut"),
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n".into(),
    ];
    for request in requests {
        let ours = {
            exchange(setup.address(), request.as_bytes());
            count += 1;
            log.lines(count).pop().unwrap()
        };
        let (client, _) = exchange(haproxy.http, request.as_bytes());
        let theirs = haproxy.line(client);
        assert_eq!(
            comparable(&ours),
            comparable(&theirs),
            "ours: {ours}\ntheirs: {theirs}"
        );
    }
    // A TCP listener.
    let mut tcp = Setup::new(Tcp, &[echo]);
    let second = Log::new();
    second.take(&mut tcp, AccessLogFormat::Haproxy);
    tcp.listener().name = "tcp".into();
    tcp.pool().name = "echo".into();
    dataplane.apply(vec![setup.lb.clone(), tcp.lb.clone()]);
    let through = |address| {
        let mut stream = client(address);
        let from = stream.local_addr().unwrap();
        stream.write_all(b"12345").unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(byte(&mut stream), None);
        from
    };
    through(tcp.address());
    let ours = second.lines(1).remove(0);
    let theirs = haproxy.line(through(haproxy.tcp));
    assert_eq!(comparable(&ours), comparable(&theirs), "{ours}\n{theirs}");
    // Negative control: another request is another line.
    let (client, _) = exchange(haproxy.http, get("/other").as_bytes());
    assert_ne!(
        comparable(&log.lines(count)[0]),
        comparable(&haproxy.line(client))
    );
}
