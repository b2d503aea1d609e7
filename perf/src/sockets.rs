//! Bytes as the kernel counts them at the sockets of one port: the same for every load balancer, whatever its own
//! statistics mean by a byte.
//!
//! Sockets that live are asked for, those that end say so themselves (sock_diag(7): a dump, and the group of
//! destroyed TCP sockets). IPv4 only, as the topology is.

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

// linux/sock_diag.h, linux/inet_diag.h
const BY_FAMILY: u16 = 20;
const DESTROYED: u32 = 1;
const INFO: u16 = 2;
const REQUEST_DUMP: u16 = 0x301;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const INET: u8 = 2;
const TCP: u8 = 6;
/// `struct inet_diag_msg`, whose attributes follow.
const DIAG: usize = 72;
/// In `struct tcp_info` (linux/tcp.h).
const BYTES_RECEIVED: usize = 128;
const BYTES_SENT: usize = 200;
const BYTES_RETRANSMITTED: usize = 208;
/// Room for the ends of connections, some 1.3 kB each, that nobody has read yet.
const QUEUE: usize = 256 << 20;
/// Longest message of a dump.
const BUFFER: usize = 64 * 1024;

type Cookie = [u8; 8];

/// What moved through sockets, those without a byte left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) connections: u64,
    /// In order and acknowledged; the end of a stream counts as one.
    pub(crate) received: u64,
    /// Without what was sent again.
    pub(crate) sent: u64,
}

/// Counts at the sockets of one port that appear from now on.
#[derive(Debug)]
pub(crate) struct Sockets {
    port: u16,
    ended: OwnedFd,
    old: HashSet<Cookie>,
    seen: HashMap<Cookie, (u64, u64)>,
    buffer: Vec<u8>,
}

impl Sockets {
    /// For TCP connections whose local port is `port`, in the namespace of the calling thread.
    pub(crate) fn watch(port: u16) -> io::Result<Self> {
        let ended = open()?;
        setsockopt(&ended, sockopt::RcvBufForce, &QUEUE)?;
        bind(
            ended.as_raw_fd(),
            &NetlinkAddr::new(0, 1 << (DESTROYED - 1)),
        )?;
        let mut this = Self {
            port,
            ended,
            old: HashSet::new(),
            seen: HashMap::new(),
            buffer: vec![0; BUFFER],
        };
        this.dump()?;
        this.old = this.seen.drain().map(|(cookie, _)| cookie).collect();
        Ok(this)
    }

    /// What moved so far. In the namespace in which it was made.
    pub(crate) fn count(&mut self) -> io::Result<Moved> {
        // In this order: who ends in between is seen twice, which does no harm.
        self.dump()?;
        loop {
            match recv(
                self.ended.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(n) => drop(self.take(n)?),
                Err(nix::Error::EAGAIN) => break,
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::ENOBUFS) => {
                    return Err(io::Error::other(
                        "the kernel's queue of ended sockets overflowed",
                    ));
                }
                Err(error) => return Err(error.into()),
            }
        }
        // A probe that only connects may show up late; it is nobody's work.
        let fresh = self.seen.iter().filter(|(cookie, (received, sent))| {
            !self.old.contains(*cookie) && (*received > 1 || *sent > 0)
        });
        Ok(
            fresh.fold(Moved::default(), |sum, (_, (received, sent))| Moved {
                connections: sum.connections + 1,
                received: sum.received + received,
                sent: sum.sent + sent,
            }),
        )
    }

    /// Asks for all sockets that live.
    fn dump(&mut self) -> io::Result<()> {
        let asking = open()?;
        // `struct nlmsghdr`, then `struct inet_diag_req_v2` without a socket: any.
        let mut question = Vec::with_capacity(72);
        question.extend_from_slice(&72_u32.to_ne_bytes());
        question.extend_from_slice(&BY_FAMILY.to_ne_bytes());
        question.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
        question.extend_from_slice(&[0; 8]);
        question.extend_from_slice(&[INET, TCP, 1 << (INFO - 1), 0]);
        question.extend_from_slice(&u32::MAX.to_ne_bytes());
        question.resize(72, 0);
        send(asking.as_raw_fd(), &question, MsgFlags::empty())?;
        loop {
            let n = recv(asking.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            if self.take(n)? {
                return Ok(());
            }
        }
    }

    /// Notes the sockets in the first `n` bytes of the buffer. True: the last one of a dump.
    fn take(&mut self, n: usize) -> io::Result<bool> {
        let mut rest = self.buffer.get(..n).unwrap_or_default();
        while let Some((kind, body, after)) = message(rest) {
            match kind {
                DONE => return Ok(true),
                ERROR => {
                    let code = body.get(..4).and_then(|code| code.try_into().ok());
                    let code = code.map_or(libc::EIO, i32::from_ne_bytes);
                    return Err(io::Error::from_raw_os_error(code.saturating_abs()));
                }
                _ => {
                    if let Some((cookie, moved)) = parse(body, self.port) {
                        self.seen.insert(cookie, moved);
                    }
                }
            }
            rest = after;
        }
        Ok(false)
    }
}

