//! The files that machines start from: the folder that `krater image build` made.

use super::args::Start;
use crate::config::BootFrom;
use krater_image::{COMMAND_LINE, DISK, INITRD, KERNEL};
use std::io;
use std::path::{Path, PathBuf};

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
            parameters: COMMAND_LINE,
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
