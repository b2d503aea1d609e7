//! What routers learn beside adverts: of their peers by heartbeats, and of neighbours that do not know where an address is.

use super::State;
use crate::instance::Instance;
use crate::liveness::Ours;
use krater_model::control::{RouterState, VrrpEventKind};
use krater_vrrp_proto::{Event, Span, Standing, Time};
use std::net::IpAddr;
use tracing::info;

/// Strays are watched for so long after the last change of who is Active: until then they are on their way.
const SETTLED: Span = Span::from_millis(100);
/// Strays looked at in one round; one is enough to know.
const STRAYS_PER_ROUND: usize = 16;
/// A peer that has members and did not take over is asked again so much later.
const ASK_AGAIN: Span = Span::from_millis(10_000);

impl State {
    /// Sends heartbeats, and tells routers of peers that fell silent.
    pub(super) fn judge_peers(&mut self, now: Time) {
        if self.sessions.deadline().is_some_and(|at| at <= now) {
            self.report();
        }
        self.sessions.work(&self.driver.metrics, now);
        for changed in self.sessions.take_changes() {
            let concerned = |i: &Instance| changed.concerns(i.machine.router());
            if let Some(instance) = self.instances.iter().find(|i| concerned(i)) {
                for told in changed.told() {
                    info!(?told, "liveness session");
                    self.driver.tell.tell(&instance.key, told);
                }
            }
            let misled = changed.misled().then_some(Event::Misled);
            for event in misled.into_iter().chain(changed.event()) {
                for at in 0..self.instances.len() {
                    if self.instances.get(at).is_some_and(concerned) {
                        self.step(at, now, event.clone());
                    }
                }
            }
        }
        self.seek_members(now);
    }

    /// What the next heartbeats tell.
    fn report(&mut self) {
        let mut terms = self.driver.terms.get();
        terms.heard(self.sessions.highest_term());
        self.driver.terms.set(terms);
        let (instances, poor) = (&self.instances, self.poor);
        self.sessions.tell(terms.highest(), |interface, source| {
            let mut ours = Ours::default();
            for instance in instances {
                let router = instance.machine.router();
                if router.source() != source || instance.key.interface != interface {
                    continue;
                }
                ours.poor |= poor && router.tracks_members();
                let state = instance.machine.state();
                let able = [RouterState::Active, RouterState::Backup].contains(&state);
                if able && !instance.removed && !instance.machine.is_leaving() {
                    ours.best = ours.best.max(router.priority().value());
                }
            }
            ours
        });
    }

    /// Hands over what is served without a member, to a peer that has some.
    fn seek_members(&mut self, now: Time) {
        if !self.poor || self.ending {
            return;
        }
        for at in 0..self.instances.len() {
            let Some(instance) = self.instances.get(at) else {
                continue;
            };
            let router = instance.machine.router();
            let active = instance.machine.standing() == Standing::Active && !instance.removed;
            if !active || !router.tracks_members() || instance.ask_again > now {
                continue;
            }
            let richer = router.peers().iter().find(|peer| {
                let report = self.sessions.report_of(router, **peer);
                report.is_some_and(|report| !report.poor && report.best > 0)
            });
            let Some(peer) = richer.copied() else {
                continue;
            };
            let vrid = instance.key.vrid.value();
            info!(vrid, %peer, "no member is up here, and some are there: handing over");
            if let Some(instance) = self.instances.get_mut(at) {
                instance.ask_again = now + ASK_AGAIN;
            }
            self.step(at, now, Event::HandOver(ASK_AGAIN));
        }
    }

    /// Looks whether neighbours send packets here that are for an Active elsewhere, and tells it.
    pub(super) fn look_for_strays(&mut self, now: Time) {
        if self.driver.moved.take() {
            self.strays_from = Some(now + SETTLED);
        }
        if self.strays_from.is_some_and(|at| at <= now) {
            self.strays_from = None;
            self.strays.begin_anew();
            self.watch_strays();
        }
        if !self.strays.look(now) {
            return;
        }
        let mut found: Vec<(String, IpAddr)> = Vec::new();
        for port in self.ports.values_mut() {
            for _ in 0..STRAYS_PER_ROUND {
                let Some(address) = port.take_stray() else {
                    break;
                };
                let stray = (port.key.interface.clone(), address);
                if !found.contains(&stray) {
                    found.push(stray);
                }
            }
        }
        // Once for each look: how many wait says only how often they were sent.
        if !found.is_empty() {
            self.strays.found(now);
        }
        let mut told: Vec<(&str, IpAddr)> = Vec::new();
        for (interface, address) in &found {
            // It may have become ours meanwhile.
            let meant = self.instances.iter().find(|instance| {
                let router = instance.machine.router();
                instance.key.interface == *interface
                    && instance.machine.state() == RouterState::Backup
                    && router.moves(*address)
            });
            let Some(instance) = meant else { continue };
            let source = instance.machine.router().source();
            info!(vrid = instance.key.vrid.value(), %address, "a neighbour takes us for its owner");
            self.driver.metrics.strays.inc();
            let event = VrrpEventKind::Stray { address: *address };
            self.driver.tell.tell(&instance.key, event);
            // Once for each: their Actives announce all that they have.
            if !told.contains(&(interface.as_str(), source)) {
                told.push((interface, source));
                self.sessions.stray(interface, source);
            }
        }
    }

    /// Has each interface watch for packets to what its Backups would hold.
    fn watch_strays(&mut self) {
        let instances = &self.instances;
        for port in self.ports.values_mut() {
            let backups = instances.iter().filter(|instance| {
                instance.port == port.key && instance.machine.state() == RouterState::Backup
            });
            let addresses: Vec<IpAddr> = backups
                .flat_map(|instance| instance.machine.router().moved())
                .collect();
            port.watch_strays(&addresses);
        }
    }
}
