//! One worker: a thread with a current-thread runtime that accepts and proxies connections.

use crate::io::{BufferPool, Conn, ConnectError};
use crate::runtime::Shared;
use crate::upstream::pool::Pool;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What connections on one worker share.
#[derive(Debug)]
pub struct WorkerShared {
    /// Process-global state.
    pub shared: Arc<Shared>,
    /// Which worker, 0-based.
    pub index: usize,
    /// Buffers that only active connections hold.
    pub buffers: Rc<BufferPool>,
    /// Idle keep-alive connections to members.
    pub members: Pool,
}

impl WorkerShared {
    /// Connects to a member; see [`crate::io::connect`].
    pub async fn connect(
        &self,
        address: SocketAddr,
        timeout: Duration,
    ) -> Result<Conn, ConnectError> {
        let vips = self.shared.vips();
        crate::io::connect(address, timeout, &vips).await
    }
}
