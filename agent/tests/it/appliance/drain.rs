//! The end of an appliance: what is open may end by itself.

use super::host::{Host, at, goes_round, until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const WEB: &str = "127.0.0.10:8080";
const RAW: &str = "127.0.0.10:9000";

fn file(drain: &str) -> String {
    format!(
        r#"
{drain}
[[load_balancers]]
name = "lb"
vips = ["127.0.0.10"]
listeners = [
    {{ protocol = "HTTP", port = 8080, default_pool = "web" }},
    {{ protocol = "TCP", port = 9000, default_pool = "raw" }},
]
pools = [
    {{ name = "web", protocol = "HTTP", members = [{{ address = "127.0.0.21", port = 80 }}] }},
    {{ name = "raw", protocol = "TCP", members = [{{ address = "127.0.0.21", port = 80 }}] }},
]
"#
    )
}

fn host(drain: &str) -> Host {
    let mut host = Host::with_members(&[("127.0.0.21:80", "a1")]);
    host.write(&file(drain));
    host.run(&[]);
    host.serves();
    host
}

/// An open connection through the TCP listener.
fn open(host: &Host) -> TcpStream {
    let mut stream = host.connect(at(RAW));
    assert!(goes_round(&mut stream));
    stream
}

/// Waits until nothing more is accepted.
fn refuses(host: &Host) {
    until("a refused connection", || {
        let tried = host.ns.tcp_connect(at(RAW), Duration::from_secs(1));
        tried.is_err().then_some(())
    });
}

const LONG: &str = "drain_timeout = 86400000";

#[test]
fn what_is_open_ends_by_itself() {
    let mut host = host(LONG);
    let mut long = open(&host);
    let mut kept = host.connect(at(WEB));
    kept.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut answer = [0; 41];
    kept.read_exact(&mut answer).unwrap();
    host.signal(libc::SIGTERM);
    refuses(&host);
    // An idle client is told; one with a request would get its answer.
    assert_eq!(kept.read(&mut [0]).unwrap_or(0), 0);
    assert!(goes_round(&mut long));
    assert!(host.processes() > 0);
    drop(long);
    host.ended();
    assert_eq!(host.processes(), 0, "{}", host.logs());
    // The negative control: what is closed at once is seen to be.
    host.write(&file("drain_timeout = 0"));
    host.run(&[]);
    host.serves();
    let mut long = open(&host);
    host.signal(libc::SIGTERM);
    host.ended();
    assert!(!goes_round(&mut long));
}

#[test]
fn a_request_in_flight_is_answered() {
    let mut host = Host::new();
    let member = host.ns.tcp_listener(at("127.0.0.24:80")).unwrap();
    member.set_nonblocking(false).unwrap();
    host.write(&file(LONG).replacen("127.0.0.21", "127.0.0.24", 1));
    host.run(&[]);
    host.serves();
    let mut client = host.connect(at(WEB));
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let (mut at_member, _) = member.accept().unwrap();
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") {
        at_member.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    host.signal(libc::SIGTERM);
    refuses(&host);
    at_member
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("late"),
        "{answer}"
    );
    host.ended();
    assert_eq!(host.processes(), 0);
}

#[test]
fn the_deadline_closes_what_is_left() {
    let mut host = host("drain_timeout = 200");
    let mut long = open(&host);
    host.signal(libc::SIGTERM);
    host.ended();
    assert!(!goes_round(&mut long));
    let logs = host.logs();
    assert!(logs.contains("drain deadline: closing"), "{logs}");
    assert_eq!(host.processes(), 0);
}

#[test]
fn a_second_signal_ends_at_once() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut host = host(LONG);
        let mut long = open(&host);
        host.signal(libc::SIGTERM);
        refuses(&host);
        assert!(goes_round(&mut long));
        host.signal(signal);
        host.ended();
        assert!(!goes_round(&mut long));
        assert_eq!(host.processes(), 0);
    }
}

#[test]
fn an_operator_drains_by_command() {
    let mut host = host("drain_timeout = 0");
    let (good, text) = host.ctl(&["drain", "--timeout", "86400001"]);
    assert!(
        !good && text.contains("86400001 is out of range: use 0 to 86400000"),
        "{text}"
    );
    let mut long = open(&host);
    let (good, text) = host.ctl(&["drain", "--timeout", "86400000"]);
    assert!(good, "{text}");
    refuses(&host);
    assert!(
        goes_round(&mut long),
        "the command's deadline, not the file's"
    );
    drop(long);
    host.ended();
    // Without a deadline it is the file's.
    host.run(&[]);
    host.serves();
    let mut long = open(&host);
    let (good, text) = host.ctl(&["drain"]);
    assert!(good, "{text}");
    host.ended();
    assert!(!goes_round(&mut long));
}

/// A reload changes how the next end goes.
#[test]
fn the_deadline_is_that_of_the_file_in_force() {
    let mut host = host("drain_timeout = 0");
    host.write(&file(LONG));
    let (good, text) = host.ctl(&["reload"]);
    assert!(good, "{text}");
    let mut long = open(&host);
    host.signal(libc::SIGTERM);
    refuses(&host);
    assert!(goes_round(&mut long));
    drop(long);
    host.ended();
}

#[test]
fn the_vip_goes_first() {
    let mut host = host(LONG);
    host.add_address("eth0", "192.0.2.2/24");
    let vrrp = "[[vrrp]]\nvrid = 7\ninterface = \"eth0\"\npriority = 100\nadvert_interval = 10\n\
                source = \"192.0.2.2\"\naddresses = [\"192.0.2.10/24\"]\n";
    host.write(&format!("{}{vrrp}", file(LONG)));
    let (good, text) = host.ctl(&["reload"]);
    assert!(good, "{text}");
    let vip = at("192.0.2.10:0").ip();
    until("the VIP", || host.has_address(vip).then_some(()));
    let mut long = open(&host);
    host.signal(libc::SIGTERM);
    refuses(&host);
    assert!(!host.has_address(vip), "before anything is refused");
    assert!(goes_round(&mut long));
    drop(long);
    host.ended();
}
