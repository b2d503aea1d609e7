//! Answers of our own: refusals and redirects.

use krater_dataplane_core::http1::{Refusal, Version, rewrite};
use krater_model::state::Hsts;
use std::io::Write as _;

/// What every answer needs to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    /// Version of the request; HTTP/1.1 when it could not be read.
    pub version: Version,
    /// The connection closes after it.
    pub close: bool,
    /// The request was HEAD: no body.
    pub head_only: bool,
    /// Strict-Transport-Security, on TLS.
    pub hsts: Option<Hsts>,
}

/// Writes a refusal.
pub(super) fn refusal(out: &mut Vec<u8>, why: Refusal, frame: Frame) {
    let status = why.status();
    let phrase = phrase(status);
    // The client learns the status alone; the reason is in our log.
    let body_length = phrase.len() + 5;
    put(
        out,
        format_args!(
            "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain\r\nContent-Length: {body_length}\r\nCache-Control: no-cache\r\n"
        ),
    );
    if status == 405 {
        out.extend_from_slice(b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n");
    }
    end(out, frame);
    if !frame.head_only {
        put(out, format_args!("{status} {phrase}\n"));
    }
}

/// Writes a redirect to `location`, followed by `path` when there is one.
pub(super) fn redirect(out: &mut Vec<u8>, code: u16, location: &str, path: &[u8], frame: Frame) {
    // A path alone that begins with two slashes would be another host (RFC 3986 section 4.2).
    let slashes = path.iter().take_while(|c| **c == b'/').count();
    let path = match location.is_empty() {
        true => path.get(slashes.saturating_sub(1)..).unwrap_or_default(),
        false => path,
    };
    put(
        out,
        format_args!(
            "HTTP/1.1 {code} {}\r\nContent-Length: 0\r\nCache-Control: no-cache\r\nLocation: {location}",
            phrase(code)
        ),
    );
    out.extend_from_slice(path);
    out.extend_from_slice(b"\r\n");
    end(out, frame);
}

fn end(out: &mut Vec<u8>, frame: Frame) {
    if let Some(hsts) = &frame.hsts {
        rewrite::strict_transport_security(out, hsts);
    }
    rewrite::connection(out, frame.version, frame.close);
    out.extend_from_slice(b"\r\n");
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a vector cannot fail.
    let _ = out.write_fmt(text);
}

const fn phrase(status: u16) -> &'static str {
    match status {
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use krater_dataplane_core::http1::Fault;

    const FRAME: Frame = Frame {
        version: Version::Http11,
        close: true,
        head_only: false,
        hsts: None,
    };

    #[test]
    fn length_is_that_of_the_body() {
        for why in [
            Refusal::Rejected,
            Refusal::NoMember,
            Refusal::Request(Fault::HeadTooLarge),
            Refusal::Request(Fault::Connect),
            Refusal::MemberTimeout,
        ] {
            let mut out = Vec::new();
            refusal(&mut out, why, FRAME);
            let text = String::from_utf8(out).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(
                head.contains(&format!("Content-Length: {}\r\n", body.len())),
                "{text}"
            );
            assert!(head.contains("\r\nConnection: close"), "{text}");
            assert_eq!(head.contains("\r\nAllow: "), why.status() == 405);
        }
    }

    #[test]
    fn redirect_appends_the_path() {
        let mut out = Vec::new();
        redirect(&mut out, 307, "https://b.example", b"/a?x=1", FRAME);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 307 Temporary Redirect\r\n"));
        assert!(text.contains("\r\nLocation: https://b.example/a?x=1\r\n"));
        for (location, path, whole) in [
            ("", "/a//b", "/a//b"),
            ("", "//evil.example/", "/evil.example/"),
            ("", "///evil.example/", "/evil.example/"),
            ("https://b.example", "//a", "https://b.example//a"),
        ] {
            let mut out = Vec::new();
            redirect(&mut out, 302, location, path.as_bytes(), FRAME);
            let text = String::from_utf8(out).unwrap();
            assert!(
                text.contains(&format!("\r\nLocation: {whole}\r\n")),
                "{text}"
            );
        }
    }
}
