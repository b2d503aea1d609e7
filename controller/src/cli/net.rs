//! `krater net`: commands and members on a network of the local driver.
#![allow(
    clippy::print_stdout,
    reason = "`krater net serve` says where it listens"
)]

use super::StateDir;
use crate::drivers::layout::Layout;
use crate::drivers::network::client::Client;
use anyhow::Context as _;
use krater_net::process::with_signals;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitCode, ExitStatus};

mod member;

/// Arguments of `krater net`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Run a command on a network, in a namespace with an address and a route.
    Exec(Exec),
    /// Run a member on a network: it answers every HTTP request with a text, until it is stopped.
    Serve(Serve),
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Name or id of the network, such as `public` or `tenant`.
    network: String,
    /// Address to have; without it, a free one of host numbers 200 to 250.
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<IpAddr>,
    #[command(flatten)]
    state: StateDir,
}

#[derive(Debug, clap::Args)]
struct Exec {
    #[command(flatten)]
    place: Place,
    /// The command and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
struct Serve {
    #[command(flatten)]
    place: Place,
    /// TCP port.
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// What it answers.
    #[arg(long)]
    text: String,
}

/// Runs `krater net`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Blocked from the start and in every thread: a signal must not end us before the namespace is
    // removed.
    let signals = signals();
    signals.thread_block().context("block signals")?;
    match args.what {
        What::Exec(exec) => {
            let client = client(&exec.place)?;
            let [program, arguments @ ..] = exec.command.as_slice() else {
                anyhow::bail!("no command");
            };
            let mut command = Command::new(program);
            command.args(arguments);
            let child = client
                .netns()
                .run(|| with_signals(&mut command).spawn())
                .context("enter the namespace")?
                .with_context(|| format!("start {}", program.display()))?;
            Ok(exit_code(wait(child, &signals)?))
        }
        What::Serve(serve) => {
            let client = client(&serve.place)?;
            let listen = |address| {
                let address = SocketAddr::new(address, serve.port);
                let listener = client.netns().tcp_listener(address);
                listener.with_context(|| format!("listen on {address}"))
            };
            let listeners = client
                .addresses()
                .map(listen)
                .collect::<Result<Vec<_>, _>>()?;
            for listener in &listeners {
                println!(
                    "serving {:?} on http://{}",
                    serve.text,
                    listener.local_addr()?
                );
            }
            member::run(listeners, serve.text, &signals)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn client(place: &Place) -> anyhow::Result<Client> {
    let layout = Layout::open(&place.state.state_dir)?;
    Client::new(&layout, &place.network, place.ip)
        .with_context(|| format!("join network {}", place.network))
}

/// What may end us, and the end of what we run.
fn signals() -> SigSet {
    let list = [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
    ];
    list.into_iter().collect()
}

/// Waits for the command; hands it the signals that only we got.
fn wait(mut child: Child, signals: &SigSet) -> anyhow::Result<ExitStatus> {
    // A terminal sends its signals to the whole foreground group: the command has them already.
    let terminal = std::io::stdin().is_terminal();
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        match signals.wait()? {
            Signal::SIGCHLD => {}
            Signal::SIGINT | Signal::SIGQUIT if terminal => {}
            signal => {
                // It may have ended this moment; it is reaped above, so the number is still its own.
                let _ = kill(pid, signal);
            }
        }
    }
}

/// As shells do: 128 and the signal for one that was killed.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
