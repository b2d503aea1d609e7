//! The real `amphora` in namespaces of its own. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test kit: what is not as expected fails the test"
)]

mod appliance;
mod apply;
mod crash;
mod more;
mod mtls;
mod rig;
