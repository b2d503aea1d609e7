//! `cargo xtask bare`: the README's first command on a Debian 12 that has nothing but gcc.
//!
//! A minimal Debian is made under `target/bare/root`, with gcc, certificates and nothing else of what a
//! build might want (no perl beyond perl-base, python, make, cmake, git or iproute2). The host lends it the Rust toolchain,
//! cargo's download cache and a copy of the sources, in a mount namespace that ends with the command.
//! It downloads and compiles everything again, so it belongs to the nightly run.

use crate::setup;
use crate::util::{Done, Failure, at, capture, files, root, run, target_dir};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the README promises to be enough, besides rustup's Rust.
const PACKAGES: &str = "gcc,libc6-dev,ca-certificates";
/// Programs whose presence would make the proof worthless.
const ABSENT: [&str; 8] = [
    "make",
    "cmake",
    "python3",
    "git",
    "ip",
    "curl",
    "clang",
    "pkg-config",
];
/// The demo's last line without the numbers.
const NONE_FAILED: &str = ", 0 failed";

/// Makes the root folder, builds in it and runs the demo; fails unless its last line says that nothing failed.
pub(crate) fn bare() -> Done {
    let base = target_dir().join("bare");
    let system = base.join("root");
    debian(&base, &system)?;
    for program in ABSENT {
        for folder in ["usr/bin", "usr/sbin", "usr/local/bin"] {
            let path = system.join(folder).join(program);
            if path.exists() {
                return Err(Failure(format!(
                    "{} exists: this Debian is not bare; fix: remove {} and run again",
                    path.display(),
                    base.display()
                )));
            }
        }
    }
    sources(&system.join("src"))?;
    demo(&system)
}

/// A fresh root folder each time: what an earlier run left would prove nothing.
fn debian(base: &Path, system: &Path) -> Done {
    if base.exists() {
        std::fs::remove_dir_all(base).map_err(at(base))?;
    }
    std::fs::create_dir_all(base).map_err(at(base))?;
    let tool = setup::unpack("debootstrap", base)?;
    eprintln!("bare: a Debian 12 with {PACKAGES} in {}", system.display());
    let mut command = Command::new(tool.join("usr/sbin/debootstrap"));
    command
        .env("DEBOOTSTRAP_DIR", tool.join("usr/share/debootstrap"))
        .env("LC_ALL", "C")
        .args(["--variant=minbase", "--include", PACKAGES, "bookworm"])
        .arg(system)
        .arg(mirror()?);
    capture(&mut command).map(drop).map_err(|failure| {
        Failure(format!(
            "a minimal Debian could not be made.\n  {failure}\n  fix: see {}",
            system.join("debootstrap/debootstrap.log").display()
        ))
    })
}

/// The archive that the host's apt uses for bookworm.
pub(crate) fn mirror() -> Result<String, Failure> {
    let targets = capture(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
    ]))?;
    targets
        .lines()
        .find_map(|line| line.strip_suffix(" bookworm main"))
        .map(str::to_owned)
        .ok_or_else(|| {
            Failure("apt knows no archive with bookworm main; fix: /etc/apt/sources.list".into())
        })
}

/// What git knows of the checkout, copied: no build product comes along.
fn sources(to: &Path) -> Done {
    for file in files()? {
        let target = to.join(&file);
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(at(folder))?;
        }
        let source = root().join(&file);
        std::fs::copy(&source, &target).map_err(at(&source))?;
    }
    Ok(())
}

/// Runs inside a mount namespace of its own, so that nothing stays mounted whatever happens.
fn demo(system: &Path) -> Done {
    let sysroot =
        PathBuf::from(capture(Command::new("rustc").args(["--print", "sysroot"]))?.trim());
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    let cargo_home =
        std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    for folder in ["rust", "cargo"] {
        let path = system.join(folder);
        std::fs::create_dir_all(&path).map_err(at(&path))?;
    }
    for name in ["resolv.conf", "hosts"] {
        let (from, to) = (Path::new("/etc").join(name), system.join("etc").join(name));
        std::fs::copy(&from, &to).map_err(at(&from))?;
    }
    // A root folder that is a mount point, as on any booted machine: `krater doctor` refuses another. The
    // shell of the host mounts; the shell of the bare system runs the README's command.
    let script = r#"
        set -eu
        mount --bind "$1" "$1"
        mount --rbind /proc "$1/proc"
        mount --rbind /sys "$1/sys"
        mount --rbind /dev "$1/dev"
        mount --bind "$2" "$1/rust"
        mount --bind "$3" "$1/cargo"
        exec chroot "$1" /usr/bin/env -u LD_LIBRARY_PATH -u CARGO_TARGET_DIR -u RUSTUP_TOOLCHAIN -u RUSTC -u CARGO \
            HOME=/root TMPDIR=/tmp CARGO_HOME=/cargo PATH=/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            /bin/sh -c 'cd /src && cargo xtask demo'
    "#;
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "bare",
        ])
        .args([system, &sysroot, &cargo_home])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    eprintln!("bare: cargo xtask demo");
    let output = command
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .map_err(|error| format!("cannot run unshare: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    let last = text.lines().last().unwrap_or_default();
    if !output.status.success() || !last.starts_with("demo: ") || !last.ends_with(NONE_FAILED) {
        return Err(Failure(format!(
            "the demo on a bare Debian ended with {} and the line {last:?}",
            output.status
        )));
    }
    // The sources and gcc are cheap to fetch again; gigabytes of build products are not worth keeping.
    let built = system.join("src/target");
    run(Command::new("rm").arg("-rf").arg(&built))
}
