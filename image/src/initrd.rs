//! The initrd: `amphora` as `/init`, modules, and nothing else of a distribution.

use crate::cpio::{Archive, CpioError};

/// Level of zstd: the initrd is read at each boot and written once.
const LEVEL: i32 = 19;
/// Window of 1 MiB: the kernel takes that much memory to unpack, beside the archive and what comes out of it. The 8 MiB of
/// the level do not fit into a machine of 96 MiB, and make the archive no more than 4 % smaller.
const WINDOW_LOG: u32 = 20;
/// Folders that PID 1 mounts on or writes to.
const FOLDERS: [&str; 8] = ["proc", "sys", "dev", "run", "tmp", "etc", "var", "mnt"];

/// Why there is no initrd.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// The archive.
    #[error(transparent)]
    Cpio(#[from] CpioError),
    /// The compressor.
    #[error("zstd")]
    Zstd(#[source] std::io::Error),
}

/// What goes in.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The static program.
    pub amphora: &'a [u8],
    /// In load order.
    pub modules: &'a [ModuleFile],
    /// `/etc/krater-image.json`.
    pub about: &'a str,
    /// The static shell of the debug variant.
    pub busybox: Option<&'a [u8]>,
}

/// A kernel module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleFile {
    /// Such as `virtio_net.ko`.
    pub name: String,
    /// Unpacked.
    pub content: Vec<u8>,
    /// Devices that it is for; none: it is loaded always.
    pub devices: Vec<&'static str>,
}

/// The compressed archive; the kernel unpacks it into its first file system.
pub fn build(contents: &Contents<'_>) -> Result<Vec<u8>, InitrdError> {
    let archive = archive(contents)?.finish();
    let packed = || {
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.set_parameter(zstd::zstd_safe::CParameter::WindowLog(WINDOW_LOG))?;
        compressor.compress(&archive)
    };
    packed().map_err(InitrdError::Zstd)
}

fn archive(contents: &Contents<'_>) -> Result<Archive, CpioError> {
    let mut archive = Archive::new();
    for folder in FOLDERS {
        archive.directory(folder, 0o755)?;
    }
    archive.directory("tmp", 0o1777)?;
    // The kernel opens it for PID 1 before anything is mounted.
    archive.device("dev/console", 0o600, 5, 1)?;
    archive.file("init", 0o755, contents.amphora.to_vec())?;
    archive.file("etc/krater-image.json", 0o644, contents.about.into())?;
    let mut order = String::from("# Kernel modules in load order.\n");
    for module in contents.modules {
        let path = format!("lib/modules/{}", module.name);
        archive.file(&path, 0o644, module.content.clone())?;
        order.push_str(&module.name);
        if !module.devices.is_empty() {
            order.push_str(" if ");
            order.push_str(&module.devices.join(" "));
        }
        order.push('\n');
    }
    archive.file("lib/modules/order", 0o644, order.into())?;
    if let Some(busybox) = contents.busybox {
        archive.file("bin/busybox", 0o755, busybox.to_vec())?;
        archive.link("bin/sh", "busybox")?;
    }
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, content: &[u8], devices: &[&'static str]) -> ModuleFile {
        ModuleFile {
            name: name.into(),
            content: content.to_vec(),
            devices: devices.to_vec(),
        }
    }

    fn contents<'a>(modules: &'a [ModuleFile]) -> Contents<'a> {
        Contents {
            amphora: b"\x7fELF program",
            modules,
            about: "{}",
            busybox: None,
        }
    }

    fn holds(archive: &[u8], text: &str) -> bool {
        archive.windows(text.len()).any(|w| w == text.as_bytes())
    }

    #[test]
    fn modules_stand_in_the_given_order_and_only_the_debug_variant_has_a_shell() {
        let modules = [
            module("b.ko", &[1], &[]),
            module("a.ko", &[2], &["x*", "y"]),
        ];
        let contents = contents(&modules);
        let plain = archive(&contents).unwrap().finish();
        assert!(holds(&plain, ".\nb.ko\na.ko if x* y\n"));
        assert!(!holds(&plain, "busybox") && !holds(&plain, "bin/sh"));
        let debug = Contents {
            busybox: Some(b"shell"),
            ..contents
        };
        assert!(holds(&archive(&debug).unwrap().finish(), "bin/busybox"));
    }

    #[test]
    fn the_archive_is_what_the_kernel_unpacks() {
        let modules = [module("a.ko", &[2; 5_000], &[])];
        let packed = build(&contents(&modules)).unwrap();
        let archive = archive(&contents(&modules)).unwrap().finish();
        assert_eq!(zstd::bulk::decompress(&packed, 1 << 20).unwrap(), archive);
        assert!(packed.len() < archive.len() / 2);
        assert_eq!(packed, build(&contents(&modules)).unwrap());
    }
}
