//! What request and response heads share: finding the end, fields as spans, their meaning.

use super::fault::Fault;
use memchr::memchr;

/// Largest head in bytes, and the size of the buffer it is read into. HAProxy's `tune.bufsize`.
pub const MAX_HEAD: usize = 16 * 1024;
/// Most fields in a head. HAProxy's `tune.http.maxhdr`.
pub const MAX_FIELDS: usize = 101;

/// A range of the head's buffer. Two bytes each: a head is at most [`MAX_HEAD`] long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: u16,
    /// One past the last byte.
    pub end: u16,
}

impl Span {
    /// The range as a span; heads are shorter than 64 KiB, so this loses nothing.
    pub(super) fn new(start: usize, end: usize) -> Self {
        let short = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        Self {
            start: short(start),
            end: short(end),
        }
    }

    /// Where `part`, a slice of `whole`, lies in it.
    pub(super) fn of(part: &[u8], whole: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        Self::new(start, start + part.len())
    }

    /// The bytes; empty when `buffer` is not the one it was made for.
    #[inline]
    pub fn of_buffer(self, buffer: &[u8]) -> &[u8] {
        buffer
            .get(usize::from(self.start)..usize::from(self.end))
            .unwrap_or_default()
    }

    /// Length in bytes.
    pub const fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether it has no byte.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// HTTP versions that exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
}

/// Fields that the proxy acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Known {
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    ProxyConnection,
    Te,
    Trailer,
    Upgrade,
    Http2Settings,
    Expect,
    Cookie,
    SetCookie,
    StrictTransportSecurity,
    XForwardedFor,
    XForwardedPort,
    XForwardedProto,
    XForwardedIp,
    XClientIp,
    XRealIp,
    XSslClientVerify,
    XSslClientHasCert,
    XSslClientDn,
    XSslClientCn,
    XSslIssuer,
    XSslClientSha1,
    XSslClientNotBefore,
    XSslClientNotAfter,
}

impl Known {
    /// Finds a name. Case does not matter. In the `X-…` names whatever is neither letter nor digit counts as
    /// `-`: CGI-like members make `_` of all of it (RFC 3875 section 4.1.18 of `-`, PHP of `.` too), and a forged
    /// field must not pass for ours.
    pub fn of(name: &[u8]) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let alike = |known: &str| {
            name.iter().zip(known.as_bytes()).all(|(a, b)| {
                let a = match a.to_ascii_lowercase() {
                    a if a.is_ascii_alphanumeric() => a,
                    _ => b'-',
                };
                a == *b
            })
        };
        // One comparison per name at most for nearly all traffic: the length decides first.
        match name.len() {
            2 if is("te") => Self::Te,
            4 if is("host") => Self::Host,
            6 if is("cookie") => Self::Cookie,
            6 if is("expect") => Self::Expect,
            7 if is("upgrade") => Self::Upgrade,
            7 if is("trailer") => Self::Trailer,
            9 if alike("x-real-ip") => Self::XRealIp,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::KeepAlive,
            10 if is("set-cookie") => Self::SetCookie,
            11 if alike("x-client-ip") => Self::XClientIp,
            12 if alike("x-ssl-issuer") => Self::XSslIssuer,
            14 if is("content-length") => Self::ContentLength,
            14 if alike("x-forwarded-ip") => Self::XForwardedIp,
            14 if is("http2-settings") => Self::Http2Settings,
            15 if alike("x-forwarded-for") => Self::XForwardedFor,
            15 if alike("x-ssl-client-dn") => Self::XSslClientDn,
            15 if alike("x-ssl-client-cn") => Self::XSslClientCn,
            16 if is("proxy-connection") => Self::ProxyConnection,
            16 if alike("x-forwarded-port") => Self::XForwardedPort,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            17 if alike("x-forwarded-proto") => Self::XForwardedProto,
            17 if alike("x-ssl-client-sha1") => Self::XSslClientSha1,
            19 if alike("x-ssl-client-verify") => Self::XSslClientVerify,
            21 if alike("x-ssl-client-has-cert") => Self::XSslClientHasCert,
            22 if alike("x-ssl-client-not-after") => Self::XSslClientNotAfter,
            23 if alike("x-ssl-client-not-before") => Self::XSslClientNotBefore,
            25 if is("strict-transport-security") => Self::StrictTransportSecurity,
            _ => Self::Other,
        }
    }

    /// Never forwarded: it speaks of this connection alone (RFC 9110 section 7.6.1).
    pub const fn hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::Upgrade
                | Self::Http2Settings
                | Self::TransferEncoding
        )
    }

    /// Must not stand in trailers (RFC 9110 section 6.5.1), nor can `Connection` strip it: it
    /// frames, routes or identifies.
    pub const fn protected(self) -> bool {
        !matches!(self, Self::Other | Self::Trailer)
    }
}

