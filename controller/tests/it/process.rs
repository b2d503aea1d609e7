//! A controller as a process, with the `noop` drivers.

use krater_e2e::api::Api;
use krater_e2e::wait;
use serde_json::Value;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Ends with the value.
#[derive(Debug)]
pub(crate) struct Controller {
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
    pub(crate) api: Api,
}

impl Controller {
    /// Starts one and waits until it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        let mut controller = Self::new(arguments);
        controller.up();
        controller
    }

    /// Another one on the same database: it has the same key of secrets.
    pub(crate) fn beside(first: &Self) -> Self {
        let mut controller = Self::new(first.arguments.clone());
        let (from, to) = (first.state_dir(), controller.state_dir());
        std::fs::create_dir(&to).unwrap();
        std::fs::copy(from.join("secrets.key"), to.join("secrets.key")).unwrap();
        controller.up();
        controller
    }

    fn new(arguments: Vec<String>) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            arguments,
            child: None,
            api: Api {
                address: ([127, 0, 0, 1], 0).into(),
            },
        }
    }

    /// Starts it (again) and waits until it is ready.
    pub(crate) fn up(&mut self) {
        let said = self.folder.path().join("out");
        // Dies with the thread of the test, also when that is killed.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(env!("CARGO_BIN_EXE_krater"))
            .args(["controller", "--drivers", "noop", "--listen", "127.0.0.1:0"])
            .args(&self.arguments)
            .arg("--state-dir")
            .arg(self.state_dir())
            .stdin(Stdio::null())
            .stdout(File::create(&said).unwrap())
            .stderr(File::create(self.folder.path().join("log")).unwrap());
        let mut child = command.spawn().unwrap();
        let address = wait::until("the controller is ready", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("it ended with {status}:\n{}", self.log());
            }
            let text = std::fs::read_to_string(&said).unwrap_or_default();
            let first = text.lines().next()?.strip_prefix("ready: ")?;
            first.split_once("://")?.1.parse().ok()
        });
        self.api = Api { address };
        self.child = Some(child);
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Most of the host's memory that it has held.
    pub(crate) fn memory_mib(&self) -> u64 {
        let pid = self.child.as_ref().unwrap().id();
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: u64 = line
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        kib / 1024
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Waits until the object is ACTIVE; ERROR fails.
    pub(crate) fn active(&self, path: &str, root: &str) -> Value {
        let path = format!("/v2/lbaas/{path}");
        wait::until("it is ACTIVE", || {
            let object = self.api.get(&path)[root].clone();
            match object["provisioning_status"].as_str() {
                Some("ACTIVE") => Some(object),
                Some("ERROR") => panic!("{object}\n{}", self.log()),
                _ => None,
            }
        })
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.kill();
    }
}
