//! Our own programs in the topology: the origin, the load generator. And certificates.

use super::topology::{Place, Topology};
use crate::load::Summary;
use crate::origin::{Counts, Ports};
use anyhow::{Context, bail};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

fn own(command: &str) -> Command {
    // The file that runs, even if it was replaced meanwhile.
    let mut own = Command::new("/proc/self/exe");
    own.arg(command);
    own
}

/// The server behind the load balancers.
#[derive(Debug)]
pub(crate) struct Origin {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(crate) ports: Ports,
}

impl Origin {
    pub(crate) fn start(topology: &Topology, pem: &str) -> anyhow::Result<Self> {
        let cert = topology.folder.join("origin.pem");
        fs::write(&cert, pem)?;
        let mut command = own("origin");
        for (option, port) in [
            ("--http", 9_080),
            ("--https", 9_443),
            ("--echo", 9_007),
            ("--bulk", 9_009),
        ] {
            command.args([option, &format!("0.0.0.0:{port}")]);
        }
        command.arg("--cert").arg(&cert);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = topology.spawn(Place::Server, command)?;
        let input = child.stdin.take().context("stdin")?;
        let output = BufReader::new(child.stdout.take().context("stdout")?);
        let mut this = Self {
            child,
            input,
            output,
            ports: Ports::default(),
        };
        this.ports = serde_json::from_str(&this.line()?).context("the origin's ports")?;
        Ok(this)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut text = String::new();
        self.output.read_line(&mut text)?;
        if text.is_empty() {
            bail!("the origin ended: {:?}", self.child.try_wait()?);
        }
        Ok(text)
    }

    /// What it did so far.
    pub(crate) fn counts(&mut self) -> anyhow::Result<Counts> {
        self.input.write_all(b"\n")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// One run of the load generator.
pub(crate) fn load(topology: &Topology, url: &str, args: &[String]) -> anyhow::Result<Summary> {
    let mut command = own("load");
    command.arg(url).args(args).arg("--json");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = topology.spawn(Place::Client, command)?.wait_with_output()?;
    // A run with errors prints its summary too; they are judged by the caller.
    serde_json::from_slice(&output.stdout).with_context(|| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        format!("load {url} {}: {text}", args.join(" "))
    })
}

/// A self-signed certificate and its key, PEM.
pub(crate) fn certificate(rsa: bool) -> anyhow::Result<String> {
    let key = if rsa {
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?
    } else {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?
    };
    let params = CertificateParams::new(vec!["krater-perf.test".to_owned()])?;
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}
