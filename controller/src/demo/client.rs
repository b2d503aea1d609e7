//! Starts [`super::worker`] on network `public` and talks to it.

use super::host::Host;
use super::worker::{Got, Neighbours, Probed, Request};
use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

/// Deadline of a request that is asked again.
const QUICK: Duration = Duration::from_millis(100);

/// A client in a namespace of its own.
#[derive(Debug)]
pub(super) struct Client {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Of an ordinary request.
    deadline: Duration,
}

impl Client {
    /// `krater net exec public --ip ADDRESS -- krater demo --worker`.
    pub(super) fn start(
        host: &mut Host,
        address: IpAddr,
        deadline: Duration,
    ) -> anyhow::Result<Self> {
        let exe = host.exe().to_owned();
        let mut command =
            host.krater(&["net", "exec", "public", "--ip", &address.to_string(), "--"]);
        command.arg(exe).args(["demo", "--worker"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = host.spawn(command, "client")?;
        let input = child.stdin.take().context("client's standard input")?;
        let output = child.stdout.take().context("client's standard output")?;
        Ok(Self {
            input,
            output: BufReader::new(output),
            deadline,
        })
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> anyhow::Result<T> {
        let line = serde_json::to_string(request)?;
        writeln!(self.input, "{line}")
            .and_then(|()| self.input.flush())
            .context("the client process is gone")?;
        let mut answer = String::new();
        self.output
            .read_line(&mut answer)
            .context("the client process is gone")?;
        if answer.is_empty() {
            bail!("the client process ended");
        }
        serde_json::from_str(&answer).with_context(|| format!("the client answered {answer:?}"))
    }

    /// See [`Request::Get`].
    pub(super) fn get(
        &mut self,
        to: SocketAddr,
        path: &str,
        count: usize,
    ) -> anyhow::Result<Vec<(u16, String)>> {
        self.get_within(to, path, count, self.deadline)
    }

    fn get_within(
        &mut self,
        to: SocketAddr,
        path: &str,
        count: usize,
        deadline: Duration,
    ) -> anyhow::Result<Vec<(u16, String)>> {
        let deadline_ms = u32::try_from(deadline.as_millis())?;
        let got: Got = self.ask(&Request::Get {
            to,
            path: path.into(),
            count,
            deadline_ms,
        })?;
        Ok(got.answers)
    }

    /// One request: its body when the status is 200. Asks again at once when there is no answer: a lost
    /// SYN is otherwise repeated after a second, and what happened meanwhile is seen late.
    pub(super) fn body(&mut self, to: SocketAddr, path: &str) -> anyhow::Result<Option<String>> {
        let answer = self.get_within(to, path, 1, QUICK)?.pop();
        Ok(answer.filter(|a| a.0 == 200).map(|a| a.1))
    }

    /// See [`Request::ProbeStart`].
    pub(super) fn probe(&mut self, to: SocketAddr, every: Duration) -> anyhow::Result<()> {
        let every_ms = u32::try_from(every.as_millis())?;
        self.ask::<serde_json::Value>(&Request::ProbeStart { to, every_ms })
            .map(|_| ())
    }

    /// See [`Request::ProbeStop`].
    pub(super) fn stop_probe(&mut self) -> anyhow::Result<Vec<super::probe::Sample>> {
        let probed: Probed = self.ask(&Request::ProbeStop)?;
        Ok(probed.samples)
    }

    /// See [`Request::Neighbours`].
    pub(super) fn neighbours(
        &mut self,
        of: Vec<IpAddr>,
    ) -> anyhow::Result<BTreeMap<IpAddr, String>> {
        let found: Neighbours = self.ask(&Request::Neighbours { of })?;
        Ok(found.hardware)
    }
}
