//! The client's state machine (RFC 2131, figure 5, without INIT-REBOOT).

use super::Lease;
use super::packet::{Ask, NotTaken, Query, Reply, read};
use crate::MacAddr;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Until the first repetition; RFC 2131 4.1 says 4 s for 10 Mbit/s Ethernet. A first packet that a bridge drops
/// while its new port comes up must not cost a boot that much.
const FIRST: Duration = Duration::from_secs(1);
/// The longest time between repetitions (RFC 2131, 4.1).
const LONGEST: Duration = Duration::from_secs(64);
/// Requests for an offer without an answer; after that the client asks for offers again.
const REQUESTS: u32 = 4;
/// The shortest time between repetitions while renewing and rebinding (RFC 2131, 4.4.5).
const RENEW_EVERY: Duration = Duration::from_secs(60);

/// What the shell does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this IPv4 packet to everybody on the link.
    Broadcast(Vec<u8>),
    /// Send this message from our address to port 67 of the server.
    Unicast(Ipv4Addr, Vec<u8>),
    /// Configure the NIC so. Comes again when a renewal changes something.
    Configure(Lease),
    /// Take what was configured away.
    Deconfigure(&'static str),
}

#[derive(Debug, Clone)]
enum State {
    /// Waiting for offers.
    Selecting,
    /// Waiting for the answer to a request for an offer.
    Requesting { address: Ipv4Addr, server: Ipv4Addr },
    /// Has a lease, and does nothing, renews or rebinds by its age.
    Bound { lease: Lease, since: Duration },
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    mac: MacAddr,
    host_name: Option<String>,
    state: State,
    /// Of the exchange that goes on; the answers to an older one are nobody's.
    xid: u32,
    /// When the exchange began.
    began: Duration,
    /// How often the message was sent.
    sent: u32,
    /// When to do something.
    due: Duration,
    random: u64,
}

impl Client {
    /// A client that asks at the next [`Self::tick`]. `seed` shall differ between machines that boot at the same time.
    pub fn new(mac: MacAddr, host_name: Option<String>, seed: u64, now: Duration) -> Self {
        let mut client = Self {
            mac,
            host_name,
            state: State::Selecting,
            xid: 0,
            began: now,
            sent: 0,
            due: now,
            random: seed | 1,
        };
        client.begin(State::Selecting, now);
        client
    }

    /// When [`Self::tick`] has something to do. Times are of any clock that never goes back.
    pub const fn due(&self) -> Duration {
        self.due
    }

