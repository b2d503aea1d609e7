//! What is done to a node, and one measurement of it.

use super::clock::Clock;
use super::lab::{LOOK, Lab, vip, wait_for, wait_within};
use super::probe::{Probe, Prober, Side, seen};
use super::product::{Product, Programs, Running, Task};
use super::report::Figures;
use super::wire::{self, Announcement, Held, Owners, Sniffer};
use crate::cpu;
use anyhow::{Context, bail};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What is done, by the name of the rows that it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Case {
    /// All links of the Active drop frames silently, and all its processes get SIGKILL
    NodeDeath,
    /// The Active loses its carrier
    LinkDown,
    /// The Active gets SIGTERM
    GracefulStop,
    /// The Active is told to hand over (keepalived knows no such command: SIGTERM)
    PlannedHandover,
    /// The process that speaks VRRP gets SIGKILL, and its supervisor starts it again
    ProcessCrash,
    /// All processes of the Active get SIGSTOP, and after the takeover SIGCONT
    Freeze,
    /// The switch drops all frames of the Active, and after the takeover no more
    Partition,
    /// The Active's data plane gets SIGKILL; keepalived asks it by a script, as Octavia has it
    DataplaneDeath,
    /// The same with SIGSTOP
    DataplaneFreeze,
    /// Death of a node with many routers
    MassFailover,
    /// Many routers and nothing that happens to them
    Steady,
    /// One router under load, and nothing that happens to it (--long)
    Loaded,
    /// The same with many (--long)
    LoadedMany,
}

impl Case {
    /// Whether it is about many routers, at 100 ms between adverts.
    pub(super) const fn is_large(self) -> bool {
        matches!(self, Self::MassFailover | Self::Steady | Self::LoadedMany)
    }

    /// Whether it takes minutes under load.
    pub(super) const fn is_long(self) -> bool {
        matches!(self, Self::Loaded | Self::LoadedMany)
    }

    /// Whether nothing happens, and all that moves does so without a cause.
    const fn is_calm(self) -> bool {
        matches!(self, Self::Steady) || self.is_long()
    }

    /// Whether the data plane is watched.
    pub(super) const fn is_dataplane(self) -> bool {
        matches!(self, Self::DataplaneDeath | Self::DataplaneFreeze)
    }
}

/// Who is Active at first, and who is Backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) active: Product,
    pub(super) backup: Product,
}

impl Pair {
    /// `krater`, or `krater+keepalived` with the Active first.
    pub(super) fn name(self) -> String {
        if self.active == self.backup {
            self.active.name().to_owned()
        } else {
            format!("{}+{}", self.active.name(), self.backup.name())
        }
    }

    pub(super) fn parse(name: &str) -> anyhow::Result<Self> {
        let product = |name: &str| match name {
            "krater" => Ok(Product::Krater),
            "krater-live" => Ok(Product::KraterLive),
            "keepalived" => Ok(Product::Keepalived),
            _ => bail!(
                "--who {name}: use krater, krater-live, keepalived, or two of them with a + between: Active first"
            ),
        };
        let (active, backup) = name.split_once('+').unwrap_or((name, name));
        Ok(Self {
            active: product(active)?,
            backup: product(backup)?,
        })
    }
}

/// One measurement's conditions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) case: Case,
    pub(super) pair: Pair,
    pub(super) task: Task,
    pub(super) programs: &'a Programs,
    /// The folder of the run.
    pub(super) folder: &'a Path,
    /// How long `steady` looks.
    pub(super) steady: Duration,
    /// How long it looks after what was broken is mended.
    pub(super) after: Duration,
    /// How long a takeover may take before it is none.
    pub(super) patience: Duration,
    /// Sabotage: there is no Backup, so that nobody can take over.
    pub(super) no_backup: bool,
}

/// Both products, the instruments, and what they stand on.
struct Scene {
    clock: Clock,
    active: Running,
    backup: Option<Running>,
    prober: Prober,
    sniffer: Sniffer,
    owners: Option<Owners>,
    lab: Lab,
}

/// What the instruments saw.
struct Record {
    probes: Vec<Probe>,
    announcements: Vec<Announcement>,
    held: Vec<Held>,
}

