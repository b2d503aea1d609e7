//! An amphora is two network namespaces and a tree of processes on this host.
//!
//! The agent starts in the management namespace, in a session and a mount namespace of its own, and
//! belongs to nobody: the controller may end, be killed or be upgraded under it. Its children live in
//! the VIP namespace. What belongs to an amphora is found by namespace, never by a remembered process
//! number, so that a step can be repeated by another controller process after a crash.

use super::calls::{Calls, call};
use super::{Boot, Compute, Error, Instance, Nic};
use crate::drivers::layout::{Layout, MANAGEMENT_BRIDGE, Role, bridge_name, port_name};
use crate::files;
use futures_util::future::BoxFuture;
use krater_model::config::AgentConfig;
use krater_model::wire::agent;
use krater_model::{AmphoraId, MacAddr};
use krater_net::PROTO_VRRP;
use krater_net::link::{Address, LinkChange, VethSpec};
use krater_net::netns::NetNs;
use krater_net::process::{Detached, ProcessId, processes_in, spawn_detached};
use krater_net::sync::NetlinkSocket;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the management NIC inside the amphora.
const MANAGEMENT_NIC: &str = "mgmt0";
/// What the agent writes before it has its own log, and panics.
const STDERR_LOG: &str = "agent.stderr";
/// Size from which on it starts afresh: an agent that dies at every start must not fill the disk.
const MAX_STDERR_LOG: u64 = 1 << 20;

/// See the module.
#[derive(Debug, Clone)]
pub struct NetnsCompute {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    amphora_bin: PathBuf,
    /// Agents are reaped there, one per amphora at most.
    calls: Calls,
}

impl NetnsCompute {
    /// A driver for this state folder that starts the program `amphora_bin`.
    pub fn new(layout: Layout, amphora_bin: PathBuf) -> Self {
        Self {
            inner: Arc::new(Inner {
                layout,
                amphora_bin,
                calls: Calls::default(),
            }),
        }
    }

    fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        amphora: AmphoraId,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Error>> {
        call(&self.inner, what, amphora, work)
    }
}

impl AsRef<Calls> for Inner {
    fn as_ref(&self) -> &Calls {
        &self.calls
    }
}

/// The `amphora` program: the given one, or the file of that name beside the running program.
pub fn amphora_bin(given: Option<&Path>) -> io::Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("amphora"),
    };
    path.canonicalize().map_err(|error| {
        let text = format!(
            "the amphora program {} is not there ({error}): build it (`cargo build --release`) or \
             name it by --amphora-bin",
            path.display()
        );
        io::Error::new(error.kind(), text)
    })
}

impl Compute for NetnsCompute {
    fn boot(&self, boot: Boot) -> BoxFuture<'_, Result<String, Error>> {
        self.call("boot", boot.amphora, move |inner| inner.boot(&boot))
    }

    fn delete(&self, amphora: AmphoraId) -> BoxFuture<'_, Result<(), Error>> {
        self.call("delete", amphora, move |inner| inner.delete(amphora))
    }

    fn plug(&self, amphora: AmphoraId, nic: Nic) -> BoxFuture<'_, Result<(), Error>> {
        self.call("plug", amphora, move |inner| inner.plug(amphora, &nic))
    }

    fn unplug(&self, amphora: AmphoraId, mac: MacAddr) -> BoxFuture<'_, Result<(), Error>> {
        self.call("unplug", amphora, move |inner| inner.unplug(mac))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Instance>, Error>> {
        // An error of `list` is nobody's in particular.
        let nobody = AmphoraId(uuid::Uuid::nil());
        self.call("list", nobody, Inner::list)
    }

    fn restart_agent(&self, amphora: AmphoraId) -> BoxFuture<'_, Result<(), Error>> {
        self.call("restart_agent", amphora, move |inner| {
            inner.release_vips(amphora)?;
            inner.start_agent(amphora)
        })
    }
}

impl Inner {
    fn boot(&self, boot: &Boot) -> io::Result<String> {
        let amphora = boot.amphora;
        // A running agent has read its config drive; it must not change under it.
        if self.agent(amphora)?.is_none() {
            self.config_drive(boot)?;
        }
        let management = NetNs::ensure(&self.layout.amphora_netns(amphora, Role::Mgmt))?;
        NetNs::ensure(&self.layout.amphora_netns(amphora, Role::Vip))?;
        self.management_nic(boot, &management)?;
        self.start_agent(amphora)?;
        Ok(self.layout.compute_id(amphora))
    }

