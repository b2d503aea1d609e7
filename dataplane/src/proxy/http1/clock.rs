//! The deadline of a client connection, and the list of all that a worker's connections have.
//!
//! A deadline moves with nearly every byte, and hardly any is ever reached. So long ones have no timer each: a worker
//! looks over all of them ten times a second, which costs less, and an idle connection holds 32 bytes for it.

use crate::runtime::uptime;
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
pub(super) fn now() -> u32 {
    uptime().as_millis() as u32
}

/// Whether `deadline` is behind `now`: by less than half a turn of the clock.
const fn is_over(deadline: u32, now: u32) -> bool {
    now.wrapping_sub(deadline) < u32::MAX / 2
}

/// Client connections of one worker that wait or have waited for something.
#[derive(Debug, Default)]
pub struct Timers(RefCell<Slab<Timer>>);

#[derive(Debug)]
struct Timer {
    /// A connection is served by one task, so its first waker stays valid.
    waker: Waker,
    /// By [`now`]; none waits for the drain alone.
    deadline: Option<u32>,
}

impl Timers {
    /// Wakes all of them, for a drain: each looks whether it shall end.
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

/// When a connection's wait is over.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Of short time-outs.
    short: Option<Box<Short>>,
    deadline: Option<u32>,
    /// Its place in [`Timers`], plus one.
    key: u32,
}

#[derive(Debug)]
struct Short {
    sleep: Pin<Box<Sleep>>,
    deadline: Instant,
}

impl Clock {
    /// Fires after `after` from now; zero is never.
    pub(super) fn set(&mut self, after: Duration) {
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
    pub(super) fn poll(&mut self, timers: &Timers, cx: &mut Context<'_>) -> Poll<()> {
        self.note(timers, cx);
        if let Some(deadline) = self.deadline {
            // The clock is read when the sweep has found it over, which takes the deadline away.
            let mut timers = timers.0.borrow_mut();
            let timer = self.index().and_then(|key| timers.get_mut(key));
            let is_swept = timer.is_none_or(|timer| timer.deadline.is_none());
            return match is_swept && is_over(deadline, now()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            };
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

    /// Puts the deadline where the sweep sees it.
    fn note(&mut self, timers: &Timers, cx: &Context<'_>) {
        let mut timers = timers.0.borrow_mut();
        match self.index().and_then(|key| timers.get_mut(key)) {
            Some(timer) if timer.deadline.is_none() && self.deadline.is_some() => {
                // Swept, or set anew: what is over stays as the sweep left it.
                timer.deadline = self.deadline.filter(|at| !is_over(*at, now()));
            }
            Some(timer) => timer.deadline = self.deadline,
            None => {
                let key = timers.insert(Timer {
                    waker: cx.waker().clone(),
                    deadline: self.deadline,
                });
                self.key = u32::try_from(key + 1).unwrap_or(0);
            }
        }
    }

    fn index(&self) -> Option<usize> {
        usize::try_from(self.key).ok()?.checked_sub(1)
    }

    /// The connection ends.
    pub(super) fn leave(&mut self, timers: &Timers) {
        if let Some(key) = self.index() {
            timers.0.borrow_mut().try_remove(key);
        }
        self.key = 0;
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
        let mut clock = Clock::default();
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
        clock.leave(&timers);
        assert!(timers.0.borrow().is_empty());
    }

    #[test]
    fn the_process_clock_may_wrap() {
        assert!(is_over(10, 10) && is_over(u32::MAX - 5, 3));
        assert!(!is_over(11, 10) && !is_over(3, u32::MAX - 5));
    }
}
