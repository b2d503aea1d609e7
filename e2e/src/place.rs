//! An address on a network of the controller: `krater net exec` holds it, and the test makes its
//! sockets there.

use crate::system::System;
use crate::wait;
use krater_net::netns::NetNs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// A namespace with one address.
#[derive(Debug)]
pub struct Place {
    /// `krater net exec`; none: somebody else's namespace.
    holder: Option<Child>,
    netns: NetNs,
    /// Its address.
    pub address: IpAddr,
}

impl Place {
    /// Takes `address` on `network`.
    ///
    /// # Panics
    /// When `krater net exec` fails.
    pub fn new(system: &System, network: &str, address: &str) -> Self {
        let mut command = system.krater(&[
            "net", "exec", network, "--ip", address, "--", "sleep", "infinity",
        ]);
        let mut holder = command
            .stdin(Stdio::null())
            .spawn()
            .expect("krater net exec");
        let own = NetNs::current()
            .and_then(|ns| ns.id())
            .expect("own namespace");
        let netns = wait::until("krater net exec runs its command", || {
            if let Ok(Some(status)) = holder.try_wait() {
                panic!("krater net exec {network} --ip {address} ended with {status}");
            }
            let sleeper = family(holder.id()).into_iter().find(|pid| is_sleep(*pid))?;
            let netns = NetNs::of_pid(sleeper).ok()?;
            netns.id().is_ok_and(|id| id != own).then_some(netns)
        });
        Self {
            holder: Some(holder),
            netns,
            address: address.parse().expect("an address"),
        }
    }

    /// An address in a namespace that exists.
    pub const fn of(netns: NetNs, address: IpAddr) -> Self {
        Self {
            holder: None,
            netns,
            address,
        }
    }

    /// The namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// A connection from here.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.netns.tcp_connect(to, CONNECT)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A blocking listener here.
    pub fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let listener = self
            .netns
            .tcp_listener(SocketAddr::new(self.address, port))?;
        listener.set_nonblocking(false)?;
        Ok(listener)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(holder) = &mut self.holder else {
            return;
        };
        // The command first: `krater net exec` then takes its namespace away.
        for pid in family(holder.id()).into_iter().filter(|pid| is_sleep(*pid)) {
            if let Ok(pid) = i32::try_from(pid) {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGTERM,
                );
            }
        }
        let _ = holder.wait();
    }
}

/// A process and its children.
fn family(pid: u32) -> Vec<u32> {
    let children =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut all = vec![pid];
    for child in children
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
    {
        all.extend(family(child));
    }
    all
}

fn is_sleep(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep")
}
