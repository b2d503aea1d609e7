//! `cargo xtask numbers [--against URL]`: how fast the API is, without a data plane, beside its goals. With `--against` the same
//! is asked of another API of Octavia v2 that already runs with no-op drivers, such as upstream's `octavia-api`.
//!
//! Times are those of one exchange on a kept connection of loopback, as clients see them.

use crate::build;
use crate::util::{Done, Failure, at, release_dir, target_dir};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Listeners that are made, and load balancers in the list.
const OBJECTS: u16 = 100;
/// Lists that are read.
const LISTS: u16 = 200;
/// Clients at the same time, and for how long.
const CLIENTS: u16 = 32;
const LOAD: Duration = Duration::from_secs(10);
/// Longest wait for one answer, and for an object to become ACTIVE.
const PATIENCE: Duration = Duration::from_secs(60);
/// Exists with no-op drivers, as every id does.
const SUBNET: &str = "9bd0a1c2-5d7e-4c3f-8a6b-1e2d3c4b5a69";
const BALANCERS: &str = "/v2/lbaas/loadbalancers";

/// What was measured.
struct Numbers {
    listener: Times,
    balancer: Times,
    list: Times,
    load: Times,
    per_second: f64,
    resident: Option<u64>,
}

/// Sorted, in milliseconds.
struct Times(Vec<f64>);

impl Times {
    fn of(durations: Vec<Duration>) -> Self {
        let mut all: Vec<f64> = durations.iter().map(|d| d.as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    fn rank(&self, hundredths: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let at = (self.0.len() * hundredths / 100).min(last);
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }
}

pub(crate) fn numbers(args: &[String]) -> Done {
    let other = match args {
        [] => None,
        [option, url] if option == "--against" => Some(authority(url)?),
        _ => return Err("numbers: use `numbers` or `numbers --against http://HOST:PORT`".into()),
    };
    build::release()?;
    let krater = Krater::start()?;
    let mut own = measure(krater.address)?;
    own.resident = krater.resident();
    drop(krater);
    let other = other.map(measure).transpose()?;
    print!("{}", table(&own, other.as_ref()));
    Ok(())
}

fn authority(url: &str) -> Result<SocketAddr, Failure> {
    let host = url
        .strip_prefix("http://")
        .map(|rest| rest.trim_end_matches('/'));
    let host = host.ok_or_else(|| format!("{url}: write http://HOST:PORT"))?;
    let mut found = host
        .to_socket_addrs()
        .map_err(|error| format!("{url}: {error}"))?;
    found
        .next()
        .ok_or_else(|| format!("{url}: no address").into())
}

fn table(own: &Numbers, other: Option<&Numbers>) -> String {
    type Row<'a> = (&'a str, fn(&Numbers) -> f64, Option<f64>, bool);
    let rows: [Row<'_>; 6] = [
        (
            "create a listener, median, ms",
            |n| n.listener.rank(50),
            Some(15.0),
            true,
        ),
        (
            "create a load balancer, median, ms",
            |n| n.balancer.rank(50),
            None,
            true,
        ),
        (
            "list 100 load balancers, median, ms",
            |n| n.list.rank(50),
            Some(10.0),
            true,
        ),
        (
            "32 clients, 9 lists of 20 to 1 create, p99, ms",
            |n| n.load.rank(99),
            Some(50.0),
            true,
        ),
        (
            "32 clients, requests per second",
            |n| n.per_second,
            None,
            false,
        ),
        ("resident memory afterwards, MB", resident, Some(60.0), true),
    ];
    let mut text = format!(
        "{:<48} {:>9} {:>14} {:>9} {:>7}\n",
        "", "krater", "goal", "other", "ratio"
    );
    for (name, value, goal, less_is_better) in rows {
        let mine = value(own);
        let goal = goal.map_or_else(String::new, |goal| {
            let word = if mine <= goal { "met" } else { "MISSED" };
            format!("≤ {goal} {word}")
        });
        let theirs = other.map(value).filter(|value| value.is_finite());
        let shown = theirs.map_or_else(String::new, |value| format!("{value:.1}"));
        let ratio = theirs.map_or_else(String::new, |theirs| {
            let ratio = if less_is_better {
                theirs / mine
            } else {
                mine / theirs
            };
            format!("{ratio:.1}")
        });
        let _ = writeln!(
            text,
            "{name:<48} {mine:>9.1} {goal:>14} {shown:>9} {ratio:>7}"
        );
    }
    text
}

#[allow(clippy::cast_precision_loss, reason = "megabytes for people")]
fn resident(numbers: &Numbers) -> f64 {
    numbers
        .resident
        .map_or(f64::NAN, |kilobytes| kilobytes as f64 / 1024.0)
}

fn measure(address: SocketAddr) -> Result<Numbers, Failure> {
    let mut client = Client::new(address);
    let body = format!("{{\"loadbalancer\": {{\"vip_subnet_id\": \"{SUBNET}\"}}}}");
    let balancer = |client: &mut Client| -> Result<(String, Duration), Failure> {
        let start = Instant::now();
        let answer = client.must("POST", BALANCERS, &body, 201)?;
        let took = start.elapsed();
        Ok((text(&answer, "id")?, took))
    };
    let (first, _) = balancer(&mut client)?;
    client.active(&first)?;
    let mut listeners = Vec::new();
    for port in 1..=OBJECTS {
        let body = format!(
            "{{\"listener\": {{\"loadbalancer_id\": \"{first}\", \"protocol\": \"HTTP\", \"protocol_port\": {port}}}}}"
        );
        let start = Instant::now();
        client.must("POST", "/v2/lbaas/listeners", &body, 201)?;
        listeners.push(start.elapsed());
        client.active(&first)?;
    }
    let mut balancers = Vec::new();
    for _ in 1..OBJECTS {
        let (id, took) = balancer(&mut client)?;
        balancers.push(took);
        client.active(&id)?;
    }
    let mut lists = Vec::new();
    for _ in 0..LISTS {
        let start = Instant::now();
        client.must("GET", &format!("{BALANCERS}?limit={OBJECTS}"), "", 200)?;
        lists.push(start.elapsed());
    }
    let all = Mutex::new(Vec::new());
    let failed = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Client::new(address);
                let mut own = Vec::new();
                for turn in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let start = Instant::now();
                    let done = if turn.is_multiple_of(10) {
                        client.must("POST", BALANCERS, &body, 201)
                    } else {
                        client.must("GET", &format!("{BALANCERS}?limit=20"), "", 200)
                    };
                    if let Err(failure) = done {
                        if let Ok(mut failed) = failed.lock() {
                            *failed = Some(failure);
                        }
                        break;
                    }
                    own.push(start.elapsed());
                }
                if let Ok(mut all) = all.lock() {
                    all.extend(own);
                }
            });
        }
        std::thread::sleep(LOAD);
        stop.store(true, Ordering::Relaxed);
    });
    let took = start.elapsed();
    if let Some(failure) = failed.into_inner().unwrap_or_default() {
        return Err(failure);
    }
    let all = all.into_inner().unwrap_or_default();
    let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
    Ok(Numbers {
        listener: Times::of(listeners),
        balancer: Times::of(balancers),
        list: Times::of(lists),
        load: Times::of(all),
        per_second: f64::from(count) / took.as_secs_f64(),
        resident: None,
    })
}