/// A field line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Name as received.
    pub name: Span,
    /// Value without white space around it.
    pub value: Span,
    /// Meaning.
    pub known: Known,
    /// Not forwarded.
    pub drop: bool,
}

/// What `Connection` says (RFC 9110 section 7.6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionOptions {
    /// `close`
    pub close: bool,
    /// `keep-alive`
    pub keep_alive: bool,
    /// `upgrade`
    pub upgrade: bool,
    /// Names other fields, which must be dropped.
    pub names_fields: bool,
}

/// What has been looked at of a head that arrives in pieces. Each byte is looked at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scanner {
    /// Bytes that begin an empty line before the start line (RFC 9112 section 2.2).
    skipped: usize,
    /// Everything before was seen.
    seen: usize,
    /// Where the line begins that is being looked at.
    line: usize,
}

/// What [`Scanner::scan`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// The head goes on.
    Partial,
    /// The head lies in this range of the buffer, the empty line at its end included.
    Complete {
        /// First byte of the start line.
        start: usize,
        /// First byte after the head.
        end: usize,
    },
}

impl Scanner {
    /// Looks at what is new in `buffer`, which begins where it began at the last call.
    pub fn scan(&mut self, buffer: &[u8]) -> Result<Scan, Fault> {
        if self.seen == 0 && self.skipped == 0 && buffer.starts_with(b"\r\n") {
            self.skipped = 2;
            self.seen = 2;
            self.line = 2;
        }
        if self.skipped == 0 && buffer == b"\r" {
            return Ok(Scan::Partial); // half of the empty line
        }
        let mut from = self.seen;
        self.line_begins_well(buffer, from)?;
        while let Some(at) = memchr(b'\n', buffer.get(from..).unwrap_or_default()) {
            let lf = from + at;
            if lf == self.line || buffer[lf - 1] != b'\r' {
                return Err(Fault::BareLineFeed);
            }
            if lf - 1 == self.line {
                if self.line == self.skipped {
                    return Err(Fault::RequestLine); // a second empty line
                }
                if lf + 1 > MAX_HEAD {
                    return Err(Fault::HeadTooLarge);
                }
                return Ok(Scan::Complete {
                    start: self.skipped,
                    end: lf + 1,
                });
            }
            from = lf + 1;
            self.line = from;
            self.line_begins_well(buffer, from)?;
        }
        // Garbage is refused before the deadline: what is new of the unfinished line is looked at.
        let fresh = buffer.get(from.max(self.seen)..).unwrap_or_default();
        if fresh
            .iter()
            .any(|b| (*b < 0x20 && !matches!(b, b'\r' | b'\t')) || *b == 0x7f)
        {
            return Err(Fault::ControlByte);
        }
        self.seen = buffer.len();
        if buffer.len() >= MAX_HEAD {
            return Err(Fault::HeadTooLarge);
        }
        Ok(Scan::Partial)
    }

    /// No line begins with white space. Its first byte may come in another piece than the end of the
    /// line before.
    fn line_begins_well(&self, buffer: &[u8], from: usize) -> Result<(), Fault> {
        if from != self.line || !matches!(buffer.get(from), Some(b' ' | b'\t')) {
            return Ok(());
        }
        Err(if from == self.skipped {
            Fault::RequestLine
        } else {
            Fault::ObsoleteFold
        })
    }
}

