//! `cargo xtask numbers [--upstream | --against URL] [--large]`: how fast the API is, without a data plane, beside its goals.
//!
//! `--upstream` installs upstream's `octavia-api` (never in CI), starts it with its no-op drivers and asks the same of it, so that
//! both are measured in one run on one machine, each on SQLite. `--against` does so with another API of Octavia v2 that already
//! runs. `--large` makes 10,000 load balancers with ten listeners each and reads pages of them. `--krater FILE` measures that
//! program instead of building one.
//!
//! Times are those of one exchange on a kept connection of loopback, as clients see them.

mod client;
mod upstream;

use crate::build;
use crate::util::{Done, Failure, at, release_dir, target_dir};
use client::{Client, text};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Load balancers in the short list, and in the long one; listeners that are made.
const SHORT: u16 = 30;
const OBJECTS: u16 = 100;
/// Lists that are read.
const LISTS: u16 = 200;
/// Clients at the same time that read the short list, and that read and write, and for how long.
const READERS: u16 = 8;
const CLIENTS: u16 = 32;
const LOAD: Duration = Duration::from_secs(10);
/// One of so many requests creates.
const WRITES: u64 = 10;
/// Load balancers and their listeners with `--large`, and who makes them.
const LARGE: u32 = 10_000;
const LISTENERS: u16 = 10;
/// Longest wait for one answer, and for an object to become ACTIVE.
const PATIENCE: Duration = Duration::from_secs(60);
/// Exists with no-op drivers, as every id does.
const SUBNET: &str = "9bd0a1c2-5d7e-4c3f-8a6b-1e2d3c4b5a69";
const BALANCERS: &str = "/v2/lbaas/loadbalancers";

/// What was measured.
struct Numbers {
    listener: Times,
    balancer: Times,
    short: Times,
    long: Times,
    readers: Load,
    load: Load,
    /// Kilobytes of the process, or of the largest one of several.
    resident: Option<u64>,
}

