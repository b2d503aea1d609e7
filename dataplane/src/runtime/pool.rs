//! A pool at run time: choosing a member, and waiting for a place at one.
//!
//! Choices and counts happen under one lock per pool, so that limits, round robin and least connections are
//! exact over any number of workers. A connection that ends gives its place to who waits, whichever worker
//! that is on. Nothing is awaited while the lock is held, and no [`MemberGuard`] that hands on its place
//! dropped.

use super::{MemberView, PoolView, uptime};
use krater_dataplane_core::balance::{self, Candidate, Choice, SlowStart};
use krater_dataplane_core::member::MemberState;
use krater_dataplane_core::persistence::{CAPACITY, CookieKey, Table, Token};
use krater_dataplane_core::queue::{Lane, Offer, Queue, Ticket};
use krater_dataplane_core::table::MemberConf;
use krater_model::state::Persistence;
use krater_model::{MemberId, PoolId};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A pool's lasting state.
#[derive(Debug)]
pub struct PoolRuntime {
    /// Which.
    pub id: PoolId,
    /// Held while a member is chosen and counted.
    choice: Mutex<Selection>,
    /// How many wait in its queue; written under the lock, read by whoever ends.
    waiting: AtomicUsize,
    queued: AtomicU64,
    overflows: AtomicU64,
    timeouts: AtomicU64,
}

/// What choices depend on and change.
#[derive(Debug)]
struct Selection {
    sticky: Sticky,
    queue: Queue<Waiter>,
    /// The pool as it is configured now, for those who wait: they came under an earlier configuration
    /// perhaps.
    current: Weak<PoolView>,
}

/// Which member a client had, by what it is known by.
#[derive(Debug)]
struct Sticky {
    addresses: Table<IpAddr>,
    cookies: Table<CookieKey>,
}

impl Sticky {
    /// Forgets what the pool's persistence, as it is now, does not look at.
    fn settle(&mut self, persistence: Option<&Persistence>) {
        let by_address = matches!(persistence, Some(Persistence::SourceIp { .. }));
        if !by_address && !self.addresses.is_empty() {
            self.addresses.clear();
        }
        let by_cookie = matches!(persistence, Some(Persistence::AppCookie { .. }));
        if !by_cookie && !self.cookies.is_empty() {
            self.cookies.clear();
        }
    }
}

impl PoolRuntime {
    /// A new pool.
    pub fn new(id: PoolId) -> Self {
        Self {
            id,
            choice: Mutex::new(Selection {
                sticky: Sticky {
                    addresses: Table::new(CAPACITY),
                    cookies: Table::new(CAPACITY),
                },
                queue: Queue::default(),
                current: Weak::new(),
            }),
            waiting: AtomicUsize::new(0),
            queued: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
        }
    }

    /// A member has set the application's cookie.
    pub fn learn(&self, key: CookieKey, member: MemberId) {
        let mut selection = self.lock();
        selection.sticky.cookies.set(key, member, Instant::now());
    }

    /// From now on the pool is configured so, or not at all: those who wait choose anew.
    pub(crate) fn follow(self: &Arc<Self>, view: Weak<PoolView>) {
        let mut selection = self.lock();
        selection.current = view;
        self.offer(&mut selection);
    }

    /// A place may be free: a connection ended, or a member came or went.
    pub(crate) fn changed(self: &Arc<Self>) {
        if self.waiting.load(SeqCst) > 0 {
            self.offer(&mut self.lock());
        }
    }

    /// How many wait for a place now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// How many had to wait so far.
    pub fn queued(&self) -> u64 {
        self.queued.load(Relaxed)
    }

    /// How many found the queue full.
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Relaxed)
    }

    /// How many waited for too long.
    pub fn timeouts(&self) -> u64 {
        self.timeouts.load(Relaxed)
    }

    /// Gives what is free to those who wait.
    fn offer(self: &Arc<Self>, selection: &mut Selection) {
        let Selection {
            sticky,
            queue,
            current,
        } = selection;
        if !queue.is_empty() {
            let view = current.upgrade();
            queue.offer(|waiter| self.serve(view.as_deref(), sticky, waiter));
        }
        self.waiting.store(queue.len(), SeqCst);
    }

    fn serve(
        self: &Arc<Self>,
        view: Option<&PoolView>,
        sticky: &mut Sticky,
        waiter: &mut Waiter,
    ) -> Offer {
        let Some(sender) = waiter.sender.take_if(|sender| !sender.is_closed()) else {
            return Offer::Taken; // it gave up
        };
        let pick = view.map_or(Pick::Nobody, |view| pick(view, sticky, &waiter.input()));
        let answer = match pick {
            Pick::Member(member, followed) => Some(MemberGuard::hold(self, member, followed)),
            Pick::Nobody => None,
            Pick::Full(lane) => {
                waiter.sender = Some(sender);
                // One whose member went away waits for another now, and keeps its turn.
                return if lane == waiter.lane {
                    Offer::NoPlace
                } else {
                    Offer::NotThis
                };
            }
        };
        if let Err(Some(mut guard)) = sender.send(answer) {
            // It gave up just now. The place is free for the next one, whom this loop asks.
            guard.pool = None;
        }
        Offer::Taken
    }

    fn lock(&self) -> MutexGuard<'_, Selection> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A chosen member; counts as one of its connections until it is dropped.
