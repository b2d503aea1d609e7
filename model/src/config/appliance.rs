//! An appliance's file, `amphora.toml`: what a controller would send, written by hand.
//!
//! `load_balancers` and `vrrp` have the fields of the desired state ([`crate::state`]) and its errors, with three
//! conveniences: things are referred to by name instead of id (ids are made of the names, so that state
//! survives a reload), certificates are paths of files, and common values have defaults. Pure: the caller
//! reads the files.

use crate::SCHEMA;
use crate::control::{MAX_DRAIN_MS, Snapshot, VrrpConfig};
use crate::error::FieldError;
use crate::id::CertificateId;
use crate::names::Resolver;
use crate::secret::Secret;
use crate::state::{Certificate, LoadBalancer, Timeouts, VirtualRouter, check};
use crate::units::{Millis, Revision};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

mod hosts;

pub use hosts::{Book, Hosts, MAX_ADDRESSES};

/// Largest file that is read, in bytes: thousands of members.
pub const MAX_FILE: usize = 4 * 1024 * 1024;
/// How deep values may lie in each other: a rule of a policy of a listener has 9.
const MAX_DEPTH: usize = 16;

/// A file, read and checked.
#[derive(Debug)]
pub struct Appliance {
    /// What belongs to the host, not to load balancing.
    pub settings: Settings,
    /// What to serve.
    pub load_balancers: Vec<LoadBalancer>,
    /// Contents of the files that `load_balancers` names.
    pub certificates: Vec<Certificate>,
    /// Virtual routers.
    pub vrrp: Vec<VirtualRouter>,
    /// Members that are given by name, which stand in `load_balancers` without an address.
    pub hosts: Hosts,
    places: Places,
}

/// The keys of a file outside its tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Control sockets and pid files; made when it is missing.
    #[serde(default = "run_dir")]
    pub run_dir: PathBuf,
    /// Rotated logs of the processes; made when it is missing.
    #[serde(default = "log_dir")]
    pub log_dir: PathBuf,
    /// Worker threads of the data plane, 1 to 64. None: one per CPU.
    #[serde(default)]
    pub workers: Option<u16>,
    /// Pinned network namespace to serve in. None: the one that the program was started in.
    #[serde(default)]
    pub netns: Option<PathBuf>,
    /// Loopback address and port where the data plane's metrics can be read over HTTP.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    #[serde(default = "super::info")]
    pub log_level: String,
    /// JSON lines instead of text.
    #[serde(default)]
    pub log_json: bool,
    /// At the end, open connections have so long to end by themselves; 0: none. At most a day.
    #[serde(default = "drain_timeout")]
    pub drain_timeout: Millis,
    /// How names of members are resolved.
    #[serde(default)]
    pub resolver: Resolver,
}

fn drain_timeout() -> Millis {
    Millis::literal(5_000)
}

fn run_dir() -> PathBuf {
    "/run/krater".into()
}

fn log_dir() -> PathBuf {
    "/var/log/krater".into()
}

/// Why a file was refused: `line 7: load_balancers[0].listeners[0].port: …`
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{error}", line.map_or_else(String::new, |n| format!("line {n}: ")))]
pub struct FileError {
    /// Where in the file, from 1, as far as it is known.
    pub line: Option<usize>,
    /// Which field, and why.
    pub error: FieldError,
}

