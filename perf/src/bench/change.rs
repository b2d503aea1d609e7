//! Changes of the configuration under load: what fails, what waits, what is left of the old ones.

use super::contender::{Contender, Task};
use super::helpers;
use super::topology::{Place, Topology};
use super::workload::Workload;
use crate::load::Summary;
use crate::websocket;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How many changes are asked for, and how often one begins.
const CHANGES: u32 = 100;
const EVERY: Duration = Duration::from_millis(100);
/// In a smoke run.
const FEW: u32 = 3;
/// Requests per second: little enough for every contender even while it starts anew.
const RATE: f64 = 1_000.0;
/// How long the load goes on before the first change and after the last.
const MARGIN: Duration = Duration::from_millis(500);
/// How long a long connection may take to be made, and to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest head of an answer.
const HEAD: usize = 4_096;
/// What is echoed over a long connection to see that it lives.
const PAYLOAD: &[u8] = b"still there?";

/// What changes under load did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Change {
    /// Made while the load ran.
    pub(crate) changes: u32,
    /// From the order until the new configuration serves, milliseconds: of each change.
    pub(crate) applied_ms: Vec<f64>,
    /// Requests that were answered.
    pub(crate) answered: u64,
    /// Requests that were not, or wrongly.
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
    /// WebSockets that were opened, one before each change.
    pub(crate) long: u32,
    /// Those of them that no longer echo at the end.
    pub(crate) long_lost: u32,
    /// Of the process tree while all long connections are open.
    pub(crate) processes: u64,
    pub(crate) rss: u64,
}

impl Change {
    /// Median time of a change in milliseconds.
    pub(crate) fn applied(&self) -> Option<f64> {
        super::stats::Spread::of(&self.applied_ms).map(|spread| spread.median)
    }
}

/// One contender's part of a row about changes.
pub(super) fn measure(
    work: &Workload,
    contender: &Contender,
    task: &Task<'_>,
    smoke: bool,
) -> anyhow::Result<(Change, Summary)> {
    let count = if smoke { FEW } else { CHANGES };
    let span = EVERY * count + MARGIN * 2;
    let mut args: Vec<String> = work.load.iter().map(|&s| s.to_owned()).collect();
    let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
    add("--rate", RATE.to_string());
    add("--duration", span.as_secs_f64().to_string());
    for pid in contender.pids() {
        add("--pid", pid.to_string());
    }
    add("--core", task.topology.cores.0.to_string());
    let url = work.url.replace("{}", &contender.address.to_string());
    std::thread::scope(|scope| {
        let load = scope.spawn(|| helpers::load(task.topology, &url, &args));
        let start = Instant::now();
        let changed = changes(contender, task.topology, count, start + span - MARGIN);
        let summary = load
            .join()
            .map_err(|_| anyhow::anyhow!("the thread of the load ended"))??;
        let (applied_ms, mut long) = changed?;
        let usage = crate::cpu::usage(&contender.pids(), &[])?;
        let lost = long.iter_mut().filter_map(|l| l.echo().err()).count();
        Ok((
            Change {
                changes: u32::try_from(applied_ms.len())?,
                applied_ms,
                answered: summary.total.requests,
                failed: summary.errors,
                first_failure: summary.first_error.clone(),
                long: u32::try_from(long.len())?,
                long_lost: u32::try_from(lost)?,
                processes: usage.processes,
                rss: usage.rss,
            },
            summary,
        ))
    })
}

/// One after the other, a long connection before each; those that do not fit before `end` are left out.
fn changes(
    contender: &Contender,
    topology: &Topology,
    count: u32,
    end: Instant,
) -> anyhow::Result<(Vec<f64>, Vec<Long>)> {
    std::thread::sleep(MARGIN);
    let (mut applied, mut long) = (Vec::new(), Vec::new());
    let mut next = Instant::now();
    for number in 1..=count {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        if Instant::now() >= end {
            break;
        }
        next += EVERY;
        let address = contender.address;
        // A refused connection is the contender's fault, and is seen in the number of long ones.
        if let Ok(one) = topology.within(Place::Client, move || Long::open(address))? {
            long.push(one);
        }
        let took = contender
            .change(number)
            .with_context(|| format!("change {number}"))?;
        applied.push(took.as_secs_f64() * 1e3);
    }
    if applied.is_empty() {
        bail!("not one change was made in time");
    }
    Ok((applied, long))
}

/// A WebSocket that stays open.
struct Long(TcpStream);

impl Long {
    fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&websocket::opening(&to.to_string(), "/"))?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte)? == 0 || answer.len() == HEAD {
                bail!("no whole head of an answer");
            }
            answer.extend(byte);
        }
        if !answer.starts_with(b"HTTP/1.1 101 ") {
            bail!("no WebSocket");
        }
        let mut this = Self(stream);
        this.echo()?;
        Ok(this)
    }

    /// Something goes there and comes back.
    fn echo(&mut self) -> std::io::Result<()> {
        self.0.write_all(&websocket::frame(PAYLOAD, true))?;
        let expected = websocket::frame(PAYLOAD, false);
        let mut back = vec![0; expected.len()];
        self.0.read_exact(&mut back)?;
        if back == expected {
            return Ok(());
        }
        Err(ErrorKind::InvalidData.into())
    }
}
