use super::*;
use crate::member::Probed;
use krater_model::MemberId;
use proptest::prelude::*;
use std::collections::HashMap;
use std::time::Duration;

struct Fake {
    conf: MemberConf,
    state: MemberState,
}

impl Candidate for Fake {
    fn conf(&self) -> &MemberConf {
        &self.conf
    }
    fn state(&self) -> &MemberState {
        &self.state
    }
}

fn member(n: u128, weight: u16) -> Fake {
    let id = id_from(n);
    let address = SocketAddr::from(([192, 0, 2, 1], 80));
    Fake {
        conf: MemberConf {
            id,
            enabled: true,
            address,
            weight,
            backup: false,
            monitor_address: address,
            connection_limit: None,
            down: None,
            label: String::new(),
        },
        state: MemberState::new(id, Probed::NoMonitor),
    }
}

fn id_from(n: u128) -> MemberId {
    format!("{n:032x}").parse().unwrap()
}

fn pool(weights: &[u16]) -> Vec<Fake> {
    (1_u128..)
        .zip(weights)
        .map(|(n, w)| member(n, *w))
        .collect()
}

fn client(n: u32) -> Input<'static> {
    Input {
        client: SocketAddr::from((n.to_be_bytes(), 40_000)),
        exclude: &[],
        slow_start: None,
    }
}

/// The member that was chosen, if one was.
fn choose<'a, C: Candidate>(
    algorithm: Algorithm,
    members: &'a [C],
    input: &Input<'_>,
) -> Option<&'a C> {
    match super::choose(algorithm, members, input) {
        Choice::Member(member) => Some(member),
        Choice::Full(_) | Choice::Nobody => None,
    }
}

fn counts<'a>(picks: impl Iterator<Item = &'a Fake>) -> HashMap<MemberId, u64> {
    let mut counts = HashMap::new();
    for pick in picks {
        *counts.entry(pick.conf.id).or_default() += 1;
    }
    counts
}

#[test]
fn smooth_round_robin_interleaves() {
    let members = pool(&[5, 1, 1]);
    let picks: Vec<_> = (0..7)
        .filter_map(|n| choose(Algorithm::RoundRobin, &members, &client(n)))
        .map(|m| members.iter().position(|x| x.conf.id == m.conf.id).unwrap())
        .collect();
    assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
}

/// What weights of before left behind must not silence or prefer anybody for long.
#[test]
fn round_robin_forgets_weights_that_are_no_more() {
    let mut members = pool(&[256, 1, 1]);
    let [a, b, c] = [0, 1, 2].map(|n: usize| members[n].conf.id);
    let until_chosen = |members: &[Fake], who| {
        let mut picks = (0..258).filter_map(|n| choose(Algorithm::RoundRobin, members, &client(n)));
        assert!(picks.any(|m| m.conf.id == who));
    };
    // The light ones have just had their turn of 258.
    until_chosen(&members, b);
    until_chosen(&members, c);
    for member in &mut members {
        member.conf.weight = 1;
    }
    let picks = (0..12).filter_map(|n| choose(Algorithm::RoundRobin, &members, &client(n)));
    let among_equals = counts(picks);
    assert!(
        [a, b, c].iter().all(|id| among_equals.get(id) >= Some(&2)),
        "{among_equals:?}"
    );
    // The same when the heavy one goes.
    members[0].conf.weight = 256;
    until_chosen(&members, b);
    members[0].state.set_probed(Probed::Down);
    let picks = (0..8).filter_map(|n| choose(Algorithm::RoundRobin, &members, &client(n)));
    let rest = counts(picks);
    assert!(
        rest.get(&b) >= Some(&2) && rest.get(&c) >= Some(&2),
        "{rest:?}"
    );
}

#[test]
fn backups_serve_only_when_every_primary_is_down() {
    let mut members = pool(&[1, 1, 1, 1]);
    members[2].conf.backup = true;
    members[3].conf.backup = true;
    let picked = |members: &[Fake]| {
        let picks = (0..8).filter_map(|n| choose(Algorithm::RoundRobin, members, &client(n)));
        let mut at: Vec<_> = counts(picks).into_keys().collect();
        at.sort();
        at
    };
    let id = |n: usize| members[n].conf.id;
    assert_eq!(picked(&members), [id(0), id(1)]);
    members[0].state.set_probed(Probed::Down);
    assert_eq!(picked(&members), [id(1)]);
    members[1].state.set_probed(Probed::Down);
    assert_eq!(picked(&members), [id(2), id(3)], "all backups");
    members[2].conf.enabled = false;
    members[3].conf.weight = 0;
    assert!(picked(&members).is_empty());
}

#[test]
fn an_excluded_primary_does_not_call_the_backups() {
    let mut members = pool(&[1, 1]);
    members[1].conf.backup = true;
    let exclude = [members[0].conf.id];
    let input = Input {
        exclude: &exclude,
        ..client(1)
    };
    assert!(choose(Algorithm::RoundRobin, &members, &input).is_none());
}

