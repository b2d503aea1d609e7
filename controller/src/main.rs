//! The `krater` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    krater_controller::cli::main()
}
