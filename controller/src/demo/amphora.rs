//! An amphora as its host's operator sees it: processes in two namespaces, or a virtual machine in one. Used
//! to kill it as when its host dies, and to weigh it.

use anyhow::{Context, bail};
use krater_net::netns::{NetNs, NsId};
use krater_net::process::{ProcessId, processes_in};
use krater_net::sync::NetlinkSocket;
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};

/// The namespaces of one amphora.
#[derive(Debug)]
pub(super) struct Amphora {
    namespaces: Vec<NetNs>,
}

impl Amphora {
    /// Finds the pins `<state-dir>/netns/<instance>-<amphora id>-{mgmt,vip}`, or `-vm`.
    pub(super) fn find(state_dir: &Path, id: &str) -> anyhow::Result<Self> {
        let mut namespaces = Vec::new();
        let mut wanted = 2;
        for pin in pins(state_dir) {
            let name = pin
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let is = |role: &str| name.ends_with(&format!("-{id}-{role}"));
            if is("vm") {
                wanted = 1;
            }
            if is("mgmt") || is("vip") || is("vm") {
                namespaces.push(NetNs::open(&pin).with_context(|| pin.display().to_string())?);
            }
        }
        if namespaces.len() != wanted {
            bail!(
                "amphora {id} has {} namespaces below {}",
                namespaces.len(),
                state_dir.display()
            );
        }
        Ok(Self { namespaces })
    }

    fn ids(&self) -> anyhow::Result<Vec<NsId>> {
        Ok(self
            .namespaces
            .iter()
            .map(NetNs::id)
            .collect::<Result<_, _>>()?)
    }

    /// All processes.
    pub(super) fn processes(&self) -> anyhow::Result<Vec<ProcessId>> {
        Ok(processes_in(&self.ids()?)?
            .into_iter()
            .map(|(process, _)| process)
            .collect())
    }

    /// The process of one part: `agent`, `dataplane`, `vrrp`; of a virtual machine its first option.
    fn process(&self, part: &str) -> anyhow::Result<ProcessId> {
        let named = |p: &ProcessId| {
            p.command_line()
                .is_ok_and(|line| line.get(1).is_some_and(|word| word == part))
        };
        self.processes()?
            .into_iter()
            .find(named)
            .with_context(|| format!("no process {part}"))
    }

    /// What makes it take over: the process `vrrp`, or the virtual machine that it is in.
    pub(super) fn vrrp(&self) -> anyhow::Result<ProcessId> {
        self.process("vrrp")
            .or_else(|_| self.process("-nodefaults"))
    }

    /// As when its host dies: everything stands still at once, nothing more leaves or enters, nothing
    /// says good-bye. Returns the number of processes.
    pub(super) fn kill_and_cut(&self) -> anyhow::Result<usize> {
        // Sockets first, so that between freezing and cutting no time is lost.
        let links: Vec<NetlinkSocket> = self
            .namespaces
            .iter()
            .map(NetlinkSocket::open_in)
            .collect::<Result<_, _>>()?;
        let mut cut = Vec::new();
        for socket in &links {
            for link in socket.links()?.into_iter().filter(|link| link.name != "lo") {
                cut.push((socket, link.index));
            }
        }
        let processes = self.processes()?;
        if processes.is_empty() {
            bail!("the amphora has no process");
        }
        for process in &processes {
            process.signal(Signal::SIGSTOP as i32)?;
        }
        for (socket, index) in cut {
            socket.set_up(index, false)?;
        }
        for process in self.processes()? {
            // One that died of the shock is as dead.
            let _ = process.signal(Signal::SIGKILL as i32);
        }
        Ok(processes.len())
    }

    /// Resident memory of all processes, bytes.
    pub(super) fn resident(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for process in self.processes()? {
            let path = format!("/proc/{}/status", process.pid);
            let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
            sum += resident(&status).with_context(|| format!("VmRSS in {path}"))?;
        }
        Ok(sum)
    }
}

/// All pinned namespaces of a state folder.
pub(super) fn pins(state_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(state_dir.join("netns"))
        .into_iter()
        .flatten()
        .flatten();
    entries.map(|entry| entry.path()).collect()
}

/// `VmRSS:    1234 kB`, as bytes.
fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::resident;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(
            resident("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"),
            Some(2_097_152)
        );
        assert_eq!(
            resident("Name:\tx\n"),
            None,
            "a kernel thread or a dead process has none"
        );
    }
}
