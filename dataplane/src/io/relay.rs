//! Moving bytes from one connection to another: `splice(2)` through a pooled pipe when both are
//! plain sockets and much is coming, else through a pooled buffer. A direction holds pipe or buffer only
//! while bytes are in it, so back-pressure costs at most one pipe.

use super::pipe::HeldPipe;
use super::{BUFFER_SIZE, Buffer, Conn};
use crate::clock::Clock;
use crate::worker::WorkerShared;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;

/// Which connection an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that is read from.
    From,
    /// The one that is written to.
    To,
}

/// A relay ended early.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// A connection failed.
    #[error("{side:?} side failed")]
    Io {
        /// In the direction of the relay; in a tunnel `From` is the client.
        side: Side,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No byte moved for this long.
    #[error("idle for {0:?}")]
    Idle(Duration),
}

/// How long a tunnel may be idle; zero is for ever. Every byte in either direction counts as life of
/// both sides, as a byte read from one is written to the other.
#[derive(Debug, Clone, Copy)]
pub struct IdleTimeouts {
    /// Octavia's timeout_client_data.
    pub client: Duration,
    /// Octavia's timeout_member_data.
    pub member: Duration,
}

impl IdleTimeouts {
    /// Whether the client's time-out is the one that ends an idle tunnel.
    pub fn client_is_first(self) -> bool {
        self.shortest() == Some(self.client)
    }

    fn shortest(self) -> Option<Duration> {
        [self.client, self.member]
            .into_iter()
            .filter(|d| !d.is_zero())
            .min()
    }
}

/// How a tunnel ended.
#[derive(Debug)]
pub struct TunnelEnd {
    /// Bytes from client to member.
    pub up: u64,
    /// Bytes from member to client.
    pub down: u64,
    /// Why it ended early, if it did.
    pub result: Result<(), RelayError>,
}

/// Moves bytes both ways until both directions ended; the end of one is passed on as the end of the
/// write direction of the other side, a reset as a reset. `clock` is that of the client's connection.
pub async fn tunnel(
    client: &mut Conn,
    member: &mut Conn,
    idle: IdleTimeouts,
    clock: &mut Clock,
    worker: &WorkerShared,
) -> TunnelEnd {
    let mut up = Flow::new(u64::MAX);
    let mut down = Flow::new(u64::MAX);
    let idle = idle.shortest().unwrap_or(Duration::ZERO);
    clock.set(idle);
    let result = poll_fn(|cx| {
        let before = (up.moved, down.moved);
        let up_done = match up.poll_half(cx, client, member, worker) {
            Ok(poll) => poll.is_ready(),
            Err(error) => return Poll::Ready(Err(error)),
        };
        down.source_reset |= up.receiver_reset;
        let down_done = match down.poll_half(cx, member, client, worker) {
            Ok(poll) => poll.is_ready(),
            Err(error) => return Poll::Ready(Err(error.swapped())),
        };
        up.source_reset |= down.receiver_reset;
        if up_done && down_done {
            return Poll::Ready(Ok(()));
        }
        if before != (up.moved, down.moved) {
            clock.set(idle);
        }
        let late = clock.poll(&worker.timers, cx);
        late.map(|()| Err(RelayError::Idle(idle)))
    })
    .await;
    // A stream that was cut must not look whole: without the proxy the other side would see it, too.
    match &result {
        Err(RelayError::Io {
            side: Side::From, ..
        }) => member.reset_on_close(),
        Err(RelayError::Io { side: Side::To, .. }) => client.reset_on_close(),
        Err(RelayError::Idle(_)) | Ok(()) => {}
    }
    TunnelEnd {
        up: up.moved,
        down: down.moved,
        result,
    }
}

impl RelayError {
    fn receiver_is_gone(&self) -> bool {
        let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        matches!(self, Self::Io { side: Side::To, source } if gone.contains(&source.kind()))
    }

    fn is_reset(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::ConnectionReset)
    }

    fn swapped(self) -> Self {
        match self {
            Self::Io { side, source } => Self::Io {
                side: match side {
                    Side::From => Side::To,
                    Side::To => Side::From,
                },
                source,
            },
            idle => idle,
        }
    }
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Flow {
    at_most: u64,
    /// Bytes that reached the other socket.
    moved: u64,
    holds: Holds,
    /// Much is coming: the last read filled what it was given. A pipe moves little at the price of much, and
    /// does not know that it emptied the socket, which costs a call that says so.
    bulk: bool,
    end: End,
    /// The receiver reset the connection. The kernel says so once, here to the writer: whoever reads
    /// from it would take it for a proper end.
    receiver_reset: bool,
    /// What the other direction of the tunnel was told of our source.
    source_reset: bool,
}

/// Where bytes are that were read and not yet written.
#[derive(Debug)]
enum Holds {
    Nothing,
    Pipe(HeldPipe),
    Buffer {
        buffer: Buffer,
        at: usize,
        end: usize,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Open,
    /// The source ended; what is held goes out, then the write direction is ended.
    Eof,
    Done,
}

impl Flow {
    /// Bytes that reached the other socket.
    pub(crate) fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether the source ended.
    pub(crate) fn at_eof(&self) -> bool {
        self.end != End::Open
    }

