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
}

const fn must(name: &'static str) -> Wanted {
    Wanted {
        name,
        required: true,
    }
}

const fn may(name: &'static str) -> Wanted {
    Wanted {
        name,
        required: false,
    }
}

/// In the order in which they are wanted first: what finds disks and network cards begins.
pub const WANTED: &[Wanted] = &[
    // Disks and the buses that a config drive may be on.
    must("virtio_pci"),
    must("virtio_blk"),
    must("virtio_scsi"),
    must("ahci"),
    must("ata_piix"),
    must("sd_mod"),
    must("sr_mod"),
    must("isofs"),
    must("vfat"),
    // vfat asks for its code pages by name, and nobody loads them on demand here.
    must("nls_cp437"),
    must("nls_ascii"),
    must("nls_utf8"),
    may("nls_iso8859_1"),
    // The data partition.
    must("ext4"),
    // Network cards.
    must("virtio_net"),
    may("e1000"),
    may("e1000e"),
    may("vmxnet3"),
    // The platform.
    must("virtio_rng"),
    must("virtio_console"),
    may("virtio_balloon"),
    must("qemu_fw_cfg"),
    may("vmgenid"),
    must("button"),
    must("evdev"),
    may("i6300esb"),
    may("iTCO_wdt"),
    may("efivarfs"),
    may("rtc_cmos"),
    // Networks.
    must("8021q"),
    must("macvlan"),
    must("veth"),
    must("bridge"),
    must("tls"),
    must("sch_fq"),
    must("tcp_bbr"),
    must("inet_diag"),
    must("tcp_diag"),
    must("udp_diag"),
    must("nf_tables"),
    must("nf_conntrack"),
    must("nft_ct"),
    may("nft_limit"),
    may("nft_log"),
    may("nft_reject_inet"),
    may("nft_masq"),
    may("nft_nat"),
    may("nft_fib_inet"),
    // Ciphers of kernel TLS.
    may("gcm"),
    may("ghash_generic"),
    may("ghash_clmulni_intel"),
    may("aesni_intel"),
    may("chacha20poly1305"),
];

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

/// Names in load order: each after all that it depends on. `available` has modules by name, `builtin` the names
/// of what is in the kernel, `dependencies` reads a module.
pub fn choose(
    wanted: &[Wanted],
    available: &BTreeSet<String>,
    builtin: &BTreeSet<String>,
    mut dependencies: impl FnMut(&str) -> Result<Vec<String>, ElfError>,
) -> Result<Vec<String>, ModuleError> {
    let mut order = Order {
        available,
        builtin,
        chosen: Vec::new(),
        done: BTreeMap::new(),
    };
    for Wanted { name, required } in wanted {
        if builtin.contains(*name) {
            continue;
        }
        if available.contains(*name) {
            order.add(name, 0, &mut dependencies)?;
        } else if *required {
            return Err(ModuleError::Missing((*name).into()));
        }
    }
    Ok(order.chosen)
}

struct Order<'a> {
    available: &'a BTreeSet<String>,
    builtin: &'a BTreeSet<String>,
    chosen: Vec<String>,
    /// Whether a module that was looked at is in the list; one that is not yet is being looked at.
    done: BTreeMap<String, bool>,
}

impl Order<'_> {
    fn add(
        &mut self,
        name: &str,
        depth: usize,
        dependencies: &mut impl FnMut(&str) -> Result<Vec<String>, ElfError>,
    ) -> Result<(), ModuleError> {
        match self.done.get(name) {
            Some(true) => return Ok(()),
            Some(false) => return Err(ModuleError::Circle(name.into())),
            None if depth > MAX_DEPTH => return Err(ModuleError::Circle(name.into())),
            None => {}
        }
        self.done.insert(name.into(), false);
        let needed = dependencies(name).map_err(|error| ModuleError::File {
            module: name.into(),
            error,
        })?;
        for dependency in needed {
            if self.builtin.contains(&dependency) {
                continue;
            }
            if !self.available.contains(&dependency) {
                return Err(ModuleError::Dependency {
                    module: name.into(),
                    dependency,
                });
            }
            self.add(&dependency, depth + 1, dependencies)?;
        }
        self.done.insert(name.into(), true);
        self.chosen.push(name.into());
        Ok(())
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
        assert_eq!(order, ["cdrom", "sr_mod", "fat", "vfat"]);
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
