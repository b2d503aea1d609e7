//! Operating statuses from the last words of the amphorae. Pure.
//!
//! As Octavia: a member's status is what its probes say; a pool is DEGRADED when some of its members
//! are down and ERROR when all are; the load balancer is as bad as its worst pool, and DEGRADED while an
//! amphora is missing. What is administratively down is OFFLINE.

use crate::db::query::graph::Graph;
use krater_model::control::MemberHealth;
use krater_model::wire::heartbeat::Beat;
use std::collections::BTreeMap;

/// Kinds of object that have an operating status from heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A load balancer.
    LoadBalancer,
    /// A listener.
    Listener,
    /// A pool.
    Pool,
    /// A member.
    Member,
}

/// Status changes: kind and id → new operating status. What stays as it is is left out.
pub type Changes = BTreeMap<(Kind, String), &'static str>;

/// What is known of a load balancer's amphorae.
#[derive(Debug, Clone, Default)]
pub struct Heard<'a> {
    /// Last whole beat of the amphora that speaks for the load balancer: the VIP's owner, else any
    /// that is fresh. None: nobody was heard.
    pub speaker: Option<&'a Beat>,
    /// Amphorae that are heard and whose data planes are ready.
    pub fit: usize,
    /// Amphorae that the topology wants.
    pub wanted: usize,
}

/// Compares what should be shown with the rows.
pub fn evaluate(graph: &Graph, heard: &Heard<'_>) -> Changes {
    let mut changes = Changes::new();
    let Some(beat) = heard.speaker else {
        // Nobody spoke: only the load balancer's own status says so; the rest is as it was last.
        let balancer = &graph.load_balancer;
        let status = if balancer.enabled { "ERROR" } else { "OFFLINE" };
        note(
            &mut changes,
            Kind::LoadBalancer,
            &balancer.id,
            &balancer.operating_status,
            status,
        );
        return changes;
    };
    let mut worst = Severity::Fine;
    for member in &graph.members {
        let status = member_status(beat, &member.id, member.enabled, &member.operating_status);
        note(
            &mut changes,
            Kind::Member,
            &member.id,
            &member.operating_status,
            status,
        );
    }
    for pool in &graph.pools {
        let used = graph
            .listeners
            .iter()
            .any(|l| l.default_pool_id.as_ref() == Some(&pool.id))
            || graph
                .policies
                .iter()
                .any(|p| p.redirect_pool_id.as_ref() == Some(&pool.id));
        let healths: Vec<MemberHealth> = graph
            .members
            .iter()
            .filter(|m| m.pool_id == pool.id && m.enabled)
            .filter_map(|m| health(beat, &m.id))
            .filter(|health| *health != MemberHealth::Maint)
            .collect();
        let down = healths.iter().filter(|h| **h == MemberHealth::Down).count();
        let severity = match down {
            0 => Severity::Fine,
            all if all == healths.len() => Severity::Broken,
            _ => Severity::Degraded,
        };
        let status = if pool.enabled && used {
            worst = worst.max(severity);
            severity.as_str()
        } else {
            "OFFLINE"
        };
        note(
            &mut changes,
            Kind::Pool,
            &pool.id,
            &pool.operating_status,
            status,
        );
    }
    for listener in &graph.listeners {
        let id = listener.id.parse().ok();
        let found = id.and_then(|id| beat.listeners.get(&id));
        let status = match found {
            _ if !listener.enabled || !graph.load_balancer.enabled => "OFFLINE",
            Some(open) if open.full => {
                worst = worst.max(Severity::Degraded);
                "DEGRADED"
            }
            Some(_) => "ONLINE",
            // A beat from before the listener was pushed says nothing about it.
            None if listener.provisioning_status != "ACTIVE" => continue,
            None => {
                worst = worst.max(Severity::Degraded);
                "ERROR"
            }
        };
        note(
            &mut changes,
            Kind::Listener,
            &listener.id,
            &listener.operating_status,
            status,
        );
    }
    if heard.fit < heard.wanted {
        worst = worst.max(Severity::Degraded);
    }
    let balancer = &graph.load_balancer;
    let status = if balancer.enabled {
        worst.as_str()
    } else {
        "OFFLINE"
    };
    note(
        &mut changes,
        Kind::LoadBalancer,
        &balancer.id,
        &balancer.operating_status,
        status,
    );
    changes
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Fine,
    Degraded,
    Broken,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "ONLINE",
            Self::Degraded => "DEGRADED",
            Self::Broken => "ERROR",
        }
    }
}

fn note(changes: &mut Changes, kind: Kind, id: &str, current: &str, wanted: &'static str) {
    if current != wanted {
        changes.insert((kind, id.to_owned()), wanted);
    }
}

fn health(beat: &Beat, member: &str) -> Option<MemberHealth> {
    let id = member.parse().ok()?;
    beat.members.get(&id).copied()
}

fn member_status(beat: &Beat, id: &str, enabled: bool, current: &str) -> &'static str {
    if !enabled {
        return "OFFLINE";
    }
    match health(beat, id) {
        Some(MemberHealth::Up) => "ONLINE",
        Some(MemberHealth::Down) => "ERROR",
        Some(MemberHealth::NoCheck) => "NO_MONITOR",
        Some(MemberHealth::Drain) => "DRAINING",
        Some(MemberHealth::Maint) => "OFFLINE",
        // No probe has ended: not known yet, or as the last probe before a change said.
        Some(MemberHealth::Checking) | None => match current {
            "ONLINE" => "ONLINE",
            "ERROR" => "ERROR",
            "DRAINING" => "DRAINING",
            "NO_MONITOR" if health(beat, id).is_none() => "NO_MONITOR",
            _ => "OFFLINE",
        },
    }
}

#[cfg(test)]
mod tests;
