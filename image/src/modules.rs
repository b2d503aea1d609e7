//! Which kernel modules the image carries, and the order in which they are loaded.
//!
//! No `depmod` and no `modprobe`: each module says in its section `.modinfo` what it depends on, and the kernel's
//! `modules.builtin` says what needs no module. What nobody loads on demand in the image is named here.

use crate::elf::{self, ElfError};
use std::collections::{BTreeMap, BTreeSet};

/// Deepest chain of dependencies: the kernel's own are shorter than ten.
const MAX_DEPTH: usize = 64;

/// A module that the image needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Its name as `lsmod` prints it.
    pub name: &'static str,
    /// Whether a kernel without it is refused. The others are hardware that some clouds show, and speed.
    pub required: bool,
    /// Names of devices (`modalias`) that it is for: it is loaded where one is there when the machine starts. None: always.
    pub devices: &'static [&'static str],
}

impl Wanted {
    const fn on(mut self, devices: &'static [&'static str]) -> Self {
        self.devices = devices;
        self
    }
}

const fn must(name: &'static str) -> Wanted {
    Wanted {
        name,
        required: true,
        devices: &[],
    }
}

const fn may(name: &'static str) -> Wanted {
    Wanted {
        name,
        required: false,
        devices: &[],
    }
}

// By class (`bc`, `sc`) where the driver goes by it, else by maker; virtio devices by number (virtio 1.2, section 5).
const SATA: &str = "pci:*bc01sc06*";
const IDE: &str = "pci:*bc01sc01*";
const VIRTIO_SCSI: &str = "virtio:d00000008v*";

/// In the order in which they are wanted first: what finds disks and network cards begins. What no part of Krater uses is
/// not here: a module takes some 10 ms of each boot under TCG, memory, and is code of the kernel that can be reached.
pub const WANTED: &[Wanted] = &[
    // Disks and the buses that a config drive may be on.
    must("virtio_pci"),
    must("virtio_blk"),
    must("virtio_scsi").on(&[VIRTIO_SCSI]),
    must("ahci").on(&[SATA]),
    must("ata_piix").on(&[IDE]),
    must("sd_mod").on(&[SATA, IDE, VIRTIO_SCSI]),
    must("sr_mod").on(&[SATA, IDE, VIRTIO_SCSI]),
    must("isofs"),
    must("vfat"),
    // vfat asks for its code pages by name, and nobody loads them on demand here.
    must("nls_cp437"),
    must("nls_ascii"),
    must("nls_utf8"),
    may("nls_iso8859_1"),
    // The data partition.
    must("ext4"),
    // Network cards. Those that are plugged in later are of the same make as the first, or virtio.
    must("virtio_net"),
    may("e1000").on(&["pci:v00008086*bc02*"]),
    may("e1000e").on(&["pci:v00008086*bc02*"]),
    may("vmxnet3").on(&["pci:v000015AD*bc02*"]),
    // The platform.
    must("virtio_rng").on(&["virtio:d00000004v*"]),
    must("virtio_console").on(&["virtio:d00000003v*"]),
    may("virtio_balloon").on(&["virtio:d00000005v*"]),
    may("vmgenid"),
    must("button"),
    must("evdev"),
    may("i6300esb").on(&["pci:v00008086d000025AB*"]),
    may("iTCO_wdt").on(&["pci:v00008086*bc06sc01*"]),
    // Networks: VLANs of a NIC, virtual MAC addresses of VRRP, and its filter.
    must("8021q"),
    must("macvlan"),
    must("nf_tables"),
];

/// A module of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its name.
    pub name: String,
    /// The devices that it, or what depends on it, is for; none: it is loaded always.
    pub devices: Vec<&'static str>,
}

/// Why there is no set of modules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// The kernel has it neither as a module nor built in.
    #[error("the kernel has no module {0} and has not built it in; fix: another --kernel-version")]
    Missing(String),
    /// A module names one that is not there.
    #[error("module {module} depends on {dependency}, which the kernel does not have")]
    Dependency {
        /// The module.
        module: String,
        /// What it names.
        dependency: String,
    },
    /// Modules depend on each other in a circle.
    #[error("module {0} depends on itself")]
    Circle(String),
    /// The file is not a module.
    #[error("module {module}")]
    File {
        /// The module.
        module: String,
        /// What is wrong with it.
        #[source]
        error: ElfError,
    },
}

/// The name of a module by its file: `virtio-rng.ko.xz` is `virtio_rng`.
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split(".ko").next().unwrap_or(file);
    stem.replace('-', "_")
}

/// What `depends=` of a module's `.modinfo` lists.
pub fn depends(module: &[u8]) -> Result<Vec<String>, ElfError> {
    let info = elf::section(module, ".modinfo")?.ok_or(ElfError::Format)?;
    let line = info
        .split(|b| *b == 0)
        .find_map(|line| line.strip_prefix(b"depends="))
        .unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    let names = text.split(',').filter(|n| !n.is_empty());
    Ok(names.map(|n| n.replace('-', "_")).collect())
}

/// Modules in load order: each after all that it depends on. `available` has modules by name, `builtin` the names
/// of what is in the kernel, `dependencies` reads a module.
pub fn choose(
    wanted: &[Wanted],
    available: &BTreeSet<String>,
    builtin: &BTreeSet<String>,
    dependencies: impl FnMut(&str) -> Result<Vec<String>, ElfError>,
) -> Result<Vec<Chosen>, ModuleError> {
    let mut order = Order {
        available,
        builtin,
        dependencies,
        chosen: Vec::new(),
        known: BTreeMap::new(),
        open: BTreeSet::new(),
    };
    for wanted in wanted {
        let name = wanted.name;
        if builtin.contains(name) {
            continue;
        }
        if available.contains(name) {
            order.add(name, wanted.devices)?;
        } else if wanted.required {
            return Err(ModuleError::Missing(name.into()));
        }
    }
    Ok(order.chosen)
}

