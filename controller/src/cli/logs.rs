//! `krater logs AMPHORA [-f]`: the logs of an amphora's processes, through its agent.

use super::{Endpoint, client};
use http_body_util::BodyExt as _;
use std::io::Write as _;
use std::process::ExitCode;

/// Arguments of `krater logs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the amphora.
    amphora: uuid::Uuid,
    #[command(flatten)]
    endpoint: Endpoint,
    /// Which process.
    #[arg(long, default_value = "agent", value_parser = ["agent", "dataplane", "vrrp"])]
    process: String,
    /// Lines from the end.
    #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    lines: u32,
    /// Go on with what comes.
    #[arg(long, short)]
    follow: bool,
}

/// Runs `krater logs`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let path = format!(
        "/krater/v1/logs/{}?process={}&lines={}&follow={}",
        args.amphora, args.process, args.lines, args.follow
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut body = client::stream(&args.endpoint, &path).await?;
        let mut out = std::io::stdout();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            // A reader that went away (`| head`) ends the command, without complaint.
            if out.write_all(&data).and_then(|()| out.flush()).is_err() {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
