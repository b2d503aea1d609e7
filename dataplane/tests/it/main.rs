//! Integration tests of the data plane, one binary.
#![allow(unreachable_pub, reason = "one binary: nothing is reachable")]

mod http1;
