//! What the machine wants done, and what it reports.

use crate::time::Span;
use ipnet::IpNet;
use krater_model::control::RouterState;
use krater_model::state::{Route, Rule};
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;

/// An effect. The caller performs them in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send an advertisement with this priority to every peer.
    SendAdvert {
        /// Own priority, or 0 to resign.
        priority: u8,
    },
    /// Install: addresses, then routes, then rules.
    Add(Belongings),
    /// Withdraw: rules, then routes, then addresses.
    Remove(Belongings),
    /// Send one gratuitous ARP or unsolicited NA for each address held.
    Announce,
    /// The state changed.
    StateChanged {
        /// Before.
        old: RouterState,
        /// After.
        new: RouterState,
        /// Why.
        reason: Reason,
    },
    /// Something worth a log line or a counter that changed no state.
    Notice(Notice),
}

/// What follows the Active role.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Belongings {
    /// Addresses with prefix length.
    pub addresses: Vec<IpNet>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Rules.
    pub rules: Vec<Rule>,
}

impl Belongings {
    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.routes.is_empty() && self.rules.is_empty()
    }
    /// What is in `self` and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        fn rest<T: Clone + PartialEq>(mine: &[T], other: &[T]) -> Vec<T> {
            mine.iter()
                .filter(|item| !other.contains(item))
                .cloned()
                .collect()
        }
        Self {
            addresses: rest(&self.addresses, &other.addresses),
            routes: rest(&self.routes, &other.routes),
            rules: rest(&self.rules, &other.rules),
        }
    }
}

/// Something that a router needs is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The interface is missing, down, or has no carrier.
    Link,
    /// A tracked interface is missing, down, or has no carrier.
    TrackedLink,
    /// Nobody has told us which data plane to watch.
    DataplaneAbsent,
    /// The data plane's process has ended.
    DataplaneDead,
    /// The data plane's progress counter stands still.
    DataplaneFrozen,
    /// The data plane says that it is not ready.
    DataplaneNotReady,
    /// Another router of the sync group is at fault.
    SyncGroup,
    /// A tracked check is down, or nobody reports it.
    Check,
}

impl Fault {
    const ALL: [Self; 8] = [
        Self::Link,
        Self::TrackedLink,
        Self::DataplaneAbsent,
        Self::DataplaneDead,
        Self::DataplaneFrozen,
        Self::DataplaneNotReady,
        Self::SyncGroup,
        Self::Check,
    ];
    const fn bit(self) -> u8 {
        match self {
            Self::Link => 1,
            Self::DataplaneAbsent => 2,
            Self::DataplaneDead => 4,
            Self::DataplaneFrozen => 8,
            Self::DataplaneNotReady => 16,
            Self::TrackedLink => 32,
            Self::SyncGroup => 64,
            Self::Check => 128,
        }
    }
    const fn text(self) -> &'static str {
        match self {
            Self::Link => "interface missing, down or without carrier",
            Self::TrackedLink => "a tracked interface is missing, down or without carrier",
            Self::DataplaneAbsent => "no data plane to watch yet",
            Self::DataplaneDead => "data plane ended",
            Self::DataplaneFrozen => "data plane makes no progress",
            Self::DataplaneNotReady => "data plane not ready",
            Self::SyncGroup => "another router of the sync group is at fault",
            Self::Check => "a tracked check is down or not reported",
        }
    }
}

/// A set of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Faults(u8);

impl Faults {
    /// All is well.
    pub const NONE: Self = Self(0);

    /// With one more.
    #[must_use]
    pub const fn with(self, fault: Fault) -> Self {
        Self(self.0 | fault.bit())
    }
    /// Whether all is well.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Whether `fault` is among them.
    pub const fn contains(self, fault: Fault) -> bool {
        self.0 & fault.bit() != 0
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for fault in Fault::ALL.into_iter().filter(|fault| self.contains(*fault)) {
            let comma = if first { "" } else { ", " };
            write!(f, "{comma}{}", fault.text())?;
            first = false;
        }
        Ok(())
    }
}

