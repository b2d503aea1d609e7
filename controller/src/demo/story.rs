//! The steps, in order. Each measures a time and checks something that a user would see.

use super::amphora::{Amphora, pins};
use super::host::{Host, interrupted};
use super::limits::Limits;
use super::probe::{first_answer, largest_gap, millis, unanswered};
use super::report::{Run, Step, Unit};
use super::sabotage::{Sabotage, swap_authority};
use super::system::{MEMBERS, Shown, System, pause, start_controller, until};
use super::worker::now;
use super::{Args, report};
use crate::config::{Config, Drivers};
use anyhow::{Context, bail, ensure};
use krater_model::{Centiseconds, Millis};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// An amphora without a change for so long is idle.
const IDLE_WITHIN: Duration = Duration::from_secs(6);
/// How often its memory is read meanwhile.
const IDLE_POLL: Duration = Duration::from_millis(250);

/// Requests that show how traffic is spread: a hundred for each of three members.
const SPREAD: usize = 300;
/// Round robin is exact; answers to probes of other connections may fall between.
const SPREAD_TOLERANCE: usize = 3;
/// Answers in a row without a member that show that it is gone: five rounds.
const GONE: usize = 15;

/// Prints and collects.
struct Teller<'a> {
    args: &'a Args,
    limits: Limits,
    run: Run,
}

impl Teller<'_> {
    /// Runs a step that measures its own time; false when it failed.
    fn step(
        &mut self,
        what: &str,
        goal: Option<f64>,
        work: impl FnOnce(&mut Run) -> anyhow::Result<(f64, String)>,
    ) -> bool {
        let start = Instant::now();
        let step = match work(&mut self.run) {
            Ok((value, checked)) => Step {
                what: what.into(),
                value,
                unit: Unit::Millis,
                checked,
                passed: true,
                goal,
            },
            Err(error) => Step {
                what: what.into(),
                value: elapsed(start),
                unit: Unit::Millis,
                checked: format!("{error:#}"),
                passed: false,
                goal,
            },
        };
        self.push(step)
    }

    fn push(&mut self, step: Step) -> bool {
        let passed = step.passed;
        if !self.args.json {
            println!("{}", step.line());
        }
        self.run.steps.push(step);
        passed && !interrupted()
    }
}

fn elapsed(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1_000.0
}

/// One run, from an empty folder to an empty host.
pub(super) fn tell(args: &Args) -> anyhow::Result<Run> {
    let mut teller = Teller {
        args,
        limits: Limits::of(args.compute),
        run: Run::default(),
    };
    let host = Host::new(args.keep)?;
    if let Some(system) = start(&mut teller, host) {
        let system = story(&mut teller, system);
        end(&mut teller, system)?;
    }
    Ok(teller.run)
}

/// The controller comes up. None when it does not; the folder is gone then.
fn start(teller: &mut Teller<'_>, mut host: Host) -> Option<System> {
    let (args, limits) = (teller.args, teller.limits);
    let mut system = None;
    teller.step("controller starts", None, |run| {
        let config = settings(args, &host, run)?;
        let begin = Instant::now();
        let mut api = start_controller(&mut host, config.as_deref())?;
        let took = elapsed(begin);
        if args.sabotage == Some(Sabotage::Mtls) {
            host.stop("controller")?;
            swap_authority(&host.state_dir())?;
            api = start_controller(&mut host, config.as_deref())?;
        }
        system = Some(System::new(host, api, limits)?);
        Ok((took, format!("API answers on {}", api.address)))
    });
    system
}