    fn config_drive(&self, boot: &Boot) -> io::Result<()> {
        let folder = self.layout.amphora_dir(boot.amphora);
        let drive = folder.join("config-drive");
        for name in ["", "config-drive", "run", "state", "log"] {
            files::private_dir(&folder.join(name))?;
        }
        let seal_key = drive.join("seal.key");
        if !seal_key.exists() {
            write(&seal_key, random_hex()?.as_bytes())?;
        }
        let config = AgentConfig {
            amphora_id: boot.amphora,
            listen: SocketAddr::new(boot.management_address.addr(), agent::PORT),
            run_dir: folder.join("run"),
            state_dir: folder.join("state"),
            log_dir: folder.join("log"),
            vip_netns: self.layout.amphora_netns(boot.amphora, Role::Vip),
            server_pem: drive.join("server.pem"),
            client_ca: drive.join("client-ca.pem"),
            seal_key: Some(seal_key),
            workers: boot.workers,
            heartbeat: Some(boot.heartbeat.clone()),
            log_level: boot.log_level.clone(),
            log_json: boot.log_json,
        };
        write(&config.server_pem, boot.server_pem.expose().as_bytes())?;
        write(&config.client_ca, boot.client_ca_pem.as_bytes())?;
        let text = toml::to_string(&config).map_err(io::Error::other)?;
        write(&self.layout.agent_toml(boot.amphora), text.as_bytes())
    }

    fn management_nic(&self, boot: &Boot, management: &NetNs) -> io::Result<()> {
        let name = port_name(boot.management_mac);
        let peer = (MANAGEMENT_NIC, boot.management_mac);
        let network = self.layout.open_management()?;
        pair(&network, &name, MANAGEMENT_BRIDGE, None, peer, management)?;
        // Addresses are used again: what was learned of the last owner would send the first packets to
        // nobody, and a lost SYN costs a second.
        let outside = NetlinkSocket::open_in(&network)?;
        if let Some(bridge) = outside.link_by_name(MANAGEMENT_BRIDGE)? {
            outside.delete_neighbour(bridge.index, boot.management_address.addr())?;
        }
        let inside = NetlinkSocket::open_in(management)?;
        let missing = || io::Error::other("the management NIC is not in its namespace");
        let link = inside.link_by_name(MANAGEMENT_NIC)?.ok_or_else(missing)?;
        inside.add_address(&Address {
            link: link.index,
            net: boot.management_address,
            protocol: 0,
            no_prefix_route: false,
        })?;
        if !link.up {
            inside.set_up(link.index, true)?;
        }
        Ok(())
    }

