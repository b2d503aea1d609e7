//! Bytes that were read from a connection and not yet used.

use crate::io::{Buffer, BufferPool, Conn};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// A window on a pooled buffer. Empty, it holds none.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// What is there.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.buffer {
            Some(buffer) => &buffer[self.start..self.end],
            None => &[],
        }
    }

    /// Whether nothing is there.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether more can be read.
    pub(super) fn has_room(&self) -> bool {
        self.buffer
            .as_ref()
            .is_none_or(|b| self.end - self.start < b.len())
    }

    /// The first `n` bytes are used up.
    pub(super) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            self.clear();
        }
    }

    /// Gives the buffer back.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Reads what fits, once: 0 is the end of the stream. Waits without a buffer when it is empty.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        conn: &mut Conn,
        buffers: &Rc<BufferPool>,
    ) -> Poll<io::Result<usize>> {
        let buffer = self.buffer.get_or_insert_with(|| buffers.take());
        if self.end == buffer.len() && self.start > 0 {
            buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let polled = conn.poll_read(cx, &mut buffer[self.end..]);
        if !matches!(polled, Poll::Ready(Ok(1..))) && self.is_empty() {
            self.clear();
        }
        let n = ready!(polled)?;
        self.end += n;
        Poll::Ready(Ok(n))
    }
}
