//! A small Debian 12 with systemd, below the peers: the root folder of the virtual machine in which the package is
//! installed, upgraded and purged. Made once, in a minute or two, by debootstrap; only these tests need it.

use crate::util::{Done, Failure, at, capture, cargo, release_dir, run};
use crate::{bare, build, image, setup};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Beside the essential packages: process 1.
const PACKAGES: &str = "systemd-sysv";
/// Raised when the folder's content changes: another one is made again.
const LAYOUT: u32 = 1;
/// What a machine that runs for a minute does not need in its memory.
const PRUNED: [&str; 7] = [
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "debootstrap",
];

/// Runs the tests.
pub(crate) fn test() -> Done {
    let peers = setup::setup()?;
    build::release()?;
    let image = image::for_tests()?;
    tests(&peers, &image)
}

/// The same with what is built already.
pub(crate) fn tests(peers: &setup::Peers, image: &Path) -> Done {
    make(&peers.folder)?;
    let test = ["test", "-p", "krater-e2e", "--test", "debian"];
    run(cargo()
        .args(test)
        .env("KRATER_BIN_DIR", release_dir())
        .env("KRATER_PEERS", &peers.folder)
        .env("KRATER_IMAGE", image))
}

/// Makes the folder `debian/root` of the peers; at once when it is there.
fn make(peers: &Path) -> Result<PathBuf, Failure> {
    let base = peers.join("debian");
    let (system, stamp) = (base.join("root"), base.join("complete"));
    let wanted = format!("layout {LAYOUT}\n{PACKAGES}\n{PRUNED:?}\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|done| done == wanted) {
        return Ok(system);
    }
    if base.exists() {
        std::fs::remove_dir_all(&base).map_err(at(&base))?;
    }
    std::fs::create_dir_all(&base).map_err(at(&base))?;
    let tool = setup::unpack("debootstrap", &base)?;
    eprintln!("debian: a Debian 12 with systemd in {}", system.display());
    let mut command = Command::new(tool.join("usr/sbin/debootstrap"));
    command
        .env("DEBOOTSTRAP_DIR", tool.join("usr/share/debootstrap"))
        .env("LC_ALL", "C")
        .args(["--variant=minbase", "--include", PACKAGES, "bookworm"])
        .arg(&system)
        .arg(bare::mirror()?);
    capture(&mut command).map_err(|failure| {
        Failure(format!(
            "a minimal Debian could not be made.\n  {failure}\n  fix: it needs root and a Debian mirror; see {}",
            system.join("debootstrap/debootstrap.log").display()
        ))
    })?;
    for folder in PRUNED {
        let path = system.join(folder);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(at(&path))?;
        }
    }
    std::fs::write(&stamp, wanted).map_err(at(&stamp))?;
    Ok(system)
}
