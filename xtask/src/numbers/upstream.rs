//! Upstream's `octavia-api`, from the Python package index, in a virtual environment below `target/octavia`: served by gunicorn,
//! as upstream says, with two workers of four threads, its no-op provider and network drivers, on SQLite.

use super::{PATIENCE, resident};
use crate::setup;
use crate::util::{Failure, at, root, target_dir};
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that runs; it ends with the value.
pub(super) struct Upstream {
    child: Child,
    folder: PathBuf,
    pub(super) address: SocketAddr,
}

/// Installs it when it is not there, and starts it.
pub(super) fn start() -> Result<Upstream, Failure> {
    let python = setup::octavia()?;
    let folder = target_dir().join(format!("numbers-octavia-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(at(&folder))?;
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.map_err(|error| format!("no free port: {error}"))?;
    let log = folder.join("log");
    let said = File::create(&log).map_err(at(&log))?;
    let mut command = setup::python_command(&python);
    let child = command
        .arg(root().join("e2e/peers/serve_octavia.py"))
        .arg(&folder)
        .arg(address.port().to_string())
        .stdin(Stdio::null())
        .stdout(said.try_clone().map_err(at(&log))?)
        .stderr(said)
        .spawn()
        .map_err(at(&python))?;
    let mut upstream = Upstream {
        child,
        folder,
        address,
    };
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        let ended = upstream.child.try_wait().ok().flatten();
        if ended.is_some() || start.elapsed() > PATIENCE {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let tail: Vec<&str> = said.lines().rev().take(20).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            return Err(Failure(format!(
                "upstream's octavia-api did not start:\n{}",
                tail.join("\n")
            )));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(upstream)
}

impl Upstream {
    /// Kilobytes of its largest process: each worker answers requests.
    pub(super) fn resident(&self) -> Option<u64> {
        self.workers().into_iter().filter_map(resident).max()
    }

    /// Its process becomes gunicorn's arbiter; the workers are the children.
    fn workers(&self) -> Vec<u32> {
        let id = self.child.id();
        let path = format!("/proc/{id}/task/{id}/children");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // The arbiter stops its workers when it is asked to; killed it would leave them.
        let ask = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let start = Instant::now();
        while ask.is_ok() && start.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::env::var_os("KRATER_NUMBERS_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
