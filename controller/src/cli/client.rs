//! A small client of the controller's own endpoints: one request per connection.

use super::Endpoint;
use crate::service::Service;
use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use std::time::Duration;

/// How long the controller may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The body of `GET path`, as it comes.
pub(super) async fn stream(to: &Endpoint, path: &str) -> anyhow::Result<Incoming> {
    let endpoint = &to.endpoint;
    let service = Service::new("--endpoint", endpoint, to.ca_file.as_deref())?;
    let asked = async {
        let stream = service.connect().await.with_context(|| {
            format!("no controller answers at {endpoint}: start `krater up`, or use --endpoint")
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = http::Request::get(path).header(http::header::HOST, service.authority());
        // Not an option: other users of the host see the command line.
        if let Ok(token) = std::env::var("KRATER_TOKEN") {
            request = request.header(crate::http::access::TOKEN, token);
        }
        let request = request.body(Empty::<Bytes>::new())?;
        anyhow::Ok(sender.send_request(request).await?)
    };
    let answer = tokio::time::timeout(ANSWER, asked)
        .await
        .with_context(|| format!("{endpoint} does not answer"))??;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer.into_body());
    }
    let body = answer.into_body().collect().await?.to_bytes();
    let message = serde_json::from_slice::<serde_json::Value>(&body)
        .ok()
        .and_then(|body| Some(body.get("message")?.as_str()?.to_owned()))
        .unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
    bail!("{status}: {message}")
}

/// The JSON of `GET path`.
pub(super) fn read<T: serde::de::DeserializeOwned>(
    endpoint: &Endpoint,
    path: &str,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let body = stream(endpoint, path).await?;
        let bytes = body.collect().await?.to_bytes();
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{}{path}: not an answer of krater", endpoint.endpoint))
    })
}

/// Lines with aligned columns; the last column is not padded.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Prints to stdout. A reader that went away (`| head`) is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints JSON, indented.
pub(super) fn print_json<T: serde::Serialize>(value: &T) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Writes `text` coloured when stdout is a terminal.
pub(super) fn coloured(text: &str) -> String {
    use std::io::IsTerminal as _;
    if !std::io::stdout().is_terminal() {
        return text.to_owned();
    }
    let mut out = text.to_owned();
    for (word, colour) in [
        ("ACTIVE", 32),
        ("ONLINE", 32),
        ("ERROR", 31),
        ("DEGRADED", 33),
    ] {
        out = out.replace(
            &format!(" {word}"),
            &format!(" \x1b[{colour}m{word}\x1b[0m"),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["a", "bbb", "c"]), row(["aaaa", "b", "cc"])]);
        assert_eq!(text, "a     bbb  c\naaaa  b    cc\n");
    }
}
