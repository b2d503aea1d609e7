//! Carries out the steps of a plan. Each step is one request to the kernel and harmless when repeated.

use super::plan::{self, Configuration, Link, Observed, Step};
use ipnet::IpNet;
use krater_model::MacAddr;
use krater_model::state::{Interface, Route, Rule};
use krater_net::PROTO_AGENT;
use krater_net::link::{self, Address, LinkChange, LinkControl};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

/// How long a NIC that a state names may take to be plugged in.
pub(crate) const HOT_PLUG: Duration = Duration::from_secs(3);

/// The agent's hand in both namespaces.
#[derive(Debug)]
pub(crate) struct Links<L, N> {
    pub(crate) management: L,
    pub(crate) management_ns: N,
    pub(crate) vip: L,
    pub(crate) vip_ns: N,
    /// How long to wait for NICs that are not there: [`HOT_PLUG`].
    pub(crate) patience: Duration,
}

/// A step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{step}")]
    Step {
        step: String,
        #[source]
        source: krater_net::Error,
    },
    #[error("list the network configuration")]
    List(#[source] krater_net::Error),
    #[error("watch the links")]
    Watch(#[source] io::Error),
    #[error(
        "no NIC has the address {mac} of interface {name}: plug it in, or correct interfaces[].mac"
    )]
    Missing { mac: MacAddr, name: String },
}

impl<L: LinkControl, N: AsFd> Links<L, N> {
    /// What is there now.
    pub(crate) async fn observe(&self) -> Result<Observed, LinkError> {
        let list = LinkError::List;
        let vip = self.vip.links().await.map_err(list)?;
        let addresses = self.vip.addresses().await.map_err(list)?;
        let routes = self.vip.routes().await.map_err(list)?;
        let rules = self.vip.rules().await.map_err(list)?;
        let management = self.management.links().await.map_err(list)?;
        let mut own: HashMap<u32, (Vec<IpNet>, Vec<Route>)> = HashMap::new();
        for address in addresses.iter().filter(|a| a.protocol == PROTO_AGENT) {
            own.entry(address.link).or_default().0.push(address.net);
        }
        for route in routes.iter().filter(|r| r.protocol == PROTO_AGENT) {
            let link = route.link.unwrap_or_default();
            own.entry(link).or_default().1.push(Route {
                to: route.to,
                via: route.via,
                table: route.table,
                source: route.source,
                onlink: route.onlink,
            });
        }
        Ok(Observed {
            management: management
                .into_iter()
                .filter_map(|l| nic(l, None))
                .collect(),
            vip: vip
                .into_iter()
                .filter_map(|link| {
                    let configuration = own.remove(&link.index);
                    nic(link, configuration)
                })
                .collect(),
            rules: rules
                .into_iter()
                .filter(|rule| rule.protocol == PROTO_AGENT)
                .map(|rule| Rule {
                    from: rule.from,
                    table: rule.table,
                    priority: rule.priority,
                })
                .collect(),
        })
    }

    /// MAC addresses of the NICs over which the agent is reached: the one that carries `address` in the management
    /// namespace, or, when it serves at any address, each that has one there.
    pub(crate) async fn management_nics(&self, address: IpAddr) -> Result<Vec<MacAddr>, LinkError> {
        let mut addresses = self.management.addresses().await.map_err(LinkError::List)?;
        addresses.retain(|a| {
            let ip = a.net.addr();
            // Every NIC that is up has a link-local one.
            let own = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            ip == address || (address.is_unspecified() && !own && !ip.is_loopback())
        });
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        let links = self.management.links().await.map_err(LinkError::List)?;
        Ok(links
            .into_iter()
            .filter(|link| addresses.iter().any(|a| a.link == link.index))
            .filter_map(|link| link.mac)
            .collect())
    }

    /// Observes when all NICs of `desired` are there; waits for them, but not for ever.
    pub(crate) async fn observe_all(&self, desired: &[Interface]) -> Result<Observed, LinkError> {
        let observed = self.observe().await?;
        if plan::missing(desired, &observed).is_empty() {
            return Ok(observed);
        }
        // Subscribe first, then look: nothing is missed between.
        let mut events = self.management.watch().map_err(LinkError::List)?;
        let deadline = tokio::time::Instant::now() + self.patience;
        loop {
            let observed = self.observe().await?;
            let missing = plan::missing(desired, &observed);
            let Some(first) = missing.first() else {
                return Ok(observed);
            };
            match tokio::time::timeout_at(deadline, events.next()).await {
                Ok(event) => drop(event.map_err(LinkError::Watch)?),
                Err(_elapsed) => {
                    return Err(LinkError::Missing {
                        mac: first.mac,
                        name: first.name.clone(),
                    });
                }
            }
        }
    }