/// What differs from the shipped defaults needs a file.
fn settings(args: &Args, host: &Host, run: &mut Run) -> anyhow::Result<Option<std::path::PathBuf>> {
    let mut config = Config::default();
    if args.compute == Drivers::Qemu {
        config.controller.drivers = args.compute;
        args.machines.over(&mut config.qemu);
        // A machine under TCG stands still for longer than three advertisements of 100 ms when another one boots
        // beside it, and its heartbeats come late.
        config.vrrp.advert_centiseconds = centiseconds(1_000)?;
        config.heartbeat.stale_after_ms = Millis::literal(20_000);
    }
    if let Some(adverts) = args.adverts {
        config.vrrp.advert_centiseconds = centiseconds(adverts)?;
    }
    for (name, value) in [
        (
            "heartbeat_interval_ms",
            config.heartbeat.interval_ms.value(),
        ),
        (
            "heartbeat_timeout_ms",
            config.heartbeat.stale_after_ms.value(),
        ),
        (
            "advert_ms",
            u32::from(config.vrrp.advert_centiseconds.value()) * 10,
        ),
    ] {
        run.numbers.insert(name, value.into());
    }
    if config == Config::default() {
        return Ok(None);
    }
    let path = host.file("krater.toml");
    std::fs::write(&path, config.to_toml()?)?;
    Ok(Some(path))
}

fn centiseconds(millis: u16) -> anyhow::Result<Centiseconds> {
    Centiseconds::new(u64::from(millis / 10)).map_err(|why| anyhow::anyhow!("--adverts: {why}"))
}

fn story(teller: &mut Teller<'_>, mut system: System) -> System {
    let (sabotage, goals) = (teller.args.sabotage, teller.limits);
    let up = teller.step("load balancer created", goals.create_goal, |run| {
        create(run, &mut system)
    }) && teller.step("configured", None, |_| configure(&mut system))
        && idle(teller, &system);
    if !up {
        return system;
    }
    if let Some(Err(error)) = sabotage.map(|part| part.before_traffic(&system)) {
        teller.step("sabotage", None, |_| Err(error));
        return system;
    }
    let steps: [(&str, Option<f64>, Work); 6] = [
        ("traffic is spread", None, spread),
        ("L7 policy", None, l7),
        ("new listener serves", goals.change_goal, new_listener),
        ("new member serves", goals.change_goal, new_member),
        ("stopped member leaves", None, member_leaves),
        ("member comes back", None, member_returns),
    ];
    for (what, goal, work) in steps {
        // A failed step does not stop the others: each says what it found.
        teller.step(what, goal, |run| work(run, &mut system));
        if interrupted() {
            return system;
        }
    }
    failover(teller, &mut system);
    system
}

type Work = fn(&mut Run, &mut System) -> anyhow::Result<(f64, String)>;

fn create(run: &mut Run, system: &mut System) -> anyhow::Result<(f64, String)> {
    let begin = Instant::now();
    let body = json!({"loadbalancer": {"name": "demo", "vip_subnet_id": system.public_subnet}});
    let created = system.create("loadbalancers", &body)?;
    system.ids.load_balancer = super::api::text(&created, &["id"]).to_owned();
    let vip = super::api::text(&created, &["vip_address"]);
    system.vip = vip
        .parse()
        .with_context(|| format!("vip_address {vip:?}"))?;
    system.until_active(system.limits.active_within)?;
    let took = elapsed(begin);
    run.numbers.insert("create_active_ms", took);
    let pair = system
        .pair(None)?
        .context("ACTIVE, but not two allocated amphorae MASTER and BACKUP")?;
    Ok((
        took,
        format!(
            "ACTIVE with VIP {vip}, {} amphorae: MASTER and BACKUP",
            pair.len()
        ),
    ))
}

