//! One worker: a thread with a current-thread runtime that accepts and proxies connections.

use crate::io::BufferPool;
use crate::runtime::Shared;
use std::rc::Rc;
use std::sync::Arc;

/// What connections on one worker share.
#[derive(Debug)]
pub struct WorkerShared {
    /// Process-global state.
    pub shared: Arc<Shared>,
    /// Which worker, 0-based.
    pub index: usize,
    /// Buffers that only active connections hold.
    pub buffers: Rc<BufferPool>,
}
