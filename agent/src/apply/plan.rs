//! What to change so that the VIP namespace becomes what a desired state says. Pure.
//!
//! In two rounds, because a NIC that changes its namespace or its name loses its configuration:
//! [`placement`] brings every NIC into the VIP namespace under its name; then, with what is observed
//! after that, [`configuration`] says what to add before the data plane and vrrp get their parts, and
//! what to remove when nothing uses it any more. Only what bears the agent's own tags is ever removed.

use ipnet::IpNet;
use krater_model::state::{AccessLog, DesiredState, Interface, Route, Rule};
use krater_model::{FieldError, MacAddr};
use std::collections::HashSet;
use std::fmt;

/// A NIC as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: MacAddr,
    pub(crate) up: bool,
    pub(crate) mtu: u32,
    /// Addresses with the agent's tag.
    pub(crate) addresses: Vec<IpNet>,
    /// Routes with the agent's tag.
    pub(crate) routes: Vec<Route>,
}

/// What is there now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Observed {
    /// NICs of the management namespace, without addresses and routes.
    pub(crate) management: Vec<Link>,
    /// NICs of the VIP namespace.
    pub(crate) vip: Vec<Link>,
    /// Rules of the VIP namespace with the agent's tag.
    pub(crate) rules: Vec<Rule>,
}

/// One change. Each can be repeated without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Takes a NIC of the VIP namespace down and renames it.
    Rename {
        index: u32,
        from: String,
        to: String,
    },
    /// Moves a NIC from the management namespace into the VIP namespace and names it.
    Claim {
        index: u32,
        from: String,
        to: String,
    },
    /// Moves a NIC back into the management namespace.
    Release {
        index: u32,
        name: String,
    },
    SetMtu {
        index: u32,
        name: String,
        mtu: u32,
    },
    Up {
        index: u32,
        name: String,
    },
    AddAddress {
        index: u32,
        name: String,
        address: IpNet,
    },
    DelAddress {
        index: u32,
        name: String,
        address: IpNet,
    },
    AddRoute {
        index: u32,
        name: String,
        route: Route,
    },
    DelRoute {
        index: u32,
        name: String,
        route: Route,
    },
    AddRule {
        rule: Rule,
    },
    DelRule {
        rule: Rule,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rename { from, to, .. } => write!(f, "rename {from} to {to}"),
            Self::Claim { from, to, .. } => write!(f, "claim {from} as {to}"),
            Self::Release { name, .. } => write!(f, "release {name}"),
            Self::SetMtu { name, mtu, .. } => write!(f, "mtu of {name} to {mtu}"),
            Self::Up { name, .. } => write!(f, "{name} up"),
            Self::AddAddress { name, address, .. } => write!(f, "add {address} to {name}"),
            Self::DelAddress { name, address, .. } => write!(f, "remove {address} from {name}"),
            Self::AddRoute { name, route, .. } => {
                write!(f, "add route {} on {name}", route.to)
            }
            Self::DelRoute { name, route, .. } => {
                write!(f, "remove route {} from {name}", route.to)
            }
            Self::AddRule { rule } => write!(f, "add rule from {} table {}", rule.from, rule.table),
            Self::DelRule { rule } => {
                write!(f, "remove rule from {} table {}", rule.from, rule.table)
            }
        }
    }
}

/// Interfaces of `desired` whose NIC is in neither namespace yet.
pub(crate) fn missing<'a>(desired: &'a [Interface], observed: &Observed) -> Vec<&'a Interface> {
    let present = |mac: MacAddr| {
        let mut all = observed.vip.iter().chain(&observed.management);
        all.any(|link| link.mac == mac)
    };
    desired.iter().filter(|i| !present(i.mac)).collect()
}

/// What this agent can never do with a document, whatever is plugged in.
pub(crate) fn refuse(state: &DesiredState, management: &[MacAddr]) -> Result<(), FieldError> {
    for (b, lb) in state.load_balancers.iter().enumerate() {
        for (l, listener) in lb.listeners.iter().enumerate() {
            let log = listener.options.access_log.as_ref();
            if log.is_some_and(|log| log.to == AccessLog::STDOUT) {
                let field = format!("load_balancers[{b}].listeners[{l}].options.access_log.to");
                let why = "stdout: an agent's data plane has none: use the path of a file";
                return Err(FieldError::new(field, why));
            }
        }
    }
    for (i, interface) in state.interfaces.iter().enumerate() {
        let at = |field: &str, why: String| {
            Err(FieldError::new(format!("interfaces[{i}].{field}"), why))
        };
        if management.contains(&interface.mac) {
            let why = format!("{} is the management NIC: leave it out", interface.mac);
            return at("mac", why);
        }
        if interface.name == "lo" {
            return at("name", "\"lo\" is taken: use another name".into());
        }
        let no_host = interface
            .addresses
            .iter()
            .find(|a| a.addr().is_unspecified());
        if let Some(address) = no_host {
            return at("addresses", format!("{address} is no address of a host"));
        }
        if let Some(rule) = interface.rules.iter().find(|r| r.priority == 0) {
            let why = format!(
                "priority 0 of the rule for table {} is the kernel's",
                rule.table
            );
            return at("rules", why);
        }
    }
    Ok(())
}

