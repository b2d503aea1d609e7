//! The one module behind which all socket calls of the data path sit, so that another engine can
//! replace readiness without touching a proxy.
//!
//! Reads are readiness-first: wait with [`Conn::readable`] while holding nothing, then take a
//! [`Buffer`] from the worker's pool, read, and give it back when it is drained. An idle connection
//! holds no buffer and no pipe.

mod buffer;
mod conn;
mod connect;
mod pipe;
mod relay;
mod shortage;
mod sys;
mod tls_stream;

pub use buffer::{BUFFER_SIZE, Buffer, BufferPool};
pub use conn::{Conn, TlsInfo};
pub use connect::{ConnectError, connect};
pub(crate) use connect::{Sources, source};
pub use pipe::{PIPE_SIZE, PIPES, PipePool};
pub(crate) use relay::Flow;
pub use relay::{IdleTimeouts, RelayError, Side, TunnelEnd, tunnel};
pub(crate) use shortage::is_own;
pub(crate) use tls_stream::TlsStream;
