//! The server behind the load balancer: known answers, counted work, one thread.
//!
//! | port | what it does |
//! |---|---|
//! | `--http`, `--https` | `GET /bytes/N` N bytes of the pattern · `GET /chunked/N` the same in the chunked coding · `POST` the body is compared with the pattern, the answer says how long it was · `GET /health` for probes, counted apart · WebSocket: frames come back · anything else: an empty answer |
//! | `--echo` | every byte comes back |
//! | `--bulk` | eight bytes, a number N in network order, are answered with N bytes of the pattern |
//! | `--udp` | every datagram comes back |

mod conn;

use crate::output;
use anyhow::{Context, bail};
use conn::{Conn, Service};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use slab::Slab;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// Connections that wait for accept.
const BACKLOG: i32 = 4_096;
/// Connections at the most.
const MAX_CONNECTIONS: usize = 19_000;
/// Accepted in a row before others get their turn.
const ACCEPT_AT_ONCE: usize = 64;
/// Datagrams answered in a row.
const DATAGRAMS_AT_ONCE: usize = 64;
const BUFFER: usize = 256 * 1024;
/// Keys below this are listeners, above it connections.
const FIRST_CONN: u64 = 16;
const STDIN: u64 = 15;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Serve HTTP/1.1 here, such as 127.0.0.1:8080; port 0 takes a free one
    #[arg(long)]
    http: Option<SocketAddr>,
    /// Serve HTTP/1.1 over TLS here
    #[arg(long, requires = "cert")]
    https: Option<SocketAddr>,
    /// PEM: certificate chain and private key
    #[arg(long)]
    cert: Option<PathBuf>,
    /// Echo TCP here
    #[arg(long)]
    echo: Option<SocketAddr>,
    /// Send bulk data here
    #[arg(long)]
    bulk: Option<SocketAddr>,
    /// Echo UDP here
    #[arg(long)]
    udp: Option<SocketAddr>,
}

/// Where the origin serves; the first line it prints.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) http: Option<SocketAddr>,
    pub(crate) https: Option<SocketAddr>,
    pub(crate) echo: Option<SocketAddr>,
    pub(crate) bulk: Option<SocketAddr>,
    pub(crate) udp: Option<SocketAddr>,
}

/// What it did since its start; printed for each line on standard input.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Requests answered; an echo or bulk connection's bytes are in `body_bytes` alone.
    pub(crate) requests: u64,
    /// Requests for `/health`.
    pub(crate) probes: u64,
    /// Bytes of bodies, both directions.
    pub(crate) body_bytes: u64,
    pub(crate) connections: u64,
    /// Requests with X-Forwarded-For.
    pub(crate) forwarded: u64,
    /// Uploads that were not the pattern, and what could not be parsed.
    pub(crate) bad: u64,
    /// CPU time of the origin so far, in seconds.
    pub(crate) cpu: f64,
}

struct Server {
    epoll: Epoll,
    listeners: Vec<(TcpListener, Service)>,
    udp: Option<UdpSocket>,
    tls: Option<Arc<rustls::ServerConfig>>,
    conns: Slab<Conn>,
    counts: Counts,
    buffer: Vec<u8>,
}

/// Serves until standard input ends.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut server = Server {
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        listeners: Vec::new(),
        udp: None,
        tls: args.cert.as_ref().map(tls).transpose()?,
        conns: Slab::new(),
        counts: Counts::default(),
        buffer: vec![0; BUFFER],
    };
    let ports = Ports {
        http: server.listen(args.http, Service::Http)?,
        https: server.listen(args.https, Service::Https)?,
        echo: server.listen(args.echo, Service::Echo)?,
        bulk: server.listen(args.bulk, Service::Bulk)?,
        udp: server.datagrams(args.udp)?,
    };
    if server.listeners.is_empty() && server.udp.is_none() {
        bail!("nothing to serve: give --http, --https, --echo, --bulk or --udp");
    }
    let stdin = std::io::stdin();
    let input = EpollEvent::new(EpollFlags::EPOLLIN, STDIN);
    match server.epoll.add(&stdin, input) {
        // A regular file: it has ended before it began.
        Err(nix::Error::EPERM) => {
            bail!("standard input must be a pipe or a terminal: its end ends the origin")
        }
        result => result?,
    }
    output::line(&serde_json::to_string(&ports)?)?;
    server.serve(stdin.as_fd())
}

fn tls(path: &PathBuf) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let what = || format!("--cert {}", path.display());
    let chain = CertificateDer::pem_file_iter(path)
        .with_context(what)?
        .collect::<Result<Vec<_>, _>>()
        .with_context(what)?;
    let key = PrivateKeyDer::from_pem_file(path).with_context(what)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(what)?;
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

