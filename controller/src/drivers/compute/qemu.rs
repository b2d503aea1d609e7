//! An amphora is a virtual machine on this host: the one program of another that a program of ours runs.
//!
//! QEMU starts in a network namespace of its own with nothing in it, in a session and a mount namespace of its own, and
//! belongs to nobody: the controller may end, be killed or be upgraded under it. It is found again by that namespace and
//! its command line. Its NICs are tap devices on the bridges of the network driver; they are not persistent and
//! only QEMU holds them, so a machine that dies, of whatever, leaves no interface. Beside it runs this program once more
//! as the writer of its console, which ends with it.
//!
//! | module | what |
//! |---|---|
//! | [`args`] | pure: the command line |
//! | [`qmp`] | pure: the monitor's protocol |
//! | [`monitor`] | a connection to a monitor |
//! | [`console`] | the bounded log of the serial console |
//! | [`image`] | the files that a machine starts from |
//! | [`trial`] | whether KVM can run such a machine here |

use super::calls::{Calls, call};
use super::netns::{random_hex, write};
use super::{Boot, Compute, Error, Instance, Nic};
use crate::config::Acceleration;
use crate::drivers::layout::{Layout, MANAGEMENT_BRIDGE, Role, bridge_name, port_name};
use crate::files;
use args::{Machine, device_id};
use futures_util::future::BoxFuture;
use image::Image;
use krater_image::config_drive::{self, ConfigDrive};
use krater_model::config::AgentConfig;
use krater_model::wire::agent;
use krater_model::{AmphoraId, MacAddr};
use krater_net::link::{Link, LinkChange};
use krater_net::netns::{NetNs, NsId};
use krater_net::process::{Descriptors, Detached, ProcessId, processes_in, spawn_detached_with};
use krater_net::sync::NetlinkSocket;
use krater_net::tap;
use monitor::Monitor;
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

pub mod args;
pub mod console;
pub mod image;
pub mod monitor;
pub mod qmp;
mod trial;

/// How long QEMU may take until its monitor answers: 0.3 s on an idle host.
const START_WITHIN: Duration = Duration::from_secs(20);
/// Pause between two looks meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a guest may take to let go of a NIC. Its tap device is gone before.
const UNPLUG_WITHIN: Duration = Duration::from_secs(5);
/// Longest path of a Unix socket (unix(7): 108 bytes with the zero at the end).
const MAX_SOCKET_PATH: usize = 107;

/// Folder of the files in the guest, which is one of those that the image's `amphora init` lets a config drive write to.
const GUEST_CONFIG: &str = "/etc/krater";
/// Its folder for sockets, in memory.
const GUEST_RUN: &str = "/run/krater";
/// Where its VIP namespace is pinned.
const GUEST_VIP: &str = "/run/netns/vip";
const GUEST_STATE: &str = "/var/lib/krater";
const GUEST_LOG: &str = "/var/log/krater";

/// What machines are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The QEMU program.
    pub program: PathBuf,
    /// This program: it writes the consoles.
    pub console_writer: PathBuf,
    /// What machines start from.
    pub image: Image,
    /// KVM or not.
    pub acceleration: Acceleration,
    /// Memory of a machine in MiB.
    pub memory: u32,
    /// Its processors.
    pub cpus: u16,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct QemuCompute {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    settings: Settings,
    /// Found out at the first boot: a trial can take its whole time where `/dev/kvm` exists and hangs.
    kvm: Mutex<Option<bool>>,
    calls: Calls,
}

impl QemuCompute {
    /// A driver for this state folder.
    ///
    /// # Errors
    /// When the folder's path is too long for the sockets of monitors.
    pub fn new(layout: Layout, settings: Settings) -> io::Result<Self> {
        let inner = Inner {
            layout,
            settings,
            kvm: Mutex::default(),
            calls: Calls::default(),
        };
        let socket = inner.socket(AmphoraId(uuid::Uuid::nil()));
        let excess = socket.as_os_str().len().saturating_sub(MAX_SOCKET_PATH);
        if excess > 0 {
            let text = format!(
                "the path of the state folder {} is {excess} bytes too long for the sockets below it: use another \
                 --state-dir",
                inner.layout.state_dir().display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self {
            inner: Arc::new(inner),
        })
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

/// The QEMU program: a path, or a name that is looked up in `PATH`.
///
/// # Errors
/// When there is none.
pub fn find_program(name: &Path) -> io::Result<PathBuf> {
    let is_path = name.components().count() > 1;
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = if is_path {
        vec![name.to_owned()]
    } else {
        std::env::split_paths(&folders)
            .map(|folder| folder.join(name))
            .collect()
    };
    candidates.retain(|path| path.is_file());
    match candidates.first() {
        Some(path) => std::path::absolute(path),
        None => {
            let text = format!(
                "the program {} is not there: install qemu-system-x86, or name it by --qemu-binary",
                name.display()
            );
            Err(io::Error::new(io::ErrorKind::NotFound, text))
        }
    }
}

impl Compute for QemuCompute {
    fn boot(&self, boot: Boot) -> BoxFuture<'_, Result<String, Error>> {
        self.call("boot", boot.amphora, move |inner| inner.boot(&boot))
    }

    fn delete(&self, amphora: AmphoraId) -> BoxFuture<'_, Result<(), Error>> {
        self.call("delete", amphora, move |inner| {
            let layout = &inner.layout;
            let console = layout.console(amphora);
            if let Err(error) = console::keep(&console, &layout.kept_console(amphora)) {
                tracing::warn!(%amphora, %error, "the console is not kept");
            }
            layout.remove_amphora(amphora)?;
            inner.calls.reap();
            Ok(())
        })
    }

    fn plug(&self, amphora: AmphoraId, nic: Nic) -> BoxFuture<'_, Result<(), Error>> {
        self.call("plug", amphora, move |inner| inner.plug(amphora, &nic))
    }

