//! What amphorae said last. Pure: datagrams and `now` in, counters and views out.
//!
//! Bounded by the amphorae that exist: others are counted and dropped.

use krater_model::wire::heartbeat::{Beat, Dropped, ReplayGuard};
use krater_model::{AmphoraId, Secret};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// Why a datagram had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Shorter than header and tag.
    Truncated,
    /// Not ours.
    Magic,
    /// Of a version that is not read.
    Version,
    /// Foreign key, or changed on the way.
    Hmac,
    /// Authentic but not understood.
    Body,
    /// Seen before.
    Replay,
    /// Of an amphora that does not exist.
    Unknown,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Truncated,
        Self::Magic,
        Self::Version,
        Self::Hmac,
        Self::Body,
        Self::Replay,
        Self::Unknown,
    ];

    /// Label of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Magic => "magic",
            Self::Version => "version",
            Self::Hmac => "hmac",
            Self::Body => "body",
            Self::Replay => "replay",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Dropped> for Reason {
    fn from(dropped: Dropped) -> Self {
        match dropped {
            Dropped::Truncated => Self::Truncated,
            Dropped::Magic => Self::Magic,
            Dropped::Version => Self::Version,
            Dropped::Hmac => Self::Hmac,
            Dropped::Body => Self::Body,
            Dropped::Replay => Self::Replay,
        }
    }
}

/// The last words of one amphora.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When the last datagram came.
    pub at: Instant,
    /// The last whole beat.
    pub beat: Beat,
    /// Since when the data plane says that it is not ready. None: it is.
    pub not_ready_since: Option<Instant>,
    /// Parts of a beat that is not whole yet.
    parts: Vec<Beat>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Board {
    known: HashSet<AmphoraId>,
    guard: ReplayGuard,
    seen: HashMap<AmphoraId, Seen>,
    /// Datagrams that had an effect.
    pub accepted: u64,
    /// Datagrams that had none, by reason.
    pub dropped: BTreeMap<Reason, u64>,
}

impl Board {
    /// These amphorae exist now; others are forgotten.
    pub fn set_known(&mut self, known: HashSet<AmphoraId>) {
        for gone in self.known.difference(&known) {
            self.guard.forget(*gone);
            self.seen.remove(gone);
        }
        self.known = known;
    }

    /// Takes a datagram.
    pub fn take(
        &mut self,
        datagram: &[u8],
        key: &Secret,
        now: Instant,
    ) -> Result<AmphoraId, Reason> {
        let taken = self.try_take(datagram, key, now);
        match &taken {
            Ok(_) => self.accepted += 1,
            Err(reason) => *self.dropped.entry(*reason).or_default() += 1,
        }
        taken
    }

    fn try_take(
        &mut self,
        datagram: &[u8],
        key: &Secret,
        now: Instant,
    ) -> Result<AmphoraId, Reason> {
        let beat = Beat::decode(datagram, key)?;
        let id = beat.amphora_id;
        if !self.known.contains(&id) {
            return Err(Reason::Unknown);
        }
        self.guard.accept(&beat)?;
        let last = self.seen.remove(&id);
        let not_ready_since = match (beat.dataplane_ready, &last) {
            (true, _) => None,
            (false, Some(last)) => last.not_ready_since.or(Some(now)),
            (false, None) => Some(now),
        };
        let (mut parts, whole) = match last {
            Some(last) => (last.parts, Some(last.beat)),
            None => (Vec::new(), None),
        };
        if beat.part == 0 {
            parts.clear();
        }
        let in_order = usize::from(beat.part) == parts.len();
        let last_part = beat.part + 1 >= beat.parts;
        let mut current = beat.clone();
        if in_order {
            parts.push(beat);
        }
        // A beat whose middle was lost says nothing of the members in it: the last whole one stays.
        let beat = if in_order && last_part {
            for part in parts.drain(..) {
                current.listeners.extend(part.listeners);
                current.members.extend(part.members);
                current.routers.extend(part.routers);
            }
            current
        } else {
            whole.unwrap_or(current)
        };
        let seen = Seen {
            at: now,
            beat,
            not_ready_since,
            parts,
        };
        self.seen.insert(id, seen);
        Ok(id)
    }

