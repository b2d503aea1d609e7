//! Starts the real binary: as load, as origin.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub(crate) const PERF: &str = env!("CARGO_BIN_EXE_krater-perf");

/// A running origin; ends when dropped.
pub(crate) struct Origin {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    ports: Value,
}

impl Origin {
    pub(crate) fn start(cert: Option<&Path>) -> Self {
        let any = "127.0.0.1:0";
        let mut command = Command::new(PERF);
        command.args(["origin", "--http", any, "--echo", any]);
        command.args(["--bulk", any, "--udp", any]);
        if let Some(cert) = cert {
            command.args(["--https", any, "--cert"]).arg(cert);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut this = Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            ports: Value::Null,
        };
        this.ports = this.line();
        this
    }

    fn line(&mut self) -> Value {
        let mut text = String::new();
        self.output.read_line(&mut text).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Address of a port.
    pub(crate) fn at(&self, port: &str) -> &str {
        self.ports[port].as_str().unwrap()
    }

    /// A counter.
    pub(crate) fn count(&mut self, name: &str) -> u64 {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
        self.line()[name].as_u64().unwrap()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }
}

/// Runs a load; its exit code and summary.
pub(crate) fn load(url: &str, more: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(PERF)
        .args(["load", url, "--json"])
        .args(more)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), json)
}

/// A load that must succeed: its summary.
pub(crate) fn good(url: &str, more: &[&str]) -> Value {
    let (code, json) = load(url, more);
    assert_eq!(code, Some(0), "{url} {more:?}: {json}");
    json
}

pub(crate) fn total(json: &Value, name: &str) -> u64 {
    json["total"][name].as_u64().unwrap()
}
