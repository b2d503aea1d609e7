//! Addresses of members that the file gives by name.
//!
//! One task per name asks, keeps what it learns ([`Record`]), and says so when something changed. Off the data
//! path: the data plane gets addresses alone, in a snapshot. What was known last is in a file of the run folder, so
//! that a restart while no name server answers takes no member away.

mod query;

use krater_model::names::{AllFound, Found, NameServer, Record, Resolver, resolv_conf};
use krater_model::wire::dns::{Family, Name};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Questions under way at a time: each has a socket.
const AT_A_TIME: usize = 32;
/// Relative to the run folder, which is the working folder.
const FILE: &str = "names.json";
/// Whose servers are asked when the file names none.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What is written down at most, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// All names of the file in force.
#[derive(Debug)]
pub(super) struct Names {
    known: Mutex<HashMap<Name, Known>>,
    changed: watch::Sender<()>,
    places: Arc<Semaphore>,
    start: Instant,
}

#[derive(Debug)]
struct Known {
    records: BTreeMap<Family, Record>,
    resolver: Arc<Resolver>,
    task: Option<AbortHandle>,
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A name for `amphora ctl status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameStatus {
    pub(crate) name: Name,
    #[serde(flatten)]
    pub(crate) found: Found,
    /// Milliseconds until it is asked again.
    pub(crate) next_ms: u64,
}

type Remembered = BTreeMap<Name, BTreeMap<Family, Vec<IpAddr>>>;

impl Names {
    /// With what an earlier run knew.
    pub(super) fn new() -> Arc<Self> {
        let remembered = remembered(Path::new(FILE));
        let known = remembered.into_iter().map(|(name, families)| {
            let records = families.into_iter();
            let record = |addresses| Record::remembered(addresses, Duration::ZERO);
            let known = Known {
                records: records.map(|(f, all)| (f, record(all))).collect(),
                resolver: Arc::default(),
                task: None,
            };
            (name, known)
        });
        Arc::new(Self {
            known: Mutex::new(known.collect()),
            changed: watch::Sender::new(()),
            places: Arc::new(Semaphore::new(AT_A_TIME)),
            start: Instant::now(),
        })
    }

    /// From now on these names count. What is known of a name stays for as long as the way to resolve it does.
    pub(super) fn follow(self: &Arc<Self>, names: BTreeSet<Name>, resolver: &Resolver) {
        let mut known = self.lock();
        let mut old = std::mem::take(&mut *known);
        for name in names {
            let entry = match old.remove(&name) {
                Some(entry) if entry.task.is_some() && *entry.resolver == *resolver => entry,
                entry => {
                    let resolver = Arc::new(resolver.clone());
                    let mut before = entry.map_or_else(BTreeMap::new, |mut entry| {
                        std::mem::take(&mut entry.records)
                    });
                    before.values_mut().for_each(Record::ask_anew);
                    let families = resolver.families.iter();
                    let records = families.map(|f| (*f, before.remove(f).unwrap_or_default()));
                    let task = run(Arc::clone(self), name.clone(), Arc::clone(&resolver));
                    Known {
                        records: records.collect(),
                        task: Some(tokio::spawn(task).abort_handle()),
                        resolver,
                    }
                }
            };
            known.insert(name, entry);
        }
    }

    /// Waits until each name was asked for once, for `patience` at most.
    pub(super) async fn settled(&self, patience: Duration) {
        let mut changes = self.changed.subscribe();
        let asked = || {
            let known = self.lock();
            let mut records = known.values().flat_map(|known| known.records.values());
            records.all(Record::is_asked)
        };
        let all = async { while !asked() && changes.changed().await.is_ok() {} };
        let _either = tokio::time::timeout(patience, all).await;
    }

    /// Says when something may have changed.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What is known now.
    pub(super) fn found(&self) -> AllFound {
        let known = self.lock();
        let found = known
            .iter()
            .map(|(name, known)| (name.clone(), known.found()));
        found.collect()
    }

    pub(super) fn status(&self) -> Vec<NameStatus> {
        let now = self.now();
        let known = self.lock();
        let mut all: Vec<_> = known
            .iter()
            .map(|(name, known)| {
                let next = known.records.values().map(Record::ask).min();
                let next = next.unwrap_or_default().saturating_sub(now);
                NameStatus {
                    name: name.clone(),
                    found: known.found(),
                    next_ms: u64::try_from(next.as_millis()).unwrap_or(u64::MAX),
                }
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of a name is due: families to ask for, and when to look again.
    fn due(&self, name: &Name) -> (Vec<Family>, Duration) {
        let now = self.now();
        let all = self.lock();
        let Some(known) = all.get(name) else {
            return (Vec::new(), now + Duration::from_secs(1)); // the task is about to end
        };
        let resolver = Arc::clone(&known.resolver);
        let mut next = Duration::MAX;
        let mut due = Vec::new();
        for (family, record) in &known.records {
            next = next.min(record.next(&resolver));
            if record.ask() <= now || !record.is_asked() {
                due.push(*family);
            }
        }
        (due, next)
    }

    /// Keeps what came of asking, and forgets what does not hold any more.
    fn observe(&self, name: &Name, outcomes: Vec<(Family, query::Outcome)>) {
        let now = self.now();
        let (before, after, first, written) = {
            let mut all = self.lock();
            let Some(known) = all.get_mut(name) else {
                return;
            };
            let before = known.found();
            let first = !known.records.values().all(Record::is_asked);
            let resolver = Arc::clone(&known.resolver);
            for (family, outcome) in outcomes {
                if let Some(record) = known.records.get_mut(&family) {
                    record.observe(now, outcome, &resolver);
                }
            }
            for record in known.records.values_mut() {
                record.expire(now, &resolver);
            }
            let after = known.found();
            let moved = before.addresses != after.addresses;
            let written = moved.then(|| to_remember(&all));
            (before, after, first, written)
        };
        if written.is_some() {
            let (old, new) = (list(&before.addresses), list(&after.addresses));
            let problem = after.problem.as_deref().unwrap_or("none");
            tracing::info!(%name, old, new, problem, "addresses of a name changed");
        } else if before.problem != after.problem {
            let (held, problem) = (list(&after.addresses), after.problem.as_deref());
            match problem {
                Some(problem) => tracing::warn!(%name, held, problem, "name not resolved"),
                None => tracing::info!(%name, addresses = held, "name resolved again"),
            }
        }
        if let Some(written) = written
            && let Err(error) = write_down(&written)
        {
            tracing::warn!(%error, "addresses of names not written down");
        }
        // Who waits for the first answers wants to know of them whatever they were.
        if first || before != after {
            self.changed.send_replace(());
        }
    }
}

impl Known {
    fn found(&self) -> Found {
        let preferred = self.resolver.families.iter();
        Found::of(preferred.filter_map(|f| Some((*f, self.records.get(f)?))))
    }
}

/// Asks for one name until it is aborted.
async fn run(names: Arc<Names>, name: Name, resolver: Arc<Resolver>) {
    loop {
        let (due, next) = names.due(&name);
        if due.is_empty() {
            let at = names.start + next.max(names.now() + Duration::from_millis(1));
            tokio::time::sleep_until(at).await;
            names.observe(&name, Vec::new());
            continue;
        }
        let Ok(_place) = names.places.acquire().await else {
            return;
        };
        let servers = match &resolver.servers {
            Some(servers) => servers.clone(),
            None => of_host(),
        };
        let ask = |family| query::ask(&servers, &name, family, &resolver);
        let outcomes = match due.as_slice() {
            [one] => vec![(*one, ask(*one).await)],
            [one, two, ..] => {
                let (a, b) = tokio::join!(ask(*one), ask(*two));
                vec![(*one, a), (*two, b)]
            }
            [] => Vec::new(),
        };
        names.observe(&name, outcomes);
    }
}

/// Read anew each time, as others change it.
fn of_host() -> Vec<NameServer> {
    resolv_conf(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default())
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    match texts.is_empty() {
        true => "none".into(),
        false => texts.join(" "),
    }
}

fn to_remember(known: &HashMap<Name, Known>) -> Remembered {
    let all = known.iter().map(|(name, known)| {
        let records = known.records.iter();
        let families = records.map(|(family, record)| (*family, record.addresses().to_vec()));
        (name.clone(), families.collect())
    });
    all.collect()
}

fn write_down(all: &Remembered) -> std::io::Result<()> {
    let new = format!("{FILE}.new");
    std::fs::write(&new, serde_json::to_vec(all)?)?;
    std::fs::rename(new, FILE)
}

/// What cannot be read is not known.
fn remembered(path: &Path) -> Remembered {
    let small = std::fs::metadata(path).is_ok_and(|file| file.len() <= MAX_FILE);
    let bytes = small.then(|| std::fs::read(path).ok()).flatten();
    let parsed = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    parsed.unwrap_or_default()
}
