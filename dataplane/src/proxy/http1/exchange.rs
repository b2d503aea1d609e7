//! One request and its response.

use super::answer::{self, Frame};
use super::member::{self, Upstream};
use super::scratch::{Parts, Scratch};
use super::transfer::{Transfer, TransferError, Waits};
use super::{After, Session, log, websocket};
use crate::io::{IdleTimeouts, tunnel};
use crate::runtime::{ListenerView, PoolView};
use crate::upstream::pool::Wanted;
use krater_dataplane_core::access_log::End;
use krater_dataplane_core::exchange::Decision;
use krater_dataplane_core::http1::framing::{Framing, Side};
use krater_dataplane_core::http1::rewrite::{self, StickyCookie, ToClient, ToMember};
use krater_dataplane_core::http1::{Fault, Method, Refusal, Scan, Scanner, Version};
use krater_dataplane_core::persistence::Token;
use krater_model::state::{Hsts, Persistence};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Interim responses to one request; honest members send one or two.
const MAX_INTERIM: u32 = 16;

/// What is kept of the request once its head has been rewritten.
#[derive(Debug, Clone, Copy)]
struct Asked {
    method: Method,
    version: Version,
    framing: Framing,
    keep_alive: bool,
    client_data: Duration,
    member_data: Duration,
    hsts: Option<Hsts>,
}

impl Asked {
    /// Whether the request may be sent again, and still can be (RFC 9110 section 9.2.2): a body is gone once sent.
    fn repeatable(&self) -> bool {
        self.method.idempotent() && self.framing.is_empty()
    }

    fn frame(&self, body_read: bool) -> Frame {
        Frame {
            version: self.version,
            close: !self.keep_alive || !(body_read || self.framing.is_empty()),
            head_only: self.method == Method::Head,
            hsts: self.hsts,
        }
    }
}

/// Why no response came.
#[derive(Debug)]
enum Unheard {
    /// The same request may be sent once more, on a fresh connection.
    Retry,
    /// The client gets this.
    Refuse(Refusal),
    /// The client is gone.
    ClientGone,
}

/// Routes the request that was parsed into `scratch`, relays it and its response. Its head begins at `start` of
/// the inbox; to come whole it `took` so long.
pub(super) async fn run(
    session: &mut Session,
    scratch: &mut Scratch,
    start: usize,
    took: Duration,
) -> After {
    let Some(view) = session.worker.shared.listener(session.listener.id) else {
        return session.refuse(scratch, Refusal::NoMember, took).await;
    };
    scratch.record.begin(&view, took);
    let head = session.inbox.bytes().get(start..).unwrap_or_default();
    scratch.record.head(head);
    let request = &scratch.request;
    let asked = Asked {
        method: request.method,
        version: request.version,
        framing: request.framing,
        keep_alive: request.keep_alive && !session.worker.shared.is_draining(),
        client_data: view.conf.timeouts.client_data.duration(),
        member_data: view.conf.timeouts.member_data.duration(),
        hsts: view.conf.tls.as_ref().and_then(|tls| tls.hsts),
    };
    let end = usize::from(request.end);
    let after = match route(session, scratch, &view, &asked) {
        Route::Pool(pool, token) => {
            session.inbox.consume(end);
            scratch.record.pool(&pool);
            relay(session, scratch, &asked, view, (pool, token)).await
        }
        Route::Refuse(why) => {
            session.inbox.consume(end);
            answer(session, scratch, why, asked.frame(false)).await
        }
        Route::Redirect(code) => {
            session.inbox.consume(end);
            scratch.record.redirected(code);
            let bytes = scratch.up.len() as u64;
            scratch.record.sent(bytes);
            session.write(&scratch.up, asked.frame(false).close).await
        }
    };
    scratch.record.write_request(&session.conn, &session.worker);
    after
}

/// Answers with a refusal.
async fn answer(session: &mut Session, scratch: &mut Parts, why: Refusal, frame: Frame) -> After {
    scratch.record.refused(why);
    let after = session.answer(&mut scratch.up, why, frame).await;
    scratch.record.sent(scratch.up.len() as u64);
    after
}

