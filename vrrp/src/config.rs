//! Whether a new configuration may replace the one in force. Pure.

use crate::checks;
use krater_model::control::VrrpConfig;
use krater_model::state::{Liveness, VirtualRouter};
use krater_model::{FieldError, Revision, SCHEMA};
use krater_vrrp_proto::Router;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Virtual routers of a process: as many as an interface can have identifiers.
pub(crate) const MAX_ROUTERS: usize = 255;

/// Why a configuration was refused. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Older than what is in force, or the same revision with other content.
    Conflict(FieldError),
    /// Wrong in itself.
    Invalid(FieldError),
}

/// What to do with a configuration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is in force already.
    Same,
    /// These are the routers from now on.
    Apply(Vec<Arc<Router>>),
}

/// A configuration in force. Its routers are those that run: 255 of them twice would be a quarter of a megabyte.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) revision: Revision,
    pub(crate) routers: Vec<Arc<Router>>,
}

/// Judges `new` against the one `in_force`.
pub(crate) fn judge(in_force: Option<&InForce>, new: &VrrpConfig) -> Result<Verdict, Refused> {
    if new.schema != SCHEMA && new.schema + 1 != SCHEMA {
        let why = format!("{} is not understood: this vrrp reads {SCHEMA}", new.schema);
        return Err(Refused::Invalid(FieldError::new("schema", why)));
    }
    if let Some(old) = in_force {
        let conflict = |why| Err(Refused::Conflict(FieldError::new("revision", why)));
        if new.revision < old.revision {
            let why = format!("{} is older than {}", new.revision, old.revision);
            return conflict(why);
        }
        if new.revision == old.revision {
            let old = old.routers.iter().map(|router| router.plain());
            if new.routers.iter().eq(old) {
                return Ok(Verdict::Same);
            }
            let why = format!("{} is in force with other content", new.revision);
            return conflict(why);
        }
    }
    routers(new).map(Verdict::Apply).map_err(Refused::Invalid)
}

fn routers(new: &VrrpConfig) -> Result<Vec<Arc<Router>>, FieldError> {
    if new.routers.len() > MAX_ROUTERS {
        let why = format!("{}: use at most {MAX_ROUTERS}", new.routers.len());
        return Err(FieldError::new("routers", why));
    }
    let mut keys = HashSet::new();
    let mut vips = HashSet::new();
    let mut routers = Vec::with_capacity(new.routers.len());
    for (i, plain) in new.routers.iter().enumerate() {
        let at = |error: FieldError| error.within(format!("routers[{i}]"));
        let router = Router::new(plain.clone()).map_err(at)?;
        if !keys.insert((&plain.interface, plain.vrid, plain.source.is_ipv4())) {
            let why = format!("{} is there twice on {}", plain.vrid, plain.interface);
            return Err(at(FieldError::new("vrid", why)));
        }
        for net in router.moved_nets() {
            if !vips.insert((&plain.interface, net.addr())) {
                let why = format!("{net} belongs to two virtual routers");
                return Err(at(FieldError::new("addresses", why)));
            }
        }
        routers.push(Arc::new(router));
    }
    let routers_checks = new.routers.iter().enumerate().flat_map(|(i, router)| {
        let checks = router.track_checks.iter().enumerate();
        checks.map(move |(at, check)| (i, at, check))
    });
    checks::agree(routers_checks)?;
    groups(new)?;
    sessions(new)?;
    Ok(routers)
}

