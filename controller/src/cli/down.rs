//! `krater down`: stops the controller and ends everything that bears its instance id.
#![allow(clippy::print_stdout, reason = "says what was ended")]

use super::StateDir;
use crate::drivers::KILL_WITHIN;
use crate::drivers::layout::Layout;
use crate::drivers::network::client::clients;
use anyhow::{Context as _, bail};
use krater_net::process::ProcessId;
use nix::fcntl::{Flock, FlockArg};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How long a controller may take to stop by itself: what it drains, twice over.
const STOP_WITHIN: Duration = Duration::from_secs(12);
/// What a start that failed early may have left in a state folder without an instance id.
const EARLY: [&str; 4] = ["lock", "netns", "amphorae", "clients"];

/// Arguments of `krater down`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    state: StateDir,
    /// Remove the state folder too: database, private CA, everything.
    #[arg(long)]
    purge: bool,
}

/// Runs `krater down`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let folder = &args.state.state_dir;
    if !folder.join("instance").exists() {
        if args.purge {
            purge_early(folder)?;
        }
        println!("nothing runs with state folder {}", folder.display());
        return Ok(ExitCode::SUCCESS);
    }
    let layout = Layout::open(folder)?;
    let _lock = stop_controller(layout.state_dir())?;
    let done = down(&layout)?;
    println!(
        "ended {} amphorae and {} clients ({} processes)",
        done.amphorae, done.clients, done.processes
    );
    if args.purge {
        std::fs::remove_dir_all(layout.state_dir())
            .with_context(|| format!("remove {}", layout.state_dir().display()))?;
        println!("removed {}", layout.state_dir().display());
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, PartialEq, Eq)]
struct Done {
    amphorae: usize,
    clients: usize,
    processes: usize,
}

/// Ends clients and amphorae and removes the networks. The caller holds the lock of the state folder.
fn down(layout: &Layout) -> anyhow::Result<Done> {
    // Clients first, by their owners: a `krater net` that is told to stop cleans up after itself.
    let clients = clients(layout)?;
    for (_, owner) in &clients {
        owner.signal(libc::SIGTERM)?;
    }
    for (_, owner) in &clients {
        if !owner.wait(Duration::from_secs(2))? {
            owner.signal(libc::SIGKILL)?;
            owner.wait(KILL_WITHIN)?;
        }
    }
    let amphorae = layout.amphorae()?;
    let networks = [layout.fabric(), layout.management()];
    let (networks, others): (Vec<_>, Vec<_>) = layout
        .pinned()?
        .into_iter()
        .partition(|name| networks.iter().any(|path| path.ends_with(name)));
    let mut processes = layout
        .remove_namespaces(&others)
        .context("end the amphorae")?;
    for amphora in &amphorae {
        match std::fs::remove_dir_all(layout.amphora_dir(*amphora)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("remove the folder of amphora {amphora}"));
            }
            _ => {}
        }
    }
    processes += layout
        .remove_namespaces(&networks)
        .context("remove the networks")?;
    Ok(Done {
        amphorae: amphorae.len(),
        clients: clients.len(),
        processes,
    })
}

/// Stops the controller that holds the state folder; returns with its lock held, so that no other
/// starts meanwhile.
fn stop_controller(state_dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = state_dir.join("lock");
    if let Some(lock) = try_lock(&path)? {
        return Ok(lock);
    }
    let mut text = String::new();
    File::open(&path)?.read_to_string(&mut text)?;
    let owner = text
        .trim()
        .parse()
        .ok()
        .and_then(|pid| ProcessId::of(pid).ok());
    let Some(owner) = owner else {
        bail!(
            "{} is locked, but not by the process it names ({:?}): end the one that holds it \
             (/proc/locks) and try again",
            path.display(),
            text.trim()
        );
    };
    owner.signal(libc::SIGTERM)?;
    if owner.wait(STOP_WITHIN)? {
        println!("stopped the controller (process {})", owner.pid);
    } else {
        owner.signal(libc::SIGKILL)?;
        owner.wait(KILL_WITHIN)?;
        println!(
            "killed the controller (process {}): it did not stop within {} s",
            owner.pid,
            STOP_WITHIN.as_secs()
        );
    }
    try_lock(&path)?.with_context(|| {
        format!(
            "{} is locked again: another controller was started meanwhile",
            path.display()
        )
    })
}

