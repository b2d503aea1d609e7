//! The amphora image's kernel and initrd in a virtual machine (TCG), with config drives as Nova's own tools make
//! them. Each machine has a network namespace of its own, in which port 9443 of 127.0.0.1 is its agent's.
//!
//! Needs `KRATER_IMAGE`, the folder of `cargo xtask image`, and the peers.

mod media;

use crate::agent::Agent;
use crate::place::Place;
use crate::{machine, wait};
use krater_image::COMMAND_LINE;
use krater_image::cpio::Archive;
use krater_net::netns::{self, NetNs};
pub use media::{Disk, Drive, Pki};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

/// Booting under emulation on a loaded machine takes tens of seconds; only broken things take this.
const PATIENCE: Duration = Duration::from_secs(240);
/// What process 1 says last.
const GIVES_UP: &str = "amphora: restarts now";
/// The name that the agent believes its controller has.
const CONTROLLER: &str = "krater-controller";
/// What QEMU's own DHCP server gives.
const ADDRESS: &str = "10.0.2.15";
/// Of the management NIC.
pub const MANAGEMENT_MAC: &str = "52:54:00:00:00:01";
/// Of the NIC that [`Machine::clients`] adds.
pub const CLIENTS_MAC: &str = "52:54:00:00:00:02";
/// The port of 127.0.0.1, in the machine's namespace, that is port 80 of [`VIP`].
pub const CLIENTS_PORT: u16 = 8_080;
/// Where clients of the amphora go.
pub const VIP: &str = "192.0.2.10";
/// What is 127.0.0.1 of the machine's namespace for the amphora: where its members are.
pub const HOST: &str = "192.0.2.2";

/// A program of the peers or of the host.
///
/// # Panics
/// When neither has it.
pub fn program(name: &str) -> Command {
    let tree = crate::peers().join("tree");
    let folders = ["usr/bin", "usr/sbin", "sbin", "bin"];
    let own = folders.iter().map(|folder| tree.join(folder).join(name));
    let hosts = folders
        .iter()
        .map(|folder| Path::new("/").join(folder).join(name));
    let path = own.chain(hosts).find(|path| path.exists());
    let path = path.unwrap_or_else(|| panic!("{name} is missing: `cargo xtask setup` fetches it"));
    let mut command = Command::new(path);
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|l| tree.join(l));
    let joined = std::env::join_paths(libraries).expect("no colon in the path");
    command.env("LD_LIBRARY_PATH", joined);
    command
}

/// QEMU with its firmware.
fn emulator() -> Command {
    Command::new(machine::peer("qemu/qemu-system-x86_64"))
}

fn file(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is missing: `cargo xtask image` makes it",
        path.display()
    );
    path
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// A CD-ROM on IDE; machine `pc`.
    Ide,
    /// A CD-ROM on SATA; machine `q35`.
    Sata,
    /// A CD-ROM on virtio-scsi.
    Scsi,
    /// A disk on virtio-blk.
    Virtio,
}

/// What finds the kernel on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, and the boot loader in the image.
    Bios,
    /// OVMF, and the EFI program in the image.
    Uefi,
}

/// A machine to boot.
#[derive(Debug)]
pub struct Machine {
    image: PathBuf,
    arguments: Vec<String>,
    kind: &'static str,
    append: String,
    /// In MiB; none: what suits the way of booting.
    memory: Option<u32>,
    /// The host's end of the management NIC.
    management: String,
    debug: bool,
    /// Kernel and initrd of the image at once, or its disk as a cloud boots it.
    disk: Option<Firmware>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            image: machine::image(),
            arguments: Vec::new(),
            kind: "pc",
            append: String::new(),
            memory: None,
            management: format!("user,id=n0,hostfwd=tcp:127.0.0.1:9443-{ADDRESS}:9443"),
            debug: false,
            disk: None,
        }
    }
}

impl Machine {
    /// Of the type `q35` instead of `pc`.
    #[must_use]
    pub fn q35(mut self) -> Self {
        self.kind = "q35";
        self
    }

    /// Of another image.
    #[must_use]
    pub fn of(mut self, image: &Path) -> Self {
        image.clone_into(&mut self.image);
        self
    }

