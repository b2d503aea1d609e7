//! Where the local drivers keep things on this host: paths and names, and nothing else.
//!
//! Everything carries the instance id, so that several controllers can live on one host and each
//! removes only what is its own.

use crate::files;
use krater_model::{AmphoraId, MacAddr, NetworkId};
use krater_net::netns::{self, NetNs};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Digits of an instance id.
const INSTANCE_DIGITS: usize = 8;

/// The namespaces of an amphora: the first two of processes, the last of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Where the agent runs and NICs are plugged.
    Mgmt,
    /// Where VIPs, data plane and vrrp are.
    Vip,
    /// Where nothing but its machine's processes is.
    Vm,
}

impl Role {
    const ALL: [Self; 3] = [Self::Mgmt, Self::Vip, Self::Vm];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Mgmt => "mgmt",
            Self::Vip => "vip",
            Self::Vm => "vm",
        }
    }
}

/// A state folder and its instance id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    state_dir: PathBuf,
    instance: String,
}

impl Layout {
    /// Opens the state folder, or makes it with a new instance id.
    pub fn create(state_dir: &Path) -> io::Result<Self> {
        files::private_dir(state_dir)?;
        let state_dir = state_dir.canonicalize()?;
        if !state_dir.join("instance").exists() {
            new_instance(&state_dir)?;
        }
        let layout = Self::open(&state_dir)?;
        files::private_dir(&layout.netns_dir())?;
        files::private_dir(&layout.amphorae_dir())?;
        Ok(layout)
    }

