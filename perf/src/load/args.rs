//! The command line of `load`.

use anyhow::bail;
use std::path::PathBuf;
use std::time::Duration;

/// Connections at the most: half of the 20,000 open files of the smallest machine we support.
const MAX_CONNECTIONS: u32 = 10_000;
/// Longest run.
const MAX_SECONDS: f64 = 3_600.0;
/// Highest rate of an open loop.
const MAX_RATE: f64 = 1e6;

/// What a client offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KeyExchange {
    /// X25519 alone
    X25519,
    /// X25519MLKEM768 first, then X25519
    Hybrid,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Server, such as http://127.0.0.1:8080/ or https, ws, wss, tcp, tls, udp
    pub(crate) url: String,
    /// Connections (udp: flows) that are open at the same time
    #[arg(long, default_value_t = 64)]
    pub(crate) connections: u32,
    /// Seconds to measure
    #[arg(long, default_value_t = 5.0)]
    pub(crate) duration: f64,
    /// Seconds of the same load before, which are not measured
    #[arg(long, default_value_t = 0.0)]
    pub(crate) warmup: f64,
    /// Requests to send at the most, those of the warm-up included
    #[arg(long, default_value_t = u64::MAX)]
    pub(crate) requests: u64,
    /// Open loop: requests per second on a fixed schedule; latency counts from the scheduled time
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 10.0)]
    pub(crate) timeout: f64,
    /// A new connection for each request
    #[arg(long)]
    pub(crate) close: bool,
    /// HTTP/2: over TLS by ALPN, in clear with prior knowledge
    #[arg(long)]
    pub(crate) http2: bool,
    /// Requests at a time on each connection of HTTP/2 [default: 1]
    #[arg(long, requires = "http2")]
    pub(crate) streams: Option<u32>,
    /// HTTP requests that are sent at once
    #[arg(long, default_value_t = 1)]
    pub(crate) pipeline: u32,
    /// Bytes of a request body (POST)
    #[arg(long)]
    pub(crate) upload: Option<u64>,
    /// Send the request body in the chunked coding
    #[arg(long)]
    pub(crate) chunked: bool,
    /// Bytes that are echoed (tcp, tls, udp, ws) [default: 64]
    #[arg(long)]
    pub(crate) size: Option<u64>,
    /// Ask a bulk port of `krater-perf origin` for this many bytes at a time
    #[arg(long)]
    pub(crate) bulk: Option<u64>,
    /// Only connect and close
    #[arg(long)]
    pub(crate) connect: bool,
    /// One exchange on each connection, then hold them all for the duration, then one exchange more
    #[arg(long, conflicts_with_all = ["close", "connect", "rate", "requests", "slow"])]
    pub(crate) idle: bool,
    /// With --idle: hold each connection with half of a request's head sent, then send the rest
    #[arg(long, requires = "idle")]
    pub(crate) half: bool,
    /// Slow clients: each sends and reads this many bytes per second
    #[arg(long, conflicts_with_all = ["rate", "pipeline", "connect"])]
    pub(crate) slow: Option<u32>,
    /// Resume TLS sessions where the server gives tickets; without it each handshake is full
    #[arg(long)]
    pub(crate) resume: bool,
    /// Key exchange offered in TLS handshakes; without it the hybrid one is preferred
    #[arg(long)]
    pub(crate) key_exchange: Option<KeyExchange>,
    /// PEM of the CA that must have signed the server's certificate; without it any is accepted
    #[arg(long)]
    pub(crate) ca: Option<PathBuf>,
    /// Status that answers must have
    #[arg(long, default_value_t = 200)]
    pub(crate) status: u16,
    /// Bytes that the body of answers must have
    #[arg(long)]
    pub(crate) length: Option<u64>,
    /// The body of answers must be what `krater-perf origin` sends, byte for byte
    #[arg(long)]
    pub(crate) pattern: bool,
    /// Process whose use, with its descendants', is divided by the requests; may be repeated
    #[arg(long = "pid")]
    pub(crate) pids: Vec<u32>,
    /// Core whose time not idle is reported; may be repeated
    #[arg(long = "core")]
    pub(crate) cores: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Args {
    /// Checks ranges.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let connections = self.connections;
        if connections == 0 || connections > MAX_CONNECTIONS {
            bail!("--connections {connections}: use 1 to {MAX_CONNECTIONS}");
        }
        for (name, value, zero) in [
            ("--duration", self.duration, false),
            ("--timeout", self.timeout, false),
            ("--warmup", self.warmup, true),
        ] {
            if !(value <= MAX_SECONDS && (value > 0.0 || zero && value == 0.0)) {
                bail!("{name} {value}: use more than 0 and at most {MAX_SECONDS} seconds");
            }
        }
        if self
            .rate
            .is_some_and(|rate| !(rate > 0.0 && rate <= MAX_RATE))
        {
            bail!("--rate: use more than 0 and at most {MAX_RATE} requests per second");
        }
        if self.slow == Some(0) {
            bail!("--slow 0: use at least 1 byte per second");
        }
        Ok(())
    }

    pub(crate) fn span(&self) -> Duration {
        Duration::from_secs_f64(self.duration)
    }

    pub(crate) fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }

    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.timeout)
    }
}