fn configure(system: &mut System) -> anyhow::Result<(f64, String)> {
    for number in 0..MEMBERS.len() {
        system.serve(number)?;
    }
    let begin = Instant::now();
    let balancer = system.ids.load_balancer.clone();
    let listener = json!({"listener": {
        "name": "http", "loadbalancer_id": balancer, "protocol": "HTTP", "protocol_port": 80,
        "insert_headers": {"X-Forwarded-For": "true"},
    }});
    system.ids.listener = system.create_and_wait("listeners", &listener)?;
    let pool = json!({"pool": {
        "name": "web", "listener_id": system.ids.listener, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
    }});
    system.ids.web_pool = system.create_and_wait("pools", &pool)?;
    for number in 0..3 {
        let path = format!("pools/{}/members", system.ids.web_pool);
        let id = system.create_and_wait(&path, &system.member_body(number)?)?;
        system.ids.members.push(id);
    }
    let monitor = json!({"healthmonitor": {
        "name": "web", "pool_id": system.ids.web_pool, "type": "HTTP", "url_path": "/",
        "delay": 1, "timeout": 1, "max_retries": 1, "max_retries_down": 2,
    }});
    system.ids.monitor = system.create_and_wait("healthmonitors", &monitor)?;
    let pool = json!({"pool": {
        "name": "api", "loadbalancer_id": balancer, "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
    }});
    system.ids.api_pool = system.create_and_wait("pools", &pool)?;
    let path = format!("pools/{}/members", system.ids.api_pool);
    system.create_and_wait(&path, &system.member_body(3)?)?;
    let policy = json!({"l7policy": {
        "name": "api", "listener_id": system.ids.listener, "action": "REDIRECT_TO_POOL",
        "redirect_pool_id": system.ids.api_pool,
    }});
    system.ids.policy = system.create_and_wait("l7policies", &policy)?;
    let rule = json!({"rule": {"type": "PATH", "compare_type": "STARTS_WITH", "value": "/api"}});
    system.create_and_wait(&format!("l7policies/{}/rules", system.ids.policy), &rule)?;
    let took = elapsed(begin);
    let to = system.at(80);
    until(
        Duration::from_secs(10),
        "no member answers through the VIP",
        || {
            Ok(system
                .client
                .body(to, "/")?
                .filter(|body| body.starts_with("web")))
        },
    )?;
    Ok((
        took,
        "10 changes, each until ACTIVE: listener, 2 pools, 4 members, monitor, policy, rule".into(),
    ))
}

fn idle(teller: &mut Teller<'_>, system: &System) -> bool {
    let weigh = || -> anyhow::Result<(f64, usize)> {
        let mut most = 0;
        let mut processes = 0;
        for shown in system.amphorae()? {
            let amphora = Amphora::find(&system.host.state_dir(), &shown.id)?;
            most = most.max(amphora.resident()?);
            processes += amphora.processes()?.len();
        }
        ensure!(most > 0, "no amphora has a process");
        Ok((Duration::from_micros(most).as_secs_f64(), processes))
    };
    // An agent gives memory back a few seconds after its last change; before that it is not idle.
    let begin = Instant::now();
    let mut weight = weigh();
    let goal = teller.limits.memory_goal;
    while matches!(weight, Ok((megabytes, _)) if goal.is_some_and(|goal| megabytes > goal))
        && begin.elapsed() < IDLE_WITHIN
    {
        std::thread::sleep(IDLE_POLL);
        weight = weigh();
    }
    let idle = begin.elapsed().as_secs_f64();
    let (value, checked, passed) = match weight {
        Ok((megabytes, processes)) => {
            teller.run.numbers.insert("idle_amphora_rss_mb", megabytes);
            (
                megabytes,
                format!(
                    "resident memory of the larger amphora, {processes} processes in both, \
                     idle for {idle:.1} s"
                ),
                true,
            )
        }
        Err(error) => (0.0, format!("{error:#}"), false),
    };
    let what = "idle amphora".into();
    teller.push(Step {
        what,
        value,
        unit: Unit::Megabytes,
        checked,
        passed,
        goal,
    })
}

fn counted(answers: Vec<(u16, String)>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (status, body) in answers {
        let who = if status == 200 {
            body
        } else {
            format!("{status} {body}")
        };
        *counts.entry(who).or_insert(0) += 1;
    }
    counts
}

fn told(counts: &BTreeMap<String, usize>) -> String {
    let parts: Vec<String> = counts
        .iter()
        .map(|(who, count)| format!("{who} {count}"))
        .collect();
    parts.join(", ")
}

