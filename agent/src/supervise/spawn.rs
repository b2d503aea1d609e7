//! How a child is started: through /proc/self/exe, so that a program in a folder only root may search
//! works, in a session of its own, with nothing of ours but the progress record.

use super::{Kind, Plan};
use crate::sys;
use krater_model::config::{DATAPLANE_UID, VRRP_UID};
use krater_model::control::Progress;
use krater_net::process::ProcessId;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Gid, Uid, chown, ftruncate};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRESS: &str = "krater-progress";

/// Starts it; returns its process id and the progress record to read.
pub(super) fn spawn(kind: Kind, plan: &Plan, level: &str) -> io::Result<(u32, Option<OwnedFd>)> {
    let (uid, track) = match kind {
        Kind::Dataplane => (DATAPLANE_UID, None),
        Kind::Vrrp => (VRRP_UID, Some("vrrp-track.sock")),
    };
    let log = log_file(plan, kind);
    // Without root there is nobody to become.
    let uid = Uid::effective().is_root().then_some(uid);
    if let Some(dir) = log.parent() {
        // Somebody may have cleaned up: a child without a log would be worse than a log without a past.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&plan.log_dir)?;
        own_dir(dir, uid)?;
    }
    let mut args: Vec<OsString> = vec![kind.name().into()];
    let mut option = |name: &str, value: OsString| args.extend([OsString::from(name), value]);
    if let Some(netns) = &plan.vip_netns {
        option("--netns", netns.into());
    }
    option("--control", kind.socket().into());
    if let Some(uid) = uid {
        option("--uid", uid.to_string().into());
    }
    option("--log-file", log.into());
    option("--log-level", level.into());
    if let Some(track) = track {
        option("--track", track.into());
    }
    let mut command = Command::new("/proc/self/exe");
    let progress = match kind {
        Kind::Vrrp => None,
        Kind::Dataplane => {
            option("--workers", plan.workers.to_string().into());
            if let Some(metrics) = plan.metrics {
                option("--metrics", metrics.to_string().into());
            }
            option("--progress-fd", sys::INHERITED_FD.to_string().into());
            Some(progress()?)
        }
    };
    if plan.log_json {
        args.push("--log-json".into());
    }
    command
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(if plan.share_stdout {
            Stdio::inherit()
        } else {
            Stdio::null()
        })
        .stderr(Stdio::null());
    // The child process holds a copy of the descriptor table: the number stays valid there.
    let inherit = progress.as_ref().map(|(write, _)| write.as_raw_fd());
    sys::in_new_session(&mut command, inherit);
    let child = command.spawn()?;
    record(kind, child.id())?;
    Ok((child.id(), progress.map(|(_, read)| read)))
}

/// In the run folder, which is the working folder.
pub(super) fn pid_file(kind: Kind) -> PathBuf {
    PathBuf::from(format!("{}.pid", kind.name()))
}

/// Remembers a child for the next agent, should the child's socket be gone by then.
fn record(kind: Kind, pid: u32) -> io::Result<()> {
    let process = ProcessId::of(pid)?;
    fs::write(
        pid_file(kind),
        format!("{} {}\n", process.pid, process.started),
    )
}

/// The child that the last agent started; it may be gone.
pub(super) fn recorded(kind: Kind) -> Option<ProcessId> {
    read(&pid_file(kind))
}

/// The process that a pid file names; it may be gone.
pub(super) fn read(path: &Path) -> Option<ProcessId> {
    let text = fs::read_to_string(path).ok()?;
    let (pid, started) = text.trim_end().split_once(' ')?;
    Some(ProcessId {
        pid: pid.parse().ok()?,
        started: started.parse().ok()?,
    })
}

/// Where a child logs: a folder of its own that it may write to after it dropped its privileges.
pub(super) fn log_file(plan: &Plan, kind: Kind) -> PathBuf {
    let name = kind.name();
    plan.log_dir.join(name).join(format!("{name}.log"))
}

fn own_dir(dir: &Path, uid: Option<u32>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if let Some(uid) = uid {
        chown(dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))?;
    }
    Ok(())
}

/// A progress record of fixed size: the end to write and the end to read.
fn progress() -> io::Result<(OwnedFd, OwnedFd)> {
    let write = memfd_create(
        PROGRESS,
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )?;
    let size = i64::try_from(Progress::SIZE).map_err(io::Error::other)?;
    ftruncate(&write, size)?;
    let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&write, FcntlArg::F_ADD_SEALS(seals))?;
    let read = reopen("self", write.as_raw_fd())?;
    Ok((write, read))
}

/// The progress record of a data plane that an earlier agent started.
pub(super) fn progress_of(pid: u32) -> io::Result<OwnedFd> {
    let link = fs::read_link(format!("/proc/{pid}/fd/{}", sys::INHERITED_FD))?;
    if !link
        .to_string_lossy()
        .starts_with(&format!("/memfd:{PROGRESS}"))
    {
        let text = format!("descriptor {} is {}", sys::INHERITED_FD, link.display());
        return Err(io::Error::other(text));
    }
    reopen(&pid.to_string(), sys::INHERITED_FD)
}

/// A read-only description of its own.
fn reopen(process: &str, fd: i32) -> io::Result<OwnedFd> {
    File::open(format!("/proc/{process}/fd/{fd}")).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn the_progress_record_is_written_by_one_end_only() {
        let (write, read) = progress().unwrap();
        let (write, read) = (File::from(write), File::from(read));
        let record = Progress {
            ticks: 5,
            ready: true,
            ..Progress::default()
        };
        write.write_all_at(&record.encode(), 0).unwrap();
        let mut bytes = [0; Progress::SIZE];
        read.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(Progress::decode(&bytes), Some(record));
        assert!(read.write_at(&[0], 0).is_err());
        assert!(write.set_len(64).is_err(), "sealed");
    }
}
