//! One function per parser of bytes that strangers send, and a runner that needs neither nightly Rust
//! nor a C++ compiler: it replays the committed corpus, then mutates it with a seeded generator.
//!
//! A target panics when the parser breaks a promise: any panic, a round trip that changes meaning, an
//! answer larger than its bound. `corpus/<target>/` holds real messages; a file whose name begins with
//! `crash-` is an input that broke something once.
//!
//! The functions take `&[u8]`, so that a cargo-fuzz target is one line: `fuzz_target!(|data: &[u8]|
//! krater_fuzz::target("heartbeat").unwrap()(data));`

mod mutate;
mod targets;

pub use mutate::Mutator;
pub use targets::{TARGETS, Target, target};

use std::path::{Path, PathBuf};

/// Longest input that the runner makes, in bytes: beyond any length that a parser treats specially in
/// one message, and short enough for many runs in a second.
pub const MAX_INPUT: usize = 64 * 1024;

/// The committed inputs of a target, by file name.
pub fn corpus(name: &str) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let bytes = std::fs::read(&path)?;
        found.push((path, bytes));
    }
    found.sort();
    Ok(found)
}
