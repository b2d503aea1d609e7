//! `krater image build|deb|lock`: the bootable image of an amphora, for Glance and for `krater up --compute qemu`, and the
//! package for a host without a cloud.
//!
//! What an image is made of and how is decided in krater-image; here are files, folders and downloads.

use anyhow::{Context as _, bail, ensure};
use krater_image::{Inputs, Lock, Pin, Role, Variant};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

mod deb;
mod fetch;

use fetch::Packages;

/// Versions of every crate that `amphora` is built of, as they were when this program was built.
const CARGO_LOCK: &str = include_str!("../../../Cargo.lock");
/// A release build of `amphora` has a fifth of it.
const MAX_PROGRAM: u64 = 128 << 20;

/// Arguments of `krater image`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Build an image: qcow2, raw disk, EFI program, kernel, initrd, manifest and checksums.
    ///
    /// Needs neither root nor mounts. Packages of Debian come through apt-get, in the versions of the committed lock
    /// file; nothing is installed. The same input gives the same files, bit for bit.
    Build(BuildArgs),
    /// Build the Debian package of an amphora for a host without a cloud. The same input gives the same file, bit for bit.
    Deb(deb::Args),
    /// Print a lock file with the newest packages that apt knows.
    Lock(LockArgs),
}

#[derive(Debug, clap::Args)]
struct BuildArgs {
    /// The static program `amphora`, as `cargo xtask image` builds it.
    #[arg(long, value_name = "PATH")]
    amphora_bin: PathBuf,
    /// Another kernel than the pinned one, such as 6.12.57+deb12; its checksum is then the one of apt's package lists.
    #[arg(long, value_name = "VERSION")]
    kernel_version: Option<String>,
    /// With a shell on the serial console (debug), or with neither shell nor remote login.
    #[arg(long, default_value = "default", value_parser = ["default", "debug"])]
    variant: String,
    /// Folder for the files; those of an earlier build are replaced.
    #[arg(long, default_value = "krater-image", value_name = "DIR")]
    out: PathBuf,
    /// Folder for downloaded packages and package lists; `downloads` in the output folder when not given.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct LockArgs {
    /// Folder for package lists.
    #[arg(long, default_value = "krater-image/downloads", value_name = "DIR")]
    cache: PathBuf,
    /// File to write instead of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs `krater image`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Build(args) => build(args)?,
        Command::Deb(args) => deb::run(&args)?,
        Command::Lock(args) => lock(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn build(args: BuildArgs) -> anyhow::Result<()> {
    let progress = Progress::new();
    let variant = match args.variant.as_str() {
        "debug" => Variant::Debug,
        _ => Variant::Default,
    };
    let amphora = program(&args.amphora_bin)?;
    // Before anything is downloaded for a program that no image can hold.
    krater_image::elf::check_static(&amphora)
        .with_context(|| format!("--amphora-bin {}", args.amphora_bin.display()))?;
    let cache = args.cache.unwrap_or_else(|| args.out.join("downloads"));
    let packages = Packages::new(&cache)?;
    let mut pinned = Lock::committed()?;
    if let Some(version) = &args.kernel_version {
        pinned = pinned.with(other_kernel(&packages, version, &progress)?);
    }
    let mut files = BTreeMap::new();
    for role in variant.roles() {
        let pin = pinned.pin(role).context("kernel.lock is incomplete")?;
        files.insert(role, packages.get(pin, &progress)?);
    }
    let inputs = Inputs {
        version: env!("CARGO_PKG_VERSION"),
        variant,
        amphora: &amphora,
        lock: &pinned,
        packages: &files,
        cargo_lock: CARGO_LOCK,
    };
    let image = krater_image::build(&inputs, |step| progress.say(step))?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    for (name, content) in &image.files {
        write(&args.out.join(name), content)?;
    }
    let size = |name: &str| {
        let file = image.files.iter().find(|(n, _)| *n == name);
        file.map_or(0, |(_, content)| content.len())
    };
    progress.say(&format!(
        "kernel {}, {} modules; qcow2 {:.1} MB, initrd {:.1} MB",
        image.kernel,
        image.modules.len(),
        megabytes(size(krater_image::DISK)),
        megabytes(size(krater_image::INITRD)),
    ));
    println(&args.out.join(krater_image::DISK).display().to_string())
}

/// A kernel of the archive that is not the pinned one, under the checksum of apt's signed lists.
fn other_kernel(packages: &Packages, version: &str, progress: &Progress) -> anyhow::Result<Pin> {
    let Some(name) = krater_image::lock::kernel_package(version) else {
        bail!("--kernel-version {version:?} is not a version such as 6.12.57+deb12");
    };
    let pin = packages.newest(Role::Kernel, &name, progress).with_context(|| {
        format!("--kernel-version {version}; fix: `apt-cache pkgnames linux-image-` shows which there are")
    })?;
    progress.say(&format!(
        "{} {} is not pinned; its SHA-256 is {}",
        pin.name, pin.version, pin.sha256
    ));
    Ok(pin)
}

fn lock(args: &LockArgs) -> anyhow::Result<()> {
    let progress = Progress::new();
    let packages = Packages::new(&args.cache)?;
    packages.update(&progress)?;
    let kernel = packages.newest_kernel()?;
    let pins = Role::ALL.into_iter().map(|role| {
        let name = role.package().unwrap_or(&kernel);
        packages.newest(role, name, &progress)
    });
    let text = Lock::new(pins.collect::<anyhow::Result<_>>()?)?.text();
    match &args.out {
        Some(path) => write(path, text.as_bytes()),
        None => println(text.trim_end()),
    }
}

fn program(path: &Path) -> anyhow::Result<Vec<u8>> {
    let said = || format!("--amphora-bin {}", path.display());
    let size = fs::metadata(path).with_context(said)?.len();
    ensure!(
        size <= MAX_PROGRAM,
        "--amphora-bin {}: {size} bytes, at most {MAX_PROGRAM}",
        path.display()
    );
    fs::read(path).with_context(said)
}

/// Whole or not at all: a reader never sees half of a file.
fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut half = path.as_os_str().to_owned();
    half.push(".part");
    let half = PathBuf::from(half);
    let done = fs::write(&half, content).and_then(|()| fs::rename(&half, path));
    done.with_context(|| path.display().to_string())
}

#[allow(clippy::cast_precision_loss, reason = "a size for people")]
fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

fn println(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("standard output")
}

/// Tells on standard error what goes on, and since when.
#[derive(Debug)]
pub(super) struct Progress {
    start: Instant,
}

impl Progress {
    fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    fn say(&self, what: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        // Whoever closed standard error does not want to know.
        let _ = writeln!(std::io::stderr(), "image: {seconds:5.1} s  {what}");
    }
}
