//! Addresses of names as time goes by: what is known, for how long it holds, when to ask again.
//!
//! Pure: answers and the time go in. `now` is any clock that only goes forward.

use crate::units::Millis;
use crate::wire::dns::{Answer, Family, Name};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// Most servers that are asked: as many as the C library takes (resolv.conf(5)).
pub const MAX_SERVERS: usize = 3;
/// Where DNS is served.
const PORT: u16 = 53;

/// How names of members are resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resolver {
    /// Recursive resolvers, asked one after the other, 1 to [`MAX_SERVERS`]. None: those of `/etc/resolv.conf`.
    pub servers: Option<Vec<NameServer>>,
    /// Families that are asked for; the first one is preferred when there are more addresses than places.
    pub families: Vec<Family>,
    /// How long one server has to answer.
    pub timeout: Millis,
    /// How many times all servers are asked before it counts as a failure.
    pub attempts: u8,
    /// An answer holds so long at least, and after a failure it takes so long until the next question.
    pub min_ttl: Millis,
    /// An answer holds so long at most.
    pub max_ttl: Millis,
    /// Addresses are kept for so long after the DNS says that the name has none.
    pub hold_absent: Millis,
    /// Addresses are kept for so long while no server answers properly.
    pub hold_error: Millis,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            servers: None,
            families: vec![Family::Ipv4, Family::Ipv6],
            timeout: Millis::literal(1_000),
            attempts: 3,
            min_ttl: Millis::literal(5_000),
            max_ttl: Millis::literal(300_000),
            hold_absent: Millis::literal(30_000),
            hold_error: Millis::literal(86_400_000),
        }
    }
}

/// Address of a name server; port 53 unless it says another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NameServer(pub SocketAddr);

impl FromStr for NameServer {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
        let address = bare.or_else(|_| text.parse::<SocketAddr>());
        match address {
            Ok(address) if address.port() != 0 && is_usable(address.ip()) => Ok(Self(address)),
            _ => Err(format!(
                "{text:?}: use an address, such as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53"
            )),
        }
    }
}

