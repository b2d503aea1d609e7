//! The client: a process of its own in a client namespace of network `public`. It reads one JSON
//! request per line and writes one JSON answer per line, and knows nothing but addresses.

use super::probe::Sample;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// A probe's own deadline. Shorter than the kernel's first repetition of a lost SYN (1 s), so that a
/// probe of the outage is not answered after it.
const PROBE_DEADLINE: Duration = Duration::from_millis(250);
/// Requests that wait for the client; the demo sends one at a time.
const QUEUE: usize = 4;
/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// What the demo asks of a client.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// `count` requests one after the other, each on a connection of its own and with its own deadline.
    Get {
        to: SocketAddr,
        path: String,
        count: usize,
        deadline_ms: u32,
    },
    /// One request in each of so many milliseconds until `ProbeStop`.
    ProbeStart { to: SocketAddr, every_ms: u32 },
    /// Ends the probes and gives them.
    ProbeStop,
    /// Hardware addresses behind these addresses, as the kernel resolved them.
    Neighbours { of: Vec<IpAddr> },
}

/// Answer to `Get`: status and body of each request; status 0 is no answer, with the reason.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Got {
    pub(super) answers: Vec<(u16, String)>,
}

/// Answer to `ProbeStop`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Probed {
    pub(super) samples: Vec<Sample>,
}

/// Answer to `Neighbours`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Neighbours {
    pub(super) hardware: BTreeMap<IpAddr, String>,
}

/// Microseconds of CLOCK_MONOTONIC.
pub(super) fn now() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
        let seconds = u64::try_from(t.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(t.tv_nsec()).unwrap_or(0);
        seconds * 1_000_000 + nanos / 1_000
    })
}

/// Serves requests from standard input until it is closed.
pub(super) fn run() -> anyhow::Result<()> {
    // A thousand connections a second for a minute are more than the default range of ports; the
    // parameters belong to this namespace alone. Not essential: without them long runs probe less.
    for (key, value) in [("ip_local_port_range", "1024 65535"), ("tcp_tw_reuse", "1")] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value);
    }
    let (sender, mut receiver) = mpsc::channel::<String>(QUEUE);
    std::thread::Builder::new()
        .name("requests".into())
        .spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut probe: Option<Prober> = None;
        while let Some(line) = receiver.recv().await {
            let request = serde_json::from_str(&line).context("request")?;
            let answer = serve(request, &mut probe).await?;
            let mut out = std::io::stdout().lock();
            writeln!(out, "{answer}").and_then(|()| out.flush())?;
        }
        Ok(())
    })
}

async fn serve(request: Request, probe: &mut Option<Prober>) -> anyhow::Result<String> {
    let answer = match request {
        Request::Get {
            to,
            path,
            count,
            deadline_ms,
        } => {
            let deadline = Duration::from_millis(deadline_ms.into());
            let mut answers = Vec::with_capacity(count);
            for _ in 0..count {
                let got = timeout(deadline, get(to, &path)).await;
                answers.push(match got {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(error)) => (0, error.to_string()),
                    Err(_) => (0, format!("no answer within {deadline_ms} ms")),
                });
            }
            serde_json::to_string(&Got { answers })?
        }
        Request::ProbeStart { to, every_ms } => {
            let every = Duration::from_millis(every_ms.max(1).into());
            *probe = Some(Prober::start(to, every));
            "{}".to_owned()
        }
        Request::ProbeStop => {
            let samples = match probe.take() {
                Some(prober) => prober.stop().await,
                None => Vec::new(),
            };
            serde_json::to_string(&Probed { samples })?
        }
        Request::Neighbours { of } => {
            for address in &of {
                // Port 9 (discard): the answer does not matter, the resolution of the address does.
                let _ = timeout(
                    Duration::from_millis(200),
                    TcpStream::connect((*address, 9)),
                )
                .await;
            }
            let table =
                std::fs::read_to_string("/proc/self/net/arp").context("/proc/self/net/arp")?;
            serde_json::to_string(&Neighbours {
                hardware: neighbours(&table, &of),
            })?
        }
    };
    Ok(answer)
}

/// Reads the kernel's table: address, type, flags, hardware address, mask, device.
fn neighbours(table: &str, of: &[IpAddr]) -> BTreeMap<IpAddr, String> {
    table
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address: IpAddr = words.next()?.parse().ok()?;
            let hardware = words.nth(2)?;
            (of.contains(&address) && hardware != "00:00:00:00:00:00")
                .then(|| (address, hardware.to_owned()))
        })
        .collect()
}

/// A new connection, one request, the whole answer.
async fn get(to: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::with_capacity(512);
    let mut buffer = [0; 2_048];
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            n => answer.extend_from_slice(buffer.get(..n).unwrap_or_default()),
        }
        if answer.len() > MAX_ANSWER {
            return Err(std::io::Error::other("the answer is too long"));
        }
    }
    split(&answer).ok_or_else(|| std::io::Error::other("the answer ended early"))
}

/// Status and body; none unless the answer is complete.
fn split(answer: &[u8]) -> Option<(u16, String)> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let body = answer.get(end + 4..)?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()?
        .strip_prefix("HTTP/1.")?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()?;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            let length: usize = value.trim().parse().ok()?;
            return (body.len() >= length).then(|| {
                (
                    status,
                    String::from_utf8_lossy(body.get(..length).unwrap_or_default())
                        .trim()
                        .to_owned(),
                )
            });
        }
    }
    Some((status, String::from_utf8_lossy(body).trim().to_owned()))
}

/// Runs beside the requests.
#[derive(Debug)]
struct Prober {
    samples: Rc<RefCell<Vec<Sample>>>,
    ticker: tokio::task::JoinHandle<()>,
}

impl Prober {
    fn start(to: SocketAddr, every: Duration) -> Self {
        let samples: Rc<RefCell<Vec<Sample>>> = Rc::default();
        let into = Rc::clone(&samples);
        let ticker = tokio::task::spawn_local(async move {
            let mut tick = interval(every);
            tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                tick.tick().await;
                let into = Rc::clone(&into);
                tokio::task::spawn_local(async move {
                    let start = now();
                    let got = timeout(PROBE_DEADLINE, get(to, "/")).await;
                    let end = matches!(got, Ok(Ok((200, _)))).then(now);
                    into.borrow_mut().push(Sample { start, end });
                });
            }
        });
        Self { samples, ticker }
    }

    /// Every probe that was started ends before it is counted.
    async fn stop(self) -> Vec<Sample> {
        self.ticker.abort();
        tokio::time::sleep(PROBE_DEADLINE + Duration::from_millis(50)).await;
        let mut samples = self.samples.take();
        samples.sort_by_key(|s| s.start);
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_kernel_is_read() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            203.0.113.5      0x1         0x2         02:00:00:00:00:05     *        eth0\n\
            203.0.113.6      0x1         0x0         00:00:00:00:00:00     *        eth0\n";
        let of: Vec<IpAddr> = vec![
            "203.0.113.5".parse().unwrap(),
            "203.0.113.6".parse().unwrap(),
        ];
        let found = neighbours(table, &of);
        assert_eq!(found.len(), 1);
        assert_eq!(found[&of[0]], "02:00:00:00:00:05");
    }

    #[test]
    fn only_whole_answers_count() {
        assert_eq!(
            split(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nweb1\n"),
            Some((200, "web1".into()))
        );
        assert_eq!(
            split(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nweb1\n"),
            None
        );
        assert_eq!(split(b"HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(split(b""), None);
    }
}
