//! The loop: one thread, one epoll, edge-triggered, no system call per request but write and read.

use super::args::Args;
use super::conn::{Conn, Outcome};
use super::plan::Plan;
use super::schedule::Schedule;
use super::tally::{Tally, Watch};
use super::tls::Sessions;
use crate::sys;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Read buffer; bulk data comes in pieces of this size at the most.
const BUFFER: usize = 256 * 1024;
/// Events per wait.
const EVENTS: usize = 256;
/// How often connections are looked at for time-outs.
const SWEEP: Duration = Duration::from_millis(100);
/// Pause of a place after an error: a refused connect returns at once, and a dead server would be hammered.
const PAUSE: Duration = Duration::from_millis(10);

/// A running load.
pub(crate) struct Engine {
    plan: Plan,
    sessions: Option<Sessions>,
    patience: Duration,
    epoll: Epoll,
    conns: Vec<Conn>,
    pub(crate) tally: Tally,
    free: Vec<usize>,
    resting: VecDeque<(Instant, usize)>,
    busy: usize,
    buffer: Vec<u8>,
}

impl Engine {
    pub(crate) fn new(args: &Args) -> anyhow::Result<Self> {
        let plan = Plan::new(args)?;
        let count = usize::try_from(args.connections)?;
        let watch = Watch {
            pids: args.pids.clone(),
            cores: args.cores.clone(),
        };
        let now = Instant::now();
        // 50 µs of slack, the default, would be seen in every latency of an open loop.
        nix::sys::prctl::set_timerslack(1)?;
        Ok(Self {
            sessions: plan.target.tls.then(|| Sessions::new(args)).transpose()?,
            plan,
            patience: args.patience(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            conns: (0..count).map(|_| Conn::new(now)).collect(),
            tally: Tally::new(watch)?,
            // Popped from the end: the first connection is used first.
            free: (0..count).rev().collect(),
            resting: VecDeque::new(),
            busy: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Runs a schedule to its end and waits for the last answers. Opens and closes the tally's window.
    pub(crate) fn run(&mut self, args: &Args) -> anyhow::Result<()> {
        let start = Instant::now();
        let measured = start + args.warmup();
        let span = args.warmup() + args.span();
        let mut schedule = Schedule::new(start, span, args.requests, args.rate);
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut sweep = start + SWEEP;
        loop {
            let now = Instant::now();
            if now >= measured && !self.tally.is_open() {
                self.tally.open(measured)?;
            }
            while self.resting.front().is_some_and(|(at, _)| *at <= now) {
                self.free
                    .extend(self.resting.pop_front().map(|(_, place)| place));
            }
            while !self.free.is_empty()
                && let Some(at) = schedule.take(now)
            {
                if let Some(place) = self.free.pop() {
                    self.start(place, at);
                }
            }
            let due = schedule.due(now);
            if due.is_none() {
                if now >= start + span {
                    self.tally.close()?;
                }
                if self.busy == 0 {
                    break;
                }
            }
            if now >= sweep {
                self.sweep(now);
                sweep = now + SWEEP;
            }
            let mut until = sweep;
            if let Some((at, _)) = self.resting.front() {
                until = until.min(*at);
            }
            if !self.tally.is_open() {
                until = until.min(measured);
            }
            match due {
                Some(at) if !self.free.is_empty() => until = until.min(at),
                None if now < start + span => until = until.min(start + span),
                _ => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            self.turn(&mut events, &mut schedule, left)?;
        }
        self.tally.close()
    }

    fn start(&mut self, place: usize, at: Instant) {
        let sessions = self.sessions.as_ref();
        let conn = &mut self.conns[place];
        self.busy += 1;
        let key = (&self.epoll, place as u64);
        if let Err(error) = conn.start(&self.plan, at, key, sessions, &mut self.tally) {
            self.fail(place, true, &error);
        }
    }

    /// An exchange failed, or (not `busy`) an idle connection did, which costs no request.
    fn fail(&mut self, place: usize, busy: bool, error: &anyhow::Error) {
        let conn = &mut self.conns[place];
        if busy {
            self.busy -= 1;
            self.resting.push_back((Instant::now() + PAUSE, place));
        }
        conn.shut();
        self.tally.failed(|| format!("{error:#}"));
    }

    /// Waits for events, at most for `left`, and does what they ask for.
    fn turn(
        &mut self,
        events: &mut [EpollEvent],
        schedule: &mut Schedule,
        left: Duration,
    ) -> anyhow::Result<()> {
        let ready = sys::wait(&self.epoll, events, left)?;
        for event in events.iter().take(ready) {
            self.event(event, schedule);
        }
        Ok(())
    }

    fn event(&mut self, event: &EpollEvent, schedule: &mut Schedule) {
        let Ok(place) = usize::try_from(event.data()) else {
            return;
        };
        let Some(conn) = self.conns.get_mut(place) else {
            return;
        };
        let was_busy = conn.busy();
        match conn.event(
            &self.plan,
            event.events(),
            &mut self.buffer,
            &mut self.tally,
        ) {
            Err(error) => self.fail(place, was_busy, &error),
            Ok(Outcome::Done) if was_busy => {
                self.busy -= 1;
                conn.rest(&self.plan);
                // The next one at once, from here: no detour over the loop in a closed loop.
                match schedule.take(Instant::now()) {
                    Some(at) => self.start(place, at),
                    None => self.free.push(place),
                }
            }
            Ok(_) => {}
        }
    }

    fn sweep(&mut self, now: Instant) {
        for place in 0..self.conns.len() {
            let conn = &self.conns[place];
            // In open loop `since` may lie before the moment at which the request could be sent; a
            // server that is that late has failed the client all the same.
            if conn.busy() && now.saturating_duration_since(conn.since()) > self.patience {
                let text = format!("no answer within {:?}", self.patience);
                self.fail(place, true, &anyhow::anyhow!(text));
            }
        }
    }

    /// One exchange on each connection.
    pub(crate) fn round(&mut self, batch: usize) -> anyhow::Result<()> {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut schedule = Schedule::new(Instant::now(), Duration::ZERO, 0, None);
        let mut places = 0..self.conns.len();
        self.free.clear();
        let mut sweep = Instant::now() + SWEEP;
        loop {
            while self.busy < batch
                && let Some(place) = places.next()
            {
                self.start(place, Instant::now());
            }
            if self.busy == 0 && places.is_empty() {
                self.resting.clear();
                return Ok(());
            }
            self.turn(&mut events, &mut schedule, SWEEP)?;
            if Instant::now() >= sweep {
                self.sweep(Instant::now());
                sweep = Instant::now() + SWEEP;
            }
        }
    }

    /// Holds all connections for a time; whoever is closed by the server meanwhile is opened again by the
    /// next round, which shows in the number of connections.
    pub(crate) fn hold(&mut self, span: Duration) -> anyhow::Result<()> {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut schedule = Schedule::new(Instant::now(), Duration::ZERO, 0, None);
        let end = Instant::now() + span;
        while let left @ 1.. = end.saturating_duration_since(Instant::now()).as_millis() {
            let left = Duration::from_millis(u64::try_from(left).unwrap_or(1));
            self.turn(&mut events, &mut schedule, left.min(SWEEP))?;
        }
        Ok(())
    }

    /// Half of a request on each connection, `batch` connections at a time.
    pub(crate) fn begin_halves(&mut self, batch: usize) -> anyhow::Result<()> {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut schedule = Schedule::new(Instant::now(), Duration::ZERO, 0, None);
        for first in (0..self.conns.len()).step_by(batch.max(1)) {
            let some = first..(first + batch).min(self.conns.len());
            for place in some.clone() {
                self.busy += 1;
                let (sessions, key) = (self.sessions.as_ref(), (&self.epoll, place as u64));
                let conn = &mut self.conns[place];
                let now = Instant::now();
                if let Err(error) = conn.start_half(&self.plan, now, key, sessions, &mut self.tally)
                {
                    self.fail(place, true, &error);
                }
            }
            while some.clone().any(|place| !self.conns[place].sent()) {
                self.turn(&mut events, &mut schedule, SWEEP)?;
                self.sweep(Instant::now());
            }
        }
        Ok(())
    }

    /// The other halves, and the answers.
    pub(crate) fn end_halves(&mut self) -> anyhow::Result<()> {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut schedule = Schedule::new(Instant::now(), Duration::ZERO, 0, None);
        for place in 0..self.conns.len() {
            let conn = &mut self.conns[place];
            if conn.busy()
                && let Err(error) = conn.end_half(&self.plan, Instant::now(), &mut self.tally)
            {
                self.fail(place, true, &error);
            }
        }
        while self.busy > 0 {
            self.turn(&mut events, &mut schedule, SWEEP)?;
            self.sweep(Instant::now());
        }
        Ok(())
    }

    /// Slow clients: every tick each sends and reads its share of `rate` bytes per second.
    pub(crate) fn slow(&mut self, args: &Args, rate: u32) -> anyhow::Result<()> {
        let share = usize::try_from(rate)?.div_ceil(10).max(1);
        let mut small = vec![0; share];
        let start = Instant::now();
        let end = start + args.warmup() + args.span();
        let mut schedule = Schedule::new(start, args.warmup() + args.span(), args.requests, None);
        let mut events = vec![EpollEvent::empty(); EVENTS];
        loop {
            let now = Instant::now();
            if now >= start + args.warmup() && !self.tally.is_open() {
                self.tally.open(start + args.warmup())?;
            }
            // What was begun is brought to its end: a server that has answered counts it.
            if now >= end {
                self.tally.close()?;
            }
            for place in 0..self.conns.len() {
                if !self.conns[place].busy() {
                    let Some(at) = schedule.take(now) else {
                        continue;
                    };
                    self.begin_slowly(place, at);
                }
                let conn = &mut self.conns[place];
                let late = now.saturating_duration_since(conn.since()) > self.patience;
                match conn.sip(&self.plan, &mut small, &mut self.tally) {
                    Ok(Outcome::Done) => conn.shut(),
                    Ok(Outcome::Waiting) if late => {
                        conn.shut();
                        let patience = self.patience;
                        self.tally
                            .failed(|| format!("no answer within {patience:?}"));
                    }
                    Ok(Outcome::Waiting) => {}
                    Err(error) => {
                        conn.shut();
                        self.tally.failed(|| format!("{error:#}"));
                    }
                }
            }
            if self.conns.iter().all(|c| !c.busy()) && schedule.due(now).is_none() {
                return self.tally.close();
            }
            // The events only have to be taken away; the ticks do the work.
            let tick = now + SWEEP;
            while Instant::now() < tick {
                sys::wait(
                    &self.epoll,
                    &mut events,
                    tick.saturating_duration_since(Instant::now()),
                )?;
            }
        }
    }

    fn begin_slowly(&mut self, place: usize, at: Instant) {
        let sessions = self.sessions.as_ref();
        let key = (&self.epoll, place as u64);
        let conn = &mut self.conns[place];
        if let Err(error) = conn.start_slowly(&self.plan, at, key, sessions, &mut self.tally) {
            conn.shut();
            self.tally.failed(|| format!("{error:#}"));
        }
    }
}
