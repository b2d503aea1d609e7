//! `krater status`: one screen of what there is and how it is.

use super::{Endpoint, client};
use crate::admin::Status;
use std::process::ExitCode;

/// Arguments of `krater status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    endpoint: Endpoint,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// Runs `krater status`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let status: Status = client::read(&args.endpoint, "/krater/v1/status")?;
    if args.json {
        client::print_json(&status)?;
    } else {
        client::print(&client::coloured(&screen(&status)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Arguments of `krater certs`.
#[derive(Debug, clap::Args)]
pub struct CertsArgs {
    #[command(flatten)]
    endpoint: Endpoint,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs `krater certs`.
pub fn certs(args: CertsArgs) -> anyhow::Result<ExitCode> {
    let status: Status = client::read(&args.endpoint, "/krater/v1/status")?;
    let mut rows: Vec<(String, String)> = status
        .certificates
        .iter()
        .map(|c| (c.name.clone(), c.expires.clone()))
        .collect();
    for amphora in status.load_balancers.iter().flat_map(|lb| &lb.amphorae) {
        let expires = amphora
            .certificate_expires
            .clone()
            .unwrap_or_else(|| "-".into());
        rows.push((format!("amphora {}", amphora.id), expires));
    }
    if args.json {
        let json: Vec<_> = rows
            .iter()
            .map(|(name, expires)| serde_json::json!({ "name": name, "expires": expires }))
            .collect();
        client::print_json(&json)?;
    } else {
        let mut lines = vec![vec!["CERTIFICATE".to_owned(), "EXPIRES (UTC)".to_owned()]];
        lines.extend(rows.into_iter().map(|(name, expires)| vec![name, expires]));
        client::print(&client::table(&lines))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn screen(status: &Status) -> String {
    let cells = |cells: &[&str]| {
        cells
            .iter()
            .map(|cell| (*cell).to_owned())
            .collect::<Vec<_>>()
    };
    let mut out = format!(
        "krater {}  roles: {}\n",
        status.version,
        status.roles.join(", ")
    );
    if status.load_balancers.is_empty() {
        out.push_str("\nno load balancers\n");
    } else {
        let mut rows = vec![cells(&[
            "LOAD BALANCER",
            "NAME",
            "VIP",
            "PROVISIONING",
            "OPERATING",
        ])];
        for lb in &status.load_balancers {
            let line = [&lb.id, &lb.name, &lb.vip, &lb.provisioning, &lb.operating];
            rows.push(line.map(Clone::clone).to_vec());
        }
        out.push('\n');
        out.push_str(&client::table(&rows));
        let titles = [
            "AMPHORA",
            "ROLE",
            "STATUS",
            "VRRP",
            "DESIRED",
            "APPLIED",
            "HEARD",
            "READY",
            "CERTIFICATE",
        ];
        let mut rows = vec![cells(&titles)];
        for amphora in status.load_balancers.iter().flat_map(|lb| &lb.amphorae) {
            let vrrp = amphora
                .vrrp
                .map(|state| format!("{state:?}").to_lowercase());
            let heard = amphora.heard_ms.map(|ms| format!("{ms} ms"));
            let dash = || "-".to_owned();
            rows.push(vec![
                amphora.id.clone(),
                amphora.role.clone(),
                amphora.status.clone(),
                vrrp.unwrap_or_else(dash),
                amphora.desired.clone(),
                amphora.applied.clone().unwrap_or_else(dash),
                heard.unwrap_or_else(dash),
                if amphora.ready { "yes" } else { "no" }.to_owned(),
                amphora.certificate_expires.clone().unwrap_or_else(dash),
            ]);
        }
        out.push('\n');
        out.push_str(&client::table(&rows));
        for lb in &status.load_balancers {
            if let Some(reason) = &lb.reason {
                out.push_str(&format!("\n{}: {reason}\n", lb.name));
            }
        }
    }
    if !status.flows.is_empty() {
        out.push('\n');
        out.push_str(&super::flows::flow_table(&status.flows));
    }
    let mut rows = vec![cells(&["CERTIFICATE", "EXPIRES (UTC)"])];
    for certificate in &status.certificates {
        rows.push(cells(&[&certificate.name, &certificate.expires]));
    }
    out.push('\n');
    out.push_str(&client::table(&rows));
    out
}
