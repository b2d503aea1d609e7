//! Members by name: a `host` in the place of an `address`, and as many members as it gets `addresses`.
//!
//! As with HAProxy's `server` and `server-template`, a member of one name is a fixed number of *places*. Each has an id
//! and a name of its own for ever, so that its counters, limits, cookies and an operator's word stay, and the address
//! that it has now. Health belongs to the address: the data plane forgets it when the address changes.

use super::id;
use crate::error::FieldError;
use crate::id::MemberId;
use crate::names::{AllFound, MAX_SERVERS, Resolver, assign};
use crate::state::{LoadBalancer, Member};
use crate::wire::dns::Name;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// Most places of one name: what fits into an answer over UDP.
pub const MAX_ADDRESSES: usize = 32;
/// Most members by name in a file: each name is asked for by itself.
const MAX_HOSTS: usize = 1_000;
/// Least times, in milliseconds: below, name servers are asked more than members are.
const MIN_TIME: u32 = 100;

/// The members of a file that are given by name.
#[derive(Debug, Clone, Default)]
pub struct Hosts(Vec<Host>);

/// One member of the file.
#[derive(Debug, Clone)]
struct Host {
    name: Name,
    /// Load balancer, pool, member.
    at: [usize; 3],
    /// Identifier and name of each place.
    places: Vec<(MemberId, String)>,
}

/// What a member's table says of its name.
#[derive(Debug)]
pub(super) struct Wanted {
    name: Name,
    /// As it is written.
    text: String,
    places: usize,
}

impl Wanted {
    pub(super) fn name(&self) -> &str {
        &self.text
    }
}

/// Takes `host` and `addresses` out of a member's table; in their place comes what a member without an address has.
pub(super) fn of_table(
    member: &mut Map<String, Value>,
    at: &str,
) -> Result<Option<Wanted>, FieldError> {
    let refuse = |key: &str, why: String| Err(FieldError::new(format!("{at}.{key}"), why));
    let count = member.remove("addresses");
    let Some(host) = member.remove("host") else {
        return match count {
            Some(_) => refuse("addresses", "needs host".into()),
            None => Ok(None),
        };
    };
    for key in ["address", "down"] {
        if member.contains_key(key) {
            return refuse(key, "leave it out: host says where the member is".into());
        }
    }
    let name = match host.as_str() {
        Some(text) => text.parse::<Name>().map(|name| (name, text.to_owned())),
        None => return refuse("host", format!("{host}: use a text")),
    };
    let (name, text) = match name {
        Ok(name) => name,
        Err(error) => return refuse("host", format!("{host}: {error}")),
    };
    let places = match count {
        None => 1,
        Some(count) => {
            let number = count.as_u64().and_then(|n| usize::try_from(n).ok());
            match number.filter(|n| (1..=MAX_ADDRESSES).contains(n)) {
                Some(number) => number,
                None => {
                    let why = format!("{count} is out of range: use 1 to {MAX_ADDRESSES}");
                    return refuse("addresses", why);
                }
            }
        }
    };
    member.insert("address".into(), "0.0.0.0".into());
    member.insert("down".into(), unknown(&name).into());
    Ok(Some(Wanted { name, text, places }))
}

fn unknown(name: &Name) -> String {
    format!("{name}: not resolved yet")
}

impl Hosts {
    /// One more. `taken` are the names of its neighbours.
    pub(super) fn add(
        &mut self,
        wanted: Wanted,
        member: &Map<String, Value>,
        at: &str,
        (place, [lb, pool, own]): ([usize; 3], [&str; 3]),
        taken: &mut HashMap<String, usize>,
    ) -> Result<(), FieldError> {
        if self.0.len() >= MAX_HOSTS {
            let why = format!("at most {MAX_HOSTS} members have one");
            return Err(FieldError::new(format!("{at}.host"), why));
        }
        let Wanted { name, places, .. } = wanted;
        let port = member.get("port").map(Value::to_string).unwrap_or_default();
        // Two members of one name would have the same address.
        let key = format!("\0{name} {port}");
        let neighbours = taken.len();
        if taken.insert(key, neighbours).is_some() {
            let why = format!("{name} with this port stands twice: use addresses = 2");
            return Err(FieldError::new(format!("{at}.host"), why));
        }
        let mut host = Host {
            name,
            at: place,
            places: Vec::with_capacity(places),
        };
        for number in 1..=places {
            // The first one is the member itself, so that its id stays when `addresses` is raised.
            let (ids, label) = match number {
                1 => (vec![lb, pool, own], own.to_owned()),
                _ => {
                    let label = format!("{own}-{number}");
                    let neighbours = taken.len();
                    if taken.insert(label.clone(), neighbours).is_some() {
                        let why = format!("{label:?} is also a place of {own}: give it another");
                        return Err(FieldError::new(format!("{at}.name"), why));
                    }
                    (vec![lb, pool, own, "place"], label)
                }
            };
            let number = number.to_string();
            let ids = ids
                .into_iter()
                .chain((number != "1").then_some(number.as_str()));
            let ids: Vec<&str> = ids.collect();
            let id = Value::String(id("member", &ids));
            let id = serde_json::from_value::<MemberId>(id);
            let id = id.map_err(|e| FieldError::new(format!("{at}.host"), e.to_string()))?;
            host.places.push((id, label));
        }
        self.0.push(host);
        Ok(())
    }

