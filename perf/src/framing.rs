//! Where an HTTP/1.1 message begins and ends (RFC 9112 section 6), for both sides of the bench.
//!
//! Bytes come in pieces of any size; bodies are handed on as they come, heads are kept until whole.

use anyhow::{Context, bail};

/// Largest head, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// Most header fields.
const MAX_FIELDS: usize = 64;
/// Longest line of a chunk's size, with extensions.
const MAX_CHUNK_LINE: usize = 256;

/// Whose messages are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Requests, as a server.
    Requests,
    /// Answers to anything but HEAD and CONNECT, as a client.
    Answers,
}

/// The head of a message.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Of a request.
    pub(crate) method: String,
    /// Of a request.
    pub(crate) path: String,
    /// Of an answer; 0 in a request.
    pub(crate) status: u16,
    /// The connection ends after this message.
    pub(crate) close: bool,
    /// The sender waits for 100.
    pub(crate) expects: bool,
    /// Sec-WebSocket-Key of a request, Sec-WebSocket-Accept of an answer.
    pub(crate) websocket: Option<String>,
    /// The request carries X-Forwarded-For.
    pub(crate) forwarded: bool,
    /// Upgrade is asked for, or done.
    pub(crate) upgrade: bool,
}

/// What a piece of input brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// All input is used up, more is needed.
    More,
    /// A head is whole.
    Head(Head),
    /// The body, and so the message, has ended.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Fixed(u64),
    ChunkSize,
    ChunkData(u64),
    /// CR LF after a chunk: bytes of it seen.
    ChunkEnd(u8),
    /// Lines up to an empty one.
    Trailer,
    UntilClose,
    /// Everything is the other protocol's (after 101).
    Tunnel,
}

/// Reads messages one after the other.
#[derive(Debug)]
pub(crate) struct Reader {
    side: Side,
    state: State,
    /// A head, a chunk's size line or a trailer line that is not whole.
    kept: Vec<u8>,
}

impl Reader {
    pub(crate) const fn new(side: Side) -> Self {
        Self {
            side,
            state: State::Head,
            kept: Vec::new(),
        }
    }

    /// A message without a length has ended, because the connection has.
    pub(crate) fn ends_with_connection(&mut self) -> bool {
        let ends = self.state == State::UntilClose;
        if ends {
            self.state = State::Head;
        }
        ends
    }

    /// Reads on until an event; `input` loses what was used. Body bytes go to `body`.
    pub(crate) fn next(
        &mut self,
        input: &mut &[u8],
        body: &mut impl FnMut(&[u8]),
    ) -> anyhow::Result<Event> {
        loop {
            match self.state {
                State::Head => {
                    return Ok(match self.head(input)? {
                        None => Event::More,
                        Some(head) => Event::Head(head),
                    });
                }
                State::Fixed(0) => {
                    self.state = State::Head;
                    return Ok(Event::End);
                }
                _ if input.is_empty() => return Ok(Event::More),
                State::Fixed(left) => {
                    let part = take(input, left);
                    body(part);
                    self.state = State::Fixed(left - part.len() as u64);
                }
                State::ChunkData(left) => {
                    let part = take(input, left);
                    body(part);
                    self.state = match left - part.len() as u64 {
                        0 => State::ChunkEnd(0),
                        left => State::ChunkData(left),
                    };
                }
                State::ChunkEnd(seen) => {
                    let byte = take(input, 1);
                    self.state = match (seen, byte) {
                        (0, b"\r") => State::ChunkEnd(1),
                        (1, b"\n") => State::ChunkSize,
                        _ => bail!("a chunk does not end with CR LF"),
                    };
                }
                State::ChunkSize => {
                    let Some(line) = self.line(input)? else {
                        return Ok(Event::More);
                    };
                    let digits = line.split(|b| *b == b';').next().unwrap_or_default();
                    let text = std::str::from_utf8(digits).unwrap_or_default().trim_end();
                    let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
                    let size = good.then(|| u64::from_str_radix(text, 16).ok()).flatten();
                    self.state = match size {
                        None => bail!("chunk size {text:?}"),
                        Some(0) => State::Trailer,
                        Some(size) => State::ChunkData(size),
                    };
                }
                State::Trailer => match self.line(input)? {
                    None => return Ok(Event::More),
                    Some(line) if line.is_empty() => {
                        self.state = State::Head;
                        return Ok(Event::End);
                    }
                    Some(_) => {}
                },
                State::UntilClose | State::Tunnel => {
                    body(input);
                    *input = &[];
                    return Ok(Event::More);
                }
            }
        }
    }

