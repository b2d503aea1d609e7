//! `krater image deb`: what the package is made of is decided in krater-image; here are the files.

use super::{CARGO_LOCK, megabytes, println, program, write};
use anyhow::{Context as _, ensure};
use krater_image::package::{self, Inputs};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a user notices of each version.
const CHANGELOG: &str = include_str!("../../../../CHANGELOG.md");
/// The longest page has a hundredth of it.
const MAX_PAGE: u64 = 1 << 20;
/// Pages and completions are some thirty.
const MAX_PAGES: usize = 256;

/// Arguments of `krater image deb`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The static program `amphora`, as `cargo xtask deb` builds it.
    #[arg(long, value_name = "PATH")]
    amphora_bin: PathBuf,
    /// Folder that `amphora docs --out DIR` of the same program wrote: manual pages and shell completions.
    #[arg(long, value_name = "DIR")]
    docs: PathBuf,
    /// Of the package of this version; a package with the same version and a higher revision is an upgrade.
    #[arg(long, default_value = "1", value_name = "REVISION")]
    revision: String,
    /// Folder for the package.
    #[arg(long, default_value = ".", value_name = "DIR")]
    out: PathBuf,
}

/// Builds it, and prints its path.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let amphora = program(&args.amphora_bin)?;
    let docs = pages(&args.docs).with_context(|| format!("--docs {}", args.docs.display()))?;
    let package = package::build(&Inputs {
        version: env!("CARGO_PKG_VERSION"),
        revision: &args.revision,
        amphora: &amphora,
        docs: &docs,
        changelog: CHANGELOG,
        cargo_lock: CARGO_LOCK,
    })?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let path = args.out.join(&package.name);
    write(&path, &package.content)?;
    let size = megabytes(package.content.len());
    println(&format!("{} {size:.1} MB", path.display()))
}

fn pages(folder: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut pages = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = entry.metadata()?.len();
        ensure!(size <= MAX_PAGE, "{name}: {size} bytes, at most {MAX_PAGE}");
        ensure!(pages.len() < MAX_PAGES, "more than {MAX_PAGES} files");
        let content = fs::read(entry.path()).with_context(|| name.clone())?;
        pages.insert(name, content);
    }
    Ok(pages)
}
