//! `cargo xtask image`: the static `amphora`, and the bootable image around it.

use crate::util::{Done, Failure, at, capture, cargo, release_dir, root, run, target_dir};
use crate::{build, setup};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the program and calls `krater image build`; `--update-lock` writes `image/kernel.lock` instead.
pub(crate) fn image(args: &[String]) -> Done {
    if args == ["--check-reproducible"] {
        return reproducible();
    }
    if args == ["--boot-time"] {
        return boot_time();
    }
    build::release()?;
    let krater = release_dir().join("krater");
    if args == ["--update-lock"] {
        return run(Command::new(krater)
            .args(["image", "lock", "--out"])
            .arg(root().join("image/kernel.lock"))
            .arg("--cache")
            .arg(cache()));
    }
    into(&krater, &static_amphora()?, &folder(args), args)
}

/// Where images go when nobody says otherwise: `target/image/default`, `target/image/debug`.
fn folder(args: &[String]) -> PathBuf {
    let debug = args.iter().any(|a| a == "debug" || a == "--variant=debug");
    target_dir()
        .join("image")
        .join(if debug { "debug" } else { "default" })
}

/// Downloaded packages are the same for all images: they are known by their SHA-256.
fn cache() -> PathBuf {
    target_dir().join("image/downloads")
}

fn into(krater: &Path, amphora: &Path, out: &Path, args: &[String]) -> Done {
    let mut command = Command::new(krater);
    command
        .args(["image", "build", "--amphora-bin"])
        .arg(amphora)
        .arg("--cache")
        .arg(cache());
    if !args.iter().any(|a| a == "--out" || a.starts_with("--out=")) {
        command.arg("--out").arg(out);
    }
    run(command.args(args))
}

/// The image that tests boot, made of binaries that are built already. Gives the folder.
pub(crate) fn for_tests() -> Result<PathBuf, Failure> {
    let out = target_dir().join("image/default");
    into(&release_dir().join("krater"), &static_amphora()?, &out, &[])?;
    Ok(out)
}

/// `cargo xtask deb`: the package of the static program, in `target/deb` when nobody says otherwise.
pub(crate) fn deb(args: &[String]) -> Done {
    build::release()?;
    let amphora = static_amphora()?;
    let docs = target_dir().join("deb/docs");
    // Pages of a command that is gone would be packed.
    if docs.exists() {
        std::fs::remove_dir_all(&docs).map_err(at(&docs))?;
    }
    run(Command::new(&amphora).args(["docs", "--out"]).arg(&docs))?;
    let mut command = Command::new(release_dir().join("krater"));
    command
        .args(["image", "deb", "--amphora-bin"])
        .arg(&amphora)
        .arg("--docs")
        .arg(&docs);
    if !args.iter().any(|a| a == "--out" || a.starts_with("--out=")) {
        command.arg("--out").arg(target_dir().join("deb"));
    }
    run(command.args(args))
}

/// Where the program of images and packages is, once it was built.
pub(crate) fn static_program() -> PathBuf {
    target_dir().join("image/amphora")
}

/// The program of images, as `target/image/amphora`: a build of something else does not replace it.
fn static_amphora() -> Result<PathBuf, Failure> {
    let built = static_build(&["krater-agent"])?.join("amphora");
    let to = static_program();
    std::fs::create_dir_all(target_dir().join("image")).map_err(at(&to))?;
    std::fs::copy(&built, &to).map_err(at(&to))?;
    Ok(to)
}

/// Builds packages of ours as static programs; gives the folder that they are in.
///
/// No path of this machine gets into them: two checkouts give the same bytes. `--target` keeps the flags, and with them
/// what is built, apart from everything else in the target folder.
pub(crate) fn static_build(packages: &[&str]) -> Result<PathBuf, Failure> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let home = cargo_home()?;
    let (from, home) = (root(), home.display().to_string());
    let from = from.display().to_string();
    let target = target_dir().display().to_string();
    // The last one that fits counts: the target folder may lie inside the checkout.
    let maps = [(from, "/krater"), (home, "/cargo"), (target, "/target")];
    let mut rust = String::from("-C target-feature=+crt-static");
    let mut c = String::new();
    for (path, name) in &maps {
        if path.contains(char::is_whitespace) {
            return Err(Failure(format!(
                "{path:?} has a blank in it, and RUSTFLAGS cannot say that; fix: build in another folder"
            )));
        }
        rust += &format!(" --remap-path-prefix={path}={name}");
        c += &format!(" -ffile-prefix-map={path}={name}");
    }
    let mut command = cargo();
    command
        .args(["build", "--release", "--target", &triple])
        .args(packages.iter().flat_map(|p| ["-p", *p]))
        .env("RUSTFLAGS", rust)
        .env(format!("CFLAGS_{}", triple.replace('-', "_")), c.trim());
    run(&mut command)?;
    Ok(target_dir().join(triple).join("release"))
}