    /// Opens a state folder that a controller has made.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let state_dir = state_dir.canonicalize().map_err(|error| {
            let text = format!("state folder {}: {error}", state_dir.display());
            io::Error::new(error.kind(), text)
        })?;
        let path = state_dir.join("instance");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let text = format!(
                "{} is not a state folder of krater ({}: {error}); name the right one by --state-dir",
                state_dir.display(),
                path.display()
            );
            io::Error::new(error.kind(), text)
        })?;
        let instance = text.trim();
        let digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if instance.len() != INSTANCE_DIGITS || !instance.bytes().all(digit) {
            let text = format!("{} does not hold 8 hex digits", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self {
            instance: instance.to_owned(),
            state_dir,
        })
    }

    /// The state folder, absolute.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// 8 hex digits.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Pinned namespaces.
    pub fn netns_dir(&self) -> PathBuf {
        self.state_dir.join("netns")
    }

    /// One folder per amphora.
    pub fn amphorae_dir(&self) -> PathBuf {
        self.state_dir.join("amphorae")
    }

    /// The namespace with the bridges of all networks but the management network.
    pub fn fabric(&self) -> PathBuf {
        self.netns_dir().join(format!("{}-fabric", self.instance))
    }

    /// Opens the fabric.
    pub fn open_fabric(&self) -> io::Result<NetNs> {
        open_made_by_up(&self.fabric())
    }

    /// The namespace with the bridge of the management network, where the controller's own sockets to
    /// and from agents are. Nothing leads from there to the fabric, or back.
    pub fn management(&self) -> PathBuf {
        let name = format!("{}-management", self.instance);
        self.netns_dir().join(name)
    }

    /// Opens the management network.
    pub fn open_management(&self) -> io::Result<NetNs> {
        open_made_by_up(&self.management())
    }

    /// The driver's name of an amphora.
    pub fn compute_id(&self, amphora: AmphoraId) -> String {
        format!("{}-{amphora}", self.instance)
    }

    /// A namespace of an amphora.
    pub fn amphora_netns(&self, amphora: AmphoraId, role: Role) -> PathBuf {
        self.netns_dir().join(self.netns_name(amphora, role))
    }

    fn netns_name(&self, amphora: AmphoraId, role: Role) -> String {
        format!("{}-{}", self.compute_id(amphora), role.as_str())
    }

    /// The namespace of a machine that is only tried out.
    pub fn trial(&self) -> PathBuf {
        self.netns_dir().join(format!("{}-trial", self.instance))
    }

    /// The folder of an amphora.
    pub fn amphora_dir(&self, amphora: AmphoraId) -> PathBuf {
        self.amphorae_dir().join(amphora.to_string())
    }

    /// The console of its virtual machine, newest part.
    pub fn console(&self, amphora: AmphoraId) -> PathBuf {
        self.amphora_dir(amphora).join("console.log")
    }

    /// The same, when the machine is gone; kept for a while.
    pub fn kept_console(&self, amphora: AmphoraId) -> PathBuf {
        let name = format!("consoles/{amphora}.log");
        self.state_dir.join(name)
    }

    /// Its agent's configuration.
    pub fn agent_toml(&self, amphora: AmphoraId) -> PathBuf {
        self.amphora_dir(amphora).join("config-drive/agent.toml")
    }

    /// What the networks are, for `krater net`.
    pub fn networks_file(&self) -> PathBuf {
        self.state_dir.join("networks.json")
    }

    /// The amphorae that have a folder or a namespace of this instance.
    pub fn amphorae(&self) -> io::Result<Vec<AmphoraId>> {
        let mut found = Vec::new();
        for name in names(&self.amphorae_dir())? {
            found.extend(name.parse::<AmphoraId>().ok());
        }
        for name in self.pinned()? {
            let middle = name.strip_prefix(&self.instance).and_then(|rest| {
                let (id, role) = rest.strip_prefix('-')?.rsplit_once('-')?;
                let known = Role::ALL.iter().any(|known| known.as_str() == role);
                known.then_some(id)
            });
            found.extend(middle.and_then(|id| id.parse::<AmphoraId>().ok()));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Names of the namespace files that bear this instance's id, pinned or not.
    pub fn pinned(&self) -> io::Result<Vec<String>> {
        let own = format!("{}-", self.instance);
        let mut names = names(&self.netns_dir())?;
        names.retain(|name| name.starts_with(&own));
        Ok(names)
    }

    /// Ends an amphora's processes by force, whatever driver made it, and removes everything it had.
    pub fn remove_amphora(&self, amphora: AmphoraId) -> io::Result<()> {
        let name = |role| self.netns_name(amphora, role);
        self.remove_namespaces(&Role::ALL.map(name))?;
        match std::fs::remove_dir_all(self.amphora_dir(amphora)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends all processes in the namespaces of that name and removes the namespaces with their links.
    pub fn remove_namespaces(&self, names: &[String]) -> io::Result<usize> {
        let open = |name: &String| NetNs::open(&self.netns_dir().join(name)).ok();
        let open: Vec<_> = names.iter().filter_map(open).collect();
        let ids = open.iter().map(NetNs::id).collect::<io::Result<Vec<_>>>()?;
        let killed = krater_net::process::kill_all_in(&ids, super::KILL_WITHIN)?;
        for namespace in &open {
            // The kernel would do that too, but some time later: nothing may be left when we return.
            let netlink = krater_net::sync::NetlinkSocket::open_in(namespace)?;
            for link in netlink.links()? {
                if !link.loopback {
                    netlink.delete_link(link.index)?;
                }
            }
        }
        for name in names {
            netns::delete(&self.netns_dir().join(name))?;
        }
        Ok(killed)
    }
}

fn open_made_by_up(path: &Path) -> io::Result<NetNs> {
    NetNs::open(path).map_err(|error| {
        let text = format!(
            "the namespace {} is not there ({error}): start `krater up`",
            path.display()
        );
        io::Error::new(error.kind(), text)
    })
}

/// Writes a new instance id, whole or not at all, unless another process was faster: an id that was
/// read once never changes.
fn new_instance(state_dir: &Path) -> io::Result<()> {
    let mut random = [0; 4];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let id = format!("{:08x}\n", u32::from_ne_bytes(random));
    let temporary = state_dir.join(format!(
        ".instance.{}-{:08x}",
        std::process::id(),
        u32::from_ne_bytes(random)
    ));
    files::write_private(&temporary, id.as_bytes())?;
    let linked = std::fs::hard_link(&temporary, state_dir.join("instance"));
    std::fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => std::fs::File::open(state_dir)?.sync_all(),
    }
}

/// Names in a folder; none when it is not there.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Bridge of a network, at most 15 bytes. The management network's has a name that can be found
/// without the database.
pub fn bridge_name(network: NetworkId, management: bool) -> String {
    if management {
        return MANAGEMENT_BRIDGE.to_owned();
    }
    let hex = network.0.simple().to_string();
    format!("br-{}", hex.get(..12).unwrap_or(&hex))
}

/// See [`bridge_name`].
pub const MANAGEMENT_BRIDGE: &str = "br-mgmt";

/// Fabric end of the veth pair whose other end has this address.
pub fn port_name(mac: MacAddr) -> String {
    let [a, b, c, d, e, f] = mac.0;
    format!("v{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        let network = NetworkId::random();
        assert_eq!(bridge_name(network, false).len(), 15);
        assert_eq!(bridge_name(network, true), "br-mgmt");
        assert_eq!(
            port_name(MacAddr([0xfa, 0x16, 0x3e, 0, 1, 0xff])),
            "vfa163e0001ff"
        );
    }

    #[test]
    fn who_comes_second_gets_the_same_instance() {
        let dir = tempfile::tempdir().unwrap();
        let make = || Layout::create(dir.path()).unwrap();
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(made.iter().all(|layout| *layout == made[0]), "{made:?}");
    }

    #[test]
    fn the_instance_survives_and_foreign_files_are_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Layout::open(dir.path()).is_err());
        let layout = Layout::create(dir.path()).unwrap();
        assert_eq!(Layout::create(dir.path()).unwrap(), layout);
        let (ours, other) = (AmphoraId::random(), AmphoraId::random());
        let machine = AmphoraId::random();
        std::fs::write(layout.amphora_netns(ours, Role::Vip), "").unwrap();
        std::fs::write(layout.amphora_netns(machine, Role::Vm), "").unwrap();
        std::fs::write(layout.trial(), "").unwrap();
        std::fs::write(layout.amphora_netns(ours, Role::Mgmt), "").unwrap();
        let foreign = layout.netns_dir().join(format!("00000000x-{other}-mgmt"));
        std::fs::write(foreign, "").unwrap();
        std::fs::write(layout.fabric(), "").unwrap();
        std::fs::write(layout.management(), "").unwrap();
        let mut both = [ours, machine];
        both.sort();
        assert_eq!(layout.amphorae().unwrap(), both);
        assert_eq!(layout.pinned().unwrap().len(), 6);
        std::fs::write(dir.path().join("instance"), "../../etc").unwrap();
        assert!(Layout::open(dir.path()).is_err());
    }
}
