//! Accept_Mode (RFC 9568 section 6.1): packets to addresses of routers that do not accept are dropped on this
//! host, whether we are Active (section 6.4.3) or Backup (section 6.4.2), so that a takeover changes nothing here.

use krater_net::{Result, filter};
use krater_vrrp_proto::Router;
use std::net::IpAddr;

/// What the kernel was told.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    addresses: Vec<IpAddr>,
}

impl Refusals {
    /// Tells the kernel what these routers do not accept, unless it knows.
    pub(crate) fn set<'a>(&mut self, routers: impl Iterator<Item = &'a Router>) -> Result<()> {
        let closed = routers.filter(|router| !router.plain().accept);
        let mut wanted: Vec<IpAddr> = closed.flat_map(Router::moved).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted != self.addresses {
            filter::refuse_packets_to(&wanted)?;
            self.addresses = wanted;
        }
        Ok(())
    }
}
