//! The Debian package of an amphora for a host without a cloud: the static program, its systemd unit, users and folders,
//! manual pages, shell completions, an example of its file. Written natively, and bit for bit the same each time.
//!
//! An upgrade keeps traffic running (`debian/postinst`); that is the program's work, not the package's.

mod archive;
mod gzip;

use crate::elf::{self, ElfError};
use crate::sbom::{self, Facts, SbomError};
use archive::{Ar, Tar};
use md5::{Digest, Md5};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Its name, and that of its unit.
pub const NAME: &str = "krater-amphora";
/// What an administrator edits, and an upgrade keeps.
const CONFFILE: &str = "etc/krater/amphora.toml";
/// In words, for the changelog.
const DATE: &str = "Mon, 30 Nov 2026 00:00:00 +0000";
const MAINTAINER: &str = "Krater developers <krater@localhost>";
const DOC: &str = "usr/share/doc/krater-amphora";

/// Files that are the same in each version: path, mode, content.
const FILES: [(&str, u32, &str); 8] = [
    (CONFFILE, 0o644, include_str!("../debian/amphora.toml")),
    (
        "lib/systemd/system/krater-amphora.service",
        0o644,
        include_str!("../debian/krater-amphora.service"),
    ),
    (
        "usr/lib/sysusers.d/krater-amphora.conf",
        0o644,
        include_str!("../debian/sysusers.conf"),
    ),
    (
        "usr/lib/tmpfiles.d/krater-amphora.conf",
        0o644,
        include_str!("../debian/tmpfiles.conf"),
    ),
    (
        "usr/lib/sysctl.d/50-krater-amphora.conf",
        0o644,
        include_str!("../debian/sysctl.conf"),
    ),
    (
        "usr/share/doc/krater-amphora/copyright",
        0o644,
        include_str!("../debian/copyright"),
    ),
    (
        "usr/share/doc/krater-amphora/appliance.md",
        0o644,
        include_str!("../../docs/appliance.md"),
    ),
    (
        "usr/share/doc/krater-amphora/dataplane-options.md",
        0o644,
        include_str!("../../docs/dataplane-options.md"),
    ),
];

macro_rules! examples {
    ($($name:literal),*) => {
        [$(($name, include_str!(concat!("../../agent/examples/", $name)))),*]
    };
}

/// Beginnings for the administrator's file.
const EXAMPLES: [(&str, &str); 10] = examples!(
    "01-http.toml",
    "02-https.toml",
    "03-sites.toml",
    "04-passthrough.toml",
    "05-database.toml",
    "06-sticky.toml",
    "07-paths.toml",
    "08-limits.toml",
    "09-proxy-protocol.toml",
    "10-pair.toml"
);

