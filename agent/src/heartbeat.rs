//! Heartbeats: what the amphora says about itself, to all health managers, at an interval.

use crate::clock;
use krater_model::Secret;
use krater_model::control::{DataplaneStatus, ListenerState, VrrpStatus};
use krater_model::id::AmphoraId;
use krater_model::units::Revision;
use krater_model::wire::heartbeat::{Beat, ListenerBeat};
use std::collections::BTreeMap;

/// Upper bounds of an entry's JSON: id of 36 bytes, names and numbers of up to 20 digits.
const LISTENER_BYTES: usize = 320;
const MEMBER_BYTES: usize = 64;
/// What fits into one datagram beside the rest of the beat; routers are few (one per load balancer and
/// address family) and go with the first part.
const ENTRIES_BYTES: usize = 48_000;

/// Sequence numbers: microseconds since boot, so that they grow over restarts of the agent too.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    last: u64,
}

impl Sequence {
    fn next(&mut self, now_us: u64) -> u64 {
        self.last = now_us.max(self.last + 1);
        self.last
    }
}

/// What goes into a beat.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) amphora_id: AmphoraId,
    pub(crate) boot_id: &'a str,
    pub(crate) revision: Option<Revision>,
    /// None when the data plane did not answer in time; the last one then goes into `stale`.
    pub(crate) dataplane: Option<&'a DataplaneStatus>,
    pub(crate) stale: Option<&'a DataplaneStatus>,
    pub(crate) vrrp: Option<&'a VrrpStatus>,
}

/// Whether the data plane serves all it shall.
pub(crate) fn is_ready(dataplane: &DataplaneStatus, revision: Option<Revision>) -> bool {
    let accepts = |state: &ListenerState| !matches!(state, ListenerState::Failed(_));
    dataplane.revision.is_some()
        && dataplane.revision >= revision
        && dataplane
            .listeners
            .iter()
            .all(|listener| accepts(&listener.state))
}

/// The datagrams of one beat.
pub(crate) fn datagrams(
    report: &Report<'_>,
    sequence: &mut Sequence,
    key: &Secret,
) -> Vec<Vec<u8>> {
    beats(report, sequence, clock::boot_us())
        .iter()
        .filter_map(|beat| beat.encode(key))
        .collect()
}

fn beats(report: &Report<'_>, sequence: &mut Sequence, now_us: u64) -> Vec<Beat> {
    let ready = report
        .dataplane
        .is_some_and(|status| is_ready(status, report.revision));
    let known = report.dataplane.or(report.stale);
    let beat = |seq| Beat {
        amphora_id: report.amphora_id,
        boot_id: report.boot_id.to_owned(),
        seq,
        part: 0,
        parts: 1,
        revision: report.revision,
        dataplane_ready: ready,
        listeners: BTreeMap::new(),
        members: BTreeMap::new(),
        routers: BTreeMap::new(),
    };
    let mut first = beat(sequence.next(now_us));
    let routers = report.vrrp.into_iter().flat_map(|vrrp| &vrrp.routers);
    first.routers = routers.map(|router| (router.vrid, router.state)).collect();
    let mut all = vec![first];
    let mut used = 0;
    let mut part = |bytes: usize, all: &mut Vec<Beat>| {
        used += bytes;
        if used > ENTRIES_BYTES {
            used = bytes;
            all.push(beat(sequence.next(now_us)));
        }
    };
    for listener in known.into_iter().flat_map(|status| &status.listeners) {
        let full = match listener.state {
            ListenerState::Open => false,
            ListenerState::Full => true,
            ListenerState::Disabled | ListenerState::Failed(_) => continue,
        };
        part(LISTENER_BYTES, &mut all);
        if let Some(last) = all.last_mut() {
            let stats = listener.stats;
            last.listeners
                .insert(listener.id, ListenerBeat { full, stats });
        }
    }
    let pools = known.into_iter().flat_map(|status| &status.pools);
    for member in pools.flat_map(|pool| &pool.members) {
        part(MEMBER_BYTES, &mut all);
        if let Some(last) = all.last_mut() {
            last.members.insert(member.id, member.health);
        }
    }
    let parts = u16::try_from(all.len()).unwrap_or(u16::MAX);
    for (number, beat) in all.iter_mut().enumerate() {
        beat.part = u16::try_from(number).unwrap_or(u16::MAX);
        beat.parts = parts;
    }
    all
}

mod sender;
pub(crate) use sender::run;

#[cfg(test)]
mod tests {
    use super::*;
    use krater_model::control::*;
    use krater_model::id::*;
    use krater_model::units::*;
    use std::net::IpAddr;