impl Plan<'_> {
    /// One value of each row that the case makes.
    pub(super) fn measure(&self) -> anyhow::Result<Vec<(&'static str, Figures)>> {
        let mut scene = self.scene()?;
        // Anywhere between two adverts.
        let interval = u64::from(self.task.centiseconds) * 10_000;
        let nanos = SystemTime::UNIX_EPOCH.elapsed()?.subsec_nanos();
        let phase = u64::from(nanos / 1_000) % interval;
        std::thread::sleep(Duration::from_micros(3 * interval + phase));
        if self.case.is_calm() {
            return self.steady(scene);
        }
        if scene.lab.b.held(self.task.routers)? > 0 {
            bail!("b took over before anything had happened");
        }
        let from = scene.clock.now();
        self.harm(&mut scene)?;
        let what = "the probes saw no takeover";
        wait_within(self.patience, what, || {
            Ok((scene.prober.latest() == Some(Side::B)).then_some(()))
        })
        .with_context(|| self.logs(&scene))?;
        if self.case == Case::MassFailover {
            let all = usize::from(self.task.routers);
            wait_for("b to hold all addresses", || {
                Ok((scene.lab.b.held(self.task.routers)? == all).then_some(()))
            })?;
        }
        let calm = Duration::from_secs(1) + Duration::from_micros(3 * interval);
        std::thread::sleep(calm);
        let until = scene.clock.now();
        let second = match self.case {
            Case::Freeze => Some("thaw"),
            Case::Partition => Some("heal"),
            _ => None,
        };
        let mut mended = None;
        if second.is_some() {
            mended = Some(scene.clock.now());
            match self.case {
                Case::Freeze => scene.lab.a.signal_all(libc::SIGCONT)?,
                _ => scene.lab.connect(Side::A, true)?,
            }
            std::thread::sleep(self.after);
        }
        let end = scene.clock.now();
        let record = scene.end()?;
        let mut rows = vec![(self.name(), self.figures(&record, from, until))];
        if let (Some(name), Some(from)) = (second, mended) {
            rows.push((name, self.figures(&record, from, end)));
        }
        // A dead node answers nobody: who answered had taken over before.
        let dead = matches!(self.case, Case::NodeDeath | Case::MassFailover);
        for (name, figures) in &rows {
            if dead && figures.lost == Some(0) {
                bail!("{name}: b had taken over before anything had happened");
            }
            if figures.outage_ms.is_some_and(|ms| ms > 15_000.0) {
                bail!("{name}: nobody answers any more");
            }
        }
        Ok(rows)
    }

    /// The first row's name.
    pub(super) const fn name(&self) -> &'static str {
        match self.case {
            Case::NodeDeath => "node-death",
            Case::LinkDown => "link-down",
            Case::GracefulStop => "graceful-stop",
            Case::PlannedHandover => "planned-handover",
            Case::ProcessCrash => "process-crash",
            Case::Freeze => "freeze",
            Case::Partition => "partition",
            Case::DataplaneDeath => "dataplane-death",
            Case::DataplaneFreeze => "dataplane-freeze",
            Case::MassFailover => "mass-failover",
            Case::Steady => "steady",
            Case::Loaded => "loaded",
            Case::LoadedMany => "loaded-many",
        }
    }

    /// a is Active, b follows, the client is answered and its neighbour cache is warm.
    fn scene(&self) -> anyhow::Result<Scene> {
        let mut lab = Lab::new(self.folder)?;
        lab.a.answer(self.task.watched)?;
        lab.b.answer(self.task.watched)?;
        let start =
            |product, node, peer| Running::start(product, self.programs, self.task, node, peer);
        let active = start(self.pair.active, &lab.a, lab.b.host)?;
        let all = usize::from(self.task.routers);
        wait_for("a to hold all addresses", || {
            Ok((lab.a.held(self.task.routers)? == all).then_some(()))
        })
        .with_context(|| active.log())?;
        let backup = match self.no_backup {
            false => Some(start(self.pair.backup, &lab.b, lab.a.host)?),
            true => None,
        };
        if let Some(backup) = &backup {
            backup.is_backup()?;
        }
        let clock = Clock::start();
        let macs = [(lab.a.mac, Side::A), (lab.b.mac, Side::B)];
        let sniffer = Sniffer::start(&lab.client, macs, clock)?;
        // Of many addresses this would cost more than what is measured.
        let owners = match self.case.is_large() {
            false => Some(Owners::start(&lab.a.ns, &lab.b.ns, vip(1), clock)?),
            true => None,
        };
        let prober = Prober::start(Arc::clone(&lab.client), vip(1), clock)?;
        wait_for("the client to be answered by a", || {
            Ok((prober.latest() == Some(Side::A)).then_some(()))
        })?;
        Ok(Scene {
            clock,
            active,
            backup,
            prober,
            sniffer,
            owners,
            lab,
        })
    }

    fn harm(&self, scene: &mut Scene) -> anyhow::Result<()> {
        let Scene { lab, active, .. } = scene;
        match self.case {
            Case::NodeDeath | Case::MassFailover => {
                lab.connect(Side::A, false)?;
                // Stopped first: none of them may act on the death of another one.
                lab.a.signal_all(libc::SIGSTOP)?;
                lab.a.signal_all(libc::SIGKILL)?;
            }
            Case::LinkDown => lab.cut_carrier(Side::A)?,
            Case::GracefulStop => active.stop()?,
            Case::PlannedHandover => active.hand_over()?,
            Case::ProcessCrash => {
                active.speaker()?.signal(libc::SIGKILL)?;
                active.supervise(&lab.a, lab.b.host)?;
            }
            Case::Freeze => lab.a.signal_all(libc::SIGSTOP)?,
            Case::Partition => lab.connect(Side::A, false)?,
            Case::DataplaneDeath => lab.a.signal_dataplane(libc::SIGKILL)?,
            Case::DataplaneFreeze => lab.a.signal_dataplane(libc::SIGSTOP)?,
            Case::Steady | Case::Loaded | Case::LoadedMany => {}
        }
        Ok(())
    }

    fn figures(&self, record: &Record, from: u64, until: u64) -> Figures {
        let seen = seen(&record.probes, from, until);
        let within = |one: &&Announcement| (from..until).contains(&one.at);
        let all: Vec<_> = record
            .announcements
            .iter()
            .filter(within)
            .copied()
            .collect();
        let first: Vec<_> = all
            .iter()
            .filter(|one| one.address == vip(1))
            .copied()
            .collect();
        let mut figures = Figures {
            outage_ms: Some(ms(seen.outage)),
            lost: Some(seen.lost),
            takeover_ms: seen.takeover.map(ms),
            changes: Some(wire::changes(record.before(from, vip(1)), &first)),
            bursts: Some(wire::bursts(&first)),
            announcements: Some(all.len()),
            late_ms: Some(ms(seen.late)),
            ..Figures::default()
        };
        // A dead node, or one without a link, owns nothing, whatever its kernel believes.
        let gone = matches!(
            self.case,
            Case::NodeDeath | Case::LinkDown | Case::MassFailover
        );
        if !gone {
            figures.double_ms = Some(ms(wire::double(&record.held, from, until)));
        }
        if self.case == Case::MassFailover
            && let Some((moved, spread)) = wire::spread(&all)
        {
            figures.moved = Some(moved);
            figures.spread_ms = Some(ms(spread));
        }
        figures
    }

    /// What many routers cost, and whether any of them moves without a cause.
    fn steady(&self, scene: Scene) -> anyhow::Result<Vec<(&'static str, Figures)>> {
        let backup = scene.backup.as_ref().context("there is no Backup")?;
        let pids = [scene.active.main(), backup.main()];
        let use_of = |pid| cpu::usage(&[pid], &[]);
        let (from, before) = (scene.clock.now(), pids.map(use_of));
        std::thread::sleep(self.steady);
        let (until, after) = (scene.clock.now(), pids.map(use_of));
        let record = scene.end()?;
        #[allow(clippy::cast_precision_loss)]
        let seconds = (until - from) as f64 / 1e6;
        let mut cost = Vec::new();
        for (before, after) in before.into_iter().zip(after) {
            let (before, after) = (before?, after?);
            #[allow(clippy::cast_precision_loss)]
            let resident = after.rss as f64 / f64::from(1 << 20);
            let cpu = 100.0 * after.cpu.since(before.cpu).total() / seconds;
            cost.push((cpu, resident));
        }
        let mut figures = self.figures(&record, from, until);
        figures.false_takeovers = Some(wire::taken(&record.announcements));
        figures.takeover_ms = None;
        if let [(active_cpu, active_rss), (backup_cpu, backup_rss)] = cost.as_slice() {
            figures.cpu_active = Some(*active_cpu);
            figures.cpu_backup = Some(*backup_cpu);
            figures.rss_active_mib = Some(*active_rss);
            figures.rss_backup_mib = Some(*backup_rss);
        }
        Ok(vec![(self.name(), figures)])
    }

    fn logs(&self, scene: &Scene) -> String {
        let tail = |text: String| {
            let from = text.len().saturating_sub(1_500);
            text.get(from..).unwrap_or_default().to_owned()
        };
        let backup = scene.backup.as_ref().map(Running::log).unwrap_or_default();
        format!(
            "--- a\n{}\n--- b\n{}",
            tail(scene.active.log()),
            tail(backup)
        )
    }
}

impl Scene {
    fn end(self) -> anyhow::Result<Record> {
        let probes = self.prober.end()?;
        std::thread::sleep(LOOK);
        Ok(Record {
            probes,
            announcements: self.sniffer.end()?,
            held: self.owners.map_or_else(|| Ok(Vec::new()), Owners::end)?,
        })
    }
}

impl Record {
    /// Who announced an address last before a moment; a when nobody did, as it had it before we looked.
    fn before(&self, at: u64, address: std::net::Ipv4Addr) -> Side {
        let earlier = self.announcements.iter().rev();
        let last = earlier
            .filter(|one| one.at < at && one.address == address)
            .map(|one| one.from)
            .next();
        last.unwrap_or(Side::A)
    }
}

#[allow(clippy::cast_precision_loss)]
fn ms(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}
