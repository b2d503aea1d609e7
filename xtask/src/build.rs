//! Release builds and what runs them.

use crate::image;
use crate::util::{Done, Failure, at, capture, cargo, release_dir, root, run, target_dir};
use std::process::{Command, ExitCode};

/// Packages of the binaries that users run.
const PRODUCT: [&str; 4] = ["-p", "krater-agent", "-p", "krater-controller"];

/// Builds `amphora` and `krater`, optimised. Tests use the same two files: one release build serves both.
pub(crate) fn release() -> Done {
    run(cargo().args(["build", "--release"]).args(PRODUCT))
}

/// `krater demo` with the caller's arguments; its exit status is ours.
pub(crate) fn demo(args: &[String]) -> Result<ExitCode, Failure> {
    release()?;
    let program = release_dir().join("krater");
    eprintln!("$ {} demo {}", program.display(), args.join(" "));
    let status = Command::new(&program)
        .arg("demo")
        .args(args)
        .current_dir(root())
        .status()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

/// `krater openapi` prints the document that the handlers' annotations give.
pub(crate) fn openapi(args: &[String]) -> Done {
    release()?;
    let printed = capture(Command::new(release_dir().join("krater")).arg("openapi"))?;
    let path = root().join("openapi/control.json");
    if args.iter().any(|a| a == "--check") {
        let committed = std::fs::read_to_string(&path).map_err(at(&path))?;
        if committed.trim_end() == printed.trim_end() {
            return Ok(());
        }
        return Err("openapi/control.json differs from the handlers: run `cargo xtask openapi` and commit it".into());
    }
    std::fs::create_dir_all(root().join("openapi")).map_err(at(&path))?;
    std::fs::write(&path, printed.trim_end().to_owned() + "\n").map_err(at(&path))
}

/// Static binaries: they run in the image and on any distribution.
pub(crate) fn dist() -> Done {
    let built = image::static_build(&["krater-agent", "krater-controller"])?;
    let out = target_dir().join("dist");
    std::fs::create_dir_all(&out).map_err(at(&out))?;
    for name in ["amphora", "krater"] {
        let to = out.join(name);
        std::fs::copy(built.join(name), &to).map_err(at(&to))?;
        println!("{}", to.display());
    }
    let to = out.join("LICENSE");
    std::fs::copy(root().join("LICENSE"), &to).map_err(at(&to))?;
    Ok(())
}
