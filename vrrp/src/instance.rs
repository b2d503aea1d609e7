//! One virtual router: its machine, and what performing its outputs needs.

use crate::driver::Driver;
use crate::metrics::{RouterLabels, RouterMetrics, number};
use crate::older::OlderPeers;
use crate::port::{Open, Port, PortKey};
use crate::quiet::Quiet;
use crate::vip::{self, Place};
use crate::vmac;
use krater_model::Vrid;
use krater_model::control::{
    HandoverResult, PeerLiveness, RouterState, RouterStatus, VrrpEventKind,
};
use krater_vrrp_proto::{
    Belongings, Datagram, DropReason, Event, Faults, Heard, Machine, Notice, Output, Reason,
    Router, Span, Time, frame,
};
use std::cell::Cell;
use std::net::UdpSocket;
use std::sync::Arc;
use tracing::{debug, info, warn};

/// Port 9 of RFC 863: what it gets has no meaning.
const DISCARD: u16 = 9;

/// What identifies a virtual router (RFC 9568 section 5.2.3: per interface and family).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouterKey {
    pub(crate) interface: String,
    pub(crate) vrid: Vrid,
    pub(crate) v4: bool,
}

impl RouterKey {
    pub(crate) fn of(router: &Router) -> Self {
        Self {
            interface: router.plain().interface.clone(),
            vrid: router.vrid(),
            v4: router.source().is_ipv4(),
        }
    }

    pub(crate) fn labels(&self) -> RouterLabels {
        RouterLabels {
            interface: self.interface.clone(),
            vrid: self.vrid.value().into(),
            family: if self.v4 { "ipv4" } else { "ipv6" }.into(),
        }
    }
}

/// A virtual router that runs.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) key: RouterKey,
    pub(crate) port: PortKey,
    /// As configured; the machine's has the priority that tracked interfaces leave.
    pub(crate) configured: Arc<Router>,
    pub(crate) machine: Machine,
    pub(crate) metrics: RouterMetrics,
    pub(crate) faults: Faults,
    /// Which sync group it belongs to.
    pub(crate) group: Option<usize>,
    /// Not configured any more; it goes once it has let go.
    pub(crate) removed: bool,
    /// The kernel refused some of what we hold.
    pub(crate) incomplete: Cell<bool>,
    /// When a peer that has members may be asked to take over (again).
    pub(crate) ask_again: Time,
    /// While Active.
    term: Option<u64>,
    message: Vec<u8>,
    /// Around it, to the group from a virtual MAC address.
    frame: Vec<u8>,
    quiet: Quiet,
    older: OlderPeers,
    /// The configuration that the guard knows; none when it must be told (again).
    willed: Option<Arc<Router>>,
}

impl Instance {
    pub(crate) fn new(
        key: RouterKey,
        port: PortKey,
        configured: Arc<Router>,
        router: Arc<Router>,
        metrics: RouterMetrics,
        now: Time,
    ) -> Self {
        // The header, an address each, and the authentication of version 2. 255 routers with room for the longest message
        // would touch a megabyte.
        let longest = 16 + 16 * router.advertised().len();
        Self {
            key,
            port,
            configured,
            machine: Machine::new(router, now),
            metrics,
            faults: Faults::NONE,
            group: None,
            removed: false,
            incomplete: Cell::new(false),
            ask_again: now,
            term: None,
            message: Vec::with_capacity(longest),
            frame: Vec::new(),
            quiet: Quiet::default(),
            older: OlderPeers::default(),
            willed: None,
        }
    }

    /// An advert passed the ladder.
    pub(crate) fn heard(&mut self, now: Time, heard: Heard) {
        self.metrics.received.inc();
        if self.older.heard(self.machine.router(), &heard) {
            self.willed = None;
        }
        self.machine.handle(now, Event::Heard(heard));
    }