    /// The last words of an amphora.
    pub fn seen(&self, id: AmphoraId) -> Option<&Seen> {
        self.seen.get(&id)
    }

    /// All last words.
    pub fn all(&self) -> impl Iterator<Item = (&AmphoraId, &Seen)> {
        self.seen.iter()
    }
}

/// How long ago something was.
pub fn age(now: Instant, then: Instant) -> Duration {
    now.saturating_duration_since(then)
}

#[cfg(test)]
mod tests {
    use super::*;
    use krater_model::control::MemberHealth;
    use krater_model::{MemberId, Revision};

    fn beat(id: AmphoraId, seq: u64, part: u16, parts: u16) -> Beat {
        Beat {
            amphora_id: id,
            boot_id: "0000019aa0000000-a".into(),
            seq,
            part,
            parts,
            revision: Some(Revision::default()),
            dataplane_ready: true,
            listeners: BTreeMap::new(),
            members: BTreeMap::from([(MemberId::random(), MemberHealth::Up)]),
            routers: BTreeMap::new(),
        }
    }

    #[test]
    fn each_reason_has_its_counter() {
        let (key, now) = (Secret::new("k"), Instant::now());
        let (id, stranger) = (AmphoraId::random(), AmphoraId::random());
        let mut board = Board::default();
        board.set_known(HashSet::from([id]));
        let good = beat(id, 1, 0, 1).encode(&key).unwrap();
        assert_eq!(board.take(&good, &key, now), Ok(id));
        let foreign = beat(id, 2, 0, 1).encode(&Secret::new("other")).unwrap();
        let unknown = beat(stranger, 1, 0, 1).encode(&key).unwrap();
        let mut magic = good.clone();
        magic[0] ^= 1;
        let cases: [(&[u8], Reason); 5] = [
            (&good, Reason::Replay),
            (&foreign, Reason::Hmac),
            (&good[..20], Reason::Truncated),
            (&magic, Reason::Magic),
            (&unknown, Reason::Unknown),
        ];
        for (datagram, reason) in cases {
            assert_eq!(board.take(datagram, &key, now), Err(reason));
            assert_eq!(board.dropped[&reason], 1);
        }
        assert_eq!(board.accepted, 1);
    }

    #[test]
    fn parts_make_one_beat_and_a_lost_part_keeps_the_last() {
        let (key, now) = (Secret::new("k"), Instant::now());
        let id = AmphoraId::random();
        let mut board = Board::default();
        board.set_known(HashSet::from([id]));
        for (seq, part) in [(1, 0), (2, 1), (3, 2)] {
            let bytes = beat(id, seq, part, 3).encode(&key).unwrap();
            board.take(&bytes, &key, now).unwrap();
        }
        assert_eq!(board.seen(id).unwrap().beat.members.len(), 3);
        for (seq, part) in [(4, 0), (6, 2)] {
            let bytes = beat(id, seq, part, 3).encode(&key).unwrap();
            board.take(&bytes, &key, now).unwrap();
        }
        assert_eq!(board.seen(id).unwrap().beat.members.len(), 3);
    }

    #[test]
    fn forgets_who_is_gone_and_remembers_since_when_it_is_not_ready() {
        let (key, start) = (Secret::new("k"), Instant::now());
        let id = AmphoraId::random();
        let mut board = Board::default();
        board.set_known(HashSet::from([id]));
        for seq in 1..4 {
            let mut beat = beat(id, seq, 0, 1);
            beat.dataplane_ready = false;
            let now = start + Duration::from_secs(seq);
            board.take(&beat.encode(&key).unwrap(), &key, now).unwrap();
        }
        let first = start + Duration::from_secs(1);
        assert_eq!(board.seen(id).unwrap().not_ready_since, Some(first));
        board.set_known(HashSet::new());
        assert!(board.seen(id).is_none());
    }
}
