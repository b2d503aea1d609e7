//! Listeners.

use super::*;

/// A listener of a load balancer: one port on each of its VIPs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Identifier.
    pub id: ListenerId,
    /// For logs only.
    #[serde(default)]
    pub name: String,
    /// Administrative state; false: does not listen.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What clients speak.
    pub protocol: ListenerProtocol,
    /// Port.
    pub port: Port,
    /// Concurrent client connections; more wait in the backlog. None is unlimited.
    #[serde(default)]
    pub connection_limit: Option<u32>,
    /// Time-outs.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Client networks that may connect. Empty: all.
    #[serde(default)]
    pub allowed_cidrs: Vec<IpNet>,
    /// Headers added to requests; HTTP and TERMINATED_HTTPS only.
    #[serde(default)]
    pub insert_headers: Vec<InsertHeader>,
    /// Required for TERMINATED_HTTPS, refused elsewhere.
    #[serde(default)]
    pub tls: Option<ListenerTls>,
    /// Where connections and requests go that no policy takes. None: 503, or connection closed.
    #[serde(default)]
    pub default_pool: Option<PoolId>,
    /// L7 policies; HTTP and TERMINATED_HTTPS only.
    #[serde(default)]
    pub l7_policies: Vec<L7Policy>,
    /// What Octavia's API does not have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: ListenerOptions,
}

/// Options of appliances.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerOptions {
    /// Concurrent connections of one client: an IPv4 address, or an IPv6 network of 64 bits, which is
    /// what one customer has. More are closed before a byte is read.
    #[serde(default)]
    pub connections_per_client: Option<u32>,
    /// Networks of front ends whose connections begin with a PROXY protocol header, version 1 or 2, which
    /// names the client. Without one they are closed; from elsewhere a header is not believed.
    #[serde(default)]
    pub proxy_protocol_from: Vec<IpNet>,
    /// A line for each request, or for each connection where nobody looks at requests. None: no log, and no
    /// work for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
}

/// Where the lines of an access log go, and what they look like.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// What a line looks like.
    pub format: AccessLogFormat,
    /// `stdout`, or the absolute path of a file, which the data plane's user makes or appends to. Several
    /// listeners may share one.
    pub to: String,
}

impl AccessLog {
    /// [`Self::to`] for standard output.
    pub const STDOUT: &str = "stdout";
    /// Bytes of a path that the kernel takes (PATH_MAX without its NUL).
    pub const MAX_PATH: usize = 4_095;
}

/// What a line of an access log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogFormat {
    /// One JSON object.
    Json,
    /// HAProxy's `option httplog`, or `option tcplog` where nobody looks at requests.
    Haproxy,
}

/// Whether a part of a document says nothing, so that those who do not know it can read the rest.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What clients of a listener speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ListenerProtocol {
    /// Bytes.
    Tcp,
    /// HTTP/1.1.
    Http,
    /// TLS passed through untouched.
    Https,
    /// TLS ends here, HTTP/1.1 inside.
    TerminatedHttps,
}

impl ListenerProtocol {
    /// Whether requests are parsed.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::TerminatedHttps)
    }
}

/// A listener's time-outs, named as in Octavia; 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Client inactivity.
    pub client_data: Millis,
    /// Connect to a member.
    pub member_connect: Millis,
    /// Member inactivity.
    pub member_data: Millis,
    /// Wait for content inspection before the TCP connection is passed on.
    pub tcp_inspect: Millis,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            client_data: Millis::literal(50_000),
            member_connect: Millis::literal(5_000),
            member_data: Millis::literal(50_000),
            tcp_inspect: Millis::literal(0),
        }
    }
}