/// Liveness sessions belong to addresses, not to routers.
fn sessions(new: &VrrpConfig) -> Result<(), FieldError> {
    let asking = || {
        let all = new.routers.iter().enumerate();
        all.filter_map(|(i, router)| Some((i, router, router.liveness.as_ref()?)))
    };
    let mut first: HashMap<(&str, IpAddr), (usize, &Liveness)> = HashMap::new();
    for (i, router, liveness) in asking() {
        let key = (router.interface.as_str(), router.source);
        let (at, other) = *first.entry(key).or_insert((i, liveness));
        if liveness != other {
            let why = format!("another one than that of routers[{at}], which has the same source");
            return Err(FieldError::new(format!("routers[{i}].liveness"), why));
        }
        // Its addresses are in the order of the router's peers.
        let same = new.routers.get(at).is_some_and(|r| r.peers == router.peers);
        if liveness.second_path.is_some() && !same {
            let why =
                format!("other ones than those of routers[{at}], which has the same second_path");
            return Err(FieldError::new(format!("routers[{i}].peers"), why));
        }
    }
    // One socket, one key for each address there.
    let mut taken: HashMap<IpAddr, usize> = HashMap::new();
    let mut source: Option<IpAddr> = None;
    let distinct = first.values().map(|(at, liveness)| (*at, *liveness));
    let mut distinct: Vec<(usize, &Liveness)> = distinct.collect();
    distinct.sort_by_key(|(at, _)| *at);
    for (i, liveness) in distinct {
        let Some(path) = &liveness.second_path else {
            continue;
        };
        let field = |name: &str| format!("routers[{i}].liveness.second_path.{name}");
        if *source.get_or_insert(path.source) != path.source {
            let why = format!("{}: all have the same, which is one socket", path.source);
            return Err(FieldError::new(field("source"), why));
        }
        for peer in &path.peers {
            if let Some(other) = taken.insert(*peer, i) {
                let why = format!("{peer} is that of routers[{other}] with another source");
                return Err(FieldError::new(field("peers"), why));
            }
        }
    }
    Ok(())
}