enum Route {
    /// And what ties the client to a member of it.
    Pool(Arc<PoolView>, Token),
    Refuse(Refusal),
    /// With this status; the answer is in `scratch.up`.
    Redirect(u16),
}

/// Applies the policies. For a pool, the head towards the member is in `scratch.up`.
fn route(session: &Session, scratch: &mut Parts, view: &ListenerView, asked: &Asked) -> Route {
    let buffer = session.inbox.bytes();
    let client = session.client();
    let Parts { request, up, .. } = scratch;
    up.clear();
    let pool = match view.conf.l7.evaluate(&request.view(buffer), &client) {
        Decision::Default => view.default_pool(),
        Decision::Pool(id) => view.pools.get(&id),
        Decision::Reject => return Route::Refuse(Refusal::Rejected),
        Decision::Redirect {
            code,
            location,
            append_path,
        } => {
            let path = match append_path {
                true => request.target_text(buffer),
                false => b"",
            };
            answer::redirect(up, code, location, path, asked.frame(false));
            return Route::Redirect(code);
        }
    };
    let Some(pool) = pool else {
        return Route::Refuse(Refusal::NoMember);
    };
    let persistence = pool.conf.persistence.as_ref();
    let how = ToMember {
        insert: view.conf.insert,
        client: &client,
        hide_cookie: persistence == Some(&Persistence::HttpCookie),
    };
    rewrite::request(up, request, buffer, &how);
    let token = Token::of(persistence, &request.view(buffer));
    Route::Pool(Arc::clone(pool), token)
}

async fn relay(
    session: &mut Session,
    scratch: &mut Scratch,
    asked: &Asked,
    view: Arc<ListenerView>,
    (pool, token): (Arc<PoolView>, Token),
) -> After {
    let mut wanted = member::Request {
        reuse: Some(Wanted::of(session.served == 0, asked.repeatable())),
        token,
    };
    let mut configuration = Some((view, pool));
    let (mut upstream, mut up) = loop {
        let Some((view, pool)) = configuration.take() else {
            return After::Abort;
        };
        let upstream =
            match member::obtain(session, &view, &pool, wanted, &mut scratch.record).await {
                Ok(upstream) => upstream,
                Err(Some(why)) => {
                    return answer(session, scratch, why, asked.frame(false)).await;
                }
                Err(None) => return After::Abort,
            };
        if wanted.reuse.is_some() && upstream.served > 0 {
            configuration = Some((view, pool)); // a retry may need it
        }
        let mut upstream = upstream;
        let head = std::mem::take(&mut scratch.up);
        let mut up = Transfer::new(head, asked.framing, Side::Client, false);
        let heard = response_head(session, scratch, asked, &mut upstream, &mut up).await;
        match heard {
            Ok(()) => break (upstream, up),
            Err(Unheard::Retry) if configuration.is_some() => {
                tracing::debug!(member = %upstream.guard.id(), "kept connection was closed, once more");
                wanted.reuse = None;
                scratch.up = up.into_head();
            }
            Err(Unheard::Retry) => {
                let frame = asked.frame(up.is_done());
                return answer(session, scratch, Refusal::MemberGone, frame).await;
            }
            Err(Unheard::Refuse(why)) => {
                let frame = asked.frame(up.is_done());
                return answer(session, scratch, why, frame).await;
            }
            Err(Unheard::ClientGone) => {
                scratch.record.client_gone();
                return After::Abort;
            }
        }
    };
    drop(configuration);
    if scratch.response.status == 101 {
        return upgraded(session, scratch, asked, &mut upstream).await;
    }
    let after = respond(session, scratch, asked, &mut upstream, &mut up).await;
    scratch.up = up.into_head();
    session.said_last = after.request && !scratch.request.keep_alive;
    let response = &scratch.response;
    let whole = matches!(
        after,
        Finished {
            response: true,
            request: true,
            ..
        }
    );
    if whole && response.keep_alive && upstream.shareable && upstream.inbox.is_empty() {
        let Upstream {
            guard,
            conn,
            served,
            ..
        } = upstream;
        let served = served.saturating_add(1);
        session
            .worker
            .members
            .put(guard.id(), guard.address(), conn, served);
    }
    after.after
}

