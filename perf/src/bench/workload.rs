//! The rows of the table: what is asked of the load balancer, and what it is configured as.

/// What the load balancer is configured as; the members are the two addresses of the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Service {
    /// HTTP listener, X-Forwarded-For, health checks.
    Http,
    /// The same with L7 policies that match the path; the last one matches.
    Policies(u16),
    /// The same with that many pools of ten members each, a policy for each, and no health checks: ten
    /// thousand of them would be most of the work.
    Pools(u16),
    /// TLS ends at the load balancer; ECDSA P-256.
    TlsEcdsa,
    /// TLS ends at the load balancer; RSA 2048.
    TlsRsa,
    /// TLS as above, and HTTP/2 in it; HTTP/1.1 to the members.
    Http2,
    /// TCP to the echo port.
    Echo,
    /// TCP to the bulk port.
    Bulk,
    /// UDP to the UDP port.
    Udp,
}

impl Service {
    /// Whether requests are parsed.
    pub(crate) const fn is_http(self) -> bool {
        !matches!(self, Self::Echo | Self::Bulk | Self::Udp)
    }

    /// Whether clients come over TLS.
    pub(crate) const fn is_tls(self) -> bool {
        matches!(self, Self::TlsEcdsa | Self::TlsRsa | Self::Http2)
    }
}

/// What a figure is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Request,
    Connection,
    Gigabyte,
    /// Not CPU but the 99th percentile of latency at half of the weakest side's capacity.
    Latency,
    /// Not CPU but what a hundred changes of the configuration under load do.
    Change,
    /// Not CPU but resident bytes per connection.
    IdleConnection,
}

impl Unit {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Request => "CPU µs/request",
            Self::Connection => "CPU µs/connection",
            Self::Gigabyte => "CPU ms/GB",
            Self::Change => "100 changes",
            Self::Latency => "p99 ms at 50 %",
            Self::IdleConnection => "RSS bytes/connection",
        }
    }
}

/// A row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) service: Service,
    /// With `{}` in place of address and port.
    pub(crate) url: &'static str,
    /// Options of `krater-perf load`.
    pub(crate) load: &'static [&'static str],
    pub(crate) unit: Unit,
    /// Ratio against HAProxy that must not be exceeded (design.md, floor to pass).
    pub(crate) goal: Option<f64>,
}

/// Requests after which a smoke run ends.
pub(crate) const SMOKE: &str = "40";

use Service::{Bulk, Echo, Http, Http2, Policies, Pools, TlsEcdsa, TlsRsa, Udp};

const fn row(
    name: &'static str,
    service: Service,
    url: &'static str,
    load: &'static [&'static str],
    unit: Unit,
    goal: Option<f64>,
) -> Workload {
    Workload {
        name,
        service,
        url,
        load,
        unit,
        goal,
    }
}