    /// All names.
    pub fn names(&self) -> BTreeSet<Name> {
        self.0.iter().map(|host| host.name.clone()).collect()
    }

    /// Members with the addresses that they have now.
    pub(super) fn expand(&self, all: &[LoadBalancer], book: &Book) -> Vec<LoadBalancer> {
        let mut all = all.to_vec();
        // From the end: what comes earlier in a pool keeps its place.
        for host in self.0.iter().rev() {
            let [b, p, m] = host.at;
            let pool = all.get_mut(b).and_then(|lb| lb.pools.get_mut(p));
            let Some(members) = pool.map(|pool| &mut pool.members) else {
                continue;
            };
            let Some(pattern) = members.get(m).cloned() else {
                continue;
            };
            members.splice(m..=m, host.members(&pattern, book));
        }
        all
    }
}

impl Host {
    fn members(&self, pattern: &Member, book: &Book) -> Vec<Member> {
        let known = self.places.first().and_then(|(id, _)| book.0.get(id));
        let addresses = known.map(|entry| entry.addresses.as_slice());
        let places = self.places.iter().zip(addresses.unwrap_or_default());
        let served: Vec<Member> = places
            .filter_map(|((id, name), address)| {
                Some(Member {
                    id: *id,
                    name: name.clone(),
                    address: (*address)?,
                    down: None,
                    ..pattern.clone()
                })
            })
            .collect();
        if !served.is_empty() {
            return served;
        }
        // Nobody serves: one stands for all and says why.
        let mut down = pattern.clone();
        if let Some(problem) = known.and_then(|entry| entry.problem.as_ref()) {
            let text = format!("{}: {problem}", self.name);
            let ascii = text.chars().map(|c| if c.is_ascii() { c } else { '?' });
            down.down = Some(ascii.take(Member::MAX_DOWN).collect());
        }
        vec![down]
    }
}

/// Which address each place has.
#[derive(Debug, Clone, Default)]
pub struct Book(HashMap<MemberId, Entry>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    addresses: Vec<Option<IpAddr>>,
    /// Why there is none.
    problem: Option<String>,
}

impl Book {
    /// Follows what is found of the file's names now. True when members changed.
    pub fn follow(&mut self, hosts: &Hosts, found: &AllFound) -> bool {
        let mut old = std::mem::take(&mut self.0);
        let before = old.clone();
        for host in &hosts.0 {
            let Some((id, _)) = host.places.first() else {
                continue;
            };
            let mut entry = old.remove(id).unwrap_or_default();
            entry.addresses.resize(host.places.len(), None);
            if let Some(found) = found.get(&host.name) {
                assign(&mut entry.addresses, &found.addresses);
                let none = found.addresses.is_empty();
                entry.problem = found.problem.clone().filter(|_| none);
            }
            self.0.insert(*id, entry);
        }
        self.0 != before
    }
}

/// Ranges of `[resolver]`.
pub(super) fn check(resolver: &Resolver) -> Result<(), FieldError> {
    let refuse = |key: &str, why: String| Err(FieldError::new(key, why));
    if let Some(servers) = &resolver.servers
        && !(1..=MAX_SERVERS).contains(&servers.len())
    {
        let why = format!("{}: use 1 to {MAX_SERVERS}, or leave it out", servers.len());
        return refuse("servers", why);
    }
    let families = &resolver.families;
    if families.is_empty()
        || (families.len() > 1 && families.first() == families.get(1))
        || families.len() > 2
    {
        return refuse("families", "use one or both of \"ipv4\", \"ipv6\"".into());
    }
    if !(1..=10).contains(&resolver.attempts) {
        let why = format!("{} is out of range: use 1 to 10", resolver.attempts);
        return refuse("attempts", why);
    }
    for (key, value, most) in [
        ("timeout", resolver.timeout.value(), 60_000),
        ("min_ttl", resolver.min_ttl.value(), 86_400_000),
        ("max_ttl", resolver.max_ttl.value(), 604_800_000),
    ] {
        if !(MIN_TIME..=most).contains(&value) {
            let why = format!("{value} ms is out of range: use {MIN_TIME} to {most}");
            return refuse(key, why);
        }
    }
    if resolver.max_ttl < resolver.min_ttl {
        return refuse("max_ttl", "must not be below min_ttl".into());
    }
    Ok(())
}