impl TryFrom<String> for NameServer {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<NameServer> for String {
    fn from(server: NameServer) -> Self {
        server.0.to_string()
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The servers of a resolv.conf(5): its first [`MAX_SERVERS`], or this host when it names none. Addresses with a
/// zone (`fe80::1%eth0`) are passed over.
pub fn resolv_conf(text: &str) -> Vec<NameServer> {
    let server = |line: &str| -> Option<NameServer> {
        let mut words = line.split_ascii_whitespace();
        let is_one = words.next() == Some("nameserver");
        words.next().filter(|_| is_one)?.parse().ok()
    };
    let servers: Vec<_> = text.lines().filter_map(server).take(MAX_SERVERS).collect();
    match servers.is_empty() {
        true => vec![NameServer(SocketAddr::from(([127, 0, 0, 1], PORT)))],
        false => servers,
    }
}

/// Whether a member or a server can be there at all.
pub fn is_usable(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// What is known of a name's addresses of one family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    addresses: Vec<IpAddr>,
    /// Since when the DNS says that there are none, after it said otherwise.
    absent: Option<Duration>,
    /// Since when no server answers properly.
    failing: Option<Duration>,
    problem: Option<String>,
    ask: Duration,
    asked: bool,
}

impl Record {
    /// What an earlier run knew; it holds as if a question had failed now.
    pub fn remembered(addresses: Vec<IpAddr>, now: Duration) -> Self {
        Self {
            failing: Some(now),
            asked: true,
            addresses,
            ..Self::default()
        }
    }

    /// An answer came, or the last attempt failed.
    pub fn observe(&mut self, now: Duration, outcome: Result<Answer, String>, with: &Resolver) {
        self.asked = true;
        let (least, most) = (with.min_ttl.duration(), with.max_ttl.duration());
        let (ttl, problem) = match outcome {
            Ok(Answer::Addresses { mut addresses, ttl }) => {
                addresses.retain(|ip| is_usable(*ip));
                if addresses.is_empty() {
                    let why = "its addresses are such that no member has";
                    self.is_absent(now, why, Some(ttl))
                } else {
                    (self.absent, self.failing) = (None, None);
                    self.addresses = addresses;
                    (Some(ttl), None)
                }
            }
            Ok(Answer::NoName { ttl }) => self.is_absent(now, "no such name (NXDOMAIN)", ttl),
            Ok(Answer::NoAddress { ttl }) => self.is_absent(now, "the name has no address", ttl),
            Ok(Answer::Truncated) => self.fails(now, "the answer is too long".into()),
            Ok(Answer::Failed(rcode)) => self.fails(now, refused(rcode)),
            Err(why) => self.fails(now, why),
        };
        self.problem = problem;
        self.ask = now + ttl.map_or(least, |ttl| ttl.clamp(least, most.max(least)));
        self.expire(now, with);
    }

    fn is_absent(
        &mut self,
        now: Duration,
        why: &str,
        ttl: Option<Duration>,
    ) -> (Option<Duration>, Option<String>) {
        self.failing = None;
        self.absent.get_or_insert(now);
        (ttl, Some(why.into()))
    }

    fn fails(&mut self, now: Duration, why: String) -> (Option<Duration>, Option<String>) {
        self.failing.get_or_insert(now);
        (None, Some(why))
    }

    /// Forgets addresses whose time is over.
    pub fn expire(&mut self, now: Duration, with: &Resolver) {
        if self.end(with).is_some_and(|end| end <= now) {
            self.addresses.clear();
        }
    }

    fn end(&self, with: &Resolver) -> Option<Duration> {
        let absent = self.absent.map(|since| since + with.hold_absent.duration());
        let failing = self.failing.map(|since| since + with.hold_error.duration());
        absent.into_iter().chain(failing).min()
    }

    /// Other servers are to be asked from now on.
    pub fn ask_anew(&mut self) {
        self.ask = Duration::ZERO;
    }

    /// When to ask.
    pub fn ask(&self) -> Duration {
        self.ask
    }

    /// When to look again: to ask, or to forget.
    pub fn next(&self, with: &Resolver) -> Duration {
        match self.end(with) {
            Some(end) if !self.addresses.is_empty() => end.min(self.ask),
            _ => self.ask,
        }
    }

    /// Addresses that hold.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// What was wrong with the last answer.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Whether a question has come to its end.
    pub fn is_asked(&self) -> bool {
        self.asked
    }
}

/// RFC 1035 section 4.1.1.
fn refused(rcode: u8) -> String {
    let name = match rcode {
        1 => "FORMERR",
        2 => "SERVFAIL",
        4 => "NOTIMP",
        5 => "REFUSED",
        _ => "",
    };
    match name.is_empty() {
        true => format!("the server answers with code {rcode}"),
        false => format!("the server answers {name}"),
    }
}

/// What is known of a name now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Found {
    /// Its addresses, those of the preferred family first.
    pub addresses: Vec<IpAddr>,
    /// What was wrong with the last answers, if anything; addresses may hold nevertheless.
    pub problem: Option<String>,
}

impl Found {
    /// Of the records of all families, in the order of preference.
    pub fn of<'a>(records: impl IntoIterator<Item = (Family, &'a Record)>) -> Self {
        let mut found = Self::default();
        let mut problems = Vec::new();
        for (family, record) in records {
            found.addresses.extend(record.addresses());
            if let Some(problem) = record.problem() {
                // Most names have addresses of one family only: that is no problem.
                let matters = record.failing.is_some() || !record.addresses.is_empty();
                problems.push((matters, format!("{family}: {problem}")));
            }
        }
        let all = found.addresses.is_empty();
        problems.retain(|(matters, _)| *matters || all);
        let problems: Vec<_> = problems.into_iter().map(|(_, text)| text).collect();
        found.problem = (!problems.is_empty()).then(|| problems.join(", "));
        found
    }
}

/// All names.
pub type AllFound = BTreeMap<Name, Found>;

/// Gives addresses to places: one that has an address keeps it for as long as the name has it, the others get what is
/// left, in order. True when something changed.
pub fn assign(places: &mut [Option<IpAddr>], addresses: &[IpAddr]) -> bool {
    let before = places.to_vec();
    for place in places.iter_mut() {
        *place = place.filter(|ip| addresses.contains(ip));
    }
    let free = addresses.iter().filter(|ip| !places.contains(&Some(**ip)));
    let free: Vec<IpAddr> = free.copied().collect();
    let empty = places.iter_mut().filter(|place| place.is_none());
    for (place, ip) in empty.zip(free) {
        *place = Some(ip);
    }
    before != places
}

#[cfg(test)]
mod tests;
