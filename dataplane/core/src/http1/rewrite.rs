//! Heads on their way out: hop-by-hop fields removed, ours added (RFC 9110 section 7.6).
//!
//! Lines that pass unchanged are copied in runs, as they came; nothing is allocated per field.

use super::framing::Framing;
use super::head::{Field, Known, Span, Version};
use super::request::RequestHead;
use super::response::ResponseHead;
use crate::exchange::{ClientCertificate, ClientInfo};
use krater_model::state::{Hsts, InsertHeader};
use std::io::Write as _;

/// Which headers a listener inserts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InsertPlan {
    wanted: u16,
}

const ALL: [(InsertHeader, Known, &str); 14] = [
    (
        InsertHeader::XForwardedFor,
        Known::XForwardedFor,
        "X-Forwarded-For",
    ),
    (
        InsertHeader::XForwardedPort,
        Known::XForwardedPort,
        "X-Forwarded-Port",
    ),
    (
        InsertHeader::XForwardedProto,
        Known::XForwardedProto,
        "X-Forwarded-Proto",
    ),
    (
        InsertHeader::XForwardedIp,
        Known::XForwardedIp,
        "X-Forwarded-IP",
    ),
    (InsertHeader::XClientIp, Known::XClientIp, "X-Client-IP"),
    (InsertHeader::XRealIp, Known::XRealIp, "X-Real-IP"),
    (
        InsertHeader::XSslClientVerify,
        Known::XSslClientVerify,
        "X-SSL-Client-Verify",
    ),
    (
        InsertHeader::XSslClientHasCert,
        Known::XSslClientHasCert,
        "X-SSL-Client-Has-Cert",
    ),
    (
        InsertHeader::XSslClientDn,
        Known::XSslClientDn,
        "X-SSL-Client-DN",
    ),
    (
        InsertHeader::XSslClientCn,
        Known::XSslClientCn,
        "X-SSL-Client-CN",
    ),
    (InsertHeader::XSslIssuer, Known::XSslIssuer, "X-SSL-Issuer"),
    (
        InsertHeader::XSslClientSha1,
        Known::XSslClientSha1,
        "X-SSL-Client-SHA1",
    ),
    (
        InsertHeader::XSslClientNotBefore,
        Known::XSslClientNotBefore,
        "X-SSL-Client-Not-Before",
    ),
    (
        InsertHeader::XSslClientNotAfter,
        Known::XSslClientNotAfter,
        "X-SSL-Client-Not-After",
    ),
];

impl InsertPlan {
    /// The plan of a listener.
    pub fn new(headers: &[InsertHeader]) -> Self {
        let mut wanted = 0;
        for (bit, (header, ..)) in ALL.iter().enumerate() {
            if headers.contains(header) {
                wanted |= 1 << bit;
            }
        }
        Self { wanted }
    }

    fn wants(self, bit: usize) -> bool {
        self.wanted & (1 << bit) != 0
    }

    /// Whether the client's copy of a field must not pass.
    fn replaces(self, known: Known) -> bool {
        self.wanted != 0
            && ALL
                .iter()
                .enumerate()
                .any(|(bit, (_, ours, _))| *ours == known && self.wants(bit))
    }
}

/// How a request head goes to a member.
#[derive(Debug, Clone, Copy)]
pub struct ToMember<'a> {
    /// Headers to insert.
    pub insert: InsertPlan,
    /// Who asks.
    pub client: &'a ClientInfo<'a>,
}

/// Appends the head that goes to a member. HTTP/1.1 always: the connection to a member is ours.
pub fn request(out: &mut Vec<u8>, head: &RequestHead, buffer: &[u8], how: &ToMember<'_>) {
    out.extend_from_slice(head.method_token(buffer));
    out.push(b' ');
    out.extend_from_slice(head.target_text(buffer));
    out.extend_from_slice(b" HTTP/1.1\r\n");
    // With an absolute-form target the authority is the host (RFC 9112 section 3.2.2); they are
    // equal when both are there.
    let has_host = head.fields.iter().any(|field| field.known == Known::Host);
    if !has_host {
        match head.host {
            Some(host) => {
                out.extend_from_slice(b"Host: ");
                out.extend_from_slice(host.of_buffer(buffer));
                out.extend_from_slice(b"\r\n");
            }
            // HTTP/1.0 without Host: what the client connected to.
            None => put(out, format_args!("Host: {}\r\n", how.client.local)),
        }
    }
    copy_lines(out, &head.fields, head.end, buffer, |field| {
        field.drop || how.insert.replaces(field.known)
    });
    if head.framing == Framing::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if head.upgrade {
        out.extend_from_slice(b"Connection: upgrade\r\n");
        upgrade_lines(out, &head.fields, buffer);
    }
    insert(out, head, buffer, how);
    out.extend_from_slice(b"\r\n");
}

fn upgrade_lines(out: &mut Vec<u8>, fields: &[Field], buffer: &[u8]) {
    for field in fields.iter().filter(|f| f.known == Known::Upgrade) {
        line(out, "Upgrade", field.value.of_buffer(buffer));
    }
}

