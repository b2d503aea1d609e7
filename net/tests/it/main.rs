//! krater-net against the real kernel. Needs root; every test works in namespaces of its own.

#![allow(clippy::unwrap_used, reason = "test helpers")]

mod netns;
mod processes;
mod taps;
mod wire;

use krater_net::netns::NetNs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder with pinned namespaces that goes away with the value. What a killed run left behind is
/// removed by the next one: the name holds the process id, and a folder of a dead process is a leftover.
#[derive(Debug)]
pub struct Lab {
    folder: PathBuf,
}

impl Lab {
    pub fn make() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = std::env::temp_dir();
        for entry in std::fs::read_dir(&base).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let pid = name
                .strip_prefix("krater-net-it-")
                .and_then(|n| n.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                remove(&entry.path());
            }
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = base.join(format!("krater-net-it-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn netns(&self, name: &str) -> NetNs {
        NetNs::create(&self.path(name)).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

fn remove(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = krater_net::netns::delete(&entry.path());
    }
    let _ = std::fs::remove_dir_all(folder);
}