    /// Performs the machine's outputs in order. An error means that the kernel refused a change, which
    /// was logged; all other outputs were performed.
    pub(crate) fn perform(
        &mut self,
        driver: &Driver,
        port: &Port,
    ) -> Result<(), krater_net::Error> {
        let mut result = Ok(());
        // Before anything is added: what we hold, the guard can give up for us.
        self.make_will(driver);
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::SendAdvert { priority } => self.send(driver, port, priority),
                Output::Add(belongings) => {
                    vip::prepare(self.machine.router());
                    let place = |index| self.place(driver, index);
                    let added = self.change(driver, port, &belongings, place, vip::add);
                    result = result.and(added);
                }
                Output::Remove(belongings) => {
                    let place = |index| self.left_place(driver, index);
                    let removed = self.change(driver, port, &belongings, place, vip::remove);
                    result = result.and(removed);
                    self.lower(driver, port);
                }
                Output::Announce => self.announce(driver, port),
                Output::StateChanged { old, new, reason } => {
                    self.state_changed(driver, old, new, reason);
                    if new == RouterState::Backup && old != RouterState::Active {
                        self.greet(port);
                    }
                }
                Output::Notice(notice) => self.notice(driver, notice),
            }
        }
        result
    }

    /// Tells the guard what to say for us while we are Active, unless it knows.
    fn make_will(&mut self, driver: &Driver) {
        let router = self.machine.router();
        let known = |willed: &Arc<Router>| Arc::ptr_eq(willed, router);
        if self.machine.state() == RouterState::Active && !self.willed.as_ref().is_some_and(known) {
            driver.guard.active(router, self.older.destinations(router));
            self.willed = Some(Arc::clone(router));
        }
    }

    /// Another guard is there, which knows nothing.
    pub(crate) fn guard_replaced(&mut self, driver: &Driver) {
        self.willed = None;
        self.make_will(driver);
    }

    /// Counts a packet that the ladder refused.
    pub(crate) fn refused(
        &mut self,
        reason: DropReason,
        datagram: &Datagram<'_>,
        driver: &Driver,
        now: Time,
    ) {
        driver.metrics.dropped(reason);
        if self.quiet.refused(reason, now) {
            let event = VrrpEventKind::PacketDropped {
                source: datagram.source,
                reason: reason.name().into(),
            };
            driver.tell.tell(&self.key, event);
            warn!(
                vrid = self.key.vrid.value(),
                interface = self.key.interface,
                source = %datagram.source,
                %reason,
                "packet dropped"
            );
        }
    }

    /// For the control socket.
    pub(crate) fn status(&self, now: Time, liveness: Vec<PeerLiveness>) -> RouterStatus {
        let since = now - self.machine.since();
        RouterStatus {
            vrid: self.key.vrid,
            interface: self.key.interface.clone(),
            state: self.machine.state(),
            reason: self.machine.reason().to_string(),
            transitions: self.machine.transitions(),
            since_ms: since.micros() / 1_000,
            addresses: self.machine.router().moved().collect(),
            liveness,
            term: self.term,
        }
    }

    /// How a handover of it ended.
    pub(crate) fn handover_result(&self) -> HandoverResult {
        HandoverResult {
            vrid: self.key.vrid,
            interface: self.key.interface.clone(),
            state: self.machine.state(),
            reason: self.machine.reason().to_string(),
        }
    }

    /// Makes peers know our link-layer address before they need it.
    ///
    /// An Active that was told of us before our address was there has asked for it in vain, and its
    /// kernel asks again only after a second (RetransTimer, RFC 4861 section 10; Linux does the same
    /// for ARP): longer than our Active_Down_Interval, so that we would take over from a living Active
    /// whose adverts wait in its neighbour queue. Our own question for the peer tells it where we are.
    fn greet(&self, port: &Port) {
        if port.open.is_none() {
            return;
        }
        let router = self.machine.router();
        for peer in router.peers() {
            // The discard port: nobody listens there, and nobody has to.
            let sent = UdpSocket::bind((router.source(), 0))
                .and_then(|socket| socket.send_to(&[], (*peer, DISCARD)));
            if let Err(error) = sent {
                debug!(vrid = router.vrid().value(), %peer, %error, "peer not greeted");
            }
        }
    }

    fn send(&mut self, driver: &Driver, port: &Port, priority: u8) {
        let Some(open) = &port.open else { return };
        let router = self.machine.router();
        let advert = router.advert(priority);
        for peer in router.destinations() {
            let form = self.older.form(router, *peer);
            advert.emit(router.source(), *peer, form, &mut self.message);
            let plain = router.plain();
            let sent = if plain.virtual_mac && plain.multicast {
                frame::to_group(
                    router.vrid(),
                    router.source(),
                    &self.message,
                    &mut self.frame,
                );
                match open.announcer.send(&self.frame) {
                    // Longer than the link takes in one piece. The kernel cuts it up, with the interface's own address.
                    Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                        open.adverts.send(*peer, &self.message)
                    }
                    sent => sent,
                }
            } else {
                open.adverts.send(*peer, &self.message)
            };
            match sent {
                Ok(()) => drop(self.metrics.sent.inc()),
                Err(error) => {
                    driver.metrics.send_errors.inc();
                    debug!(vrid = router.vrid().value(), %peer, %error, "advert not sent");
                }
            }
        }
    }

    /// Where its addresses are to be.
    pub(crate) fn place(&self, driver: &Driver, index: u32) -> krater_net::Result<Place> {
        let router = self.machine.router();
        Ok(Place {
            routes: index,
            addresses: match router.plain().virtual_mac {
                true => vmac::raise(&driver.netlink, index, router)?,
                false => index,
            },
        })
    }

    /// Where they are, if anywhere.
    pub(crate) fn left_place(&self, driver: &Driver, index: u32) -> krater_net::Result<Place> {
        let router = self.machine.router();
        let own = match router.plain().virtual_mac {
            true => vmac::find(&driver.netlink, index, router)?.map(|link| link.index),
            false => None,
        };
        Ok(Place {
            routes: index,
            addresses: own.unwrap_or(index),
        })
    }

    /// What is not Active has no virtual MAC address.
    fn lower(&self, driver: &Driver, port: &Port) {
        let router = self.machine.router();
        let Some(Open { index, .. }) = &port.open else {
            return;
        };
        if router.plain().virtual_mac
            && self.machine.state() != RouterState::Active
            && let Err(error) = vmac::lower(&driver.netlink, *index, router)
        {
            warn!(vrid = self.key.vrid.value(), %error, "a virtual MAC address stays up");
        }
    }

    fn change(
        &self,
        driver: &Driver,
        port: &Port,
        belongings: &Belongings,
        place: impl Fn(u32) -> krater_net::Result<Place>,
        change: impl Fn(
            &krater_net::sync::NetlinkSocket,
            Place,
            &Belongings,
        ) -> Result<(), krater_net::Error>,
    ) -> Result<(), krater_net::Error> {
        // Without the interface there is nothing to change: what it had went with it.
        let Some(Open { index, .. }) = &port.open else {
            return Ok(());
        };
        let changed = |place| change(&driver.netlink, place, belongings);
        let result = place(*index).and_then(changed);
        if let Err(error) = &result {
            driver.metrics.netlink_errors.inc();
            self.incomplete.set(true);
            warn!(vrid = self.key.vrid.value(), %error, "the kernel refused a change");
        }
        result
    }

    fn announce(&self, driver: &Driver, port: &Port) {
        let Some(Open {
            mac: Some(mac),
            announcer,
            ..
        }) = &port.open
        else {
            return;
        };
        let router = self.machine.router();
        let plain = router.plain();
        let mac = match plain.virtual_mac {
            true => &frame::virtual_mac(router.vrid(), router.source().is_ipv4()),
            false => mac,
        };
        for net in router.moved_nets() {
            match announcer.announce(*mac, net.addr()) {
                Ok(()) => drop(self.metrics.announced.inc()),
                Err(error) => {
                    driver.metrics.send_errors.inc();
                    debug!(address = %net, %error, "announcement not sent");
                }
            }
        }
    }

    fn state_changed(
        &mut self,
        driver: &Driver,
        old: RouterState,
        new: RouterState,
        reason: Reason,
    ) {
        if old == RouterState::Active && new != RouterState::Active {
            driver.guard.released(self.machine.router());
            self.willed = None;
        }
        driver.moved.set(true);
        match new {
            RouterState::Active => self.new_term(driver),
            _ => {
                self.term = None;
                self.metrics.term.set(0);
            }
        }
        self.metrics.state.set(number(new));
        let event = VrrpEventKind::StateChanged {
            from: old,
            to: new,
            reason: reason.to_string(),
            term: self.term,
        };
        driver.tell.tell(&self.key, event);
        if (old == RouterState::Active) != (new == RouterState::Active) {
            self.metrics.transitions.inc();
        }
        info!(
            vrid = self.key.vrid.value(),
            interface = self.key.interface,
            family = if self.key.v4 { "ipv4" } else { "ipv6" },
            ?old,
            ?new,
            term = self.term,
            %reason,
            "virtual router changed state"
        );
    }

    /// What this Active does from now on is later than all that was done before.
    fn new_term(&mut self, driver: &Driver) {
        let mut terms = driver.terms.get();
        let term = terms.next(crate::clock::unix_ms());
        driver.terms.set(terms);
        self.term = Some(term);
        self.metrics
            .term
            .set(i64::try_from(term).unwrap_or(i64::MAX));
    }

    fn notice(&mut self, driver: &Driver, notice: Notice) {
        match notice {
            Notice::Stalled { .. } => drop(self.metrics.stalls.inc()),
            Notice::RivalActive { .. } => drop(self.metrics.rivals.inc()),
            Notice::RivalGone { lasted, .. } => {
                let seconds = std::time::Duration::from(lasted).as_secs_f64();
                self.metrics.rival_seconds.inc_by(seconds);
                // It had one of its own.
                self.new_term(driver);
            }
            _ => {}
        }
        if self.quiet.notice(&notice, crate::clock::now()) {
            driver.tell.tell(&self.key, event_of(notice, self.term));
            warn!(
                vrid = self.key.vrid.value(),
                interface = self.key.interface,
                "{notice}"
            );
        }
    }
}

fn event_of(notice: Notice, term: Option<u64>) -> VrrpEventKind {
    let ms = |span: Span| span.micros() / 1_000;
    match notice {
        Notice::RivalActive { source, priority } => VrrpEventKind::RivalActive { source, priority },
        Notice::RivalGone { source, lasted } => VrrpEventKind::RivalGone {
            source,
            lasted_ms: ms(lasted),
            term: term.unwrap_or_default(),
        },
        Notice::TwoOwners { source } => VrrpEventKind::TwoOwners { source },
        Notice::NoSuccessor { waited } => VrrpEventKind::NoSuccessor {
            waited_ms: ms(waited),
        },
        Notice::Stalled { late } => VrrpEventKind::Stalled { late_ms: ms(late) },
        Notice::IntervalLearned { source, interval } => VrrpEventKind::IntervalLearned {
            source,
            interval_ms: ms(interval),
        },
        Notice::AddressesDiffer { source } => VrrpEventKind::AddressesDiffer { source },
    }
}