fn try_lock(path: &Path) -> anyhow::Result<Option<Flock<File>>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| path.display().to_string())?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Removes a state folder whose first start failed before it had an instance id. Anything in it that
/// is not ours for certain is left alone.
fn purge_early(folder: &Path) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| folder.display().to_string())?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    let ours = |name: &&OsString| {
        let name = name.to_string_lossy();
        EARLY.contains(&&*name) || name.trim_start_matches('.').starts_with("instance.")
    };
    if let Some(foreign) = names.iter().find(|name| !ours(name)) {
        bail!(
            "{} is not a state folder of krater: it holds {}; nothing was removed",
            folder.display(),
            foreign.display()
        );
    }
    std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::layout::Role;
    use crate::drivers::testing::TestState;
    use krater_model::AmphoraId;
    use krater_net::netns::NetNs;
    use krater_net::process::{Detached, spawn_detached};

    fn args(folder: &Path, purge: bool) -> Args {
        Args {
            state: StateDir {
                state_dir: folder.to_owned(),
            },
            purge,
        }
    }

    #[test]
    fn everything_of_this_instance_ends_and_nothing_else() {
        let test = TestState::new();
        let layout = test.layout.clone();
        let state = layout.state_dir().to_owned();
        NetNs::create(&layout.fabric()).unwrap();
        NetNs::create(&layout.management()).unwrap();
        let amphora = AmphoraId::random();
        std::fs::create_dir(layout.amphora_dir(amphora)).unwrap();
        let netns = NetNs::create(&layout.amphora_netns(amphora, Role::Vip)).unwrap();
        let foreign = layout.netns_dir().join("00000000-fabric");
        NetNs::create(&foreign).unwrap();
        let mut process = spawn_detached(&Detached {
            program: Path::new("/bin/sleep"),
            args: &["1000".into()],
            netns: &netns,
            stderr: None,
        })
        .unwrap();
        let done = down(&layout).unwrap();
        assert_eq!((done.amphorae, done.processes), (1, 1));
        assert!(!process.wait().unwrap().success());
        assert!(layout.pinned().unwrap().is_empty() && !layout.amphora_dir(amphora).exists());
        assert!(krater_net::netns::exists(&foreign), "another instance's");
        krater_net::netns::delete(&foreign).unwrap();
        assert_eq!(down(&layout).unwrap().amphorae, 0);
        run(args(&state, false)).unwrap();
        assert!(state.exists());
        run(args(&state, true)).unwrap();
        assert!(!state.exists());
        run(args(&state, true)).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "").unwrap();
        let error = run(args(dir.path(), true)).unwrap_err();
        assert!(error.to_string().contains("thesis.tex"), "{error}");
        assert!(dir.path().join("thesis.tex").exists());
    }

    #[test]
    fn a_controller_is_stopped_by_the_process_id_in_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        // In the controller's place: a shell that holds the lock and, like it, ends at SIGTERM.
        let script = format!(
            "exec 9>>{0}; flock 9; echo $$ >{0}; exec sleep 1000",
            path.display()
        );
        let mut holder = std::process::Command::new("/bin/sh")
            .args(["-c", &script])
            .spawn()
            .unwrap();
        while std::fs::read_to_string(&path).unwrap_or_default().trim() != holder.id().to_string() {
            std::thread::yield_now();
        }
        assert!(try_lock(&path).unwrap().is_none());
        let lock = stop_controller(dir.path()).unwrap();
        assert!(!holder.wait().unwrap().success());
        assert!(try_lock(&path).unwrap().is_none(), "we hold it");
        drop(lock);
        assert!(stop_controller(dir.path()).is_ok());
    }
}
