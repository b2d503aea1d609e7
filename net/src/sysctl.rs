//! Kernel parameters of a namespace.

use crate::netns::{NetNs, helper, private_mounts};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use std::io;
use std::path::PathBuf;

/// Writes `/proc/sys/<key>` as seen from inside `netns`; `key` is a path such as
/// `net/ipv4/ip_forward`. Where `/proc/sys` is read-only (containers), it is written through a mount
/// namespace that exists only for this call.
pub fn write(netns: &NetNs, key: &str, value: &str) -> io::Result<()> {
    write_all(netns, &[(key, value)])
}

/// Writes several; one thread for all.
pub fn write_all(netns: &NetNs, settings: &[(&str, &str)]) -> io::Result<()> {
    helper(|| -> io::Result<()> {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        for (key, value) in settings {
            let path = path(key)?;
            let written = match std::fs::write(&path, value) {
                Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                    writable_proc().and_then(|()| std::fs::write(&path, value))
                }
                result => result,
            };
            written.map_err(|error| {
                io::Error::new(error.kind(), format!("write {value:?} to {key}: {error}"))
            })?;
        }
        Ok(())
    })?
}

/// Reads a parameter, without the final newline.
pub fn read(netns: &NetNs, key: &str) -> io::Result<String> {
    let path = path(key)?;
    let text = netns.run(|| std::fs::read_to_string(path))??;
    Ok(text.trim_end().to_owned())
}

fn path(key: &str) -> io::Result<PathBuf> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if key.starts_with("net/") && key.split('/').all(plain) {
        Ok(PathBuf::from("/proc/sys").join(key))
    } else {
        let text = format!("{key:?} is not a network parameter: write net/ipv4/ip_forward");
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}

/// Puts a writable /proc/sys in front of the read-only one, for the calling thread alone.
fn writable_proc() -> io::Result<()> {
    private_mounts()?;
    let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    if mount(
        None::<&str>,
        "/proc/sys",
        None::<&str>,
        remount,
        None::<&str>,
    )
    .is_ok()
    {
        return Ok(());
    }
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::empty(),
        None::<&str>,
    )
    .map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn only_network_parameters() {
        assert!(path("net/ipv4/conf/eth0.100/rp_filter").is_ok());
        for wrong in [
            "kernel/panic",
            "net/../kernel/panic",
            "net//x",
            "/net/x",
            "",
        ] {
            assert!(path(wrong).is_err(), "{wrong}");
        }
    }
}
