//! `kernel.lock`: which packages of Debian an image is made of, by version and SHA-256.

use serde::Deserialize;
use std::fmt::Write as _;

/// What a package is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The kernel and its modules.
    Kernel,
    /// The BIOS loader, inside its installer.
    Syslinux,
    /// The loader's core module and the code of the master boot record.
    SyslinuxCommon,
    /// The EFI stub.
    EfiStub,
    /// The shell of the debug variant.
    Busybox,
}

impl Role {
    /// All, in the order of the file.
    pub const ALL: [Self; 5] = [
        Self::Kernel,
        Self::Syslinux,
        Self::SyslinuxCommon,
        Self::EfiStub,
        Self::Busybox,
    ];

    /// As it stands in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Syslinux => "syslinux",
            Self::SyslinuxCommon => "syslinux-common",
            Self::EfiStub => "efi-stub",
            Self::Busybox => "busybox",
        }
    }

    /// The package in Debian, where its name does not change with each version.
    pub const fn package(self) -> Option<&'static str> {
        match self {
            Self::Kernel => None,
            Self::Syslinux => Some("syslinux"),
            Self::SyslinuxCommon => Some("syslinux-common"),
            Self::EfiStub => Some("systemd-boot-efi"),
            Self::Busybox => Some("busybox-static"),
        }
    }

    /// SPDX expression of the licence of what an image takes from it.
    pub const fn licence(self) -> &'static str {
        match self {
            Self::Kernel | Self::Busybox => "GPL-2.0-only",
            Self::Syslinux | Self::SyslinuxCommon => "GPL-2.0-or-later",
            Self::EfiStub => "LGPL-2.1-or-later",
        }
    }
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// What it is for.
    pub role: Role,
    /// Its name in Debian.
    pub name: String,
    /// Its version in Debian.
    pub version: String,
    /// SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
    /// Bytes of the file.
    pub size: u64,
}

/// The packages of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    #[serde(rename = "package")]
    packages: Vec<Pin>,
}

/// Why a lock file or a package list is not understood.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Not the form of the file.
    #[error("kernel.lock cannot be read; fix: write it with `krater image lock`")]
    Form(#[from] toml::de::Error),
    /// A value that cannot be.
    #[error("kernel.lock, package {name:?}: {field} {value:?} is not {form}")]
    Value {
        /// The package.
        name: String,
        /// Which value.
        field: &'static str,
        /// What stands there.
        value: String,
        /// What should.
        form: &'static str,
    },
    /// A package is missing, or there twice.
    #[error(
        "kernel.lock has {count} packages for {role}, one is needed; fix: write it with `krater image lock`"
    )]
    Role {
        /// What for.
        role: &'static str,
        /// How many.
        count: usize,
    },
    /// apt-cache printed something else.
    #[error("apt-cache shows no {0} of the package")]
    Stanza(&'static str),
}

impl Lock {
    /// The committed file.
    pub fn committed() -> Result<Self, LockError> {
        Self::parse(include_str!("../kernel.lock"))
    }

    /// Reads a file; every role is there once.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        let lock: Self = toml::from_str(text)?;
        Self::new(lock.packages)
    }

    /// From packages.
    pub fn new(packages: Vec<Pin>) -> Result<Self, LockError> {
        for pin in &packages {
            pin.check()?;
        }
        for role in Role::ALL {
            let count = packages.iter().filter(|p| p.role == role).count();
            if count != 1 {
                let role = role.name();
                return Err(LockError::Role { role, count });
            }
        }
        Ok(Self { packages })
    }

    /// The package for `role`.
    pub fn pin(&self, role: Role) -> Option<&Pin> {
        self.packages.iter().find(|p| p.role == role)
    }

    /// The same with another package in the place of the one of the same role.
    pub fn with(mut self, pin: Pin) -> Self {
        self.packages.retain(|p| p.role != pin.role);
        self.packages.push(pin);
        self
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let mut out = String::from(
            "# Debian packages that `krater image build` makes an image of. Written by `cargo xtask image --update-lock`.\n",
        );
        for role in Role::ALL {
            for pin in self.packages.iter().filter(|p| p.role == role) {
                let Pin {
                    name,
                    version,
                    sha256,
                    size,
                    ..
                } = pin;
                // Writing to a string does not fail.
                let _ = write!(
                    out,
                    "\n[[package]]\nrole = \"{}\"\nname = \"{name}\"\nversion = \"{version}\"\nsha256 = \"{sha256}\"\nsize = {size}\n",
                    role.name()
                );
            }
        }
        out
    }
}