    /// With so much memory, in MiB.
    #[must_use]
    pub const fn memory(mut self, mib: u32) -> Self {
        self.memory = Some(mib);
        self
    }

    /// The management NIC is a tap device of this name in the machine's namespace instead of QEMU's own network.
    #[must_use]
    pub fn on_tap(mut self, name: &str) -> Self {
        self.management = format!("tap,id=n0,ifname={name},script=no,downscript=no");
        self
    }

    /// With one more NIC.
    #[must_use]
    pub fn nic(self, mac: &str, id: &str, netdev: &str) -> Self {
        let (kind, rest) = netdev.split_once(',').unwrap_or((netdev, ""));
        let netdev = format!("{kind},id={id},{rest}");
        let device = format!("virtio-net-pci,netdev={id},mac={mac},romfile=");
        self.with(&["-netdev", netdev.trim_end_matches(','), "-device", &device])
    }

    /// With a NIC for clients and members: [`CLIENTS_MAC`], [`CLIENTS_PORT`], [`VIP`], [`HOST`].
    #[must_use]
    pub fn clients(self) -> Self {
        let user = format!(
            "user,net=192.0.2.0/24,host={HOST},hostfwd=tcp:127.0.0.1:{CLIENTS_PORT}-{VIP}:80"
        );
        self.nic(CLIENTS_MAC, "clients", &user)
    }

    /// From the image's qcow2, as a cloud boots it. The command line is the image's own.
    #[must_use]
    pub fn from_disk(mut self, firmware: Firmware) -> Self {
        self.disk = Some(firmware);
        self
    }

    /// With the shell of the debug variant.
    #[must_use]
    pub fn debug(mut self) -> Self {
        self.debug = true;
        // A line of the kernel in the middle of the shell's is not what a test looks for.
        self.append("loglevel=3")
    }

    /// With more words on the kernel's command line.
    #[must_use]
    pub fn append(mut self, words: &str) -> Self {
        self.append.push(' ');
        self.append.push_str(words);
        self
    }

    /// With more arguments for QEMU.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|a| (*a).to_owned()));
        self
    }

    /// With a disk.
    #[must_use]
    pub fn disk(self, disk: &Disk, bus: Bus) -> Self {
        let id = format!("disk{}", self.arguments.len());
        let read_only = if bus == Bus::Virtio {
            ""
        } else {
            ",media=cdrom,readonly=on"
        };
        let drive = format!(
            "id={id},if=none,format=raw,file={}{read_only}",
            disk.path().display()
        );
        let machine = self.with(&["-drive", &drive, "-device"]);
        match bus {
            Bus::Ide => machine.with(&[&format!("ide-cd,drive={id},bus=ide.1")]),
            Bus::Sata => machine.with(&[&format!("ide-cd,drive={id},bus=ide.2")]),
            Bus::Virtio => machine.with(&[&format!("virtio-blk-pci,drive={id}")]),
            Bus::Scsi => machine.with(&[
                "virtio-scsi-pci,id=scsi",
                "-device",
                &format!("scsi-cd,bus=scsi.0,drive={id}"),
            ]),
        }
    }

    /// Boots it.
    ///
    /// # Panics
    /// Without root, the image or the peers.
    pub fn boot(self) -> Guest {
        let folder = tempfile::tempdir().expect("a folder");
        let netns = NetNs::create(&folder.path().join("netns")).expect("these tests need root");
        let initrd = folder.path().join("initrd");
        let mut bytes = std::fs::read(file(&self.image, "initrd")).expect("the initrd");
        // The kernel unpacks archives one after another, each beginning at a multiple of four.
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        if self.debug {
            bytes.extend(shell());
        }
        std::fs::write(&initrd, bytes).expect("an initrd");
        let console = folder.path().join("console");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut command = emulator();
        command
            .args([
                "-accel",
                "tcg,thread=multi",
                "-nodefaults",
                "-display",
                "none",
            ])
            .args(["-machine", self.kind, "-cpu", "max"])
            .args(self.start(&initrd))
            .args([
                "-chardev",
                &format!(
                    "socket,id=c,server=on,wait=off,path={},logfile={}",
                    path("serial"),
                    console.display()
                ),
            ])
            .args(["-serial", "chardev:c"])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", path("qmp"))])
            .args(["-netdev", &self.management])
            .args([
                "-device",
                &format!("virtio-net-pci,netdev=n0,mac={MANAGEMENT_MAC},romfile="),
            ])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("stderr")).expect("a file"));
        let child = netns
            .run(|| command.spawn())
            .expect("enter the namespace")
            .expect("start QEMU");
        Guest {
            child,
            folder,
            serial: OnceLock::new(),
        }
    }
}

