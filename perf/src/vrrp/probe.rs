//! Who answers at the VIP: a client that begins a new flow each millisecond, the answering machine on
//! each node, and what can be read from the answers. All times are microseconds since the clock of the run
//! began.

use super::clock::{Clock, End};
use super::dataplane;
use crate::sys;
use anyhow::{Context, bail};
use krater_net::netns::NetNs;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::sockopt::Ipv4PacketInfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
};
use serde::Serialize;
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where nodes answer.
const PORT: u16 = 7_007;
/// A flow per millisecond.
const EVERY: u64 = 1_000;
/// An answer that takes longer is none: nobody waits so long for a first packet.
const LATE: u64 = 250_000;

/// One of the two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// A question to the VIP: a UDP flow of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) sent: u64,
    /// When it was answered in time, and by whom.
    pub(crate) answer: Option<(u64, Side)>,
}

/// What is still hoped for.
struct Open {
    at: usize,
    socket: UdpSocket,
}

/// Asks until told.
#[derive(Debug)]
pub(crate) struct Prober {
    end: End,
    latest: Arc<Mutex<Option<Side>>>,
    thread: JoinHandle<anyhow::Result<Vec<Probe>>>,
}

impl Prober {
    /// Begins to ask from the client's namespace.
    pub(crate) fn start(client: Arc<NetNs>, vip: Ipv4Addr, clock: Clock) -> anyhow::Result<Self> {
        let end = End::default();
        let latest = Arc::new(Mutex::new(None));
        let (told, tell) = (end.told(), Arc::clone(&latest));
        let thread = std::thread::Builder::new()
            .name("probe".into())
            .spawn(move || client.run(|| ask(vip, clock, &told, &tell))?)?;
        Ok(Self {
            end,
            latest,
            thread,
        })
    }

    /// Who gave the latest answer; none when none came to the last questions.
    pub(crate) fn latest(&self) -> Option<Side> {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends; all questions and their answers.
    pub(crate) fn end(self) -> anyhow::Result<Vec<Probe>> {
        self.end.tell();
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => bail!("the probing thread panicked"),
        }
    }
}

