//! UDP: datagrams that come back. Each flow has one on its way; a lost one is counted and replaced.

use super::args::Args;
use super::plan;
use super::schedule::Schedule;
use super::tally::{Summary, Tally, Watch};
use super::target::Target;
use crate::sys;
use anyhow::{Context, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// A datagram that is not back by then is lost.
const LOST_AFTER: Duration = Duration::from_millis(500);
/// Largest payload of a datagram over IPv4.
const MAX_SIZE: u64 = 65_507;
/// The number in front of each payload.
const NUMBER: usize = 8;
const EVENTS: usize = 256;

struct Flow {
    socket: UdpSocket,
    waiting: Option<(u64, Instant, Instant)>,
}

/// Runs the load and sums up.
pub(crate) fn run(args: &Args, target: &Target) -> anyhow::Result<Summary> {
    let plain = !args.close && args.pipeline == 1 && !args.idle && args.slow.is_none();
    if !plain || args.upload.is_some() || args.bulk.is_some() || args.connect || args.resume {
        bail!(
            "udp:// knows neither --close nor --pipeline, --idle, --slow, --upload, --bulk, --connect, \
             --resume: leave them out"
        );
    }
    let size = args.size.unwrap_or(64);
    if size < NUMBER as u64 || size > MAX_SIZE {
        bail!("--size {size}: use {NUMBER} to {MAX_SIZE} bytes for udp");
    }
    let mut payload = plan::payload(size);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut flows = Vec::new();
    for key in 0..args.connections {
        flows.push(open(target.address, &epoll, u64::from(key))?);
    }
    let mut tally = Tally::new(Watch {
        pids: args.pids.clone(),
        cores: args.cores.clone(),
    })?;
    nix::sys::prctl::set_timerslack(1)?;
    tally.connections = u64::from(args.connections);
    let start = Instant::now();
    let (measured, span) = (start + args.warmup(), args.warmup() + args.span());
    let mut schedule = Schedule::new(start, span, args.requests, args.rate);
    let mut free: Vec<usize> = (0..flows.len()).rev().collect();
    let mut events = vec![EpollEvent::empty(); EVENTS];
    let mut buffer = vec![0; 65_536];
    let mut number = 0_u64;
    loop {
        let now = Instant::now();
        if now >= measured && !tally.is_open() {
            tally.open(measured)?;
        }
        while !free.is_empty()
            && let Some(at) = schedule.take(now)
        {
            let Some(place) = free.pop() else { break };
            number += 1;
            payload[..NUMBER].copy_from_slice(&number.to_be_bytes());
            // A refused port shows as an error of a later call on the same socket.
            match flows[place].socket.send(&payload) {
                Ok(n) => tally.sent_bytes += n as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => tally.failed(|| format!("send: {error}")),
            }
            flows[place].waiting = Some((number, at, now + LOST_AFTER));
        }
        let due = schedule.due(now);
        if due.is_none() {
            if now >= start + span {
                tally.close()?;
            }
            if free.len() == flows.len() {
                break;
            }
        }
        let mut until = now + Duration::from_millis(50);
        match due {
            Some(at) if !free.is_empty() => until = until.min(at),
            _ => {}
        }
        let ready = sys::wait(
            &epoll,
            &mut events,
            until.saturating_duration_since(Instant::now()),
        )?;
        for event in events.iter().take(ready) {
            let place = usize::try_from(event.data())?;
            let waited = flows[place].waiting.is_some();
            receive(&mut flows[place], &payload, &mut buffer, &mut tally);
            if waited && flows[place].waiting.is_none() {
                free.push(place);
            }
        }
        let now = Instant::now();
        for (place, flow) in flows.iter_mut().enumerate() {
            if flow.waiting.is_some_and(|(_, _, until)| now > until) {
                flow.waiting = None;
                tally.lost += 1;
                free.push(place);
            }
        }
    }
    tally.close()?;
    if tally.done == 0 && tally.errors == 0 {
        tally.failed(|| "no datagram came back".into());
    }
    tally.summary()
}

fn open(to: SocketAddr, epoll: &Epoll, key: u64) -> anyhow::Result<Flow> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket
        .connect(to)
        .with_context(|| format!("connect to {to}"))?;
    socket.set_nonblocking(true)?;
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    epoll.add(&socket, EpollEvent::new(flags, key))?;
    Ok(Flow {
        socket,
        waiting: None,
    })
}

fn receive(flow: &mut Flow, payload: &[u8], buffer: &mut [u8], tally: &mut Tally) {
    loop {
        let n = match flow.socket.recv(buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => {
                flow.waiting = None;
                tally.failed(|| format!("receive: {error}"));
                return;
            }
        };
        tally.received_bytes += n as u64;
        let Some((wanted, at, _)) = flow.waiting else {
            continue; // came after it was given up as lost
        };
        let number = buffer
            .first_chunk::<NUMBER>()
            .map(|b| u64::from_be_bytes(*b));
        if number.is_some_and(|number| number < wanted) {
            continue; // an older one, given up as lost
        }
        if number != Some(wanted) || buffer[NUMBER..n.max(NUMBER)] != payload[NUMBER..] {
            tally.failed(|| format!("a datagram of {n} bytes came back changed"));
        } else {
            tally.answered(at, n as u64);
        }
        flow.waiting = None;
    }
}
