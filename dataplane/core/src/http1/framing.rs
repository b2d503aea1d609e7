//! Where a body ends, and how much of it may be relayed.
//!
//! The core never owns body bytes. The shell shows what it has read to [`Body::admit`], which says
//! how many of these bytes belong to the body; or it asks [`Body::relay`] how many bytes it may move
//! without showing them (by `splice`), moves some, and reports [`Body::relayed`].

use super::chunked::{Chunked, Piece};
use super::fault::Fault;

/// How the end of a message's body is found (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// No body.
    #[default]
    None,
    /// That many bytes.
    Length(u64),
    /// Chunked.
    Chunked,
    /// Responses only: until the member closes.
    UntilClose,
    /// After 101: bytes both ways until both close.
    Tunnel,
}

impl Framing {
    /// Whether no byte of a body follows: none is announced, or one of nothing.
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

/// A direction of relaying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client's connection.
    Client,
    /// The member's connection.
    Member,
}

/// An order to the shell: move up to `at_most` bytes, nobody needs to look at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relay {
    /// Source.
    pub from: Side,
    /// Sink.
    pub to: Side,
    /// Not more than this.
    pub at_most: u64,
}

/// A body on its way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Body {
    /// Nothing is left.
    #[default]
    Done,
    /// So many bytes are left.
    Length(u64),
    /// Chunks are left.
    Chunked(Chunked),
    /// Everything until the end of the stream.
    UntilClose,
}

impl Body {
    /// The body that `framing` announces.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::default()),
            Framing::UntilClose | Framing::Tunnel => Self::UntilClose,
        }
    }

    /// Whether nothing is left.
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// How many of the bytes at the beginning of `data` belong to the body; these count as moved.
    /// Fewer than `data.len()` only when the body ends there.
    pub fn admit(&mut self, data: &[u8]) -> Result<usize, Fault> {
        match self {
            Self::Done => Ok(0),
            Self::UntilClose => Ok(data.len()),
            Self::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                self.relayed(n as u64);
                Ok(n)
            }
            Self::Chunked(chunked) => {
                let mut used = 0;
                while !chunked.is_done() && used < data.len() {
                    used += chunked.next(data.get(used..).unwrap_or_default())?.used;
                }
                if chunked.is_done() {
                    *self = Self::Done;
                }
                Ok(used)
            }
        }
    }

    /// Like [`Self::admit`] for one run of bytes, and whether they are data: for a receiver that does
    /// not know the chunked coding. `used` is 0 only when the body or `data` ended.
    pub fn piece(&mut self, data: &[u8]) -> Result<Piece, Fault> {
        if let Self::Chunked(chunked) = self {
            let piece = chunked.next(data)?;
            if chunked.is_done() {
                *self = Self::Done;
            }
            return Ok(piece);
        }
        let used = self.admit(data)?;
        Ok(Piece { used, data: true })
    }

    /// How many bytes may be moved unseen from now on; 0 when the next byte must be looked at.
    pub const fn relay(&self, from: Side, to: Side) -> Relay {
        let at_most = match self {
            Self::Done => 0,
            Self::Length(left) => *left,
            Self::Chunked(chunked) => chunked.data_left(),
            Self::UntilClose => u64::MAX,
        };
        Relay { from, to, at_most }
    }

    /// `n` bytes were moved unseen, at most what [`Self::relay`] allowed.
    pub fn relayed(&mut self, n: u64) {
        match self {
            Self::Length(left) => {
                debug_assert!(n <= *left, "moved more than allowed");
                *left = left.saturating_sub(n);
                if *left == 0 {
                    *self = Self::Done;
                }
            }
            Self::Chunked(chunked) => chunked.skip_data(n),
            Self::Done | Self::UntilClose => {}
        }
    }

    /// The stream ended. An error when bytes are missing.
    pub fn end_of_stream(&mut self) -> Result<(), Fault> {
        match self {
            Self::Done => Ok(()),
            Self::UntilClose => {
                *self = Self::Done;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => Err(Fault::Truncated),
        }
    }
}