fn insert(out: &mut Vec<u8>, head: &RequestHead, buffer: &[u8], how: &ToMember<'_>) {
    if how.insert.wanted == 0 {
        return;
    }
    let client = how.client;
    let none = ClientCertificate::default();
    let certificate = client.certificate.unwrap_or(&none);
    for (bit, (header, _, name)) in ALL.iter().enumerate() {
        if !how.insert.wants(bit) {
            continue;
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        match header {
            InsertHeader::XForwardedFor => {
                // One line, so that a reader of the first or the last line sees the same list.
                for field in head
                    .fields
                    .iter()
                    .filter(|f| f.known == Known::XForwardedFor)
                {
                    if !field.value.is_empty() {
                        out.extend_from_slice(field.value.of_buffer(buffer));
                        out.extend_from_slice(b", ");
                    }
                }
                put(out, format_args!("{}", client.peer));
            }
            InsertHeader::XForwardedPort => put(out, format_args!("{}", client.local.port())),
            InsertHeader::XForwardedProto => {
                out.extend_from_slice(if client.tls { b"https" } else { b"http" });
            }
            InsertHeader::XForwardedIp | InsertHeader::XClientIp | InsertHeader::XRealIp => {
                put(out, format_args!("{}", client.peer));
            }
            InsertHeader::XSslClientVerify => put(out, format_args!("{}", certificate.verify)),
            InsertHeader::XSslClientHasCert => {
                out.push(if client.certificate.is_some() {
                    b'1'
                } else {
                    b'0'
                });
            }
            InsertHeader::XSslClientDn => text(out, &certificate.subject),
            InsertHeader::XSslClientCn => text(out, certificate.common_name()),
            InsertHeader::XSslIssuer => text(out, &certificate.issuer),
            InsertHeader::XSslClientSha1 => text(out, &certificate.sha1),
            InsertHeader::XSslClientNotBefore => text(out, &certificate.not_before),
            InsertHeader::XSslClientNotAfter => text(out, &certificate.not_after),
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// How a response head goes to the client.
#[derive(Debug, Clone, Copy)]
pub struct ToClient {
    /// Version of the request.
    pub version: Version,
    /// The connection closes after this response.
    pub close: bool,
    /// The client gets the chunks' data alone: it does not know the coding.
    pub unchunk: bool,
    /// Strict-Transport-Security, on TLS.
    pub hsts: Option<Hsts>,
}

/// Appends the head that goes to the client.
pub fn response(out: &mut Vec<u8>, head: &ResponseHead, buffer: &[u8], how: &ToClient) {
    put(out, format_args!("HTTP/1.1 {} ", head.status));
    out.extend_from_slice(head.reason.of_buffer(buffer));
    out.extend_from_slice(b"\r\n");
    let set_hsts = how.hsts.is_some() && head.status >= 200;
    copy_lines(out, &head.fields, head.end, buffer, |field| {
        field.drop || set_hsts && field.known == Known::StrictTransportSecurity
    });
    if let Some(length) = head.reduced_length {
        put(out, format_args!("Content-Length: {length}\r\n"));
    }
    if head.framing == Framing::Chunked && !how.unchunk {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if head.status == 101 {
        out.extend_from_slice(b"Connection: upgrade\r\n");
        upgrade_lines(out, &head.fields, buffer);
    } else if head.status >= 200 {
        connection(out, how.version, how.close);
        if let Some(hsts) = &how.hsts {
            strict_transport_security(out, hsts);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// `Connection`, where the version's default does not say it (RFC 9112 section 9.3).
pub fn connection(out: &mut Vec<u8>, version: Version, close: bool) {
    match (version, close) {
        (_, true) => out.extend_from_slice(b"Connection: close\r\n"),
        (Version::Http10, false) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (Version::Http11, false) => {}
    }
}

/// RFC 6797 section 6.1.
pub fn strict_transport_security(out: &mut Vec<u8>, hsts: &Hsts) {
    put(
        out,
        format_args!("Strict-Transport-Security: max-age={};", hsts.max_age),
    );
    if hsts.include_subdomains {
        out.extend_from_slice(b" includeSubDomains;");
    }
    if hsts.preload {
        out.extend_from_slice(b" preload;");
    }
    out.extend_from_slice(b"\r\n");
}

/// Copies the field lines that `dropped` does not name. Each ends where the next begins, since
/// parsing allows CRLF alone as line end and no folding.
fn copy_lines(
    out: &mut Vec<u8>,
    fields: &[Field],
    end: u16,
    buffer: &[u8],
    dropped: impl Fn(&Field) -> bool,
) {
    let last = end.saturating_sub(2);
    let mut run = fields.first().map_or(last, |field| field.name.start);
    for (i, field) in fields.iter().enumerate() {
        if dropped(field) {
            let before = Span {
                start: run,
                end: field.name.start,
            };
            out.extend_from_slice(before.of_buffer(buffer));
            run = fields.get(i + 1).map_or(last, |next| next.name.start);
        }
    }
    let rest = Span {
        start: run,
        end: last,
    };
    out.extend_from_slice(rest.of_buffer(buffer));
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Text from a certificate: what could end the line is replaced.
fn text(out: &mut Vec<u8>, value: &str) {
    out.extend(
        value
            .bytes()
            .map(|b| if b < 0x20 || b == 0x7f { b'?' } else { b }),
    );
}

/// Formats into the buffer; writing to a vector cannot fail.
fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}
