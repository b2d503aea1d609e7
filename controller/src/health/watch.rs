//! Which amphorae need help now. Pure: what is known and `now` in, requests out.

use super::board::age;
use crate::failover::request::Request;
use krater_model::Revision;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// A data plane that says for this long that it is not ready does not come back by itself: its agent
/// restarts it within a second.
const NOT_READY: Duration = Duration::from_secs(10);
/// An amphora that still says after this long that it is behind the desired state missed a push.
const BEHIND: Duration = Duration::from_secs(3);
/// A pause of our own loop that is longer says that we, not the amphorae, were away.
const OWN_PAUSE: Duration = Duration::from_secs(1);
/// Pause between two requests for the same load balancer: doubles while they do not help.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// An amphora that is watched: its status is ALLOCATED.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Which.
    pub id: String,
    /// Whom it serves.
    pub load_balancer_id: String,
    /// Its load balancer is held by a flow: nothing is requested for it. Its agent is started again all
    /// the same: the flow may be waiting for it.
    pub held: bool,
    /// When it was heard last.
    pub heard: Option<Instant>,
    /// Since when its data plane is not ready.
    pub not_ready_since: Option<Instant>,
    /// What it has in force.
    pub revision: Option<Revision>,
    /// What it should have.
    pub desired: Revision,
}

/// A load balancer that is held by no flow.
#[derive(Debug, Clone)]
pub struct Balancer {
    /// Which.
    pub id: String,
    /// Amphorae that its topology has.
    pub wanted: usize,
    /// Amphorae that it has.
    pub existing: usize,
}

/// Limits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Silence that counts as dead.
    pub stale_after: Duration,
    /// Silence after which the agent is started when it does not run, and again after as much more:
    /// longer than a heartbeat interval, shorter than `stale_after`.
    pub restart_after: Duration,
    /// This many dead at once are a fault of the management network; 0: never.
    pub failover_threshold: usize,
}

/// What the watch decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Load balancer, request, why.
    pub requests: Vec<(String, Request, String)>,
    /// Amphorae whose agents may have died while the rest lives: to be started when they do not run.
    pub restart: Vec<String>,
    /// Amphorae that count as dead.
    pub stale: usize,
    /// Too many: nothing is requested.
    pub storm: bool,
}

/// Remembers when it looked and what it asked for.
#[derive(Debug)]
pub struct Watch {
    /// Silence before this moment is ours.
    since: Instant,
    looked: Instant,
    /// When each was first looked at: one that was never heard is silent since then.
    met: HashMap<String, Instant>,
    behind: HashMap<String, Instant>,
    asked: HashMap<String, (Instant, Duration)>,
    /// When they were asked to be started again, in this silence.
    restarted: HashMap<String, Instant>,
}