    fn unplug(&self, amphora: AmphoraId, mac: MacAddr) -> BoxFuture<'_, Result<(), Error>> {
        self.call("unplug", amphora, move |inner| inner.unplug(amphora, mac))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Instance>, Error>> {
        // An error of `list` is nobody's in particular.
        let nobody = AmphoraId(uuid::Uuid::nil());
        self.call("list", nobody, Inner::list)
    }

    /// The guest starts its agent again itself, or reboots. A machine that has ended has lost its networks and its
    /// memory: it is replaced, not started again.
    fn restart_agent(&self, amphora: AmphoraId) -> BoxFuture<'_, Result<(), Error>> {
        self.call("restart_agent", amphora, move |inner| {
            inner.living(amphora).map(drop)
        })
    }
}

impl Inner {
    fn boot(&self, boot: &Boot) -> io::Result<String> {
        let amphora = boot.amphora;
        // A running machine has read its config drive; it must not change under it.
        if self.machine(amphora)?.is_none() {
            files::private_dir(&self.layout.amphora_dir(amphora))?;
            let management = Management::of(&self.layout)?;
            let drive = self.config_drive(boot, management.bridge.mtu)?;
            write(&self.drive(amphora), &drive)?;
            self.start(boot, &management)?;
        }
        self.wait_until_running(amphora)?;
        Ok(self.layout.compute_id(amphora))
    }

    /// The same files as the `netns` driver's, where the guest wants them.
    fn config_drive(&self, boot: &Boot, mtu: u32) -> io::Result<Zeroizing<Vec<u8>>> {
        let config = AgentConfig {
            amphora_id: boot.amphora,
            listen: SocketAddr::new(boot.management_address.addr(), agent::PORT),
            run_dir: GUEST_RUN.into(),
            state_dir: GUEST_STATE.into(),
            log_dir: GUEST_LOG.into(),
            vip_netns: GUEST_VIP.into(),
            server_pem: "server.pem".into(),
            client_ca: "client-ca.pem".into(),
            seal_key: Some("seal.key".into()),
            workers: boot.workers,
            heartbeat: Some(boot.heartbeat.clone()),
            log_level: boot.log_level.clone(),
            log_json: boot.log_json,
        };
        let text = Zeroizing::new(toml::to_string(&config).map_err(io::Error::other)?);
        let key = Zeroizing::new(random_hex()?);
        let file = |name: &str, text: &str| {
            let bytes = Zeroizing::new(text.as_bytes().to_vec());
            (format!("{GUEST_CONFIG}/{name}"), bytes)
        };
        let mut seed = Zeroizing::new([0; config_drive::SEED]);
        std::fs::File::open("/dev/urandom")?.read_exact(seed.as_mut_slice())?;
        let drive = ConfigDrive {
            uuid: boot.amphora.to_string(),
            hostname: format!("amphora-{}", boot.amphora),
            files: vec![
                file("agent.toml", &text),
                file("server.pem", boot.server_pem.expose()),
                file("client-ca.pem", &boot.client_ca_pem),
                file("seal.key", &key),
            ],
            nics: vec![config_drive::Nic {
                mac: boot.management_mac,
                mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
                address: Some(boot.management_address),
            }],
            user_data: None,
            seed,
        };
        drive.to_iso().map_err(io::Error::other)
    }

