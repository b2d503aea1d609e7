//! Runs the real binary.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod kit;
mod load;

use std::process::Command;

#[test]
fn what_is_not_built_is_refused() {
    for command in ["run", "compare", "report"] {
        let output = Command::new(kit::PERF).arg(command).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("not supported yet"));
    }
}