    /// A line without its CR LF, when it is whole.
    fn line(&mut self, input: &mut &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
        let end = input.iter().position(|b| *b == b'\n');
        let part = take(input, end.map_or(u64::MAX, |at| at as u64 + 1));
        self.kept.extend_from_slice(part);
        if self.kept.len() > MAX_CHUNK_LINE {
            bail!("a line of the chunked coding is longer than {MAX_CHUNK_LINE} bytes");
        }
        if end.is_none() {
            return Ok(None);
        }
        let mut line = std::mem::take(&mut self.kept);
        if !line.ends_with(b"\r\n") {
            bail!("a line of the chunked coding does not end with CR LF");
        }
        line.truncate(line.len() - 2);
        Ok(Some(line))
    }

    fn head(&mut self, input: &mut &[u8]) -> anyhow::Result<Option<Head>> {
        if self.kept.is_empty() {
            // The usual case: a whole head in one piece, parsed where it lies.
            match self.parse(input)? {
                Some((head, used)) => {
                    *input = &input[used..];
                    return Ok(Some(head));
                }
                None => {
                    self.kept.extend_from_slice(input);
                    *input = &[];
                }
            }
        } else {
            let before = self.kept.len();
            self.kept.extend_from_slice(input);
            let kept = std::mem::take(&mut self.kept);
            match self.parse(&kept)? {
                Some((head, used)) => {
                    *input = &input[used.saturating_sub(before)..];
                    return Ok(Some(head));
                }
                None => {
                    self.kept = kept;
                    *input = &[];
                }
            }
        }
        if self.kept.len() > MAX_HEAD {
            bail!("a head is longer than {MAX_HEAD} bytes");
        }
        Ok(None)
    }

    fn parse(&mut self, bytes: &[u8]) -> anyhow::Result<Option<(Head, usize)>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut head = Head::default();
        let (used, fields, old) = match self.side {
            Side::Requests => {
                let mut request = httparse::Request::new(&mut fields);
                let httparse::Status::Complete(used) =
                    request.parse(bytes).context("request head")?
                else {
                    return Ok(None);
                };
                request
                    .method
                    .unwrap_or_default()
                    .clone_into(&mut head.method);
                request.path.unwrap_or_default().clone_into(&mut head.path);
                (used, request.headers, request.version == Some(0))
            }
            Side::Answers => {
                let mut answer = httparse::Response::new(&mut fields);
                let httparse::Status::Complete(used) =
                    answer.parse(bytes).context("answer head")?
                else {
                    return Ok(None);
                };
                head.status = answer.code.unwrap_or_default();
                (used, answer.headers, answer.version == Some(0))
            }
        };
        head.close = old;
        let (mut length, mut chunked) = (None, false);
        for field in fields.iter() {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            let text = || std::str::from_utf8(field.value).unwrap_or_default();
            if is("content-length") {
                let good = !field.value.is_empty() && field.value.iter().all(u8::is_ascii_digit);
                let value: Option<u64> = good.then(|| text().parse().ok()).flatten();
                let value = value.with_context(|| format!("Content-Length {:?}", text()))?;
                if length.is_some_and(|old| old != value) {
                    bail!("two Content-Length fields that differ");
                }
                length = Some(value);
            } else if is("transfer-encoding") {
                if !text().eq_ignore_ascii_case("chunked") {
                    bail!("not supported yet: Transfer-Encoding {:?}", text());
                }
                chunked = true;
            } else if is("connection") {
                for token in text().split(',').map(str::trim) {
                    head.close |= token.eq_ignore_ascii_case("close");
                    if token.eq_ignore_ascii_case("keep-alive") {
                        head.close = false;
                    }
                }
            } else if is("expect") {
                head.expects = text().eq_ignore_ascii_case("100-continue");
            } else if is("x-forwarded-for") {
                head.forwarded = true;
            } else if is("upgrade") {
                head.upgrade = text().eq_ignore_ascii_case("websocket");
            } else if is("sec-websocket-key") || is("sec-websocket-accept") {
                head.websocket = Some(text().to_owned());
            }
        }
        if chunked && length.is_some() {
            bail!("a message with both Content-Length and Transfer-Encoding");
        }
        self.state = match (self.side, head.status) {
            (_, 101) => State::Tunnel,
            (_, 100..=199) => State::Head,
            (_, 204 | 304) => State::Fixed(0),
            _ if chunked => State::ChunkSize,
            (Side::Requests, _) if head.upgrade => State::Tunnel,
            (Side::Requests, _) => State::Fixed(length.unwrap_or(0)),
            (Side::Answers, _) => length.map_or(State::UntilClose, State::Fixed),
        };
        if self.state == State::UntilClose {
            head.close = true;
        }
        Ok(Some((head, used)))
    }
}

/// The first bytes of the input, at most `most` of them.
fn take<'a>(input: &mut &'a [u8], most: u64) -> &'a [u8] {
    let n = usize::try_from(most).map_or(input.len(), |most| most.min(input.len()));
    let (part, rest) = input.split_at(n);
    *input = rest;
    part
}

#[cfg(test)]
mod tests;
