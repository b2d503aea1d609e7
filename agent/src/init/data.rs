//! The data partition, when there is one: it keeps the agent's ledger over reboots. Without it, or with a broken
//! one, the agent works with memory, and its controller sends it the state again.

use super::console::say;
use super::drive::Disk;
use super::mounts::{self, STATE};
use nix::mount::{MntFlags, umount2};
use nix::sys::statvfs::statvfs;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Less than this is full: a ledger has some hundred KiB, and its replacement lies beside it.
const ENOUGH: u64 = 2 * 1024 * 1024;

/// Mounts it; true when there is one that can be used.
pub(super) fn mount(disks: &[Disk]) -> bool {
    let Some(disk) = disks.iter().find(|disk| disk.is_data()) else {
        say("no data partition (krater-data): the state is in memory and gone at a reboot");
        return false;
    };
    let device = Path::new("/dev").join(&disk.name);
    if let Err(error) = mounts::foreign(&device, STATE, "ext4", true) {
        say(format_args!(
            "data partition {} cannot be mounted: {error}. The state is in memory and gone at a reboot; replace the \
             amphora, or make a new ext4 file system with the label krater-data there",
            disk.name
        ));
        return false;
    }
    // Whoever made it: what is below is for root alone.
    if let Err(error) = fs::set_permissions(STATE, fs::Permissions::from_mode(0o700)) {
        say(format_args!(
            "data partition {} cannot be written: {error}",
            disk.name
        ));
    }
    say(format_args!("data partition {} is at {STATE}", disk.name));
    look();
    true
}

/// Says when it is full.
fn look() {
    let Ok(space) = statvfs(STATE) else {
        return;
    };
    let free = space.blocks_available() * space.fragment_size();
    if free < ENOUGH {
        say(format_args!(
            "data partition is full: {free} bytes free, at least {ENOUGH} are wanted. The agent goes on with the \
             state that it has, and refuses changes until there is space; replace the amphora"
        ));
    }
}

/// Before the machine ends.
pub(super) fn unmount() {
    if let Err(error) = umount2(STATE, MntFlags::empty()) {
        say(format_args!("data partition: not unmounted: {error}"));
    }
}
