//! Health of the data plane: its process (pidfd) and its progress counter (memfd), handed over by
//! the agent on `vrrp-track.sock`.
//!
//! The socket takes one [`TrackDataplane`] frame with two descriptors; a later frame replaces an
//! earlier one, and closing the connection changes nothing. Until the first frame there is no data
//! plane to trust.

use crate::sys;
use krater_model::SCHEMA;
use krater_model::control::{Progress, TrackDataplane};
use krater_vrrp_proto::{Fault, Span, Time};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4,
    bind, getsockopt, listen, recvmsg, socket,
};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use tracing::{info, warn};

/// How often the progress counter is read: twice the writer's interval.
pub(crate) const SAMPLE: Span = Span::from_millis(20);
/// Connections kept open: the agent has one, a restarted agent's old one may not be closed yet.
const MAX_CONNECTIONS: usize = 4;
/// A frame is some 60 bytes of JSON.
const MAX_FRAME: usize = 1_024;
/// Descriptors accepted with a frame; exactly this many are right.
const DESCRIPTORS: usize = 2;
/// A shorter silence would call every late wake-up of a writer a freeze.
const MIN_FROZEN_AFTER: Span = Span::from_millis(30);

/// The listening socket and what was handed over on it.
#[derive(Debug)]
pub(crate) struct Track {
    listener: OwnedFd,
    connections: Vec<OwnedFd>,
    watched: Option<Watched>,
    fault: Option<Fault>,
}

#[derive(Debug)]
struct Watched {
    pid: u32,
    pidfd: OwnedFd,
    progress: File,
    judge: Judge,
    dead: bool,
    next_sample: Time,
}

/// Makes the listening socket. A stale one of a predecessor is replaced.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    let listener = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&listener, Backlog::new(4)?)?;
    Ok(listener)
}

impl Track {
    pub(crate) fn new(listener: OwnedFd) -> Self {
        Self {
            listener,
            connections: Vec::new(),
            watched: None,
            fault: Some(Fault::DataplaneAbsent),
        }
    }

    /// What is wrong with the data plane.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// When [`Self::work`] is due although no descriptor is readable.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let watched = self.watched.as_ref().filter(|watched| !watched.dead)?;
        Some(watched.next_sample)
    }

    /// Descriptors to poll for reading.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let alive = self.watched.as_ref().filter(|watched| !watched.dead);
        std::iter::once(self.listener.as_fd())
            .chain(self.connections.iter().map(AsFd::as_fd))
            .chain(alive.map(|watched| watched.pidfd.as_fd()))
    }

    /// Takes connections and frames in, and looks at the data plane.
    pub(crate) fn work(&mut self, now: Time) {
        self.accept();
        self.receive(now);
        let Some(watched) = &mut self.watched else {
            return;
        };
        if !watched.dead && has_ended(&watched.pidfd) {
            watched.dead = true;
            warn!(dataplane.pid = watched.pid, "the data plane ended");
        }
        if watched.dead {
            self.fault = Some(Fault::DataplaneDead);
        } else if now >= watched.next_sample {
            watched.next_sample = now + SAMPLE;
            let mut record = [0; Progress::SIZE];
            let read = watched.progress.read_exact_at(&mut record, 0);
            let progress = read.ok().and_then(|()| Progress::decode(&record));
            self.fault = watched.judge.sample(now, progress);
        }
    }

    fn accept(&mut self) {
        while let Ok(fd) = accept4(
            self.listener.as_raw_fd(),
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        ) {
            let Ok(connection) = sys::adopt(fd) else {
                continue;
            };
            match getsockopt(&connection, PeerCredentials) {
                Ok(peer) if allowed(peer.uid()) => {
                    if self.connections.len() == MAX_CONNECTIONS {
                        self.connections.remove(0);
                    }
                    self.connections.push(connection);
                }
                Ok(peer) => warn!(peer.uid = peer.uid(), "track socket: refused"),
                Err(error) => warn!(%error, "track socket: no peer credentials"),
            }
        }
    }

    fn receive(&mut self, now: Time) {
        let mut newest = None;
        self.connections.retain(|connection| {
            loop {
                match frame(connection) {
                    Ok(Some(received)) => newest = Some(received),
                    Ok(None) => return false,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                    Err(error) => {
                        warn!(%error, "track socket: frame refused");
                        return false;
                    }
                }
            }
        });
        if let Some((track, progress, pidfd)) = newest {
            info!(dataplane.pid = track.pid, "watching the data plane");
            self.watched = Some(Watched {
                pid: track.pid,
                pidfd,
                progress: progress.into(),
                judge: Judge::new(Span::from(track.frozen_after.duration())),
                dead: false,
                next_sample: now,
            });
        }
    }
}

