//! The spike of tokio's readiness against `io_uring`: the same relay of small messages twice, CPU time of its thread
//! per message, in pairs of one run. Nothing of the product is in it, and nothing of it in the product.
//!
//! `cargo run --release -p krater-perf --example relay -- [PAIRS] [ROUNDS]`
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement, not a program"
)]

mod sys;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Connections at a time, as in the baselines of HTTP keep-alive.
const CONNECTIONS: usize = 64;
/// Bytes of a message each way.
const MESSAGE: usize = 1_024;
/// Bytes that a direction reads at once.
const BUFFER: usize = 16 * 1_024;

/// How bytes go from one side to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Tokio,
    Uring,
    /// `io_uring` with receives that stay armed and buffers that the kernel picks.
    Multishot,
}

fn main() {
    let mut args = std::env::args()
        .skip(1)
        .map(|arg| arg.parse::<usize>().unwrap());
    let (pairs, rounds) = (args.next().unwrap_or(5), args.next().unwrap_or(3_000));
    if let Err(error) = sys::Ring::new(8) {
        println!("this kernel refuses io_uring: {error}");
        return;
    }
    let hows = [How::Tokio, How::Uring, How::Multishot];
    let mut ratios = [Vec::new(), Vec::new()];
    for pair in 1..=pairs {
        let us = hows.map(|how| run(how, rounds));
        let line: Vec<_> = hows
            .iter()
            .zip(us)
            .map(|(how, us)| format!("{how:?} {us:.2}"))
            .collect();
        println!(
            "pair {pair}: CPU µs of the relay per message and answer: {}",
            line.join(" · ")
        );
        for (ratio, us_of) in ratios.iter_mut().zip(us.iter().skip(1)) {
            ratio.push(us_of / us.first().unwrap());
        }
    }
    for (how, mut ratios) in hows.iter().skip(1).zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        let (least, most) = (ratios.first().unwrap(), ratios.last().unwrap());
        let median = ratios.get(ratios.len() / 2).unwrap();
        println!("{how:?} to tokio: {median:.2} ({least:.2} to {most:.2}) of {pairs} pairs");
    }
}

/// Microseconds of the relay's thread per message and answer.
fn run(how: How, rounds: usize) -> f64 {
    let member = echo();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    let (ready, ends): (Sender<()>, Receiver<()>) = channel();
    let relay = std::thread::spawn(move || {
        let pairs: Vec<(TcpStream, TcpStream)> = (0..CONNECTIONS)
            .map(|_| {
                let (client, _) = listener.accept().unwrap();
                let member = TcpStream::connect(member).unwrap();
                for stream in [&client, &member] {
                    stream.set_nodelay(true).unwrap();
                }
                (client, member)
            })
            .collect();
        ready.send(()).unwrap();
        let before = sys::thread_cpu();
        match how {
            How::Tokio => tokio_relay(pairs),
            How::Uring => sys::relay(&pairs, false),
            How::Multishot => sys::relay(&pairs, true),
        }
        sys::thread_cpu().saturating_sub(before)
    });
    let mut clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let client = TcpStream::connect(at).unwrap();
            client.set_nodelay(true).unwrap();
            client
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            client
        })
        .collect();
    ends.recv().unwrap();
    let (message, mut answer) = ([7; MESSAGE], [0; MESSAGE]);
    for _ in 0..rounds {
        for client in &mut clients {
            client.write_all(&message).unwrap();
        }
        for client in &mut clients {
            client.read_exact(&mut answer).unwrap();
        }
    }
    drop(clients);
    let cpu: Duration = relay.join().unwrap();
    cpu.as_secs_f64() * 1e6 / f64::from(u32::try_from(rounds * CONNECTIONS).unwrap())
}

/// Sends back what comes.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(CONNECTIONS) {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut buffer = [0; BUFFER];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(buffer.get(..n).unwrap()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    at
}

/// One task per connection, read and write tried before polling, as the product does.
fn tokio_relay(pairs: Vec<(TcpStream, TcpStream)>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let one = |(client, member): (TcpStream, TcpStream)| async move {
            let open = |stream: TcpStream| {
                stream.set_nonblocking(true).unwrap();
                tokio::net::TcpStream::from_std(stream).unwrap()
            };
            let (client, member) = (open(client), open(member));
            tokio::select! {
                () = direction(&client, &member) => {}
                () = direction(&member, &client) => {}
            }
        };
        let tasks: Vec<_> = pairs
            .into_iter()
            .map(|pair| tokio::task::spawn_local(one(pair)))
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn direction(from: &tokio::net::TcpStream, to: &tokio::net::TcpStream) {
    let mut buffer = [0; BUFFER];
    loop {
        from.readable().await.unwrap();
        let n = match from.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let mut rest = buffer.get(..n).unwrap();
        while !rest.is_empty() {
            match to.try_write(rest) {
                Ok(n) => rest = rest.get(n..).unwrap(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    to.writable().await.unwrap();
                }
                Err(_) => return,
            }
        }
    }
}
