//! `krater console AMPHORA [-f]`: what a virtual machine's serial port said; and the process that writes it down.

use super::StateDir;
use crate::drivers::compute::qemu::console::{copy, older, printable};
use crate::drivers::layout::Layout;
use anyhow::{Context as _, bail};
use krater_model::AmphoraId;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How often `--follow` looks for more.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Arguments of `krater console`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the amphora.
    amphora: uuid::Uuid,
    #[command(flatten)]
    state: StateDir,
    /// Go on with what comes, until the amphora is gone.
    #[arg(long, short)]
    follow: bool,
}

/// Runs `krater console`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let layout = Layout::open(&args.state.state_dir)?;
    let amphora = AmphoraId(args.amphora);
    let mut path = layout.console(amphora);
    if !path.exists() {
        path = layout.kept_console(amphora);
    }
    if !path.exists() {
        bail!(
            "amphora {amphora} has no console on this host ({}): only those of the qemu driver have one",
            path.display()
        );
    }
    let mut out = io::stdout().lock();
    let mut show = |bytes: &[u8]| {
        let text = printable(bytes);
        // A reader that went away (`| head`) ends the command, without complaint.
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .is_ok()
    };
    if !show(&std::fs::read(older(&path)).unwrap_or_default()) {
        return Ok(ExitCode::SUCCESS);
    }
    let mut place = Place::default();
    loop {
        match place.more(&path) {
            Ok(bytes) if !show(&bytes) => break,
            Ok(_) => {}
            // Between two files for a moment, or gone for good.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
        if !args.follow || !layout.amphora_dir(amphora).exists() {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(ExitCode::SUCCESS)
}

/// How far a console has been shown.
#[derive(Debug, Default)]
struct Place {
    inode: u64,
    shown: u64,
}

impl Place {
    /// What came since; a file that has made room for a new one is read to its end first.
    fn more(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut file = File::open(path)?;
        let inode = file.metadata()?.ino();
        if inode != self.inode {
            if let Ok(mut before) = File::open(older(path))
                && before.metadata()?.ino() == self.inode
            {
                before.seek(SeekFrom::Start(self.shown))?;
                before.read_to_end(&mut bytes)?;
            }
            *self = Self { inode, shown: 0 };
        }
        file.seek(SeekFrom::Start(self.shown))?;
        let count = file.read_to_end(&mut bytes)?;
        self.shown += u64::try_from(count).unwrap_or_default();
        Ok(bytes)
    }
}

/// Arguments of the process that writes a console down.
#[derive(Debug, clap::Args)]
pub struct WriterArgs {
    /// Where to.
    file: PathBuf,
}

/// Copies standard input until it ends.
pub fn write(args: &WriterArgs) -> anyhow::Result<ExitCode> {
    copy(io::stdin().lock(), &args.file)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_when_the_file_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut place = Place::default();
        assert!(place.more(&path).is_err());
        std::fs::write(&path, "one ").unwrap();
        assert_eq!(place.more(&path).unwrap(), b"one ");
        assert_eq!(place.more(&path).unwrap(), b"");
        std::fs::write(&path, "one two ").unwrap();
        std::fs::rename(&path, older(&path)).unwrap();
        std::fs::write(&path, "three").unwrap();
        assert_eq!(place.more(&path).unwrap(), b"two three");
    }
}
