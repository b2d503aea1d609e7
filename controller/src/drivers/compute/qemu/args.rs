//! The command line of a virtual machine. Pure.

use crate::config::Acceleration;
use krater_model::MacAddr;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::Path;

/// The machine type. Its root bus takes NICs while the guest runs; q35 would need a port made in advance for each.
const MACHINE: &str = "pc";

/// User and group of a running machine. QEMU takes it when it has opened all that it needs of root: the config drive, which
/// holds private keys, and the image; NICs come as descriptors.
pub const USER: u32 = 64_503;

/// What the guest starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start<'a> {
    /// Kernel and initrd, without a boot loader.
    Kernel {
        /// bzImage.
        kernel: &'a Path,
        /// cpio archive.
        initrd: &'a Path,
        /// Parameters of the kernel.
        parameters: &'a str,
    },
    /// The disk, through the BIOS. What the guest writes goes to a file that has no name and ends with the machine.
    Disk {
        /// qcow2.
        image: &'a Path,
    },
}

/// A machine.
#[derive(Debug, Clone)]
pub struct Machine<'a> {
    /// Shown by `ps`.
    pub name: &'a str,
    /// The amphora's id.
    pub uuid: &'a str,
    /// KVM or TCG, decided.
    pub kvm: bool,
    /// In MiB.
    pub memory: u32,
    /// Virtual processors.
    pub cpus: u16,
    /// What it starts from.
    pub start: Start<'a>,
    /// Config drive; none for a machine that is only tried out.
    pub drive: Option<&'a Path>,
    /// Socket of the monitor; none: no monitor.
    pub monitor: Option<&'a Path>,
    /// The management NIC and its tap device's descriptor.
    pub management: Option<(MacAddr, RawFd)>,
}

impl Machine<'_> {
    /// Arguments behind the program's name. The first serial port is standard output.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut args = Arguments::default();
        // No device, no file of options, no window that is not named here.
        args.flags(&["-nodefaults", "-no-user-config"]);
        args.pair("-display", "none");
        args.pair("-name", &format!("guest={}", self.name));
        args.pair("-uuid", self.uuid);
        args.pair("-machine", &format!("type={MACHINE},usb=off,vmport=off"));
        if self.kvm {
            args.pair("-accel", "kvm");
            args.pair("-cpu", "host");
        } else {
            // The translated code of a guest this small fits; QEMU would take up to a gigabyte for it.
            args.pair("-accel", "tcg,thread=multi,tb-size=64");
            // Five levels of page tables cost a translator more than they give a guest of this size.
            args.pair("-cpu", "max,la57=off");
        }
        args.pair("-m", &format!("size={}M", self.memory));
        args.pair("-smp", &self.cpus.to_string());
        args.pair("-rtc", "base=utc");
        // A guest whose PID 1 stands still is reset.
        args.pair("-device", "i6300esb");
        // A guest that breaks out finds a process without rights that may start nothing. The filter's own
        // `elevateprivileges=deny` would keep QEMU from becoming that user; without capabilities it denies nothing more.
        args.pair("-runas", &format!("{USER}:{USER}"));
        args.pair(
            "-sandbox",
            "on,obsolete=deny,spawn=deny,resourcecontrol=deny",
        );
        // Opened anew: the pipe on standard output that the console's writer reads.
        args.pair("-chardev", "file,id=console,path=/proc/self/fd/1,append=on");
        args.pair("-serial", "chardev:console");
        if let Some(path) = self.monitor {
            args.path(
                "-chardev",
                "socket,id=monitor,server=on,wait=off,path=",
                path,
                "",
            );
            args.pair("-mon", "chardev=monitor,mode=control");
        }
        match self.start {
            Start::Kernel {
                kernel,
                initrd,
                parameters,
            } => {
                args.pair("-kernel", kernel);
                args.pair("-initrd", initrd);
                args.pair("-append", parameters);
            }
            Start::Disk { image } => {
                let tail = ",if=none,id=disk,format=qcow2,snapshot=on";
                args.path("-drive", "file=", image, tail);
                args.pair("-device", "virtio-blk-pci,drive=disk,bootindex=1");
            }
        }
        if let Some(drive) = self.drive {
            let tail = ",if=none,id=config,format=raw,readonly=on";
            args.path("-drive", "file=", drive, tail);
            args.pair("-device", "virtio-blk-pci,drive=config");
        }
        if let Some((mac, descriptor)) = self.management {
            let id = device_id(mac);
            args.pair("-netdev", &format!("tap,id={id},fd={descriptor}"));
            // No ROM: nothing starts from this network.
            let nic = format!("virtio-net-pci,netdev={id},id={id},mac={mac},romfile=");
            args.pair("-device", &nic);
        }
        args.list
    }
}

