//! Fetches the programs that tests and benchmarks talk to (real keepalived, HAProxy, nginx, curl, the
//! OpenStack client) without touching the host: packages are downloaded and unpacked under `target/peers/tree`, nothing is
//! installed or started; package lists and downloads stay under `target/peers/apt`.

mod venv;

pub(crate) use venv::{command as python_command, octavia};

use crate::util::{Failure, at, capture, target_dir};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian packages that tests and benchmarks use, and the program that each must bring, below the tree or
/// on the host (a package that the host has is not downloaded).
const PACKAGES: [(&str, &str); 20] = [
    ("keepalived", "usr/sbin/keepalived"),
    ("curl", "usr/bin/curl"),
    ("python3-venv", "usr/bin/python3"),
    ("haproxy", "usr/sbin/haproxy"),
    ("nginx", "usr/sbin/nginx"),
    (
        "libnginx-mod-stream",
        "usr/lib/nginx/modules/ngx_stream_module.so",
    ),
    ("apache2-utils", "usr/bin/ab"),
    ("openssl", "usr/bin/openssl"),
    ("tshark", "usr/bin/tshark"),
    ("dnsmasq-base", "usr/sbin/dnsmasq"),
    ("postgresql-15", "usr/lib/postgresql/15/bin/postgres"),
    ("mariadb-server-core", "usr/sbin/mariadbd"),
    ("qemu-system-x86", "usr/bin/qemu-system-x86_64"),
    (APART, "usr/bin/qemu-img"),
    ("seabios", "usr/share/seabios/bios-256k.bin"),
    ("ovmf", "usr/share/ovmf/OVMF.fd"),
    ("dosfstools", "sbin/fsck.fat"),
    ("mtools", "usr/bin/mcopy"),
    ("genisoimage", "usr/bin/genisoimage"),
    ("busybox-static", "bin/busybox"),
];
/// Resolved by itself: a host may have another version of it than Debian's, which the emulator's package breaks.
const APART: &str = "qemu-utils";
/// Raised when the folder's layout changes: a folder of an older layout is made again.
const LAYOUT: u32 = 5;
/// Another apt may hold a lock for as long as an unattended upgrade takes.
const LOCK_SECONDS: &str = "DPkg::Lock::Timeout=120";

/// Where the peers are.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) folder: PathBuf,
}

/// Fetches what is missing; returns at once when nothing is.
pub(crate) fn setup() -> Result<Peers, Failure> {
    let folder = target_dir().join("peers");
    let mut pinned = String::new();
    for group in &venv::FIRST {
        pinned.push_str(&group.pinned()?);
    }
    let wanted = format!("layout {LAYOUT}\n{PACKAGES:?}\n{pinned}");
    let stamp = folder.join("complete");
    if std::fs::read_to_string(&stamp).is_ok_and(|done| done == wanted)
        && missing(&folder).is_none()
    {
        venv::add(&folder)?;
        return Ok(Peers { folder });
    }
    // A half-made folder is not worth repairing: it takes seconds to make it again.
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(at(&folder))?;
    }
    std::fs::create_dir_all(&folder).map_err(at(&folder))?;
    packages(&folder)?;
    for group in &venv::FIRST {
        group.make(&folder, &folder)?;
    }
    launcher(&folder)?;
    if let Some((package, program)) = missing(&folder) {
        return Err(Failure(format!(
            "package {package} brought no {program}: neither {} nor the host has it\n  fix: see what \
             `dpkg-deb -c` shows of it; the packages are of Debian 12's section main",
            folder.join("tree").display()
        )));
    }
    std::fs::write(&stamp, wanted).map_err(at(&stamp))?;
    venv::add(&folder)?;
    Ok(Peers { folder })
}

/// The first package whose program is nowhere: the stamp alone does not prove that the folder is whole.
fn missing(folder: &Path) -> Option<(&'static str, &'static str)> {
    let here = |program: &str| {
        [folder.join("tree"), PathBuf::from("/")]
            .iter()
            .any(|root| root.join(program).exists())
    };
    PACKAGES.into_iter().find(|(_, program)| !here(program))
}

fn apt(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    let lists = folder.join("apt/lists");
    let cache = folder.join("apt/cache");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C")
        .args([
            "-q",
            "-y",
            "-o",
            LOCK_SECONDS,
            "-o",
            "Acquire::Retries=3",
            "-o",
            "APT::Sandbox::User=root",
        ])
        .arg("-o")
        .arg(format!("Dir::State::Lists={}", lists.display()))
        .arg("-o")
        .arg(format!("Dir::Cache={}", cache.display()));
    command
}

