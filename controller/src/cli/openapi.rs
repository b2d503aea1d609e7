//! `krater openapi`
#![allow(clippy::print_stdout, reason = "its output is the document")]

use crate::app::not_supported;
use crate::http::openapi::document;
use std::process::ExitCode;

/// See [`run`].
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the README's list of what is refused as not supported yet instead.
    #[arg(long)]
    not_supported: bool,
}

/// Prints the document, which is also `openapi/control.json` in the source tree.
pub fn run(args: &Args) -> ExitCode {
    if args.not_supported {
        print!("{}", not_supported::markdown());
    } else {
        println!("{:#}", document());
    }
    ExitCode::SUCCESS
}
