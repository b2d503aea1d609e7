//! Paths, and running other programs with errors that say what to do.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What went wrong, with the fix in the text.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

pub(crate) type Done = Result<(), Failure>;

/// Adds a path to an input or output error.
pub(crate) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Failure + '_ {
    move |error| Failure(format!("{}: {error}", path.display()))
}

/// The checkout: xtask's own manifest is one folder below.
pub(crate) fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Where cargo builds to.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Folder of the release binaries.
pub(crate) fn release_dir() -> PathBuf {
    target_dir().join("release")
}

/// Cargo as it runs us, in the checkout.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The command line for messages.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs to the end with our own output; any other status than 0 is a failure that names the command.
pub(crate) fn run(command: &mut Command) -> Done {
    eprintln!("$ {}", line(command));
    let status = command
        .status()
        .map_err(|error| format!("cannot run `{}`: {error}", line(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure(format!("`{}` ended with {status}", line(command))))
    }
}

/// Runs to the end and gives standard output; on failure the text holds the end of standard error.
pub(crate) fn capture(command: &mut Command) -> Result<String, Failure> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run `{}`: {error}", line(command)))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = errors.lines().rev().take(6).collect();
    let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n    ");
    Err(Failure(format!(
        "`{}` ended with {}:\n    {tail}",
        line(command),
        output.status
    )))
}

/// Files that git knows or would add, relative to the checkout, sorted.
pub(crate) fn files() -> Result<Vec<PathBuf>, Failure> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root());
    let listed = match capture(&mut git) {
        Ok(text) => text
            .lines()
            .map(PathBuf::from)
            .filter(|f| root().join(f).is_file())
            .collect(),
        // A source archive has no git: walk instead.
        Err(_) => walk(&root(), Path::new(""))?,
    };
    let mut listed: Vec<PathBuf> = listed;
    listed.sort();
    Ok(listed)
}

fn walk(base: &Path, below: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let folder = base.join(below);
    for entry in std::fs::read_dir(&folder).map_err(at(&folder))? {
        let entry = entry.map_err(at(&folder))?;
        let name = below.join(entry.file_name());
        if entry.file_name() == "target" || entry.file_name() == ".git" {
            continue;
        }
        if entry.path().is_dir() {
            found.extend(walk(base, &name)?);
        } else {
            found.push(name);
        }
    }
    Ok(found)
}