#[derive(Debug)]
pub struct MemberGuard {
    view: MemberView,
    followed: bool,
    /// Where others wait for its place; none while it must not be handed on.
    pool: Option<Arc<PoolRuntime>>,
}

impl MemberGuard {
    /// Takes a place that is not used yet.
    fn hold(pool: &Arc<PoolRuntime>, view: &MemberView, followed: bool) -> Self {
        view.state.hold();
        Self {
            view: view.clone(),
            followed,
            pool: Some(Arc::clone(pool)),
        }
    }

    /// Whether persistence chose it.
    pub fn followed(&self) -> bool {
        self.followed
    }

    /// Which.
    pub fn id(&self) -> MemberId {
        self.view.conf.id
    }
    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.view.conf.address
    }
    /// Configuration at the time of the choice.
    pub fn conf(&self) -> &Arc<MemberConf> {
        &self.view.conf
    }
    /// Counters and health.
    pub fn state(&self) -> &Arc<MemberState> {
        &self.view.state
    }
}

impl Drop for MemberGuard {
    fn drop(&mut self) {
        self.view.state.leave();
        if let Some(pool) = &self.pool {
            pool.changed();
        }
    }
}

/// For whom a member is chosen.
#[derive(Debug, Clone, Copy)]
pub struct SelectInput<'a> {
    /// The client's address and port.
    pub client: SocketAddr,
    /// Members that were tried in vain for this client.
    pub exclude: &'a [MemberId],
    /// What ties the client to a member.
    pub token: Token,
}

/// What came of [`select`].
#[derive(Debug)]
pub enum Selected {
    /// A member, counted.
    Member(MemberGuard),
    /// All who could serve are at their limits.
    Wait(Turn),
    /// They are, and as many wait as may.
    QueueFull,
    /// No member can serve.
    Nobody,
}

impl Selected {
    fn counted(guard: Option<MemberGuard>) -> Self {
        guard.map_or(Self::Nobody, |guard| {
            guard.state().count();
            Self::Member(guard)
        })
    }
}

/// Chooses a member of `pool` and counts the connection.
pub fn select(pool: &PoolView, input: &SelectInput<'_>) -> Selected {
    if !pool.conf.enabled || pool.is_down() {
        return Selected::Nobody;
    }
    let runtime = &pool.runtime;
    let mut selection = runtime.lock();
    let lane = if selection.queue.is_empty() {
        match pick(pool, &mut selection.sticky, input) {
            Pick::Member(member, followed) => {
                return Selected::counted(Some(MemberGuard::hold(runtime, member, followed)));
            }
            Pick::Nobody => return Selected::Nobody,
            Pick::Full(lane) => lane,
        }
    } else {
        tie(pool, &mut selection.sticky, input) // others were here before
    };
    let (sender, receiver) = oneshot::channel();
    let waiter = Waiter {
        client: input.client,
        exclude: input.exclude.into(),
        token: input.token,
        lane,
        sender: Some(sender),
    };
    let ticket = selection.queue.join(lane, waiter);
    let mut turn = Turn {
        pool: Arc::clone(runtime),
        lane,
        ticket,
        receiver,
        ahead: selection.queue.len() - 1,
        settled: false,
    };
    // Whoever ends from now on sees that somebody waits; what became free before is seen by the offer.
    runtime.waiting.store(selection.queue.len(), SeqCst);
    runtime.offer(&mut selection);
    if let Ok(answer) = turn.receiver.try_recv() {
        turn.settled = true;
        return Selected::counted(answer);
    }
    if selection.queue.is_over(pool.conf.queue.limit) {
        drop(selection); // which giving up the turn needs
        runtime.overflows.fetch_add(1, Relaxed);
        return Selected::QueueFull;
    }
    runtime.queued.fetch_add(1, Relaxed);
    Selected::Wait(turn)
}

/// One in the queue.
#[derive(Debug)]
struct Waiter {
    client: SocketAddr,
    exclude: Box<[MemberId]>,
    token: Token,
    lane: Lane,
    /// Where the answer goes.
    sender: Option<oneshot::Sender<Option<MemberGuard>>>,
}

impl Waiter {
    fn input(&self) -> SelectInput<'_> {
        SelectInput {
            client: self.client,
            exclude: &self.exclude,
            token: self.token,
        }
    }
}

/// A turn in the queue; given up on drop.
#[derive(Debug)]
pub struct Turn {
    pool: Arc<PoolRuntime>,
    lane: Lane,
    ticket: Ticket,
    receiver: oneshot::Receiver<Option<MemberGuard>>,
    /// How many were before it.
    ahead: usize,
    settled: bool,
}

