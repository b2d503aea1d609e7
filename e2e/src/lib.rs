//! The kit for tests that start the real programs in namespaces: `krater up` with its amphorae, clients
//! and members on its networks, and the means to break things.
//!
//! | module | what |
//! |---|---|
//! | [`system`] | a controller with a state folder of its own, removed when dropped |
//! | [`api`] | a client of the public REST API |
//! | [`place`] | an address on a network of the controller, to make sockets at |
//! | [`backend`] | a member: HTTP/1.1, large bodies, WebSocket echo |
//! | [`client`] | blocking HTTP clients, and clients that keep work in flight and count |
//! | [`agent`] | an agent's API, with right and wrong certificates |
//! | [`amphora`] | an amphora's processes and namespaces |
//! | [`guest`] | the image's kernel and initrd in virtual machines |
//! | [`database`] | PostgreSQL and MariaDB, each test's own |
//! | [`keystone`] | a real Keystone, each test's own |
//! | [`package`] | the Debian package of an amphora |
//! | [`debian`] | a Debian with systemd in a virtual machine |
//! | [`machine`] | what virtual machines boot from and run in |
//! | [`wait`] | waiting for a condition |
//!
//! Tests need root and fail without it. They run beside each other; [`system::alone`] keeps the ones
//! that measure or load the host apart.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test kit: what is not as expected fails the test"
)]

pub mod agent;
pub mod amphora;
pub mod api;
pub mod backend;
pub mod client;
pub mod database;
pub mod debian;
pub mod guest;
pub mod keystone;
pub mod machine;
pub mod package;
pub mod place;
pub mod system;
pub mod wait;

use std::path::PathBuf;
use std::process::Command;

/// Folder of the product's binaries: `KRATER_BIN_DIR` (set by `cargo xtask test`), else the folder that
/// this test program was built into, for `cargo test -p krater-e2e` after `cargo build`.
pub fn bin_dir() -> PathBuf {
    std::env::var_os("KRATER_BIN_DIR").map_or_else(
        || {
            let own = std::env::current_exe().unwrap_or_default();
            own.parent()
                .and_then(std::path::Path::parent)
                .unwrap_or(&own)
                .to_path_buf()
        },
        PathBuf::from,
    )
}

/// A product binary, `krater` or `amphora`.
///
/// # Panics
/// When it was not built.
pub fn bin(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(
        path.is_file(),
        "{} is missing: run the tests with `cargo xtask test`, or build it first",
        path.display()
    );
    path
}

/// Where `cargo xtask setup` has put the programs of others: `KRATER_PEERS`, else beside the folder that this test program was
/// built into.
///
/// # Panics
/// When this program does not know where it is.
pub fn peers() -> PathBuf {
    let given = std::env::var_os("KRATER_PEERS").map(PathBuf::from);
    given.unwrap_or_else(|| {
        let own = std::env::current_exe().expect("our own path");
        // `<target>/<profile>/deps/<test>`
        let target = own.ancestors().nth(3);
        target
            .map_or_else(|| PathBuf::from("/"), std::path::Path::to_path_buf)
            .join("peers")
    })
}

/// Libraries that the programs of [`peers`] brought, for `LD_LIBRARY_PATH`.
///
/// # Panics
/// As [`peers`].
pub fn libraries() -> PathBuf {
    peers().join(format!("tree/usr/lib/{}-linux-gnu", std::env::consts::ARCH))
}

/// Python with what is in a virtual environment of [`peers`]. It dies with the thread that starts it.
///
/// # Panics
/// When it is not there.
pub fn python(venv: &str) -> Command {
    let program = peers().join(venv).join("bin/python");
    let present = program.exists();
    assert!(present, "no {}: run `cargo xtask setup`", program.display());
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .env("LD_LIBRARY_PATH", libraries());
    command
}

/// The checkout.
pub fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent()
        .map_or_else(|| own.clone(), std::path::Path::to_path_buf)
}