    fn start(&self, boot: &Boot, management: &Management) -> io::Result<()> {
        let amphora = boot.amphora;
        let kvm = self.kvm();
        let netns = NetNs::ensure(&self.layout.amphora_netns(amphora, Role::Vm))?;
        let mac = boot.management_mac;
        let nic = management
            .network
            .tap(&port_name(mac), &management.bridge, None)?;
        // Addresses are used again: what was learned of the last owner would send the first packets to
        // nobody, and a lost SYN costs a second.
        let address = boot.management_address.addr();
        management
            .network
            .netlink
            .delete_neighbour(management.bridge.index, address)?;
        let (uuid, name) = (amphora.to_string(), self.layout.compute_id(amphora));
        let arguments = Machine {
            name: &name,
            uuid: &uuid,
            kvm,
            memory: self.settings.memory,
            cpus: self.settings.cpus,
            start: self.settings.image.start(),
            drive: Some(&self.drive(amphora)),
            monitor: Some(&self.socket(amphora)),
            management: Some((mac, nic.as_raw_fd())),
        }
        .arguments();
        let output = self.console(amphora, &netns)?;
        let child = spawn_detached_with(
            &Detached {
                program: &self.settings.program,
                args: &arguments,
                netns: &netns,
                stderr: None,
            },
            Descriptors {
                stdin: None,
                output: Some(output),
                keep: &[nic.as_fd()],
            },
        )?;
        self.calls.started(child);
        Ok(())
    }

    /// Starts the writer of a console; gives what it reads from.
    fn console(&self, amphora: AmphoraId, netns: &NetNs) -> io::Result<OwnedFd> {
        let (reader, writer) = io::pipe()?;
        let arguments: [OsString; 2] =
            [console::COMMAND.into(), self.layout.console(amphora).into()];
        let child = spawn_detached_with(
            &Detached {
                program: &self.settings.console_writer,
                args: &arguments,
                netns,
                stderr: None,
            },
            Descriptors {
                stdin: Some(reader.into()),
                ..Descriptors::default()
            },
        )?;
        self.calls.started(child);
        Ok(writer.into())
    }

    /// Whether machines get KVM.
    fn kvm(&self) -> bool {
        let mut known = self.kvm.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = &self.settings;
        *known.get_or_insert_with(|| {
            let kvm = args::kvm(settings.acceleration, || {
                trial::kvm_works(&self.layout, settings)
            });
            tracing::info!(kvm, "acceleration of virtual machines");
            kvm
        })
    }

