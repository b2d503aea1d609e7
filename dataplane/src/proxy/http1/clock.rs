//! The one timer of a client connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// A deadline that moves with nearly every byte. The runtime's timer is touched only when it fires
/// or when the deadline comes nearer: moving it further away just notes the time.
#[derive(Debug, Default)]
pub(super) struct Clock {
    sleep: Option<Pin<Box<Sleep>>>,
    deadline: Option<Instant>,
}

impl Clock {
    /// Fires after `after` from now; zero is never.
    pub(super) fn set(&mut self, after: Duration) {
        if after.is_zero() {
            self.deadline = None;
            return;
        }
        let deadline = Instant::now() + after;
        self.deadline = Some(deadline);
        if let Some(sleep) = &mut self.sleep {
            if deadline < sleep.deadline() {
                sleep.as_mut().reset(deadline);
            }
        } else {
            self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline)));
        }
    }

    /// Ready when the deadline has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Some(deadline), Some(sleep)) = (self.deadline, &mut self.sleep) else {
            return Poll::Pending;
        };
        loop {
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
