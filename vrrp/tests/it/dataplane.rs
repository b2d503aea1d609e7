//! A stand-in for the data plane: a process to watch and a progress counter that moves.

use crate::sys;
use krater_model::SCHEMA;
use krater_model::control::{Progress, TrackDataplane};
use krater_model::units::Millis;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

#[derive(Debug, Default)]
struct Flags {
    ready: AtomicBool,
    frozen: AtomicBool,
    no_members: AtomicBool,
    end: AtomicBool,
}

/// A data plane that is healthy until told otherwise.
#[derive(Debug)]
pub(crate) struct Dataplane {
    process: Child,
    memory: Arc<File>,
    flags: Arc<Flags>,
    writer: Option<JoinHandle<()>>,
}

impl Dataplane {
    pub(crate) fn start() -> Self {
        let process = Command::new("/proc/self/exe").arg("idle").spawn().unwrap();
        let memory = memfd_create("progress", MFdFlags::MFD_CLOEXEC).unwrap();
        let memory = Arc::new(File::from(memory));
        let flags = Arc::new(Flags::default());
        flags.ready.store(true, Ordering::SeqCst);
        let (file, told) = (Arc::clone(&memory), Arc::clone(&flags));
        let writer = std::thread::spawn(move || {
            let mut ticks = 0;
            while !told.end.load(Ordering::SeqCst) {
                if !told.frozen.load(Ordering::SeqCst) {
                    ticks += 1;
                    let progress = Progress {
                        ticks,
                        ready: told.ready.load(Ordering::SeqCst),
                        members_up: u32::from(!told.no_members.load(Ordering::SeqCst)),
                        members_total: 1,
                    };
                    file.write_all_at(&progress.encode(), 0).unwrap();
                }
                std::thread::sleep(Progress::INTERVAL);
            }
        });
        Self {
            process,
            memory,
            flags,
            writer: Some(writer),
        }
    }

    /// Hands it to vrrp, as the agent does.
    pub(crate) fn hand_over(&self, track: &Path) {
        self.hand_over_within(track, Millis::literal(100));
    }

    /// Of which a silence of less than this is no freeze.
    pub(crate) fn hand_over_within(&self, track: &Path, frozen_after: Millis) {
        let pidfd = sys::pidfd(self.process.id());
        let read_only = format!("/proc/self/fd/{}", self.memory.as_raw_fd());
        let read_only = File::open(read_only).unwrap();
        let frame = TrackDataplane {
            schema: SCHEMA,
            pid: self.process.id(),
            frozen_after,
        };
        send_frame(
            track,
            &serde_json::to_vec(&frame).unwrap(),
            &[read_only.as_raw_fd(), pidfd.as_raw_fd()],
        );
    }

    pub(crate) fn freeze(&self, frozen: bool) {
        self.flags.frozen.store(frozen, Ordering::SeqCst);
    }

    pub(crate) fn ready(&self, ready: bool) {
        self.flags.ready.store(ready, Ordering::SeqCst);
    }

    /// Whether its only member is up.
    pub(crate) fn member(&self, up: bool) {
        self.flags.no_members.store(!up, Ordering::SeqCst);
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.flags.end.store(true, Ordering::SeqCst);
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// One frame with descriptors on the track socket.
pub(crate) fn send_frame(track: &Path, frame: &[u8], descriptors: &[i32]) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    connect(stream.as_raw_fd(), &UnixAddr::new(track).unwrap()).unwrap();
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() {
        &[][..]
    } else {
        &rights[..]
    };
    sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(frame)],
        control,
        MsgFlags::empty(),
        None,
    )
    .unwrap();
}
