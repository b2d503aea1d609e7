//! Health of the data plane: its process (pidfd) and its progress counter (memfd), handed over by
//! the agent on `vrrp-track.sock`.
//!
//! The socket takes [`TrackDataplane`] frames with two descriptors and [`HandSecondPath`] frames with one; a later
//! frame replaces an earlier one of its kind, and closing the connection changes nothing. Until the first frame there
//! is no data plane to trust, and liveness sessions have one path.

use crate::{cpu, sys};
use krater_model::SCHEMA;
use krater_model::control::{HandSecondPath, Progress, TrackDataplane};
use krater_model::wire::liveness::PORT;
use krater_vrrp_proto::{Fault, Span, Time};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4,
    bind, getsockopt, listen, recvmsg, socket,
};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing::{info, warn};

/// How often the progress counter is read: twice the writer's interval.
pub(crate) const SAMPLE: Span = Span::from_millis(20);
/// Connections kept open: the agent has one, a restarted agent's old one may not be closed yet.
const MAX_CONNECTIONS: usize = 4;
/// A frame is some 60 bytes of JSON.
const MAX_FRAME: usize = 1_024;
/// A shorter silence would call every late wake-up of a writer a freeze.
const MIN_FROZEN_AFTER: Span = Span::from_millis(30);

/// However starved the machine is, a silence this many times the configured one is a freeze.
const STARVED_FACTOR: u64 = 10;

/// Beats every [`SAMPLE`] on a thread of normal priority, like the data plane's. While it does not
/// beat, the machine has no time for such threads, and the data plane's silence says nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Canary(Arc<AtomicU64>);

impl Canary {
    /// How often [`Self::beat`] is to be called.
    pub(crate) const INTERVAL: Duration = Duration::from_micros(SAMPLE.micros());

    pub(crate) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The listening socket and what was handed over on it.
#[derive(Debug)]
pub(crate) struct Track {
    listener: OwnedFd,
    connections: Vec<OwnedFd>,
    watched: Option<Watched>,
    fault: Option<Fault>,
    canary: Canary,
    second: Option<(IpAddr, UdpSocket)>,
}

/// What one frame brings.
enum Handed {
    Dataplane {
        track: TrackDataplane,
        progress: OwnedFd,
        pidfd: OwnedFd,
    },
    SecondPath(IpAddr, UdpSocket),
}

/// What a frame says.
#[derive(Deserialize)]
#[serde(untagged)]
enum Frame {
    Dataplane(TrackDataplane),
    SecondPath(HandSecondPath),
}

impl Frame {
    fn schema(&self) -> u32 {
        match self {
            Self::Dataplane(frame) => frame.schema,
            Self::SecondPath(frame) => frame.schema,
        }
    }
}

#[derive(Debug)]
struct Watched {
    pid: u32,
    pidfd: OwnedFd,
    progress: File,
    judge: Judge,
    dead: bool,
    /// None of its members is up.
    poor: bool,
    next_sample: Time,
    /// Its threads at the last sample, while it is silent.
    threads: Option<(Time, Vec<cpu::Thread>)>,
}

impl Watched {
    /// How much of the time since the last sample the data plane was able to use; all of it while nothing
    /// is known.
    fn usable(&mut self, now: Time, progress: Option<&Progress>) -> Span {
        const ALL: Span = Span::from_millis(60_000);
        if !progress.is_some_and(|progress| self.judge.is_silent(progress)) {
            self.threads = None;
            return ALL;
        }
        let Ok(threads) = cpu::threads(self.pid) else {
            return ALL;
        };
        let before = self.threads.replace((now, threads));
        match (before, &self.threads) {
            (Some((at, before)), Some((_, after))) => cpu::usable(&before, after, now - at),
            _ => ALL,
        }
    }
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
    pub(crate) fn new(listener: OwnedFd, canary: Canary) -> Self {
        Self {
            listener,
            connections: Vec::new(),
            watched: None,
            fault: Some(Fault::DataplaneAbsent),
            canary,
            second: None,
        }
    }

    /// The socket of the second network, if one came, and to what it is bound.
    pub(crate) fn take_second(&mut self) -> Option<(IpAddr, UdpSocket)> {
        self.second.take()
    }