    /// Places the NICs and says what remains to be configured. `done` collects what was done.
    pub(crate) async fn place(
        &self,
        before: &[Interface],
        desired: &[Interface],
        done: &mut Vec<String>,
    ) -> Result<Configuration, LinkError> {
        let observed = self.observe_all(desired).await?;
        self.place_observed(before, desired, observed, done).await
    }

    /// The same, for those NICs that are there.
    pub(crate) async fn place_present(
        &self,
        before: &[Interface],
        desired: &[Interface],
        done: &mut Vec<String>,
    ) -> Result<Configuration, LinkError> {
        let observed = self.observe().await?;
        self.place_observed(before, desired, observed, done).await
    }

    async fn place_observed(
        &self,
        before: &[Interface],
        desired: &[Interface],
        mut observed: Observed,
        done: &mut Vec<String>,
    ) -> Result<Configuration, LinkError> {
        let placement = plan::placement(desired, &observed);
        if !placement.is_empty() {
            self.execute(&placement, done).await?;
            observed = self.observe().await?;
        }
        Ok(plan::configuration(before, desired, &observed))
    }

    /// Carries out steps in order; stops at the first that fails.
    pub(crate) async fn execute(
        &self,
        steps: &[Step],
        done: &mut Vec<String>,
    ) -> Result<(), LinkError> {
        for step in steps {
            self.step(step).await.map_err(|source| LinkError::Step {
                step: step.to_string(),
                source,
            })?;
            tracing::debug!(%step, "done");
            done.push(step.to_string());
        }
        Ok(())
    }

    async fn step(&self, step: &Step) -> krater_net::Result<()> {
        let none = LinkChange::default;
        match step {
            Step::Rename { index, to, .. } => {
                let change = LinkChange {
                    up: Some(false),
                    ..none()
                };
                self.vip.set_link(*index, &change).await?;
                let name = Some(to.as_str());
                self.vip
                    .set_link(*index, &LinkChange { name, ..none() })
                    .await
            }
            Step::Claim { index, to, .. } => {
                let change = LinkChange {
                    name: Some(to),
                    netns: Some(self.vip_ns.as_fd()),
                    ..none()
                };
                self.management.set_link(*index, &change).await
            }
            Step::Release { index, .. } => {
                let change = LinkChange {
                    netns: Some(self.management_ns.as_fd()),
                    ..none()
                };
                self.vip.set_link(*index, &change).await
            }
            Step::SetMtu { index, mtu, .. } => {
                let mtu = Some(*mtu);
                self.vip
                    .set_link(*index, &LinkChange { mtu, ..none() })
                    .await
            }
            Step::Up { index, .. } => self.vip.up(*index).await,
            Step::AddAddress { index, address, .. } => {
                self.vip.add_address(&tagged(*index, *address)).await
            }
            Step::DelAddress { index, address, .. } => {
                self.vip.delete_address(&tagged(*index, *address)).await
            }
            Step::AddRoute { index, route, .. } => {
                self.vip
                    .add_route(&link::Route::of(route, *index, PROTO_AGENT))
                    .await
            }
            Step::DelRoute { index, route, .. } => {
                self.vip
                    .delete_route(&link::Route::of(route, *index, PROTO_AGENT))
                    .await
            }
            Step::AddRule { rule } => self.vip.add_rule(&link::Rule::of(rule, PROTO_AGENT)).await,
            Step::DelRule { rule } => {
                self.vip
                    .delete_rule(&link::Rule::of(rule, PROTO_AGENT))
                    .await
            }
        }
    }
}

/// None for the loopback, what has no Ethernet address, and what is no NIC.
fn nic(link: link::Link, own: Option<(Vec<IpNet>, Vec<Route>)>) -> Option<Link> {
    // A macvlan is vrrp's, for a virtual MAC address.
    let macvlan = link.kind.as_deref() == Some("macvlan");
    let mac = link.mac.filter(|_| !link.loopback && !macvlan)?;
    let (addresses, routes) = own.unwrap_or_default();
    Some(Link {
        index: link.index,
        name: link.name,
        mac,
        up: link.up,
        mtu: link.mtu,
        addresses,
        routes,
    })
}

const fn tagged(link: u32, net: IpNet) -> Address {
    Address {
        link,
        net,
        protocol: PROTO_AGENT,
        no_prefix_route: false,
    }
}