fn cargo_home() -> Result<PathBuf, Failure> {
    match (std::env::var_os("CARGO_HOME"), std::env::var_os("HOME")) {
        (Some(path), _) => Ok(path.into()),
        (None, Some(home)) => Ok(PathBuf::from(home).join(".cargo")),
        (None, None) => Err("neither CARGO_HOME nor HOME is set".into()),
    }
}

/// Boots the image under TCG and prints when the kernel, process 1 and the agent got how far, by the guest's own clock, which
/// begins with the kernel. On a machine that does anything else the numbers mean little.
fn boot_time() -> Done {
    let peers = setup::setup()?;
    build::release()?;
    let image = for_tests()?;
    run(cargo()
        .args(["test", "--quiet", "-p", "krater-e2e", "--test", "it", "--"])
        .args(["--exact", "guest::nightly::boot_time", "--nocapture"])
        .env("KRATER_BIN_DIR", release_dir())
        .env("KRATER_PEERS", &peers.folder)
        .env("KRATER_IMAGE", image))
}

/// Two clones of the committed state at paths of different length, built apart with another umask, language and time zone, each
/// with a cargo home and downloads of its own: every file must be the same. What compilers write has no time in it; what packs
/// does, so the image is packed once more with a clock that is a year and more ahead. It compiles everything twice, so it
/// belongs to the nightly run.
fn reproducible() -> Done {
    let base = target_dir().join("reproducible");
    if base.exists() {
        std::fs::remove_dir_all(&base).map_err(at(&base))?;
    }
    let settings = [
        ("a", "022", "C", "UTC"),
        (
            "clone-at-a-longer-path/of/another/depth",
            "077",
            "C.UTF-8",
            "Pacific/Kiritimati",
        ),
    ];
    let outs = settings.map(|(path, ..)| base.join(path).join("out"));
    for (path, umask, language, zone) in settings {
        let clone = base.join(path);
        run(Command::new("git")
            .args(["clone", "--quiet"])
            .arg(root())
            .arg(&clone))?;
        let script = format!("umask {umask} && exec cargo xtask image --out out");
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .current_dir(&clone)
            .env_remove("CARGO_TARGET_DIR")
            .env("CARGO_HOME", clone.join("cargo"))
            .env("LC_ALL", language)
            .env("LANG", language)
            .env("TZ", zone);
        run(&mut command)?;
        later(&base, &clone)?;
        // Gigabytes of build products prove nothing more.
        for built in ["target", "cargo"] {
            let built = clone.join(built);
            std::fs::remove_dir_all(&built).map_err(at(&built))?;
        }
    }
    // It names the files that differ.
    run(Command::new("diff").arg("-r").args(&outs))?;
    let [sums, _] = outs.map(|out| out.join("SHA256SUMS"));
    print!("{}", std::fs::read_to_string(&sums).map_err(at(&sums))?);
    println!("two clones gave the same image");
    Ok(())
}

/// Packs a clone's image once more, later by its clock, and compares.
fn later(base: &Path, clone: &Path) -> Done {
    let tool = setup::unpack("libfaketime", &base.join("clock"))?;
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let library = tool
        .join("usr/lib")
        .join(triple)
        .join("faketime/libfaketime.so.1");
    let target = clone.join("target");
    let [now, later] = ["out", "out-later"].map(|out| clone.join(out));
    let with_clock = |command: &mut Command| {
        command.env("LD_PRELOAD", &library).env("FAKETIME", "+400d");
    };
    // A clock that stays right would prove nothing.
    let mut clock = Command::new("date");
    clock.arg("+%Y");
    let today = capture(&mut clock)?;
    with_clock(&mut clock);
    if capture(&mut clock)? == today {
        return Err(Failure(format!(
            "{} does not change the clock",
            library.display()
        )));
    }
    let mut command = Command::new(target.join("release/krater"));
    command
        .args(["image", "build", "--amphora-bin"])
        .arg(target.join("image/amphora"))
        .arg("--cache")
        .arg(target.join("image/downloads"))
        .arg("--out")
        .arg(&later);
    with_clock(&mut command);
    run(&mut command)?;
    run(Command::new("diff").arg("-r").args([now, later]))
}