    /// Whether the data plane has members and none of them is up.
    pub(crate) fn is_poor(&self) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.poor)
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
            if let Some(progress) = &progress {
                watched.poor = progress.members_total > 0 && progress.members_up == 0;
            }
            let usable = watched.usable(now, progress.as_ref());
            let beats = self.canary.beats();
            self.fault = watched.judge.sample(now, beats, usable, progress);
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
        let mut second = None;
        self.connections.retain(|connection| {
            loop {
                match frame(connection) {
                    Ok(Some(Handed::Dataplane {
                        track,
                        progress,
                        pidfd,
                    })) => newest = Some((track, progress, pidfd)),
                    Ok(Some(Handed::SecondPath(bound, socket))) => second = Some((bound, socket)),
                    Ok(None) => return false,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                    Err(error) => {
                        warn!(%error, "track socket: frame refused");
                        return false;
                    }
                }
            }
        });
        if second.is_some() {
            self.second = second;
        }
        if let Some((track, progress, pidfd)) = newest {
            info!(dataplane.pid = track.pid, "watching the data plane");
            self.watched = Some(Watched {
                pid: track.pid,
                pidfd,
                progress: progress.into(),
                judge: Judge::new(Span::from(track.frozen_after.duration())),
                dead: false,
                poor: false,
                next_sample: now,
                threads: None,
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
fn frame(connection: &OwnedFd) -> io::Result<Option<Handed>> {
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
    let frame: Frame = serde_json::from_slice(bytes.get(..length).unwrap_or_default())?;
    let schema = frame.schema();
    if schema != SCHEMA && schema.saturating_add(1) != SCHEMA {
        return Err(wrong(format!("schema {schema}: {SCHEMA} is understood")));
    }
    let count = descriptors.len();
    match frame {
        Frame::Dataplane(track) => {
            let [progress, pidfd] = <[OwnedFd; 2]>::try_from(descriptors)
                .map_err(|_| wrong(format!("{count} descriptors instead of memfd and pidfd")))?;
            Ok(Some(Handed::Dataplane {
                track,
                progress,
                pidfd,
            }))
        }
        Frame::SecondPath(HandSecondPath { second_path, .. }) => {
            let [socket] = <[OwnedFd; 1]>::try_from(descriptors)
                .map_err(|_| wrong(format!("{count} descriptors instead of a socket")))?;
            let datagrams = getsockopt(&socket, nix::sys::socket::sockopt::SockType);
            let socket = UdpSocket::from(socket);
            let bound = socket.local_addr()?;
            if datagrams != Ok(SockType::Datagram) || bound != SocketAddr::new(second_path, PORT) {
                return Err(wrong(format!(
                    "a socket that is bound to {bound}, not to UDP port {PORT} of {second_path}"
                )));
            }
            Ok(Some(Handed::SecondPath(second_path, socket)))
        }
    }
}

/// Decides from samples of the progress counter. Pure.
#[derive(Debug)]
struct Judge {
    frozen_after: Span,
    last: Option<Sample>,
    /// Silence that counts.
    silent: Span,
    /// Silence that we were awake to see, whatever the canary says.
    watched: Span,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Time,
    beats: u64,
    ticks: u64,
}

impl Judge {
    fn new(frozen_after: Span) -> Self {
        Self {
            frozen_after: frozen_after.max(MIN_FROZEN_AFTER),
            last: None,
            silent: Span::ZERO,
            watched: Span::ZERO,
        }
    }

    /// Whether this is no progress since the last sample.
    fn is_silent(&self, progress: &Progress) -> bool {
        self.last.is_some_and(|last| last.ticks == progress.ticks)
    }

    /// Silence counts only as far as we were awake to see it, as far as the canary shows that a thread of
    /// normal priority could run, and as far as the data plane's own threads had the CPU that they want
    /// (`usable`): after a stall of the machine, and on one that starves, it gets the time to move again.
    fn sample(
        &mut self,
        now: Time,
        beats: u64,
        usable: Span,
        progress: Option<Progress>,
    ) -> Option<Fault> {
        let Some(progress) = progress else {
            return Some(Fault::DataplaneNotReady);
        };
        let ticks = progress.ticks;
        match self.last.filter(|last| last.ticks == ticks) {
            Some(last) => {
                let ours = (now - last.at).min(SAMPLE.times(2));
                let canarys = SAMPLE.times(beats.saturating_sub(last.beats));
                self.watched = self.watched + ours;
                self.silent = self.silent + ours.min(canarys).min(usable);
            }
            None => {
                self.watched = Span::ZERO;
                self.silent = Span::ZERO;
            }
        }
        self.last = Some(Sample {
            at: now,
            beats,
            ticks,
        });
        let limit = self.frozen_after.times(STARVED_FACTOR);
        if self.silent >= self.frozen_after || self.watched >= limit {
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

    const ALL: Span = Span::from_millis(20);
    const FROZEN: Option<Fault> = Some(Fault::DataplaneFrozen);

    #[test]
    fn silence_is_a_freeze_and_progress_ends_it() {
        let mut judge = Judge::new(Span::from_millis(100));
        let not_ready = Some(Fault::DataplaneNotReady);
        assert_eq!(judge.sample(at(0), 0, ALL, None), not_ready);
        assert_eq!(judge.sample(at(20), 1, ALL, progress(1, false)), not_ready);
        assert_eq!(judge.sample(at(40), 2, ALL, progress(2, true)), None);
        for beat in 3..7 {
            let now = at(beat * 20);
            assert_eq!(judge.sample(now, beat.into(), ALL, progress(2, true)), None);
        }
        assert_eq!(judge.sample(at(140), 7, ALL, progress(2, true)), FROZEN);
        assert_eq!(judge.sample(at(160), 8, ALL, progress(2, true)), FROZEN);
        assert_eq!(judge.sample(at(180), 9, ALL, progress(3, true)), None);
    }

    #[test]
    fn our_own_stall_is_not_the_data_planes() {
        let mut judge = Judge::new(Span::from_millis(100));
        assert_eq!(judge.sample(at(0), 0, ALL, progress(1, true)), None);
        assert_eq!(judge.sample(at(20), 1, ALL, progress(2, true)), None);
        // All stood still for a minute; only 20 ms of it count, as much as the canary beat.
        assert_eq!(judge.sample(at(60_020), 2, ALL, progress(2, true)), None);
        assert_eq!(judge.sample(at(60_040), 3, ALL, progress(2, true)), None);
        assert_eq!(judge.sample(at(60_060), 4, ALL, progress(2, true)), None);
        assert_eq!(judge.sample(at(60_080), 5, ALL, progress(2, true)), None);
        assert_eq!(judge.sample(at(60_100), 6, ALL, progress(2, true)), FROZEN);
    }

    #[test]
    fn a_starving_machine_is_given_time_but_not_for_ever() {
        let mut judge = Judge::new(Span::from_millis(100));
        assert_eq!(judge.sample(at(0), 1, ALL, progress(1, true)), None);
        // We run on time with our real-time priority, the canary does not.
        for step in 1..=25 {
            assert_eq!(judge.sample(at(step * 20), 1, ALL, progress(1, true)), None);
        }
        assert_eq!(judge.sample(at(520), 2, ALL, progress(1, true)), None);
        for step in 27..50 {
            assert_eq!(judge.sample(at(step * 20), 2, ALL, progress(1, true)), None);
        }
        assert_eq!(judge.sample(at(1_000), 2, ALL, progress(1, true)), FROZEN);
    }

    #[test]
    fn a_data_plane_that_waits_for_a_cpu_is_given_time_but_not_for_ever() {
        let mut judge = Judge::new(Span::from_millis(100));
        let waits = Span::from_millis(1);
        assert_eq!(judge.sample(at(0), 0, ALL, progress(1, true)), None);
        for step in 1..50 {
            let (now, beats) = (at(step * 20), step.into());
            assert_eq!(judge.sample(now, beats, waits, progress(1, true)), None);
        }
        assert_eq!(
            judge.sample(at(1_000), 50, waits, progress(1, true)),
            FROZEN
        );
        // One that has the CPU and makes no progress is not.
        assert_eq!(judge.sample(at(1_020), 51, ALL, progress(2, true)), None);
        for step in 52..56 {
            let (now, beats) = (at(step * 20), step.into());
            assert_eq!(judge.sample(now, beats, ALL, progress(2, true)), None);
        }
        assert_eq!(judge.sample(at(1_120), 56, ALL, progress(2, true)), FROZEN);
    }
}