impl Appliance {
    /// Reads a file's text. `read` gives the content of a file that it names, or the reason why not.
    pub fn parse(
        text: &str,
        read: impl FnMut(&str) -> Result<String, String>,
    ) -> Result<Self, FileError> {
        let refuse = |line, field: &str, why: String| FileError {
            line,
            error: FieldError::new(field, why),
        };
        if text.len() > MAX_FILE {
            let why = format!("{} bytes; at most {MAX_FILE} are read", text.len());
            return Err(refuse(None, "file", why));
        }
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map(|span| line(text, &span));
            refuse(line, "syntax", error.message().trim().replace('\n', ", "))
        })?;
        let places = Places::of(text, &table);
        Self::of(table.get_ref(), read, places.clone()).map_err(|error| places.locate(error))
    }

    fn of(
        table: &DeTable<'_>,
        read: impl FnMut(&str) -> Result<String, String>,
        places: Places,
    ) -> Result<Self, FieldError> {
        let mut root = object(table, MAX_DEPTH, "")?;
        let mut load_balancers = root.remove("load_balancers").unwrap_or_else(|| json!([]));
        let vrrp = root.remove("vrrp").unwrap_or_else(|| json!([]));
        let mut reader = Reader {
            read,
            known: HashMap::new(),
            certificates: BTreeMap::new(),
            hosts: Hosts::default(),
        };
        complete(&mut load_balancers, &mut reader)?;
        let certificates = std::mem::take(&mut reader.certificates);
        let certificates: Vec<_> = certificates.into_values().collect();
        let this = Self {
            settings: typed(Value::Object(root)).map_err(unroot)?,
            load_balancers: typed(load_balancers).map_err(|e| e.within("load_balancers"))?,
            vrrp: typed(vrrp).map_err(|e| e.within("vrrp"))?,
            certificates,
            hosts: reader.hosts,
            places,
        };
        this.check()?;
        Ok(this)
    }

    fn check(&self) -> Result<(), FieldError> {
        let settings = &self.settings;
        if settings.workers.is_some_and(|n| !(1..=64).contains(&n)) {
            let why = "use 1 to 64, or leave it out";
            return Err(FieldError::new("workers", why));
        }
        if let Some(metrics) = settings.metrics
            && (!metrics.ip().is_loopback() || metrics.port() == 0)
        {
            let why =
                format!("{metrics}: use a loopback address and a port, such as 127.0.0.1:9105");
            return Err(FieldError::new("metrics", why));
        }
        if !["error", "warn", "info", "debug", "trace"].contains(&settings.log_level.as_str()) {
            let why = format!(
                "{:?}: use error, warn, info, debug or trace",
                settings.log_level
            );
            return Err(FieldError::new("log_level", why));
        }
        if settings.drain_timeout.value() > MAX_DRAIN_MS {
            let drain = settings.drain_timeout.value();
            let why = format!("{drain} ms is out of range: use 0 to {MAX_DRAIN_MS}");
            return Err(FieldError::new("drain_timeout", why));
        }
        hosts::check(&settings.resolver).map_err(|e| e.within("resolver"))?;
        check::appliance(&self.load_balancers, &self.certificates, &self.vrrp)
    }

    /// The data plane's part, with the addresses of names that `book` has.
    pub fn snapshot(&self, revision: Revision, book: &Book) -> Snapshot {
        Snapshot {
            schema: SCHEMA,
            revision,
            request_id: format!("file-{revision}"),
            load_balancers: self.hosts.expand(&self.load_balancers, book),
            certificates: self.certificates.clone(),
        }
    }

    /// vrrp's part.
    pub fn vrrp_config(&self, revision: Revision) -> VrrpConfig {
        VrrpConfig {
            schema: SCHEMA,
            revision,
            request_id: format!("file-{revision}"),
            routers: self.vrrp.clone(),
        }
    }

    /// Finds the line of a field that somebody else refuses.
    pub fn locate(&self, error: FieldError) -> FileError {
        self.places.locate(error)
    }
}

/// In which line each field stands.
#[derive(Debug, Clone, Default)]
struct Places(HashMap<String, usize>);

impl Places {
    fn of(text: &str, table: &Spanned<DeTable<'_>>) -> Self {
        let mut places = Self::default();
        let starts: Vec<usize> = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        places.add_table(&starts, "", table.get_ref(), MAX_DEPTH);
        places
    }

    fn add_table(&mut self, starts: &[usize], path: &str, table: &DeTable<'_>, depth: usize) {
        for (key, value) in table {
            let dot = if path.is_empty() { "" } else { "." };
            let path = format!("{path}{dot}{}", key.get_ref());
            self.0
                .insert(path.clone(), number(starts, key.span().start));
            self.add(starts, &path, value, depth);
        }
    }