    /// The lease, when there is one.
    pub const fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound { lease, .. } => Some(lease),
            _ => None,
        }
    }

    /// Messages sent since the last answer: shows that nobody answers.
    pub const fn unanswered(&self) -> u32 {
        self.sent
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration) -> Vec<Output> {
        if now < self.due {
            return Vec::new();
        }
        match self.state.clone() {
            State::Selecting => self.broadcast(Ask::Discover, now),
            State::Requesting { .. } if self.sent >= REQUESTS => {
                self.begin(State::Selecting, now);
                self.broadcast(Ask::Discover, now)
            }
            State::Requesting { address, server } => {
                self.broadcast(Ask::Request { address, server }, now)
            }
            State::Bound { lease, since } => self.extend(&lease, since, now),
        }
    }

    /// Takes an IPv4 packet. An error says why it is not taken; nothing has changed then.
    pub fn receive(&mut self, packet: &[u8], now: Duration) -> Result<Vec<Output>, NotTaken> {
        if self.sent == 0 {
            return Err(NotTaken::NotOurs); // nothing was asked
        }
        let reply = read(packet, self.mac, self.xid)?;
        match (&self.state, reply) {
            (State::Selecting, Reply::Offer { address, server }) => {
                // The first offer is as good as any. The exchange keeps its number (RFC 2131, 4.4.1).
                let xid = self.xid;
                self.begin(State::Requesting { address, server }, now);
                self.xid = xid;
                Ok(self.broadcast(Ask::Request { address, server }, now))
            }
            (State::Requesting { address, server }, Reply::Ack(lease)) => {
                if lease.address.addr() != *address || lease.server != *server {
                    return Err(NotTaken::Broken(
                        "it grants another address than was offered",
                    ));
                }
                Ok(self.bind(lease, now))
            }
            (State::Bound { lease: old, .. }, Reply::Ack(lease)) => {
                if lease.address.addr() != old.address.addr() {
                    return Err(NotTaken::Broken("it grants another address than we have"));
                }
                Ok(self.bind(lease, now))
            }
            (State::Requesting { .. }, Reply::Nak) => {
                self.begin(State::Selecting, now);
                // Not at once: a server that offers and refuses would be asked in a circle.
                self.due = now + self.jittered(FIRST);
                Ok(Vec::new())
            }
            (State::Bound { .. }, Reply::Nak) => {
                self.begin(State::Selecting, now);
                Ok(vec![Output::Deconfigure("the server refuses to renew it")])
            }
            _ => Err(NotTaken::NotOurs),
        }
    }

    /// What to send when the machine goes off: the address is free for others.
    pub fn release(&mut self) -> Option<Output> {
        let lease = self.lease()?.clone();
        self.xid = self.number();
        let ask = Ask::Release {
            address: lease.address.addr(),
            server: lease.server,
        };
        let message = self.query(ask, self.began).message();
        Some(Output::Unicast(lease.server, message))
    }

    fn bind(&mut self, lease: Lease, now: Duration) -> Vec<Output> {
        let same = self.lease().is_some_and(|old| {
            (old.address, &old.routes, old.mtu) == (lease.address, &lease.routes, lease.mtu)
        });
        // The lease runs from the request on (RFC 2131, 4.4.1), which is never later than now.
        let since = self.began;
        self.due = match lease.lasts {
            None => Duration::MAX,
            Some(_) => (since + lease.renew).max(now),
        };
        self.sent = 0;
        let output = Output::Configure(lease.clone());
        self.state = State::Bound { lease, since };
        if same { Vec::new() } else { vec![output] }
    }

    /// A lease that has reached T1, T2 or its end.
    fn extend(&mut self, lease: &Lease, since: Duration, now: Duration) -> Vec<Output> {
        let Some(lasts) = lease.lasts else {
            self.due = Duration::MAX;
            return Vec::new();
        };
        let (rebind, end) = (since + lease.rebind, since + lasts);
        if now >= end {
            self.begin(State::Selecting, now);
            let mut outputs = vec![Output::Deconfigure(
                "the lease has ended and nobody renewed it",
            )];
            outputs.extend(self.broadcast(Ask::Discover, now));
            return outputs;
        }
        if self.sent == 0 {
            self.xid = self.number();
            self.began = now;
        }
        self.sent = self.sent.saturating_add(1);
        let query = self.query(Ask::Extend(lease.address.addr()), now);
        let (output, until) = if now < rebind {
            (Output::Unicast(lease.server, query.message()), rebind)
        } else {
            // From our address, by everybody's: any server may answer.
            (Output::Broadcast(query.packet()), end)
        };
        // RFC 2131, 4.4.5: half of the time that is left, at least a minute; never beyond the next turn.
        let left = until - now;
        self.due = (now + (left / 2).max(RENEW_EVERY)).min(until);
        vec![output]
    }

    fn begin(&mut self, state: State, now: Duration) {
        self.state = state;
        self.xid = self.number();
        self.began = now;
        self.sent = 0;
        self.due = now;
    }

    fn broadcast(&mut self, ask: Ask, now: Duration) -> Vec<Output> {
        let packet = self.query(ask, now).packet();
        let doubled = FIRST.saturating_mul(1_u32.checked_shl(self.sent).unwrap_or(u32::MAX));
        self.sent = self.sent.saturating_add(1);
        self.due = now + self.jittered(doubled.min(LONGEST));
        vec![Output::Broadcast(packet)]
    }

    fn query(&self, ask: Ask, now: Duration) -> Query<'_> {
        let seconds = now.saturating_sub(self.began).as_secs();
        Query {
            ask,
            xid: self.xid,
            seconds: u16::try_from(seconds).unwrap_or(u16::MAX),
            mac: self.mac,
            host_name: self.host_name.as_deref(),
        }
    }

    /// A quarter more or less: machines that boot together shall not ask together for ever.
    fn jittered(&mut self, wait: Duration) -> Duration {
        let share = self.number() % 512; // of 1,024: 0 to a half
        wait * 3 / 4 + wait * share / 1_024
    }

    /// xorshift64*: not for secrets.
    fn number(&mut self) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let mixed = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d);
        u32::try_from(mixed >> 32).unwrap_or_default()
    }
}
