//! Hosts that stand still: for a moment, as any on a loaded machine, and for an hour.

use super::*;

/// Two or three routers with 10 to 50 ms between adverts on hosts that stop for `low` to `high` ms now
/// and then, the owner's most of all; nothing is lost. Nobody may lose the addresses by it; then the
/// owner dies while the others have a hiccup, and one takes over as soon as it runs again.
fn hiccups(seed: u64, low: u64, high: u64) -> Checked {
    let mut world = World::new(seed, Bug::None);
    let centiseconds = world.random.pick(&[1_u64, 1, 2, 5]);
    world.interval = Span::from_micros(centiseconds * 10_000);
    world.delay = Span::from_micros(200);
    for (at, host) in world.hosts.iter_mut().enumerate() {
        let mut document = serde_json::to_value(host.router.plain()).unwrap();
        let changes = json!({
            // With the skew of the common priorities; one of 254 waits 30 ms, and no hiccup at all.
            "priority": if at == 0 { 100 } else { 90 },
            "advert_interval": centiseconds, "version": 3, "password": null, "preempt": false,
        });
        for (key, value) in changes.as_object().unwrap() {
            document[key] = value.clone();
        }
        host.router = Arc::new(Router::new(serde_json::from_value(document).unwrap()).unwrap());
    }
    for host in 0..world.hosts.len() {
        world.start(host)?;
        world.run_until(world.intervals(8))?;
    }
    let owner = world.sole_owner()?.unwrap();
    let hiccup = |world: &mut World, host: usize| {
        let length = Span::from_micros(low * 1_000 + world.random.below((high - low) * 1_000));
        world.hosts[host].stalled_until = world.now + length;
        world.hosts[host].blind_until = world.now + length;
        world.note(format!("{host} has a hiccup of {length}"));
    };
    for _ in 0..100 {
        for host in 0..world.hosts.len() {
            if world.random.percent(if host == owner { 80 } else { 30 }) {
                hiccup(&mut world, host);
            }
        }
        let pause = high * 1_000 + world.interval.micros() + world.random.below(30_000);
        world.run_until(world.now + Span::from_micros(pause))?;
        if world.sole_owner()? != Some(owner) || world.takeovers() != 1 {
            return world.fail("a hiccup moved the addresses");
        }
    }
    world.kill(owner, true);
    let others = || (0..).take(world.hosts.len()).filter(|host| *host != owner);
    let others: Vec<usize> = others().collect();
    let due = |world: &World| others.iter().filter_map(|host| world.due(*host)).min();
    let first = due(&world).unwrap();
    // Adverts that were under way count still.
    world.run_until(world.now + Span::from_millis(1))?;
    let down = due(&world).unwrap().max(first);
    world.run_until(Time::from_micros(down.micros() - 1))?;
    for host in &others {
        hiccup(&mut world, *host);
    }
    let awake = others.iter().map(|host| world.hosts[*host].stalled_until);
    let awake = awake.max().unwrap();
    world.run_until(awake + Span::from_millis(1))?;
    if !others.iter().any(|host| world.hosts[*host].holds) {
        return world.fail("a hiccup delayed a takeover beyond its own length");
    }
    Ok(())
}

#[test]
fn hiccups_of_a_loaded_machine_are_no_stalls() {
    let seeds = 0..variable("KRATER_SIM_SEEDS").unwrap_or(SEEDS);
    for seed in seeds.clone() {
        // The queue of a Backup, one hiccup and an interval are less than Active_Down_Interval.
        if let Err(why) = hiccups(seed, 20, 25) {
            panic!("seed {seed}: {why}");
        }
    }
    // The control: what is longer than the peers wait does move them.
    let moved = seeds.filter(|seed| hiccups(*seed, 45, 60).is_err());
    assert!(moved.count() > 20, "stalls went unnoticed");
}

/// A virtual machine that is suspended for an hour, or a process that is stopped and whose queue fills meanwhile.
fn hour(seed: u64) -> Checked {
    let mut world = World::new(seed, Bug::None);
    // A wire of an hour of 10 ms is long.
    if world.interval < Span::from_millis(100) {
        return Ok(());
    }
    for host in 0..world.hosts.len() {
        world.start(host)?;
    }
    world.run_until(world.intervals(14))?;
    let Some(owner) = world.sole_owner()? else {
        return world.fail("nobody began");
    };
    let count = world.hosts.len();
    let host = match world.random.percent(50) {
        true => owner,
        false => world.random.index(count),
    };
    let before = world.takeovers();
    world.hosts[host].stalled_until = world.now + Span::from_millis(3_600_000);
    world.hosts[host].paused = world.random.percent(50);
    world.hosts[host].blind_until = world.now + Span::from_millis(3_700_000);
    world.run_until(world.now + Span::from_millis(3_600_000))?;
    world.run_until(world.intervals(14))?;
    world.sole_owner()?;
    let most = if host != owner {
        0
    } else if world.preempts() {
        2
    } else {
        1
    };
    let changes = world.takeovers() - before;
    // Equal ones may take over at the same moment, and one of them gives way at once.
    if changes > most + (count as u64).saturating_sub(2) {
        return world.fail(&format!("{changes} takeovers"));
    }
    Ok(())
}

#[test]
fn an_hour_of_standing_still_costs_one_change() {
    for seed in 0..SEEDS / 10 {
        if let Err(why) = hour(seed) {
            panic!("seed {seed}: {why}");
        }
    }
}

/// A queue of old adverts must not revive an Active that is gone: without the age check it does.
#[test]
fn stale_adverts_are_told_apart_by_age() {
    for (bug, revived) in [(Bug::None, false), (Bug::StaleAccepted, true)] {
        let mut world = World::new(1, bug);
        for host in 0..world.hosts.len() {
            world.start(host).unwrap();
            world.run_until(world.intervals(8)).unwrap();
        }
        let owner = world.sole_owner().unwrap().unwrap();
        let other = (owner + 1) % world.hosts.len();
        world.hosts[other].stalled_until = world.intervals(40);
        world.run_until(world.intervals(5)).unwrap();
        world.kill(owner, true);
        world.run_until(world.intervals(34)).unwrap();
        let before = world.trace.len();
        let ran = world.run_until(world.intervals(2));
        let heard = ran.is_err_and(|why| why.contains("a stale advert was heard"));
        assert_eq!(heard, revived);
        let dropped = world.trace[before.saturating_sub(20)..]
            .iter()
            .any(|line| line.contains("stale"));
        assert_eq!(dropped, !revived, "{bug:?}: {:#?}", world.trace);
    }
}
