//! Packages of Debian through apt-get and apt-cache: the one place where a program of ours runs others.
//!
//! apt knows the machine's mirrors, proxies and keys, and checks signatures; none of it is worth doing again.
//! Its lists and its cache are folders of ours: nothing of the host's changes, and nobody need be root.

use super::Progress;
use anyhow::{Context as _, bail, ensure};
use krater_image::{Pin, Role};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A kernel's package has a fifth of it.
const MAX_PACKAGE: u64 = 256 << 20;
/// Lines of standard error that explain a failure.
const TAIL: usize = 6;

/// A folder of packages and lists.
#[derive(Debug)]
pub(super) struct Packages {
    folder: PathBuf,
    updated: Cell<bool>,
}

impl Packages {
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        for sub in ["apt/lists/partial", "apt/cache/archives/partial", "apt/new"] {
            let path = folder.join(sub);
            fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        let folder = fs::canonicalize(folder).with_context(|| folder.display().to_string())?;
        Ok(Self {
            folder,
            updated: Cell::new(false),
        })
    }

    /// The file of a package, from the folder or through apt-get.
    pub(super) fn get(&self, pin: &Pin, progress: &Progress) -> anyhow::Result<Vec<u8>> {
        let digest = pin.sha256.get(..16).unwrap_or(&pin.sha256);
        let path = self.folder.join(format!("{}_{digest}.deb", pin.name));
        if let Some(content) = same(&path, pin)? {
            return Ok(content);
        }
        progress.say(&format!(
            "fetching {} {} ({:.1} MB)",
            pin.name,
            pin.version,
            super::megabytes(usize::try_from(pin.size).unwrap_or(usize::MAX))
        ));
        // With the lists of an earlier run first: they know the pinned version for as long as the mirror has it.
        let downloaded = self.download(pin).or_else(|_| {
            self.update(progress)?;
            self.download(pin)
        });
        let downloaded = downloaded.with_context(|| {
            format!(
                "package {} {} could not be fetched; fix: see that this machine reaches its Debian mirror \
                 (/etc/apt/sources.list, http_proxy); when the mirror has only a newer version, \
                 `cargo xtask image --update-lock` or `--kernel-version`",
                pin.name, pin.version
            )
        })?;
        let Some(content) = same(&downloaded, pin)? else {
            bail!(
                "package {} {}: what the mirror has is not what image/kernel.lock pins (SHA-256 {}); \
                 fix: nobody may change a released package: ask who runs the mirror",
                pin.name,
                pin.version,
                pin.sha256
            );
        };
        fs::rename(&downloaded, &path).with_context(|| path.display().to_string())?;
        Ok(content)
    }

    /// What apt would install of a package.
    pub(super) fn newest(
        &self,
        role: Role,
        name: &str,
        progress: &Progress,
    ) -> anyhow::Result<Pin> {
        let show = ["show", "--no-all-versions", name];
        let shown = self.run("apt-cache", &show).or_else(|_| {
            self.update(progress)?;
            self.run("apt-cache", &show)
        });
        Ok(Pin::from_stanza(role, &shown?)?)
    }

    /// The newest kernel of our line.
    pub(super) fn newest_kernel(&self) -> anyhow::Result<String> {
        let names = self.run("apt-cache", &["pkgnames", "linux-image-"])?;
        krater_image::lock::newest_kernel(names.lines())
            .map(str::to_owned)
            .context(
                "apt knows no cloud kernel 6.12 of Debian 12; fix: an archive with it (bookworm-security) in /etc/apt/sources.list",
            )
    }

    /// Package lists, at most once in a run.
    pub(super) fn update(&self, progress: &Progress) -> anyhow::Result<()> {
        if !self.updated.get() {
            progress.say("fetching package lists");
            self.run("apt-get", &["update"])?;
            self.updated.set(true);
        }
        Ok(())
    }

    /// Downloads into an empty folder, so that the file is the only one in it.
    fn download(&self, pin: &Pin) -> anyhow::Result<PathBuf> {
        let folder = self.folder.join("apt/new");
        fs::remove_dir_all(&folder)
            .and_then(|()| fs::create_dir(&folder))
            .with_context(|| folder.display().to_string())?;
        self.run(
            "apt-get",
            &["download", &format!("{}={}", pin.name, pin.version)],
        )?;
        let mut found = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let file = found.next().context("apt-get download wrote no file")??;
        Ok(file.path())
    }

    fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<String> {
        let option =
            |name: &str, path: &str| format!("{name}={}", self.folder.join(path).display());
        let output = Command::new(program)
            .current_dir(self.folder.join("apt/new"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C")
            .args([
                "-q",
                "-o",
                "Acquire::Retries=3",
                "-o",
                "APT::Sandbox::User=root",
            ])
            .args(["-o", &option("Dir::State::Lists", "apt/lists")])
            .args(["-o", &option("Dir::Cache", "apt/cache")])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| {
                format!("cannot run {program}; fix: build images on Debian or Ubuntu")
            })?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = errors.lines().rev().take(TAIL).collect();
        ensure!(
            output.status.success(),
            "`{program} {}` ended with {}: {}",
            args.join(" "),
            output.status,
            tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The content of a file when it is the pinned one.
fn same(path: &Path, pin: &Pin) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Ok(about) if about.len() <= MAX_PACKAGE => {}
        _ => return Ok(None),
    }
    let content = fs::read(path).with_context(|| path.display().to_string())?;
    Ok((krater_image::sha256(&content) == pin.sha256).then_some(content))
}
