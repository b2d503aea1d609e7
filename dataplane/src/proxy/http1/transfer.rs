//! One direction of one message: a head of ours, then a body from the other side.

use super::inbox::Inbox;
use crate::io::{Conn, Flow, RelayError};
use crate::worker::WorkerShared;
use krater_dataplane_core::http1::Fault;
use krater_dataplane_core::http1::framing::{Body, Framing, Side};
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

/// From this many bytes on that nobody must look at, `splice(2)` is used (or a copy of the same
/// kind). Below, the two calls per pipe fill cost more than a copy.
const SPLICE_FROM: u64 = 32 * 1024;

/// Why a transfer ended early.
#[derive(Debug)]
pub(super) enum TransferError {
    /// The sender's message is wrong, or ended too early.
    Fault(Fault),
    /// Reading failed.
    Read,
    /// Writing failed.
    Write,
}

/// What a transfer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// Bytes of the sender.
    Read,
    /// Room at the receiver.
    Write,
}

/// A message on its way.
#[derive(Debug)]
pub(super) struct Transfer {
    head: Vec<u8>,
    head_sent: usize,
    body: Body,
    /// The receiver does not know the chunked coding.
    unchunk: bool,
    from: Side,
    /// Bytes at the beginning of the inbox that may be written.
    admitted: usize,
    flow: Option<Flow>,
    /// Bytes that went out, for noticing progress.
    sent: u64,
    body_sent: bool,
    waits: Waits,
    flushed: bool,
    /// Nothing follows it.
    is_last: bool,
}

impl Transfer {
    /// Sends `head`, then the body that `framing` announces, from side `from`.
    pub(super) fn new(head: Vec<u8>, framing: Framing, from: Side, unchunk: bool) -> Self {
        Self {
            head,
            head_sent: 0,
            body: Body::new(framing),
            unchunk,
            from,
            admitted: 0,
            flow: None,
            sent: 0,
            body_sent: false,
            waits: Waits::Write,
            flushed: false,
            is_last: false,
        }
    }

    /// Nothing follows this message: what says so goes out with its last bytes.
    pub(super) fn last(mut self, is_last: bool) -> Self {
        self.is_last = is_last;
        self
    }

    /// Whether everything is in the receiver's socket.
    pub(super) fn is_done(&self) -> bool {
        self.flushed
    }

    /// Whether a body byte was sent: the request cannot be sent again.
    pub(super) fn body_sent(&self) -> bool {
        self.body_sent
    }

    /// Grows with every byte that goes out.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// What it waited for when it last was pending.
    pub(super) fn waits(&self) -> Waits {
        self.waits
    }

    /// The head's text; for sending it again or for reuse of its memory.
    pub(super) fn into_head(self) -> Vec<u8> {
        self.head
    }

    /// Moves what can be moved. Ready when all is sent and flushed.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Conn,
        inbox: &mut Inbox,
        to: &mut Conn,
        worker: &WorkerShared,
    ) -> Poll<Result<(), TransferError>> {
        loop {
            self.admit(inbox).map_err(TransferError::Fault)?;
            self.waits = Waits::Write;
            if self.head_sent < self.head.len() || self.admitted > 0 {
                ready!(self.poll_send(cx, inbox, to)).map_err(|_| TransferError::Write)?;
                continue;
            }
            if let Some(flow) = &mut self.flow {
                let before = flow.moved();
                let polled = flow.poll(cx, from, to, worker);
                let moved = flow.moved();
                self.sent += moved - before;
                self.body_sent |= moved > 0;
                self.waits = if flow.holds() {
                    Waits::Write
                } else {
                    Waits::Read
                };
                if polled.is_pending() {
                    return Poll::Pending;
                }
                let eof = flow.at_eof();
                self.flow = None;
                ready!(polled)?;
                self.body.relayed(moved);
                if eof {
                    self.body.end_of_stream().map_err(TransferError::Fault)?;
                }
                continue;
            }
            if self.body.is_done() {
                ready!(to.poll_flush(cx)).map_err(|_| TransferError::Write)?;
                self.flushed = true;
                return Poll::Ready(Ok(()));
            }
            let at_most = self.body.relay(self.from, self.other()).at_most;
            if at_most >= SPLICE_FROM && inbox.is_empty() {
                self.flow = Some(Flow::new(at_most));
                continue;
            }
            // What TLS still keeps must not wait for more to come.
            if let Poll::Ready(Err(_)) = to.poll_flush(cx) {
                return Poll::Ready(Err(TransferError::Write));
            }
            self.waits = Waits::Read;
            let n = ready!(inbox.poll_fill(cx, from, &worker.buffers));
            if n.map_err(|_| TransferError::Read)? == 0 {
                self.body.end_of_stream().map_err(TransferError::Fault)?;
            }
        }
    }

    fn other(&self) -> Side {
        match self.from {
            Side::Client => Side::Member,
            Side::Member => Side::Client,
        }
    }

    /// Looks at what is in the inbox. Afterwards something is admitted, or the inbox holds nothing
    /// that belongs to the body.
    fn admit(&mut self, inbox: &mut Inbox) -> Result<(), Fault> {
        if self.admitted > 0 || self.flow.is_some() {
            return Ok(());
        }
        if !self.unchunk {
            self.admitted = self.body.admit(inbox.bytes())?;
            return Ok(());
        }
        while !self.body.is_done() && !inbox.is_empty() {
            let piece = self.body.piece(inbox.bytes())?;
            if piece.data {
                self.admitted = piece.used;
                return Ok(());
            }
            inbox.consume(piece.used);
        }
        Ok(())
    }

    /// Writes head and admitted bytes in one call.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
        to: &mut Conn,
    ) -> Poll<io::Result<()>> {
        let head = self.head.get(self.head_sent..).unwrap_or_default();
        let body = inbox.bytes().get(..self.admitted).unwrap_or_default();
        if self.is_last && self.body.is_done() {
            to.say_last();
        }
        let n = match (head.is_empty(), body.is_empty()) {
            (false, true) => ready!(to.poll_write_vectored(cx, &[IoSlice::new(head)])),
            (true, _) => ready!(to.poll_write_vectored(cx, &[IoSlice::new(body)])),
            _ => ready!(to.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)])),
        }?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_head = n.min(head.len());
        self.head_sent += of_head;
        self.admitted -= n - of_head;
        self.body_sent |= n > of_head;
        self.sent += n as u64;
        inbox.consume(n - of_head);
        Poll::Ready(Ok(()))
    }
}

impl From<RelayError> for TransferError {
    fn from(error: RelayError) -> Self {
        use crate::io::Side::{From, To};
        match error {
            RelayError::Io { side: From, .. } | RelayError::Idle(_) => Self::Read,
            RelayError::Io { side: To, .. } => Self::Write,
        }
    }
}