/// Brings the NICs into the VIP namespace under their names. A NIC there that `desired` does not know makes
/// room for a name when it must; [`configuration`] sends it back later.
pub(crate) fn placement(desired: &[Interface], observed: &Observed) -> Vec<Step> {
    let wanted = |link: &Link| desired.iter().find(|i| i.mac == link.mac);
    let (mut park, mut claim, mut name) = (Vec::new(), Vec::new(), Vec::new());
    for link in &observed.vip {
        let interface = wanted(link);
        let parked = parking_name(link.mac);
        let misplaced = match interface {
            Some(interface) => interface.name != link.name,
            None => desired.iter().any(|i| i.name == link.name),
        };
        if !misplaced {
            continue;
        }
        let index = link.index;
        name.extend(interface.map(|interface| Step::Rename {
            index,
            from: parked.clone(),
            to: interface.name.clone(),
        }));
        if link.name != parked {
            let from = link.name.clone();
            park.push(Step::Rename {
                index,
                from,
                to: parked,
            });
        }
    }
    for link in &observed.management {
        let placed = observed.vip.iter().any(|l| l.mac == link.mac);
        claim.extend(
            wanted(link)
                .filter(|_| !placed)
                .map(|interface| Step::Claim {
                    index: link.index,
                    from: link.name.clone(),
                    to: interface.name.clone(),
                }),
        );
    }
    park.into_iter().chain(name).chain(claim).collect()
}

/// A name that no desired state should use, unique per NIC, at most 15 bytes.
fn parking_name(mac: MacAddr) -> String {
    let [_, _, _, a, b, c] = mac.0;
    format!("krater{a:02x}{b:02x}{c:02x}")
}

/// What to add first and what to remove last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Configuration {
    pub(crate) grow: Vec<Step>,
    pub(crate) shrink: Vec<Step>,
}

/// Compares the configuration of placed NICs. `before` are the interfaces of the state in force.
pub(crate) fn configuration(
    before: &[Interface],
    desired: &[Interface],
    observed: &Observed,
) -> Configuration {
    let mut plan = Configuration::default();
    for link in &observed.vip {
        match desired.iter().find(|i| i.mac == link.mac) {
            Some(interface) => one(interface, link, &mut plan),
            None if before.iter().any(|i| i.mac == link.mac) => {
                let (index, name) = (link.index, link.name.clone());
                for address in &link.addresses {
                    plan.shrink.push(Step::DelAddress {
                        index,
                        name: name.clone(),
                        address: *address,
                    });
                }
                plan.shrink.push(Step::Release { index, name });
            }
            None => {}
        }
    }
    let plain = |rule: &Rule| Rule {
        from: rule.from.trunc(),
        ..rule.clone()
    };
    let wanted: HashSet<Rule> = desired.iter().flat_map(|i| &i.rules).map(plain).collect();
    let there: HashSet<Rule> = observed.rules.iter().map(plain).collect();
    let mut add: Vec<Rule> = wanted.difference(&there).cloned().collect();
    add.sort_by_key(|rule| (rule.priority, rule.table));
    plan.grow
        .extend(add.into_iter().map(|rule| Step::AddRule { rule }));
    let mut gone: Vec<Rule> = there.difference(&wanted).cloned().collect();
    gone.sort_by_key(|rule| (rule.priority, rule.table));
    let gone = gone.into_iter().map(|rule| Step::DelRule { rule });
    plan.shrink.splice(0..0, gone);
    plan
}

fn one(interface: &Interface, link: &Link, plan: &mut Configuration) {
    let (index, name) = (link.index, &interface.name);
    if let Some(mtu) = interface.mtu.map(u32::from).filter(|mtu| *mtu != link.mtu) {
        let name = name.clone();
        plan.grow.push(Step::SetMtu { index, name, mtu });
    }
    for address in interface
        .addresses
        .iter()
        .filter(|a| !link.addresses.contains(a))
    {
        plan.grow.push(Step::AddAddress {
            index,
            name: name.clone(),
            address: *address,
        });
    }
    if !link.up {
        let name = name.clone();
        plan.grow.push(Step::Up { index, name });
    }
    let there: HashSet<Route> = link.routes.iter().map(normal).collect();
    let wanted: HashSet<Route> = interface.routes.iter().map(normal).collect();
    // On-link routes first: they make the next hops of the others reachable.
    let mut add: Vec<Route> = wanted.difference(&there).cloned().collect();
    add.sort_by_key(|route| (route.via.is_some(), route.table, route.to));
    for route in add {
        let name = name.clone();
        plan.grow.push(Step::AddRoute { index, name, route });
    }
    for route in link.routes.iter().filter(|r| !wanted.contains(&normal(r))) {
        plan.shrink.push(Step::DelRoute {
            index,
            name: name.clone(),
            route: route.clone(),
        });
    }
    for address in link
        .addresses
        .iter()
        .filter(|a| !interface.addresses.contains(a))
    {
        plan.shrink.push(Step::DelAddress {
            index,
            name: name.clone(),
            address: *address,
        });
    }
}

/// As the kernel reports it: no host bits in the destination. `onlink` says how to add a route and is not
/// part of what it is.
fn normal(route: &Route) -> Route {
    Route {
        to: route.to.trunc(),
        onlink: false,
        ..route.clone()
    }
}

#[cfg(test)]
mod tests;
