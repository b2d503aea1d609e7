//! Hands vrrp the data plane's progress record and pidfd: one frame on `vrrp-track.sock`.

use crate::supervise::Running;
use krater_model::SCHEMA;
use krater_model::control::TrackDataplane;
use krater_model::units::Millis;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;

/// Relative to the run folder.
const SOCKET: &str = "vrrp-track.sock";
/// Ten missed updates of the record.
const FROZEN_AFTER: Millis = Millis::literal(100);

/// Never blocks: vrrp's queue is empty unless vrrp is stuck, and then this fails and is tried again.
pub(crate) fn hand_over(dataplane: &Running) -> io::Result<()> {
    let Some(progress) = &dataplane.progress else {
        return Err(io::Error::other("the data plane has no progress record"));
    };
    let frame = TrackDataplane {
        schema: SCHEMA,
        pid: dataplane.pid,
        frozen_after: FROZEN_AFTER,
    };
    let frame = serde_json::to_vec(&frame)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(SOCKET)?)?;
    let descriptors = [progress.as_raw_fd(), dataplane.pidfd.as_raw_fd()];
    let sent = sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(&frame)],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    if sent == frame.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}
