//! Two nodes and a client on a bridge, each in a namespace of its own. What runs in them dies with the lab.

use super::probe::Side;
use crate::bench::topology;
use anyhow::{Context, bail};
use krater_model::MacAddr;
use krater_net::link::{Address, LinkChange, VethSpec};
use krater_net::netns::NetNs;
use krater_net::process::{ProcessId, processes_in};
use krater_net::sync::NetlinkSocket;
use krater_net::{PROTO_AGENT, sysctl};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long anything may take that is not measured.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at that is not measured.
pub(super) const LOOK: Duration = Duration::from_millis(5);
/// The interface of nodes and client.
pub(super) const INTERFACE: &str = "eth1";

/// Waits until a condition answers something.
pub(super) fn wait_for<T>(
    what: &str,
    condition: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    wait_within(PATIENCE, what, condition)
}

/// The same, for so long.
pub(super) fn wait_within<T>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() > end {
            bail!("{what} within {patience:?}");
        }
        std::thread::sleep(LOOK);
    }
}

/// Virtual address number `n`, from 1.
pub(super) const fn vip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 1, n)
}

/// The namespaces of one measurement.
#[derive(Debug)]
pub(super) struct Lab {
    folder: PathBuf,
    switch: NetNs,
    pub(super) client: Arc<NetNs>,
    pub(super) a: Node,
    pub(super) b: Node,
}

impl Lab {
    /// Makes them in the run's folder.
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let switch = NetNs::create(&folder.join("switch"))?;
        let ports = NetlinkSocket::open_in(&switch)?;
        ports.create_bridge("br0", None, None)?;
        let bridge = index(&ports, "br0")?;
        ports.set_up(bridge, true)?;
        let make = |name: &str, host: Ipv4Addr| -> anyhow::Result<(NetNs, MacAddr)> {
            let ns = NetNs::create(&folder.join(name))?;
            ports.create_veth(&VethSpec {
                name,
                mac: None,
                master: Some(bridge),
                mtu: None,
                up: true,
                peer: INTERFACE,
                peer_mac: None,
                peer_netns: Some(ns.as_fd()),
            })?;
            let netlink = NetlinkSocket::open_in(&ns)?;
            let link = index(&netlink, INTERFACE)?;
            netlink.add_address(&Address {
                link,
                net: format!("{host}/16").parse()?,
                protocol: PROTO_AGENT,
                no_prefix_route: false,
            })?;
            netlink.set_up(link, true)?;
            let mac = wait_for("a carrier", || {
                let link = netlink.link_by_name(INTERFACE)?.context("no interface")?;
                Ok(link.mac.filter(|_| link.carrier))
            })?;
            Ok((ns, mac))
        };
        let (client, _) = make("client", Ipv4Addr::new(10, 99, 0, 13))?;
        // A probe per millisecond for minutes: its ports must not be those of a service.
        sysctl::write_all(&client, &[("net/ipv4/ip_local_port_range", "10000 65535")])?;
        let node = |side: Side, host| -> anyhow::Result<Node> {
            let (ns, mac) = make(side.name(), host)?;
            let files = folder.join(format!("{}.d", side.name()));
            std::fs::create_dir_all(&files)?;
            Ok(Node {
                side,
                ns,
                path: folder.join(side.name()),
                folder: files,
                host,
                mac,
                echo: None,
            })
        };
        let a = node(Side::A, Ipv4Addr::new(10, 99, 0, 11))?;
        let b = node(Side::B, Ipv4Addr::new(10, 99, 0, 12))?;
        drop(ports);
        Ok(Self {
            folder: folder.to_path_buf(),
            switch,
            client: Arc::new(client),
            a,
            b,
        })
    }

    /// Makes the switch drop all frames of a node, or not: its port leaves the bridge, and the node notices
    /// nothing.
    pub(super) fn connect(&self, side: Side, connected: bool) -> anyhow::Result<()> {
        let ports = NetlinkSocket::open_in(&self.switch)?;
        let bridge = index(&ports, "br0")?;
        let change = LinkChange {
            master: Some(connected.then_some(bridge)),
            ..LinkChange::default()
        };
        Ok(ports.set_link(index(&ports, side.name())?, &change)?)
    }

    /// Takes the carrier from a node.
    pub(super) fn cut_carrier(&self, side: Side) -> anyhow::Result<()> {
        let ports = NetlinkSocket::open_in(&self.switch)?;
        Ok(ports.set_up(index(&ports, side.name())?, false)?)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in [&mut self.a, &mut self.b] {
            if let Some(mut echo) = node.echo.take() {
                let _gone = echo.kill();
                let _reaped = echo.wait();
            }
        }
        let _reported_by_the_next_sweep = topology::remove(&self.folder);
    }
}

fn index(netlink: &NetlinkSocket, name: &str) -> anyhow::Result<u32> {
    let link = netlink.link_by_name(name)?;
    Ok(link
        .with_context(|| format!("link {name} is missing"))?
        .index)
}

/// A host that may own the VIP.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) side: Side,
    pub(super) ns: NetNs,
    /// Where the namespace is pinned.
    pub(super) path: PathBuf,
    /// For its processes' files.
    pub(super) folder: PathBuf,
    pub(super) host: Ipv4Addr,
    pub(super) mac: MacAddr,
    echo: Option<Child>,
}

impl Node {
    /// Starts the answering machine, `watched` as a data plane is.
    pub(super) fn answer(&mut self, watched: bool) -> anyhow::Result<()> {
        // The file that runs, even if it was replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.args(["vrrp-echo", self.side.name()]);
        if watched {
            command.arg("--track").arg(self.folder.join("track.sock"));
            command.arg("--checks").arg(self.folder.join("check.sock"));
        }
        command.stdin(Stdio::null());
        self.echo = Some(self.ns.run(|| command.spawn())??);
        Ok(())
    }

    /// All that runs here.
    fn processes(&self) -> anyhow::Result<Vec<ProcessId>> {
        let all = processes_in(&[self.ns.id()?])?;
        Ok(all.into_iter().map(|(process, _)| process).collect())
    }

    /// Sends a signal to all that runs here.
    pub(super) fn signal_all(&self, signal: i32) -> anyhow::Result<()> {
        for process in self.processes()? {
            process.signal(signal)?;
        }
        Ok(())
    }

    /// Sends a signal to the answering machine alone.
    pub(super) fn signal_dataplane(&self, signal: i32) -> anyhow::Result<()> {
        let echo = self.echo.as_ref().context("nobody answers here")?;
        Ok(ProcessId::of(echo.id())?.signal(signal)?)
    }

    /// How many of the addresses its kernel has.
    pub(super) fn held(&self, count: u8) -> anyhow::Result<usize> {
        let vips: Vec<IpAddr> = (1..=count).map(|n| vip(n).into()).collect();
        let addresses = NetlinkSocket::open_in(&self.ns)?.addresses()?;
        let held = addresses.iter().filter(|a| vips.contains(&a.net.addr()));
        Ok(held.count())
    }
}