/// Sends the request and reads until the final response's head is parsed into `scratch.response`.
async fn response_head(
    session: &mut Session,
    scratch: &mut Parts,
    asked: &Asked,
    upstream: &mut Upstream,
    up: &mut Transfer,
) -> Result<(), Unheard> {
    let mut interim = 0;
    loop {
        let end = next_head(session, asked, upstream, up).await?;
        let bytes = upstream.inbox.bytes();
        let Parts {
            request,
            response,
            down,
            ..
        } = &mut *scratch;
        response
            .parse(bytes, end.0, end.1, asked.method, &request.offered)
            .and_then(|()| websocket::check(request, response, bytes))
            .map_err(|fault| Unheard::Refuse(Refusal::Response(fault)))?;
        if !response.interim() {
            return Ok(());
        }
        if interim == MAX_INTERIM {
            return Err(Unheard::Refuse(Refusal::Response(Fault::InterimFlood)));
        }
        interim += 1;
        down.clear(); // what an earlier request left is not sent
        if asked.version == Version::Http11 {
            let how = ToClient {
                version: asked.version,
                close: false,
                unchunk: false,
                hsts: None,
                cookie: StickyCookie::Untouched,
            };
            rewrite::response(down, response, bytes, &how);
        }
        upstream.inbox.consume(end.1);
        scratch.record.sent(scratch.down.len() as u64);
        if asked.version == Version::Http11
            && session.write(&scratch.down, false).await != After::KeepAlive
        {
            return Err(Unheard::ClientGone);
        }
    }
}

/// Pushes the request and waits for a head of the member. Returns where it lies in the inbox.
async fn next_head(
    session: &mut Session,
    asked: &Asked,
    upstream: &mut Upstream,
    up: &mut Transfer,
) -> Result<(usize, usize), Unheard> {
    let mut scanner = Scanner::default();
    let mut watch = Watch::default();
    let mut limit = None;
    poll_fn(|cx| {
        let before = up.sent();
        if !up.is_done() && !watch.broken {
            let Session {
                conn,
                inbox,
                worker,
                ..
            } = session;
            match up.poll(cx, conn, inbox, &mut upstream.conn, worker) {
                Poll::Ready(Ok(())) | Poll::Pending => {}
                // The member may have answered early and closed: its answer is still to be read.
                Poll::Ready(Err(TransferError::Write)) => watch.broken = true,
                Poll::Ready(Err(TransferError::Fault(fault))) => {
                    return Poll::Ready(Err(Unheard::Refuse(Refusal::Request(fault))));
                }
                Poll::Ready(Err(TransferError::Read)) => {
                    return Poll::Ready(Err(Unheard::ClientGone));
                }
            }
        }
        if up.is_done() && watch.client_gone(cx, session) {
            return Poll::Ready(Err(Unheard::ClientGone));
        }
        loop {
            match scanner.scan(upstream.inbox.bytes()) {
                Ok(Scan::Complete { start, end }) => return Poll::Ready(Ok((start, end))),
                Ok(Scan::Partial) => {}
                Err(fault) => {
                    let why = Refusal::Response(fault);
                    return Poll::Ready(Err(Unheard::Refuse(why)));
                }
            }
            let Upstream {
                conn,
                inbox,
                served,
                ..
            } = upstream;
            match inbox.poll_fill(cx, conn, &session.worker.buffers) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => {
                    return Poll::Ready(Err(if !inbox.is_empty() {
                        Unheard::Refuse(Refusal::Response(Fault::Truncated))
                    } else if *served > 0
                        && (up.sent() == 0 || asked.method.idempotent() && !up.body_sent())
                    {
                        Unheard::Retry
                    } else {
                        Unheard::Refuse(Refusal::MemberGone)
                    }));
                }
                Poll::Pending => break,
            }
        }
        // Who is late: the client with its body, or the member with its answer?
        let client_late = !up.is_done() && !watch.broken && up.waits() == Waits::Read;
        if up.sent() != before || limit != Some(client_late) {
            limit = Some(client_late);
            session.clock.set(match client_late {
                true => asked.client_data,
                false => asked.member_data,
            });
        }
        session.clock.poll(&session.worker.timers, cx).map(|()| {
            Err(Unheard::Refuse(match client_late {
                true => Refusal::RequestTimeout,
                false => Refusal::MemberTimeout,
            }))
        })
    })
    .await
}