/// The first text under a key; new objects have no children with one of their own.
fn text(json: &str, key: &str) -> Result<String, Failure> {
    let found = || {
        let (_, rest) = json.split_once(&format!("\"{key}\":"))?;
        let (value, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
        Some(value.to_owned())
    };
    found().ok_or_else(|| format!("no {key} in {json}").into())
}

/// One connection, made again when the other side closes it.
struct Client {
    address: SocketAddr,
    kept: Option<BufReader<TcpStream>>,
}

impl Client {
    const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            kept: None,
        }
    }

    fn must(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
        status: u16,
    ) -> Result<String, Failure> {
        let had = self.kept.is_some();
        let answer = match self.exchange(method, path, body) {
            // A kept connection may have been closed unnoticed.
            Err(_) if had => {
                self.kept = None;
                self.exchange(method, path, body)
            }
            other => other,
        };
        let (found, text) = answer.map_err(|error| format!("{method} {path}: {error}"))?;
        if found == status {
            return Ok(text);
        }
        Err(format!("{method} {path}: {found} {text}").into())
    }

    fn exchange(&mut self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = match self.kept.take() {
            Some(kept) => kept,
            None => {
                let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\ncontent-type: application/json\r\n\
             x-project-id: numbers\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes())?;
        let broken = || std::io::Error::other("no HTTP");
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status: u16 = status.ok_or_else(broken)?;
        let mut keep = line.starts_with("HTTP/1.1");
        let mut length = None;
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse::<usize>().ok(),
                "connection" => keep = !value.trim().eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        let mut bytes = vec![0; length.ok_or_else(broken)?];
        stream.read_exact(&mut bytes)?;
        self.kept = keep.then_some(stream);
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn active(&mut self, balancer: &str) -> Done {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let shown = self.must("GET", &format!("{BALANCERS}/{balancer}"), "", 200)?;
            match text(&shown, "provisioning_status")?.as_str() {
                "ACTIVE" => return Ok(()),
                "ERROR" => return Err(format!("{balancer} is in ERROR").into()),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Err(format!("{balancer} does not become ACTIVE").into())
    }
}

/// A controller without a data plane, in a folder of its own.
struct Krater {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Krater {
    fn start() -> Result<Self, Failure> {
        let folder = target_dir().join(format!("numbers-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(at(&folder))?;
        let program = release_dir().join("krater");
        let mut child = Command::new(&program)
            .args(["controller", "--drivers", "noop", "--listen", "127.0.0.1:0"])
            .arg("--state-dir")
            .arg(folder.join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(at(&program))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            let _ = BufReader::new(out).read_line(&mut line);
        }
        let address = line.trim().strip_prefix("ready: http://");
        match address.and_then(|address| address.parse().ok()) {
            Some(address) => Ok(Self {
                child,
                folder,
                address,
            }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("{} did not start", program.display()).into())
            }
        }
    }

    /// In kilobytes.
    fn resident(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Krater {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod unit {
    use super::{Times, text};
    use std::time::Duration;

    #[test]
    fn ranks_are_of_sorted_times() {
        let times = Times::of((1..=100).rev().map(Duration::from_millis).collect());
        assert!((times.rank(50) - 51.0).abs() < 1e-9);
        assert!((times.rank(99) - 100.0).abs() < 1e-9);
        assert!(Times::of(Vec::new()).rank(99).is_nan());
    }

    #[test]
    fn texts_are_found_with_and_without_blanks() {
        for json in [
            "{\"a\":1,\"id\":\"x\",\"b\":[]}",
            "{\"listeners\": [], \"id\": \"x\"}",
        ] {
            assert_eq!(text(json, "id").unwrap(), "x");
        }
        assert!(text("{}", "id").is_err());
    }
}