/// Turns httparse's fields into spans of `buffer`.
pub(super) fn spans(fields: &mut Vec<Field>, parsed: &[httparse::Header<'_>], buffer: &[u8]) {
    fields.clear();
    fields.extend(parsed.iter().map(|header| {
        let known = Known::of(header.name.as_bytes());
        Field {
            name: Span::of(header.name.as_bytes(), buffer),
            value: Span::of(header.value, buffer),
            known,
            drop: known.hop_by_hop(),
        }
    }));
}

/// Names the rule that httparse saw broken.
pub(super) fn fault_of(error: httparse::Error, head: &[u8], start_line: Fault) -> Fault {
    use httparse::Error;
    if let Some(fault) = bare_cr_or_control(head) {
        return fault;
    }
    match error {
        Error::HeaderName if space_before_colon(head) => Fault::SpaceBeforeColon,
        Error::HeaderName => Fault::FieldName,
        Error::HeaderValue => Fault::FieldValue,
        Error::TooManyHeaders => Fault::TooManyFields,
        Error::Version => Fault::Version,
        Error::NewLine | Error::Status | Error::Token => start_line,
    }
}

fn bare_cr_or_control(head: &[u8]) -> Option<Fault> {
    for (i, byte) in head.iter().enumerate() {
        match byte {
            b'\r' if head.get(i + 1) != Some(&b'\n') => return Some(Fault::BareCarriageReturn),
            b'\r' | b'\n' | b'\t' => {}
            0..0x20 | 0x7f => return Some(Fault::ControlByte),
            _ => {}
        }
    }
    None
}

fn space_before_colon(head: &[u8]) -> bool {
    head.split(|b| *b == b'\n').skip(1).any(|line| {
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        name.len() < line.len() && name.last().is_some_and(|b| matches!(b, b' ' | b'\t'))
    })
}

/// Elements of a comma-separated list, white space trimmed, empty ones left out (RFC 9110
/// section 5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Reads `Connection` and marks the fields that it names for dropping.
pub(super) fn connection_options(fields: &mut [Field], buffer: &[u8]) -> ConnectionOptions {
    let mut options = ConnectionOptions::default();
    for i in 0..fields.len() {
        if fields[i].known != Known::Connection {
            continue;
        }
        for token in list(fields[i].value.of_buffer(buffer)) {
            if token.eq_ignore_ascii_case(b"close") {
                options.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                options.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                options.upgrade = true;
            } else {
                options.names_fields = true;
                for field in fields.iter_mut() {
                    // A client must not strip what frames, routes or identifies its request.
                    let name = field.name.of_buffer(buffer);
                    field.drop |= !field.known.protected() && name.eq_ignore_ascii_case(token);
                }
            }
        }
    }
    options
}

/// What the framing fields say, before the rules of requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FramingFields {
    pub length: Option<u64>,
    pub chunked: bool,
    /// No field says the length plainly: they were lists, and are dropped.
    pub reduced: bool,
}

/// Reads Content-Length and Transfer-Encoding. `same_length_ok`: repeated equal Content-Lengths
/// are reduced to one (RFC 9110 section 8.6 allows it; we do it for members only).
pub(super) fn framing_fields(
    fields: &mut [Field],
    buffer: &[u8],
    version: Version,
    same_length_ok: bool,
) -> Result<FramingFields, Fault> {
    let mut found = FramingFields::default();
    let mut coded = false;
    let mut kept = false;
    for field in fields {
        let value = field.value.of_buffer(buffer);
        match field.known {
            Known::ContentLength => {
                let several = memchr(b',', value).is_some();
                if !same_length_ok && several {
                    return Err(Fault::ContentLengthSeveral);
                }
                for element in value.split(|b| *b == b',') {
                    let length = content_length(match several {
                        true => element.trim_ascii(),
                        false => element,
                    })?;
                    match found.length {
                        None => found.length = Some(length),
                        Some(same) if same_length_ok && same == length => {}
                        Some(_) => return Err(Fault::ContentLengthSeveral),
                    }
                }
                // One plain field passes.
                field.drop = several || kept;
                kept |= !several;
            }
            Known::TransferEncoding => {
                coded = true;
                let mut any = false;
                for coding in list(value) {
                    any = true;
                    if found.chunked {
                        return Err(Fault::TransferCodingOrder);
                    }
                    if !coding.eq_ignore_ascii_case(b"chunked") {
                        return Err(unknown_coding(coding));
                    }
                    found.chunked = true;
                }
                if !any {
                    return Err(Fault::TransferCodingSyntax);
                }
            }
            _ => {}
        }
    }
    if coded && version == Version::Http10 {
        return Err(Fault::TransferEncodingInHttp10);
    }
    if coded && found.length.is_some() {
        return Err(Fault::BothFramings);
    }
    found.reduced = found.length.is_some() && !kept;
    Ok(found)
}

/// A coding that is not chunked: unknown when it is one at all (RFC 9112 section 7).
fn unknown_coding(coding: &[u8]) -> Fault {
    let name = coding.split(|b| *b == b';').next().unwrap_or_default();
    let name = name.trim_ascii();
    if name.is_empty()
        || !name.iter().all(|b| is_token(*b))
        || name.eq_ignore_ascii_case(b"chunked")
    {
        return Fault::TransferCodingSyntax; // chunked has no parameters
    }
    Fault::TransferCodingUnknown
}

/// `1*DIGIT`. Below 2^63, as what is larger is no length for others.
fn content_length(value: &[u8]) -> Result<u64, Fault> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Fault::ContentLength);
    }
    let digit = |length: u64, byte: &u8| {
        let length = length
            .checked_mul(10)?
            .checked_add(u64::from(byte - b'0'))?;
        i64::try_from(length).is_ok().then_some(length)
    };
    // RFC 9110 section 8.6: a large number is a number, and must not overflow.
    match value.first() {
        Some(b'0') if value.len() > 19 => Err(Fault::ContentLength),
        _ => value
            .iter()
            .try_fold(0, digit)
            .ok_or(Fault::ContentTooLarge),
    }
}

/// A byte that may stand in a token (RFC 9110 section 5.6.2).
pub(crate) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}
