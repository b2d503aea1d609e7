//! The boot id of heartbeats: new at every start of the machine or set of namespaces, the same over
//! restarts of the agent.

use crate::clock;
use std::fs;
use std::io;
use std::path::Path;

const FILE: &str = "boot-id";
/// The kernel's own boot id: a run folder that is not on tmpfs survives a reboot, its boot id must not.
const KERNEL: &str = "/proc/sys/kernel/random/boot_id";

/// The id in `run_dir`, or a new one.
pub(crate) fn load(run_dir: &Path) -> io::Result<String> {
    let kernel = fs::read_to_string(KERNEL).unwrap_or_default();
    from(run_dir, kernel.trim())
}

fn from(run_dir: &Path, kernel: &str) -> io::Result<String> {
    let path = run_dir.join(FILE);
    if let Ok(text) = fs::read_to_string(&path)
        && let Some((id, of)) = text.trim_end().split_once(' ')
        && of == kernel
        && is_boot_id(id)
    {
        return Ok(id.to_owned());
    }
    let random = uuid::Uuid::new_v4().as_u128() & 0xffff_ffff;
    let id = format!("{:016x}-{random:08x}", clock::unix_ms());
    let new = run_dir.join("boot-id.new");
    fs::write(&new, format!("{id} {kernel}\n"))?;
    fs::rename(&new, &path)?;
    Ok(id)
}

fn is_boot_id(text: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|c| c.is_ascii_hexdigit());
    text.split_once('-')
        .is_some_and(|(ms, random)| ms.len() == 16 && random.len() == 8 && hex(ms) && hex(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_over_restarts_and_changes_at_boot() {
        let dir = tempfile::tempdir().unwrap();
        let first = from(dir.path(), "k1").unwrap();
        assert!(is_boot_id(&first), "{first}");
        assert_eq!(from(dir.path(), "k1").unwrap(), first);
        let second = from(dir.path(), "k2").unwrap();
        assert_ne!(second, first);
        assert!(second[..16] >= first[..16], "later ids are larger");
        fs::write(dir.path().join(FILE), "rubbish").unwrap();
        assert!(is_boot_id(&from(dir.path(), "k2").unwrap()));
    }
}
