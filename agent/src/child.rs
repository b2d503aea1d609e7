//! `amphora dataplane` and `amphora vrrp`: from the command line to the libraries. No thread exists yet.

use crate::appliance;
use crate::cli::{DataplaneArgs, GuardArgs, LogArgs, Only, VrrpArgs};
use crate::memory;
use krater_telemetry::{LogControl, LogSettings, LogTarget};
use std::ffi::OsString;
use std::sync::Arc;

fn log(args: &LogArgs) -> anyhow::Result<LogControl> {
    let target = match &args.log_file {
        Some(path) => LogTarget::file(path),
        None => LogTarget::Stderr,
    };
    let settings = LogSettings {
        target,
        json: args.log_json,
        level: args.log_level.clone(),
    };
    Ok(krater_telemetry::init(settings)?)
}

fn level(log: LogControl) -> krater_dataplane::SetLevel {
    Arc::new(move |level| log.set_level(level).map_err(|error| error.to_string()))
}

/// Logs how a child ended, too: nobody reads its standard error.
fn ended<E: std::error::Error + Send + Sync + 'static>(
    outcome: Result<(), E>,
) -> anyhow::Result<()> {
    outcome.map_err(|error| {
        tracing::error!(error = %krater_model::report(&error), "ends");
        error.into()
    })
}

pub(crate) fn dataplane(args: DataplaneArgs) -> anyhow::Result<()> {
    let log = level(log(&args.common.log)?);
    memory::give_back();
    ended(krater_dataplane::run(krater_dataplane::Settings {
        netns: args.common.netns,
        control: args.control,
        uid: args.common.uid,
        workers: args.workers,
        metrics: args.metrics,
        progress_fd: args.progress_fd,
        log,
        version: krater_telemetry::version().into(),
    }))
}

pub(crate) fn vrrp(args: VrrpArgs) -> anyhow::Result<()> {
    let (control, track) = match (args.config, args.control, args.track) {
        (Some(config), ..) => return appliance::run(&config, Some(Only::Vrrp)),
        (None, Some(control), Some(track)) => (control, track),
        // The command line is checked.
        _ => anyhow::bail!("--config, or --control and --track"),
    };
    let log = level(log(&args.common.log)?);
    memory::give_back();
    ended(krater_vrrp::run(krater_vrrp::Settings {
        netns: args.common.netns,
        control,
        track,
        uid: args.common.uid,
        log,
        version: krater_telemetry::version().into(),
        guard_arguments: guard_arguments(&args.common.log),
    }))
}

/// The guard logs beside vrrp, as it must not share a file that is rotated.
fn guard_arguments(args: &LogArgs) -> Vec<OsString> {
    let mut out: Vec<OsString> = vec!["--log-level".into(), args.log_level.clone().into()];
    if let Some(path) = &args.log_file {
        let path = path.with_file_name("vrrp-guard.log");
        out.extend(["--log-file".into(), path.into()]);
    }
    if args.log_json {
        out.push("--log-json".into());
    }
    out
}

pub(crate) fn guard(args: GuardArgs) -> anyhow::Result<()> {
    log(&args.log)?;
    let numbers = [
        ("--pidfd", Some(args.pidfd)),
        ("--will", Some(args.will)),
        ("--lock", args.lock),
    ];
    let arguments = numbers
        .into_iter()
        .filter_map(|(name, number)| Some([name.into(), number?.to_string().into()]));
    // It sleeps until its vrrp ends.
    memory::give_back();
    ended(krater_vrrp::guard::run(arguments.flatten()))
}