impl Server {
    fn listen(
        &mut self,
        address: Option<SocketAddr>,
        service: Service,
    ) -> anyhow::Result<Option<SocketAddr>> {
        use socket2::{Domain, Protocol, Socket, Type};
        let Some(address) = address else {
            return Ok(None);
        };
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket
            .bind(&address.into())
            .with_context(|| format!("bind {address}"))?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let key = self.listeners.len() as u64;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, key);
        self.epoll.add(&listener, event)?;
        let bound = listener.local_addr()?;
        self.listeners.push((listener, service));
        Ok(Some(bound))
    }

    fn datagrams(&mut self, address: Option<SocketAddr>) -> anyhow::Result<Option<SocketAddr>> {
        let Some(address) = address else {
            return Ok(None);
        };
        let socket = UdpSocket::bind(address).with_context(|| format!("bind udp {address}"))?;
        socket.set_nonblocking(true)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, STDIN - 1);
        self.epoll.add(&socket, event)?;
        let bound = socket.local_addr()?;
        self.udp = Some(socket);
        Ok(Some(bound))
    }

    fn serve(&mut self, stdin: BorrowedFd<'_>) -> anyhow::Result<()> {
        let mut events = vec![EpollEvent::empty(); 256];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(nix::Error::EINTR) => continue,
                result => result?,
            };
            for event in events.iter().take(ready) {
                match event.data() {
                    STDIN => {
                        let mut text = [0; 64];
                        let n = nix::unistd::read(stdin, &mut text)?;
                        if n == 0 {
                            return Ok(());
                        }
                        for _ in text[..n].iter().filter(|b| **b == b'\n') {
                            self.counts.cpu = crate::cpu::CpuTime::own()?.total();
                            output::line(&serde_json::to_string(&self.counts)?)?;
                        }
                    }
                    key if key == STDIN - 1 => self.echo_datagrams(),
                    key @ FIRST_CONN.. => self.event(key - FIRST_CONN, event.events()),
                    key => self.accept(key),
                }
            }
        }
    }

    fn accept(&mut self, key: u64) {
        let Some((listener, service)) = usize::try_from(key)
            .ok()
            .and_then(|key| self.listeners.get(key))
        else {
            return;
        };
        for _ in 0..ACCEPT_AT_ONCE {
            // Out of descriptors, or gone again: the next event tries again.
            let Ok((stream, _)) = listener.accept() else {
                return;
            };
            if self.conns.len() >= MAX_CONNECTIONS || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let _latency_only = stream.set_nodelay(true);
            let session = match (service, &self.tls) {
                (Service::Https, Some(config)) => {
                    match rustls::ServerConnection::new(Arc::clone(config)) {
                        Ok(session) => Some(session.into()),
                        Err(_) => continue,
                    }
                }
                _ => None,
            };
            let entry = self.conns.vacant_entry();
            let flags = EpollFlags::EPOLLIN
                | EpollFlags::EPOLLOUT
                | EpollFlags::EPOLLRDHUP
                | EpollFlags::EPOLLET;
            let event = EpollEvent::new(flags, entry.key() as u64 + FIRST_CONN);
            if self.epoll.add(&stream, event).is_ok() {
                entry.insert(Conn::new(stream, session, *service));
                self.counts.connections += 1;
            }
        }
    }

    fn event(&mut self, key: u64, flags: EpollFlags) {
        let Some(key) = usize::try_from(key)
            .ok()
            .filter(|k| self.conns.contains(*k))
        else {
            return; // closed by an earlier event of the same round
        };
        let conn = &mut self.conns[key];
        match conn.drive(flags, &mut self.buffer, &mut self.counts) {
            Ok(true) => {}
            Ok(false) => drop(self.conns.remove(key)),
            Err(error) => {
                // A client that resets its connection is not at fault: load generators do.
                if error.downcast_ref::<std::io::Error>().is_none() {
                    self.counts.bad += 1;
                }
                drop(self.conns.remove(key));
            }
        }
    }

    fn echo_datagrams(&mut self) {
        let Some(socket) = &self.udp else { return };
        for _ in 0..DATAGRAMS_AT_ONCE {
            let (n, from) = match socket.recv_from(&mut self.buffer) {
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => continue, // an ICMP error of an earlier answer
            };
            if socket.send_to(&self.buffer[..n], from).is_ok() {
                self.counts.requests += 1;
                self.counts.body_bytes += n as u64;
            }
        }
    }
}