/// What dpkg runs.
const SCRIPTS: [(&str, &str); 4] = [
    ("preinst", include_str!("../debian/preinst")),
    ("postinst", include_str!("../debian/postinst")),
    ("prerm", include_str!("../debian/prerm")),
    ("postrm", include_str!("../debian/postrm")),
];

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The program needs libraries, or is none.
    #[error(transparent)]
    Program(#[from] ElfError),
    /// Not a folder that `amphora docs` wrote.
    #[error("{0} is missing; fix: `amphora docs --out DIR` of the same program writes it")]
    Missing(&'static str),
    /// Nothing that a package may be named after.
    #[error("{field} {value:?}: use digits, letters, . and +, beginning with a digit")]
    Version {
        /// `version` or `revision`.
        field: &'static str,
        /// What was given.
        value: String,
    },
    /// A path or a file that the archive cannot hold.
    #[error("{0}: longer than a tar header can say")]
    TooLong(String),
    /// The list of crates.
    #[error(transparent)]
    Sbom(#[from] SbomError),
}

/// What a package is made of.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// Of Krater.
    pub version: &'a str,
    /// Of the package of this version.
    pub revision: &'a str,
    /// The static program.
    pub amphora: &'a [u8],
    /// What `amphora docs` wrote, by name.
    pub docs: &'a BTreeMap<String, Vec<u8>>,
    /// Text of CHANGELOG.md.
    pub changelog: &'a str,
    /// Text of the Cargo.lock that the program was built with.
    pub cargo_lock: &'a str,
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// `krater-amphora_0.1.0-1_amd64.deb`
    pub name: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// Makes it.
pub fn build(inputs: &Inputs<'_>) -> Result<Package, PackageError> {
    // Of ELF files for x86-64 alone.
    elf::check_static(inputs.amphora)?;
    for (field, value) in [("version", inputs.version), ("revision", inputs.revision)] {
        check_version(field, value)?;
    }
    let version = format!("{}-{}", inputs.version, inputs.revision);
    let files = files(inputs, &version)?;
    let mut data = Tar::default();
    for (path, (mode, content)) in &files {
        data.file(path, *mode, content)?;
    }
    let mut control = Tar::default();
    control.file("control", 0o644, fields(&version, &files).as_bytes())?;
    control.file("conffiles", 0o644, format!("/{CONFFILE}\n").as_bytes())?;
    control.file("md5sums", 0o644, md5sums(&files).as_bytes())?;
    for (name, text) in SCRIPTS {
        control.file(name, 0o755, text.as_bytes())?;
    }
    let mut ar = Ar::default();
    ar.member("debian-binary", b"2.0\n");
    ar.member("control.tar.gz", &gzip::compress(&control.finish()));
    ar.member("data.tar.gz", &gzip::compress(&data.finish()));
    Ok(Package {
        name: format!("{NAME}_{version}_amd64.deb"),
        content: ar.finish(),
    })
}

fn check_version(field: &'static str, value: &str) -> Result<(), PackageError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '+';
    match value.starts_with(|c: char| c.is_ascii_digit()) && value.chars().all(allowed) {
        true => Ok(()),
        false => Err(PackageError::Version {
            field,
            value: value.into(),
        }),
    }
}

type Files = BTreeMap<String, (u32, Vec<u8>)>;

/// All files by path.
fn files(inputs: &Inputs<'_>, version: &str) -> Result<Files, PackageError> {
    let mut files = Files::new();
    let mut put = |path: String, mode: u32, content: Vec<u8>| {
        files.insert(path, (mode, content));
    };
    put("usr/sbin/amphora".into(), 0o755, inputs.amphora.to_vec());
    for (path, mode, text) in FILES {
        put(path.into(), mode, text.into());
    }
    for (name, text) in EXAMPLES {
        put(format!("{DOC}/examples/{name}"), 0o644, text.into());
    }
    let zipped = [
        ("changelog.gz", inputs.changelog.to_owned()),
        ("changelog.Debian.gz", changelog(version, inputs.version)),
    ];
    for (name, text) in zipped {
        put(
            format!("{DOC}/{name}"),
            0o644,
            gzip::compress(text.as_bytes()),
        );
    }
    let sum = crate::sha256(inputs.amphora);
    let manifest = sbom::write(&Facts {
        version: inputs.version,
        variant: "debian",
        kernel: "",
        modules: &[],
        amphora: &sum,
        packages: &[],
        artefacts: &[],
        cargo_lock: inputs.cargo_lock,
    })?;
    put(format!("{DOC}/sbom.json"), 0o644, manifest.into_bytes());
    let doc = |name: &'static str| inputs.docs.get(name).ok_or(PackageError::Missing(name));
    for (name, path) in [
        (
            "amphora.bash",
            "usr/share/bash-completion/completions/amphora",
        ),
        ("_amphora", "usr/share/zsh/vendor-completions/_amphora"),
        (
            "amphora.fish",
            "usr/share/fish/vendor_completions.d/amphora.fish",
        ),
    ] {
        put(path.into(), 0o644, doc(name)?.clone());
    }
    doc("amphora.8")?;
    for (name, page) in inputs.docs.iter().filter(|(name, _)| is_page(name)) {
        let path = format!("usr/share/man/man8/{name}.gz");
        put(path, 0o644, gzip::compress(page));
    }
    Ok(files)
}

fn is_page(name: &str) -> bool {
    let stem = name.strip_suffix(".8").unwrap_or_default();
    stem.starts_with("amphora") && stem.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

fn changelog(version: &str, upstream: &str) -> String {
    format!(
        "{NAME} ({version}) unstable; urgency=medium\n\n  * Krater {upstream}: see changelog.gz.\n\n -- {MAINTAINER}  {DATE}\n"
    )
}

/// deb-control(5)
fn fields(version: &str, files: &Files) -> String {
    // As dpkg counts: each file in whole KiB, and one for each folder.
    let kib: usize = files.values().map(|f| f.1.len().div_ceil(1_024)).sum();
    let kib = kib + archive::folders(files.keys().map(String::as_str)).len();
    format!(
        "Package: {NAME}\n\
         Version: {version}\n\
         Architecture: amd64\n\
         Maintainer: {MAINTAINER}\n\
         Installed-Size: {kib}\n\
         Depends: init-system-helpers (>= 1.52), systemd (>= 249)\n\
         Suggests: zsh | fish | bash-completion\n\
         Section: net\n\
         Priority: optional\n\
         Description: load balancer for HTTP, TCP and TLS with VRRP\n \
         Krater balances connections and requests over the members of pools, ends TLS,\n \
         probes members, and moves addresses between two hosts by VRRP. It serves\n \
         what /etc/krater/amphora.toml says.\n \
         .\n \
         An upgrade starts the new version beside the old one.\n"
    )
}

/// As `dpkg --verify` reads it; what an administrator edits is not in it.
fn md5sums(files: &Files) -> String {
    let mut text = String::new();
    for (path, (_, content)) in files.iter().filter(|(path, _)| *path != CONFFILE) {
        for byte in Md5::digest(content) {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        let _ = writeln!(text, "  {path}");
    }
    text
}

#[cfg(test)]
mod tests;
