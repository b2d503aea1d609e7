//! State folders for tests: what a test makes goes with the value, and what a killed run left goes with
//! the next one.

use super::layout::Layout;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "krater-drivers-test-";

/// A folder with a state folder in it.
#[derive(Debug)]
pub(crate) struct TestState {
    /// The state folder.
    pub(crate) layout: Layout,
    folder: PathBuf,
}

impl TestState {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = std::env::temp_dir();
        for entry in std::fs::read_dir(&base).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let pid = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                remove(&entry.path());
            }
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = base.join(format!("{PREFIX}{}-{number}", std::process::id()));
        let layout = Layout::create(&folder.join("state")).unwrap();
        Self { layout, folder }
    }

    /// A place for files beside the state folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for TestState {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

fn remove(folder: &Path) {
    if let Ok(layout) = Layout::open(&folder.join("state")) {
        let names = layout.pinned().unwrap_or_default();
        if let Err(error) = layout.remove_namespaces(&names) {
            eprintln!("{}: {error}", folder.display());
        }
    }
    let _ = std::fs::remove_dir_all(folder);
}
