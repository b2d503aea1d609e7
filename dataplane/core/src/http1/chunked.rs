//! The chunked transfer coding as a validator: what passes it is well-formed to every strict
//! reader (RFC 9112 section 7.1).

use super::fault::Fault;
use super::head::{Known, is_token};

/// Longest chunk size line's digits: 2^60 bytes in one chunk, which no honest sender makes.
const MAX_SIZE_DIGITS: u8 = 15;
/// Most bytes of extensions in one chunk; nothing in use has more than a signature of 85.
pub const MAX_EXTENSION: u16 = 256;
/// Most bytes of extensions in a message, so that one-byte chunks cannot carry a flood.
pub const MAX_EXTENSIONS: u32 = 16 * 1024;
/// Most bytes of trailers.
pub const MAX_TRAILERS: u16 = 8 * 1024;
/// Names longer than this are compared with nothing; the longest known one has 25 bytes.
const NAME_KEPT: usize = 32;

/// What a step found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Bytes used up.
    pub used: usize,
    /// Whether they are data (and not sizes, line ends or trailers).
    pub data: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        digits: u8,
    },
    /// White space that must lead to `;`.
    BeforeSemicolon,
    /// Behind `;`: a name must come.
    ExtensionStart,
    ExtensionName,
    /// White space behind a name, which may still have a value.
    ExtensionNamed,
    /// Behind `=`: a value must come.
    ExtensionValueStart,
    ExtensionValue,
    /// Behind a quoted value or white space: only `;` or the end can follow.
    ExtensionEnd,
    Quoted,
    QuotedPair,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// A chunked body on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunked {
    state: State,
    /// Size of the chunk while it is read, then what is left of it.
    left: u64,
    extension: u16,
    extensions: u32,
    trailers: u16,
    name: [u8; NAME_KEPT],
    name_length: usize,
}

impl Default for Chunked {
    fn default() -> Self {
        Self {
            state: State::Size { digits: 0 },
            left: 0,
            extension: 0,
            extensions: 0,
            trailers: 0,
            name: [0; NAME_KEPT],
            name_length: 0,
        }
    }
}

impl Chunked {
    /// Whether the last byte was seen.
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Data bytes of the current chunk that are still to come.
    pub const fn data_left(&self) -> u64 {
        match self.state {
            State::Data => self.left,
            _ => 0,
        }
    }

    /// `n` data bytes passed by unseen.
    pub fn skip_data(&mut self, n: u64) {
        debug_assert!(n <= self.data_left(), "moved more than the chunk has");
        if self.state == State::Data {
            self.left = self.left.saturating_sub(n);
            if self.left == 0 {
                self.state = State::DataCr;
            }
        }
    }

    /// Looks at the beginning of `input`: one run of data, or one run of everything else.
    pub fn next(&mut self, input: &[u8]) -> Result<Piece, Fault> {
        if self.state == State::Data {
            let n = usize::try_from(self.left)
                .unwrap_or(usize::MAX)
                .min(input.len());
            self.skip_data(n as u64);
            return Ok(Piece {
                used: n,
                data: true,
            });
        }
        let mut used = 0;
        for byte in input {
            if matches!(self.state, State::Done | State::Data) {
                break;
            }
            self.step(*byte)?;
            used += 1;
        }
        Ok(Piece { used, data: false })
    }