impl Machine {
    /// The arguments that say what is started.
    fn start(&self, initrd: &Path) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let Some(firmware) = self.disk else {
            let append = format!("{COMMAND_LINE}{}", self.append);
            let (kernel, initrd) = (path(&file(&self.image, "vmlinuz")), path(initrd));
            let memory = self.memory.unwrap_or(192).to_string();
            return words(&[
                "-m", &memory, "-kernel", &kernel, "-initrd", &initrd, "-append", &append,
            ]);
        };
        assert!(!self.debug && self.append.is_empty(), "a disk is as it is");
        let disk = path(&file(&self.image, "amphora.qcow2"));
        let drive = format!("id=image,if=none,format=qcow2,snapshot=on,file={disk}");
        let device = "virtio-blk-pci,drive=image,bootindex=0";
        let memory = self.memory.unwrap_or(256).to_string();
        let mut all = words(&["-m", &memory, "-drive", &drive, "-device", device]);
        if firmware == Firmware::Uefi {
            let code = path(&machine::peer("usr/share/ovmf/OVMF.fd"));
            all.extend(words(&["-bios", &code]));
        }
        all
    }
}

/// The shell, and that the image is of the debug variant.
fn shell() -> Vec<u8> {
    let busybox = program("busybox");
    let busybox = std::fs::read(busybox.get_program()).expect("busybox");
    let about = json!({"name": "amphora", "version": "e2e", "kernel": "", "variant": "debug"});
    let mut archive = Archive::new();
    archive.file("bin/busybox", 0o755, busybox).expect("a path");
    let about = about.to_string().into_bytes();
    archive
        .file("etc/krater-image.json", 0o644, about)
        .expect("a path");
    archive.finish()
}

/// A machine that runs, or ran.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    folder: TempDir,
    serial: OnceLock<UnixStream>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("console of the guest:\n{}", self.console());
        }
        let _ = netns::delete(&self.folder.path().join("netns"));
    }
}

impl Guest {
    /// All that it said.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it has said `text` so many times; gives all that it said.
    ///
    /// # Panics
    /// When it does not, or ends before.
    pub fn says_times(&mut self, text: &str, times: usize) -> String {
        // Who waits for the end of the machine sees it; who waits for anything else sees that it does not come.
        let expected = self.console().matches(GIVES_UP).count();
        let expected = expected + usize::from(GIVES_UP.contains(text));
        wait::within(PATIENCE, text, || {
            let ended = self.ended();
            let console = self.console();
            if console.matches(text).count() >= times {
                return Some(console);
            }
            let given_up = console.matches(GIVES_UP).count();
            assert!(given_up <= expected, "{text:?}: it gave up:\n{console}");
            if let Some(status) = ended {
                let errors = std::fs::read_to_string(self.folder.path().join("stderr"));
                panic!("{text:?}: QEMU has ended: {status}: {errors:?}");
            }
            None
        })
    }

    /// Waits until it has said `text`.
    pub fn says(&mut self, text: &str) -> String {
        self.says_times(text, 1)
    }

    /// The time since boot, in seconds, at which it said `text` first.
    ///
    /// # Panics
    /// When it did not.
    pub fn said_at(&self, text: &str) -> f64 {
        let console = self.console();
        let line = console.lines().find(|line| line.contains(text));
        let time = line.and_then(|line| line.split_once('[')?.1.split_once(']'));
        let time = time.and_then(|(time, _)| time.trim().parse().ok());
        time.unwrap_or_else(|| panic!("{text:?} was not said"))
    }

    /// How QEMU ended, if it has.
    ///
    /// # Panics
    /// Never in practice.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// Waits until QEMU has ended: the machine went off.
    pub fn goes_off(&mut self) {
        wait::within(PATIENCE, "the machine goes off", || self.ended());
    }

