//! One client connection: sends exchanges, checks their answers.

use super::plan::{Kind, Plan};
use super::tally::Tally;
use super::tls::Sessions;
use crate::framing::{Event, Reader, Side};
use crate::pattern;
use crate::transport::{Outbox, Transport, blocks};
use crate::websocket::{self, Frames};
use anyhow::{Context, bail};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::io::ErrorKind;
use std::time::Instant;

/// Receive buffer of a slow client's socket: what does not fit stays with the server.
const SLOW_BUFFER: usize = 4_096;

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answers are still to come, or nothing was asked.
    Waiting,
    /// The last answer of the exchange has come.
    Done,
}

/// A place for a connection.
#[derive(Debug)]
pub(crate) struct Conn {
    transport: Option<Transport>,
    out: Outbox,
    reader: Reader,
    frames: Frames,
    /// Bytes of the answer so far.
    body: u64,
    /// All of them were as they had to be.
    good: bool,
    /// The server ends the connection after this answer.
    close: bool,
    /// The opening was answered.
    opened: bool,
    counted: bool,
    answers_left: u32,
    at: Instant,
    sent: u64,
}

impl Conn {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            transport: None,
            out: Outbox::default(),
            reader: Reader::new(Side::Answers),
            frames: Frames::default(),
            body: 0,
            good: true,
            close: false,
            opened: false,
            counted: false,
            answers_left: 0,
            at: now,
            sent: 0,
        }
    }

    /// An exchange is on its way.
    pub(crate) const fn busy(&self) -> bool {
        self.answers_left > 0
    }

    /// When the exchange that is on its way was due.
    pub(crate) const fn since(&self) -> Instant {
        self.at
    }

    /// Starts an exchange that is due at `at`.
    pub(crate) fn start(
        &mut self,
        plan: &Plan,
        at: Instant,
        place: (&Epoll, u64),
        sessions: Option<&Sessions>,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        self.at = at;
        self.answers_left = plan.pipeline;
        self.begin_answer();
        let fresh = self.transport.is_none();
        if fresh {
            self.connect(plan, place, sessions, false)?;
            tally.connections += 1;
        }
        if self.opened || plan.opening.is_none() {
            self.ask(plan);
        }
        // A fresh connection is not made yet: its first event says when it is.
        if !fresh {
            self.flush(tally)?;
        }
        Ok(())
    }

    /// Starts an exchange on a connection of its own with a small receive buffer; sends nothing yet.
    pub(crate) fn start_slowly(
        &mut self,
        plan: &Plan,
        at: Instant,
        place: (&Epoll, u64),
        sessions: Option<&Sessions>,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        self.start_alone(plan, at, place, sessions, true, tally)?;
        if plan.opening.is_none() {
            self.ask(plan);
        }
        Ok(())
    }

    /// Opens a connection and sends the first half of a request.
    pub(crate) fn start_half(
        &mut self,
        plan: &Plan,
        at: Instant,
        place: (&Epoll, u64),
        sessions: Option<&Sessions>,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        self.start_alone(plan, at, place, sessions, false, tally)?;
        self.out.push(plan.halves().0);
        Ok(())
    }

    /// One exchange on a connection of its own, for which nothing is asked yet.
    fn start_alone(
        &mut self,
        plan: &Plan,
        at: Instant,
        place: (&Epoll, u64),
        sessions: Option<&Sessions>,
        slow: bool,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        self.at = at;
        self.answers_left = 1;
        self.begin_answer();
        self.connect(plan, place, sessions, slow)?;
        tally.connections += 1;
        Ok(())
    }

    /// Sends the second half; its answer counts from now.
    pub(crate) fn end_half(
        &mut self,
        plan: &Plan,
        at: Instant,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        self.at = at;
        self.out.push(plan.halves().1);
        self.flush(tally)
    }

    /// All that was to be sent has left, or the connection is no more.
    pub(crate) fn sent(&self) -> bool {
        self.transport.is_none() || self.out.waiting() == 0
    }

    /// Opens the connection, and asks for the opening where there is one.
    fn connect(
        &mut self,
        plan: &Plan,
        (epoll, key): (&Epoll, u64),
        sessions: Option<&Sessions>,
        slow: bool,
    ) -> anyhow::Result<()> {
        let to = plan.target.address;
        let stream =
            Transport::connect(to, slow.then_some(SLOW_BUFFER)).with_context(|| connecting(to))?;
        let session = sessions.map(|s| s.client(to)).transpose()?;
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        epoll.add(&stream, EpollEvent::new(flags, key))?;
        self.out.clear();
        self.reader = Reader::new(Side::Answers);
        self.frames = Frames::default();
        self.opened = false;
        self.counted = false;
        self.close = false;
        self.transport = Some(Transport::new(stream, session));
        if let Some(opening) = &plan.opening {
            self.out.push(opening);
        }
        Ok(())
    }

    /// Puts the exchange's bytes into the outbox.
    fn ask(&mut self, plan: &Plan) {
        self.out.push(&plan.request);
        if let Some((length, chunked)) = plan.upload {
            self.out.push_pattern(length, chunked);
        }
    }

    fn begin_answer(&mut self) {
        self.body = 0;
        self.good = true;
    }

    fn flush(&mut self, tally: &mut Tally) -> anyhow::Result<()> {
        if let Some(transport) = &mut self.transport {
            self.out.flush(transport).context("write")?;
            tally.sent_bytes += self.out.sent - self.sent;
            self.sent = self.out.sent;
        }
        Ok(())
    }

    /// Something happened on the socket.
    pub(crate) fn event(
        &mut self,
        plan: &Plan,
        flags: EpollFlags,
        buffer: &mut [u8],
        tally: &mut Tally,
    ) -> anyhow::Result<Outcome> {
        let Some(transport) = &mut self.transport else {
            return Ok(Outcome::Waiting);
        };
        if flags.contains(EpollFlags::EPOLLERR)
            && let Some(error) = transport.stream().take_error()?
        {
            return Err(error).with_context(|| connecting(plan.target.address));
        }
        if plan.kind == Kind::Connect {
            if flags.contains(EpollFlags::EPOLLOUT) && self.busy() {
                return Ok(self.answered(tally));
            }
            return Ok(Outcome::Waiting);
        }
        let waits = self.out.waiting() > 0 || self.out.streaming();
        if waits || matches!(transport, Transport::Tls(_)) {
            self.flush(tally)?;
        }
        loop {
            let busy = self.busy();
            let Some(transport) = &mut self.transport else {
                return Ok(Outcome::Waiting);
            };
            let n = match transport.read(buffer) {
                Err(error) if blocks(&error) => return Ok(Outcome::Waiting),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // A server that closes an idle connection in whatever way does what it may.
                Err(_) if !busy => return Ok(self.ended()),
                result => result.context("read")?,
            };
            // The end of the stream may have come with the data, and then brings no event of its own.
            let ending = flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP);
            let last = transport.short_read_is_last() && n < buffer.len() && !ending;
            tally.received_bytes += n as u64;
            if n == 0 {
                if self.reader.ends_with_connection() {
                    return self.finish(plan, tally);
                }
                if busy {
                    bail!(
                        "the connection was closed after {} bytes of a body",
                        self.body
                    );
                }
                return Ok(self.ended());
            }
            let outcome = self.input(plan, &buffer[..n], tally)?;
            self.close |= ending && outcome == Outcome::Done;
            if outcome == Outcome::Done || last {
                return Ok(outcome);
            }
        }
    }

    /// Reads at most one buffer: what a slow client does.
    pub(crate) fn sip(
        &mut self,
        plan: &Plan,
        buffer: &mut [u8],
        tally: &mut Tally,
    ) -> anyhow::Result<Outcome> {
        let limit = buffer.len();
        let Some(transport) = &mut self.transport else {
            return Ok(Outcome::Waiting);
        };
        if let Some(error) = transport.stream().take_error()? {
            return Err(error).with_context(|| connecting(plan.target.address));
        }
        self.out.trickle(transport, limit).context("write")?;
        tally.sent_bytes += self.out.sent - self.sent;
        self.sent = self.out.sent;
        match transport.read(buffer) {
            Err(error) if blocks(&error) => Ok(Outcome::Waiting),
            Ok(0) if self.reader.ends_with_connection() => self.finish(plan, tally),
            Ok(0) => bail!(
                "the connection was closed after {} bytes of a body",
                self.body
            ),
            Ok(n) => {
                tally.received_bytes += n as u64;
                self.input(plan, &buffer[..n], tally)
            }
            Err(error) => Err(error).context("read"),
        }
    }

    fn input(&mut self, plan: &Plan, bytes: &[u8], tally: &mut Tally) -> anyhow::Result<Outcome> {
        if !self.counted
            && let Some(kind) = self.transport.as_ref().and_then(Transport::handshake)
        {
            self.counted = true;
            match kind {
                rustls::HandshakeKind::Resumed => tally.resumed += 1,
                _ => tally.full_handshakes += 1,
            }
        }
        let mut rest = bytes;
        loop {
            if !self.busy() && !rest.is_empty() {
                bail!("{} bytes more than were asked for", rest.len());
            }
            let outcome = match &plan.kind {
                Kind::Http { .. } => self.http(plan, &mut rest, tally)?,
                Kind::Echo(n) | Kind::Bulk(n) => self.stream(*n, &mut rest, tally)?,
                Kind::WebSocket(n) => self.websocket(plan, *n, &mut rest, tally)?,
                Kind::Connect => Outcome::Waiting,
            };
            if rest.is_empty() || outcome == Outcome::Waiting && !self.busy() {
                return Ok(outcome);
            }
        }
    }

    fn http(
        &mut self,
        plan: &Plan,
        rest: &mut &[u8],
        tally: &mut Tally,
    ) -> anyhow::Result<Outcome> {
        let (body, good) = (&mut self.body, &mut self.good);
        let event = self.reader.next(rest, &mut |part| {
            *good = *good && (!plan.pattern || pattern::matches(*body, part));
            *body += part.len() as u64;
        })?;
        let Kind::Http { status, .. } = plan.kind else {
            return Ok(Outcome::Waiting);
        };
        match event {
            Event::More => Ok(Outcome::Waiting),
            Event::Head(head) if (100..=199).contains(&head.status) && head.status != 101 => {
                Ok(Outcome::Waiting)
            }
            Event::Head(head) => {
                self.close = head.close;
                if head.status != status {
                    bail!("status {}, expected {status}", head.status);
                }
                // An empty body ends here and now; the next call says so even without input.
                self.check_end(plan, rest, tally)
            }
            Event::End => self.finish(plan, tally),
        }
    }

    fn check_end(
        &mut self,
        plan: &Plan,
        rest: &[u8],
        tally: &mut Tally,
    ) -> anyhow::Result<Outcome> {
        if rest.is_empty() {
            let mut nothing: &[u8] = &[];
            if self.reader.next(&mut nothing, &mut |_| ())? == Event::End {
                return self.finish(plan, tally);
            }
        }
        Ok(Outcome::Waiting)
    }

    fn stream(
        &mut self,
        length: u64,
        rest: &mut &[u8],
        tally: &mut Tally,
    ) -> anyhow::Result<Outcome> {
        let want = length - self.body;
        let n = usize::try_from(want).map_or(rest.len(), |n| n.min(rest.len()));
        let (part, left) = rest.split_at(n);
        *rest = left;
        if !pattern::matches(self.body, part) {
            bail!("bytes {} to {} are wrong", self.body, self.body + n as u64);
        }
        self.body += n as u64;
        Ok(if self.body == length {
            self.answered(tally)
        } else {
            Outcome::Waiting
        })
    }

    fn websocket(
        &mut self,
        plan: &Plan,
        length: u64,
        rest: &mut &[u8],
        tally: &mut Tally,
    ) -> anyhow::Result<Outcome> {
        if !self.opened {
            match self.reader.next(rest, &mut |_| ())? {
                Event::Head(head) if head.status == 101 => {
                    let expected = websocket::accept(websocket::KEY);
                    if head.websocket.as_deref() != Some(&expected) {
                        bail!(
                            "Sec-WebSocket-Accept {:?}, expected {expected}",
                            head.websocket
                        );
                    }
                    self.opened = true;
                    self.ask(plan);
                    self.flush(tally)?;
                }
                Event::Head(head) => bail!("status {}, expected 101", head.status),
                _ => {}
            }
            return Ok(Outcome::Waiting);
        }
        let (body, good) = (&mut self.body, &mut self.good);
        let event = self.frames.next(rest, &mut |part| {
            *good = *good && pattern::matches(*body, part);
            *body += part.len() as u64;
        })?;
        match event {
            websocket::Event::End if !self.good => bail!("the payload that came back is wrong"),
            websocket::Event::End => Ok(self.answered(tally)),
            websocket::Event::Begin(n) if n != length => {
                bail!("a frame of {n} bytes, expected {length}")
            }
            websocket::Event::Begin(_) | websocket::Event::More => Ok(Outcome::Waiting),
        }
    }

    /// The end of an HTTP answer: is it what was expected?
    fn finish(&mut self, plan: &Plan, tally: &mut Tally) -> anyhow::Result<Outcome> {
        if let Kind::Http {
            length: Some(length),
            ..
        } = plan.kind
            && self.body != length
        {
            bail!("a body of {} bytes, expected {length}", self.body);
        }
        if !self.good {
            bail!("a body of {} bytes that is not the pattern", self.body);
        }
        if self.out.waiting() > 0 || self.out.streaming() {
            bail!("the answer came before the request was sent");
        }
        let uploaded = plan.upload.map_or(0, |(n, _)| n);
        self.body += uploaded;
        Ok(self.answered(tally))
    }

    fn answered(&mut self, tally: &mut Tally) -> Outcome {
        tally.answered(self.at, self.body);
        self.answers_left -= 1;
        self.begin_answer();
        if self.busy() {
            Outcome::Waiting
        } else {
            Outcome::Done
        }
    }

    /// After the last answer: the connection ends when either side wants it.
    pub(crate) fn rest(&mut self, plan: &Plan) {
        if plan.close || self.close {
            self.shut();
        }
    }

    /// Closes the connection in an orderly way.
    pub(crate) fn shut(&mut self) {
        if let Some(mut transport) = self.transport.take() {
            transport.close();
        }
        self.answers_left = 0;
    }

    fn ended(&mut self) -> Outcome {
        self.transport = None;
        Outcome::Waiting
    }
}

fn connecting(to: std::net::SocketAddr) -> String {
    format!("connect to {to}")
}
