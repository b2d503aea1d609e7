//! Contracts between controller and amphora. The public REST types live in the controller.
pub mod agent;
pub mod checksum;
pub mod dns;
pub mod heartbeat;
pub mod liveness;