/// Notices a client that resets its connection while nothing is read from it.
#[derive(Debug, Default)]
struct Watch {
    /// The member takes no more of the request.
    broken: bool,
    /// The client has ended its direction, which is its right.
    ended: bool,
}

impl Watch {
    /// Reads ahead what the client pipelines, as far as there is room.
    fn client_gone(&mut self, cx: &mut Context<'_>, session: &mut Session) -> bool {
        while !self.ended && session.inbox.has_room() {
            let Session {
                conn,
                inbox,
                worker,
                ..
            } = session;
            match inbox.poll_fill(cx, conn, &worker.buffers) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return true,
                Poll::Pending => break,
            }
        }
        false
    }
}

/// How far both directions came.
struct Finished {
    request: bool,
    response: bool,
    after: After,
}

impl Finished {
    const fn abort() -> Self {
        Self {
            request: false,
            response: false,
            after: After::Abort,
        }
    }
}

/// Relays the final response, and what is left of the request.
async fn respond(
    session: &mut Session,
    scratch: &mut Parts,
    asked: &Asked,
    upstream: &mut Upstream,
    up: &mut Transfer,
) -> Finished {
    let Parts {
        response,
        down,
        record,
        ..
    } = scratch;
    record.heard(response.status);
    let unchunk = asked.version == Version::Http10 && response.framing == Framing::Chunked;
    let close = !asked.keep_alive || unchunk || response.framing == Framing::UntilClose;
    down.clear();
    let how = ToClient {
        version: asked.version,
        close,
        unchunk,
        hsts: asked.hsts,
        cookie: upstream.cookie,
    };
    rewrite::response(down, response, upstream.inbox.bytes(), &how);
    upstream.learn(response);
    upstream.judge(response.status);
    upstream.inbox.consume(usize::from(response.end));
    let head = std::mem::take(down);
    let transfer = Transfer::new(head, response.framing, Side::Member, unchunk);
    let mut transfer = transfer.last(close);
    let relayed = pump(session, asked, upstream, up, &mut transfer).await;
    let sent = transfer.sent();
    record.sent(sent);
    scratch.down = transfer.into_head();
    let member = upstream.guard.id();
    match relayed {
        Ok(()) => {}
        Err(Ended::Client) => {
            scratch.record.client_gone();
            return Finished::abort();
        }
        Err(Ended::Member(fault)) => {
            if sent == 0 {
                let mut finished = Finished::abort();
                let frame = asked.frame(up.is_done());
                let why = Refusal::Response(fault);
                scratch.record.refused(why);
                finished.after = session.answer(&mut scratch.down, why, frame).await;
                scratch.record.sent(scratch.down.len() as u64);
                return finished;
            }
            let end = match fault {
                Fault::Truncated => End(*b"SD"),
                _ => End(*b"PD"),
            };
            scratch.record.cut(end, fault.reason());
            log::broken(session.listener.id, member, fault.reason());
            // Without a length, only a reset tells the client that something is missing.
            session.conn.reset_on_close();
            return Finished::abort();
        }
        Err(Ended::Late(who)) => {
            let reason = who.reason();
            scratch.record.cut(who.end(), reason);
            log::broken(session.listener.id, member, reason);
            session.conn.reset_on_close();
            return Finished::abort();
        }
    }
    let after = match close || !up.is_done() {
        true => After::Close,
        false => After::KeepAlive,
    };
    Finished {
        request: up.is_done(),
        response: true,
        after,
    }
}

enum Ended {
    Client,
    Member(Fault),
    Late(Late),
}

/// Who moved no byte for too long.
#[derive(Debug, Clone, Copy)]
enum Late {
    Client,
    Member,
}

