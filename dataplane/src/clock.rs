//! The deadline of a client connection, and the list of all connections of a worker.
//!
//! A deadline moves with nearly every byte, and hardly any is ever reached. So long ones have no timer each: a worker
//! looks over all of them ten times a second, which costs less, and an idle connection holds 24 bytes for it. Through the
//! same list all are woken when some shall end, so that none waits for that by itself.

use crate::runtime::uptime;
use pin_project_lite::pin_project;
use slab::Slab;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// From here on a deadline may be late by a sweep; shorter ones have a timer of the runtime.
const COARSE: Duration = Duration::from_secs(2);

/// Milliseconds of the process's clock. It wraps after 49 days; no time-out is longer than 24.
#[allow(clippy::cast_possible_truncation, reason = "it shall wrap")]
pub(crate) fn now() -> u32 {
    uptime().as_millis() as u32
}

/// Whether `deadline` is behind `now`: by less than half a turn of the clock.
const fn is_over(deadline: u32, now: u32) -> bool {
    now.wrapping_sub(deadline) < u32::MAX / 2
}

/// Client connections of one worker.
#[derive(Debug, Default)]
pub struct Timers(RefCell<Slab<Timer>>);

#[derive(Debug)]
struct Timer {
    /// Of the task that serves the connection.
    waker: Waker,
    /// By [`now`]; none is woken only with all.
    deadline: Option<u32>,
}

/// A connection's place in [`Timers`].
#[derive(Debug, Clone, Copy)]
pub struct Key(u32);

impl Key {
    fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Timers {
    /// A place for a connection, until [`Self::leave`].
    pub(crate) fn enter(&self) -> Key {
        let key = self.0.borrow_mut().insert(Timer {
            waker: Waker::noop().clone(),
            deadline: None,
        });
        // Descriptors run out long before.
        Key(u32::try_from(key).unwrap_or(u32::MAX))
    }

    /// Who is woken for it.
    pub(crate) fn wakes(&self, key: Key, waker: &Waker) {
        if let Some(timer) = self.0.borrow_mut().get_mut(key.index()) {
            timer.waker.clone_from(waker);
        }
    }

    /// The connection has ended.
    pub(crate) fn leave(&self, key: Key) {
        let timer = self.0.borrow_mut().try_remove(key.index());
        drop(timer); // with no borrow held: it may be the last that knows of a task
    }

    /// What `future` gives; none when it takes longer than `after` (zero: as long as it likes). Must be polled by
    /// one task alone. A timer of the runtime costs more, and now and then a system call.
    pub(crate) fn within<F: Future>(&self, after: Duration, future: F) -> Within<'_, F> {
        Within {
            future,
            timers: self,
            after,
            limit: None,
        }
    }

    /// Wakes all of them: each looks whether it shall end.
    pub(crate) fn wake_all(&self) {
        for (_, timer) in self.0.borrow().iter() {
            timer.waker.wake_by_ref();
        }
    }

    /// Wakes those whose deadline is over, once each. Called ten times a second.
    pub(crate) fn sweep(&self) {
        let mut timers = self.0.borrow_mut();
        if timers.is_empty() {
            return;
        }
        let now = now();
        for (_, timer) in timers.iter_mut() {
            if timer.deadline.is_some_and(|at| is_over(at, now)) {
                timer.deadline = None;
                timer.waker.wake_by_ref();
            }
        }
    }
}

pin_project! {
    /// A future, or the end of its time: see [`Timers::within`].
    pub(crate) struct Within<'a, F> {
        #[pin]
        future: F,
        timers: &'a Timers,
        after: Duration,
        limit: Option<Limit<'a>>,
    }
}

/// The deadline of a [`Within`] that waits.
struct Limit<'a> {
    timers: &'a Timers,
    clock: Clock,
}

impl Drop for Limit<'_> {
    fn drop(&mut self) {
        self.timers.leave(self.clock.key);
    }
}

impl<F: Future> Future for Within<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(outcome) = this.future.poll(cx) {
            return Poll::Ready(Some(outcome));
        }
        let timers = *this.timers;
        let limit = this.limit.get_or_insert_with(|| {
            let mut clock = Clock::new(timers.enter());
            clock.set(*this.after);
            timers.wakes(clock.key, cx.waker());
            Limit { timers, clock }
        });
        limit.clock.poll(timers, cx).map(|()| None)
    }
}

/// When a connection's wait is over.
#[derive(Debug)]
pub struct Clock {
    /// Of short time-outs.
    short: Option<Box<Short>>,
    deadline: Option<u32>,
    key: Key,
}

#[derive(Debug)]
struct Short {
    sleep: Pin<Box<Sleep>>,
    deadline: Instant,
}

impl Clock {
    /// Of the connection with this place. Its task is the one that is woken.
    pub(crate) const fn new(key: Key) -> Self {
        Self {
            short: None,
            deadline: None,
            key,
        }
    }