/// Root and we ourselves may talk to our sockets.
pub(crate) fn allowed(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::getuid().as_raw()
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
}

/// Reads one frame; none at the end of the connection.
fn frame(connection: &OwnedFd) -> io::Result<Option<(TrackDataplane, OwnedFd, OwnedFd)>> {
    let mut bytes = [0; MAX_FRAME];
    // Room for more than allowed, so that superfluous descriptors are received and closed.
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 8]);
    let (length, flags, descriptors) = {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg::<UnixAddr>(
            connection.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let mut descriptors = Vec::new();
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = message {
                for fd in fds {
                    descriptors.push(sys::adopt(fd)?);
                }
            }
        }
        (received.bytes, received.flags, descriptors)
    };
    if length == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    if flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(wrong(format!("longer than {MAX_FRAME} bytes")));
    }
    let count = descriptors.len();
    let [progress, pidfd] = <[OwnedFd; DESCRIPTORS]>::try_from(descriptors)
        .map_err(|_| wrong(format!("{count} descriptors instead of memfd and pidfd")))?;
    let track: TrackDataplane = serde_json::from_slice(bytes.get(..length).unwrap_or_default())?;
    if track.schema != SCHEMA && track.schema + 1 != SCHEMA {
        return Err(wrong(format!(
            "schema {}: {SCHEMA} is understood",
            track.schema
        )));
    }
    Ok(Some((track, progress, pidfd)))
}

/// Decides from samples of the progress counter. Pure.
#[derive(Debug)]
struct Judge {
    frozen_after: Span,
    ticks: Option<u64>,
    sampled: Option<Time>,
    silent: Span,
}

impl Judge {
    fn new(frozen_after: Span) -> Self {
        Self {
            frozen_after: frozen_after.max(MIN_FROZEN_AFTER),
            ticks: None,
            sampled: None,
            silent: Span::ZERO,
        }
    }

    /// Silence counts only as far as we were awake to see it: after a stall of the whole machine the
    /// data plane gets the time to move again.
    fn sample(&mut self, now: Time, progress: Option<Progress>) -> Option<Fault> {
        let Some(progress) = progress else {
            return Some(Fault::DataplaneNotReady);
        };
        if self.ticks == Some(progress.ticks) {
            let since = self.sampled.map_or(Span::ZERO, |before| now - before);
            self.silent = self.silent + since.min(SAMPLE.times(2));
        } else {
            self.silent = Span::ZERO;
        }
        self.ticks = Some(progress.ticks);
        self.sampled = Some(now);
        if self.silent >= self.frozen_after {
            Some(Fault::DataplaneFrozen)
        } else if progress.ready {
            None
        } else {
            Some(Fault::DataplaneNotReady)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(ticks: u64, ready: bool) -> Option<Progress> {
        Some(Progress {
            ticks,
            ready,
            ..Progress::default()
        })
    }

    fn at(millis: u32) -> Time {
        Time::default() + Span::from_millis(millis)
    }

    #[test]
    fn silence_is_a_freeze_and_progress_ends_it() {
        let mut judge = Judge::new(Span::from_millis(100));
        assert_eq!(judge.sample(at(0), None), Some(Fault::DataplaneNotReady));
        assert_eq!(
            judge.sample(at(20), progress(1, false)),
            Some(Fault::DataplaneNotReady)
        );
        assert_eq!(judge.sample(at(40), progress(2, true)), None);
        for millis in [60, 80, 100, 120] {
            assert_eq!(judge.sample(at(millis), progress(2, true)), None);
        }
        let frozen = Some(Fault::DataplaneFrozen);
        assert_eq!(judge.sample(at(140), progress(2, true)), frozen);
        assert_eq!(judge.sample(at(160), progress(2, true)), frozen);
        assert_eq!(judge.sample(at(180), progress(3, true)), None);
    }

    #[test]
    fn our_own_stall_is_not_the_data_planes() {
        let mut judge = Judge::new(Span::from_millis(100));
        assert_eq!(judge.sample(at(0), progress(1, true)), None);
        assert_eq!(judge.sample(at(20), progress(2, true)), None);
        // Both stood still for ten seconds; only 40 ms of it count.
        assert_eq!(judge.sample(at(10_020), progress(2, true)), None);
        assert_eq!(judge.sample(at(10_040), progress(2, true)), None);
        assert_eq!(judge.sample(at(10_060), progress(2, true)), None);
        let frozen = Some(Fault::DataplaneFrozen);
        assert_eq!(judge.sample(at(10_080), progress(2, true)), frozen);
    }
}