/// What several clients got at the same time.
struct Load {
    times: Times,
    /// Of the requests that write.
    writes: Times,
    per_second: f64,
    failed: u32,
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

/// What to compare with.
enum Other {
    Nothing,
    Upstream,
    At(SocketAddr),
}

pub(crate) fn numbers(args: &[String]) -> Done {
    let mut other = Other::Nothing;
    let mut large = false;
    let mut program = None;
    let mut args = args.iter();
    while let Some(option) = args.next() {
        match (option.as_str(), &other) {
            ("--large", _) => large = true,
            ("--krater", _) => {
                let file = args.next().ok_or("--krater: name the program")?;
                program = Some(PathBuf::from(file));
            }
            ("--upstream", Other::Nothing) => other = Other::Upstream,
            ("--against", Other::Nothing) => {
                let url = args.next().ok_or("--against: write http://HOST:PORT")?;
                other = Other::At(authority(url)?);
            }
            _ => {
                return Err(
                    "numbers: use `numbers [--upstream | --against http://HOST:PORT] [--large] [--krater FILE]`"
                        .into(),
                );
            }
        }
    }
    let program = match program {
        Some(program) => program,
        None => {
            build::release()?;
            release_dir().join("krater")
        }
    };
    let krater = Krater::start(&program)?;
    let mut own = measure(krater.address)?;
    own.resident = resident(krater.child.id());
    drop(krater);
    let other = match other {
        Other::Nothing => None,
        Other::At(address) => Some(measure(address)?),
        Other::Upstream => {
            let upstream = upstream::start()?;
            let mut numbers = measure(upstream.address)?;
            numbers.resident = upstream.resident();
            Some(numbers)
        }
    };
    print!("{}", table(&own, other.as_ref()));
    if large {
        print!("{}", many(&program)?);
    }
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

/// A line of the table: its name, its number, the goal, and whether less is better.
type Row = (&'static str, fn(&Numbers) -> f64, Option<f64>, bool);

const ROWS: [Row; 11] = [
    (
        "create a load balancer, median, ms",
        |n| n.balancer.rank(50),
        None,
        true,
    ),
    (
        "create a listener, median, ms",
        |n| n.listener.rank(50),
        Some(15.0),
        true,
    ),
    (
        "list 30 load balancers, median, ms",
        |n| n.short.rank(50),
        None,
        true,
    ),
    (
        "list 100 load balancers, median, ms",
        |n| n.long.rank(50),
        Some(10.0),
        true,
    ),
    (
        "8 clients, lists of 30 per second",
        |n| n.readers.per_second,
        None,
        false,
    ),
    (
        "32 clients, 9 lists of 20 to 1 create, p99, ms",
        |n| n.load.times.rank(99),
        Some(50.0),
        true,
    ),
    (
        "the same, median of all, ms",
        |n| n.load.times.rank(50),
        None,
        true,
    ),
    (
        "the same, median of the creates, ms",
        |n| n.load.writes.rank(50),
        None,
        true,
    ),
    (
        "32 clients, requests per second",
        |n| n.load.per_second,
        None,
        false,
    ),
    (
        "32 clients, requests that failed",
        |n| f64::from(n.load.failed),
        Some(0.0),
        true,
    ),
    (
        "resident memory of a process afterwards, MB",
        |n| megabytes(n.resident),
        Some(60.0),
        true,
    ),
];

fn table(own: &Numbers, other: Option<&Numbers>) -> String {
    let mut text = format!(
        "{:<48} {:>9} {:>14} {:>9} {:>7}\n",
        "", "krater", "goal", "other", "ratio"
    );
    for (name, value, goal, less_is_better) in ROWS {
        let mine = value(own);
        let theirs = other.map(value).filter(|value| value.is_finite());
        let shown = theirs.map_or_else(String::new, |value| format!("{value:.1}"));
        let ratio = theirs.map_or_else(String::new, |theirs| {
            let ratio = if less_is_better {
                theirs / mine
            } else {
                mine / theirs
            };
            if ratio.is_finite() {
                format!("{ratio:.1}")
            } else {
                String::new()
            }
        });
        let goal = beside(mine, goal);
        let _ = writeln!(
            text,
            "{name:<48} {mine:>9.1} {goal:>14} {shown:>9} {ratio:>7}"
        );
    }
    text
}

fn beside(value: f64, goal: Option<f64>) -> String {
    goal.map_or_else(String::new, |goal| {
        let word = if value <= goal { "met" } else { "MISSED" };
        format!("≤ {goal} {word}")
    })
}

#[allow(clippy::cast_precision_loss, reason = "megabytes for people")]
fn megabytes(kilobytes: Option<u64>) -> f64 {
    kilobytes.map_or(f64::NAN, |kilobytes| kilobytes as f64 / 1024.0)
}

/// In kilobytes.
fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn balancer(more: &str) -> String {
    format!("{{\"loadbalancer\": {{\"vip_subnet_id\": \"{SUBNET}\"{more}}}}}")
}

fn timed(
    client: &mut Client,
    method: &str,
    path: &str,
    body: &str,
    status: u16,
) -> Result<(String, Duration), Failure> {
    let start = Instant::now();
    let answer = client.must(method, path, body, status)?;
    Ok((answer, start.elapsed()))
}

fn lists(client: &mut Client, path: &str) -> Result<Times, Failure> {
    let times = (0..LISTS).map(|_| timed(client, "GET", path, "", 200).map(|done| done.1));
    Ok(Times::of(times.collect::<Result<_, _>>()?))
}

fn measure(address: SocketAddr) -> Result<Numbers, Failure> {
    let mut client = Client::new(address);
    let body = balancer("");
    let first = client.must("POST", BALANCERS, &body, 201)?;
    let first = text(&first, "id")?;
    client.active(&first)?;
    let mut listeners = Vec::new();
    for port in 1..=OBJECTS {
        let body = format!(
            "{{\"listener\": {{\"loadbalancer_id\": \"{first}\", \"protocol\": \"HTTP\", \"protocol_port\": {port}}}}}"
        );
        listeners.push(timed(&mut client, "POST", "/v2/lbaas/listeners", &body, 201)?.1);
        client.active(&first)?;
    }
    let mut balancers = Vec::new();
    let mut until = |client: &mut Client, count: u16| -> Done {
        while balancers.len() + 1 < usize::from(count) {
            let (answer, took) = timed(client, "POST", BALANCERS, &body, 201)?;
            balancers.push(took);
            client.active(&text(&answer, "id")?)?;
        }
        Ok(())
    };
    until(&mut client, SHORT)?;
    let page = format!("{BALANCERS}?limit={SHORT}");
    let short = lists(&mut client, &page)?;
    let readers = together(address, READERS, u64::MAX, |client, _| {
        client.must("GET", &page, "", 200)
    });
    until(&mut client, OBJECTS)?;
    let long = lists(&mut client, &format!("{BALANCERS}?limit={OBJECTS}"))?;
    let load = together(address, CLIENTS, WRITES, |client, turn| {
        if turn.is_multiple_of(WRITES) {
            client.must("POST", BALANCERS, &body, 201)
        } else {
            client.must("GET", &format!("{BALANCERS}?limit=20"), "", 200)
        }
    });
    Ok(Numbers {
        listener: Times::of(listeners),
        balancer: Times::of(balancers),
        short,
        long,
        readers,
        load,
        resident: None,
    })
}

/// Clients that ask, each one request after the other, for [`LOAD`].
fn together(
    address: SocketAddr,
    clients: u16,
    writes: u64,
    ask: impl Fn(&mut Client, u64) -> Result<String, Failure> + Sync,
) -> Load {
    let all = Mutex::new(Vec::new());
    let failed = AtomicU32::new(0);
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut client = Client::new(address);
                let mut own = Vec::new();
                for turn in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let start = Instant::now();
                    match ask(&mut client, turn) {
                        Ok(_) => own.push((start.elapsed(), turn.is_multiple_of(writes))),
                        Err(failure) => {
                            if failed.fetch_add(1, Ordering::Relaxed) == 0 {
                                eprintln!("a request of many at the same time failed: {failure}");
                            }
                        }
                    }
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
    let all = all.into_inner().unwrap_or_default();
    let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
    let wrote = all.iter().filter(|(_, wrote)| *wrote).map(|done| done.0);
    Load {
        writes: Times::of(wrote.collect()),
        times: Times::of(all.into_iter().map(|done| done.0).collect()),
        per_second: f64::from(count) / took.as_secs_f64(),
        failed: failed.into_inner(),
    }
}

/// Pages of lists when there are [`LARGE`] load balancers with [`LISTENERS`] each.
fn many(program: &Path) -> Result<String, Failure> {
    let krater = Krater::start(program)?;
    let listeners: Vec<String> = (1..=LISTENERS)
        .map(|port| format!("{{\"protocol\": \"HTTP\", \"protocol_port\": {port}}}"))
        .collect();
    let body = balancer(&format!(", \"listeners\": [{}]", listeners.join(", ")));
    let start = Instant::now();
    let left = AtomicU32::new(LARGE);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let mut client = Client::new(krater.address);
                let take = || {
                    let less = |left: u32| left.checked_sub(1);
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                        .is_ok()
                };
                while take() {
                    if let Err(error) = client.must("POST", BALANCERS, &body, 201) {
                        left.store(0, Ordering::Relaxed);
                        if let Ok(mut failure) = failure.lock() {
                            *failure = Some(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(failure) = failure.into_inner().unwrap_or_default() {
        return Err(failure);
    }
    let accepted = start.elapsed();
    let mut client = Client::new(krater.address);
    let pending = format!("{BALANCERS}?limit=1&fields=id&provisioning_status=PENDING_CREATE");
    while client.must("GET", &pending, "", 200)?.contains("\"id\":") {
        std::thread::sleep(Duration::from_secs(1));
    }
    let done = start.elapsed();
    let mut text = format!(
        "\n{LARGE} load balancers with {LISTENERS} listeners each: accepted after {:.0} s, ACTIVE after {:.0} s\n",
        accepted.as_secs_f64(),
        done.as_secs_f64()
    );
    let id = client::text(
        &client.must("GET", &format!("{BALANCERS}?limit=1&sort=id:desc"), "", 200)?,
        "id",
    )?;
    for (name, path) in [
        (
            "first page of 100 load balancers, median, ms",
            format!("{BALANCERS}?limit=100"),
        ),
        ("page of 100 after half of them, median, ms", {
            let half = middle(&mut client)?;
            format!("{BALANCERS}?limit=100&marker={half}")
        }),
        (
            "page of 100, by name, median, ms",
            format!("{BALANCERS}?limit=100&sort=name"),
        ),
        (
            "first page of 100 listeners, median, ms",
            "/v2/lbaas/listeners?limit=100".to_owned(),
        ),
        (
            "the listeners of one, median, ms",
            format!("/v2/lbaas/listeners?loadbalancer_id={id}"),
        ),
        (
            "one load balancer by name, median, ms",
            format!("{BALANCERS}?name=nosuch"),
        ),
    ] {
        let times = lists(&mut client, &path)?;
        let (median, worst) = (times.rank(50), times.rank(99));
        let goal = beside(median, Some(30.0));
        let _ = writeln!(text, "{name:<48} {median:>9.1} {goal:>14}   p99 {worst:.1}");
    }
    let memory = megabytes(resident(krater.child.id()));
    let _ = writeln!(
        text,
        "{:<48} {memory:>9.1} {:>14}",
        "resident memory afterwards, MB",
        beside(memory, Some(60.0))
    );
    Ok(text)
}

/// The id of a load balancer in the middle of the list.
fn middle(client: &mut Client) -> Result<String, Failure> {
    let mut marker = String::new();
    for _ in 0..LARGE / 2 / 1_000 {
        let page = client.must(
            "GET",
            &format!("{BALANCERS}?fields=id&limit=1000{marker}"),
            "",
            200,
        )?;
        let (_, last) = page.rsplit_once("{\"id\":").ok_or("an empty page")?;
        let id = text(&format!("{{\"id\":{last}"), "id")?;
        marker = format!("&marker={id}");
    }
    Ok(marker.trim_start_matches("&marker=").to_owned())
}

/// A controller without a data plane, in a folder of its own.
struct Krater {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Krater {
    fn start(program: &Path) -> Result<Self, Failure> {
        let folder = target_dir().join(format!("numbers-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(at(&folder))?;
        let mut child = Command::new(program)
            .args(["controller", "--drivers", "noop", "--listen", "127.0.0.1:0"])
            .arg("--state-dir")
            .arg(folder.join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(at(program))?;
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
    use super::{Times, beside};
    use std::time::Duration;

    #[test]
    fn ranks_are_of_sorted_times() {
        let times = Times::of((1..=100).rev().map(Duration::from_millis).collect());
        assert!((times.rank(50) - 51.0).abs() < 1e-9);
        assert!((times.rank(99) - 100.0).abs() < 1e-9);
        assert!(Times::of(Vec::new()).rank(99).is_nan());
    }

    #[test]
    fn a_number_that_is_none_meets_no_goal() {
        assert_eq!(beside(10.0, Some(10.0)), "≤ 10 met");
        assert_eq!(beside(10.1, Some(10.0)), "≤ 10 MISSED");
        assert_eq!(beside(f64::NAN, Some(10.0)), "≤ 10 MISSED");
        assert_eq!(beside(10.0, None), "");
    }
}