struct Order<'a, F> {
    available: &'a BTreeSet<String>,
    builtin: &'a BTreeSet<String>,
    dependencies: F,
    chosen: Vec<Chosen>,
    /// What modules depend on: each is read once.
    known: BTreeMap<String, Vec<String>>,
    /// Being looked at.
    open: BTreeSet<String>,
}

impl<F: FnMut(&str) -> Result<Vec<String>, ElfError>> Order<'_, F> {
    fn add(&mut self, name: &str, devices: &'static [&'static str]) -> Result<(), ModuleError> {
        if self.open.contains(name) || self.open.len() > MAX_DEPTH {
            return Err(ModuleError::Circle(name.into()));
        }
        self.open.insert(name.into());
        for dependency in self.needed(name)? {
            if self.builtin.contains(&dependency) {
                continue;
            }
            if !self.available.contains(&dependency) {
                return Err(ModuleError::Dependency {
                    module: name.into(),
                    dependency,
                });
            }
            self.add(&dependency, devices)?;
        }
        self.open.remove(name);
        match self.chosen.iter_mut().find(|chosen| chosen.name == name) {
            None => self.chosen.push(Chosen {
                name: name.into(),
                devices: devices.to_vec(),
            }),
            // Wanted anyway by one of both.
            Some(chosen) if devices.is_empty() => chosen.devices.clear(),
            Some(chosen) if chosen.devices.is_empty() => {}
            Some(chosen) => {
                chosen.devices.extend(devices);
                chosen.devices.sort_unstable();
                chosen.devices.dedup();
            }
        }
        Ok(())
    }

    fn needed(&mut self, name: &str) -> Result<Vec<String>, ModuleError> {
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone());
        }
        let needed = (self.dependencies)(name).map_err(|error| ModuleError::File {
            module: name.into(),
            error,
        })?;
        self.known.insert(name.into(), needed.clone());
        Ok(needed)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn graph(module: &str) -> Result<Vec<String>, ElfError> {
        let needed: &[&str] = match module {
            "vfat" => &["fat"],
            "sr_mod" => &["cdrom", "scsi_mod"],
            "tls" | "broken" => &["nowhere"],
            "a" => &["b"],
            "b" => &["c"],
            "c" => &["a"],
            "text" => return Err(ElfError::Format),
            _ => &[],
        };
        Ok(needed.iter().map(|n| (*n).to_owned()).collect())
    }

    #[test]
    fn each_module_comes_after_what_it_needs_and_once() {
        let available = set(&["vfat", "fat", "sr_mod", "cdrom"]);
        let builtin = set(&["scsi_mod", "ext4"]);
        let wanted = [
            must("sr_mod"),
            must("ext4"),
            must("vfat"),
            must("fat"),
            may("e1000"),
        ];
        let order = choose(&wanted, &available, &builtin, graph).unwrap();
        let names: Vec<&str> = order.iter().map(|chosen| chosen.name.as_str()).collect();
        assert_eq!(names, ["cdrom", "sr_mod", "fat", "vfat"]);
    }

    #[test]
    fn a_module_is_for_all_devices_that_one_which_needs_it_is_for() {
        let available = set(&["vfat", "fat", "sr_mod", "cdrom", "scsi_mod"]);
        let devices = |wanted: &[Wanted], name: &str| {
            let order = choose(wanted, &available, &set(&[]), graph).unwrap();
            let found = order.into_iter().find(|chosen| chosen.name == name);
            found.unwrap().devices
        };
        let (one, two) = (must("sr_mod").on(&["b"]), must("cdrom").on(&["a", "b"]));
        assert_eq!(devices(&[one], "cdrom"), ["b"]);
        assert_eq!(devices(&[one, two], "cdrom"), ["a", "b"]);
        assert_eq!(devices(&[two, one], "sr_mod"), ["b"]);
        assert_eq!(devices(&[one, two, must("cdrom")], "cdrom"), [""; 0]);
        assert_eq!(devices(&[must("sr_mod"), two], "cdrom"), [""; 0]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let available = set(&["broken", "a", "b", "c", "text"]);
        let one = |name| choose(&[must(name)], &available, &set(&[]), graph).unwrap_err();
        assert_eq!(one("e1000"), ModuleError::Missing("e1000".into()));
        let expected = ModuleError::Dependency {
            module: "broken".into(),
            dependency: "nowhere".into(),
        };
        assert_eq!(one("broken"), expected);
        assert_eq!(one("a"), ModuleError::Circle("a".into()));
        assert!(matches!(one("text"), ModuleError::File { .. }));
    }

    #[test]
    fn a_modules_own_words_are_read() {
        let module = |info: &[u8]| elf::tests::file(&[(".modinfo", info)], 1);
        let info = b"license=GPL\0depends=virtio,virtio-ring\0name=virtio_net\0";
        assert_eq!(depends(&module(info)).unwrap(), ["virtio", "virtio_ring"]);
        assert_eq!(depends(&module(b"depends=\0")).unwrap(), [""; 0]);
        assert!(depends(b"no module").is_err());
        assert_eq!(
            name_of("kernel/drivers/char/hw_random/virtio-rng.ko.xz"),
            "virtio_rng"
        );
        assert_eq!(name_of("kernel/net/8021q/8021q.ko"), "8021q");
    }

    #[test]
    fn nothing_is_wanted_twice() {
        let names: BTreeSet<&str> = WANTED.iter().map(|w| w.name).collect();
        assert_eq!(names.len(), WANTED.len());
    }
}