fn open() -> io::Result<OwnedFd> {
    let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag);
    Ok(socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags,
        protocol,
    )?)
}

/// Kind and body of the first message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(16..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, after))
}

/// Bytes received and sent of a socket, if it is a connection of `port` that has moved anything.
fn parse(body: &[u8], port: u16) -> Option<(Cookie, (u64, u64))> {
    let at_port = body.get(4..6)? == port.to_be_bytes();
    let connected = body.get(6..8)? != [0, 0];
    if !at_port || !connected {
        return None;
    }
    let cookie = body.get(44..52)?.try_into().ok()?;
    let mut rest = body.get(DIAG..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        if kind == INFO {
            let number =
                |at: usize| Some(u64::from_ne_bytes(value.get(at..at + 8)?.try_into().ok()?));
            let sent = number(BYTES_SENT)?.saturating_sub(number(BYTES_RETRANSMITTED)?);
            return Some((cookie, (number(BYTES_RECEIVED)?, sent)));
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn every_byte_of_living_and_ended_sockets_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = || {
            (
                TcpStream::connect(address).unwrap(),
                listener.accept().unwrap().0,
            )
        };
        let mut old = open();
        let mut sockets = Sockets::watch(address.port()).unwrap();
        assert_eq!(sockets.count().unwrap(), Moved::default());
        old.0
            .write_all(b"of a connection that was there before")
            .unwrap();
        let mut kept = Vec::new();
        for n in 1..=20_usize {
            let (mut client, mut server) = open();
            client.write_all(&vec![1; n * 100]).unwrap();
            server.read_exact(&mut vec![0; n * 100]).unwrap();
            server.write_all(&vec![2; n]).unwrap();
            client.read_exact(&mut vec![0; n]).unwrap();
            if n % 2 == 0 {
                kept.push((client, server));
            } else {
                drop(client);
                assert_eq!(server.read(&mut [0]).unwrap(), 0);
            }
        }
        let ends = 10;
        let expected = Moved {
            connections: 20,
            received: 21_000 + ends,
            sent: 210,
        };
        // A socket ends a moment after its process has closed it.
        let mut moved = sockets.count().unwrap();
        for _ in 0..3_000 {
            if moved == expected {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
            moved = sockets.count().unwrap();
        }
        assert_eq!(moved, expected);
    }

    #[test]
    fn what_is_short_is_nothing() {
        let mut socket = vec![0; DIAG + 4 + 216];
        socket[4..8].copy_from_slice(&[0x1f, 0x41, 0xc0, 0]);
        socket[DIAG] = 220;
        socket[DIAG + 2] = 2;
        socket[DIAG + 4 + BYTES_RECEIVED] = 7;
        socket[DIAG + 4 + BYTES_SENT] = 9;
        socket[DIAG + 4 + BYTES_RETRANSMITTED] = 4;
        assert_eq!(parse(&socket, 8_001), Some(([0; 8], (7, 5))));
        assert_eq!(parse(&socket, 8_002), None);
        for n in 0..socket.len() {
            assert_eq!(parse(&socket[..n], 8_001), None);
            assert!(message(&socket[..n.min(15)]).is_none());
        }
    }
}