impl Watch {
    /// Begins to watch: nobody is dead before a whole `stale_after` from now.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            looked: now,
            met: HashMap::new(),
            behind: HashMap::new(),
            asked: HashMap::new(),
            restarted: HashMap::new(),
        }
    }

    /// Silence before this moment is our own.
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Looks at everybody.
    pub fn look(
        &mut self,
        amphorae: &[Watched],
        balancers: &[Balancer],
        limits: Limits,
        now: Instant,
    ) -> Decision {
        if age(now, self.looked) > OWN_PAUSE {
            self.since = now;
        }
        self.looked = now;
        self.met
            .retain(|id, _| amphorae.iter().any(|a| a.id == *id));
        for amphora in amphorae {
            self.met.entry(amphora.id.clone()).or_insert(now);
        }
        let (met, since) = (&self.met, self.since);
        let silence = |a: &Watched| {
            let heard = a.heard.or_else(|| met.get(&a.id).copied());
            age(now, heard.map_or(since, |heard| heard.max(since)))
        };
        let silent = |a: &Watched| silence(a) >= limits.stale_after;
        let dead: Vec<&Watched> = amphorae.iter().filter(|a| !a.held && silent(a)).collect();
        let storm = limits.failover_threshold > 0 && dead.len() >= limits.failover_threshold;
        let mut decision = Decision {
            stale: dead.len(),
            storm,
            ..Decision::default()
        };
        for amphora in amphorae {
            if silence(amphora) < limits.restart_after {
                self.restarted.remove(&amphora.id);
                continue;
            }
            let last = self.restarted.get(&amphora.id);
            if last.is_none_or(|at| age(now, *at) >= limits.restart_after) {
                self.restarted.insert(amphora.id.clone(), now);
                decision.restart.push(amphora.id.clone());
            }
        }
        self.restarted
            .retain(|id, _| amphorae.iter().any(|a| a.id == *id));
        if storm {
            return decision;
        }
        let amphorae: Vec<&Watched> = amphorae.iter().filter(|a| !a.held).collect();
        let mut wishes: BTreeMap<&str, (Request, String)> = BTreeMap::new();
        for amphora in &dead {
            let why = format!(
                "amphora {} is silent for {:?}",
                amphora.id, limits.stale_after
            );
            wishes
                .entry(&amphora.load_balancer_id)
                .and_modify(|wish| wish.0 = Request::LoadBalancer)
                .or_insert_with(|| (Request::Amphora(amphora.id.clone()), why));
        }
        for amphora in &amphorae {
            let long = |since: Instant| age(now, since.max(self.since)) >= NOT_READY;
            let broken = amphora.not_ready_since.is_some_and(long);
            let same = |a: &&&Watched| a.load_balancer_id == amphora.load_balancer_id;
            // When all say so, a new one would say the same.
            let mut others = amphorae.iter().filter(same).filter(|a| a.id != amphora.id);
            if broken && others.all(|a| a.not_ready_since.is_none() && !silent(a)) {
                let why = format!("data plane of amphora {} is not ready", amphora.id);
                let request = Request::Amphora(amphora.id.clone());
                wishes
                    .entry(&amphora.load_balancer_id)
                    .or_insert((request, why));
            }
        }
        for balancer in balancers {
            if balancer.existing > 0 && balancer.existing < balancer.wanted {
                let why = format!("{} of {} amphorae", balancer.existing, balancer.wanted);
                wishes.entry(&balancer.id).or_insert((Request::Fill, why));
            }
        }
        self.behind
            .retain(|id, _| amphorae.iter().any(|a| a.id == *id));
        for amphora in &amphorae {
            let current = amphora.revision.is_some_and(|r| r >= amphora.desired);
            if current || silent(amphora) {
                self.behind.remove(&amphora.id);
                continue;
            }
            let since = *self.behind.entry(amphora.id.clone()).or_insert(now);
            // Only itself can say so: a dead one is replaced, and a push to it would stand in the way of that.
            if amphora.heard.is_some_and(|at| age(at, since) >= BEHIND) {
                let why = format!("amphora {} missed a state", amphora.id);
                wishes
                    .entry(&amphora.load_balancer_id)
                    .or_insert((Request::Push, why));
            }
        }
        self.asked.retain(|id, (at, pause)| {
            wishes.contains_key(id.as_str()) || age(now, *at) < *pause * 2
        });
        for (id, (request, why)) in wishes {
            if self.may_ask(id, now) {
                decision.requests.push((id.to_owned(), request, why));
            }
        }
        decision
    }

    fn may_ask(&mut self, id: &str, now: Instant) -> bool {
        match self.asked.get_mut(id) {
            Some((at, pause)) if age(now, *at) < *pause => false,
            Some((at, pause)) => {
                *at = now;
                *pause = (*pause * 2).min(LONGEST_PAUSE);
                true
            }
            None => {
                self.asked.insert(id.to_owned(), (now, FIRST_PAUSE));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use krater_model::{Epoch, Generation};

    const LIMITS: Limits = Limits {
        stale_after: Duration::from_secs(5),
        restart_after: Duration::from_millis(1_500),
        failover_threshold: 0,
    };

    fn revision(generation: u64) -> Revision {
        Revision {
            epoch: Epoch(1),
            generation: Generation(generation),
        }
    }

    fn watched(id: &str, heard: Option<Instant>) -> Watched {
        Watched {
            id: id.into(),
            load_balancer_id: format!("lb-{}", &id[..1]),
            held: false,
            heard,
            not_ready_since: None,
            revision: Some(revision(1)),
            desired: revision(1),
        }
    }

    /// Looks each 250 ms from `from` to `to` seconds after `start`; the requests of all looks.
    fn looks(
        watch: &mut Watch,
        start: Instant,
        (from, to): (u64, u64),
        amphorae: impl Fn(Instant) -> Vec<Watched>,
        balancers: &[Balancer],
        limits: Limits,
    ) -> Vec<(u64, Request)> {
        let mut found = Vec::new();
        for tick in from * 4..=to * 4 {
            let now = start + Duration::from_millis(tick * 250);
            let decision = watch.look(&amphorae(now), balancers, limits, now);
            let ms = tick * 250;
            found.extend(
                decision
                    .requests
                    .into_iter()
                    .map(|(_, request, _)| (ms, request)),
            );
        }
        found
    }

    #[test]
    fn the_silent_one_is_replaced_after_the_limit_and_asked_for_less_and_less() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let pair = |now| {
            vec![
                watched("a1", Some(start + Duration::from_secs(2))),
                watched("a2", Some(now)),
            ]
        };
        let asked = looks(&mut watch, start, (0, 60), pair, &[], LIMITS);
        let times: Vec<u64> = asked.iter().map(|(ms, _)| *ms).collect();
        assert_eq!(times, [7_000, 12_000, 22_000, 42_000]);
        assert!(
            asked
                .iter()
                .all(|(_, r)| *r == Request::Amphora("a1".into()))
        );
    }

    #[test]
    fn the_agent_of_a_silent_one_is_started_again_and_again_also_under_a_flow() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let mut restarts = Vec::new();
        for tick in 0..=24 {
            let now = start + Duration::from_millis(tick * 250);
            // It is heard once more at 4 s.
            let heard = if tick < 16 { 0 } else { 4 };
            let mut first = watched("a1", Some(start + Duration::from_secs(heard)));
            first.held = true;
            let decision = watch.look(&[first, watched("a2", Some(now))], &[], LIMITS, now);
            assert_eq!((decision.requests, decision.stale), (Vec::new(), 0));
            restarts.extend(decision.restart.into_iter().map(|id| (tick * 250, id)));
        }
        let times: Vec<u64> = restarts.iter().map(|(ms, _)| *ms).collect();
        assert_eq!(times, [1_500, 3_000, 5_500]);
        assert!(restarts.iter().all(|(_, id)| id == "a1"));
    }

    #[test]
    fn one_that_a_flow_holds_is_left_to_the_flow() {
        let start = Instant::now();
        let held = |_| {
            let mut amphora = watched("a1", None);
            amphora.held = true;
            vec![amphora]
        };
        let mut watch = Watch::new(start);
        assert!(looks(&mut watch, start, (0, 60), held, &[], LIMITS).is_empty());
        let free = |_| vec![watched("a1", None)];
        assert_eq!(
            looks(&mut watch, start, (60, 60), free, &[], LIMITS).len(),
            1,
            "and then is nobody's"
        );
    }

    #[test]
    fn one_that_was_just_made_has_the_whole_limit_for_its_first_word() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        assert!(looks(&mut watch, start, (0, 30), |_| vec![], &[], LIMITS).is_empty());
        let young = |_| vec![watched("a1", None)];
        let asked = looks(&mut watch, start, (31, 40), young, &[], LIMITS);
        assert_eq!(asked, [(36_000, Request::Amphora("a1".into()))]);
    }

    #[test]
    fn a_controller_that_was_away_blames_itself() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let old = |_| vec![watched("a1", None), watched("a2", None)];
        let none = looks(&mut watch, start, (0, 4), old, &[], LIMITS);
        assert!(none.is_empty(), "grace after the start");
        // Suspended for a minute: another whole limit.
        let none = looks(&mut watch, start, (60, 64), old, &[], LIMITS);
        assert!(none.is_empty(), "grace after a pause of our own");
        let asked = looks(&mut watch, start, (65, 65), old, &[], LIMITS);
        assert_eq!(asked, [(65_000, Request::LoadBalancer)], "both at once");
    }

    #[test]
    fn a_storm_replaces_nobody() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let limits = Limits {
            failover_threshold: 3,
            ..LIMITS
        };
        let three = |_| {
            vec![
                watched("a1", None),
                watched("b1", None),
                watched("c1", None),
            ]
        };
        assert!(looks(&mut watch, start, (0, 20), three, &[], limits).is_empty());
        let two = |now| {
            vec![
                watched("a1", None),
                watched("b1", None),
                watched("c1", Some(now)),
            ]
        };
        assert_eq!(
            looks(&mut watch, start, (20, 20), two, &[], limits).len(),
            2
        );
    }

    #[test]
    fn a_data_plane_that_stays_down_is_replaced_unless_all_are() {
        let start = Instant::now();
        let broken = |now| {
            let mut amphora = watched("a1", Some(now));
            amphora.not_ready_since = Some(start);
            amphora
        };
        let one = |now| vec![broken(now), watched("a2", Some(now))];
        let asked = looks(&mut Watch::new(start), start, (0, 12), one, &[], LIMITS);
        assert_eq!(asked, [(10_000, Request::Amphora("a1".into()))]);
        let both = |now| {
            let mut other = broken(now);
            other.id = "a2".into();
            vec![broken(now), other]
        };
        assert!(looks(&mut Watch::new(start), start, (0, 30), both, &[], LIMITS).is_empty());
    }

    #[test]
    fn who_missed_a_state_gets_it_again_and_a_missing_one_is_made() {
        let start = Instant::now();
        let behind = |now| {
            let mut amphora = watched("a1", Some(now));
            amphora.desired = revision(2);
            vec![amphora]
        };
        let asked = looks(&mut Watch::new(start), start, (0, 4), behind, &[], LIMITS);
        assert_eq!(asked, [(3_000, Request::Push)]);
        // One that died meanwhile says nothing: it is replaced, without a push that would stand in the way.
        let died = |_| {
            let mut amphora = watched("a1", Some(start + Duration::from_secs(2)));
            amphora.desired = revision(2);
            vec![amphora]
        };
        let asked = looks(&mut Watch::new(start), start, (0, 8), died, &[], LIMITS);
        assert_eq!(asked, [(7_000, Request::Amphora("a1".into()))]);
        let balancer = Balancer {
            id: "lb-a".into(),
            wanted: 2,
            existing: 1,
        };
        let half = |now| vec![watched("a1", Some(now))];
        let asked = looks(
            &mut Watch::new(start),
            start,
            (0, 4),
            half,
            &[balancer],
            LIMITS,
        );
        assert_eq!(asked, [(0, Request::Fill)]);
    }
}