    fn start_agent(&self, amphora: AmphoraId) -> io::Result<()> {
        if self.agent(amphora)?.is_some() {
            return Ok(());
        }
        let config = self.layout.agent_toml(amphora);
        if !config.exists() {
            let text = format!("there is no config drive: {} is missing", config.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        let management = NetNs::open(&self.layout.amphora_netns(amphora, Role::Mgmt))?;
        let stderr = self
            .layout
            .amphora_dir(amphora)
            .join("log")
            .join(STDERR_LOG);
        if std::fs::metadata(&stderr).is_ok_and(|meta| meta.len() > MAX_STDERR_LOG) {
            std::fs::remove_file(&stderr)?;
        }
        let child = spawn_detached(&Detached {
            program: &self.amphora_bin,
            args: &["agent".into(), "--config".into(), config.into()],
            netns: &management,
            stderr: Some(&stderr),
        })?;
        self.calls.started(child);
        Ok(())
    }

    /// Takes the VIPs from an amphora in which neither agent nor vrrp nor guard lives: nobody there can,
    /// the peer has them by now, and the next agent may not start either.
    fn release_vips(&self, amphora: AmphoraId) -> io::Result<()> {
        if self.agent(amphora)?.is_some() {
            return Ok(());
        }
        let vip = NetNs::open(&self.layout.amphora_netns(amphora, Role::Vip))?;
        let is_owner = |process: ProcessId| {
            let words = process.command_line().unwrap_or_default();
            words
                .iter()
                .any(|word| word == "vrrp" || word == "vrrp-guard")
        };
        let processes = processes_in(&[vip.id()?])?;
        if processes.into_iter().any(|(process, _)| is_owner(process)) {
            return Ok(());
        }
        let netlink = NetlinkSocket::open_in(&vip)?;
        let mut left = netlink.addresses()?;
        left.retain(|address| address.protocol == PROTO_VRRP);
        for address in &left {
            netlink.delete_address(address)?;
        }
        if !left.is_empty() {
            tracing::warn!(%amphora, addresses = left.len(), "VIPs taken from a dead amphora");
        }
        Ok(())
    }

    /// The living agent of an amphora.
    fn agent(&self, amphora: AmphoraId) -> io::Result<Option<ProcessId>> {
        let path = self.layout.amphora_netns(amphora, Role::Mgmt);
        let Ok(management) = NetNs::open(&path) else {
            return Ok(None);
        };
        let config = self.layout.agent_toml(amphora);
        let processes = processes_in(&[management.id()?])?;
        let agent = processes
            .into_iter()
            .find(|(process, _)| is_agent(*process, &config));
        Ok(agent.map(|(process, _)| process))
    }

    fn delete(&self, amphora: AmphoraId) -> io::Result<()> {
        self.layout.remove_amphora(amphora)?;
        self.calls.reap();
        Ok(())
    }

    fn plug(&self, amphora: AmphoraId, nic: &Nic) -> io::Result<()> {
        let management = NetNs::open(&self.layout.amphora_netns(amphora, Role::Mgmt))?;
        let name = port_name(nic.mac);
        let peer = format!("n{}", &name[1..]);
        let bridge = bridge_name(nic.network, false);
        let mtu = Some(u32::from(nic.mtu));
        let fabric = self.layout.open_fabric()?;
        pair(&fabric, &name, &bridge, mtu, (&peer, nic.mac), &management)
    }

    fn unplug(&self, mac: MacAddr) -> io::Result<()> {
        let fabric = NetlinkSocket::open_in(&self.layout.open_fabric()?)?;
        if let Some(link) = fabric.link_by_name(&port_name(mac))? {
            fabric.delete_link(link.index)?;
        }
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<Instance>> {
        let amphorae = self.layout.amphorae()?;
        let open = |amphora, role| NetNs::open(&self.layout.amphora_netns(amphora, role)).ok();
        let management: Vec<_> = amphorae.iter().map(|id| open(*id, Role::Mgmt)).collect();
        let ids = management.iter().flatten().map(NetNs::id);
        // One look at /proc for all of them.
        let processes = processes_in(&ids.collect::<io::Result<Vec<_>>>()?)?;
        let mut instances = Vec::new();
        for (amphora, management) in amphorae.into_iter().zip(management) {
            let config = self.layout.agent_toml(amphora);
            let own = management.as_ref().map(NetNs::id).transpose()?;
            instances.push(Instance {
                amphora,
                compute_id: self.layout.compute_id(amphora),
                agent_alive: processes
                    .iter()
                    .any(|(process, netns)| Some(*netns) == own && is_agent(*process, &config)),
                intact: own.is_some() && open(amphora, Role::Vip).is_some(),
            });
        }
        Ok(instances)
    }
}

/// A veth pair between a bridge in the namespace `network` and another namespace.
fn pair(
    network: &NetNs,
    name: &str,
    bridge: &str,
    mtu: Option<u32>,
    (peer, mac): (&str, MacAddr),
    netns: &NetNs,
) -> io::Result<()> {
    let network = NetlinkSocket::open_in(network)?;
    let missing = || {
        let text = format!("bridge {bridge} does not exist: restart `krater up`");
        io::Error::other(text)
    };
    let master = network.link_by_name(bridge)?.ok_or_else(missing)?.index;
    let made = network.create_veth(&VethSpec {
        name,
        mac: None,
        master: Some(master),
        mtu,
        up: true,
        peer,
        peer_mac: Some(mac),
        peer_netns: Some(netns.as_fd()),
    });
    match made {
        Err(error) if error.is_exists() => {}
        made => return Ok(made?),
    }
    // An earlier try made it, or somebody cut it.
    let change = LinkChange {
        up: Some(true),
        master: Some(Some(master)),
        ..LinkChange::default()
    };
    if let Some(link) = network.link_by_name(name)?
        && (!link.up || link.master != Some(master))
    {
        network.set_link(link.index, &change)?;
    }
    Ok(())
}

/// Whether a process is the agent with this configuration, by its command line.
fn is_agent(process: ProcessId, config: &Path) -> bool {
    let words = process.command_line().unwrap_or_default();
    let wanted = ["agent".as_ref(), "--config".as_ref(), config.as_os_str()];
    words.windows(wanted.len()).any(|some| some == wanted)
}

/// Replaces a file of mode 0600. Not synced: after a crash of the host the amphora is built anew.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    std::fs::rename(&temporary, path)
}

/// 32 random bytes as 64 hex digits.
pub(super) fn random_hex() -> io::Result<String> {
    let mut bytes = [0_u8; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
