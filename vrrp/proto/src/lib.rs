//! VRRP without I/O: codec, receive ladder and state machine (RFC 9568).
//!
//! What belongs here: everything that decides. Inputs carry the time, outputs are polled, and no
//! clock, socket or random number is used, so that a simulation drives the very code that runs.
//! What never will: sockets, netlink, threads, logging.
//!
//! | module | what it owns |
//! |---|---|
//! | [`time`] | microseconds as types |
//! | [`timers`] | Skew_Time and Active_Down_Interval in exact integers |
//! | [`packet`] | bytes of an advertisement ⇄ meaning |
//! | [`frame`] | frames to the group from a virtual MAC address |
//! | [`check`] | a check that somebody else makes |
//! | [`receive`] | which received packets may reach the machine, in what order they are refused |
//! | [`router`] | configuration of a virtual router that cannot be built wrong |
//! | [`group`] | when routers that belong together change state |
//! | [`liveness`] | heartbeats with a peer, and when its silence is death |
//! | [`term`] | numbers that tell a later Active from an earlier one |
//! | [`strays`] | how often to look at what neighbours send to the wrong host |
//! | [`machine`] | the states of RFC 9568 section 6.4 with fault, stall and heal |
#![forbid(unsafe_code)]

mod announcer;
pub mod check;
pub mod frame;
pub mod group;
pub mod liveness;
pub mod machine;
pub mod output;
pub mod packet;
pub mod receive;
pub mod router;
pub mod strays;
pub mod term;
pub mod time;
pub mod timers;

pub use group::Standing;
pub use machine::{Event, Machine};
pub use output::{Belongings, Fault, Faults, Notice, Output, Reason};
pub use packet::{Advert, Authentication, ChecksumForm, Packet, Version};
pub use receive::{Datagram, DropReason, Heard};
pub use router::Router;
pub use time::{Span, Time};
