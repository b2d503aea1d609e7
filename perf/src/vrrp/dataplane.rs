//! The answering machine as a data plane that both products watch, each in its own way: Krater has its pidfd and its
//! progress counter, as from the agent; keepalived asks it every five seconds by a script, as Octavia has it.

use crate::sys;
use anyhow::{Context, bail};
use krater_model::SCHEMA;
use krater_model::control::{Progress, TrackDataplane};
use krater_model::units::Millis;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// As agent/src/track.rs has it.
const FROZEN_AFTER: Millis = Millis::literal(100);
/// How long Octavia's script waits for an answer.
const CHECK: Duration = Duration::from_secs(5);

/// Begins to make progress, and hands it to the vrrp that will listen at `track`.
pub(super) fn progress(track: &Path) -> anyhow::Result<()> {
    let memory = File::from(memfd_create("progress", MFdFlags::MFD_CLOEXEC)?);
    let read_only = File::open(format!("/proc/self/fd/{}", memory.as_raw_fd()))?;
    let own = std::process::id();
    let pidfd = sys::pidfd(own)?;
    let track = track.to_path_buf();
    let work = move || {
        let mut given = false;
        let mut record = Progress {
            ready: true,
            members_up: 1,
            members_total: 1,
            ..Progress::default()
        };
        loop {
            record.ticks += 1;
            // A record that cannot be written is a freeze, which vrrp tells.
            let _frozen = memory.write_all_at(&record.encode(), 0);
            if !given {
                given = hand_over(&track, own, &[read_only.as_raw_fd(), pidfd.as_raw_fd()]).is_ok();
            }
            std::thread::sleep(Progress::INTERVAL);
        }
    };
    std::thread::Builder::new()
        .name("progress".into())
        .spawn(work)?;
    Ok(())
}

fn hand_over(track: &Path, pid: u32, descriptors: &[i32]) -> anyhow::Result<()> {
    let frame = serde_json::to_vec(&TrackDataplane {
        schema: SCHEMA,
        pid,
        frozen_after: FROZEN_AFTER,
    })?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(track)?)?;
    let rights = [ControlMessage::ScmRights(descriptors)];
    let bytes = [IoSlice::new(&frame)];
    sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &bytes,
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Says a word to whoever asks at this socket, as HAProxy's statistics socket does.
pub(super) fn answer_checks(at: &Path) -> anyhow::Result<()> {
    let listener = UnixListener::bind(at).with_context(|| at.display().to_string())?;
    let work = move || {
        for stream in listener.incoming().flatten() {
            let _gone = (&stream).write_all(b"up");
        }
    };
    std::thread::Builder::new()
        .name("checks".into())
        .spawn(work)?;
    Ok(())
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The socket to ask
    socket: std::path::PathBuf,
}

/// The script of keepalived: fails when nobody answers.
pub(crate) fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(&args.socket)?;
    stream.set_read_timeout(Some(CHECK))?;
    let mut byte = [0; 1];
    if stream.read(&mut byte)? == 0 {
        bail!("no answer");
    }
    Ok(())
}