/// Whether the three members of `web`, and nobody else, share the answers evenly.
fn even(counts: &BTreeMap<String, usize>) -> bool {
    let third = SPREAD / 3;
    counts.len() == 3
        && MEMBERS[..3].iter().all(|(name, _)| {
            counts
                .get(*name)
                .is_some_and(|n| n.abs_diff(third) <= SPREAD_TOLERANCE)
        })
}

fn spread(run: &mut Run, system: &mut System) -> anyhow::Result<(f64, String)> {
    let begin = Instant::now();
    let counts = counted(system.client.get(system.at(80), "/", SPREAD)?);
    let took = elapsed(begin);
    run.numbers.insert(
        "sequential_request_ms",
        took / f64::from(u16::try_from(SPREAD)?),
    );
    ensure!(
        even(&counts),
        "{SPREAD} requests went to: {}",
        told(&counts)
    );
    Ok((
        took,
        format!("{SPREAD} requests, each 200: {}", told(&counts)),
    ))
}

fn l7(_: &mut Run, system: &mut System) -> anyhow::Result<(f64, String)> {
    let begin = Instant::now();
    let policy = counted(system.client.get(system.at(80), "/api/v1", 30)?);
    let others = counted(system.client.get(system.at(80), "/ap", 3)?);
    let plain = counted(system.client.get(system.at(80), "/", 30)?);
    let begins = |counts: &BTreeMap<String, usize>, with: &str| {
        counts.keys().all(|who| who.starts_with(with))
    };
    let only_api = begins(&policy, "api");
    let only_web = begins(&others, "web") && begins(&plain, "web");
    ensure!(
        only_api && only_web,
        "/api went to: {}; / went to: {}",
        told(&policy),
        told(&plain)
    );
    Ok((
        elapsed(begin),
        format!("/api… to {}; / to {}", told(&policy), told(&plain)),
    ))
}

/// Sends a change and waits until a client sees it and the load balancer is ACTIVE again, which it is
/// when both amphorae have applied the change.
fn in_effect(
    system: &mut System,
    send: impl FnOnce(&System) -> anyhow::Result<()>,
    mut seen: impl FnMut(&mut System) -> anyhow::Result<bool>,
) -> anyhow::Result<f64> {
    let begin = Instant::now();
    send(system)?;
    let within = system.limits.active_within;
    let deadline = begin + within;
    while !seen(system)? {
        ensure!(
            Instant::now() < deadline,
            "not seen in traffic within {} s",
            within.as_secs()
        );
        pause()?;
    }
    system.until_active(system.limits.active_within)?;
    Ok(elapsed(begin))
}

fn slowest_change(run: &mut Run, took: f64) {
    let slowest = run.numbers.entry("change_in_effect_ms").or_insert(0.0);
    *slowest = slowest.max(took);
}

fn new_listener(run: &mut Run, system: &mut System) -> anyhow::Result<(f64, String)> {
    let body = json!({"listener": {
        "name": "second", "loadbalancer_id": system.ids.load_balancer, "protocol": "HTTP", "protocol_port": 8080,
        "default_pool_id": system.ids.api_pool,
    }});
    let to = system.at(8080);
    ensure!(
        system.client.body(to, "/")?.is_none(),
        "port 8080 answers before there is a listener"
    );
    let send = |system: &System| system.create("listeners", &body).map(|_| ());
    let took = in_effect(system, send, |system| {
        Ok(system.client.body(to, "/")?.as_deref() == Some("api1"))
    })?;
    slowest_change(run, took);
    Ok((
        took,
        "seen by a client on port 8080, applied by both amphorae".into(),
    ))
}

