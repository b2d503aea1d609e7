//! Finds the commit that is being built by reading `.git`; runs no program, so that the build needs no git.

use std::fs;
use std::path::{Path, PathBuf};

const SHORT: usize = 12;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let start = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let commit = start.as_deref().and_then(commit);
    let commit = commit.as_deref().unwrap_or("unknown");
    println!("cargo:rustc-env=KRATER_COMMIT={commit}");
}

fn commit(start: &Path) -> Option<String> {
    let dot_git = start
        .ancestors()
        .map(|dir| dir.join(".git"))
        .find(|path| path.exists())?;
    let git_dir = if dot_git.is_dir() {
        dot_git
    } else {
        // A worktree or submodule: a file that names the folder.
        let text = fs::read_to_string(&dot_git).ok()?;
        dot_git
            .parent()?
            .join(text.trim().strip_prefix("gitdir:")?.trim())
    };
    let common = match fs::read_to_string(git_dir.join("commondir")) {
        Ok(path) => git_dir.join(path.trim()),
        Err(_) => git_dir.clone(),
    };
    let head = read(&git_dir.join("HEAD"))?;
    let hash = match head.strip_prefix("ref:").map(str::trim) {
        None => head,
        Some(name) => read(&git_dir.join(name))
            .or_else(|| read(&common.join(name)))
            .or_else(|| packed(&common.join("packed-refs"), name))?,
    };
    let hex = hash.len() >= SHORT && hash.bytes().all(|c| c.is_ascii_hexdigit());
    hex.then(|| hash[..SHORT].to_owned())
}

/// The trimmed text of a file; cargo runs us again when it changes.
fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    println!("cargo:rerun-if-changed={}", path.display());
    Some(text.trim().to_owned())
}

fn packed(path: &Path, name: &str) -> Option<String> {
    read(path)?.lines().find_map(|line| {
        let (hash, reference) = line.split_once(' ')?;
        (reference == name).then(|| hash.to_owned())
    })
}
