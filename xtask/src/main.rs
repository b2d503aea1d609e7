//! The commands of developers and newcomers, as `cargo xtask …`. Depends on std alone, so that it
//! builds in seconds on a machine that has nothing but cargo and a C compiler.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program's product is its output"
)]

mod bare;
mod build;
mod ci;
mod debian;
mod image;
mod layers;
mod ledger;
mod numbers;
mod setup;
mod tests;
mod tidy;
mod util;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  setup            fetch the programs that tests talk to, into target/peers; changes nothing on the host
  demo [ARGS…]     build the release binaries and run `krater demo ARGS…`
  test [FILTER]    run the tests: unit, property, simulation, end to end in namespaces and virtual machines; those in modules
                   called `nightly` only when FILTER names them
  ci [nightly]     format, lints, tidy, layers, build, tests, fuzz smoke: what must pass before a merge; `nightly` runs all
                   tests, and longer searches
  tidy             file sizes, forbidden words, tests that a ledger of rules names
  layers           the arrows between the crates
  openapi [--check]  write openapi/*.json from the handlers, or compare
  numbers [--upstream | --against URL] [--large] [--krater FILE]
                   times of the API beside its goals, and beside upstream's octavia-api, which is fetched for it, or another
                   API with no-op drivers; with 10,000 load balancers
  bare             the demo on a Debian 12 made with debootstrap that has gcc and nothing else
  deb [ARGS…]      the Debian package of the static `amphora`: `krater image deb ARGS…`, by default in target/deb
  deb test         tests of the package under a real systemd, in a Debian that is made for it in target/peers/debian
  dist             static release binaries in target/dist
  image [ARGS…]    static `amphora` and the bootable image around it: `krater image build ARGS…`, by default in
                   target/image/default; --update-lock pins the newest packages, --check-reproducible builds in two clones,
                   --boot-time boots it under TCG and says when it got how far
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let result = match args.first().map(String::as_str) {
        Some("setup") => setup::setup().map(|_| ()),
        Some("demo") => return finish(build::demo(rest)),
        Some("test") => tests::test(rest),
        Some("ci") => ci::ci(rest),
        Some("tidy") => tidy::tidy(),
        Some("layers") => layers::layers(),
        Some("openapi") => build::openapi(rest),
        Some("numbers") => numbers::numbers(rest),
        Some("bare") => bare::bare(),
        Some("deb") if rest == ["test"] => debian::test(),
        Some("deb") => image::deb(rest),
        Some("dist") => build::dist(),
        Some("image") => image::image(rest),
        Some("help" | "-h" | "--help") => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    finish(result.map(|()| ExitCode::SUCCESS))
}

fn finish(result: Result<ExitCode, util::Failure>) -> ExitCode {
    result.unwrap_or_else(|failure| {
        eprintln!("xtask: {failure}");
        ExitCode::FAILURE
    })
}
