//! From packages and a program to the files of an image.

use crate::cpio::CpioError;
use crate::deb::{self, DebError};
use crate::elf::{self, ElfError};
use crate::fat::{self, FatError, File, PLAIN_FILE, SECTOR, SYSTEM_FILE, Volume};
use crate::gpt::{self, GptError};
use crate::initrd::{self, Contents, InitrdError, ModuleFile};
use crate::lock::{Lock, Pin, Role};
use crate::modules::{self, ModuleError, WANTED};
use crate::qcow2::{self, Qcow2Error};
use crate::sbom::{self, Facts, SbomError};
use crate::syslinux::{Loader, SyslinuxError};
use crate::uki::{self, UkiError};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What the kernel is told. The last console is the one that PID 1 gets: Nova's console log is the serial port. The root is of
/// the kind without a limit: the other one takes half of the memory at most, into which the initrd of a machine of 96 MiB does
/// not fit ("Initramfs unpacking failed").
pub const COMMAND_LINE: &str = "console=tty0 console=ttyS0 panic=10 rootfstype=ramfs";
/// The disk with both and boot loaders, as it is uploaded to a cloud.
pub const DISK: &str = "amphora.qcow2";
/// The kernel.
pub const KERNEL: &str = "vmlinuz";
/// Its initrd.
pub const INITRD: &str = "initrd";
/// Names of the files that [`build`] makes.
pub const ARTEFACTS: [&str; 5] = [DISK, "amphora.raw", "amphora.efi", KERNEL, INITRD];
/// Kernels that we know are a tenth of it.
const MAX_KERNEL: usize = 128 << 20;

/// With or without a shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Neither shell nor remote login.
    Default,
    /// A shell on the serial console, for whoever has the console.
    Debug,
}

impl Variant {
    /// As it stands in `/etc/krater-image.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Debug => "debug",
        }
    }

    /// The packages that it is made of.
    pub fn roles(self) -> impl Iterator<Item = Role> {
        Role::ALL
            .into_iter()
            .filter(move |role| *role != Role::Busybox || self == Self::Debug)
    }
}

/// What an image is made of.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Of Krater.
    pub version: &'a str,
    /// Which image.
    pub variant: Variant,
    /// The static program `amphora`.
    pub amphora: &'a [u8],
    /// Which packages.
    pub lock: &'a Lock,
    /// Their files.
    pub packages: &'a BTreeMap<Role, Vec<u8>>,
    /// Text of the Cargo.lock that the program was built with.
    pub cargo_lock: &'a str,
}