/// All rows, in the order of the table.
#[rustfmt::skip]
pub(crate) const ALL: &[Workload] = &[
    row("http-0", Http, "http://{}/bytes/0", &["--pattern", "--length", "0"], Unit::Request, Some(0.85)),
    row("http-1k", Http, "http://{}/bytes/1024", &["--pattern", "--length", "1024"], Unit::Request, Some(0.85)),
    row("http-64k", Http, "http://{}/bytes/65536", &["--pattern", "--length", "65536"], Unit::Request, Some(0.85)),
    row("http-1m", Http, "http://{}/bytes/1048576", &["--pattern", "--length", "1048576", "--connections", "8"], Unit::Request, Some(0.65)),
    row("upload-1k", Http, "http://{}/", &["--upload", "1024"], Unit::Request, Some(0.85)),
    row("upload-1m", Http, "http://{}/", &["--upload", "1048576", "--connections", "8"], Unit::Request, Some(0.85)),
    row("chunked-down", Http, "http://{}/chunked/32768", &["--pattern", "--length", "32768"], Unit::Request, Some(0.85)),
    row("chunked-up", Http, "http://{}/", &["--upload", "32768", "--chunked"], Unit::Request, Some(0.85)),
    row("http-close", Http, "http://{}/bytes/1024", &["--pattern", "--length", "1024", "--close"], Unit::Request, Some(0.85)),
    row("http-pipelined", Http, "http://{}/bytes/1024", &["--pattern", "--length", "1024", "--pipeline", "16"], Unit::Request, Some(0.85)),
    row("policies-1", Policies(1), "http://{}/bytes/1024", &["--pattern", "--length", "1024"], Unit::Request, Some(0.85)),
    row("policies-10", Policies(10), "http://{}/bytes/1024", &["--pattern", "--length", "1024"], Unit::Request, Some(0.85)),
    row("policies-100", Policies(100), "http://{}/bytes/1024", &["--pattern", "--length", "1024"], Unit::Request, Some(0.85)),
    row("pools-1000", Pools(1000), "http://{}/bytes/1024", &["--pattern", "--length", "1024"], Unit::Request, Some(0.85)),
    row("change-keep-alive", Http, "http://{}/bytes/1024", &["--pattern", "--length", "1024"], Unit::Change, None),
    row("change-close", Http, "http://{}/bytes/1024", &["--pattern", "--length", "1024", "--close"], Unit::Change, None),
    row("websocket-64", Http, "ws://{}/", &["--size", "64"], Unit::Request, Some(0.85)),
    row("latency-1k", Http, "http://{}/bytes/1024", &["--pattern", "--length", "1024"], Unit::Latency, None),
    row("http-slow", Http, "http://{}/bytes/1024", &["--pattern", "--slow", "4000", "--connections", "200"], Unit::Request, None),
    row("http-idle", Http, "http://{}/bytes/64", &["--idle", "--connections", "4000"], Unit::IdleConnection, Some(1.0)),
    row("http-half-open", Http, "http://{}/bytes/64", &["--idle", "--half", "--connections", "4000"], Unit::IdleConnection, Some(1.0)),
    row("h2-1", Http2, "https://{}/bytes/1024", &["--http2", "--pattern", "--length", "1024"], Unit::Request, None),
    row("h2-32", Http2, "https://{}/bytes/1024", &["--http2", "--streams", "32", "--pattern", "--length", "1024", "--connections", "2"], Unit::Request, None),
    row("tls-full-ecdsa", TlsEcdsa, "https://{}/bytes/1024", &["--pattern", "--close", "--key-exchange", "x25519", "--connections", "16"], Unit::Connection, Some(0.52)),
    row("tls-full-hybrid", TlsEcdsa, "https://{}/bytes/1024", &["--pattern", "--close", "--key-exchange", "hybrid", "--connections", "16"], Unit::Connection, None),
    row("tls-full-rsa", TlsRsa, "https://{}/bytes/1024", &["--pattern", "--close", "--key-exchange", "x25519", "--connections", "16"], Unit::Connection, None),
    row("tls-resumed", TlsEcdsa, "https://{}/bytes/1024", &["--pattern", "--close", "--resume", "--key-exchange", "x25519", "--connections", "16"], Unit::Connection, Some(0.58)),
    row("tls-1k", TlsEcdsa, "https://{}/bytes/1024", &["--pattern", "--length", "1024"], Unit::Request, Some(0.85)),
    row("tls-1m", TlsEcdsa, "https://{}/bytes/1048576", &["--pattern", "--length", "1048576", "--connections", "8"], Unit::Request, None),
    row("tcp-connect", Echo, "tcp://{}", &["--close"], Unit::Connection, Some(0.85)),
    row("tcp-pingpong", Echo, "tcp://{}", &["--size", "64"], Unit::Request, Some(0.85)),
    row("tcp-bulk-1", Bulk, "tcp://{}", &["--bulk", "4194304", "--connections", "1"], Unit::Gigabyte, Some(0.65)),
    row("tcp-bulk-64", Bulk, "tcp://{}", &["--bulk", "4194304", "--connections", "64"], Unit::Gigabyte, Some(0.65)),
    row("udp-64", Udp, "udp://{}", &["--size", "64"], Unit::Request, None),
    row("udp-1400", Udp, "udp://{}", &["--size", "1400"], Unit::Request, None),
    row("tls-idle", TlsEcdsa, "https://{}/bytes/64", &["--idle", "--connections", "4000", "--key-exchange", "x25519"], Unit::IdleConnection, Some(1.0)),
    row("tcp-idle", Echo, "tcp://{}", &["--idle", "--connections", "4000"], Unit::IdleConnection, Some(1.0)),
];

/// The rows that `names` select; all without.
pub(crate) fn select(names: &[String]) -> anyhow::Result<Vec<Workload>> {
    let known = || ALL.iter().map(|w| w.name).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        return Ok(ALL.to_vec());
    }
    names
        .iter()
        .map(|name| {
            let found = ALL.iter().find(|w| w.name == name).copied();
            found.ok_or_else(|| anyhow::anyhow!("--work {name}: use one of {}", known()))
        })
        .collect()
}
