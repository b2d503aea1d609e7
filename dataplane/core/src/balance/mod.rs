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

/// Chooses a member, or none when no member can serve. Backup members are candidates only when no
/// primary member is one (HAProxy's `option allbackups`); a primary in `exclude` still counts as one.
pub fn choose<'a, C: Candidate>(
    algorithm: Algorithm,
    members: &'a [C],
    input: &Input<'_>,
) -> Option<&'a C> {
    let is_candidate = |m: &C| m.state().is_candidate(m.conf());
    let backups = !members.iter().any(|m| !m.conf().backup && is_candidate(m));
    let candidates = members.iter().filter(|m| {
        m.conf().backup == backups && is_candidate(m) && !input.exclude.contains(&m.conf().id)
    });
    match algorithm {
        Algorithm::RoundRobin => round_robin::choose(candidates, input.slow_start),
        Algorithm::LeastConnections => least_conn::choose(candidates, input.slow_start),
        Algorithm::SourceIp => source_hash::choose(candidates, input.client.ip(), None),
        Algorithm::SourceIpPort => {
            source_hash::choose(candidates, input.client.ip(), Some(input.client.port()))
        }
    }
}

#[cfg(test)]
mod tests;