    fn add(&mut self, starts: &[usize], path: &str, value: &Spanned<DeValue<'_>>, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else {
            return;
        };
        match value.get_ref() {
            DeValue::Table(table) => self.add_table(starts, path, table, depth),
            DeValue::Array(array) => {
                for (i, value) in array.iter().enumerate() {
                    let path = format!("{path}[{i}]");
                    self.0
                        .insert(path.clone(), number(starts, value.span().start));
                    self.add(starts, &path, value, depth);
                }
            }
            _ => {}
        }
    }

    /// The line of the field, or of what it would stand in.
    fn locate(&self, mut error: FieldError) -> FileError {
        // An element is written without a point: `vrrp[0]`.
        error.field = error.field.replace(".[", "[");
        let mut path = error.field.as_str();
        let line = loop {
            if let Some(line) = self.0.get(path) {
                break Some(*line);
            }
            match path.rfind(['.', '[']) {
                Some(at) => path = path.get(..at).unwrap_or_default(),
                None => break None,
            }
        };
        FileError { line, error }
    }
}

fn number(starts: &[usize], at: usize) -> usize {
    starts.partition_point(|start| *start <= at)
}

fn line(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or_default();
    before.iter().filter(|c| **c == b'\n').count() + 1
}

fn object(table: &DeTable<'_>, depth: usize, path: &str) -> Result<Map<String, Value>, FieldError> {
    let mut out = Map::new();
    for (key, value) in table {
        let key = key.get_ref();
        let dot = if path.is_empty() { "" } else { "." };
        let value = converted(value.get_ref(), depth, &format!("{path}{dot}{key}"))?;
        out.insert(key.to_string(), value);
    }
    Ok(out)
}

/// As JSON, which is what the desired state is read from.
fn converted(value: &DeValue<'_>, depth: usize, path: &str) -> Result<Value, FieldError> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(FieldError::new(path, "lies too deep"));
    };
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Integer(integer) => {
            let number = i64::from_str_radix(integer.as_str(), integer.radix());
            json!(number.map_err(|e| FieldError::new(path, e.to_string()))?)
        }
        DeValue::Array(array) => Value::Array(
            array
                .iter()
                .enumerate()
                .map(|(i, value)| converted(value.get_ref(), depth, &format!("{path}[{i}]")))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => Value::Object(object(table, depth, path)?),
        DeValue::Float(_) | DeValue::Datetime(_) => {
            let why = format!("no field is a {}", value.type_str());
            return Err(FieldError::new(path, why));
        }
    })
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| FieldError::new(error.path().to_string(), error.inner().to_string()))
}

/// A key that is unknown at the top has no path but itself.
fn unroot(mut error: FieldError) -> FieldError {
    if error.field == "." {
        error.field = "file".into();
    }
    error
}

struct Reader<F> {
    read: F,
    /// What each path was replaced by.
    known: HashMap<String, String>,
    certificates: BTreeMap<String, Certificate>,
    hosts: Hosts,
}

impl<F: FnMut(&str) -> Result<String, String>> Reader<F> {
    /// Puts the id of a file's content in place of its path.
    fn replace(&mut self, value: &mut Value, at: &str) -> Result<(), FieldError> {
        let Value::String(path) = value else {
            return Ok(()); // refused by its type later
        };
        let id = match self.known.get(path) {
            Some(id) => id.clone(),
            None => {
                let refuse = |why: String| FieldError::new(at, format!("{path}: {why}"));
                let pem = Secret::new((self.read)(path).map_err(refuse)?);
                let id = CertificateId::of(pem.expose().as_bytes());
                let text = id.as_str().to_owned();
                self.certificates
                    .insert(text.clone(), Certificate { id, pem });
                self.known.insert(path.clone(), text.clone());
                text
            }
        };
        *value = Value::String(id);
        Ok(())
    }
}

/// The elements of an array of tables, with where they stand. What is something else is refused by its type later.
fn tables<'a>(
    within: &'a mut Map<String, Value>,
    key: &str,
    path: &str,
) -> Vec<(&'a mut Map<String, Value>, String)> {
    let array = within.get_mut(key).and_then(Value::as_array_mut);
    array
        .into_iter()
        .flatten()
        .enumerate()
        .filter_map(|(i, value)| Some((value.as_object_mut()?, format!("{path}.{key}[{i}]"))))
        .collect()
}