    /// Fires after `after` from now; zero is never.
    pub(crate) fn set(&mut self, after: Duration) {
        self.deadline = None;
        if after.is_zero() {
            self.short = None;
        } else if after < COARSE {
            let deadline = Instant::now() + after;
            match &mut self.short {
                // Moving it further away just notes the time.
                Some(short) => {
                    short.deadline = deadline;
                    if deadline < short.sleep.deadline() {
                        short.sleep.as_mut().reset(deadline);
                    }
                }
                None => {
                    let sleep = Box::pin(tokio::time::sleep_until(deadline));
                    self.short = Some(Box::new(Short { sleep, deadline }));
                }
            }
        } else {
            self.short = None;
            let ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX / 2 - 1);
            // A millisecond has begun already.
            self.deadline = Some(now().wrapping_add(ms).wrapping_add(1));
        }
    }

    /// Ready when the deadline is over. Until then a drain wakes the task, too.
    pub(crate) fn poll(&mut self, timers: &Timers, cx: &mut Context<'_>) -> Poll<()> {
        if self.note(timers) {
            return Poll::Ready(());
        }
        let Some(short) = &mut self.short else {
            return Poll::Pending;
        };
        loop {
            ready!(short.sleep.as_mut().poll(cx));
            if Instant::now() >= short.deadline {
                return Poll::Ready(());
            }
            let deadline = short.deadline;
            short.sleep.as_mut().reset(deadline);
        }
    }

    /// Puts a long deadline where the sweep sees it. True: it is over.
    fn note(&self, timers: &Timers) -> bool {
        let mut timers = timers.0.borrow_mut();
        let timer = timers.get_mut(self.key.index());
        // The clock is read when the sweep has found it over, which takes the deadline away, and when it is new there.
        let is_there = timer.as_ref().is_some_and(|t| t.deadline.is_some());
        let over = !is_there && self.deadline.is_some_and(|at| is_over(at, now()));
        if let Some(timer) = timer {
            timer.deadline = self.deadline.filter(|_| !over);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicU32);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_sweep_wakes_whose_time_is_over_and_once() {
        let timers = Timers::default();
        let count = Arc::new(Count::default());
        let woken = || count.0.load(Relaxed);
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let key = timers.enter();
        timers.wakes(key, &waker);
        let mut clock = Clock::new(key);
        // The longest time-out is not behind us.
        clock.set(Duration::from_millis(2_073_600_000));
        assert!(clock.poll(&timers, &mut cx).is_pending());
        timers.sweep();
        assert_eq!(woken(), 0);
        assert!(clock.poll(&timers, &mut cx).is_pending());
        // As if it were: woken once, ready for as long as it is not set anew.
        let past = now().wrapping_sub(5);
        clock.deadline = Some(past);
        timers
            .0
            .borrow_mut()
            .iter_mut()
            .for_each(|(_, timer)| timer.deadline = Some(past));
        timers.sweep();
        timers.sweep();
        assert_eq!(woken(), 1);
        assert!(clock.poll(&timers, &mut cx).is_ready());
        assert!(clock.poll(&timers, &mut cx).is_ready());
        timers.sweep();
        assert_eq!(woken(), 1);
        clock.set(Duration::from_secs(5));
        assert!(clock.poll(&timers, &mut cx).is_pending());
        timers.sweep();
        assert_eq!(woken(), 1);
        // Never; a drain wakes it nevertheless.
        clock.set(Duration::ZERO);
        assert!(clock.poll(&timers, &mut cx).is_pending());
        timers.wake_all();
        assert_eq!(woken(), 2);
        assert_eq!(timers.0.borrow().len(), 1, "one place for all its waits");
        timers.leave(key);
        assert!(timers.0.borrow().is_empty());
    }

    #[test]
    fn a_limit_holds_a_place_only_while_its_future_waits() {
        let timers = Timers::default();
        let mut cx = Context::from_waker(Waker::noop());
        let held = || timers.0.borrow().len();
        let long = Duration::from_secs(60);
        let mut ready = std::pin::pin!(timers.within(long, std::future::ready(7)));
        assert_eq!(ready.as_mut().poll(&mut cx), Poll::Ready(Some(7)));
        assert_eq!(held(), 0);
        {
            let mut waits = std::pin::pin!(timers.within(long, std::future::pending::<()>()));
            assert!(waits.as_mut().poll(&mut cx).is_pending());
            assert!(waits.as_mut().poll(&mut cx).is_pending());
            assert_eq!(held(), 1);
        }
        assert_eq!(held(), 0, "given back");
        let mut late = std::pin::pin!(timers.within(long, std::future::pending::<()>()));
        assert!(late.as_mut().poll(&mut cx).is_pending());
        // As if a minute had passed.
        let mut limit = late.as_mut().project().limit.take().unwrap();
        limit.clock.deadline = Some(now().wrapping_sub(1));
        *late.as_mut().project().limit = Some(limit);
        assert!(late.as_mut().poll(&mut cx).is_pending());
        timers.sweep();
        assert_eq!(late.as_mut().poll(&mut cx), Poll::Ready(None));
    }

    #[test]
    fn the_process_clock_may_wrap() {
        assert!(is_over(10, 10) && is_over(u32::MAX - 5, 3));
        assert!(!is_over(11, 10) && !is_over(3, u32::MAX - 5));
    }
}