fn packages(folder: &Path) -> Result<(), Failure> {
    let names: Vec<&str> = PACKAGES.iter().map(|p| p.0).collect();
    eprintln!("peers: fetching {} with apt-get", names.join(", "));
    for sub in [
        "apt/lists/partial",
        "apt/cache/archives/partial",
        "debs",
        "tree",
    ] {
        let path = folder.join(sub);
        std::fs::create_dir_all(&path).map_err(at(&path))?;
    }
    capture(apt("apt-get", folder).arg("update")).map_err(|failure| {
        Failure(format!(
            "package lists of {} could not be fetched.\n  {failure}\n  fix: see that this machine reaches its Debian mirror \
             (/etc/apt/sources.list, http_proxy), then run `cargo xtask setup` again",
            names.join(", ")
        ))
    })?;
    // The host's own packages count as present, so that only what is missing is downloaded.
    let (apart, together): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|n| *n == APART);
    let mut set = BTreeSet::new();
    for names in [together, apart] {
        let simulate = ["install", "--simulate", "--no-install-recommends"];
        let resolved = capture(apt("apt-get", folder).args(simulate).args(&names));
        let resolved = resolved.map_err(|failure| {
            Failure(format!(
                "the dependencies of {} could not be resolved.\n  {failure}\n  fix: run `apt-get check`; \
                 the packages are of Debian 12's section main",
                names.join(", ")
            ))
        })?;
        set.extend(to_download(&resolved));
    }
    let debs = folder.join("debs");
    for package in &set {
        download(package, folder, &debs)?;
    }
    let tree = folder.join("tree");
    for entry in std::fs::read_dir(&debs).map_err(at(&debs))? {
        unpack_one(&entry.map_err(at(&debs))?.path(), &tree)?;
    }
    std::fs::remove_dir_all(&debs).map_err(at(&debs))?;
    let lists = folder.join("apt");
    std::fs::remove_dir_all(&lists).map_err(at(&lists))
}

fn download(package: &str, folder: &Path, to: &Path) -> Result<(), Failure> {
    capture(apt("apt-get", folder).arg("download").arg(package).current_dir(to))
        .map(drop)
        .map_err(|failure| {
            Failure(format!(
                "package {package} could not be fetched.\n  {failure}\n  fix: try `apt-get download {package}` by hand, \
                 then run the same command again"
            ))
        })
}

fn unpack_one(deb: &Path, tree: &Path) -> Result<(), Failure> {
    capture(Command::new("dpkg-deb").arg("-x").arg(deb).arg(tree))
        .map(drop)
        .map_err(|failure| {
            Failure(format!(
                "{} could not be unpacked.\n  {failure}\n  fix: free disk space, then again",
                deb.display()
            ))
        })
}

/// Downloads one package without its dependencies and unpacks it below `folder`; gives its tree.
pub(crate) fn unpack(package: &str, folder: &Path) -> Result<PathBuf, Failure> {
    let (debs, tree) = (folder.join("debs"), folder.join("tool"));
    for path in [
        &folder.join("apt/lists/partial"),
        &folder.join("apt/cache/archives/partial"),
        &debs,
        &tree,
    ] {
        std::fs::create_dir_all(path).map_err(at(path))?;
    }
    capture(apt("apt-get", folder).arg("update"))?;
    download(package, folder, &debs)?;
    for entry in std::fs::read_dir(&debs).map_err(at(&debs))? {
        unpack_one(&entry.map_err(at(&debs))?.path(), &tree)?;
    }
    Ok(tree)
}

/// `qemu/qemu-system-x86_64` below the folder: the program with its libraries, modules and firmware, wherever they are.
fn launcher(folder: &Path) -> Result<(), Failure> {
    let text = r#"#!/bin/sh
# Written by `cargo xtask setup`.
tree=$(dirname "$(readlink -f "$0")")/../tree
libraries=$tree/usr/lib/$(uname -m)-linux-gnu
program=$tree/usr/bin/qemu-system-x86_64
if [ ! -x "$program" ]; then exec qemu-system-x86_64 "$@"; fi
export LD_LIBRARY_PATH="$libraries:$tree/lib/$(uname -m)-linux-gnu" QEMU_MODULE_DIR="$libraries/qemu"
exec "$program" -L "$tree/usr/share/seabios" -L "$tree/usr/share/qemu" -L "$tree/usr/lib/ipxe/qemu" "$@"
"#;
    let path = folder.join("qemu/qemu-system-x86_64");
    let sub = folder.join("qemu");
    std::fs::create_dir_all(&sub).map_err(at(&sub))?;
    std::fs::write(&path, text).map_err(at(&path))?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, mode).map_err(at(&path))
}

/// `name=version` of each `Inst name [old] (version …)` line of a simulation.
fn to_download(simulation: &str) -> BTreeSet<String> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .filter_map(|line| {
            let name = line.split_whitespace().next()?;
            let version = line.split_once('(')?.1.split_whitespace().next()?;
            Some(format!("{name}={version}"))
        })
        .collect()
}

#[cfg(test)]
mod unit {
    use super::{PACKAGES, missing, to_download};

    #[test]
    fn a_program_that_is_gone_is_noticed_whatever_the_stamp_says() {
        let folder = std::env::temp_dir().join(format!("krater-setup-{}", std::process::id()));
        for (_, program) in PACKAGES {
            let path = folder.join("tree").join(program);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
        }
        assert_eq!(missing(&folder), None);
        std::fs::remove_file(folder.join("tree/usr/sbin/haproxy")).unwrap();
        let expected = (!std::path::Path::new("/usr/sbin/haproxy").exists())
            .then_some(("haproxy", "usr/sbin/haproxy"));
        assert_eq!(missing(&folder), expected);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_simulation_gives_names_and_versions() {
        let text = "Reading package lists...\n\
            Inst libnl-3-200 (3.7.0-0.2+b1 Debian:12.15/oldstable [amd64])\n\
            Inst curl [7.88.1-9] (7.88.1-10 Debian:12 [amd64]) []\n\
            Conf curl (7.88.1-10 Debian:12 [amd64])\n";
        let set: Vec<String> = to_download(text).into_iter().collect();
        assert_eq!(set, ["curl=7.88.1-10", "libnl-3-200=3.7.0-0.2+b1"]);
    }
}
