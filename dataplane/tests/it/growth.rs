//! A hundred changes of the configuration under load: no request fails, and no memory stays.

use crate::kit::*;
use crate::process::Process;
use krater_model::Weight;
use krater_model::state::ListenerProtocol;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const LAST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
/// Changes after which everything has its size: buffers, kept connections, the heap.
const FIRST: u64 = 50;
const CHANGES: u64 = 100;
/// Requests between two changes at least.
const BETWEEN: u64 = 20;
/// Connections with half a head each, which have to be kept.
const HALVES: usize = 700;

/// Answers one request after the other.
fn answering() -> SocketAddr {
    server(|mut stream| {
        let mut seen: Vec<u8> = Vec::new();
        let mut part = [0; 1024];
        loop {
            match stream.read(&mut part) {
                Ok(n) if n > 0 => seen.extend(&part[..n]),
                _ => return,
            }
            while let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
                seen.drain(..end + 4);
                if stream.write_all(ANSWER).is_err() {
                    return;
                }
            }
        }
    })
}

/// One request; whether its answer is whole.
fn answered(stream: &mut TcpStream, request: &[u8]) -> bool {
    let mut answer = Vec::new();
    let mut part = [0; 256];
    if stream.write_all(request).is_err() {
        return false;
    }
    while !answer.ends_with(b"\r\n\r\nx") {
        match stream.read(&mut part) {
            Ok(n) if n > 0 => answer.extend(&part[..n]),
            _ => return false,
        }
    }
    answer.starts_with(b"HTTP/1.1 200 ")
}

fn resident(process: &Process) -> u64 {
    let path = format!("/proc/{}/statm", process.0.id());
    let text = std::fs::read_to_string(path).unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_hundred_changes_under_load_fail_nothing_and_keep_no_memory() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(10_000)), hard).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("c.sock");
    let process = Process::start(&control, None, None);
    let dataplane = Dataplane::attach(&control);
    let mut setup = Setup::new(ListenerProtocol::Http, &[answering(), answering()]);
    setup.apply(&dataplane);
    let at = setup.address();
    let (stop, good, bad) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, good, bad) = (Arc::clone(&stop), Arc::clone(&good), Arc::clone(&bad));
            std::thread::spawn(move || {
                let mut kept = client(at);
                while !stop.load(Relaxed) {
                    for (stream, request) in [(&mut kept, REQUEST), (&mut client(at), LAST)] {
                        let count = if answered(stream, request) {
                            &good
                        } else {
                            &bad
                        };
                        count.fetch_add(1, Relaxed);
                    }
                }
            })
        })
        .collect();
    let mut change = |n: u64| {
        let before = good.load(Relaxed);
        setup.pool().members[0].weight = Weight::new(1 + n % 7).unwrap();
        setup.apply(&dataplane);
        until("requests between changes", || {
            (good.load(Relaxed) >= before + BETWEEN).then_some(())
        });
    };
    (0..FIRST).for_each(&mut change);
    let before = resident(&process);
    (0..CHANGES).for_each(&mut change);
    let after = resident(&process);
    stop.store(true, Relaxed);
    clients
        .into_iter()
        .for_each(|client| client.join().unwrap());
    assert_eq!(bad.load(Relaxed), 0, "requests failed");
    let grew = |now: u64| now * 100 > before * 105;
    assert!(
        !grew(after),
        "{before} pages before, {after} after {CHANGES} changes"
    );
    // What is kept would be seen.
    let halves: Vec<_> = (0..HALVES)
        .map(|_| {
            let mut half = client(at);
            half.write_all(b"GET / HTTP/1.1\r\nHo").unwrap();
            half
        })
        .collect();
    until("half heads are seen in memory", || {
        grew(resident(&process)).then_some(())
    });
    drop(halves);
}
