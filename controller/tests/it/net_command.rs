//! `krater net`, `krater doctor` and `krater down` as programs, on a fabric without a controller.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use krater_controller::drivers::layout::Layout;
use krater_controller::drivers::network::local::LocalNetworks;
use krater_controller::drivers::network::{Network, Networks as _};
use krater_model::NetworkId;
use krater_net::process::ProcessId;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const PREFIX: &str = "krater-net-command-";

/// A fabric with the network `tenant`; goes by `krater down --purge`.
struct Fabric {
    layout: Layout,
}

impl Fabric {
    fn new(name: &str) -> Self {
        let base = std::env::temp_dir();
        for entry in std::fs::read_dir(&base).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let pid = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                down(&entry.path());
            }
        }
        let folder = base.join(format!("{PREFIX}{}-{name}", std::process::id()));
        let layout = Layout::create(&folder).unwrap();
        let network = Network {
            id: NetworkId::random(),
            name: "tenant".into(),
            mtu: 1500,
            gateways: vec!["192.0.2.1/24".parse().unwrap()],
            management: false,
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let driver = LocalNetworks::new(layout.clone());
        runtime.block_on(driver.ensure(vec![network])).unwrap();
        Self { layout }
    }

    fn krater(&self, args: &[&str]) -> Command {
        let mut command = krater(args);
        command.env("KRATER_STATE_DIR", self.layout.state_dir());
        command
    }

    fn exec(&self, args: &[&str]) -> Output {
        let mut command = self.krater(&["net", "exec", "tenant", "--"]);
        command.args(args).output().unwrap()
    }

    /// Starts a shell on the network that says `here` and stays.
    fn stay(&self) -> (Child, BufReader<std::process::ChildStdout>) {
        let script = "echo here; read line; echo $line";
        let mut command = self.krater(&["net", "exec", "tenant", "--", "/bin/sh", "-c", script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "here\n");
        (child, output)
    }

    fn namespaces(&self) -> usize {
        self.layout.pinned().unwrap().len()
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        down(self.layout.state_dir());
    }
}

fn krater(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_krater"));
    command.args(args);
    command
}

fn down(state_dir: &Path) {
    let mut command = krater(&["down", "--purge", "--state-dir"]);
    let output = command.arg(state_dir).output().unwrap();
    assert!(
        output.status.success() || std::thread::panicking(),
        "{output:?}"
    );
}

#[test]
fn a_command_has_the_callers_folder_and_streams_and_its_exit_code_is_ours() {
    let fabric = Fabric::new("exec");
    assert_eq!(
        fabric.exec(&["/bin/sh", "-c", "exit 7"]).status.code(),
        Some(7)
    );
    let killed = fabric.exec(&["/bin/sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(137));
    let missing = fabric.exec(&["/nonexistent/program"]);
    assert_eq!(missing.status.code(), Some(1));
    let said = String::from_utf8(missing.stderr).unwrap();
    assert!(said.contains("/nonexistent/program"), "{said}");

    let here = std::env::current_dir().unwrap();
    let output = fabric.exec(&["/bin/sh", "-c", "pwd -P; grep SigBlk /proc/self/status"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("{}\n", here.display())), "{text}");
    assert!(
        text.contains("SigBlk:\t0000000000000000\n"),
        "a clean signal mask: {text}"
    );

    let (mut child, mut output) = fabric.stay();
    writeln!(child.stdin.take().unwrap(), "through").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "through\n");
    assert!(child.wait().unwrap().success());
    assert_eq!(fabric.namespaces(), 1, "nothing is left but the fabric");
}

#[test]
fn a_signal_reaches_the_command_and_its_namespace_goes() {
    let fabric = Fabric::new("signal");
    let (mut child, _output) = fabric.stay();
    // `wait` closes the child's input, and an end of input would end the shell with 0 before the signal comes.
    let _stdin = child.stdin.take();
    assert_eq!(fabric.namespaces(), 2);
    ProcessId::of(child.id()).unwrap().signal(15).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert_eq!(fabric.namespaces(), 1);
}

#[test]
fn what_a_killed_run_left_goes_with_the_next() {
    let fabric = Fabric::new("killed");
    let (mut child, mut output) = fabric.stay();
    let id = ProcessId::of(child.id()).unwrap();
    // The pipe stays open: its end would end the shell.
    let _stdin = child.stdin.take();
    id.signal(9).unwrap();
    child.wait().unwrap();
    assert_eq!(fabric.namespaces(), 2, "the control: it could not clean up");
    let doctor = fabric.krater(&["doctor", "--json", "--listen", "127.0.0.1:0"]);
    let found = { doctor }.output().unwrap().stdout;
    let found = String::from_utf8(found).unwrap();
    assert!(
        found.contains("`krater net` processes that were killed"),
        "{found}"
    );
    assert!(fabric.exec(&["/bin/true"]).status.success());
    assert_eq!(fabric.namespaces(), 1);
    // The orphan is dead: its end of the pipe is closed.
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn a_member_serves_until_it_is_told_to_stop_or_krater_down_ends_it() {
    let fabric = Fabric::new("serve");
    for end in ["signal", "down"] {
        let mut command = fabric.krater(&["net", "serve", "tenant", "--ip", "192.0.2.11"]);
        command.args(["--text", "web1"]).stdout(Stdio::piped());
        let mut member = command.spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(member.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "serving \"web1\" on http://192.0.2.11:80\n");
        let netns = fabric.layout.open_fabric().unwrap();
        let at = "192.0.2.11:80".parse().unwrap();
        let mut stream = netns.tcp_connect(at, Duration::from_secs(5)).unwrap();
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\nweb1"), "{answer}");
        if end == "signal" {
            ProcessId::of(member.id()).unwrap().signal(15).unwrap();
        } else {
            let ended = fabric.krater(&["down"]).output().unwrap();
            assert!(ended.status.success(), "{ended:?}");
        }
        assert!(member.wait().unwrap().success(), "{end}");
    }
    assert_eq!(fabric.namespaces(), 0);
}
