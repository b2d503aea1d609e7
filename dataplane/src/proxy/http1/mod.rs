//! The HTTP/1.1 proxy: one task per client connection.
//!
//! Owns: keep-alive on both sides, pipelining, routing per request, retries, own answers.
//! Lacks on purpose: parsing and framing rules (`core::http1`), policies (`core::l7`), sockets (`io`).
//!
//! Each request looks up the listener as it is configured *now*; between requests the task holds no
//! configuration, no buffer and no scratch memory. Cancel-safety: dropping the future closes both
//! connections, and gives every pooled thing back.

mod answer;
mod certificate;
mod exchange;
mod inbox;
mod log;
mod member;
mod scratch;
mod transfer;
mod websocket;

use crate::clock::{Clock, Key, now};
use crate::io::Conn;
use crate::runtime::ListenerRuntime;
use crate::worker::WorkerShared;
use inbox::Inbox;
use krater_dataplane_core::exchange::{ClientCertificate, ClientInfo};
use krater_dataplane_core::http1::{Fault, Refusal, Scan, Scanner, Version};
use krater_model::state::Hsts;
use scratch::Scratch;
use std::future::poll_fn;
use std::mem::take;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// A head must be complete after this long when the listener sets no client time-out.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// The first request of a connection, which may be on its way, is waited for this long while the process drains.
const FIRST_REQUEST: Duration = Duration::from_secs(2);
/// After an answer that closes, what the client still sends is read and dropped for this long, so
/// that a reset does not destroy the answer on its way (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);
/// …and at most this many bytes.
const LINGER_BYTES: usize = 1024 * 1024;

/// A client's connection between and during requests.
#[derive(Debug)]
struct Session {
    conn: Conn,
    inbox: Inbox,
    clock: Clock,
    listener: Arc<ListenerRuntime>,
    worker: Rc<WorkerShared>,
    certificate: Option<Box<ClientCertificate>>,
    /// Requests that were answered.
    served: u32,
    /// The client said that it sends no more requests, and its last one was read to its end.
    said_last: bool,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// The next request may come.
    KeepAlive,
    /// The answer is out; the connection closes gently.
    Close,
    /// The connection is of no more use.
    Abort,
}

/// Serves a client's connection to its end. Its task is woken by its `key` among [`WorkerShared::timers`].
///
/// What waits for a client, between requests or within a head, holds the session and little else: thousands
/// may do so. No `async fn`, since that would keep its arguments beside the session made of them.
pub fn serve(
    conn: Conn,
    listener: Arc<ListenerRuntime>,
    worker: Rc<WorkerShared>,
    key: Key,
) -> impl Future<Output = ()> {
    let certificate = conn.tls().and_then(certificate::of);
    let mut session = Session {
        conn,
        inbox: Inbox::default(),
        clock: Clock::new(key),
        listener,
        worker,
        certificate,
        served: 0,
        said_last: false,
    };
    async move {
        loop {
            if session.inbox.is_empty() && !session.idle().await {
                return;
            }
            let (head, took) = session.head().await;
            // Boxed, so that a connection that waits does not keep the memory of an active one.
            match Box::pin(session.active(head, took)).await {
                After::KeepAlive => {}
                After::Close => return Box::pin(session.linger()).await,
                After::Abort => return,
            }
        }
    }
}

/// Where a whole head begins and ends, or why there is none; `Err(None)`: the client is gone.
type Head = Result<(usize, usize), Option<Refusal>>;

impl Session {
    /// Answers the request with this head, and those behind it that are whole already.
    async fn active(&mut self, mut head: Head, mut took: Duration) -> After {
        let mut scratch = Scratch::take();
        loop {
            let parsed = head.and_then(|(start, end)| {
                let parsed = scratch.request.parse(self.inbox.bytes(), start, end);
                let parsed = parsed.map_err(|fault| Some(Refusal::Request(fault)));
                parsed.map(|()| start)
            });
            let after = match parsed {
                Ok(start) => exchange::run(self, &mut scratch, start, take(&mut took)).await,
                Err(Some(why)) => self.refuse(&mut scratch, why, take(&mut took)).await,
                Err(None) => After::Abort,
            };
            self.served = self.served.saturating_add(1);
            if after != After::KeepAlive {
                return after;
            }
            match self.scan(&mut Scanner::default()) {
                Some(next) => head = next,
                None => return After::KeepAlive,
            }
        }
    }

    /// The head that is there; none while it is not whole.
    fn scan(&self, scanner: &mut Scanner) -> Option<Head> {
        match scanner.scan(self.inbox.bytes()) {
            Ok(Scan::Complete { start, end }) => Some(Ok((start, end))),
            Ok(Scan::Partial) => None,
            Err(fault) => Some(Err(Some(Refusal::Request(fault)))),
        }
    }

