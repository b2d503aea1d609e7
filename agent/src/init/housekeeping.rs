//! Keeps the memory for logs from filling up: an amphora may have no more than 96 MiB in all.

use super::mounts::LOGS;
use nix::sys::statvfs::statvfs;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often.
pub(super) const EVERY: Duration = Duration::from_secs(60);
/// Folders below the folder of logs: the agent's, and one for each child.
const DEPTH: usize = 4;

/// Removes rotated logs, oldest first, until a quarter is free.
pub(super) fn logs() {
    let root = Path::new(LOGS);
    if free_enough(root) {
        return;
    }
    let mut rotated = Vec::new();
    collect(root, DEPTH, &mut rotated);
    // The highest number is the oldest.
    rotated.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    for (_, path) in rotated {
        if free_enough(root) || fs::remove_file(path).is_err() {
            return;
        }
    }
}

fn free_enough(root: &Path) -> bool {
    statvfs(root).map_or(true, |space| space.blocks_available() >= space.blocks() / 4)
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<(u32, PathBuf)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() && depth > 0 {
            collect(&path, depth - 1, found);
        } else if kind.is_file()
            && let Some(number) = rotation(&path)
        {
            found.push((number, path));
        }
    }
}

/// The number of a rotated log: 2 of `agent.log.2`.
fn rotation(path: &Path) -> Option<u32> {
    let stem = path.file_stem()?.to_str()?;
    let number = path.extension()?.to_str()?.parse().ok()?;
    stem.ends_with(".log").then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rotated_logs_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("dataplane");
        fs::create_dir(&below).unwrap();
        for name in ["agent.log", "agent.log.2", "ledger.1", "x.log.old"] {
            fs::write(below.join(name), "x").unwrap();
        }
        let mut found = Vec::new();
        collect(dir.path(), DEPTH, &mut found);
        assert_eq!(found, [(2, below.join("agent.log.2"))]);
    }
}