impl Pin {
    /// From what `apt-cache show` prints of a package: its first stanza.
    pub fn from_stanza(role: Role, stanza: &str) -> Result<Self, LockError> {
        let first = stanza.split("\n\n").next().unwrap_or_default();
        let field = |name: &'static str| {
            let line = first
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim));
            line.map(str::to_owned).ok_or(LockError::Stanza(name))
        };
        let pin = Self {
            role,
            name: field("Package")?,
            version: field("Version")?,
            sha256: field("SHA256")?,
            size: field("Size")?
                .parse()
                .map_err(|_| LockError::Stanza("Size"))?,
        };
        pin.check()?;
        Ok(pin)
    }

    /// What is handed to apt-get must be a name and a version, never an option.
    fn check(&self) -> Result<(), LockError> {
        let fault = |field, value: &str, form| {
            Err(LockError::Value {
                name: self.name.clone(),
                field,
                value: value.into(),
                form,
            })
        };
        let made_of = |text: &str, others: &str| {
            let first = text
                .bytes()
                .next()
                .is_some_and(|b| b.is_ascii_alphanumeric());
            let known = |b: u8| b.is_ascii_alphanumeric() || others.as_bytes().contains(&b);
            first && text.len() <= 128 && text.bytes().all(known)
        };
        if !made_of(&self.name, "+-.") {
            return fault("name", &self.name, "a Debian package name");
        }
        if !made_of(&self.version, "+-.~:") {
            return fault("version", &self.version, "a Debian version");
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if self.sha256.len() != 64 || !self.sha256.bytes().all(hex) {
            return fault("sha256", &self.sha256, "64 small hexadecimal digits");
        }
        Ok(())
    }
}

/// The name of the kernel package of a version such as `6.12.57+deb12`; none for what cannot be one.
pub fn kernel_package(version: &str) -> Option<String> {
    numbers(version).map(|_| format!("linux-image-{version}-cloud-amd64"))
}

/// The newest kernel of the line that the image is tested with, of the names of all packages.
pub fn newest_kernel<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .filter_map(|name| {
            let version = name
                .strip_prefix("linux-image-")?
                .strip_suffix("-cloud-amd64")?;
            numbers(version)
                .filter(|n| n.starts_with(&[6, 12]))
                .map(|n| (n, name))
        })
        .max()
        .map(|(_, name)| name)
}

/// `6.12.57+deb12` as numbers: digits, dots, and one `+deb12` at the end.
fn numbers(version: &str) -> Option<Vec<u32>> {
    let (line, revision) = version.split_once("+deb")?;
    let parts = line.split('.').chain([revision]);
    let numbers: Vec<u32> = parts.map(|part| part.parse().ok()).collect::<Option<_>>()?;
    (numbers.len() <= 5).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_lock_is_what_its_own_writer_writes() {
        let lock = Lock::committed().unwrap();
        assert_eq!(lock.text(), include_str!("../kernel.lock"));
        let kernel = lock.pin(Role::Kernel).unwrap();
        assert_eq!(
            newest_kernel([kernel.name.as_str()].into_iter()),
            Some(kernel.name.as_str())
        );
        for role in Role::ALL {
            if let Some(name) = role.package() {
                assert_eq!(lock.pin(role).unwrap().name, name);
            }
        }
    }

    #[test]
    fn faults_are_named() {
        let good = Lock::committed().unwrap().text();
        let refused = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            let error = Lock::parse(&good.replace(from, to)).unwrap_err();
            error.to_string()
        };
        assert!(refused("name = \"syslinux\"", "name = \"--help\"").contains("name \"--help\""));
        assert!(refused("sha256 = \"", "sha256 = \"x").contains("sha256"));
        assert!(refused("version = \"", "version = \"a b").contains("version"));
        assert!(refused("\"busybox\"", "\"efi-stub\"").contains("2 packages for efi-stub"));
        assert!(refused("size", "length").contains("krater image lock"));
        let error = Lock::parse("package = []").unwrap_err().to_string();
        assert!(error.contains("0 packages for kernel"), "{error}");
    }

    #[test]
    fn a_stanza_of_apt_is_read() {
        let sum = "0123456789abcdef".repeat(4);
        let text = format!(
            "Package: syslinux\nVersion: 3:6.04~git20190206-1\nSize: 184408\nSHA256: {sum}\nDescription: x\n Version: 9\n\n\
             Package: syslinux\nVersion: 1\n"
        );
        let pin = Pin::from_stanza(Role::Syslinux, &text).unwrap();
        assert_eq!(pin.version, "3:6.04~git20190206-1");
        assert_eq!((pin.size, pin.sha256), (184_408, sum));
        let error = Pin::from_stanza(Role::Syslinux, "Package: syslinux\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "apt-cache shows no Version of the package"
        );
    }

    #[test]
    fn the_newest_kernel_is_found_by_numbers() {
        let names = [
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.57+deb12-cloud-amd64",
            "linux-image-6.12.57+deb12-cloud-amd64-dbg",
            "linux-image-6.12.57+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.99+deb12-amd64",
            "linux-image-6.13.1+deb12-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
        ];
        assert_eq!(newest_kernel(names.into_iter()), Some(names[1]));
        let name = kernel_package("6.12.57+deb12").unwrap();
        assert_eq!(name, names[1]);
        for version in [
            "",
            "6.12",
            "6.12.57+deb12 -o x",
            "-o=x+deb12",
            "6.12.x+deb12",
        ] {
            assert_eq!(kernel_package(version), None, "{version}");
        }
    }
}
