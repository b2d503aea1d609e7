//! `amphora ctl`: asks the children over their control sockets.
#![allow(clippy::print_stdout, reason = "the answer of a command")]

use crate::appliance::{self, About, NameStatus};
use crate::cli::{
    CheckResult, CtlArgs, CtlCommand, LogProcess, MemberCommand, MemberSetting, VrrpCommand,
};
use crate::control;
use crate::server::logs;
use crate::supervise::Kind;
use anyhow::Context;
use http::Method;
use krater_model::control::{
    CheckReport, DataplaneStatus, Granted, Handover, HandoverResult, ListenerState, RouterState,
    VrrpEvent, VrrpEvents, VrrpStatus,
};
use krater_model::{Millis, Vrid};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(3);
/// A peer waits three seconds at most before it takes over.
const HANDOVER: Duration = Duration::from_secs(6);
/// Until vrrp is asked again for events when it did not answer.
const AWAY: Duration = Duration::from_millis(200);
/// A new version checks the file, starts a data plane and gives it everything.
const UPGRADE: Duration = Duration::from_secs(60);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);
/// How long one question for events waits for an answer.
const POLL: Duration = Duration::from_secs(20);

/// Prints the answer.
pub(crate) fn run(args: CtlArgs) -> anyhow::Result<()> {
    // Paths of sockets are short that way.
    std::env::set_current_dir(&args.run_dir)
        .with_context(|| format!("--run-dir {}", args.run_dir.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let text = runtime.block_on(answer(&args))?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

async fn answer(args: &CtlArgs) -> anyhow::Result<String> {
    Ok(match &args.command {
        CtlCommand::Status => {
            let (dataplane, vrrp, names) = tokio::join!(dataplane(), vrrp(), names());
            match args.json {
                true => {
                    let both = serde_json::json!({
                        "dataplane": dataplane.as_ref().ok(),
                        "vrrp": vrrp.as_ref().ok(),
                        "names": names,
                    });
                    pretty(&both)?
                }
                false => {
                    let text = |r: anyhow::Result<String>| {
                        r.unwrap_or_else(|error| format!("{error:#}\n"))
                    };
                    let names: String = names.iter().map(name_line).collect();
                    let vrrp = match lacks_vrrp() {
                        true => String::new(),
                        false => text(vrrp.map(|v| routers(&v))),
                    };
                    text(dataplane.map(|d| status(&d))) + &vrrp + &names
                }
            }
        }
        CtlCommand::Stats => {
            let dataplane = dataplane().await?;
            match args.json {
                true => pretty(&dataplane.listeners)?,
                false => stats(&dataplane),
            }
        }
        CtlCommand::Vrrp { command } => match command {
            None | Some(VrrpCommand::Status) => {
                let vrrp = vrrp().await?;
                match args.json {
                    true => pretty(&vrrp)?,
                    false => routers(&vrrp),
                }
            }
            Some(VrrpCommand::Handover {
                vrid,
                interface,
                hold,
            }) => {
                let vrid = vrid.map(|id| Vrid::new(id.into())).transpose();
                let hold = Millis::new(u64::from(*hold) * 1_000);
                let handover = Handover {
                    vrid: vrid.map_err(anyhow::Error::msg)?,
                    interface: interface.clone(),
                    hold: Some(hold.map_err(anyhow::Error::msg)?),
                };
                hand_over(&handover, args.json).await?
            }
            Some(VrrpCommand::Check { name, result }) => {
                let report = CheckReport {
                    up: *result == CheckResult::Up,
                };
                let (socket, path) = (Kind::Vrrp.socket(), format!("/checks/{name}"));
                control::request(socket, Method::PUT, &path, Some(&report), PATIENCE)
                    .await
                    .with_context(|| format!("report check {name}"))?;
                String::new()
            }
            Some(VrrpCommand::Events { since, follow, new }) => {
                let from = if *new {
                    Told::latest().await?
                } else {
                    Told::after(*since)
                };
                events(from, *follow, args.json).await?;
                String::new()
            }
        },
        CtlCommand::Logs { process, lines } => {
            let process = match process {
                LogProcess::Agent => "agent",
                LogProcess::Dataplane => "dataplane",
                LogProcess::Vrrp => "vrrp",
            };
            let path = logs::file(Path::new("log"), process);
            let (text, _) = logs::tail(&path, (*lines).min(logs::MAX_LINES))
                .with_context(|| format!("read {}", path.display()))?;
            String::from_utf8_lossy(&text).into_owned()
        }
        CtlCommand::Member {
            command: MemberCommand::Set { id, what, weight },
        } => {
            let body = match what {
                MemberSetting::Weight => serde_json::json!({ "weight": weight }),
                _ if weight.is_some() => anyhow::bail!("a number is for weight alone"),
                MemberSetting::Drain => serde_json::json!({ "state": "drain" }),
                MemberSetting::Maint => serde_json::json!({ "state": "maint" }),
                MemberSetting::Ready => serde_json::json!({ "state": "ready" }),
            };
            let (socket, path) = (Kind::Dataplane.socket(), format!("/members/{id}"));
            control::request(socket, Method::PUT, &path, Some(&body), PATIENCE)
                .await
                .with_context(|| format!("set member {id}"))?;
            String::new()
        }
        CtlCommand::Reload => {
            let socket = Path::new(appliance::SOCKET);
            let body = None::<&()>;
            control::request(socket, Method::POST, "/reload", body, appliance::RELOAD)
                .await
                .context("reload")?;
            String::new()
        }
        CtlCommand::Drain { timeout } => {
            let socket = Path::new(appliance::SOCKET);
            let deadline_ms = *timeout;
            let body = Some(&appliance::Drain { deadline_ms });
            control::request(socket, Method::POST, "/drain", body, PATIENCE)
                .await
                .context("drain")?;
            String::new()
        }
        CtlCommand::Upgrade => upgrade().await?,
        CtlCommand::ReopenLogs => {
            let socket = Kind::Dataplane.socket();
            control::request(socket, Method::POST, "/reopen-logs", None::<&()>, PATIENCE)
                .await
                .context("reopen access logs")?;
            String::new()
        }
        CtlCommand::LogLevel { level } => {
            let body = serde_json::json!({ "level": level });
            let started = |kind: &Kind| *kind == Kind::Dataplane || !lacks_vrrp();
            for kind in [Kind::Dataplane, Kind::Vrrp].into_iter().filter(started) {
                let (socket, path) = (kind.socket(), "/log-level");
                control::request(socket, Method::PUT, path, Some(&body), PATIENCE)
                    .await
                    .with_context(|| format!("set level of {}", kind.name()))?;
            }
            String::new()
        }
    })
}

/// An appliance without virtual routers starts no vrrp.
fn lacks_vrrp() -> bool {
    Path::new(appliance::SOCKET).exists() && !Kind::Vrrp.socket().exists()
}

async fn about() -> anyhow::Result<About> {
    let about = control::get(Path::new(appliance::SOCKET), "/about", PATIENCE).await;
    about.context("ask the appliance")
}

/// Asks for the new version and waits until it serves.
async fn upgrade() -> anyhow::Result<String> {
    let before = about().await?;
    let socket = Path::new(appliance::SOCKET);
    let asked = control::request(socket, Method::POST, "/upgrade", None::<&()>, UPGRADE).await;
    match asked {
        // It may have become the new one while it was answering.
        Ok(_) | Err(control::ControlError::Protocol(_)) => {}
        Err(error) => return Err(anyhow::Error::from(error).context("upgrade")),
    }
    let serves = async {
        loop {
            match about().await {
                Ok(now) if now.ready && now.instance != before.instance => return now,
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    };
    let Ok(now) = tokio::time::timeout(UPGRADE, serves).await else {
        let seconds = UPGRADE.as_secs();
        anyhow::bail!(
            "the new version does not serve after {seconds} s: see the log of the appliance"
        );
    };
    Ok(format!(
        "{} took the place of {}\n",
        now.version, before.version
    ))
}

async fn dataplane() -> anyhow::Result<DataplaneStatus> {
    let status = control::get(Kind::Dataplane.socket(), "/status", PATIENCE).await;
    status.context("ask the data plane")
}

/// Names of an appliance's members; none where there is no appliance.
async fn names() -> Vec<NameStatus> {
    let socket = Path::new(appliance::SOCKET);
    let names = control::get(socket, "/names", PATIENCE).await;
    names.unwrap_or_default()
}

/// `name app.example: 192.0.2.7 192.0.2.8, asked again in 12 s (IPv6: no answer in 1s)`
fn name_line(name: &NameStatus) -> String {
    let addresses = name.found.addresses.iter();
    let addresses: Vec<_> = addresses.map(ToString::to_string).collect();
    let addresses = match addresses.is_empty() {
        true => "no address".into(),
        false => addresses.join(" "),
    };
    let problem = name.found.problem.as_ref();
    let problem = problem.map_or_else(String::new, |problem| format!(" ({problem})"));
    let seconds = name.next_ms.div_ceil(1_000);
    let name = &name.name;
    format!("name {name}: {addresses}, asked again in {seconds} s{problem}\n")
}

async fn vrrp() -> anyhow::Result<VrrpStatus> {
    let status = control::get(Kind::Vrrp.socket(), "/status", PATIENCE).await;
    status.context("ask vrrp")
}

async fn hand_over(handover: &Handover, as_json: bool) -> anyhow::Result<String> {
    let socket = Kind::Vrrp.socket();
    let answer = control::json(socket, Method::POST, "/handover", Some(handover), HANDOVER).await;
    let results: Vec<HandoverResult> = answer.context("hand over")?;
    let stays = |result: &&HandoverResult| result.state == RouterState::Active;
    if let Some(result) = results.iter().find(stays) {
        let (vrid, interface) = (result.vrid, &result.interface);
        anyhow::bail!("vrid {vrid} on {interface}: no peer took over; it stays Active here");
    }
    if as_json {
        return pretty(&results);
    }
    let line = |r: &HandoverResult| format!("vrid {} on {}: {}\n", r.vrid, r.interface, r.reason);
    Ok(results.iter().map(line).collect())
}

/// What a reader of events has.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// Of which process of vrrp, if any was asked yet.
    process: Option<u64>,
    /// Up to this one.
    since: u64,
}

impl Told {
    fn after(since: u64) -> Self {
        let process = None;
        Self { process, since }
    }

    /// All that there is now.
    async fn latest() -> anyhow::Result<Self> {
        let mut told = Self::default();
        loop {
            let page = told.page(Duration::ZERO).await?;
            told.process = Some(page.process);
            if page.events.is_empty() {
                return Ok(told);
            }
            told.since = page.next;
        }
    }

    async fn page(self, wait: Duration) -> anyhow::Result<VrrpEvents> {
        let path = format!("/events?since={}&wait_ms={}", self.since, wait.as_millis());
        let answer = control::get(Kind::Vrrp.socket(), &path, PATIENCE + wait).await;
        answer.context("ask vrrp for events")
    }

    /// Whether the page is of another process than those before it, whose numbers say nothing in this one.
    fn began_anew(&mut self, page: &VrrpEvents) -> bool {
        let before = self.process.replace(page.process);
        before.is_some_and(|before| before != page.process)
    }
}

async fn events(mut told: Told, follow: bool, as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let wait = if follow { POLL } else { Duration::ZERO };
    loop {
        let page = match told.page(wait).await {
            Ok(page) => page,
            // It is about to be started again; who follows wants to know above all what happens then.
            Err(_away) if follow && told.process.is_some() => {
                tokio::time::sleep(AWAY).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        if told.began_anew(&page) {
            told.since = 0;
            continue;
        }
        if page.lost > 0 && told.since > 0 {
            // Readers of JSON get JSON alone.
            let text = format!("{} events are not there any more", page.lost);
            match as_json {
                true => writeln!(std::io::stderr(), "{text}")?,
                false => writeln!(out, "{text}")?,
            }
        }
        for event in &page.events {
            if as_json {
                writeln!(out, "{}", serde_json::to_string(event)?)?;
            } else {
                writeln!(out, "{}", event_line(event)?)?;
            }
        }
        out.flush()?;
        if page.events.is_empty() && !follow {
            return Ok(());
        }
        told.since = page.next;
    }
}

/// `7 1700000000.123 vrid 1 on eth1 state_changed from=backup to=active reason=…`
fn event_line(event: &VrrpEvent) -> anyhow::Result<String> {
    let (seconds, millis) = (event.unix_ms / 1_000, event.unix_ms % 1_000);
    let (vrid, interface) = (event.vrid, &event.interface);
    let mut line = format!(
        "{} {seconds}.{millis:03} vrid {vrid} on {interface}",
        event.sequence
    );
    if let serde_json::Value::Object(fields) = serde_json::to_value(&event.kind)? {
        let name = fields.get("event").and_then(|name| name.as_str());
        line += &format!(" {}", name.unwrap_or_default());
        for (key, value) in fields.iter().filter(|(key, _)| *key != "event") {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            line += &format!(" {key}={value}");
        }
    }
    Ok(line)
}

fn pretty(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn revision(revision: Option<krater_model::Revision>) -> String {
    revision.map_or_else(|| "none".into(), |revision| revision.to_string())
}

/// An id, and the name if there is one.
fn named(id: &impl std::fmt::Display, name: &str) -> String {
    let id = id.to_string();
    match name.is_empty() || name == id {
        true => id,
        false => format!("{id} {name}"),
    }
}

fn status(dataplane: &DataplaneStatus) -> String {
    let (pid, version) = (dataplane.pid, &dataplane.version);
    let mut out = format!(
        "dataplane {pid} {version} revision {}\n",
        revision(dataplane.revision)
    );
    for listener in &dataplane.listeners {
        let state = match &listener.state {
            ListenerState::Open => "open",
            ListenerState::Full => "full",
            ListenerState::Disabled => "disabled",
            ListenerState::Failed(why) => why,
        };
        out += &format!(
            "  listener {} {state}\n",
            named(&listener.id, &listener.name)
        );
        if !listener.dropped_ciphers.is_empty() {
            let names = listener.dropped_ciphers.join(":");
            out += &format!("    ciphers that do not exist here: {names}\n");
        }
    }
    for pool in &dataplane.pools {
        out += &format!("  pool {}\n", named(&pool.id, &pool.name));
        for member in &pool.members {
            let member_named = named(&member.id, &member.name);
            let (health, reason) = (member.health, &member.reason);
            out += &format!("    member {member_named} {health:?} {reason}\n");
        }
    }
    out
}

fn stats(dataplane: &DataplaneStatus) -> String {
    let mut out = format!(
        "{:36} {:>10} {:>12} {:>15} {:>15} {:>10}\n",
        "listener", "active", "total", "bytes in", "bytes out", "errors"
    );
    for listener in &dataplane.listeners {
        let stats = &listener.stats;
        out += &format!(
            "{:36} {:>10} {:>12} {:>15} {:>15} {:>10}\n",
            listener.id.to_string(),
            stats.active_connections,
            stats.total_connections,
            stats.bytes_in,
            stats.bytes_out,
            stats.request_errors
        );
    }
    out
}

fn routers(vrrp: &VrrpStatus) -> String {
    let mut out = format!(
        "vrrp {} {} revision {}\n",
        vrrp.pid,
        vrrp.version,
        revision(vrrp.revision)
    );
    for (what, granted) in [
        ("memory is not locked", &vrrp.memory_locked),
        ("no real-time scheduling", &vrrp.real_time),
    ] {
        if let Some(Granted::No(why)) = granted {
            out += &format!("  {what}: {why}\n");
        }
    }
    for check in &vrrp.checks {
        let state = match (check.up, check.fresh_ms) {
            (true, _) => "up",
            (false, Some(_)) => "down",
            (false, None) => "down: nobody reports it",
        };
        out += &format!("  check {} {state}\n", check.name);
    }
    for router in &vrrp.routers {
        let addresses: Vec<String> = router.addresses.iter().map(ToString::to_string).collect();
        out += &format!(
            "  vrid {} on {} {:?}{} since {} ms, {} transitions: {} [{}]\n",
            router.vrid,
            router.interface,
            router.state,
            router
                .term
                .map_or_else(String::new, |term| format!(" in term {term}")),
            router.since_ms,
            router.transitions,
            router.reason,
            addresses.join(" ")
        );
        for peer in &router.liveness {
            out += &format!("    liveness of {}: {}\n", peer.peer, peer.meaning());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = serde_json::from_str(
            "{\"sequence\":7,\"unix_ms\":1700000000005,\"vrid\":1,\"interface\":\"eth1\",\"event\":\"state_changed\",\
             \"from\":\"backup\",\"to\":\"active\",\"reason\":\"192.0.2.1 resigned\"}",
        );
        assert_eq!(
            event_line(&event.unwrap()).unwrap(),
            "7 1700000000.005 vrid 1 on eth1 state_changed from=backup reason=192.0.2.1 resigned to=active"
        );
    }
}