fn new_member(run: &mut Run, system: &mut System) -> anyhow::Result<(f64, String)> {
    let body = system.member_body(4)?;
    let path = format!("pools/{}/members", system.ids.api_pool);
    let to = system.at(8080);
    let send = |system: &System| system.create(&path, &body).map(|_| ());
    let took = in_effect(system, send, |system| {
        Ok(system.client.body(to, "/")?.as_deref() == Some("api2"))
    })?;
    slowest_change(run, took);
    Ok((
        took,
        "api2 seen by a client, applied by both amphorae".into(),
    ))
}

fn member_status(system: &System, number: usize) -> anyhow::Result<String> {
    let path = format!(
        "/v2/lbaas/pools/{}/members/{}",
        system.ids.web_pool,
        system.ids.member(number)?
    );
    Ok(super::api::text(&system.api.get(&path)?, &["member", "operating_status"]).to_owned())
}

fn member_leaves(run: &mut Run, system: &mut System) -> anyhow::Result<(f64, String)> {
    let to = system.at(80);
    let begin = Instant::now();
    system.host.stop("web3")?;
    let mut lost = 0;
    let mut asked = 0;
    until(
        system.limits.leave_within,
        "web3 is stopped, but its requests are still sent there or the API does not show it",
        || {
            let answers = system.client.get(to, "/", GONE)?;
            let failed = answers.iter().filter(|a| a.0 != 200).count();
            (asked, lost) = (asked + answers.len(), lost + failed);
            let left = failed == 0 && member_status(system, 2)? == "ERROR";
            Ok(left.then_some(()))
        },
    )?;
    let took = elapsed(begin);
    run.numbers.insert("member_leaves_ms", took);
    Ok((
        took,
        format!(
            "operating_status ERROR, {GONE} answers in a row from the others; {lost} of {asked} requests failed meanwhile"
        ),
    ))
}

fn member_returns(run: &mut Run, system: &mut System) -> anyhow::Result<(f64, String)> {
    let to = system.at(80);
    let begin = Instant::now();
    system.serve(2)?;
    until(
        system.limits.leave_within,
        "web3 runs again, but gets no requests",
        || {
            let back = system.client.get(to, "/", 3)?.iter().any(|a| a.1 == "web3");
            Ok((back && member_status(system, 2)? == "ONLINE").then_some(()))
        },
    )?;
    let took = elapsed(begin);
    run.numbers.insert("member_returns_ms", took);
    Ok((took, "operating_status ONLINE, gets requests".into()))
}

/// The active amphora dies.
fn failover(teller: &mut Teller<'_>, system: &mut System) {
    let (args, goals) = (teller.args, teller.limits);
    let mut death = None;
    teller.step("active amphora killed", None, |run| {
        let (active, others) = system.owner()?;
        let Some(standby) = others.into_iter().next() else {
            bail!("there is no standby")
        };
        let state = system.host.state_dir();
        let (active_at, standby_at) = (
            Amphora::find(&state, &active.id)?,
            Amphora::find(&state, &standby.id)?,
        );
        if let Some(part) = args.sabotage {
            part.before_death(system, &standby_at)?;
        }
        system.prober.probe(system.at(80), goals.probe_every)?;
        let baseline = Instant::now();
        while baseline.elapsed() < goals.baseline {
            pause()?;
        }
        let at = now();
        let processes = active_at.kill_and_cut()?;
        let took = millis(now().saturating_sub(at));
        run.numbers.insert("kill_and_cut_ms", took);
        let checked = format!(
            "{processes} processes of {} by SIGKILL, its links down",
            active.role
        );
        death = Some(Death {
            at,
            active,
            standby,
        });
        Ok((took, checked))
    });
    let Some(death) = death else { return };
    let took_over = teller.step("standby answers", None, |_| takeover(system, &death));
    let detected = teller.step("controller notices", None, |run| {
        detection(run, system, &death)
    });
    let complete = detected
        && teller.step("pair complete again", goals.pair_goal, |run| {
            pair_complete(run, system, &death)
        });
    let goal = goals.outage_goal.map(|[normal, fast]| {
        if args.adverts.is_some_and(|ms| ms <= 10) {
            fast
        } else {
            normal
        }
    });
    teller.step("time without answers", goal, |run| {
        outage(run, system, &death)
    });
    if took_over && complete {
        teller.step("traffic after failover", None, |run| {
            let (first, _) = spread(&mut Run::default(), system)?;
            let (second, checked) = l7(run, system)?;
            Ok((first + second, format!("spread evenly; {checked}")))
        });
    }
}

