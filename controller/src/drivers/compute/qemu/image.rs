//! The files that machines start from: the folder that `krater image build` made.

use super::args::Start;
use crate::config::BootFrom;
use std::io;
use std::path::{Path, PathBuf};

/// Kernel of an image.
pub const KERNEL: &str = "vmlinuz";
/// Its initrd.
pub const INITRD: &str = "initrd";
/// The disk with both and boot loaders, as it is uploaded to a cloud.
pub const DISK: &str = "amphora.qcow2";
/// The same as the boot loaders of the disk give. The serial port last: it is the console of the guest's PID 1, and
/// what is logged here.
pub const PARAMETERS: &str = "console=tty0 console=ttyS0 panic=10";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    disk: PathBuf,
    from: BootFrom,
}

impl Image {
    /// Looks into the folder.
    ///
    /// # Errors
    /// When a file that is needed is missing; the error names it and the cure.
    pub fn open(folder: &Path, from: BootFrom) -> io::Result<Self> {
        let folder = folder.canonicalize().map_err(|error| {
            let text = format!("image folder {}: {error}", folder.display());
            io::Error::new(error.kind(), text)
        })?;
        let image = Self {
            kernel: folder.join(KERNEL),
            initrd: folder.join(INITRD),
            disk: folder.join(DISK),
            from,
        };
        let needed = match from {
            BootFrom::Kernel => vec![&image.kernel, &image.initrd],
            BootFrom::Disk => vec![&image.disk],
        };
        match needed.into_iter().find(|path| !path.is_file()) {
            None => Ok(image),
            Some(path) => {
                let text = format!(
                    "{} is not there: name the folder that `krater image build --out` made by --image",
                    path.display()
                );
                Err(io::Error::new(io::ErrorKind::NotFound, text))
            }
        }
    }

    /// What machines start from.
    pub(super) fn start(&self) -> Start<'_> {
        match self.from {
            BootFrom::Kernel => self.by_kernel(),
            BootFrom::Disk => Start::Disk { image: &self.disk },
        }
    }

    /// Kernel and initrd.
    pub(super) fn by_kernel(&self) -> Start<'_> {
        Start::Kernel {
            kernel: &self.kernel,
            initrd: &self.initrd,
            parameters: PARAMETERS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let open = |from| Image::open(dir.path(), from);
        let missing = |from| open(from).unwrap_err().to_string();
        assert!(missing(BootFrom::Kernel).contains(KERNEL));
        std::fs::write(dir.path().join(KERNEL), "").unwrap();
        assert!(missing(BootFrom::Kernel).contains(INITRD));
        std::fs::write(dir.path().join(INITRD), "").unwrap();
        let image = open(BootFrom::Kernel).unwrap();
        assert!(matches!(image.start(), Start::Kernel { .. }));
        assert!(
            missing(BootFrom::Disk).contains(DISK) && missing(BootFrom::Disk).contains("--image")
        );
        std::fs::write(dir.path().join(DISK), "").unwrap();
        let image = open(BootFrom::Disk).unwrap();
        assert!(matches!(image.start(), Start::Disk { .. }));
        let none = Image::open(&dir.path().join("none"), BootFrom::Disk);
        assert!(none.unwrap_err().to_string().contains("image folder"));
    }
}
