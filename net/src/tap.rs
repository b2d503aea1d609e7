//! Tap devices: a network interface of a namespace on one side, a descriptor with its frames on the other.
//!
//! Those made here are not persistent. A device lives as long as its descriptor: when the process that
//! holds it dies, of whatever, its device is gone, and nobody has to look for it.

use crate::netns::NetNs;
use crate::sys;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

/// Where they are made.
const CLONE_DEVICE: &str = "/dev/net/tun";

/// Makes a tap device of this name inside the namespace, down, without a bridge. Frames on the descriptor have a
/// `virtio_net_hdr` in front, so that a virtual machine may leave checksums and segmentation to whoever needs
/// them. A name that exists is an error (of kind `AlreadyExists` or `ResourceBusy`).
pub fn create(netns: &NetNs, name: &str) -> io::Result<OwnedFd> {
    netns.run(|| {
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(CLONE_DEVICE)
            .map_err(|error| {
                let text = format!("{CLONE_DEVICE}: {error}: `modprobe tun`, or allow the device");
                io::Error::new(error.kind(), text)
            })?;
        sys::set_tap(&file, name).map_err(|error| {
            io::Error::new(error.kind(), format!("make the tap device {name}: {error}"))
        })?;
        Ok(file.into())
    })?
}