#[test]
fn least_connections_respects_weights_and_takes_turns() {
    let members = pool(&[1, 3]);
    for n in 0..40 {
        choose(Algorithm::LeastConnections, &members, &client(n))
            .unwrap()
            .state
            .enter();
    }
    assert_eq!(members[0].state.active(), 10);
    assert_eq!(members[1].state.active(), 30);
    let idle = pool(&[1, 1, 1]);
    let picks = (0..9).filter_map(|n| choose(Algorithm::LeastConnections, &idle, &client(n)));
    assert_eq!(counts(picks).into_values().collect::<Vec<_>>(), [3, 3, 3]);
}

/// A member whose count another worker changes, which holds no lock for that: whenever it is looked at,
/// it is another one.
struct Restless(Fake);

impl Candidate for Restless {
    fn conf(&self) -> &MemberConf {
        &self.0.conf
    }
    fn state(&self) -> &MemberState {
        self.0.state.enter();
        &self.0.state
    }
}

#[test]
fn least_connections_finds_somebody_while_counts_change() {
    for count in 1..=3 {
        let members: Vec<_> = pool(&vec![1; count]).into_iter().map(Restless).collect();
        for n in 0..100 {
            let chosen = choose(Algorithm::LeastConnections, &members, &client(n));
            assert!(chosen.is_some(), "choice {n} among {count}");
        }
    }
}

#[test]
fn source_ip_ignores_the_port_and_mapping() {
    let members = pool(&[1; 10]);
    let pick = |client: &str, algorithm| {
        let input = Input {
            client: client.parse().unwrap(),
            exclude: &[],
            slow_start: None,
        };
        choose(algorithm, &members, &input).unwrap().conf.id
    };
    let a = pick("192.0.2.7:1000", Algorithm::SourceIp);
    assert_eq!(a, pick("192.0.2.7:2000", Algorithm::SourceIp));
    assert_eq!(a, pick("[::ffff:192.0.2.7]:2000", Algorithm::SourceIp));
    let by_port: std::collections::HashSet<_> = (1..100)
        .map(|port| pick(&format!("192.0.2.7:{port}"), Algorithm::SourceIpPort))
        .collect();
    assert!(by_port.len() > 5, "{by_port:?}");
}

/// A slow start of `over` milliseconds, seen at `now`.
fn slow(n: u32, over: u64, now: u64) -> Input<'static> {
    let slow_start = SlowStart {
        over: Duration::from_millis(over),
        now: Duration::from_millis(now),
    };
    Input {
        slow_start: Some(slow_start),
        ..client(n)
    }
}

fn back(member: &Fake, ms: u64) {
    member.state.came_back(Duration::from_millis(ms));
}

#[test]
fn only_a_member_that_came_back_starts_slowly() {
    let members = pool(&[1, 1]);
    for n in 0..10 {
        choose(Algorithm::RoundRobin, &members, &slow(n, 60_000, 1)).unwrap();
    }
    back(&members[1], 1_000);
    let input = |now| slow(0, 60_000, now).slow_start;
    assert_eq!(members[0].share(input(1_000)), PARTS, "new, not back");
    assert_eq!(members[1].share(input(1_000)), 1, "next to nothing");
    assert_eq!(members[1].share(input(31_000)), PARTS / 2);
    assert_eq!(members[1].share(input(61_000)), PARTS);
    assert_eq!(members[1].share(None), PARTS, "a pool without slow start");
    back(&members[1], 70_000);
    assert_eq!(members[1].share(input(70_000)), 1, "down and up again");
    members[0].state.set_probed(Probed::Down);
    let alone = choose(Algorithm::RoundRobin, &members, &slow(0, 60_000, 70_000));
    assert_eq!(alone.unwrap().conf.id, members[1].conf.id, "serves alone");
}