/// What happened, and when (microseconds of CLOCK_MONOTONIC).
struct Death {
    at: u64,
    active: Shown,
    standby: Shown,
}

impl Death {
    fn since(&self) -> f64 {
        millis(now().saturating_sub(self.at))
    }
}

fn takeover(system: &mut System, death: &Death) -> anyhow::Result<(f64, String)> {
    let to = system.at(80);
    until(
        system.limits.takeover_within,
        "nobody answers on the VIP",
        || system.client.body(to, "/"),
    )?;
    let took = death.since();
    let (owner, _) = system.owner()?;
    ensure!(
        owner.id == death.standby.id,
        "the VIP is at amphora {}, not at the standby",
        owner.id
    );
    Ok((
        took,
        format!("the VIP is at the former {}", death.standby.role),
    ))
}

fn detection(run: &mut Run, system: &System, death: &Death) -> anyhow::Result<(f64, String)> {
    until(
        system.limits.pair_within,
        "the controller does not react",
        || {
            let known = |a: &Shown| a.id == death.active.id || a.id == death.standby.id;
            let changed = system.status()? != "ACTIVE" || !system.amphorae()?.iter().all(known);
            Ok(changed.then_some(()))
        },
    )?;
    let took = death.since();
    run.numbers.insert("detection_ms", took);
    let number = |name: &str| run.numbers.get(name).copied().unwrap_or_default();
    let interval = report::time(number("heartbeat_interval_ms"));
    let limit = report::time(number("heartbeat_timeout_ms"));
    Ok((
        took,
        format!("heartbeats each {interval}, missed for {limit}"),
    ))
}

fn pair_complete(run: &mut Run, system: &System, death: &Death) -> anyhow::Result<(f64, String)> {
    let pair = until(
        system.limits.pair_within,
        "the pair is not complete",
        || {
            let pair = system.pair(Some(&death.active.id))?;
            Ok(pair
                .filter(|_| true)
                .filter(|_| matches!(system.status().as_deref(), Ok("ACTIVE"))))
        },
    )?;
    let took = death.since();
    run.numbers.insert("pair_complete_ms", took);
    let fresh = pair
        .iter()
        .find(|a| a.id != death.standby.id)
        .context("no new amphora")?;
    let processes = Amphora::find(&system.host.state_dir(), &fresh.id)?
        .processes()?
        .len();
    ensure!(
        processes >= system.limits.processes,
        "the new amphora has {processes} processes"
    );
    Ok((
        took,
        format!(
            "ACTIVE, new amphora as {} with {processes} processes",
            fresh.role
        ),
    ))
}

fn outage(run: &mut Run, system: &mut System, death: &Death) -> anyhow::Result<(f64, String)> {
    let samples = system.prober.stop_probe()?;
    let before = samples.iter().filter(|s| s.start < death.at).count();
    let lost_before = unanswered(
        &samples
            .iter()
            .copied()
            .filter(|s| s.start + 250_000 < death.at)
            .collect::<Vec<_>>(),
    );
    let gap = largest_gap(&samples, death.at);
    let back = first_answer(&samples, death.at).context("no probe was answered after the kill")?;
    ensure!(
        before >= system.limits.fewest_probes,
        "only {before} probes before the kill: this host is too busy to measure"
    );
    run.numbers.insert("outage_ms", gap.millis());
    run.numbers
        .insert("new_active_ms", millis(gap.to.saturating_sub(death.at)));
    run.numbers
        .insert("probes", f64::from(u32::try_from(samples.len())?));
    run.numbers.insert(
        "probes_unanswered",
        f64::from(u32::try_from(unanswered(&samples))?),
    );
    ensure!(
        back <= gap.to || gap.from > death.at.saturating_sub(1_000_000),
        "the gap is not the kill's"
    );
    let checked = format!(
        "{} probes, one in {} ms, each a new connection: largest gap; {} unanswered, {lost_before} of them before the kill",
        samples.len(),
        system.limits.probe_every.as_millis(),
        unanswered(&samples),
    );
    Ok((gap.millis(), checked))
}

