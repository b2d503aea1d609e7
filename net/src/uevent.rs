//! The kernel's events about devices, as datagrams. What they say is read by `krater_model::guest::uevent`.

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The group of the kernel; udev, where there is one, sends to group 2.
const KERNEL: u32 = 1;
/// Longer than the kernel's longest (`UEVENT_BUFFER_SIZE` is 2,048 and the header a path).
const BUFFER: usize = 8_192;

/// A subscription, in the namespace of the thread that opened it: events of NICs stay in theirs, all others come
/// to the first one.
#[derive(Debug)]
pub struct Uevents {
    socket: Socket,
}

impl AsFd for Uevents {
    /// Polls readable when an event is there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Uevents {
    /// Events from now on.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT)?;
        socket.bind(&SocketAddr::new(0, KERNEL))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// The next datagram; none when there is none at the moment. ENOBUFS: events were lost.
    pub fn next(&self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let mut buffer = Vec::with_capacity(BUFFER);
            match self.socket.recv_from(&mut buffer, 0) {
                // Anybody with the right to it can send to the group; port 0 is the kernel.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok(_) => return Ok(Some(buffer)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
