//! `krater flows`: what the controller is doing and has done.

use super::{Endpoint, client};
use crate::admin::FlowLine;
use crate::flow::kinds;
use serde_json::json;
use std::process::ExitCode;

/// Arguments of `krater flows`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Also those that have ended, newest first.
    #[arg(long)]
    all: bool,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// All kinds of flow with their steps, for tests that kill the controller at each.
    #[arg(long, hide = true)]
    steps: bool,
}

/// Runs `krater flows`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.steps {
        let kinds = kinds::ALL.iter().map(|kind| {
            let names: Vec<&str> = kinds::steps(*kind).iter().map(|step| step.name).collect();
            json!({ "flow": kind.as_str(), "steps": names })
        });
        let kinds: Vec<_> = kinds.collect();
        if args.json {
            client::print_json(&kinds)?;
        } else {
            for kind in kinds::ALL {
                for step in kinds::steps(kind) {
                    client::print(&format!("{}:{}\n", kind.as_str(), step.name))?;
                }
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let path = format!("/krater/v1/flows?all={}", args.all);
    let flows: Vec<FlowLine> = client::read(&args.endpoint.endpoint, &path)?;
    if args.json {
        client::print_json(&flows)?;
    } else if flows.is_empty() {
        client::print("no flows\n")?;
    } else {
        client::print(&client::coloured(&flow_table(&flows)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Aligned lines.
pub(super) fn flow_table(flows: &[FlowLine]) -> String {
    let titles = [
        "FLOW",
        "KIND",
        "STATE",
        "STEP",
        "LOAD BALANCER",
        "ASKED",
        "MS",
        "ERROR",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for flow in flows {
        rows.push(vec![
            flow.id.clone(),
            flow.kind.clone(),
            flow.state.clone(),
            flow.step.clone(),
            flow.load_balancer_id.clone().unwrap_or_else(|| "-".into()),
            flow.created_at.clone(),
            flow.milliseconds.to_string(),
            flow.error.clone().unwrap_or_default(),
        ]);
    }
    client::table(&rows)
}
