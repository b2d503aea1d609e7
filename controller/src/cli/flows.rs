//! `krater flows`: what the controller is doing and has done.

use super::{Endpoint, client};
use crate::admin::FlowLine;
use crate::db::query::flow::FlowKind;
use crate::flow::crash::Point;
use crate::flow::kinds::{self, Step};
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
        let kinds: Vec<_> = kinds::ALL.iter().map(|kind| points(*kind)).collect();
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
    let flows: Vec<FlowLine> = client::read(&args.endpoint, &path)?;
    if args.json {
        client::print_json(&flows)?;
    } else if flows.is_empty() {
        client::print("no flows\n")?;
    } else {
        client::print(&client::coloured(&flow_table(&flows)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A flow with its steps, and the crash points on its way and on its way back, in the order in which it
/// passes them when its last step fails.
fn points(kind: FlowKind) -> serde_json::Value {
    let steps = kinds::steps(kind);
    let name = |step: &Step, point: Point| format!("{}:{}", step.name, point.as_str());
    let forward = steps
        .iter()
        .flat_map(|step| Point::FORWARD.map(|point| name(step, point)));
    let turn = steps.iter().map(|step| name(step, Point::TurnBack));
    let back = steps
        .iter()
        .rev()
        .flat_map(|step| Point::BACK.map(|point| name(step, point)));
    json!({
        "flow": kind.as_str(),
        "steps": steps.iter().map(|step| step.name).collect::<Vec<_>>(),
        "forward": forward.collect::<Vec<_>>(),
        "turn": turn.collect::<Vec<_>>(),
        "back": back.collect::<Vec<_>>(),
    })
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
