//! An amphora's processes and namespaces, seen from the host.

use crate::system::System;
use crate::wait;
use krater_net::netns::{NetNs, NsId};
use krater_net::process::{ProcessId, processes_in};
use krater_net::sync::NetlinkSocket;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The namespaces of one amphora.
#[derive(Debug)]
pub struct Amphora {
    /// Its id.
    pub id: String,
    /// Management namespace.
    pub mgmt: NetNs,
    /// The namespace that carries VIPs.
    pub vip: NetNs,
}

impl Amphora {
    /// Finds it by its pins.
    ///
    /// # Panics
    /// When it has none.
    pub fn find(system: &System, id: &str) -> Self {
        let open = |kind: &str| {
            let pins = pins(system);
            let pin = pins
                .iter()
                .find(|pin| pin.to_string_lossy().ends_with(&format!("-{id}-{kind}")));
            let pin =
                pin.unwrap_or_else(|| panic!("amphora {id} has no {kind} namespace: {pins:?}"));
            NetNs::open(pin).expect("a pinned namespace")
        };
        Self {
            id: id.to_owned(),
            mgmt: open("mgmt"),
            vip: open("vip"),
        }
    }

    fn ids(&self) -> [NsId; 2] {
        [&self.mgmt, &self.vip].map(|ns| ns.id().expect("namespace id"))
    }

    /// All processes.
    pub fn processes(&self) -> Vec<ProcessId> {
        let found = processes_in(&self.ids()).expect("processes");
        found.into_iter().map(|(process, _)| process).collect()
    }

    /// Processes by the first argument: `agent`, `dataplane`, `vrrp`, and the guard.
    pub fn parts(&self) -> BTreeMap<String, ProcessId> {
        let named = |process: ProcessId| {
            let line = process.command_line().ok()?;
            Some((line.get(1)?.to_string_lossy().into_owned(), process))
        };
        self.processes().into_iter().filter_map(named).collect()
    }

    /// One of them.
    ///
    /// # Panics
    /// When it does not run.
    pub fn part(&self, name: &str) -> ProcessId {
        wait::until(&format!("amphora {} has a process {name}", self.id), || {
            self.parts().get(name).copied()
        })
    }

    /// Sends a signal to a part.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, name: &str, signal: nix::sys::signal::Signal) -> ProcessId {
        let process = self.part(name);
        process.signal(signal as i32).expect("signal");
        process
    }

    /// As when its host dies: stands still, is cut off, dies.
    ///
    /// # Panics
    /// When netlink fails.
    pub fn kill_and_cut(&self) {
        let sockets =
            [&self.mgmt, &self.vip].map(|ns| NetlinkSocket::open_in(ns).expect("netlink"));
        for process in self.processes() {
            process.signal(libc::SIGSTOP).expect("SIGSTOP");
        }
        for socket in &sockets {
            for link in socket
                .links()
                .expect("links")
                .into_iter()
                .filter(|link| link.name != "lo")
            {
                socket.set_up(link.index, false).expect("link down");
            }
        }
        for process in self.processes() {
            let _ = process.signal(libc::SIGKILL);
        }
    }

    /// What its vrrp says of its router; none while it does not answer.
    pub fn router(&self, system: &System) -> Option<serde_json::Value> {
        use std::io::{Read as _, Write as _};
        let run = system
            .state_dir()
            .join("amphorae")
            .join(&self.id)
            .join("run");
        let mut stream = std::os::unix::net::UnixStream::connect(run.join("vrrp.sock")).ok()?;
        let request = b"GET /status HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let mut status: serde_json::Value = serde_json::from_str(body).ok()?;
        Some(status["routers"][0].take())
    }

    /// Addresses in the VIP namespace.
    pub fn addresses(&self) -> Vec<std::net::IpAddr> {
        let socket = NetlinkSocket::open_in(&self.vip).expect("netlink");
        let list = socket.addresses().expect("addresses");
        list.into_iter().map(|address| address.net.addr()).collect()
    }
}

/// All pinned namespaces of a system.
pub fn pins(system: &System) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(system.state_dir().join("netns"))
        .into_iter()
        .flatten()
        .flatten();
    entries.map(|entry| entry.path()).collect()
}