fn default(table: &mut Map<String, Value>, key: &str, value: Value) {
    if !table.contains_key(key) {
        table.insert(key.into(), value);
    }
}

/// The table `key`, if it is one.
fn table<'a>(within: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    within.get_mut(key)?.as_object_mut()
}

fn text<'a>(within: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    within.get(key)?.as_str()
}

/// An id that is the same for as long as the names are: a hash as UUID version 8 (RFC 9562 section 5.8).
fn id(kind: &str, names: &[&str]) -> String {
    use aws_lc_rs::digest::{Context, SHA256};
    let mut hash = Context::new(&SHA256);
    for part in std::iter::once(&kind).chain(names) {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    }
    let mut bytes = [0; 16];
    let digest = hash.finish();
    for (to, from) in bytes.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    uuid::Builder::from_custom_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// Gives a table its id, which names alone make.
fn identify(
    table: &mut Map<String, Value>,
    at: &str,
    kind: &str,
    names: &[&str],
) -> Result<(), FieldError> {
    if table.contains_key("id") {
        let why = "ids are made of names: leave it out";
        return Err(FieldError::new(format!("{at}.id"), why));
    }
    table.insert("id".into(), id(kind, names).into());
    Ok(())
}

/// The table's name, after it got `default` if it had none. `taken` are those of its neighbours.
fn name(
    table: &mut Map<String, Value>,
    at: &str,
    default: String,
    taken: &mut HashMap<String, usize>,
) -> Result<String, FieldError> {
    let name = match table.get("name") {
        None => default,
        Some(Value::String(name)) if !name.is_empty() => name.clone(),
        Some(other) => {
            let why = format!("{other}: use a text that is not empty");
            return Err(FieldError::new(format!("{at}.name"), why));
        }
    };
    let number = taken.len();
    if taken.insert(name.clone(), number).is_some() {
        let why = format!("{name:?} stands twice: give each its own name");
        return Err(FieldError::new(format!("{at}.name"), why));
    }
    table.insert("name".into(), name.clone().into());
    Ok(name)
}

/// Puts ids in place of names and files, and defaults where there is nothing.
fn complete<F: FnMut(&str) -> Result<String, String>>(
    all: &mut Value,
    reader: &mut Reader<F>,
) -> Result<(), FieldError> {
    let mut root = Map::from_iter([("load_balancers".to_owned(), all.take())]);
    let mut taken = HashMap::new();
    for (i, (lb, at)) in tables(&mut root, "load_balancers", "")
        .into_iter()
        .enumerate()
    {
        let at = at.trim_start_matches('.');
        let own = name(lb, at, format!("load-balancer-{}", i + 1), &mut taken)?;
        identify(lb, at, "load balancer", &[&own])?;
        let mut pools = HashMap::new();
        for (p, (pool, at)) in tables(lb, "pools", at).into_iter().enumerate() {
            let name = name(pool, &at, format!("pool-{}", p + 1), &mut pools)?;
            self::pool(pool, &at, [&own, &name], [i, p], reader)?;
        }
        let mut listeners = HashMap::new();
        for (listener, at) in tables(lb, "listeners", at) {
            let port = listener.get("port").map(Value::to_string);
            let words = format!(
                "{}-{}",
                text(listener, "protocol")
                    .unwrap_or("listener")
                    .to_lowercase(),
                port.unwrap_or_default()
            );
            let name = name(listener, &at, words, &mut listeners)?;
            self::listener(listener, &at, [&own, &name], &pools, reader)?;
        }
    }
    *all = root.remove("load_balancers").unwrap_or_default();
    Ok(())
}

fn pool<F: FnMut(&str) -> Result<String, String>>(
    pool: &mut Map<String, Value>,
    at: &str,
    names: [&str; 2],
    place: [usize; 2],
    reader: &mut Reader<F>,
) -> Result<(), FieldError> {
    identify(pool, at, "pool", &names)?;
    default(pool, "algorithm", "ROUND_ROBIN".into());
    let [lb, own] = names;
    if let Some(monitor) = table(pool, "health_monitor") {
        identify(monitor, &format!("{at}.health_monitor"), "monitor", &names)?;
        for (key, value) in [
            ("delay", 5_000),
            ("timeout", 3_000),
            ("rise", 2),
            ("fall", 3),
        ] {
            default(monitor, key, value.into());
        }
        if let Some(check) = table(monitor, "check")
            && ["HTTP", "HTTPS"].contains(&text(check, "type").unwrap_or_default())
        {
            default(check, "method", "GET".into());
            default(check, "path", "/".into());
            default(check, "expected", json!([[200, 200]]));
        }
    }
    if let Some(tls) = table(pool, "tls") {
        for key in ["certificate", "ca", "crl"] {
            if let Some(value) = tls.get_mut(key) {
                reader.replace(value, &format!("{at}.tls.{key}"))?;
            }
        }
    }
    let mut taken = HashMap::new();
    for (m, (member, at)) in tables(pool, "members", at).into_iter().enumerate() {
        let host = hosts::of_table(member, &at)?;
        let address = match &host {
            Some(host) => host.name().to_owned(),
            None => text(member, "address").unwrap_or_default().to_owned(),
        };
        let port = member.get("port").map(Value::to_string).unwrap_or_default();
        let words = match address.contains(':') {
            true => format!("[{address}]:{port}"),
            false => format!("{address}:{port}"),
        };
        let name = name(member, &at, words, &mut taken)?;
        identify(member, &at, "member", &[lb, own, &name])?;
        if let Some(host) = host {
            let [b, p] = place;
            reader
                .hosts
                .add(host, member, &at, ([b, p, m], [lb, own, &name]), &mut taken)?;
        }
        default(member, "weight", 1.into());
    }
    Ok(())
}

fn listener<F: FnMut(&str) -> Result<String, String>>(
    listener: &mut Map<String, Value>,
    at: &str,
    names: [&str; 2],
    pools: &HashMap<String, usize>,
    reader: &mut Reader<F>,
) -> Result<(), FieldError> {
    identify(listener, at, "listener", &names)?;
    let [lb, own] = names;
    let refer = |value: Option<&mut Value>, at: &str| -> Result<(), FieldError> {
        let Some(value) = value else {
            return Ok(());
        };
        let Value::String(name) = value else {
            return Ok(()); // refused by its type later
        };
        if !pools.contains_key(name.as_str()) {
            let mut known: Vec<&str> = pools.keys().map(String::as_str).collect();
            known.sort_unstable();
            let why = format!(
                "{name:?} is no pool of this load balancer: use one of {}",
                known.join(", ")
            );
            return Err(FieldError::new(at, why));
        }
        *value = id("pool", &[lb, name]).into();
        Ok(())
    };
    refer(
        listener.get_mut("default_pool"),
        &format!("{at}.default_pool"),
    )?;
    if let Some(timeouts) = table(listener, "timeouts")
        && let Ok(Value::Object(usual)) = serde_json::to_value(Timeouts::default())
    {
        for (key, value) in usual {
            default(timeouts, &key, value);
        }
    }
    if let Some(tls) = table(listener, "tls") {
        for key in ["default_certificate", "client_ca", "client_crl"] {
            if let Some(value) = tls.get_mut(key) {
                reader.replace(value, &format!("{at}.tls.{key}"))?;
            }
        }
        let sni = tls
            .get_mut("sni_certificates")
            .and_then(Value::as_array_mut);
        for (i, value) in sni.into_iter().flatten().enumerate() {
            reader.replace(value, &format!("{at}.tls.sni_certificates[{i}]"))?;
        }
    }
    for (p, (policy, at)) in tables(listener, "l7_policies", at).into_iter().enumerate() {
        let number = p.to_string();
        identify(policy, &at, "policy", &[lb, own, &number])?;
        default(policy, "position", (p + 1).into());
        if let Some(action) = table(policy, "action") {
            refer(action.get_mut("pool"), &format!("{at}.action.pool"))?;
        }
        for (r, (rule, at)) in tables(policy, "rules", &at).into_iter().enumerate() {
            identify(rule, &at, "rule", &[lb, own, &number, &r.to_string()])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
