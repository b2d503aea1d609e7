//! Whether KVM runs the image here. That `/dev/kvm` can be opened says little: below another hypervisor it may take a
//! guest and never get it started. So one is started, without disk and network, and given a deadline.

use super::Settings;
use super::args::Machine;
use crate::drivers::layout::Layout;
use krater_net::netns::NetNs;
use krater_net::process::{Descriptors, Detached, spawn_detached_with};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

/// With KVM a kernel is there in a second.
const WITHIN: Duration = Duration::from_secs(10);
/// The kernel's last word before the first program of the guest.
const SIGN: &[u8] = b"Run /init as init process";
/// Bytes of the console that are looked at: ten times a boot log.
const MAX_CONSOLE: usize = 512 * 1024;

/// Tries it. Leaves nothing, also when it is killed: `krater down` and the next trial know its namespace.
pub(super) fn kvm_works(layout: &Layout, settings: &Settings) -> bool {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        tracing::info!(%error, "no KVM: /dev/kvm cannot be opened");
        return false;
    }
    let begun = Instant::now();
    let outcome = run(layout, settings);
    let name = layout.trial();
    let name = name
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if let Err(error) = layout.remove_namespaces(&[name]) {
        tracing::warn!(%error, "the machine on trial is not removed");
    }
    let seconds = begun.elapsed().as_secs_f64();
    match &outcome {
        Ok(true) => tracing::info!(seconds, "KVM runs the image"),
        Ok(false) => tracing::warn!(
            seconds,
            "/dev/kvm exists, but the image's kernel does not get started with it"
        ),
        Err(error) => tracing::warn!(%error, "KVM cannot be tried"),
    }
    matches!(outcome, Ok(true))
}

fn run(layout: &Layout, settings: &Settings) -> io::Result<bool> {
    let netns = NetNs::ensure(&layout.trial())?;
    let arguments = Machine {
        name: "trial",
        uuid: &uuid::Uuid::nil().to_string(),
        kvm: true,
        memory: settings.memory,
        cpus: 1,
        start: settings.image.by_kernel(),
        drive: None,
        monitor: None,
        management: None,
    }
    .arguments();
    let (reader, writer) = io::pipe()?;
    let mut child = spawn_detached_with(
        &Detached {
            program: &settings.program,
            args: &arguments,
            netns: &netns,
            stderr: None,
        },
        Descriptors {
            output: Some(writer.into()),
            ..Descriptors::default()
        },
    )?;
    let found = listen(reader, WITHIN);
    child.kill()?;
    child.wait()?;
    found
}

/// Whether the sign comes in time.
fn listen(mut console: io::PipeReader, within: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + within;
    let mut said = Vec::new();
    while said.len() <= MAX_CONSOLE {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut set = [PollFd::new(console.as_fd(), PollFlags::POLLIN)];
        match poll(&mut set, left) {
            Ok(0) | Err(nix::Error::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut buffer = [0; 4096];
        let count = console.read(&mut buffer)?;
        said.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if said.windows(SIGN.len()).any(|part| part == SIGN) {
            return Ok(true);
        }
        if count == 0 {
            return Ok(false); // QEMU has ended
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_sign_is_found_across_reads_and_an_end_is_noticed() {
        for (parts, found) in [
            (["[    1.0] Run /init as ", "init process\n"], true),
            (["Booting from ROM..", "\n"], false),
        ] {
            let (reader, mut writer) = io::pipe().unwrap();
            for part in parts {
                writer.write_all(part.as_bytes()).unwrap();
            }
            drop(writer);
            assert_eq!(listen(reader, WITHIN).unwrap(), found, "{parts:?}");
        }
    }
    #[test]
    fn one_that_hangs_is_given_up() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"Decompressing Linux...").unwrap();
        assert!(!listen(reader, Duration::from_millis(50)).unwrap());
    }
}
