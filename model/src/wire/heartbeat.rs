//! Heartbeat datagrams: amphora → health manager, UDP port 5555.
//!
//! `magic "KRHB" · version 1 · 3 bytes 0 · JSON of [`Beat`] · HMAC-SHA256 over all before it (32 bytes)`.
//! The receiver drops what is short, has a foreign magic or version, a wrong HMAC, or a sequence number
//! that is not above the last one of the same boot id ([`ReplayGuard`]).

use crate::control::{ListenerStats, MemberHealth, RouterState};
use crate::id::*;
use crate::secret::Secret;
use crate::units::{Revision, Vrid};
use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// UDP port of a health manager.
pub const PORT: u16 = 5555;
/// Largest datagram in bytes; larger bodies are split by the sender over several beats (`part` of `parts`).
pub const MAX_DATAGRAM: usize = 60_000;
const MAGIC: &[u8; 4] = b"KRHB";
const VERSION: u8 = 1;
const HEADER: usize = 8;
const TAG: usize = 32;

/// What an amphora says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Who.
    pub amphora_id: AmphoraId,
    /// New at every start of the machine or set of namespaces.
    pub boot_id: String,
    /// Grows within a boot id, also over restarts of the agent.
    pub seq: u64,
    /// This datagram's number, from 0; each part has its own `seq`.
    pub part: u16,
    /// Datagrams of this beat.
    pub parts: u16,
    /// Desired state in force.
    pub revision: Option<Revision>,
    /// The data plane answers, has its snapshot, and all its listeners accept.
    pub dataplane_ready: bool,
    /// Listeners that are open or full, with their counters.
    pub listeners: BTreeMap<ListenerId, ListenerBeat>,
    /// Health of members.
    pub members: BTreeMap<MemberId, MemberHealth>,
    /// State of virtual routers.
    pub routers: BTreeMap<Vrid, RouterState>,
}

/// A listener in a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerBeat {
    /// At its connection limit.
    pub full: bool,
    /// Counters.
    pub stats: ListenerStats,
}

/// Why a datagram was dropped. Each has a counter of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Dropped {
    /// Shorter than header and tag.
    #[error("truncated")]
    Truncated,
    /// Not ours.
    #[error("foreign magic")]
    Magic,
    /// Of a version we do not read.
    #[error("unknown version")]
    Version,
    /// The key differs, or bytes were changed.
    #[error("wrong HMAC")]
    Hmac,
    /// Authentic but not understood.
    #[error("body not understood")]
    Body,
    /// Seen before.
    #[error("replayed")]
    Replay,
}

impl Beat {
    /// The datagram. `None` when it would exceed [`MAX_DATAGRAM`]: split it over more parts.
    pub fn encode(&self, key: &Secret) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(1_024);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        serde_json::to_writer(&mut out, self).ok()?;
        let tag = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes()),
            &out,
        );
        out.extend_from_slice(tag.as_ref());
        (out.len() <= MAX_DATAGRAM).then_some(out)
    }

    /// Checks and reads a datagram. Nothing of the body is looked at before the HMAC is right.
    pub fn decode(datagram: &[u8], key: &Secret) -> Result<Self, Dropped> {
        let Some(body_end) = datagram.len().checked_sub(TAG).filter(|end| *end >= HEADER) else {
            return Err(Dropped::Truncated);
        };
        if !datagram.starts_with(MAGIC) {
            return Err(Dropped::Magic);
        }
        if datagram.get(4) != Some(&VERSION) {
            return Err(Dropped::Version);
        }
        let (signed, tag) = datagram.split_at(body_end);
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes());
        hmac::verify(&key, signed, tag).map_err(|_| Dropped::Hmac)?;
        let body = signed.get(HEADER..).ok_or(Dropped::Truncated)?;
        serde_json::from_slice(body).map_err(|_| Dropped::Body)
    }
}

/// Remembers the last sequence number of each amphora. Bounded by the amphorae that are known:
/// the caller [`forget`](Self::forget)s those that are gone and asks only for ones that exist.
#[derive(Debug, Default)]
pub struct ReplayGuard {
    last: HashMap<AmphoraId, (String, u64)>,
}

impl ReplayGuard {
    /// Accepts a beat once. A new boot id starts a new sequence; an old boot id never comes back
    /// while its successor is remembered, because boot ids are `<start time in ms, 16 hex digits>-<random>`
    /// and a smaller one is refused.
    pub fn accept(&mut self, beat: &Beat) -> Result<(), Dropped> {
        if let Some((boot, seq)) = self.last.get(&beat.amphora_id)
            && (beat.boot_id.as_str(), beat.seq) <= (boot.as_str(), *seq)
        {
            return Err(Dropped::Replay);
        }
        self.last
            .insert(beat.amphora_id, (beat.boot_id.clone(), beat.seq));
        Ok(())
    }

    /// The amphora is gone.
    pub fn forget(&mut self, amphora: AmphoraId) {
        self.last.remove(&amphora);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(seq: u64) -> Beat {
        Beat {
            amphora_id: AmphoraId(uuid::Uuid::from_u128(1)),
            boot_id: "0000019aa0000000-a".into(),
            seq,
            part: 0,
            parts: 1,
            revision: Some(Revision::default()),
            dataplane_ready: true,
            listeners: BTreeMap::new(),
            members: BTreeMap::from([(MemberId(uuid::Uuid::from_u128(2)), MemberHealth::Up)]),
            routers: BTreeMap::from([(Vrid::MIN, RouterState::Active)]),
        }
    }

    #[test]
    fn round_trip_and_every_damage_is_refused() {
        let key = Secret::new("k");
        let bytes = beat(7).encode(&key).unwrap();
        assert_eq!(Beat::decode(&bytes, &key), Ok(beat(7)));
        assert_eq!(
            Beat::decode(&bytes, &Secret::new("other")),
            Err(Dropped::Hmac)
        );
        for length in 0..bytes.len() {
            assert!(
                Beat::decode(&bytes[..length], &key).is_err(),
                "cut to {length}"
            );
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Beat::decode(&changed, &key).is_err(), "byte {at}");
        }
    }

    #[test]
    fn replayed_and_older_beats_are_refused() {
        let mut guard = ReplayGuard::default();
        assert_eq!(guard.accept(&beat(7)), Ok(()));
        assert_eq!(guard.accept(&beat(7)), Err(Dropped::Replay));
        assert_eq!(guard.accept(&beat(6)), Err(Dropped::Replay));
        let mut reborn = beat(1);
        reborn.boot_id = "0000019aa0000001-b".into();
        assert_eq!(guard.accept(&reborn), Ok(()));
        assert_eq!(
            guard.accept(&beat(9)),
            Err(Dropped::Replay),
            "an old boot id never returns"
        );
    }
}
