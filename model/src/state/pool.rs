//! Pools, members, health monitors.

use super::*;

/// A pool of members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Identifier.
    pub id: PoolId,
    /// For logs only.
    #[serde(default)]
    pub name: String,
    /// Administrative state; false: as if it had no members.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What members speak.
    pub protocol: PoolProtocol,
    /// How a member is chosen.
    pub algorithm: Algorithm,
    /// Stickiness.
    #[serde(default)]
    pub persistence: Option<Persistence>,
    /// Active health checks; none: members count as up (NO_MONITOR).
    #[serde(default)]
    pub health_monitor: Option<HealthMonitor>,
    /// TLS towards members.
    #[serde(default)]
    pub tls: Option<PoolTls>,
    /// Members.
    #[serde(default)]
    pub members: Vec<Member>,
    /// What Octavia's API does not have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: PoolOptions,
}

/// Options of appliances.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolOptions {
    /// Passive health: so many failures in a row (connects that fail, answers 5xx) take a member down at
    /// once, and the health monitor brings it back. Needs a monitor.
    #[serde(default)]
    pub failures_in_a_row: Option<u16>,
    /// Slow start: a member that comes back from DOWN gets new clients in a share that grows over this time
    /// from next to nothing to its weight. Needs a monitor, and an algorithm that is no hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Millis>,
    /// Clients (in HTTP: requests) that may wait while all members that could serve them have as many
    /// connections as [`Member::connection_limit`] lets them: 0 to [`PoolOptions::MAX_QUEUE`]; none is
    /// [`PoolOptions::QUEUE`]. One more gets 503, or its connection is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_limit: Option<u32>,
    /// How long one waits, at least 1 ms; then it gets 503, or its connection is closed. None: as long as
    /// the listener's `member_connect` says, as with HAProxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_timeout: Option<Millis>,
}

impl PoolOptions {
    /// The largest `queue_limit`: who waits holds a descriptor, and a process has 20,000 on common hosts.
    pub const MAX_QUEUE: u32 = 20_000;
    /// The `queue_limit` of a pool that names none: some seconds' worth of a small site's clients.
    pub const QUEUE: u32 = 1_000;
}

impl Pool {
    /// Whether members are found by something that only an HTTP request shows.
    pub fn needs_requests(&self) -> bool {
        self.persistence
            .as_ref()
            .is_some_and(Persistence::by_cookie)
    }
}

/// What members speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PoolProtocol {
    /// Bytes.
    Tcp,
    /// HTTP/1.1.
    Http,
    /// TLS passed through.
    Https,
    /// PROXY protocol version 1, then bytes or HTTP as the listener speaks.
    Proxy,
    /// PROXY protocol version 2.
    Proxyv2,
}

/// How a member is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Algorithm {
    /// Smooth weighted round robin.
    RoundRobin,
    /// Weighted least connections.
    LeastConnections,
    /// Weighted hash of the client address.
    SourceIp,
    /// Weighted hash of client address and port.
    SourceIpPort,
}

/// Stickiness of clients to members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum Persistence {
    /// By client address.
    SourceIp {
        /// Entries unused for this long are forgotten.
        timeout: Millis,
    },
    /// By a cookie that we insert.
    HttpCookie,
    /// By a cookie of the application, learned from responses.
    AppCookie {
        /// Its name.
        cookie_name: String,
    },
}

impl Persistence {
    /// Whether it looks at a cookie.
    pub fn by_cookie(&self) -> bool {
        matches!(self, Self::HttpCookie | Self::AppCookie { .. })
    }
}

/// TLS towards members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolTls {
    /// Client certificate shown to members.
    #[serde(default)]
    pub certificate: Option<CertificateId>,
    /// CA bundle that must have signed the members' certificates. None: not verified.
    #[serde(default)]
    pub ca: Option<CertificateId>,
    /// CRL.
    #[serde(default)]
    pub crl: Option<CertificateId>,
    /// Versions. Empty: all.
    #[serde(default)]
    pub versions: Vec<TlsVersion>,
    /// OpenSSL cipher names. Empty: the library's choice.
    #[serde(default)]
    pub ciphers: Vec<String>,
    /// Offered protocols (ALPN). Empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
}

/// A member of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Identifier; runtime state (connections, health, statistics) is keyed by it.
    pub id: MemberId,
    /// For logs only.
    #[serde(default)]
    pub name: String,
    /// Administrative state; false: gets nothing.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: Port,
    /// Share of the load; 0 drains.
    pub weight: Weight,
    /// Used only when every other member is down.
    #[serde(default)]
    pub backup: bool,
    /// Address that probes use instead.
    #[serde(default)]
    pub monitor_address: Option<IpAddr>,
    /// Port that probes use instead.
    #[serde(default)]
    pub monitor_port: Option<Port>,
    /// Concurrent connections (in HTTP: requests in flight) that it gets, at least 1; more wait, see
    /// [`PoolOptions::queue_limit`]. None is unlimited. Probes do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<u32>,
    /// Why it can serve nobody for now, 1 to [`Self::MAX_DOWN`] bytes: it is down with this reason, and not probed.
    /// An appliance says so of a name without an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<String>,
}

impl Member {
    /// The longest reason of `down`: a line of a status.
    pub const MAX_DOWN: usize = 500;
}

/// Active health checks of a pool's members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthMonitor {
    /// Identifier.
    pub id: HealthMonitorId,
    /// Administrative state; false: as if there were none.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What is probed.
    pub check: HealthCheck,
    /// From the start of one probe to the start of the next; at least [`Self::MIN_DELAY`].
    pub delay: Millis,
    /// How long one probe may take.
    pub timeout: Millis,
    /// Successes in a row that bring a member up (`max_retries`).
    pub rise: ProbeCount,
    /// Failures in a row that take it down (`max_retries_down`).
    pub fall: ProbeCount,
}

impl HealthMonitor {
    /// The shortest delay: what comes faster loads members with probes, not with clients.
    pub const MIN_DELAY: Millis = Millis::literal(50);
}

/// What a health monitor probes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING-KEBAB-CASE", deny_unknown_fields)]
pub enum HealthCheck {
    /// The member accepts a connection.
    Tcp,
    /// The member answers an ICMP echo.
    Ping,
    /// The member answers a ClientHello with a ServerHello.
    TlsHello,
    /// The member answers a request with an expected status.
    Http(HttpCheck),
    /// The same inside TLS, without verification.
    Https(HttpCheck),
}

/// An HTTP probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    /// Method.
    pub method: String,
    /// Path, begins with `/`.
    pub path: String,
    /// Inclusive ranges of statuses that count as success.
    pub expected: Vec<(StatusCode, StatusCode)>,
    /// `1.0` or `1.1`.
    #[serde(default)]
    pub version: HttpVersion,
    /// Host header; needs 1.1.
    #[serde(default)]
    pub host: Option<String>,
}

/// Version in a probe's request line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum HttpVersion {
    /// HTTP/1.0
    #[default]
    #[serde(rename = "1.0")]
    Http10,
    /// HTTP/1.1
    #[serde(rename = "1.1")]
    Http11,
}
