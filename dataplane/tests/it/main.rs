//! The data plane as a process sees it from outside: control socket, clients, members, over loopback.
//!
//! Each test starts a data plane of its own in this process, on loopback addresses and a control
//! socket of its own. Conditions are waited for; nothing sleeps for a time.
#![allow(unreachable_pub, reason = "one binary: nothing is reachable")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod kit;

mod access_log;
mod balance;
mod control;
mod flood;
mod front;
mod growth;
mod health;
mod http1;
mod keepalive;
mod limits;
mod octavia;
mod peers;
mod per_worker;
mod process;
mod queue;
mod relay;
mod shortage;
mod swap;
mod tls;
mod tls_members;