    /// Whether it waits for the receiver.
    pub(crate) fn holds(&self) -> bool {
        !matches!(self.holds, Holds::Nothing)
    }

    /// Moves up to `at_most` bytes.
    pub(crate) fn new(at_most: u64) -> Self {
        Self {
            at_most,
            moved: 0,
            holds: Holds::Nothing,
            bulk: at_most < u64::MAX, // a length that is known is used for long bodies alone
            end: End::Open,
            receiver_reset: false,
            source_reset: false,
        }
    }

    /// Like [`Self::poll`]; ends the write direction of `to` at the end of `from`.
    fn poll_half(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Conn,
        to: &mut Conn,
        worker: &WorkerShared,
    ) -> Result<Poll<()>, RelayError> {
        if self.end == End::Done {
            return Ok(Poll::Ready(()));
        }
        match self.poll(cx, from, to, worker) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Err(error)) if error.receiver_is_gone() => {
                // It takes no more, but what it said before may still be on its way to the other
                // side: that direction ends by itself.
                self.holds = Holds::Nothing;
                self.end = End::Done;
                self.receiver_reset = error.is_reset();
                return Ok(Poll::Ready(()));
            }
            Poll::Ready(result) => result?,
        }
        if self.source_reset {
            let source = io::ErrorKind::ConnectionReset.into();
            let side = Side::From;
            return Err(RelayError::Io { side, source });
        }
        match to.poll_shutdown(cx) {
            Poll::Pending => Ok(Poll::Pending),
            // The other side may have gone away completely: nothing is lost by it.
            Poll::Ready(_) => {
                self.end = End::Done;
                Ok(Poll::Ready(()))
            }
        }
    }

    /// Ready when all was moved, or the source ended and everything before is in the other socket.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Conn,
        to: &mut Conn,
        worker: &WorkerShared,
    ) -> Poll<Result<(), RelayError>> {
        let failed = |side| move |source| RelayError::Io { side, source };
        loop {
            ready!(self.poll_out(cx, to, worker)).map_err(failed(Side::To))?;
            let left = self.at_most - self.moved;
            if self.end != End::Open || left == 0 {
                return to.poll_flush(cx).map_err(failed(Side::To));
            }
            // What TLS still keeps must not wait for more to come.
            if let Poll::Ready(Err(error)) = to.poll_flush(cx) {
                return Poll::Ready(Err(failed(Side::To)(error)));
            }
            ready!(from.poll_readable(cx)).map_err(failed(Side::From))?;
            match ready!(self.fill(cx, from, to, left, worker)) {
                Ok(0) => self.end = End::Eof,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(failed(Side::From)(error))),
            }
        }
    }

    /// Reads once into a pipe or a buffer.
    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Conn,
        to: &Conn,
        left: u64,
        worker: &WorkerShared,
    ) -> Poll<io::Result<usize>> {
        let pipes = &worker.shared.pipes;
        if self.bulk
            && let (Some(socket), Some(_)) = (from.plain(), to.plain())
            && let Some(mut pipe) = pipes.take()
        {
            let len = usize::try_from(left).unwrap_or(usize::MAX);
            let bytes = socket.try_io(Interest::READABLE, || pipe.fill(socket.as_fd(), len))?;
            from.count_in(bytes);
            self.bulk = bytes >= BUFFER_SIZE;
            if bytes > 0 {
                self.holds = Holds::Pipe(pipe);
            }
            return Poll::Ready(Ok(bytes));
        }
        let mut buffer = worker.buffers.take();
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_SIZE);
        let end = ready!(from.poll_read(cx, &mut buffer[..len]))?;
        self.bulk = end == BUFFER_SIZE;
        if end > 0 {
            self.holds = Holds::Buffer { buffer, at: 0, end };
        }
        Poll::Ready(Ok(end))
    }

    /// Writes everything that is held.
    fn poll_out(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Conn,
        worker: &WorkerShared,
    ) -> Poll<io::Result<()>> {
        let pipes = &worker.shared.pipes;
        loop {
            match &mut self.holds {
                Holds::Nothing => return Poll::Ready(Ok(())),
                Holds::Pipe(pipe) => {
                    let Some(socket) = to.plain() else {
                        return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
                    };
                    match socket.try_io(Interest::WRITABLE, || pipe.drain(socket.as_fd())) {
                        Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        Ok(n) => {
                            to.count_out(n);
                            self.moved += n as u64;
                            if pipe.holds() == 0 {
                                self.holds = Holds::Nothing;
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            ready!(socket.poll_write_ready(cx))?;
                        }
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
                Holds::Buffer { buffer, at, end } => {
                    let part = IoSlice::new(&buffer[*at..*end]);
                    let n = ready!(to.poll_write_vectored(cx, &[part]))?;
                    if n == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    pipes.count_copied(n);
                    self.moved += n as u64;
                    *at += n;
                    if at == end {
                        self.holds = Holds::Nothing;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