proptest! {
    #[test]
    fn a_slow_start_is_linear(
        weight in 0_u16..=256, began in 0_u64..1 << 40, over in 1_u64..=2_073_600_000, age in 0_u64..4_000_000_000,
    ) {
        let member = member(1, weight);
        back(&member, began);
        let at = |age: u64| member.share(slow(0, over, began + age).slow_start);
        let whole = u32::from(weight) * PARTS;
        let exact = f64::from(whole) * (age as f64 / over as f64).min(1.0);
        let share = at(age);
        prop_assert!((f64::from(share) - exact).abs() <= 1.0, "{} is not {}", share, exact);
        prop_assert!(share <= whole && (share > 0 || weight == 0));
        prop_assert!(at(age + 1) >= share, "never shrinks");
        prop_assert_eq!(at(over), whole);
        // A clock that seems to go back, as between two cores, starts nothing anew.
        let early = member.share(slow(0, over, began.saturating_sub(age)).slow_start);
        prop_assert!(early <= 1);
    }

    #[test]
    fn round_robin_gives_each_its_share_while_some_start_slowly(
        members in prop::collection::vec((1_u16..=4, prop::option::of(0_u64..1_000)), 1..4),
    ) {
        let ages: Vec<_> = members.iter().map(|(_, age)| *age).collect();
        let members = pool(&members.iter().map(|(weight, _)| *weight).collect::<Vec<_>>());
        for (member, age) in members.iter().zip(ages) {
            if let Some(age) = age {
                back(member, 5_000 - age);
            }
        }
        let input = |n| slow(n, 1_000, 5_000);
        let share = |m: &Fake| m.share(input(0).slow_start);
        let total: u32 = members.iter().map(share).sum();
        let picks = (0..total).filter_map(|n| choose(Algorithm::RoundRobin, &members, &input(n)));
        let counts = counts(picks);
        for m in &members {
            prop_assert_eq!(counts[&m.conf.id], u64::from(share(m)));
        }
    }

    #[test]
    fn least_connections_gives_each_its_share_while_one_starts_slowly(age in 0_u64..1_000) {
        let members = pool(&[1, 1]);
        back(&members[1], 5_000 - age);
        let input = |n| slow(n, 1_000, 5_000);
        for n in 0..1_000 {
            choose(Algorithm::LeastConnections, &members, &input(n)).unwrap().state.enter();
        }
        let part = f64::from(members[1].share(input(0).slow_start)) / f64::from(PARTS);
        let want = 1_000.0 * part / (1.0 + part);
        let got = members[1].state.active() as f64;
        prop_assert!((got - want).abs() <= 2.0, "{} of {}", got, want);
    }

    #[test]
    fn a_hash_keeps_to_the_weights(age in 0_u64..1_000, port in any::<bool>()) {
        let members = pool(&[1, 2, 3]);
        let algorithm = if port { Algorithm::SourceIpPort } else { Algorithm::SourceIp };
        let pick = |input: &Input<'_>| choose(algorithm, &members, input).unwrap().conf.id;
        let before: Vec<_> = (0..100).map(|n| pick(&client(n))).collect();
        back(&members[1], 5_000 - age);
        let after: Vec<_> = (0..100).map(|n| pick(&slow(n, 1_000, 5_000))).collect();
        prop_assert_eq!(before, after);
    }

    #[test]
    fn round_robin_is_exact_over_a_period(weights in prop::collection::vec(1_u16..=256, 1..8)) {
        let members = pool(&weights);
        let total: u32 = weights.iter().map(|w| u32::from(*w)).sum();
        for _ in 0..2 {
            let picks = (0..total).filter_map(|n| choose(Algorithm::RoundRobin, &members, &client(n)));
            let counts = counts(picks);
            for m in &members {
                prop_assert_eq!(counts[&m.conf.id], u64::from(m.conf.weight));
            }
        }
    }

    #[test]
    fn round_robin_stays_fair_when_members_come_and_go(
        weights in prop::collection::vec(1_u16..=10, 2..6),
        downs in prop::collection::vec((0_usize..6, any::<bool>(), 1_u32..30), 0..10),
    ) {
        let members = pool(&weights);
        for (at, down, run) in downs {
            let member = &members[at % members.len()];
            member.state.set_probed(if down { Probed::Down } else { Probed::Up });
            for n in 0..run {
                choose(Algorithm::RoundRobin, &members, &client(n));
            }
        }
        members.iter().for_each(|m| m.state.set_probed(Probed::Up));
        let total: u32 = weights.iter().map(|w| u32::from(*w)).sum();
        let rounds = 20;
        let picks = (0..total * rounds).filter_map(|n| choose(Algorithm::RoundRobin, &members, &client(n)));
        let counts = counts(picks);
        for m in &members {
            let want = u64::from(m.conf.weight) * u64::from(rounds);
            // Old credit is bounded by the total weight, so the deviation is too.
            prop_assert!(counts[&m.conf.id].abs_diff(want) <= u64::from(total) * 2, "{:?}", counts);
        }
    }

    #[test]
    fn source_hash_moves_only_clients_of_a_lost_member(
        weights in prop::collection::vec(1_u16..=20, 2..12), lost in 0_usize..12,
    ) {
        let members = pool(&weights);
        let lost = &members[lost % members.len()];
        let before: Vec<_> = (0..500)
            .map(|n| choose(Algorithm::SourceIp, &members, &client(n)).unwrap().conf.id)
            .collect();
        lost.state.set_probed(Probed::Down);
        for (n, before) in (0..500).zip(before) {
            let after = choose(Algorithm::SourceIp, &members, &client(n)).unwrap().conf.id;
            prop_assert!(after == before || before == lost.conf.id);
        }
    }

    #[test]
    fn source_hash_spreads_by_weight(weights in prop::collection::vec(1_u16..=4, 2..6)) {
        let members = pool(&weights);
        let clients = 8_000;
        let picks = (0..clients).filter_map(|n| choose(Algorithm::SourceIp, &members, &client(n * 7)));
        let counts = counts(picks);
        let total: u16 = weights.iter().sum();
        for m in &members {
            let want = f64::from(clients) * f64::from(m.conf.weight) / f64::from(total);
            let got = counts.get(&m.conf.id).copied().unwrap_or(0) as f64;
            prop_assert!((got - want).abs() < 5.0 * want.sqrt() + 10.0, "{} of {}", got, want);
        }
    }
}