/// Headers a listener can add. A header of that name from the client never passes for ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum InsertHeader {
    /// Client address, appended.
    #[serde(rename = "X-Forwarded-For")]
    XForwardedFor,
    /// Listener port.
    #[serde(rename = "X-Forwarded-Port")]
    XForwardedPort,
    /// `http` or `https`.
    #[serde(rename = "X-Forwarded-Proto")]
    XForwardedProto,
    /// Client address, replaced.
    #[serde(rename = "X-Forwarded-IP")]
    XForwardedIp,
    /// Client address, replaced.
    #[serde(rename = "X-Client-IP")]
    XClientIp,
    /// Client address, replaced.
    #[serde(rename = "X-Real-IP")]
    XRealIp,
    /// Verification result of the client's certificate.
    #[serde(rename = "X-SSL-Client-Verify")]
    XSslClientVerify,
    /// Whether there is one.
    #[serde(rename = "X-SSL-Client-Has-Cert")]
    XSslClientHasCert,
    /// Distinguished name.
    #[serde(rename = "X-SSL-Client-DN")]
    XSslClientDn,
    /// Common name.
    #[serde(rename = "X-SSL-Client-CN")]
    XSslClientCn,
    /// Issuer's distinguished name.
    #[serde(rename = "X-SSL-Issuer")]
    XSslIssuer,
    /// SHA-1 of the certificate.
    #[serde(rename = "X-SSL-Client-SHA1")]
    XSslClientSha1,
    /// Start of validity.
    #[serde(rename = "X-SSL-Client-Not-Before")]
    XSslClientNotBefore,
    /// End of validity.
    #[serde(rename = "X-SSL-Client-Not-After")]
    XSslClientNotAfter,
}

impl InsertHeader {
    /// Those that only a TERMINATED_HTTPS listener can fill.
    pub const fn needs_tls(self) -> bool {
        !matches!(
            self,
            Self::XForwardedFor
                | Self::XForwardedPort
                | Self::XForwardedProto
                | Self::XForwardedIp
                | Self::XClientIp
                | Self::XRealIp
        )
    }
}

/// TLS towards clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Shown when no other matches the server name.
    pub default_certificate: CertificateId,
    /// Chosen by server name.
    #[serde(default)]
    pub sni_certificates: Vec<CertificateId>,
    /// Accepted versions, `TLSv1.2` and `TLSv1.3`. Empty: both.
    #[serde(default)]
    pub versions: Vec<TlsVersion>,
    /// OpenSSL cipher names. Empty: the library's choice.
    #[serde(default)]
    pub ciphers: Vec<String>,
    /// Offered protocols.
    #[serde(default)]
    pub alpn: Vec<String>,
    /// Client certificates.
    #[serde(default)]
    pub client_authentication: ClientAuthentication,
    /// CA bundle for client certificates.
    #[serde(default)]
    pub client_ca: Option<CertificateId>,
    /// CRL for client certificates.
    #[serde(default)]
    pub client_crl: Option<CertificateId>,
    /// Strict-Transport-Security.
    #[serde(default)]
    pub hsts: Option<Hsts>,
}

/// OpenSSL's names of the cipher suites that exist here, and whether they are of TLS 1.3.
pub const TLS_CIPHERS: [(&str, bool); 9] = [
    ("TLS_AES_256_GCM_SHA384", true),
    ("TLS_AES_128_GCM_SHA256", true),
    ("TLS_CHACHA20_POLY1305_SHA256", true),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", false),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", false),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", false),
    ("ECDHE-RSA-AES256-GCM-SHA384", false),
    ("ECDHE-RSA-AES128-GCM-SHA256", false),
    ("ECDHE-RSA-CHACHA20-POLY1305", false),
];

/// TLS protocol versions that exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2
    #[serde(rename = "TLSv1.2")]
    Tls12,
    /// TLS 1.3
    #[serde(rename = "TLSv1.3")]
    Tls13,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientAuthentication {
    /// Not asked.
    #[default]
    None,
    /// Asked.
    Optional,
    /// Required.
    Mandatory,
}

/// Strict-Transport-Security (RFC 6797).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hsts {
    /// Seconds.
    pub max_age: u32,
    /// Directive `includeSubDomains`.
    #[serde(default)]
    pub include_subdomains: bool,
    /// Directive `preload`.
    #[serde(default)]
    pub preload: bool,
}
