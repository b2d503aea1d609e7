//! Seeded simulation of health: many members that come and go, a network that loses probes, a
//! configuration that changes in between. Each seed is a run; a failed one names its seed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use krater_dataplane_core::health::Health;
use krater_dataplane_core::member::Probed;
use krater_model::ProbeCount;

/// Seeds of a run; `KRATER_SIM_SEEDS` sweeps wider.
const SEEDS: u64 = 64;
const MEMBERS: usize = 20;
const ROUNDS: u32 = 2_000;

/// A small generator: the same seed gives the same run everywhere.
struct Dice(u64);

impl Dice {
    /// Below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

struct Member {
    health: Health,
    /// What is true.
    alive: bool,
    /// Rounds since the truth or the configuration changed, or a probe was lost.
    quiet: u32,
    /// Failed results in a row.
    failed: u32,
    /// Changes of the truth, and of what is believed.
    truths: u32,
    beliefs: u32,
}

fn count(n: u64) -> ProbeCount {
    ProbeCount::new(n).unwrap()
}

fn run(seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut rise, mut fall) = (2, 3);
    let mut members: Vec<Member> = (0..MEMBERS)
        .map(|_| Member {
            health: Health::default(),
            alive: true,
            quiet: 0,
            failed: 0,
            truths: 0,
            beliefs: 0,
        })
        .collect();
    for round in 0..ROUNDS {
        if dice.one_in(200) {
            (rise, fall) = (1 + dice.below(4), 1 + dice.below(4));
            members.iter_mut().for_each(|member| member.quiet = 0);
        }
        for (number, member) in members.iter_mut().enumerate() {
            let place = format!("seed {seed}, round {round}, member {number}");
            if dice.one_in(40) {
                member.alive = !member.alive;
                member.truths += 1;
                member.quiet = 0;
            }
            // No loss completes `fall`; the first result decides alone and comes.
            let known = member.health.state() != Probed::Checking;
            let short = u64::from(member.failed) + 1 < fall;
            let lost = member.alive && known && short && dice.one_in(6);
            let ok = member.alive && !lost;
            member.failed = if ok {
                0
            } else {
                member.failed.saturating_add(1)
            };
            member.quiet = if lost { 0 } else { member.quiet + 1 };
            let before = member.health;
            let change = member.health.observe(ok, count(rise), count(fall));
            let now = member.health.state();
            assert_eq!(
                change.is_some(),
                before.state() != now,
                "{place}: told of each change"
            );
            if let Some(change) = change {
                assert_eq!((change.from, change.to), (before.state(), now), "{place}");
                member.beliefs += 1;
                // Lost probes alone never change what is believed.
                assert!(!lost, "{place}: by a lost probe");
                assert_eq!(
                    now == Probed::Up,
                    member.alive,
                    "{place}: changes follow the truth"
                );
            }
            let settled = u32::try_from(rise.max(fall)).unwrap();
            if member.quiet >= settled {
                assert_eq!(
                    now == Probed::Up,
                    member.alive,
                    "{place}: the truth is known by now"
                );
            }
        }
    }
    for member in &members {
        assert!(member.truths > 10, "seed {seed}: nothing happened");
        // The first result, and then at most one change for each of the truth's.
        assert!(member.beliefs <= member.truths + 2, "seed {seed}: it flaps");
    }
}

#[test]
fn what_is_believed_follows_the_truth() {
    let seeds = std::env::var("KRATER_SIM_SEEDS").ok();
    let seeds = seeds.map_or(SEEDS, |n| n.parse().expect("KRATER_SIM_SEEDS: a number"));
    for seed in 0..seeds {
        run(seed);
    }
}
