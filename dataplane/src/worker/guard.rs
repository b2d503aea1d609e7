//! What is around a connection, and is one with its task: thousands are idle, and each block of memory less
//! counts for each of them.

use super::{WorkerShared, said};
use crate::clock::Key;
use crate::runtime::{ClientPlace, Place};
use pin_project_lite::pin_project;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Who gets the future of a connection.
pub(super) trait Taker {
    type Taken;

    fn take<F: Future<Output = ()> + 'static>(self, connection: F) -> Self::Taken;
}

/// Puts it in a box.
pub(super) struct Boxed;

impl Taker for Boxed {
    type Taken = Pin<Box<dyn Future<Output = ()>>>;

    fn take<F: Future<Output = ()> + 'static>(self, connection: F) -> Self::Taken {
        Box::pin(connection)
    }
}

/// What a connection holds while it is served, whatever it speaks. Makes a task of it.
#[derive(Debug)]
pub(super) struct Guard {
    place: Place,
    /// Given back with the rest.
    _client: Option<Box<ClientPlace>>,
    peer: SocketAddr,
    waits: Waits,
    /// Those of the listener when the task began.
    closings: Option<u32>,
}

/// A connection's place among those that its worker wakes; given back on drop.
#[derive(Debug)]
struct Waits(Rc<WorkerShared>, Key);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.timers.leave(self.1);
    }
}

impl Guard {
    pub(super) fn new(
        worker: Rc<WorkerShared>,
        place: Place,
        client: Option<Box<ClientPlace>>,
        peer: SocketAddr,
    ) -> Self {
        let key = worker.timers.enter();
        Self {
            place,
            _client: client,
            peer,
            waits: Waits(worker, key),
            closings: None,
        }
    }

    /// By which the connection's task is woken.
    pub(super) fn key(&self) -> Key {
        self.waits.1
    }

    /// Runs a connection to its end: its own, that of its listener, or a panic, which ends nothing else.
    pub(super) fn around<F: Future<Output = ()>>(self, connection: F) -> impl Future<Output = ()> {
        Guarded {
            connection,
            guard: self,
        }
    }
}

impl Taker for Guard {
    type Taken = ();

    fn take<F: Future<Output = ()> + 'static>(self, connection: F) {
        tokio::task::spawn_local(self.around(connection));
    }
}

pin_project! {
    struct Guarded<F> {
        #[pin]
        connection: F,
        guard: Guard,
    }
}

impl<F: Future<Output = ()>> Future for Guarded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let guard = this.guard;
        let listener = guard.place.listener();
        let closings = listener.closings();
        match guard.closings {
            Some(before) if before != closings => return Poll::Ready(()),
            Some(_) => {}
            None => {
                guard.closings = Some(closings);
                // A task's wakers are all alike: the first one stays valid.
                guard.waits.0.timers.wakes(guard.waits.1, cx.waker());
            }
        }
        let polled = AssertUnwindSafe(|| this.connection.poll(cx));
        match catch_unwind(polled) {
            Ok(polled) => polled,
            Err(panic) => {
                guard.waits.0.shared.count_panic();
                let (id, reason) = (listener.id, said(&*panic));
                tracing::error!(listener.id = %id, client.addr = %guard.peer, reason, "connection ended by a panic");
                Poll::Ready(())
            }
        }
    }
}
