//! A connection to a member for one request.

use super::Session;
use super::inbox::Inbox;
use crate::io::Conn;
use crate::proxy::record::Record;
use crate::proxy::{self, Choosing, TRIES, Unreached};
use crate::runtime::{ListenerView, MemberGuard, PoolRuntime, PoolView, SelectInput};
use crate::upstream::pool::Wanted;
use krater_dataplane_core::http1::rewrite::StickyCookie;
use krater_dataplane_core::http1::{Refusal, ResponseHead};
use krater_dataplane_core::persistence::{CookieKey, Token};
use krater_dataplane_core::table::PoolConf;
use krater_model::MemberId;
use krater_model::state::{Persistence, PoolProtocol};
use std::sync::Arc;

/// A member that takes the request.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) guard: MemberGuard,
    pub(super) conn: Conn,
    pub(super) inbox: Inbox,
    /// Requests that were answered on the connection before.
    pub(super) served: u32,
    /// It may serve other clients' requests afterwards.
    pub(super) shareable: bool,
    /// What its response does to the client's cookies.
    pub(super) cookie: StickyCookie,
    /// Who learns from the cookies that it sets.
    learner: Option<(Arc<PoolConf>, Arc<PoolRuntime>)>,
    /// Bad answers in a row that take the member down.
    failures: Option<u32>,
}

impl Upstream {
    fn new(pool: &PoolView, guard: MemberGuard, conn: Conn, served: u32, shareable: bool) -> Self {
        let (mut cookie, mut learner) = (StickyCookie::Untouched, None);
        match &pool.conf.persistence {
            Some(Persistence::HttpCookie) if guard.followed() => cookie = StickyCookie::Known,
            Some(Persistence::HttpCookie) => cookie = StickyCookie::Insert(guard.id()),
            Some(Persistence::AppCookie { .. }) => {
                learner = Some((Arc::clone(&pool.conf), Arc::clone(&pool.runtime)));
            }
            Some(Persistence::SourceIp { .. }) | None => {}
        }
        Self {
            guard,
            conn,
            inbox: Inbox::default(),
            served,
            shareable,
            cookie,
            learner,
            failures: pool.conf.failures_in_a_row,
        }
    }

    /// What the response says about the member's health.
    pub(super) fn judge(&self, status: u16) {
        if self.failures.is_none() {
            return;
        }
        let (id, state) = (self.guard.id(), self.guard.state());
        if status < 500 {
            state.observe_success();
        } else if state.observe_failure(self.failures) {
            tracing::info!(member.id = %id, old = "Up", new = "Down", status, "member health changed");
        }
    }

    /// Notes the session that the response begins, if the pool keeps clients by the application's cookie.
    pub(super) fn learn(&self, response: &ResponseHead) {
        let Some((conf, runtime)) = &self.learner else {
            return;
        };
        let Some(Persistence::AppCookie { cookie_name }) = &conf.persistence else {
            return;
        };
        let value = response.set_cookie(self.inbox.bytes(), cookie_name);
        if let Some(key) = value.and_then(CookieKey::new) {
            runtime.learn(key, self.guard.id());
        }
    }
}

/// How to get one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// What an idle connection must be like; none: only a fresh one will do.
    pub(super) reuse: Option<Wanted>,
    /// What ties the client to a member.
    pub(super) token: Token,
}

/// Chooses a member and takes or makes a connection to it. `Err(None)`: the client is gone.
pub(super) async fn obtain(
    session: &Session,
    view: &ListenerView,
    pool: &PoolView,
    request: Request,
    record: &mut Record,
) -> Result<Upstream, Option<Refusal>> {
    let mut tried: Vec<MemberId> = Vec::new();
    let mut short = None;
    let client = session.conn.peer();
    let timeout = view.conf.timeouts.member_connect.duration();
    for _ in 0..TRIES {
        let input = SelectInput {
            client,
            exclude: &tried,
            token: request.token,
        };
        let guard = match proxy::choose(pool, &input, timeout, &session.conn, record).await {
            Ok(guard) => guard,
            Err(Choosing::Nobody) => break,
            Err(Choosing::Refused(why)) => return Err(Some(why)),
            Err(Choosing::ClientGone) => {
                record.client_gone();
                return Err(None);
            }
        };
        if pool.conf.persistence == Some(Persistence::HttpCookie) {
            record.cookie(request.token, guard.followed());
        }
        let (id, address) = (guard.id(), guard.address());
        let shareable = !announces_client(pool);
        let suits = |conn: &Conn| conn.suits(pool.connector(), proxy::sni(&session.conn));
        if let Some(wanted) = request.reuse.filter(|_| shareable)
            && let Some((conn, served)) = session.worker.members.take(id, address, wanted, suits)
        {
            record.connected();
            return Ok(Upstream::new(pool, guard, conn, served, shareable));
        }
        let name = session.certificate.as_ref().map(|c| c.common_name());
        let name = name.filter(|name| !name.is_empty());
        let worker = &session.worker;
        let connecting = proxy::connect(&session.conn, name, pool, address, timeout, worker);
        match connecting.await {
            Ok(conn) => {
                record.connected();
                return Ok(Upstream::new(pool, guard, conn, 0, shareable));
            }
            Err(Unreached::Own(own)) => {
                record.unreached();
                if !own.is_per_member() {
                    return Err(Some(Refusal::Own(own)));
                }
                short = Some(own);
                tried.push(id);
            }
            Err(Unreached::Member(error)) => {
                record.unreached();
                proxy::failed(pool, &guard, &error);
                tried.push(id);
            }
        }
    }
    Err(Some(proxy::nobody(short, &tried)))
}

/// The PROXY protocol names one client per connection, so the connection is that client's alone.
fn announces_client(pool: &PoolView) -> bool {
    matches!(
        pool.conf.protocol,
        PoolProtocol::Proxy | PoolProtocol::Proxyv2
    )
}