/// Why waiting was in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnError {
    /// No place in time.
    Late,
    /// No member can serve any more.
    Nobody,
}

impl Turn {
    /// How many were before it when it came.
    pub fn ahead(&self) -> usize {
        self.ahead
    }

    /// Whether it waits for one member, not for any.
    pub fn is_for_one(&self) -> bool {
        self.lane.is_some()
    }

    /// Waits for a place, for `timeout` at most (zero: for ever). Cancel-safe: the turn is given up.
    pub async fn wait(mut self, timeout: Duration) -> Result<MemberGuard, TurnError> {
        let answer = if timeout.is_zero() {
            (&mut self.receiver).await
        } else {
            match tokio::time::timeout(timeout, &mut self.receiver).await {
                Ok(answer) => answer,
                Err(_elapsed) => {
                    self.pool.timeouts.fetch_add(1, Relaxed);
                    return Err(TurnError::Late);
                }
            }
        };
        self.settled = true;
        let guard = answer.ok().flatten().ok_or(TurnError::Nobody)?;
        guard.state().count();
        Ok(guard)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let mut selection = self.pool.lock();
        drop(selection.queue.leave(self.lane, self.ticket));
        self.pool.waiting.store(selection.queue.len(), SeqCst);
        // A place that was given just now is handed on when the receiver goes, which is after the lock.
    }
}

enum Pick<'a> {
    /// And whether persistence says so.
    Member(&'a MemberView, bool),
    /// Where to wait.
    Full(Lane),
    Nobody,
}

/// Chooses, and remembers whom the client has.
fn pick<'a>(pool: &'a PoolView, sticky: &mut Sticky, input: &SelectInput<'_>) -> Pick<'a> {
    if !pool.conf.enabled || pool.is_down() {
        return Pick::Nobody;
    }
    let (is_known, member) = known(pool, sticky, input);
    match member {
        Some(member) if member.has_place() => return Pick::Member(member, true),
        Some(member) => return Pick::Full(Some(member.conf.id)),
        None => {}
    }
    let member = match balance::choose(pool.conf.algorithm, &pool.members, &balanced(pool, input)) {
        Choice::Member(member) => member,
        Choice::Full(member) => return Pick::Full(member.map(|m| m.conf.id)),
        Choice::Nobody => return Pick::Nobody,
    };
    match (&pool.conf.persistence, input.token) {
        (Some(Persistence::SourceIp { .. }), _) => {
            let client = input.client.ip().to_canonical();
            sticky.addresses.set(client, member.conf.id, Instant::now());
        }
        // Its member is gone: the session moves. What no member has set makes no entry.
        (Some(_), Token::Cookie(key)) if is_known => {
            sticky.cookies.set(key, member.conf.id, Instant::now());
        }
        _ => {}
    }
    Pick::Member(member, false)
}

/// In whose lane a client like this one waits.
fn tie(pool: &PoolView, sticky: &mut Sticky, input: &SelectInput<'_>) -> Lane {
    let (_, member) = known(pool, sticky, input);
    let by_hash = || balance::tied(pool.conf.algorithm, &pool.members, &balanced(pool, input));
    member.or_else(by_hash).map(|member| member.conf.id)
}

/// Whether persistence knows a client, and the member that it is tied to, if that can serve.
fn known<'a>(
    pool: &'a PoolView,
    sticky: &mut Sticky,
    input: &SelectInput<'_>,
) -> (bool, Option<&'a MemberView>) {
    let persistence = pool.conf.persistence.as_ref();
    sticky.settle(persistence);
    let known = match (persistence, input.token) {
        (Some(Persistence::SourceIp { timeout }), _) => {
            let (client, timeout) = (input.client.ip().to_canonical(), timeout.duration());
            sticky.addresses.touch(client, Instant::now(), timeout)
        }
        (Some(Persistence::HttpCookie), Token::Member(id)) => Some(id),
        // As Octavia configures HAProxy, entries do not expire; the bound alone removes them.
        (Some(Persistence::AppCookie { .. }), Token::Cookie(key)) => {
            sticky.cookies.touch(key, Instant::now(), Duration::ZERO)
        }
        _ => None,
    };
    let serves = |m: &&MemberView| {
        Some(m.conf.id) == known && m.state.serves(&m.conf) && !input.exclude.contains(&m.conf.id)
    };
    let member = known.and_then(|_| pool.members.iter().find(serves));
    (known.is_some(), member)
}

fn balanced<'a>(pool: &PoolView, input: &SelectInput<'a>) -> balance::Input<'a> {
    balance::Input {
        client: input.client,
        exclude: input.exclude,
        // The clock is read only where something depends on it.
        slow_start: pool.conf.slow_start.map(|over| SlowStart {
            over,
            now: uptime(),
        }),
    }
}
