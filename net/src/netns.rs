//! Network namespaces that are pinned as bind mounts at any path, and work inside them.
//!
//! A thread that has entered a namespace never goes back to a pool: [`NetNs::run`] starts one, and it
//! ends. A socket belongs to the namespace it was made in for its whole life, so that everything else
//! (connect, listen, registering with tokio) may happen anywhere.

use crate::sync::NetlinkSocket;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Connections that wait for accept on listeners made here; more than that many new ones at the same
/// moment on a management or test listener is somebody's mistake.
const BACKLOG: i32 = 1024;
/// Mounts stacked on one path that [`delete`] removes; a crash can leave one or two.
const MAX_STACKED: usize = 16;

/// Identity of a namespace: device and inode of its `/proc/<pid>/ns/net`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NsId {
    /// Device number of nsfs.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// An open network namespace. It lives at least as long as this value.
#[derive(Debug)]
pub struct NetNs {
    file: File,
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl NetNs {
    /// Makes a namespace with its loopback up and pins it at `path`. A plain file that a crashed
    /// attempt left there is taken over; a living namespace there is an error (AlreadyExists).
    pub fn create(path: &Path) -> io::Result<Self> {
        if exists(path) {
            let text = format!("{} is a network namespace already", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        let _file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        helper(|| -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            // Up before it can be found: whoever opens the path finds a complete namespace.
            let netlink = NetlinkSocket::open()?;
            netlink.set_up(1, true)?;
            let own = "/proc/thread-self/ns/net";
            mount(
                Some(own),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
            Ok(())
        })??;
        Self::open(path)
    }

    /// Opens the namespace pinned at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if fstatfs(&file)?.filesystem_type() != NSFS_MAGIC {
            let text = format!("{} is not a network namespace", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self { file })
    }

    /// Opens it, or makes it when it is not there.
    pub fn ensure(path: &Path) -> io::Result<Self> {
        if exists(path) {
            Self::open(path)
        } else {
            Self::create(path)
        }
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        File::open("/proc/thread-self/ns/net").map(|file| Self { file })
    }

    /// The namespace of a process.
    pub fn of_pid(pid: u32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/ns/net")).map(|file| Self { file })
    }

    /// Its identity.
    pub fn id(&self) -> io::Result<NsId> {
        let meta = self.file.metadata()?;
        Ok(NsId {
            device: meta.dev(),
            inode: meta.ino(),
        })
    }

    /// Runs `work` inside the namespace on a thread of its own, and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        helper(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?
    }

    /// Moves the calling thread into the namespace for good. For a whole process: call it before any
    /// other thread exists; with more threads it is refused, because they would stay behind.
    pub fn enter(&self) -> io::Result<()> {
        let threads = std::fs::read_dir("/proc/self/task")?.count();
        if threads != 1 {
            return Err(io::Error::other(format!(
                "the process has {threads} threads; enter a namespace before the first is started"
            )));
        }
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(Into::into)
    }

    /// Any socket, inside the namespace.
    pub fn socket(
        &self,
        domain: Domain,
        kind: Type,
        protocol: Option<Protocol>,
    ) -> io::Result<Socket> {
        self.run(|| Socket::new(domain, kind, protocol))?
    }

    /// A TCP socket of the family of `peer`, not yet connected and non-blocking: for
    /// `tokio::net::TcpSocket::from_std_stream(socket.into())`.
    pub fn tcp_socket(&self, peer: SocketAddr) -> io::Result<Socket> {
        let socket = self.socket(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// A TCP connection from inside the namespace, blocking, made within `timeout`.
    pub fn tcp_connect(
        &self,
        peer: SocketAddr,
        timeout: std::time::Duration,
    ) -> io::Result<std::net::TcpStream> {
        let socket = self.socket(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
        socket.connect_timeout(&SockAddr::from(peer), timeout)?;
        Ok(socket.into())
    }

    /// A TCP listener inside the namespace, non-blocking, with SO_REUSEADDR. Port 0 gets a free one.
    pub fn tcp_listener(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let domain = Domain::for_address(address);
        let socket = self.socket(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&SockAddr::from(address))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }

    /// A UDP socket inside the namespace, non-blocking and bound. Port 0 gets a free one.
    pub fn udp_socket(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let domain = Domain::for_address(address);
        let socket = self.socket(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&SockAddr::from(address))?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }
}

/// Whether a namespace is pinned at `path`.
pub fn exists(path: &Path) -> bool {
    NetNs::open(path).is_ok()
}

/// Unpins the namespace at `path`. The kernel frees it when its last process, socket and copy are
/// gone; copies of the mount in other mount namespaces go with the file. Nothing there is fine.
pub fn delete(path: &Path) -> io::Result<()> {
    for _ in 0..MAX_STACKED {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => break, // not a mount (any more)
            Err(error) => return Err(error.into()),
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs `work` inside `netns` on a thread of its own; the same as [`NetNs::run`].
pub fn in_ns<T: Send>(netns: &NetNs, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    netns.run(work)
}

/// Moves this single-threaded process into the namespace pinned at `path`; see [`NetNs::enter`].
pub fn enter(path: &Path) -> io::Result<()> {
    NetNs::open(path)?.enter()
}

/// Runs `work` on a new thread that ends afterwards, so that what it does to its namespaces ends too.
pub(crate) fn helper<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .stack_size(256 * 1024)
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .map_err(|_| io::Error::other("the helper thread panicked"))
    })
}

/// Gives the calling thread a mount namespace of its own, in which changes stay.
pub(crate) fn private_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Slave, not private: what the host unmounts goes away here too, and what is mounted here stays
    // here.
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    match mount(None::<&str>, "/", None::<&str>, flags, None::<&str>) {
        // mount(2): the propagation of something that is not a mount point cannot be changed.
        Err(nix::Error::EINVAL) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the root folder of this process is not a mount point, as after a plain chroot: \
             `mount --bind ROOT ROOT` before the chroot, or use pivot_root",
        )),
        other => other.map_err(io::Error::from),
    }
}

/// Whether this process may give its children mount namespaces of their own; the error says what to do.
pub fn check_private_mounts() -> io::Result<()> {
    helper(private_mounts)?
}
