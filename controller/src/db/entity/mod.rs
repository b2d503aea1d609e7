//! Row types, one module per table. They are not what the API shows.

pub mod address;
pub mod amphora;
pub mod amphora_health;
pub mod availability_zone;
pub mod availability_zone_profile;
pub mod flavor;
pub mod flavor_profile;
pub mod flow;
pub mod flow_step;
pub mod health_monitor;
pub mod l7policy;
pub mod l7rule;
pub mod listener;
pub mod listener_statistics;
pub mod load_balancer;
pub mod member;
pub mod meta;
pub mod network;
pub mod pool;
pub mod port;
pub mod quota;
pub mod session_persistence;
pub mod subnet;
pub mod tag;
