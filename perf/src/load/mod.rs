//! The load generator: one thread, closed loop over `--connections` or open loop at `--rate`, always
//! bounded.

mod args;
mod conn;
mod engine;
mod http2;
mod plan;
mod schedule;
pub(crate) mod tally;
mod target;
mod tls;
mod udp;

pub(crate) use args::Args;
pub(crate) use tally::Summary;

use anyhow::bail;
use engine::Engine;
use target::Scheme;

/// Connections of an idle load that are made at the same time: fewer than any backlog holds.
const AT_ONCE: usize = 64;

/// Runs the load and sums up.
pub(crate) fn run(args: &Args) -> anyhow::Result<Summary> {
    args.check()?;
    raise_file_limit()?;
    let target = target::Target::parse(&args.url)?;
    if args.http2 {
        return http2::run(args, &target);
    }
    if target.scheme == Scheme::Udp {
        return udp::run(args, &target);
    }
    let mut engine = Engine::new(args)?;
    match args.slow {
        _ if args.half => half_open(args, &mut engine)?,
        _ if args.idle => idle(args, &mut engine)?,
        Some(rate) => engine.slow(args, rate)?,
        None => engine.run(args)?,
    }
    engine.tally.summary()
}

/// Opens all connections with one exchange each, holds them, and shows with one more that they live.
fn idle(args: &Args, engine: &mut Engine) -> anyhow::Result<()> {
    engine.tally.open(std::time::Instant::now())?;
    engine.round(AT_ONCE)?;
    engine.hold(args.span())?;
    engine.tally.close()?;
    let made = engine.tally.connections;
    engine.round(AT_ONCE)?;
    if engine.tally.connections > made {
        let lost = engine.tally.connections - made;
        engine
            .tally
            .failed(|| format!("{lost} connections were closed while they were idle"));
    }
    Ok(())
}

/// Opens all connections with half of a request each, holds them, and shows with the rest that they live.
fn half_open(args: &Args, engine: &mut Engine) -> anyhow::Result<()> {
    engine.tally.open(std::time::Instant::now())?;
    engine.begin_halves(AT_ONCE)?;
    engine.hold(args.span())?;
    engine.tally.close()?;
    let early = engine.tally.done;
    if early > 0 {
        engine
            .tally
            .failed(|| format!("{early} answers came before their requests were whole"));
    }
    engine.end_halves()
}

fn raise_file_limit() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        bail!("the limit of open files cannot be raised to {hard}");
    }
    Ok(())
}