/// The files of an image.
#[derive(Debug)]
pub struct Image {
    /// Name and content: [`ARTEFACTS`], `manifest.json`, `SHA256SUMS`.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// `uname -r` in the image.
    pub kernel: String,
    /// Kernel modules in load order.
    pub modules: Vec<String>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The program.
    #[error("amphora: {0}")]
    Amphora(ElfError),
    /// A package that was not given.
    #[error("no package for {0} was given")]
    Package(&'static str),
    /// A package that is not the pinned one.
    #[error(
        "package {name}: its SHA-256 is {found}, not {expected}; fix: remove the file and download it again"
    )]
    Sum {
        /// The package.
        name: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A package that cannot be read.
    #[error("package {name}")]
    Deb {
        /// The package.
        name: String,
        /// What is wrong.
        #[source]
        error: DebError,
    },
    /// A package without a file that we need.
    #[error("package {package} has no file {file}; fix: pin another version")]
    File {
        /// The package.
        package: String,
        /// The file.
        file: &'static str,
    },
    /// A module that cannot be unpacked.
    #[error("module {module} cannot be unpacked")]
    Xz {
        /// The module.
        module: String,
        /// What is wrong.
        #[source]
        error: std::io::Error,
    },
    /// Modules.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The initrd.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// The EFI program.
    #[error(transparent)]
    Uki(#[from] UkiError),
    /// The BIOS loader.
    #[error(transparent)]
    Syslinux(#[from] SyslinuxError),
    /// The boot partition.
    #[error(transparent)]
    Fat(#[from] FatError),
    /// The partition table.
    #[error(transparent)]
    Gpt(#[from] GptError),
    /// The qcow2.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
    /// The manifest.
    #[error(transparent)]
    Sbom(#[from] SbomError),
}

impl From<CpioError> for BuildError {
    fn from(error: CpioError) -> Self {
        Self::Initrd(error.into())
    }
}

/// Builds an image in memory; `progress` is told what comes next.
pub fn build(inputs: &Inputs<'_>, mut progress: impl FnMut(&str)) -> Result<Image, BuildError> {
    elf::check_static(inputs.amphora).map_err(BuildError::Amphora)?;
    let mut unpacked = BTreeMap::new();
    let mut pins = Vec::new();
    for role in inputs.variant.roles() {
        let pin = inputs
            .lock
            .pin(role)
            .ok_or_else(|| BuildError::Package(role.name()))?;
        progress(&format!("unpacking {} {}", pin.name, pin.version));
        unpacked.insert(role, Unpacked::new(pin, inputs.packages)?);
        pins.push(pin);
    }
    let of = |role: Role| {
        unpacked
            .get(&role)
            .ok_or_else(|| BuildError::Package(role.name()))
    };

    progress("choosing kernel modules");
    let kernel = Kernel::read(of(Role::Kernel)?)?;
    let about = about(inputs, &kernel.release);

    progress("packing the initrd");
    let busybox = match inputs.variant {
        Variant::Default => None,
        Variant::Debug => Some(of(Role::Busybox)?.ending("bin/busybox")?),
    };
    let initrd = initrd::build(&Contents {
        amphora: inputs.amphora,
        modules: &kernel.modules,
        about: &about,
        busybox,
    })?;

    progress("making the EFI program");
    let release = os_release(inputs);
    let efi = uki::extend(
        of(Role::EfiStub)?.ending("linuxx64.efi.stub")?,
        &[
            (".osrel", release.as_bytes()),
            (".cmdline", COMMAND_LINE.as_bytes()),
            (".initrd", &initrd),
            (".linux", kernel.image),
        ],
    )?;

    progress("writing the disk");
    let disk = disk(&Boot {
        loader: &Loader::from_installer(of(Role::Syslinux)?.ending("bin/syslinux")?)?,
        core: of(Role::SyslinuxCommon)?.ending("modules/bios/ldlinux.c32")?,
        boot_code: of(Role::SyslinuxCommon)?.ending("mbr/gptmbr.bin")?,
        kernel: kernel.image,
        initrd: &initrd,
        efi: &efi,
    })?;

    progress("packing the qcow2");
    let qcow2 = qcow2::write(&disk)?;

    progress("writing the manifest");
    let names = kernel
        .modules
        .iter()
        .map(|module| modules::name_of(&module.name));
    let names: Vec<String> = names.collect();
    let contents = [qcow2, disk, efi, kernel.image.to_vec(), initrd];
    let mut files: Vec<(&'static str, Vec<u8>)> = ARTEFACTS.into_iter().zip(contents).collect();
    let mut sums: Vec<(&str, String)> = files.iter().map(|(n, c)| (*n, sha256(c))).collect();
    let manifest = sbom::write(&Facts {
        version: inputs.version,
        variant: inputs.variant.name(),
        kernel: &kernel.release,
        modules: &names,
        amphora: &sha256(inputs.amphora),
        packages: &pins,
        artefacts: &sums,
        cargo_lock: inputs.cargo_lock,
    })?;
    sums.push(("manifest.json", sha256(manifest.as_bytes())));
    let lines = sums.iter().map(|(name, sum)| format!("{sum}  {name}\n"));
    let lines: String = lines.collect();
    files.push(("manifest.json", manifest.into_bytes()));
    files.push(("SHA256SUMS", lines.into_bytes()));
    Ok(Image {
        files,
        kernel: kernel.release,
        modules: names,
    })
}

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// What PID 1 and operators read about the image that they are in.
fn about(inputs: &Inputs<'_>, kernel: &str) -> String {
    let text = serde_json::json!({
        "name": "krater-amphora",
        "version": inputs.version,
        "kernel": kernel,
        "variant": inputs.variant.name(),
    });
    format!("{text}\n")
}

/// os-release(5), which boot loaders show.
fn os_release(inputs: &Inputs<'_>) -> String {
    let (version, variant) = (inputs.version, inputs.variant.name());
    format!(
        "ID=krater-amphora\nNAME=\"Krater amphora\"\nVERSION_ID={version}\nPRETTY_NAME=\"Krater amphora {version} ({variant})\"\n"
    )
}

/// The files of one package.
struct Unpacked {
    package: String,
    files: BTreeMap<String, Vec<u8>>,
}

impl Unpacked {
    fn new(pin: &Pin, packages: &BTreeMap<Role, Vec<u8>>) -> Result<Self, BuildError> {
        let bytes = packages
            .get(&pin.role)
            .ok_or_else(|| BuildError::Package(pin.role.name()))?;
        let found = sha256(bytes);
        if found != pin.sha256 {
            return Err(BuildError::Sum {
                name: pin.name.clone(),
                found,
                expected: pin.sha256.clone(),
            });
        }
        let files = deb::files(bytes, |path| !path.starts_with("usr/share/"));
        Ok(Self {
            package: pin.name.clone(),
            files: files.map_err(|error| BuildError::Deb {
                name: pin.name.clone(),
                error,
            })?,
        })
    }

    /// The file whose path ends so: folders moved below /usr in newer releases.
    fn ending(&self, file: &'static str) -> Result<&[u8], BuildError> {
        let found = self.files.iter().find(|(path, _)| path.ends_with(file));
        found
            .map(|(_, content)| content.as_slice())
            .ok_or_else(|| BuildError::File {
                package: self.package.clone(),
                file,
            })
    }
}

struct Kernel<'a> {
    release: String,
    image: &'a [u8],
    /// In load order.
    modules: Vec<ModuleFile>,
}

impl<'a> Kernel<'a> {
    fn read(package: &'a Unpacked) -> Result<Self, BuildError> {
        let missing = |file| BuildError::File {
            package: package.package.clone(),
            file,
        };
        let (release, image) = package
            .files
            .iter()
            .find_map(|(path, content)| Some((path.strip_prefix("boot/vmlinuz-")?, content)))
            .filter(|(_, content)| content.len() < MAX_KERNEL)
            .ok_or_else(|| missing("boot/vmlinuz-*"))?;
        let builtin = String::from_utf8_lossy(package.ending("/modules.builtin")?);
        let builtin: BTreeSet<String> = builtin.lines().map(modules::name_of).collect();
        let files: BTreeMap<String, (&str, &[u8])> = package
            .files
            .iter()
            .filter(|(path, _)| path.ends_with(".ko") || path.ends_with(".ko.xz"))
            .map(|(path, content)| (modules::name_of(path), (path.as_str(), content.as_slice())))
            .collect();
        let available = files.keys().cloned().collect();
        let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut broken = None;
        let order = modules::choose(WANTED, &available, &builtin, |name| {
            let (path, stored) = files.get(name).copied().unwrap_or_default();
            // Unpacked in the image: the initrd as a whole is compressed, and the guest need not unpack each.
            let content = if path.ends_with(".xz") {
                deb::unxz(stored).unwrap_or_else(|error| {
                    broken = Some((name.to_owned(), error));
                    Vec::new()
                })
            } else {
                stored.to_vec()
            };
            let depends = modules::depends(&content);
            contents.insert(name.into(), content);
            depends
        });
        if let Some((module, error)) = broken {
            return Err(BuildError::Xz { module, error });
        }
        let modules = order?.into_iter().filter_map(|chosen| {
            let content = contents.remove(&chosen.name)?;
            let file = files.get(&chosen.name)?.0.rsplit('/').next()?;
            Some(ModuleFile {
                name: file.trim_end_matches(".xz").to_owned(),
                content,
                devices: chosen.devices,
            })
        });
        Ok(Self {
            release: release.to_owned(),
            image,
            modules: modules.collect(),
        })
    }
}

struct Boot<'a> {
    loader: &'a Loader,
    core: &'a [u8],
    boot_code: &'a [u8],
    kernel: &'a [u8],
    initrd: &'a [u8],
    efi: &'a [u8],
}

/// The whole disk: partition table, and one partition that both kinds of firmware boot from.
fn disk(boot: &Boot<'_>) -> Result<Vec<u8>, BuildError> {
    let config = format!(
        "DEFAULT amphora\nPROMPT 0\nTIMEOUT 0\nLABEL amphora\n LINUX /VMLINUZ\n INITRD /INITRD\n APPEND {COMMAND_LINE}\n"
    );
    // Its content depends on where it lies; its size does not.
    let placeholder = vec![0; boot.loader.file_size()];
    let file = |path, content, attributes| File {
        path,
        content,
        attributes,
    };
    let list = [
        file("LDLINUX.SYS", placeholder.as_slice(), SYSTEM_FILE),
        file("LDLINUX.C32", boot.core, SYSTEM_FILE),
        file("SYSLINUX.CFG", config.as_bytes(), PLAIN_FILE),
        file("VMLINUZ", boot.kernel, PLAIN_FILE),
        file("INITRD", boot.initrd, PLAIN_FILE),
        file("EFI/BOOT/BOOTX64.EFI", boot.efi, PLAIN_FILE),
    ];
    let sizes = list.map(|file| file.content.len());
    let volume = Volume {
        hidden: gpt::FIRST,
        sectors: Volume::sectors_for(&sizes),
        label: "KRATER",
        serial: u32::from_be_bytes(*b"KRAT"),
    };
    let mut written = volume.write(&list)?;
    let first = written.places.get("LDLINUX.SYS").copied();
    let first = first.ok_or(SyslinuxError::Unknown("loader"))?;
    let installed = boot.loader.install(first)?;
    installed.adopt(&mut written.bytes)?;
    let at = usize::try_from(first)
        .unwrap_or(usize::MAX)
        .saturating_mul(SECTOR);
    crate::bytes::put(&mut written.bytes, at, &installed.file)
        .ok_or(SyslinuxError::Unknown("place for its loader"))?;

    let before = usize::try_from(gpt::FIRST).unwrap_or(usize::MAX);
    // Whole clusters of the qcow2, and whole mebibytes, which tools print best.
    let sectors = (before + volume.sectors + gpt::BEHIND).next_multiple_of((1 << 20) / SECTOR);
    let (mut disk, tail) = gpt::write(sectors, boot.boot_code)?;
    disk.append(&mut written.bytes);
    disk.resize(sectors * SECTOR - tail.len(), 0);
    disk.extend_from_slice(&tail);
    debug_assert_eq!(disk.len() % fat::ALIGN, 0);
    Ok(disk)
}

#[cfg(test)]
mod tests;