    fn status(listeners: u128, members: u128) -> DataplaneStatus {
        let id = uuid::Uuid::from_u128;
        DataplaneStatus {
            version: String::new(),
            pid: 1,
            revision: Some(Revision::default()),
            snapshots_alive: 1,
            listeners: (0..listeners)
                .map(|n| ListenerStatus {
                    id: ListenerId(id(n)),
                    name: String::new(),
                    load_balancer_id: LoadBalancerId(id(1)),
                    state: ListenerState::Open,
                    stats: ListenerStats {
                        active_connections: u64::MAX,
                        total_connections: u64::MAX,
                        bytes_in: u64::MAX,
                        bytes_out: u64::MAX,
                        request_errors: u64::MAX,
                    },
                    dropped_ciphers: Vec::new(),
                })
                .collect(),
            pools: vec![PoolStatus {
                id: PoolId(id(1)),
                name: String::new(),
                load_balancer_id: LoadBalancerId(id(1)),
                members: (0..members)
                    .map(|n| MemberStatus {
                        id: MemberId(id(n)),
                        name: String::new(),
                        health: MemberHealth::Checking,
                        reason: String::new(),
                        active_connections: 0,
                        total_connections: 0,
                    })
                    .collect(),
            }],
        }
    }

    fn report<'a>(dataplane: Option<&'a DataplaneStatus>, vrrp: &'a VrrpStatus) -> Report<'a> {
        Report {
            amphora_id: AmphoraId(uuid::Uuid::from_u128(1)),
            boot_id: "0000019aa0000000-0000000a",
            revision: Some(Revision::default()),
            dataplane,
            stale: None,
            vrrp: Some(vrrp),
        }
    }

    fn vrrp() -> VrrpStatus {
        VrrpStatus {
            version: String::new(),
            pid: 2,
            revision: None,
            memory_locked: None,
            real_time: None,
            checks: Vec::new(),
            routers: vec![RouterStatus {
                vrid: Vrid::MIN,
                interface: "eth1".into(),
                state: RouterState::Active,
                reason: String::new(),
                transitions: 1,
                since_ms: 5,
                addresses: vec![IpAddr::from([192, 0, 2, 1])],
                liveness: Vec::new(),
                term: None,
            }],
        }
    }

    #[test]
    fn a_large_amphora_fits_into_parts_that_lose_nothing() {
        let (dataplane, vrrp) = (status(1_000, 10_000), vrrp());
        let key = Secret::new("k");
        let mut sequence = Sequence::default();
        let datagrams = datagrams(&report(Some(&dataplane), &vrrp), &mut sequence, &key);
        let beats: Vec<Beat> = datagrams
            .iter()
            .map(|d| Beat::decode(d, &key).unwrap())
            .collect();
        assert!(beats.len() > 10);
        assert!(beats.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        for (number, beat) in beats.iter().enumerate() {
            assert_eq!(
                (usize::from(beat.part), usize::from(beat.parts)),
                (number, beats.len())
            );
            assert!(beat.dataplane_ready);
        }
        assert_eq!(
            beats.iter().map(|b| b.listeners.len()).sum::<usize>(),
            1_000
        );
        assert_eq!(beats.iter().map(|b| b.members.len()).sum::<usize>(), 10_000);
        assert_eq!(beats[0].routers.len(), 1);
    }

    #[test]
    fn readiness() {
        let ready = |change: &dyn Fn(&mut DataplaneStatus)| {
            let mut status = status(2, 1);
            change(&mut status);
            is_ready(&status, Some(Revision::default()))
        };
        assert!(ready(&|_| {}));
        assert!(ready(&|s| s.listeners[0].state = ListenerState::Full));
        assert!(ready(&|s| s.listeners[0].state = ListenerState::Disabled));
        assert!(!ready(
            &|s| s.listeners[0].state = ListenerState::Failed("x".into())
        ));
        assert!(!ready(&|s| s.revision = None));
        let newer = Revision {
            epoch: Epoch(1),
            generation: Generation(1),
        };
        assert!(
            !is_ready(&status(1, 1), Some(newer)),
            "has not its snapshot"
        );
    }

    #[test]
    fn a_silent_data_plane_is_not_ready_but_keeps_its_last_words() {
        let (last, vrrp) = (status(1, 1), vrrp());
        let mut report = report(None, &vrrp);
        report.stale = Some(&last);
        let beats = beats(&report, &mut Sequence::default(), 7);
        assert!(!beats[0].dataplane_ready);
        assert_eq!((beats[0].members.len(), beats[0].seq), (1, 7));
    }

    #[test]
    fn sequence_grows_even_when_the_clock_does_not() {
        let mut sequence = Sequence::default();
        assert_eq!([5, 5, 9].map(|now| sequence.next(now)), [5, 6, 9]);
    }
}
