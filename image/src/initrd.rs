//! The initrd: `amphora` as `/init`, modules, and nothing else of a distribution.

use crate::cpio::{Archive, CpioError};

/// Level of zstd: the initrd is read at each boot and written once.
const LEVEL: i32 = 19;
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
    /// File name, such as `virtio_net.ko`, and content, in load order.
    pub modules: &'a [(String, Vec<u8>)],
    /// `/etc/krater-image.json`.
    pub about: &'a str,
    /// The static shell of the debug variant.
    pub busybox: Option<&'a [u8]>,
}

/// The compressed archive; the kernel unpacks it into its first file system.
pub fn build(contents: &Contents<'_>) -> Result<Vec<u8>, InitrdError> {
    let archive = archive(contents)?.finish();
    zstd::bulk::compress(&archive, LEVEL).map_err(InitrdError::Zstd)
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
    for (name, content) in contents.modules {
        archive.file(&format!("lib/modules/{name}"), 0o644, content.clone())?;
        order.push_str(name);
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

    fn contents<'a>(modules: &'a [(String, Vec<u8>)]) -> Contents<'a> {
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
        let modules = [("b.ko".to_owned(), vec![1]), ("a.ko".to_owned(), vec![2])];
        let contents = contents(&modules);
        let plain = archive(&contents).unwrap().finish();
        assert!(holds(&plain, "order\nb.ko\na.ko\n") || holds(&plain, ".\nb.ko\na.ko\n"));
        assert!(!holds(&plain, "busybox") && !holds(&plain, "bin/sh"));
        let debug = Contents {
            busybox: Some(b"shell"),
            ..contents
        };
        assert!(holds(&archive(&debug).unwrap().finish(), "bin/busybox"));
    }

    #[test]
    fn the_archive_is_what_the_kernel_unpacks() {
        let modules = [("a.ko".to_owned(), vec![2; 5_000])];
        let packed = build(&contents(&modules)).unwrap();
        let archive = archive(&contents(&modules)).unwrap().finish();
        assert_eq!(zstd::bulk::decompress(&packed, 1 << 20).unwrap(), archive);
        assert!(packed.len() < archive.len() / 2);
        assert_eq!(packed, build(&contents(&modules)).unwrap());
    }
}