impl Late {
    const fn reason(self) -> &'static str {
        match self {
            Self::Client => "client takes no data",
            Self::Member => "member sends no data",
        }
    }

    /// For the access log.
    const fn end(self) -> End {
        End(match self {
            Self::Client => *b"cD",
            Self::Member => *b"sD",
        })
    }
}

/// Relays until the response is out. A request that is still on its way then goes on while the
/// member takes it, so that the connection can be kept.
async fn pump(
    session: &mut Session,
    asked: &Asked,
    upstream: &mut Upstream,
    up: &mut Transfer,
    down: &mut Transfer,
) -> Result<(), Ended> {
    let mut watch = Watch::default();
    let mut limit = None;
    poll_fn(|cx| {
        let before = up.sent() ^ down.sent().rotate_left(32);
        if !up.is_done() && !watch.broken {
            let Session {
                conn,
                inbox,
                worker,
                ..
            } = session;
            match up.poll(cx, conn, inbox, &mut upstream.conn, worker) {
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(TransferError::Write)) => watch.broken = true,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Ended::Client)),
            }
        }
        if !down.is_done() {
            let Upstream { conn, inbox, .. } = upstream;
            match down.poll(cx, conn, inbox, &mut session.conn, &session.worker) {
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(TransferError::Write)) => {
                    return Poll::Ready(Err(Ended::Client));
                }
                Poll::Ready(Err(TransferError::Fault(fault))) => {
                    return Poll::Ready(Err(Ended::Member(fault)));
                }
                Poll::Ready(Err(TransferError::Read)) => {
                    return Poll::Ready(Err(Ended::Member(Fault::Truncated)));
                }
            }
        }
        let upload_goes_on = !up.is_done() && !watch.broken && asked.keep_alive;
        if down.is_done() && !upload_goes_on {
            return Poll::Ready(Ok(()));
        }
        if up.is_done() && watch.client_gone(cx, session) {
            return Poll::Ready(Err(Ended::Client));
        }
        let client_late = match down.is_done() {
            true => up.waits() == Waits::Read,
            false => down.waits() == Waits::Write,
        };
        let moved = before != up.sent() ^ down.sent().rotate_left(32);
        if moved || limit != Some(client_late) {
            limit = Some(client_late);
            session.clock.set(match client_late {
                true => asked.client_data,
                false => asked.member_data,
            });
        }
        let late = session.clock.poll(&session.worker.timers, cx);
        late.map(|()| match (down.is_done(), client_late) {
            (true, _) => Ok(()), // the answer is out; the rest of the request never came
            (false, true) => Err(Ended::Late(Late::Client)),
            (false, false) => Err(Ended::Late(Late::Member)),
        })
    })
    .await
}

/// After 101: bytes both ways.
async fn upgraded(
    session: &mut Session,
    scratch: &mut Parts,
    asked: &Asked,
    upstream: &mut Upstream,
) -> After {
    let Parts {
        response,
        down,
        record,
        ..
    } = scratch;
    record.heard(response.status);
    let how = ToClient {
        version: asked.version,
        close: false,
        unchunk: false,
        hsts: None,
        cookie: upstream.cookie,
    };
    down.clear();
    rewrite::response(down, response, upstream.inbox.bytes(), &how);
    upstream.learn(response);
    upstream.inbox.consume(usize::from(response.end));
    down.extend_from_slice(upstream.inbox.bytes());
    upstream.inbox.clear();
    record.sent(down.len() as u64);
    if session.write(down, false).await != After::KeepAlive {
        return After::Abort;
    }
    if !session.inbox.is_empty() {
        if upstream
            .conn
            .write_all(session.inbox.bytes())
            .await
            .is_err()
        {
            return After::Abort;
        }
        session.inbox.clear();
    }
    let idle = IdleTimeouts {
        client: asked.client_data,
        member: asked.member_data,
    };
    let ended = {
        let Session {
            conn,
            clock,
            worker,
            ..
        } = session;
        tunnel(conn, &mut upstream.conn, idle, clock, worker).await
    };
    record.tunneled(&ended, idle.client_is_first());
    if let Err(error) = ended.result {
        tracing::debug!(error = krater_model::report(&error), "tunnel ended");
    }
    After::Abort
}