/// Why a state was entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Made, not started.
    Created,
    /// Started, or healthy again, and listening for an Active.
    Listening,
    /// No peers are configured.
    Alone,
    /// We own the addresses.
    Owner,
    /// Nothing heard from the Active for so long.
    Silence(Span),
    /// The liveness session with the Active ended in silence.
    Dead {
        /// Who.
        peer: IpAddr,
        /// Since its last advertisement.
        silence: Span,
    },
    /// Nothing heard from the Active for so long, which lives, as another network tells.
    Cut {
        /// Who.
        peer: IpAddr,
        /// Since its last advertisement.
        silence: Span,
    },
    /// The Active resigned with priority 0.
    Resigned(IpAddr),
    /// Another Active wins the election.
    Outranked {
        /// Who.
        by: IpAddr,
        /// With what priority.
        priority: u8,
    },
    /// We stood still for so long, and found another Active afterwards.
    Displaced {
        /// Who.
        by: IpAddr,
        /// How long since our last advert.
        silence: Span,
    },
    /// Handed over as told.
    HandedOver {
        /// To whom.
        to: IpAddr,
        /// From the resignation to the withdrawal; the addresses were served all the time.
        took: Span,
    },
    /// Another router of the sync group is not Active any more.
    GroupGaveUp,
    /// Something is broken.
    Faulty(Faults),
    /// Told to stop.
    Shutdown,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created => f.write_str("created"),
            Self::Listening => f.write_str("listening for an Active"),
            Self::Alone => f.write_str("no peers configured"),
            Self::Owner => f.write_str("owner of the addresses"),
            Self::Silence(span) => write!(f, "no advertisement for {span}"),
            Self::Dead { peer, silence } => {
                write!(
                    f,
                    "{peer} is dead: no heartbeat, and no advertisement for {silence}"
                )
            }
            Self::Cut { peer, silence } => write!(
                f,
                "no advertisement for {silence} of {peer}, which lives: the network between is split"
            ),
            Self::Resigned(by) => write!(f, "{by} resigned"),
            Self::Outranked { by, priority } => {
                write!(f, "{by} is Active with priority {priority}")
            }
            Self::Displaced { by, silence } => {
                write!(f, "{by} became Active while we stood still for {silence}")
            }
            Self::HandedOver { to, took } => write!(f, "handed over to {to} in {took}"),
            Self::GroupGaveUp => f.write_str("another router of the sync group gave up"),
            Self::Faulty(faults) => faults.fmt(f),
            Self::Shutdown => f.write_str("shutdown"),
        }
    }
}

/// A report that changed no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// We are Active and hear another Active that loses the election.
    RivalActive {
        /// Who.
        source: IpAddr,
        /// With what priority.
        priority: u8,
    },
    /// Another Active is not heard any more: it gave way.
    RivalGone {
        /// Who.
        source: IpAddr,
        /// From its first advert that we heard to the last one.
        lasted: Span,
    },
    /// We are the owner (priority 255), and so is another router: one of the two is configured wrong.
    TwoOwners {
        /// Who.
        source: IpAddr,
    },
    /// Told to hand over, but nobody took over: we stay Active.
    NoSuccessor {
        /// How long we waited.
        waited: Span,
    },
    /// We woke up so much too late and listen before we speak.
    Stalled {
        /// Lateness.
        late: Span,
    },
    /// The Active's interval is not ours; in VRRPv3 the Active's counts.
    IntervalLearned {
        /// From whom.
        source: IpAddr,
        /// The interval.
        interval: Span,
    },
    /// An advert's address list is not ours (reported at its first advert only).
    AddressesDiffer {
        /// Whose.
        source: IpAddr,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RivalActive { source, priority } => {
                write!(f, "{source} is Active too, with losing priority {priority}")
            }
            Self::RivalGone { source, lasted } => {
                write!(
                    f,
                    "{source} is not Active any more; it was heard for {lasted}"
                )
            }
            Self::TwoOwners { source } => write!(
                f,
                "{source} claims to own the addresses too: only one router may have priority 255"
            ),
            Self::NoSuccessor { waited } => {
                write!(f, "no peer took over within {waited}: staying Active")
            }
            Self::Stalled { late } => write!(f, "woke up {late} late: listening first"),
            Self::IntervalLearned { source, interval } => {
                write!(f, "{source} advertises every {interval}: adopted")
            }
            Self::AddressesDiffer { source } => {
                write!(f, "{source} advertises other addresses than ours")
            }
        }
    }
}
