//! What can be wrong with a message, and how a request ends that gets no member's answer.

use crate::shortage::Own;

/// A violation found in a message. One variant per rule, so that tests and logs name the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// LF without CR before it (RFC 9112 section 2.2 lets us refuse it).
    BareLineFeed,
    /// CR without LF after it (RFC 9112 section 2.2).
    BareCarriageReturn,
    /// A control byte (RFC 9110 section 5.5).
    ControlByte,
    /// A line that begins with white space (RFC 9112 section 5.2).
    ObsoleteFold,
    /// White space between field name and colon (RFC 9112 section 5.1).
    SpaceBeforeColon,
    /// A field name that is no token (RFC 9110 section 5.1).
    FieldName,
    /// A field value with bytes it may not have (RFC 9110 section 5.5).
    FieldValue,
    /// A start line that is none (RFC 9112 section 3).
    RequestLine,
    /// A method that is no token or too long (RFC 9110 section 9.1).
    MethodToken,
    /// Neither HTTP/1.0 nor HTTP/1.1 (RFC 9112 section 2.3).
    Version,
    /// A request target in no allowed form (RFC 9112 section 3.2).
    Target,
    /// CONNECT (RFC 9110 section 9.3.6).
    Connect,
    /// HTTP/1.1 without Host (RFC 9112 section 3.2).
    HostMissing,
    /// More than one Host (RFC 9112 section 3.2).
    HostSeveral,
    /// A Host that is no `uri-host [":" port]` (RFC 9110 section 7.2).
    HostInvalid,
    /// Host and the target's authority differ (RFC 9112 section 3.2.2).
    HostMismatch,
    /// The head does not fit [`super::MAX_HEAD`].
    HeadTooLarge,
    /// More than [`super::MAX_FIELDS`] fields.
    TooManyFields,
    /// Content-Length that is no plain number (RFC 9110 section 8.6).
    ContentLength,
    /// A Content-Length beyond 2^63 (RFC 9110 section 15.5.14).
    ContentTooLarge,
    /// Several Content-Lengths (RFC 9112 section 6.3).
    ContentLengthSeveral,
    /// Content-Length and Transfer-Encoding (RFC 9112 section 6.1).
    BothFramings,
    /// Transfer-Encoding in an HTTP/1.0 message (RFC 9112 section 6.1).
    TransferEncodingInHttp10,
    /// A Transfer-Encoding that is no list of codings (RFC 9112 sections 6.1 and 7).
    TransferCodingSyntax,
    /// A transfer coding other than chunked (RFC 9112 section 6.1).
    TransferCodingUnknown,
    /// Codings in an order that leaves the length open (RFC 9112 section 6.3).
    TransferCodingOrder,
    /// A chunk size that is none, or too large (RFC 9112 section 7.1).
    ChunkSize,
    /// A chunk extension with forbidden bytes (RFC 9112 section 7.1.1).
    ChunkExtension,
    /// More chunk extensions than any honest sender has.
    ChunkExtensionTooLong,
    /// Chunk data not followed by CRLF (RFC 9112 section 7.1).
    ChunkEnd,
    /// A trailer field that is none, or that must not stand there (RFC 9110 section 6.5.1).
    Trailer,
    /// Trailers larger than [`super::chunked::MAX_TRAILERS`].
    TrailersTooLarge,
    /// The status line is none (RFC 9112 section 4).
    StatusLine,
    /// More interim responses than any honest member has (RFC 9110 section 15.2).
    InterimFlood,
    /// 101 without a request for it (RFC 9110 section 15.2.2).
    UnexpectedUpgrade,
    /// A WebSocket without a usable key (RFC 6455 section 4.2.1).
    WebSocketKey,
    /// A WebSocket accepted with another key (RFC 6455 section 4.2.2).
    WebSocketAccept,
    /// The peer closed in the middle of a message (RFC 9112 section 8).
    Truncated,
}

impl Fault {
    /// The status when the client is at fault.
    pub const fn status(self) -> u16 {
        match self {
            Self::Connect => 405,
            Self::ContentTooLarge => 413,
            Self::HeadTooLarge | Self::TooManyFields | Self::TrailersTooLarge => 431,
            Self::TransferCodingUnknown => 501,
            _ => 400,
        }
    }

