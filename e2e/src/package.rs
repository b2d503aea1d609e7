//! The Debian package of an amphora: the real static program, packed by the real `krater image deb`.

use crate::machine;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The static program that `cargo xtask test` built: `KRATER_AMPHORA`, else beside the folder of the image.
///
/// # Panics
/// When there is none.
pub fn static_amphora() -> PathBuf {
    let given = std::env::var_os("KRATER_AMPHORA").map(PathBuf::from);
    let path = given.unwrap_or_else(|| machine::image().with_file_name("amphora"));
    assert!(
        path.is_file(),
        "{} is missing: run the tests with `cargo xtask test`, or `cargo xtask image` first",
        path.display()
    );
    path
}

/// Runs a program to its end; gives what it said.
///
/// # Panics
/// When it fails.
pub fn said(command: &mut Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{errors}",
        output.status
    );
    text
}

/// What the program calls its version: `0.1.0 (0123456789ab)`.
///
/// # Panics
/// When it says something else.
pub fn version_of(amphora: &Path) -> String {
    let text = said(Command::new(amphora).arg("--version"));
    let version = text.trim().strip_prefix("amphora ");
    let version = version.and_then(|text| Some(text.split_once(" schema ")?.0));
    version.unwrap_or_else(|| panic!("{text:?}")).to_owned()
}

/// The same program, which says that it was built of another commit: for those that it meets, another version.
///
/// # Panics
/// When it does not hold its version.
pub fn other_version(amphora: &Path, to: &Path) {
    let version = version_of(amphora);
    let (number, commit) = version.split_once(" (").expect("a commit");
    let other = format!("{number} ({})", "0".repeat(commit.len() - 1));
    let other = [other.as_bytes(), b")"].concat();
    let mut bytes = std::fs::read(amphora).expect("the program");
    let places: Vec<usize> = bytes
        .windows(version.len())
        .enumerate()
        .filter_map(|(at, text)| (text == version.as_bytes()).then_some(at))
        .collect();
    assert!(!places.is_empty(), "{version} is not in the program");
    for at in places {
        bytes[at..at + other.len()].copy_from_slice(&other);
    }
    std::fs::write(to, bytes).expect("a file");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(to, mode).expect("a mode");
    assert_ne!(version_of(to), version);
}

/// Packs a program; gives the package.
///
/// # Panics
/// When `krater image deb` fails.
pub fn build(amphora: &Path, revision: &str, out: &Path) -> PathBuf {
    let docs = out.join("docs");
    said(Command::new(amphora).args(["docs", "--out"]).arg(&docs));
    let printed = said(
        Command::new(crate::bin("krater"))
            .args(["image", "deb", "--revision", revision, "--amphora-bin"])
            .arg(amphora)
            .arg("--docs")
            .arg(&docs)
            .arg("--out")
            .arg(out),
    );
    let path = printed.rsplit_once(".deb ").expect("a path").0;
    PathBuf::from(format!("{path}.deb"))
}