    fn client(&self) -> ClientInfo<'_> {
        ClientInfo {
            peer: self.conn.peer().ip(),
            local: self.conn.local(),
            tls: self.conn.tls().is_some(),
            certificate: self.certificate.as_deref(),
        }
    }

    /// The listener's client time-out as configured now; none when the listener is gone.
    fn client_timeout(&self) -> Option<(Duration, Option<Hsts>)> {
        let view = self.worker.shared.listener(self.listener.id)?;
        let hsts = view.conf.tls.as_ref().and_then(|tls| tls.hsts);
        Some((view.conf.timeouts.client_data.duration(), hsts))
    }

    /// Waits for the first bytes of a request, holding nothing. False: the connection ends here.
    async fn idle(&mut self) -> bool {
        let Some((timeout, _)) = self.client_timeout() else {
            return false;
        };
        self.clock.set(timeout);
        let mut hurried = false;
        poll_fn(|cx| {
            let worker = &self.worker;
            match self.inbox.poll_fill(cx, &mut self.conn, &worker.buffers) {
                Poll::Ready(Ok(1..)) => return Poll::Ready(true),
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending if !worker.shared.is_draining() => {}
                // Between requests clients must expect it (RFC 9112 section 9.5). Before the first one they do not.
                Poll::Pending if self.served > 0 => return Poll::Ready(false),
                Poll::Pending if !hurried => {
                    hurried = true;
                    self.clock.set(match timeout.is_zero() {
                        true => FIRST_REQUEST,
                        false => timeout.min(FIRST_REQUEST),
                    });
                }
                Poll::Pending => {}
            }
            self.clock.poll(&worker.timers, cx).map(|()| false)
        })
        .await
    }

    /// Reads a request head, and says how long it took.
    async fn head(&mut self) -> (Head, Duration) {
        let mut scanner = Scanner::default();
        // By a clock that takes little room, since thousands may wait here; 0: nothing was missing so far.
        let mut began = 0_u32;
        let took = |began| match began {
            0 => Duration::ZERO,
            _ => Duration::from_millis(now().wrapping_sub(began).into()),
        };
        loop {
            if let Some(head) = self.scan(&mut scanner) {
                return (head, took(began));
            }
            if began == 0 {
                began = now().max(1);
                let timeout = self.client_timeout().map_or(Duration::ZERO, |(t, _)| t);
                self.clock.set(if timeout.is_zero() {
                    HEAD_DEADLINE
                } else {
                    timeout
                });
            }
            let polled = poll_fn(|cx| {
                match self
                    .inbox
                    .poll_fill(cx, &mut self.conn, &self.worker.buffers)
                {
                    Poll::Pending => {
                        let late = self.clock.poll(&self.worker.timers, cx);
                        late.map(|()| Err(Refusal::RequestTimeout))
                    }
                    ready => ready.map(Ok),
                }
            });
            match polled.await {
                Ok(Ok(1..)) => {}
                Ok(Ok(_)) => return (Err(Some(Refusal::Request(Fault::Truncated))), took(began)),
                Ok(Err(_)) => return (Err(None), took(began)),
                Err(why) => return (Err(Some(why)), took(began)),
            }
        }
    }

    /// Answers a request whose head could not be used.
    async fn refuse(&mut self, scratch: &mut Scratch, why: Refusal, took: Duration) -> After {
        if let Some(view) = self.worker.shared.listener(self.listener.id) {
            scratch.record.begin(&view, took);
            scratch.record.refused(why);
        }
        let hsts = self.client_timeout().and_then(|(_, hsts)| hsts);
        let frame = answer::Frame {
            version: Version::Http11,
            close: true,
            head_only: false,
            hsts,
        };
        let after = self.answer(&mut scratch.up, why, frame).await;
        let bytes = scratch.up.len() as u64;
        scratch.record.sent(bytes);
        scratch.record.write_request(&self.conn, &self.worker);
        after
    }

    /// Writes a refusal, counts and logs it.
    async fn answer(&mut self, out: &mut Vec<u8>, why: Refusal, frame: answer::Frame) -> After {
        if why.client_fault() {
            self.listener.stats.add_request_error();
        }
        log::refusal(self.listener.id, self.conn.peer(), why);
        out.clear();
        answer::refusal(out, why, frame);
        self.write(out, frame.close).await
    }

    /// Writes an answer of ours within the client's time-out.
    async fn write(&mut self, out: &[u8], close: bool) -> After {
        let timeout = self.client_timeout().map_or(LINGER, |(timeout, _)| timeout);
        self.clock.set(timeout);
        let (clock, timers) = (&mut self.clock, &self.worker.timers);
        let write = self.conn.write_all(out);
        let mut write = std::pin::pin!(write);
        let written = poll_fn(|cx| match write.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.is_ok()),
            Poll::Pending => clock.poll(timers, cx).map(|()| false),
        });
        match (written.await, close) {
            (true, false) => After::KeepAlive,
            (true, true) => After::Close,
            (false, _) => After::Abort,
        }
    }

    /// Closes so that the last answer arrives.
    async fn linger(&mut self) {
        // What a client sends into a closed connection is answered by a reset, which may overtake the answer. One that
        // said `close` must send nothing more (RFC 9112 section 9.6): there is nothing to wait for.
        if self.said_last && self.inbox.is_empty() && self.conn.was_quiet() {
            let once = poll_fn(|cx| Poll::Ready(self.conn.poll_farewell(cx).is_ready()));
            if once.await {
                return;
            }
        }
        self.inbox.clear();
        if self.conn.shutdown().await.is_err() {
            return;
        }
        self.clock.set(LINGER);
        let mut left = LINGER_BYTES;
        poll_fn(|cx| {
            loop {
                match self
                    .inbox
                    .poll_fill(cx, &mut self.conn, &self.worker.buffers)
                {
                    Poll::Ready(Ok(n @ 1..)) if n < left => left -= n,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return self.clock.poll(&self.worker.timers, cx),
                }
                self.inbox.clear();
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle client connection costs besides its socket: the future of its task.
    #[test]
    fn an_idle_connection_is_small() {
        fn size_of<F>(_: impl Fn(Conn, Arc<ListenerRuntime>, Rc<WorkerShared>, Key) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        let size = size_of(serve);
        // The session, and the place among the idle ones or the scanner.
        assert!(size <= 312, "{size} bytes");
    }
}