/// Deletes everything through the API, then ends the system.
fn end(teller: &mut Teller<'_>, mut system: System) -> anyhow::Result<()> {
    let keep = teller.args.keep;
    // A stopped controller (sabotage) goes on, so that it can clean up.
    if let Ok(child) = system.host.child("controller") {
        let process = krater_net::process::ProcessId::of(child.id());
        let _ =
            process.and_then(|process| process.signal(nix::sys::signal::Signal::SIGCONT as i32));
    }
    if !keep && !system.ids.load_balancer.is_empty() && !interrupted() {
        teller.step("deleted with all its parts", None, |_| delete(&system));
    }
    let address = system.api.address;
    if let Some(folder) = system.host.finish()? {
        std::fs::write(folder.join("kept"), "")?;
        if !teller.args.json {
            let state = folder.join("state");
            println!("kept: http://{address}, state folder {}", state.display());
            println!(
                "end it with: krater down --purge --state-dir {}",
                state.display()
            );
        }
    }
    Ok(())
}

fn delete(system: &System) -> anyhow::Result<(f64, String)> {
    let state = system.host.state_dir();
    let gone: Vec<String> = system.amphorae()?.into_iter().map(|a| a.id).collect();
    let begin = Instant::now();
    let path = format!("/v2/lbaas/loadbalancers/{}", system.ids.load_balancer);
    // A flow that still runs makes the load balancer immutable: only its end allows the deletion.
    until(
        system.limits.active_within,
        "the load balancer cannot be deleted",
        || {
            let status = system
                .api
                .send("DELETE", &format!("{path}?cascade=true"), None)?
                .status;
            ensure!(
                [204, 404, 409].contains(&status),
                "DELETE {path} answered {status}"
            );
            Ok((status != 409).then_some(()))
        },
    )?;
    until(
        system.limits.active_within,
        "the load balancer is still there",
        || Ok((system.api.send("GET", &path, None)?.status == 404).then_some(())),
    )?;
    until(
        Duration::from_secs(5),
        "namespaces of its amphorae are left",
        || {
            let left =
                |pin: &std::path::PathBuf| gone.iter().any(|id| pin.to_string_lossy().contains(id));
            Ok((!pins(&state).iter().any(left)).then_some(()))
        },
    )?;
    let left = system.amphorae()?.len();
    ensure!(left == 0, "{left} amphorae are left");
    Ok((
        elapsed(begin),
        "GET answers 404, no amphora and no namespace is left".into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(list: &[(&str, usize)]) -> BTreeMap<String, usize> {
        list.iter()
            .map(|(who, n)| ((*who).to_owned(), *n))
            .collect()
    }

    #[test]
    fn even_means_all_three_and_nobody_else() {
        assert!(even(&counts(&[("web1", 100), ("web2", 101), ("web3", 99)])));
        assert!(!even(&counts(&[("web1", 150), ("web2", 150)])));
        assert!(!even(&counts(&[
            ("web1", 90),
            ("web2", 110),
            ("web3", 100)
        ])));
        assert!(!even(&counts(&[
            ("web1", 100),
            ("web2", 100),
            ("web3", 99),
            ("503 ", 1)
        ])));
    }

    #[test]
    fn answers_that_are_no_200_are_counted_apart() {
        let got = vec![
            (200, "web1".to_owned()),
            (503, "busy".to_owned()),
            (200, "web1".to_owned()),
        ];
        assert_eq!(told(&counted(got)), "503 busy 1, web1 2");
    }
}