    /// Its namespace.
    ///
    /// # Panics
    /// Never in practice: it lives as long as this.
    pub fn netns(&self) -> NetNs {
        NetNs::open(&self.folder.path().join("netns")).expect("the namespace")
    }

    /// Where its clients and members are: 127.0.0.1 of its namespace.
    pub fn place(&self) -> Place {
        Place::of(self.netns(), [127, 0, 0, 1].into())
    }

    /// Its agent, which listens but may not answer yet.
    pub fn agent(&self, pki: &Pki) -> Agent {
        self.agent_at(pki, [127, 0, 0, 1].into())
    }

    /// The same at another address.
    pub fn agent_at(&self, pki: &Pki, address: IpAddr) -> Agent {
        Agent::at(self.netns(), address, &pki.amphora, &pki.servers.0)
    }

    /// Waits until the agent answers its controller.
    pub fn answers(&mut self, pki: &Pki) -> Value {
        // QEMU's own network takes a connection before the guest does, and a SYN that nobody answered is repeated after
        // seconds: the first attempt is made when it can succeed.
        self.says(&format!("has {ADDRESS}/24"));
        self.says("agent started");
        self.answers_at(pki, [127, 0, 0, 1].into())
    }

    /// The same at another address.
    pub fn answers_at(&mut self, pki: &Pki, address: IpAddr) -> Value {
        let (agent, controller) = (self.agent_at(pki, address), pki.controller());
        wait::within(PATIENCE, "the agent answers", || {
            let ended = self.ended();
            assert!(ended.is_none(), "QEMU has ended: {ended:?}");
            let answer = agent.send(&controller, "GET", "/2.0/info", "").ok();
            // What it says itself is no use to wait for longer.
            let console = self.console();
            assert!(answer.is_some() || !console.contains(GIVES_UP), "{console}");
            let answer = answer?;
            (answer.status == 200).then(|| serde_json::from_str(&answer.body).expect("JSON"))
        })
    }

    /// Types a line on the serial port.
    ///
    /// # Panics
    /// When it cannot be reached.
    pub fn types(&self, line: &str) {
        // One visit for the machine's life: what a guest has not read yet is lost when the visitor leaves.
        let mut port = self.serial.get_or_init(|| {
            let port = UnixStream::connect(self.folder.path().join("serial")).expect("the port");
            let mut output = port.try_clone().expect("a copy");
            // Nobody waits for it: it ends with QEMU.
            std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
            port
        });
        // Slower than a person: an emulated port has a queue of sixteen bytes.
        for byte in format!("{line}\r").bytes() {
            port.write_all(&[byte]).expect("type");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A command of QEMU's monitor; gives its answer.
    ///
    /// # Panics
    /// When it is refused.
    pub fn monitor(&self, command: &str, arguments: &Value) -> Value {
        let mut monitor = self.monitor_socket();
        say(
            &mut monitor,
            &json!({"execute": command, "arguments": arguments}),
        );
        let answer = hear(&mut monitor, |message| {
            message.get("return").is_some() || message.get("error").is_some()
        });
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["return"].clone()
    }

    fn monitor_socket(&self) -> BufReader<UnixStream> {
        let path = self.folder.path().join("qmp");
        let socket = wait::until("the monitor", || UnixStream::connect(&path).ok());
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut monitor = BufReader::new(socket);
        hear(&mut monitor, |message| message.get("QMP").is_some());
        say(&mut monitor, &json!({"execute": "qmp_capabilities"}));
        hear(&mut monitor, |message| message.get("return").is_some());
        monitor
    }
}

fn say(monitor: &mut BufReader<UnixStream>, message: &Value) {
    let text = format!("{message}\n");
    monitor
        .get_mut()
        .write_all(text.as_bytes())
        .expect("the monitor");
}

fn hear(monitor: &mut BufReader<UnixStream>, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let mut line = String::new();
        let length = monitor.read_line(&mut line).expect("the monitor answers");
        assert!(length > 0, "the monitor is gone");
        let message: Value = serde_json::from_str(&line).expect("JSON");
        if wanted(&message) {
            return message;
        }
    }
}