    /// For logs: what was wrong.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::BareLineFeed => "bare LF",
            Self::BareCarriageReturn => "bare CR",
            Self::ControlByte => "control byte",
            Self::ObsoleteFold => "line folding",
            Self::SpaceBeforeColon => "white space before the colon",
            Self::FieldName => "invalid field name",
            Self::FieldValue => "invalid field value",
            Self::RequestLine => "invalid request line",
            Self::MethodToken => "invalid method",
            Self::Version => "version is neither HTTP/1.0 nor HTTP/1.1",
            Self::Target => "invalid request target",
            Self::Connect => "CONNECT is not allowed",
            Self::HostMissing => "Host missing",
            Self::HostSeveral => "several Host fields",
            Self::HostInvalid => "invalid Host",
            Self::HostMismatch => "Host and request target differ",
            Self::HeadTooLarge => "head too large",
            Self::TooManyFields => "too many fields",
            Self::ContentLength => "invalid Content-Length",
            Self::ContentTooLarge => "Content-Length larger than any body",
            Self::ContentLengthSeveral => "several Content-Lengths",
            Self::BothFramings => "Content-Length and Transfer-Encoding",
            Self::TransferEncodingInHttp10 => "Transfer-Encoding in HTTP/1.0",
            Self::TransferCodingSyntax => "invalid Transfer-Encoding",
            Self::TransferCodingUnknown => "unknown transfer coding",
            Self::TransferCodingOrder => "chunked is not the last transfer coding",
            Self::ChunkSize => "invalid chunk size",
            Self::ChunkExtension => "invalid chunk extension",
            Self::ChunkExtensionTooLong => "chunk extensions too long",
            Self::ChunkEnd => "chunk not ended by CRLF",
            Self::Trailer => "invalid trailer field",
            Self::TrailersTooLarge => "trailers too large",
            Self::StatusLine => "invalid status line",
            Self::InterimFlood => "too many interim responses",
            Self::UnexpectedUpgrade => "101 that nobody asked for",
            Self::WebSocketKey => "invalid Sec-WebSocket-Key",
            Self::WebSocketAccept => "Sec-WebSocket-Accept does not match the key",
            Self::Truncated => "message cut short",
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for Fault {}

/// Why a request gets an answer of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The client's message is wrong.
    Request(Fault),
    /// An L7 policy rejects it.
    Rejected,
    /// The client did not finish its head or body in time.
    RequestTimeout,
    /// The member's message is wrong.
    Response(Fault),
    /// The member closed or reset before its answer.
    MemberGone,
    /// No member can take the request.
    NoMember,
    /// No member accepted a connection.
    ConnectFailed,
    /// All members are at their limits, and as many wait as may.
    QueueFull,
    /// All members were at their limits for as long as one may wait.
    QueueTimeout,
    /// We lack what a connection to a member needs.
    Own(Own),
    /// The member did not answer in time.
    MemberTimeout,
    /// Something in this process failed.
    Internal,
}

impl Refusal {
    /// Status of the answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::Request(fault) => fault.status(),
            Self::Rejected => 403,
            Self::RequestTimeout => 408,
            Self::Response(_) | Self::MemberGone => 502,
            Self::NoMember
            | Self::ConnectFailed
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::Own(_)
            | Self::Internal => 503,
            Self::MemberTimeout => 504,
        }
    }

    /// Whether the client is to blame (counts as a request error).
    pub const fn client_fault(self) -> bool {
        matches!(
            self,
            Self::Request(_) | Self::Rejected | Self::RequestTimeout
        )
    }

    /// For logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Request(fault) | Self::Response(fault) => fault.reason(),
            Self::Rejected => "rejected by policy",
            Self::RequestTimeout => "request not complete in time",
            Self::MemberGone => "member closed before its answer",
            Self::NoMember => "no member available",
            Self::ConnectFailed => "no member accepted the connection",
            Self::QueueFull => "members are at their limits and the queue is full",
            Self::QueueTimeout => "members were at their limits for too long",
            Self::Own(own) => own.reason(),
            Self::MemberTimeout => "member did not answer in time",
            Self::Internal => "internal failure",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Response(fault) => write!(f, "member's answer: {fault}"),
            other => f.write_str(other.reason()),
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Request(fault)
    }
}
