//! File systems of the guest: the kernel's own, and those in memory that may be written. The root is the initrd,
//! and becomes read-only when everything is in its place.

use super::console::say;
use krater_model::guest::delivery::FOLDERS;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::io;
use std::path::Path;

/// Where the agent keeps its ledger; the data partition is mounted over it.
pub(super) const STATE: &str = "/var/lib/krater";
/// Where the agent's logs are.
pub(super) const LOGS: &str = "/var/log";

/// Mounts the kernel's file systems and those in memory. One that fails is told and costs no more than what needs it.
pub(super) fn all() {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let data = quiet | MsFlags::MS_NODEV;
    one("proc", "/proc", "proc", data, "");
    one("sysfs", "/sys", "sysfs", data, "");
    one("devtmpfs", "/dev", "devtmpfs", quiet, "mode=0755");
    one("tmpfs", "/run", "tmpfs", data, "mode=0755,size=16m");
    one("tmpfs", "/tmp", "tmpfs", data, "mode=1777,size=8m");
    // What is in memory is bounded by it: a quarter of 96 MiB holds days of logs, `housekeeping` removes old ones.
    one("tmpfs", LOGS, "tmpfs", data, "mode=0755,size=25%");
    one("tmpfs", STATE, "tmpfs", data, "mode=0700,size=16m");
    for folder in FOLDERS {
        // Private keys: never on a disk, and for root alone.
        one("tmpfs", folder, "tmpfs", data, "mode=0700,size=4m");
    }
    for folder in ["/run/netns", super::RUN] {
        if let Err(error) = fs::create_dir_all(folder) {
            say(format_args!("cannot make {folder}: {error}"));
        }
    }
}

fn one(source: &str, target: &str, kind: &str, flags: MsFlags, options: &str) {
    let mounted = fs::create_dir_all(target).and_then(|()| {
        let options = (!options.is_empty()).then_some(options);
        mount(Some(source), target, Some(kind), flags, options).map_err(io::Error::from)
    });
    match mounted {
        // The kernel has mounted its devices itself (CONFIG_DEVTMPFS_MOUNT).
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        Err(error) => say(format_args!("cannot mount {target}: {error}")),
        Ok(()) => {}
    }
}

/// From now on nothing can be written but in the mounts above. The modules have done their work: their files go
/// first, for they lie in memory.
pub(super) fn seal_root() {
    if let Err(error) = fs::remove_dir_all(super::modules::FOLDER)
        && error.kind() != io::ErrorKind::NotFound
    {
        say(format_args!("the files of modules stay in memory: {error}"));
    }
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let sealed = mount(None::<&str>, "/", None::<&str>, flags, None::<&str>);
    let probe = fs::File::create("/.writable");
    match (sealed, probe) {
        (Ok(()), Err(error)) if error.raw_os_error() == Some(libc::EROFS) => {
            say("the root file system is read-only");
        }
        (sealed, probe) => {
            drop(fs::remove_file("/.writable"));
            say(format_args!(
                "the root file system is NOT read-only: remount {sealed:?}, write {probe:?}"
            ));
        }
    }
}

/// Mounts a file system that was made elsewhere: nothing of it is a device or a program, no link leads out of it.
pub(super) fn foreign(device: &Path, target: &str, kind: &str, write: bool) -> io::Result<()> {
    const MS_NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(256);
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MS_NOSYMFOLLOW;
    if !write {
        flags |= MsFlags::MS_RDONLY;
    }
    let options = match kind {
        // The code page of names that the initrd loads; without it vfat cannot be mounted.
        "vfat" => Some("iocharset=ascii"),
        // What cannot be trusted any more is not written to.
        "ext4" => Some("errors=remount-ro"),
        _ => None,
    };
    fs::create_dir_all(target)?;
    Ok(mount(Some(device), target, Some(kind), flags, options)?)
}