    fn step(&mut self, byte: u8) -> Result<(), Fault> {
        self.state = match (self.state, byte) {
            (State::Size { digits }, b) if b.is_ascii_hexdigit() => {
                if digits == MAX_SIZE_DIGITS {
                    return Err(Fault::ChunkSize);
                }
                let digit = match b {
                    b'0'..=b'9' => b - b'0',
                    _ => b.to_ascii_lowercase() - b'a' + 10,
                };
                self.left = self.left << 4 | u64::from(digit);
                State::Size { digits: digits + 1 }
            }
            (State::Size { digits: 0 }, _) => return Err(Fault::ChunkSize),
            (
                State::Size { .. }
                | State::ExtensionName
                | State::ExtensionNamed
                | State::ExtensionValue
                | State::ExtensionEnd,
                b'\r',
            ) => State::SizeLf,
            (State::Size { .. }, b';') => self.extension_byte(State::ExtensionStart)?,
            (State::Size { .. } | State::BeforeSemicolon, b' ' | b'\t') => {
                self.extension_byte(State::BeforeSemicolon)?
            }
            (State::Size { .. }, _) => return Err(Fault::ChunkSize),
            (State::BeforeSemicolon, b';') => self.extension_byte(State::ExtensionStart)?,
            (State::BeforeSemicolon, _) => return Err(Fault::ChunkSize),
            (
                State::ExtensionStart
                | State::ExtensionName
                | State::ExtensionNamed
                | State::ExtensionValueStart
                | State::ExtensionValue
                | State::ExtensionEnd,
                b,
            ) => {
                let next = self.extension(b)?;
                self.extension_byte(next)?
            }
            (State::Quoted, b'"') => self.extension_byte(State::ExtensionEnd)?,
            (State::Quoted, b'\\') => self.extension_byte(State::QuotedPair)?,
            (State::Quoted | State::QuotedPair, b) if b == b'\t' || (b >= 0x20 && b != 0x7f) => {
                self.extension_byte(State::Quoted)?
            }
            (State::Quoted | State::QuotedPair, _) => return Err(Fault::ChunkExtension),
            (State::SizeLf, b'\n') if self.left == 0 => State::TrailerStart,
            (State::SizeLf, b'\n') => {
                self.extension = 0;
                State::Data
            }
            (State::SizeLf, _) => return Err(Fault::ChunkSize),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.left = 0;
                State::Size { digits: 0 }
            }
            (State::DataCr | State::DataLf, _) => return Err(Fault::ChunkEnd),
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart, b) if is_token(b) => {
                self.name_length = 0;
                self.name_byte(b)?
            }
            (State::TrailerName, b':') => {
                self.check_trailer_name()?;
                self.trailer_byte(State::TrailerValue)?
            }
            (State::TrailerName, b) if is_token(b) => self.name_byte(b)?,
            (State::TrailerValue, b'\r') => self.trailer_byte(State::TrailerLf)?,
            (State::TrailerValue, b) if b == b'\t' || (b >= 0x20 && b != 0x7f) => {
                self.trailer_byte(State::TrailerValue)?
            }
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            (
                State::TrailerStart
                | State::TrailerName
                | State::TrailerValue
                | State::TrailerLf
                | State::EndLf,
                _,
            ) => return Err(Fault::Trailer),
            (State::Data | State::Done, _) => self.state,
        };
        Ok(())
    }

    /// `*( BWS ";" BWS name [ BWS "=" BWS value ] )` (RFC 9112 section 7.1.1).
    fn extension(&self, byte: u8) -> Result<State, Fault> {
        Ok(match (self.state, byte) {
            (State::ExtensionStart | State::ExtensionValueStart, b' ' | b'\t') => self.state,
            (State::ExtensionStart | State::ExtensionName, b) if is_token(b) => {
                State::ExtensionName
            }
            (State::ExtensionName | State::ExtensionNamed, b' ' | b'\t') => State::ExtensionNamed,
            (State::ExtensionName | State::ExtensionNamed, b'=') => State::ExtensionValueStart,
            (State::ExtensionValueStart, b'"') => State::Quoted,
            (State::ExtensionValueStart | State::ExtensionValue, b) if is_token(b) => {
                State::ExtensionValue
            }
            (State::ExtensionValue | State::ExtensionEnd, b' ' | b'\t') => State::ExtensionEnd,
            (
                State::ExtensionName
                | State::ExtensionNamed
                | State::ExtensionValue
                | State::ExtensionEnd,
                b';',
            ) => State::ExtensionStart,
            _ => return Err(Fault::ChunkExtension),
        })
    }

    fn extension_byte(&mut self, next: State) -> Result<State, Fault> {
        self.extension += 1;
        self.extensions += 1;
        if self.extension > MAX_EXTENSION || self.extensions > MAX_EXTENSIONS {
            return Err(Fault::ChunkExtensionTooLong);
        }
        Ok(next)
    }

    fn trailer_byte(&mut self, next: State) -> Result<State, Fault> {
        self.trailers += 1;
        if self.trailers > MAX_TRAILERS {
            return Err(Fault::TrailersTooLarge);
        }
        Ok(next)
    }

    fn name_byte(&mut self, byte: u8) -> Result<State, Fault> {
        if let Some(slot) = self.name.get_mut(self.name_length) {
            *slot = byte;
        }
        self.name_length += 1;
        self.trailer_byte(State::TrailerName)
    }

    /// A reader that merges trailers into the head must not learn framing, routing or identity
    /// from them (RFC 9110 section 6.5.1).
    fn check_trailer_name(&self) -> Result<(), Fault> {
        match self.name.get(..self.name_length) {
            Some(name) if Known::of(name).protected() => Err(Fault::Trailer),
            _ => Ok(()),
        }
    }
}
