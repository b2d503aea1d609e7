//! What the other instruments see: announcements at the client, and the addresses in both kernels.

use super::clock::{Clock, End};
use super::probe::Side;
use crate::sys;
use anyhow::{Context, bail};
use krater_model::MacAddr;
use krater_net::netns::NetNs;
use krater_net::sync::NetlinkSocket;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::thread::JoinHandle;
use std::time::Duration;

/// ETH_P_ARP in network byte order, as a packet socket wants it.
const ARP: i32 = 0x0608;
/// Bytes that wait in the sniffer's socket: 255 addresses are announced ten times in a moment.
const QUEUE: usize = 4 * 1024 * 1024;
/// Announcements of one sender that are closer than this are one burst.
const BURST: u64 = 250_000;

/// A gratuitous ARP that reached the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) at: u64,
    pub(crate) address: Ipv4Addr,
    pub(crate) from: Side,
}

/// Collects announcements until told.
#[derive(Debug)]
pub(crate) struct Sniffer {
    end: End,
    thread: JoinHandle<Vec<Announcement>>,
}

impl Sniffer {
    /// Begins in the client's namespace; the nodes are known by their link-layer addresses.
    pub(crate) fn start(
        client: &NetNs,
        macs: [(MacAddr, Side); 2],
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let mut socket =
            client.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ARP))))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        socket.set_recv_buffer_size(QUEUE)?;
        let end = End::default();
        let told = end.told();
        let work = move || {
            let _not_permitted = sys::prefer_this_thread();
            let mut frame = [0_u8; 128];
            let mut all = Vec::new();
            while !told() {
                // A time-out, most of the time.
                let Ok(length) = socket.read(&mut frame) else {
                    continue;
                };
                let at = clock.now();
                let Some((mac, address)) = frame.get(..length).and_then(gratuitous) else {
                    continue;
                };
                let sender = macs.iter().find(|(known, _)| *known == mac);
                all.extend(sender.map(|(_, from)| Announcement {
                    at,
                    address,
                    from: *from,
                }));
            }
            all
        };
        let thread = std::thread::Builder::new()
            .name("announcements".into())
            .spawn(work)?;
        Ok(Self { end, thread })
    }

    pub(crate) fn end(self) -> anyhow::Result<Vec<Announcement>> {
        self.end.tell();
        match self.thread.join() {
            Ok(all) => Ok(all),
            Err(_) => bail!("the sniffing thread panicked"),
        }
    }
}

/// Sender and address of a gratuitous ARP, request or reply (RFC 5944 section 4.6).
fn gratuitous(frame: &[u8]) -> Option<(MacAddr, Ipv4Addr)> {
    let arp = frame.get(14..42)?;
    let mac: [u8; 6] = arp.get(8..14)?.try_into().ok()?;
    let sender: [u8; 4] = arp.get(14..18)?.try_into().ok()?;
    let same = arp.get(24..28)? == sender;
    (same && sender != [0; 4]).then(|| (MacAddr(mac), sender.into()))
}

/// How often one address changed hands, when `owner` had it before.
pub(crate) fn changes(owner: Side, announcements: &[Announcement]) -> usize {
    let mut owner = owner;
    let moved = announcements
        .iter()
        .filter(|one| std::mem::replace(&mut owner, one.from) != one.from);
    moved.count()
}

/// How often any address became b's, when a had all of them before.
pub(crate) fn taken(announcements: &[Announcement]) -> usize {
    let mut owners = BTreeMap::new();
    let moved = announcements.iter().filter(|one| {
        let before = owners.insert(one.address, one.from).unwrap_or(Side::A);
        before == Side::A && one.from == Side::B
    });
    moved.count()
}

/// Announcements of one address, counted in bursts.
pub(crate) fn bursts(announcements: &[Announcement]) -> usize {
    let mut last: [Option<u64>; 2] = [None, None];
    let mut count = 0;
    for one in announcements {
        let [a, b] = &mut last;
        let last = if one.from == Side::A { a } else { b };
        if last.is_none_or(|before| one.at - before > BURST) {
            count += 1;
        }
        *last = Some(one.at);
    }
    count
}

/// From the first address that b announced to the last one: how long the moving of all took.
pub(crate) fn spread(announcements: &[Announcement]) -> Option<(usize, u64)> {
    let mut first = BTreeMap::new();
    for one in announcements.iter().filter(|one| one.from == Side::B) {
        first.entry(one.address).or_insert(one.at);
    }
    let span = first.values().max()? - first.values().min()?;
    Some((first.len(), span))
}

