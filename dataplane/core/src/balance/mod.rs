//! Choosing a member among candidates. Pure: the caller holds the pool's lock and counts the choice.
//!
//! | algorithm | state | movement when members change |
//! |---|---|---|
//! | round robin | a credit per member | – |
//! | least connections | the connection counts themselves | – |
//! | source hash | none | only clients of the changed member (rendezvous hashing) |
//!
//! A slow start changes the shares of the first two; a hash keeps to the weights, so that clients keep
//! their members.

pub mod least_conn;
pub mod round_robin;
mod slow_start;
pub mod source_hash;

pub use slow_start::{PARTS, SlowStart};

use crate::member::MemberState;
use crate::table::MemberConf;
use krater_model::MemberId;
use krater_model::state::Algorithm;
use std::net::SocketAddr;

/// A member with its runtime state, as the algorithms see it.
pub trait Candidate {
    /// Configuration.
    fn conf(&self) -> &MemberConf;
    /// Runtime state.
    fn state(&self) -> &MemberState;
    /// Its share of the load as configured, or as an operator wants it.
    fn weight(&self) -> u16 {
        self.state().weight(self.conf())
    }
    /// Whether it may get one more connection. Exact while the pool's lock is held, without which nobody
    /// enters.
    fn has_place(&self) -> bool {
        let limit = self.conf().connection_limit;
        limit.is_none_or(|limit| self.state().active() < u64::from(limit))
    }
    /// Its share of the load now, in [`PARTS`] of a weight.
    fn share(&self, slow_start: Option<SlowStart>) -> u32 {
        let whole = u32::from(self.weight()) * PARTS;
        match slow_start {
            Some(slow_start) => slow_start.share(whole, self.state().back_since()),
            None => whole,
        }
    }
}

/// What a choice may depend on.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The client's address and port.
    pub client: SocketAddr,
    /// Members that were tried in vain for this client.
    pub exclude: &'a [MemberId],
    /// The pool's slow start and the time; none when it has none.
    pub slow_start: Option<SlowStart>,
}

/// What came of a choice.
#[derive(Debug)]
pub enum Choice<'a, C> {
    /// This member.
    Member(&'a C),
    /// Who could serve is at its limit. A named one and no other will do, since a hash says so.
    Full(Option<&'a C>),
    /// No member can serve.
    Nobody,
}

/// Chooses a member. Members at their limits are passed over, except by a hash. Backup members are candidates only when no
/// primary member is one (HAProxy's `option allbackups`); a primary in `exclude` still counts as one.
pub fn choose<'a, C: Candidate>(
    algorithm: Algorithm,
    members: &'a [C],
    input: &Input<'_>,
) -> Choice<'a, C> {
    let is_candidate = |m: &C| m.state().is_candidate(m.conf());
    let backups = !members.iter().any(|m| !m.conf().backup && is_candidate(m));
    let candidates = members.iter().filter(|m| {
        m.conf().backup == backups && is_candidate(m) && !input.exclude.contains(&m.conf().id)
    });
    let client = input.client;
    let free = candidates.clone().filter(|m| m.has_place());
    let chosen = match algorithm {
        Algorithm::RoundRobin => round_robin::choose(free, input.slow_start),
        Algorithm::LeastConnections => least_conn::choose(free, input.slow_start),
        Algorithm::SourceIp => source_hash::choose(candidates.clone(), client.ip(), None),
        Algorithm::SourceIpPort => {
            source_hash::choose(candidates.clone(), client.ip(), Some(client.port()))
        }
    };
    match (chosen, algorithm) {
        (Some(member), Algorithm::RoundRobin | Algorithm::LeastConnections) => {
            Choice::Member(member)
        }
        (Some(member), _) if member.has_place() => Choice::Member(member),
        (Some(member), _) => Choice::Full(Some(member)),
        (None, _) if candidates.count() > 0 => Choice::Full(None),
        (None, _) => Choice::Nobody,
    }
}

/// The member that the client's address alone leads to; none when the algorithm is no hash.
pub fn tied<'a, C: Candidate>(
    algorithm: Algorithm,
    members: &'a [C],
    input: &Input<'_>,
) -> Option<&'a C> {
    match algorithm {
        Algorithm::RoundRobin | Algorithm::LeastConnections => None,
        Algorithm::SourceIp | Algorithm::SourceIpPort => match choose(algorithm, members, input) {
            Choice::Member(member) | Choice::Full(Some(member)) => Some(member),
            Choice::Full(None) | Choice::Nobody => None,
        },
    }
}

#[cfg(test)]
mod tests;
