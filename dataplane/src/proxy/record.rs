//! What an access log will say of a request or connection, gathered while it goes on. Without a log every
//! call is one comparison.

use crate::access_log::ListenerLog;
use crate::io::{Conn, RelayError, Side, TunnelEnd};
use crate::runtime::{ListenerRuntime, ListenerView, MemberGuard, PoolView};
use crate::worker::WorkerShared;
use krater_dataplane_core::access_log::{End, Entry, Http, Load, MAX_LINE, Times};
use krater_dataplane_core::http1::{Fault, Refusal};
use krater_dataplane_core::member::MemberState;
use krater_dataplane_core::persistence::Token;
use krater_dataplane_core::table::{ListenerConf, MemberConf, PoolConf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One request, or one connection. [`Self::write`] ends it.
#[derive(Debug, Default)]
pub(super) struct Record(Option<Box<Facts>>);

#[derive(Debug)]
struct Facts {
    log: Arc<ListenerLog>,
    listener: Arc<ListenerConf>,
    began: Instant,
    headed: Option<Instant>,
    chosen: Option<Instant>,
    connected: Option<Instant>,
    heard: Option<Instant>,
    line: Option<Vec<u8>>,
    pool: Option<Arc<PoolConf>>,
    member: Option<(Arc<MemberConf>, Arc<MemberState>)>,
    status: Option<u16>,
    bytes: u64,
    end: End,
    cookie: [u8; 2],
    retries: u64,
    /// Who was before it, and whether for one member.
    ahead: Option<(usize, bool)>,
    reason: Option<&'static str>,
}

impl Record {
    /// Begins a record, if the listener logs. The head of a request `took` so long to come.
    pub(super) fn begin(&mut self, view: &ListenerView, took: Duration) {
        self.0 = view.log.as_ref().map(|log| {
            let now = Instant::now();
            Box::new(Facts {
                log: Arc::clone(log),
                listener: Arc::clone(&view.conf),
                began: now.checked_sub(took).unwrap_or(now),
                headed: Some(now),
                chosen: None,
                connected: None,
                heard: None,
                line: None,
                pool: None,
                member: None,
                status: None,
                bytes: 0,
                end: End::GOOD,
                cookie: *b"--",
                retries: 0,
                ahead: None,
                reason: None,
            })
        });
    }

    /// The head of a request, from which the first line is kept.
    pub(super) fn head(&mut self, head: &[u8]) {
        if let Some(facts) = &mut self.0 {
            let end = head.iter().position(|c| *c == b'\r').unwrap_or(head.len());
            let line = head.get(..end.min(MAX_LINE)).unwrap_or_default();
            facts.line = Some(line.to_vec());
        }
    }

    pub(super) fn pool(&mut self, pool: &PoolView) {
        if let Some(facts) = &mut self.0 {
            facts.pool = Some(Arc::clone(&pool.conf));
        }
    }

    /// It waits in the queue.
    pub(super) fn queued(&mut self, ahead: usize, for_one: bool) {
        if let Some(facts) = &mut self.0 {
            facts.ahead = Some((ahead, for_one));
        }
    }

    /// A member was chosen.
    pub(super) fn chosen(&mut self, guard: &MemberGuard) {
        if let Some(facts) = &mut self.0 {
            facts.chosen = Some(Instant::now());
            facts.member = Some((Arc::clone(guard.conf()), Arc::clone(guard.state())));
        }
    }

    /// A member could not be reached.
    pub(super) fn unreached(&mut self) {
        if let Some(facts) = &mut self.0 {
            facts.retries += 1;
        }
    }

    /// There is a connection to the member.
    pub(super) fn connected(&mut self) {
        if let Some(facts) = &mut self.0 {
            facts.connected = Some(Instant::now());
        }
    }

    /// What our cookie did: HAProxy's letters.
    pub(super) fn cookie(&mut self, token: Token, followed: bool) {
        if let Some(facts) = &mut self.0 {
            facts.cookie = match (token, followed) {
                (_, true) => *b"VN",
                (Token::Member(_), false) => *b"DI",
                (Token::None | Token::Cookie(_), false) => *b"NI",
            };
        }
    }

    /// The member's answer has a head.
    pub(super) fn heard(&mut self, status: u16) {
        if let Some(facts) = &mut self.0 {
            facts.heard = Some(Instant::now());
            facts.status = Some(status);
        }
    }

    /// So many bytes went to the client.
    pub(super) fn sent(&mut self, bytes: u64) {
        if let Some(facts) = &mut self.0 {
            facts.bytes += bytes;
        }
    }

    /// We answer with a redirect.
    pub(super) fn redirected(&mut self, code: u16) {
        if let Some(facts) = &mut self.0 {
            facts.status = Some(code);
            facts.end = End(*b"LR");
        }
    }

    /// We answer, or close, for this reason.
    pub(super) fn refused(&mut self, why: Refusal) {
        if let Some(facts) = &mut self.0 {
            facts.status = Some(why.status());
            facts.reason = Some(why.reason());
            facts.end = facts.refusal(why);
            let of_head = matches!(why, Refusal::Request(_) | Refusal::RequestTimeout);
            if of_head && facts.line.is_none() {
                facts.headed = None; // there was no whole head
            }
            if matches!(why, Refusal::NoMember) {
                facts.member = None;
            }
        }
    }

    /// It ended in the middle.
    pub(super) fn cut(&mut self, end: End, reason: &'static str) {
        if let Some(facts) = &mut self.0 {
            facts.end = end;
            facts.reason = Some(reason);
        }
    }

    /// The client went away.
    pub(super) fn client_gone(&mut self) {
        if let Some(facts) = &mut self.0 {
            facts.end = End([b'C', facts.phase()]);
        }
    }

    /// Bytes both ways came to their end.
    pub(super) fn tunneled(&mut self, end: &TunnelEnd, client_is_first: bool) {
        if let Some(facts) = &mut self.0 {
            facts.bytes += end.down;
            facts.end = match &end.result {
                Ok(()) => End::GOOD,
                Err(RelayError::Idle(_)) if client_is_first => End(*b"cD"),
                Err(RelayError::Idle(_)) => End(*b"sD"),
                Err(RelayError::Io {
                    side: Side::From, ..
                }) => End(*b"CD"),
                Err(RelayError::Io { side: Side::To, .. }) => End(*b"SD"),
            };
        }
    }

    /// Hands the line of a request over to the log. The member's place must have been given back.
    pub(super) fn write_request(&mut self, client: &Conn, worker: &WorkerShared) {
        self.write(client, worker, true);
    }

    /// Hands the line of a connection over to the log. The member's place must have been given back.
    pub(super) fn write_connection(&mut self, client: &Conn, worker: &WorkerShared) {
        self.write(client, worker, false);
    }

    fn write(&mut self, client: &Conn, worker: &WorkerShared, http: bool) {
        let Some(facts) = self.0.take() else {
            return;
        };
        let now = Instant::now();
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let total = now.saturating_duration_since(facts.began);
        let member = facts.member.as_ref();
        let status = facts.status;
        let line = facts.line.as_deref();
        let runtime = worker.shared.listener_runtime(facts.listener.id);
        let (listener, pool) = (
            runtime.map_or(0, |runtime: Arc<ListenerRuntime>| runtime.open()),
            facts
                .pool
                .as_ref()
                .map_or(0, |p| worker.shared.in_pool(p.id)),
        );
        let (member_queue, pool_queue) = match facts.ahead {
            Some((ahead, true)) => (ahead as u64, 0),
            Some((ahead, false)) => (0, ahead as u64),
            None => (0, 0),
        };
        let entry = Entry {
            began: ms(wall.saturating_sub(total)),
            client: client.peer(),
            listener: &facts.listener.label,
            tls: client.tls().map(|tls| tls.version),
            pool: facts.pool.as_ref().map(|pool| pool.label.as_str()),
            member: member.map(|(conf, _)| conf.label.as_str()),
            times: facts.times(total),
            bytes: facts.bytes,
            end: facts.end,
            cookie: facts.cookie,
            load: Load {
                process: worker.process_load(),
                listener,
                pool,
                member: member.map_or(0, |(_, state)| state.active()),
                retries: facts.retries,
                member_queue,
                pool_queue,
            },
            http: http.then_some(Http { status, line }),
            reason: facts.reason,
        };
        worker.lines.add(&worker.shared, &facts.log, &entry);
    }
}

impl Facts {
    fn times(&self, total: Duration) -> Times {
        let between = |from: Option<Instant>, to: Option<Instant>| {
            Some(ms(to?.saturating_duration_since(from?)))
        };
        Times {
            request: between(Some(self.began), self.headed),
            queue: between(self.headed, self.chosen),
            connect: between(self.chosen, self.connected),
            response: between(self.connected, self.heard),
            total: ms(total),
        }
    }

    /// HAProxy's letter for how far it came.
    fn phase(&self) -> u8 {
        match self {
            Self { heard: Some(_), .. } => b'D',
            Self {
                connected: Some(_), ..
            } => b'H',
            Self {
                chosen: Some(_), ..
            } => b'C',
            Self { ahead: Some(_), .. } => b'Q',
            _ => b'R',
        }
    }

    /// HAProxy's letters for an answer of ours.
    fn refusal(&self, why: Refusal) -> End {
        End(match why {
            Refusal::Request(Fault::Truncated) => *b"CR",
            Refusal::Request(_) | Refusal::Rejected => *b"PR",
            Refusal::RequestTimeout if self.connected.is_some() => *b"cD",
            Refusal::RequestTimeout => *b"cR",
            Refusal::Response(_) => *b"PH",
            Refusal::MemberGone => *b"SH",
            Refusal::NoMember | Refusal::ConnectFailed => *b"SC",
            Refusal::QueueFull => *b"PQ",
            Refusal::QueueTimeout => *b"sQ",
            Refusal::Own(_) => *b"RC",
            Refusal::MemberTimeout => *b"sH",
            Refusal::Internal => *b"IH",
        })
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
