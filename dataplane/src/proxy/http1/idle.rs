//! Connections that wait for their client's next request, so that a drain can end them at once.

use slab::Slab;
use std::cell::RefCell;
use std::task::{Context, Waker};

/// Idle client connections of one worker.
#[derive(Debug, Default)]
pub struct IdleClients {
    wakers: RefCell<Slab<Waker>>,
}

impl IdleClients {
    /// Wakes all of them: each looks whether it shall end.
    pub(crate) fn wake_all(&self) {
        for (_, waker) in self.wakers.borrow().iter() {
            waker.wake_by_ref();
        }
    }
}

/// A place among the idle ones, taken when a wait really begins and left on drop.
#[derive(Debug)]
pub(super) struct IdlePlace<'a> {
    clients: &'a IdleClients,
    key: Option<usize>,
}

impl<'a> IdlePlace<'a> {
    pub(super) const fn new(clients: &'a IdleClients) -> Self {
        Self { clients, key: None }
    }

    /// The wait goes on. A connection is served by one task, so its first waker stays valid.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        let mut wakers = self.clients.wakers.borrow_mut();
        self.key
            .get_or_insert_with(|| wakers.insert(cx.waker().clone()));
    }
}

impl Drop for IdlePlace<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.clients.wakers.borrow_mut().try_remove(key);
        }
    }
}
