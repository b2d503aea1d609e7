//! The real programs, end to end, in namespaces. See docs/testing.md.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "what is not as expected fails the test and says where"
)]

mod agent_api;
mod api_errors;
mod attributes;
mod chain;
mod crash;
mod demo;
mod disk;
mod faults;
mod guest;
mod heartbeats;
mod image;
mod live;
mod logs;
mod machines;
mod metrics;
mod openstack;
mod package;
mod persistence;
mod security;
mod story;
mod tls;
