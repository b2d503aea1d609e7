//! Hands vrrp descriptors, in one frame each on `vrrp-track.sock`: here the data plane's progress record and pidfd.

use crate::supervise::Running;
use krater_model::SCHEMA;
use krater_model::control::TrackDataplane;
use krater_model::units::Millis;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use serde::Serialize;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};

/// Relative to the run folder.
const SOCKET: &str = "vrrp-track.sock";
/// Ten missed updates of the record.
const FROZEN_AFTER: Millis = Millis::literal(100);

/// What fails is tried again.
pub(crate) fn hand_over(dataplane: &Running) -> io::Result<()> {
    let Some(progress) = &dataplane.progress else {
        return Err(io::Error::other("the data plane has no progress record"));
    };
    let frame = TrackDataplane {
        schema: SCHEMA,
        pid: dataplane.pid,
        frozen_after: FROZEN_AFTER,
    };
    let descriptors = [progress.as_raw_fd(), dataplane.pidfd.as_raw_fd()];
    send(&frame, &descriptors)
}

/// Never blocks: vrrp's queue is empty unless vrrp is stuck, and then this fails.
pub(crate) fn send(frame: &impl Serialize, descriptors: &[RawFd]) -> io::Result<()> {
    let frame = serde_json::to_vec(frame)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(SOCKET)?)?;
    let sent = sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(&frame)],
        &[ControlMessage::ScmRights(descriptors)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    if sent == frame.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}