/// Elections of the members of a sync group must end alike, or their hosts would take turns for ever.
fn groups(new: &VrrpConfig) -> Result<(), FieldError> {
    let mut first: HashMap<&str, (usize, &VirtualRouter)> = HashMap::new();
    for (i, router) in new.routers.iter().enumerate() {
        let Some(name) = &router.sync_group else {
            continue;
        };
        let (at, other) = *first.entry(name).or_insert((i, router));
        let differs = if router.priority != other.priority {
            "priority"
        } else if router.preempt != other.preempt {
            "preempt"
        } else if router.preempt_delay != other.preempt_delay {
            "preempt_delay"
        } else if router.track_interfaces != other.track_interfaces {
            "track_interfaces"
        } else if router.track_checks != other.track_checks {
            "track_checks"
        } else if router.track_members != other.track_members {
            "track_members"
        } else {
            continue;
        };
        let why =
            format!("another one than that of routers[{at}], which is in the same sync_group");
        return Err(FieldError::new(format!("routers[{i}].{differs}"), why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use krater_model::{Epoch, Generation, Priority};

    fn config(generation: u64, vips: &[&str]) -> VrrpConfig {
        let routers = vips
            .iter()
            .enumerate()
            .map(|(i, vip)| {
                serde_json::from_value(serde_json::json!({
                    "vrid": i + 1, "interface": "eth1", "priority": 100, "advert_interval": 10,
                    "source": "192.0.2.1", "peers": ["192.0.2.2"], "addresses": [vip],
                }))
                .unwrap()
            })
            .collect();
        VrrpConfig {
            schema: SCHEMA,
            revision: Revision {
                epoch: Epoch(1),
                generation: Generation(generation),
            },
            request_id: "req-1".into(),
            routers,
        }
    }

    #[test]
    fn order_of_revisions() {
        let mut same = config(5, &["192.0.2.100/32"]);
        let old = InForce {
            revision: same.revision,
            routers: routers(&same).unwrap(),
        };
        same.request_id = "req-2".into();
        assert_eq!(judge(Some(&old), &same), Ok(Verdict::Same));
        let other = config(5, &["192.0.2.101/32"]);
        assert!(
            matches!(judge(Some(&old), &other), Err(Refused::Conflict(e)) if e.field == "revision")
        );
        let older = config(4, &["192.0.2.100/32"]);
        assert!(matches!(
            judge(Some(&old), &older),
            Err(Refused::Conflict(_))
        ));
        let newer = config(6, &["192.0.2.100/32"]);
        assert!(matches!(judge(Some(&old), &newer), Ok(Verdict::Apply(r)) if r.len() == 1));
    }

    #[test]
    fn refusals_name_the_field() {
        let field = |config: &VrrpConfig| match judge(None, config) {
            Err(Refused::Invalid(error)) => error.field,
            other => panic!("{other:?}"),
        };
        let mut wrong = config(1, &["192.0.2.100/32"]);
        wrong.schema = SCHEMA + 1;
        assert_eq!(field(&wrong), "schema");
        let twice = config(1, &["192.0.2.100/32", "192.0.2.100/32"]);
        assert_eq!(field(&twice), "routers[1].addresses");
        let mut vrid = config(1, &["192.0.2.100/32", "192.0.2.101/32"]);
        vrid.routers[1].vrid = vrid.routers[0].vrid;
        assert_eq!(field(&vrid), "routers[1].vrid");
        let mut peer = config(1, &["192.0.2.100/32"]);
        for (wrong, place) in [
            ("192.0.2.1", "routers[0].peers[0]"),
            ("224.0.0.18", "routers[0].peers[0]"),
            ("2001:db8::1", "routers[0].peers[0]"),
        ] {
            peer.routers[0].peers = vec![wrong.parse().unwrap()];
            assert_eq!(field(&peer), place, "{wrong}");
        }
        let grouped = |change: fn(&mut VirtualRouter)| {
            let mut config = config(1, &["192.0.2.100/32", "192.0.2.101/32"]);
            for router in &mut config.routers {
                router.sync_group = Some("g".into());
            }
            assert!(judge(None, &config).is_ok());
            change(&mut config.routers[1]);
            field(&config)
        };
        let eighty = |router: &mut VirtualRouter| router.priority = Priority::new(80).unwrap();
        assert_eq!(grouped(eighty), "routers[1].priority");
        assert_eq!(grouped(|r| r.preempt = true), "routers[1].preempt");
        let members = "routers[1].track_members";
        assert_eq!(grouped(|r| r.track_members = true), members);
        let owner = |router: &mut VirtualRouter| router.priority = Priority::OWNER;
        assert_eq!(grouped(owner), "routers[1].sync_group");
        assert_eq!(grouped(|r| r.peers.clear()), "routers[1].sync_group");
        let empty = |router: &mut VirtualRouter| router.sync_group = Some(String::new());
        assert_eq!(grouped(empty), "routers[1].sync_group");
        let checked = |change: &dyn Fn(&mut VirtualRouter)| {
            let mut config = config(1, &["192.0.2.100/32", "192.0.2.101/32"]);
            for router in &mut config.routers {
                let checks = serde_json::json!([{"name": "a", "fall": 2}]);
                router.track_checks = serde_json::from_value(checks).unwrap();
            }
            assert!(judge(None, &config).is_ok());
            change(&mut config.routers[1]);
            field(&config)
        };
        let rise = |router: &mut VirtualRouter| {
            router.track_checks[0].rise = krater_model::ProbeCount::MAX;
        };
        assert_eq!(checked(&rise), "routers[1].track_checks[0]");
        let lively = |change: &dyn Fn(&mut VirtualRouter)| {
            let mut config = config(1, &["192.0.2.100/32", "192.0.2.101/32"]);
            for router in &mut config.routers {
                let liveness = serde_json::json!({"key": "0123456789abcdef"});
                router.liveness = serde_json::from_value(liveness).unwrap();
            }
            assert!(judge(None, &config).is_ok());
            change(&mut config.routers[1]);
            field(&config)
        };
        let interval = |router: &mut VirtualRouter, value| {
            let millis = krater_model::Millis::literal(value);
            router.liveness.as_mut().unwrap().interval = millis;
        };
        assert_eq!(lively(&|r| interval(r, 20)), "routers[1].liveness");
        assert_eq!(lively(&|r| interval(r, 9)), "routers[1].liveness.interval");
        assert_eq!(lively(&|r| interval(r, 51)), "routers[1].liveness.interval");
        assert_eq!(lively(&|r| r.peers.clear()), "routers[1].liveness");
        let short = |router: &mut VirtualRouter| {
            router.liveness.as_mut().unwrap().key = krater_model::Secret::new("short");
        };
        assert_eq!(lively(&short), "routers[1].liveness.key");
        let second = |change: &dyn Fn(&mut VirtualRouter, &mut VirtualRouter)| {
            let mut config = config(1, &["192.0.2.100/32", "192.0.2.101/32"]);
            for router in &mut config.routers {
                let path = serde_json::json!({"source": "198.51.100.1", "peers": ["198.51.100.2"]});
                let liveness = serde_json::json!({"key": "0123456789abcdef", "second_path": path});
                router.liveness = serde_json::from_value(liveness).unwrap();
            }
            assert!(judge(None, &config).is_ok());
            let [a, b] = &mut config.routers[..] else {
                panic!("two");
            };
            change(a, b);
            field(&config)
        };
        fn path(router: &mut VirtualRouter) -> &mut krater_model::state::SecondPath {
            let liveness = router.liveness.as_mut().unwrap();
            liveness.second_path.as_mut().unwrap()
        }
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        for (peers, named) in [
            (vec![], "routers[0].liveness.second_path.peers"),
            (
                vec!["198.51.100.1"],
                "routers[0].liveness.second_path.peers[0]",
            ),
            (
                vec!["2001:db8::1"],
                "routers[0].liveness.second_path.peers[0]",
            ),
            (
                vec!["224.0.0.18"],
                "routers[0].liveness.second_path.peers[0]",
            ),
        ] {
            let peers: Vec<IpAddr> = peers.into_iter().map(ip).collect();
            assert_eq!(second(&|a, _| path(a).peers = peers.clone()), named);
        }
        for source in ["192.0.2.1", "fe80::1", "0.0.0.0", "127.0.0.1"] {
            let named = "routers[0].liveness.second_path.source";
            assert_eq!(second(&|a, _| path(a).source = ip(source)), named);
        }
        let another_source =
            |_: &mut VirtualRouter, b: &mut VirtualRouter| b.source = ip("192.0.2.7");
        assert_eq!(
            second(&another_source),
            "routers[1].liveness.second_path.peers"
        );
        assert_eq!(
            second(&|a, b| {
                another_source(a, b);
                path(b).source = ip("198.51.100.9");
            }),
            "routers[1].liveness.second_path.source"
        );
        assert_eq!(
            second(&|_, b| b.peers = vec![ip("192.0.2.3")]),
            "routers[1].peers"
        );
        let mut excluded = config(1, &["192.0.2.100/32"]);
        for (net, place) in [
            ("192.0.2.100/32", "routers[0].excluded_addresses[0]"),
            ("192.0.2.1/32", "routers[0].excluded_addresses[0]"),
            ("192.0.2.2/32", "routers[0].excluded_addresses[0]"),
        ] {
            excluded.routers[0].excluded_addresses = vec![net.parse().unwrap()];
            assert_eq!(field(&excluded), place, "{net}");
        }
        for either in ["192.0.2.101/32", "2001:db8::101/128"] {
            excluded.routers[0].excluded_addresses = vec![either.parse().unwrap()];
            assert!(judge(None, &excluded).is_ok(), "{either}");
        }
        // Adverts would go to ourselves.
        assert_eq!(
            field(&config(1, &["192.0.2.2/32"])),
            "routers[0].addresses[0]"
        );
        assert_eq!(
            field(&config(1, &["2001:db8::1/128"])),
            "routers[0].addresses[0]"
        );
        assert_eq!(
            field(&config(1, &["192.0.2.1/32"])),
            "routers[0].addresses[0]"
        );
    }
}