/// Name of a NIC, its network backend and its descriptor at a monitor. Begins with a letter, as QEMU wants it.
pub fn device_id(mac: MacAddr) -> String {
    let [a, b, c, d, e, f] = mac.0;
    format!("nic{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}")
}

#[derive(Debug, Default)]
struct Arguments {
    list: Vec<OsString>,
}

impl Arguments {
    fn flags(&mut self, flags: &[&str]) {
        self.list.extend(flags.iter().map(OsString::from));
    }

    fn pair(&mut self, option: &str, value: &(impl AsRef<OsStr> + ?Sized)) {
        self.list.push(option.into());
        self.list.push(value.as_ref().into());
    }

    /// A value with a path inside: there a comma is written twice.
    fn path(&mut self, option: &str, before: &str, path: &Path, after: &str) {
        use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
        let mut value = before.as_bytes().to_vec();
        for byte in path.as_os_str().as_bytes() {
            value.push(*byte);
            if *byte == b',' {
                value.push(b',');
            }
        }
        value.extend_from_slice(after.as_bytes());
        self.pair(option, &OsString::from_vec(value));
    }
}

/// What the configuration and a probe say about acceleration; the probe is only asked when it matters.
pub fn kvm(wanted: Acceleration, probe: impl FnOnce() -> bool) -> bool {
    match wanted {
        Acceleration::Kvm => true,
        Acceleration::Tcg => false,
        Acceleration::Auto => probe(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 1, 0xff]);

    fn machine() -> Machine<'static> {
        Machine {
            name: "0badcafe-x",
            uuid: "00000000-0000-0000-0000-000000000007",
            kvm: false,
            memory: 256,
            cpus: 1,
            start: Start::Kernel {
                kernel: Path::new("/image/vmlinuz"),
                initrd: Path::new("/image/initrd"),
                parameters: "console=ttyS0 panic=10",
            },
            drive: Some(Path::new("/state/a,b/config-drive.iso")),
            monitor: Some(Path::new("/state/a,b/qmp.sock")),
            management: Some((MAC, 7)),
        }
    }

    fn text(machine: &Machine<'_>) -> String {
        let words = machine.arguments();
        words.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn everything_is_named_and_commas_in_paths_are_doubled() {
        let text = text(&machine());
        for part in [
            "-nodefaults -no-user-config -display none",
            "-name guest=0badcafe-x -uuid 00000000-0000-0000-0000-000000000007",
            "-accel tcg,thread=multi,tb-size=64 -cpu max,la57=off -m size=256M -smp 1",
            "-runas 64503:64503",
            "spawn=deny",
            "-chardev socket,id=monitor,server=on,wait=off,path=/state/a,,b/qmp.sock -mon chardev=monitor,mode=control",
            "-kernel /image/vmlinuz -initrd /image/initrd -append console=ttyS0 panic=10",
            "-drive file=/state/a,,b/config-drive.iso,if=none,id=config,format=raw,readonly=on",
            "-netdev tap,id=nicfa163e0001ff,fd=7",
            "-device virtio-net-pci,netdev=nicfa163e0001ff,id=nicfa163e0001ff,mac=fa:16:3e:00:01:ff,romfile=",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        assert!(!text.contains("kvm"));
    }

    #[test]
    fn a_disk_is_never_written() {
        let disk = Machine {
            start: Start::Disk {
                image: Path::new("/image/amphora.qcow2"),
            },
            kvm: true,
            ..machine()
        };
        let text = text(&disk);
        assert!(
            text.contains("file=/image/amphora.qcow2,if=none,id=disk,format=qcow2,snapshot=on")
        );
        assert!(text.contains("-accel kvm -cpu host") && !text.contains("-kernel"));
    }

    #[test]
    fn a_machine_on_trial_has_neither_monitor_nor_nic_nor_drive() {
        let trial = Machine {
            drive: None,
            monitor: None,
            management: None,
            ..machine()
        };
        let text = text(&trial);
        for part in ["-mon", "-netdev", "-drive"] {
            assert!(!text.contains(part), "{text}");
        }
    }

    #[test]
    fn only_auto_asks_the_probe() {
        let never = || -> bool { panic!("asked") };
        assert!(kvm(Acceleration::Kvm, never) && !kvm(Acceleration::Tcg, never));
        assert!(kvm(Acceleration::Auto, || true) && !kvm(Acceleration::Auto, || false));
    }
}
