//! The ring, and the clock of a thread.
#![allow(unsafe_code, reason = "the kernel reads and writes our buffers")]

use super::{BUFFER, CONNECTIONS};
use io_uring::squeue::Flags;
use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Each connection has two directions.
const DIRECTIONS: usize = 2 * CONNECTIONS;
/// Buffers that the kernel picks from: a read and a write under way in each direction.
const PROVIDED: u16 = 256;
const GROUP: u16 = 1;
/// Marks a send in the user data.
const SEND: u64 = 1 << 32;
/// Marks what only gives a buffer back.
const GIVEN: u64 = 1 << 33;

pub(super) struct Ring(IoUring);

impl Ring {
    pub(super) fn new(entries: u32) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        // One thread submits and completes: the kernel needs no interrupts for it (6.1).
        builder.setup_single_issuer().setup_defer_taskrun();
        Ok(Self(builder.build(entries)?))
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: what an entry points to is a part of the relay's buffers, which live until its end and are
            // used by one operation at a time.
            // JUSTIFICATION: there is no safe interface.
            let pushed = unsafe { self.0.submission().push(entry) };
            if pushed.is_ok() {
                return;
            }
            self.0.submit().unwrap();
        }
    }
}

/// CPU time of this thread.
pub(super) fn thread_cpu() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    Duration::from(time)
}

/// Relays until one side of each pair ends: one loop for all connections, all that is to be submitted goes with the
/// call that waits.
pub(super) fn relay(pairs: &[(TcpStream, TcpStream)], multishot: bool) {
    let mut ring = Ring::new(1_024).unwrap();
    let fds: Vec<(i32, i32)> = pairs
        .iter()
        .flat_map(|(client, member)| {
            let (client, member) = (client.as_raw_fd(), member.as_raw_fd());
            [(client, member), (member, client)]
        })
        .collect();
    let count = if multishot {
        usize::from(PROVIDED)
    } else {
        DIRECTIONS
    };
    let mut buffers = vec![0_u8; count * BUFFER];
    let base = buffers.as_mut_ptr();
    let size = u32::try_from(BUFFER).unwrap();
    let at = |buffer: usize| base.wrapping_add(buffer * BUFFER);
    let receive = |ring: &mut Ring, d: usize| {
        let fd = Fd(fds[d].0);
        let entry = match multishot {
            true => opcode::RecvMulti::new(fd, GROUP).build(),
            false => opcode::Recv::new(fd, at(d), size).build(),
        };
        ring.push(&entry.user_data(d as u64));
    };
    if multishot {
        let all =
            opcode::ProvideBuffers::new(base, i32::try_from(BUFFER).unwrap(), PROVIDED, GROUP, 0);
        ring.push(&all.build().user_data(GIVEN));
    }
    (0..fds.len()).for_each(|d| receive(&mut ring, d));
    let mut open = pairs.len();
    let mut ended = vec![false; pairs.len()];
    while open > 0 {
        ring.0.submit_and_wait(1).unwrap();
        let done: Vec<cqueue::Entry> = ring.0.completion().collect();
        for entry in done {
            let data = entry.user_data();
            if data & GIVEN != 0 {
                continue;
            }
            let d = usize::try_from(data & 0xffff).unwrap();
            if data & SEND != 0 {
                // Messages are far smaller than a socket's buffer: a short send would be a fault of the test.
                let sent = data >> 40;
                assert!(
                    ended[d / 2] || u64::try_from(entry.result()) == Ok(sent),
                    "{entry:?}"
                );
                if !multishot {
                    receive(&mut ring, d);
                }
                continue;
            }
            let n = entry.result();
            if n == -libc::ENOBUFS {
                receive(&mut ring, d);
                continue;
            }
            if n <= 0 {
                if !std::mem::replace(&mut ended[d / 2], true) {
                    open -= 1;
                }
                continue;
            }
            let n = u32::try_from(n).unwrap();
            let user_data = d as u64 | SEND | u64::from(n) << 40;
            let to = Fd(fds[d].1);
            match cqueue::buffer_select(entry.flags()) {
                Some(buffer) => {
                    let bytes = at(buffer.into());
                    let send = opcode::Send::new(to, bytes, n).build().user_data(user_data);
                    // The buffer goes back when it is sent.
                    ring.push(&send.flags(Flags::IO_LINK));
                    let back = opcode::ProvideBuffers::new(
                        bytes,
                        i32::try_from(BUFFER).unwrap(),
                        1,
                        GROUP,
                        buffer,
                    );
                    ring.push(&back.build().user_data(GIVEN).flags(Flags::SKIP_SUCCESS));
                    if !cqueue::more(entry.flags()) {
                        receive(&mut ring, d);
                    }
                }
                None => {
                    let send = opcode::Send::new(to, at(d), n).build();
                    ring.push(&send.user_data(user_data));
                }
            }
        }
    }
    drop(ring);
    // What is still under way ends after the ring does: the kernel may hold the buffers for a moment longer.
    buffers.leak();
}