    fn wait_until_running(&self, amphora: AmphoraId) -> io::Result<()> {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            // In this order: one that ends between the two is noticed in the next round.
            let running = Monitor::connect(&self.socket(amphora)).and_then(|mut m| m.is_running());
            if matches!(running, Ok(true)) {
                return Ok(());
            }
            self.calls.reap();
            let alive = self.machine(amphora)?.is_some();
            if alive && Instant::now() < deadline {
                std::thread::sleep(LOOK_EVERY);
                continue;
            }
            let state = if alive {
                "does not get running"
            } else {
                "ended at once"
            };
            let said = console::tail(&self.layout.console(amphora));
            let why = running.err().map(|error| format!(" ({error})"));
            return Err(io::Error::other(format!(
                "the virtual machine {state}{}; it said: {said:?}",
                why.unwrap_or_default()
            )));
        }
    }

    /// The machine's process.
    fn machine(&self, amphora: AmphoraId) -> io::Result<Option<ProcessId>> {
        let Ok(netns) = NetNs::open(&self.layout.amphora_netns(amphora, Role::Vm)) else {
            return Ok(None);
        };
        let processes = processes_in(&[netns.id()?])?;
        let machine = processes
            .into_iter()
            .find(|(process, _)| is_machine(*process, amphora));
        Ok(machine.map(|(process, _)| process))
    }

    /// The same, where one is needed.
    fn living(&self, amphora: AmphoraId) -> io::Result<ProcessId> {
        self.machine(amphora)?.ok_or_else(|| {
            let text = "the virtual machine has ended: it is to be replaced";
            io::Error::new(io::ErrorKind::NotFound, text)
        })
    }

    fn plug(&self, amphora: AmphoraId, nic: &Nic) -> io::Result<()> {
        self.living(amphora)?;
        let fabric = Network::new(self.layout.open_fabric()?)?;
        let (id, port) = (device_id(nic.mac), port_name(nic.mac));
        let mut monitor = Monitor::connect(&self.socket(amphora))?;
        if monitor.has_device(&id)? {
            return match fabric.netlink.link_by_name(&port)? {
                Some(_) => Ok(()),
                None => Err(io::Error::other(format!(
                    "the guest has not let go of the unplugged NIC {} yet",
                    nic.mac
                ))),
            };
        }
        // Of a try that was interrupted.
        monitor.remove_tap(&id)?;
        let bridge = fabric.bridge(&bridge_name(nic.network, false))?;
        let tap = fabric.tap(&port, &bridge, Some(u32::from(nic.mtu)))?;
        monitor.add_tap(&id, tap)?;
        let device = json!({
            "driver": "virtio-net-pci", "id": id, "netdev": id, "mac": nic.mac.to_string(), "romfile": "",
        });
        monitor.execute("device_add", &device).map(drop)
    }

    fn unplug(&self, amphora: AmphoraId, mac: MacAddr) -> io::Result<()> {
        if self.machine(amphora)?.is_none() {
            return Ok(()); // its NICs went with it
        }
        let id = device_id(mac);
        let mut monitor = Monitor::connect(&self.socket(amphora))?;
        let asked = match monitor.execute("device_del", &json!({ "id": id })) {
            Ok(_) => true,
            // Refused: it is asked already.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        monitor.remove_tap(&id)?;
        if !asked || !monitor.has_device(&id)? {
            return Ok(());
        }
        let gone = monitor.wait_for(UNPLUG_WITHIN, |name, data| {
            name == "DEVICE_DELETED" && data["device"] == id
        })?;
        if !gone {
            // Nothing comes or goes through it any more; it leaves when the guest lets go, or with the guest.
            tracing::warn!(%amphora, %mac, "the guest does not let go of an unplugged NIC");
        }
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<Instance>> {
        let amphorae = self.layout.amphorae()?;
        let open = |amphora| {
            let netns = NetNs::open(&self.layout.amphora_netns(amphora, Role::Vm)).ok()?;
            netns.id().ok()
        };
        let namespaces: Vec<Option<NsId>> = amphorae.iter().map(|id| open(*id)).collect();
        // One look at /proc for all of them.
        let known: Vec<NsId> = namespaces.iter().copied().flatten().collect();
        let processes = processes_in(&known)?;
        let instance = |(amphora, own): (AmphoraId, Option<NsId>)| {
            let lives = processes
                .iter()
                .any(|(process, netns)| Some(*netns) == own && is_machine(*process, amphora));
            Instance {
                amphora,
                compute_id: self.layout.compute_id(amphora),
                agent_alive: lives,
                // Networks and memory live and die with the machine.
                intact: lives,
            }
        };
        Ok(amphorae.into_iter().zip(namespaces).map(instance).collect())
    }

    fn drive(&self, amphora: AmphoraId) -> PathBuf {
        self.layout.amphora_dir(amphora).join("config-drive.iso")
    }

    fn socket(&self, amphora: AmphoraId) -> PathBuf {
        self.layout.amphora_dir(amphora).join("qmp.sock")
    }
}

/// A namespace of the network driver.
#[derive(Debug)]
struct Network {
    netns: NetNs,
    netlink: NetlinkSocket,
}

impl Network {
    fn new(netns: NetNs) -> io::Result<Self> {
        let netlink = NetlinkSocket::open_in(&netns)?;
        Ok(Self { netns, netlink })
    }

    fn bridge(&self, name: &str) -> io::Result<Link> {
        self.netlink.link_by_name(name)?.ok_or_else(|| {
            let text = format!("bridge {name} does not exist: restart `krater up`");
            io::Error::other(text)
        })
    }

    /// A tap device that is a port of a bridge, up. No MTU given: the bridge's.
    fn tap(&self, name: &str, bridge: &Link, mtu: Option<u32>) -> io::Result<OwnedFd> {
        let tap = tap::create(&self.netns, name)?;
        let missing = || io::Error::other(format!("tap device {name} vanished"));
        let link = self.netlink.link_by_name(name)?.ok_or_else(missing)?;
        // The MTU first: a bridge takes the smallest of its ports' unless it was told one.
        let sized = LinkChange {
            mtu: Some(mtu.unwrap_or(bridge.mtu)),
            ..LinkChange::default()
        };
        self.netlink.set_link(link.index, &sized)?;
        let plugged = LinkChange {
            master: Some(Some(bridge.index)),
            up: Some(true),
            ..LinkChange::default()
        };
        self.netlink.set_link(link.index, &plugged)?;
        Ok(tap)
    }
}

/// The management network.
#[derive(Debug)]
struct Management {
    network: Network,
    bridge: Link,
}

impl Management {
    fn of(layout: &Layout) -> io::Result<Self> {
        let network = Network::new(layout.open_management()?)?;
        let bridge = network.bridge(MANAGEMENT_BRIDGE)?;
        Ok(Self { network, bridge })
    }
}

/// Whether a process is the machine of this amphora, by its command line.
fn is_machine(process: ProcessId, amphora: AmphoraId) -> bool {
    let words = process.command_line().unwrap_or_default();
    let uuid = OsString::from(amphora.to_string());
    let wanted = [OsString::from("-uuid"), uuid];
    words.windows(wanted.len()).any(|some| some == wanted)
}

#[cfg(test)]
mod tests;