/// Looks at both kernels each millisecond until told.
#[derive(Debug)]
pub(crate) struct Owners {
    end: End,
    thread: JoinHandle<anyhow::Result<Vec<Held>>>,
}

/// Who held the VIP from a moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) from: u64,
    pub(crate) a: bool,
    pub(crate) b: bool,
}

impl Owners {
    pub(crate) fn start(a: &NetNs, b: &NetNs, vip: Ipv4Addr, clock: Clock) -> anyhow::Result<Self> {
        let (a, b) = (NetlinkSocket::open_in(a)?, NetlinkSocket::open_in(b)?);
        let end = End::default();
        let told = end.told();
        let work = move || {
            let _not_permitted = sys::prefer_this_thread();
            let mut all: Vec<Held> = Vec::new();
            while !told() {
                let from = clock.now();
                let (a, b) = (holds(&a, vip)?, holds(&b, vip)?);
                if all.last().is_none_or(|last| (last.a, last.b) != (a, b)) {
                    all.push(Held { from, a, b });
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(all)
        };
        let thread = std::thread::Builder::new()
            .name("owners".into())
            .spawn(work)?;
        Ok(Self { end, thread })
    }

    pub(crate) fn end(self) -> anyhow::Result<Vec<Held>> {
        self.end.tell();
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => bail!("the thread that watches addresses panicked"),
        }
    }
}

/// Whether a kernel has an address.
pub(crate) fn holds(netlink: &NetlinkSocket, vip: Ipv4Addr) -> anyhow::Result<bool> {
    let addresses = netlink.addresses().context("addresses of a node")?;
    let vip = IpAddr::V4(vip);
    Ok(addresses.iter().any(|address| address.net.addr() == vip))
}

/// How long both held it between `from` and `until`.
pub(crate) fn double(held: &[Held], from: u64, until: u64) -> u64 {
    let ends = held.iter().skip(1).map(|next| next.from).chain([u64::MAX]);
    let spans = held.iter().zip(ends).filter(|(held, _)| held.a && held.b);
    spans
        .map(|(held, end)| end.min(until).saturating_sub(held.from.max(from)))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcements(text: &str) -> Vec<Announcement> {
        let each = text.split_whitespace().map(|word| {
            let (from, rest) = word.split_at(1);
            let (host, at) = rest.split_once('@').unwrap();
            Announcement {
                at: at.parse::<u64>().unwrap() * 1_000,
                address: Ipv4Addr::new(10, 99, 1, host.parse().unwrap()),
                from: if from == "a" { Side::A } else { Side::B },
            }
        });
        each.collect()
    }

    #[test]
    fn a_frame_of_ours_is_gratuitous_and_a_question_is_not() {
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        let vip = Ipv4Addr::new(10, 99, 1, 7);
        let mut frame = krater_net::announce::gratuitous_arp(mac, vip);
        assert_eq!(gratuitous(&frame), Some((mac, vip)));
        frame[41] ^= 1;
        assert_eq!(gratuitous(&frame), None);
        assert_eq!(gratuitous(&frame[..41]), None);
    }

    #[test]
    fn changes_bursts_and_spread() {
        let all = announcements("b1@10 b2@15 b1@20 a1@400 b1@410 b3@420");
        // 1 twice, 2 and 3 once.
        assert_eq!(taken(&all), 4);
        assert_eq!(spread(&all), Some((3, 410_000)));
        assert_eq!(spread(&announcements("a1@1")), None);
        let one = announcements("b1@10 b1@20 b1@30 a1@40 b1@900");
        assert_eq!(bursts(&one), 3);
        assert_eq!(changes(Side::A, &one), 3);
        assert_eq!(changes(Side::B, &one), 2);
        assert_eq!(changes(Side::A, &announcements("a1@1 a1@2")), 0);
    }

    #[test]
    fn double_ownership_is_summed_within_the_window() {
        let held = |from, a, b| Held { from, a, b };
        let all = [
            held(0, true, false),
            held(10, true, true),
            held(30, false, true),
            held(50, true, true),
        ];
        assert_eq!(double(&all, 0, 60), 30);
        assert_eq!(double(&all, 20, 55), 15);
        assert_eq!(double(&all[..1], 0, 60), 0);
    }
}