fn ask(
    vip: Ipv4Addr,
    clock: Clock,
    ended: &dyn Fn() -> bool,
    latest: &Mutex<Option<Side>>,
) -> anyhow::Result<Vec<Probe>> {
    let _not_permitted = sys::prefer_this_thread();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut probes: Vec<Probe> = Vec::with_capacity(16_384);
    let mut open: VecDeque<Open> = VecDeque::new();
    let mut due = clock.now();
    let mut ending = false;
    loop {
        let now = clock.now();
        ending |= ended();
        while open.front().is_some_and(|first| {
            let sent = probes.get(first.at).map_or(0, |probe| probe.sent);
            now.saturating_sub(sent) > LATE
        }) {
            open.pop_front();
        }
        if ending && open.is_empty() {
            return Ok(probes);
        }
        if now >= due {
            if !ending {
                let at = probes.len();
                let socket = flow(vip).context("a probe")?;
                let number = u64::try_from(at)?;
                epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
                let sent = clock.now();
                // What cannot be sent is not answered.
                let _lost = socket.send(&number.to_be_bytes());
                probes.push(Probe { sent, answer: None });
                open.push_back(Open { at, socket });
            }
            // A schedule that does not drift; what was missed is not made up for.
            due += EVERY * (1 + (now - due) / EVERY);
        }
        let mut events = [EpollEvent::empty(); 64];
        let wait = Duration::from_micros(due.saturating_sub(clock.now()));
        let count = sys::wait(&epoll, &mut events, wait)?;
        for event in events.iter().take(count) {
            let at = usize::try_from(event.data())?;
            let now = clock.now();
            let Some(place) = open.iter().position(|one| one.at == at) else {
                continue;
            };
            let answer = open.get(place).and_then(|one| read(one, at));
            open.remove(place);
            if let Some(probe) = probes.get_mut(at)
                && let Some(side) = answer
                && now - probe.sent <= LATE
            {
                probe.answer = Some((now, side));
                *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(side);
            }
        }
        if open.len() > 20 {
            *latest.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// A socket with a port of its own, connected: only the VIP's own answer counts.
fn flow(vip: Ipv4Addr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect((vip, PORT))?;
    Ok(socket)
}

fn read(open: &Open, at: usize) -> Option<Side> {
    let mut buffer = [0_u8; 9];
    let length = open.socket.recv(&mut buffer).ok()?;
    let (number, name) = buffer.get(..length)?.split_first_chunk::<8>()?;
    let same = u64::from_be_bytes(*number) == u64::try_from(at).ok()?;
    match name {
        b"a" if same => Some(Side::A),
        b"b" if same => Some(Side::B),
        _ => None,
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct EchoArgs {
    /// What it answers
    name: String,
    /// Where vrrp takes what it watches
    #[arg(long)]
    track: Option<PathBuf>,
    /// Where a script asks
    #[arg(long)]
    checks: Option<PathBuf>,
}

/// The answering machine of a node: returns what it gets with its name, from the address that was asked.
pub(crate) fn echo(args: &EchoArgs) -> anyhow::Result<()> {
    // Before this thread's priority is inherited.
    if let Some(track) = &args.track {
        dataplane::progress(track)?;
    }
    if let Some(checks) = &args.checks {
        dataplane::answer_checks(checks)?;
    }
    let _not_permitted = sys::prefer_this_thread();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    setsockopt(&socket, Ipv4PacketInfo, &true)?;
    let mut buffer = [0_u8; 8];
    let mut control = nix::cmsg_space!(libc::in_pktinfo);
    loop {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let got = recvmsg::<SockaddrIn>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let asked = got.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(info.ipi_addr),
            _ => None,
        });
        let (Some(from), Some(address), length) = (got.address, asked, got.bytes) else {
            continue;
        };
        let source = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: address,
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let number = buffer.get(..length).unwrap_or_default();
        let answer = [IoSlice::new(number), IoSlice::new(args.name.as_bytes())];
        let from: SockaddrIn = SocketAddrV4::from(from).into();
        // A node that loses the address meanwhile cannot answer from it.
        let _lost = sendmsg(
            socket.as_raw_fd(),
            &answer,
            &[ControlMessage::Ipv4PacketInfo(&source)],
            MsgFlags::empty(),
            Some(&from),
        );
    }
}

/// What the client saw of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Seen {
    /// The longest run without an answer, from the first question that got none to the next that got one.
    pub(crate) outage: u64,
    /// Questions without an answer.
    pub(crate) lost: usize,
    /// From the fault to the first answer of b to a question that was asked after it.
    pub(crate) takeover: Option<u64>,
    /// Whether the last answer in the window was b's.
    pub(crate) ends_at_b: bool,
    /// The longest time between two questions, beyond what was planned: how exact the rest is.
    pub(crate) late: u64,
}

/// Reads the questions that were sent from `from` until `until`.
pub(crate) fn seen(probes: &[Probe], from: u64, until: u64) -> Seen {
    let window = probes
        .iter()
        .filter(|probe| (from..until).contains(&probe.sent));
    let mut seen = Seen::default();
    let (mut run, mut last): (Option<u64>, Option<u64>) = (None, None);
    for probe in window {
        let gap = last.map_or(0, |last| probe.sent - last);
        seen.late = seen.late.max(gap.saturating_sub(EVERY));
        last = Some(probe.sent);
        match probe.answer {
            None => {
                seen.lost += 1;
                run.get_or_insert(probe.sent);
            }
            Some((at, side)) => {
                if let Some(began) = run.take() {
                    seen.outage = seen.outage.max(probe.sent - began);
                }
                seen.ends_at_b = side == Side::B;
                if side == Side::B && seen.takeover.is_none() {
                    seen.takeover = Some(at - from);
                }
            }
        }
    }
    if let (Some(began), Some(last)) = (run, last) {
        seen.outage = seen.outage.max(last - began + EVERY);
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probes(answers: &str) -> Vec<Probe> {
        let each = answers.chars().zip(0_u64..).map(|(who, at)| Probe {
            sent: at * EVERY,
            answer: match who {
                'a' => Some((at * EVERY + 100, Side::A)),
                'b' => Some((at * EVERY + 100, Side::B)),
                _ => None,
            },
        });
        each.collect()
    }

    #[test]
    fn the_longest_hole_counts_from_its_first_question_to_the_next_answer() {
        let seen = seen(&probes("aa..a...bb"), 1_000, 10_000);
        assert_eq!((seen.outage, seen.lost), (3_000, 5));
        assert_eq!(seen.takeover, Some(7_100));
        assert!(seen.ends_at_b);
        assert_eq!(seen.late, 0);
    }

    #[test]
    fn a_hole_that_does_not_end_is_as_long_as_was_asked() {
        let seen = seen(&probes("aa..."), 1_000, 10_000);
        assert_eq!((seen.outage, seen.lost, seen.takeover), (3_000, 3, None));
        assert!(!seen.ends_at_b);
    }

    #[test]
    fn questions_outside_the_window_do_not_count() {
        let seen = seen(&probes("..aab.b.."), 2_000, 7_000);
        assert_eq!((seen.outage, seen.lost), (1_000, 1));
        assert_eq!(seen.takeover, Some(2_100));
        assert_eq!(super::seen(&probes("aaa"), 9_000, 9_999), Seen::default());
    }

    #[test]
    fn the_instruments_own_lateness_is_told() {
        let mut late = probes("aabb");
        late[2].sent += 7_000;
        late[3].sent += 7_000;
        assert_eq!(seen(&late, 0, 99_000).late, 7_000);
    }
}
