//! What virtual machines boot from and run in: the image that `cargo xtask image` built, and the peers.

use std::path::PathBuf;

/// The folder of the image that `cargo xtask test` built: `KRATER_IMAGE`, else `target/image/default`.
///
/// # Panics
/// When there is none.
pub fn image() -> PathBuf {
    let given = std::env::var_os("KRATER_IMAGE").map(PathBuf::from);
    let folder = given.unwrap_or_else(|| crate::root().join("target/image/default"));
    assert!(
        folder.join("SHA256SUMS").is_file(),
        "{} has no image: run the tests with `cargo xtask test`, or `cargo xtask image` first",
        folder.display()
    );
    folder
}

/// A file or program that `cargo xtask setup` fetched, or that the host has.
///
/// # Panics
/// When it is nowhere.
pub fn peer(path: &str) -> PathBuf {
    let peers = crate::peers();
    let places = [peers.clone(), peers.join("tree"), PathBuf::from("/")];
    let found = places.iter().map(|place| place.join(path));
    let found = found.into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!(
            "no {path} below {}: run `cargo xtask setup`",
            peers.display()
        )
    })
}
