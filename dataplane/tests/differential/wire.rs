//! Messages as they come over a socket, read forgivingly: what is compared must not be judged first.

use std::collections::BTreeMap;
use std::fmt;

/// What is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    /// An answer, to HEAD or not.
    Response {
        head: bool,
    },
}

/// A message, normalised: field names in lower case and in order, fields of one name joined
/// (RFC 9110 section 5.3), the chunked coding taken off.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Message {
    /// Start line.
    pub(crate) start: String,
    /// Fields.
    pub(crate) fields: BTreeMap<String, String>,
    /// How the body's end was announced.
    pub(crate) framing: &'static str,
    /// Body.
    pub(crate) body: Vec<u8>,
    /// Trailer fields.
    pub(crate) trailers: BTreeMap<String, String>,
    /// The stream ended in the middle of it.
    pub(crate) cut: bool,
}

impl Message {
    pub(crate) fn status(&self) -> u16 {
        let digits = self.start.split(' ').nth(1).unwrap_or_default();
        digits.parse().unwrap_or(0)
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// A head that announces no end of its own.
    fn head(text: &[u8]) -> Self {
        let mut lines = text.split(|b| *b == b'\n').map(trim);
        let start = escape(lines.next().unwrap_or_default());
        Self {
            start,
            fields: fields(lines),
            framing: "no body",
            ..Self::default()
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.start)?;
        for (name, value) in &self.fields {
            writeln!(f, "  {name}: {value}")?;
        }
        let cut = if self.cut { ", cut" } else { "" };
        writeln!(f, "  ({}{cut}) {}", self.framing, escape(&self.body))?;
        for (name, value) in &self.trailers {
            writeln!(f, "  trailer {name}: {value}")?;
        }
        Ok(())
    }
}

/// The message at the beginning of `bytes` and its length. None: more must come. At the end of the
/// stream whatever is there is a message, perhaps a cut one.
pub(crate) fn message(bytes: &[u8], kind: Kind, ended: bool) -> Option<(Message, usize)> {
    let Some(end) = find(bytes, b"\r\n\r\n").map(|at| at + 4) else {
        return (ended && !bytes.is_empty()).then(|| {
            let mut cut = Message::head(bytes);
            cut.cut = true;
            (cut, bytes.len())
        });
    };
    let mut message = Message::head(&bytes[..end - 4]);
    let rest = &bytes[end..];
    let bodyless = match kind {
        Kind::Request => false,
        Kind::Response { head } => head || matches!(message.status(), 100..200 | 204 | 304),
    };
    if kind != Kind::Request && message.status() == 101 {
        message.framing = "tunnel";
        message.body = rest.to_vec();
        return ended.then_some((message, bytes.len()));
    }
    let chunked = message.field("transfer-encoding").is_some();
    if bodyless {
        return Some((message, end));
    }
    if chunked {
        message.framing = "chunked";
        message.fields.remove("transfer-encoding");
        return match dechunk(rest, &mut message) {
            Some(used) => Some((message, end + used)),
            None if ended => {
                message.cut = true;
                Some((message, bytes.len()))
            }
            None => None,
        };
    }
    if let Some(length) = message.field("content-length") {
        let length = length.parse().unwrap_or(usize::MAX);
        message.framing = "length";
        let there = length.min(rest.len());
        message.body = rest[..there].to_vec();
        message.cut = there < length;
        return (!message.cut || ended).then_some((message, end + there));
    }
    if kind == Kind::Request {
        return Some((message, end));
    }
    message.framing = "until close";
    message.body = rest.to_vec();
    ended.then_some((message, bytes.len()))
}

/// Takes chunks off; how many bytes they took, when all are there.
fn dechunk(mut rest: &[u8], message: &mut Message) -> Option<usize> {
    let whole = rest.len();
    message.body.clear();
    loop {
        let line = find(rest, b"\r\n")?;
        let digits: Vec<u8> = rest[..line]
            .iter()
            .copied()
            .take_while(u8::is_ascii_hexdigit)
            .collect();
        let size = usize::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
        rest = &rest[line + 2..];
        if size == 0 {
            if rest.starts_with(b"\r\n") {
                return Some(whole - rest.len() + 2);
            }
            let end = find(rest, b"\r\n\r\n")?;
            message.trailers = fields(rest[..end].split(|b| *b == b'\n').map(trim));
            return Some(whole - rest.len() + end + 4);
        }
        message
            .body
            .extend_from_slice(&rest[..size.min(rest.len())]);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a [u8]>) -> BTreeMap<String, String> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let name = escape(&line[..colon]).to_ascii_lowercase();
        let mut value = escape(line.get(colon + 1..).unwrap_or_default().trim_ascii());
        if name == "connection" {
            value.make_ascii_lowercase(); // RFC 9110 section 7.6.1
        }
        fields
            .entry(name)
            .and_modify(|old| {
                old.push_str(", ");
                old.push_str(&value);
            })
            .or_insert(value);
    }
    fields
}

fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Printable; long runs are shortened, by length, so that they still differ when they do.
pub(crate) fn escape(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=512 => bytes.escape_ascii().to_string(),
        n => format!("{}… ({n} bytes)", bytes[..64].escape_ascii()),
    }
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

#[test]
fn messages_are_read_to_their_end() {
    let read = |text: &str, kind, ended| message(text.as_bytes(), kind, ended);
    let ok = Kind::Response { head: false };
    let (m, used) = read(
        "HTTP/1.1 200 OK\r\nA: b\r\na: c\r\ncontent-length: 2\r\n\r\nokHTTP",
        ok,
        false,
    )
    .unwrap();
    assert_eq!(
        (m.field("a"), m.body.as_slice(), used),
        (Some("b, c"), &b"ok"[..], 52)
    );
    assert!(read("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", ok, false).is_none());
    assert!(
        read("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", ok, true)
            .unwrap()
            .0
            .cut
    );
    assert!(read("HTTP/1.1 200 OK\r\n\r\nok", ok, false).is_none());
    let text =
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2;x\r\nok\r\n0\r\nt: u\r\n\r\nGET";
    let (m, used) = read(text, Kind::Request, false).unwrap();
    assert_eq!((m.body.as_slice(), used), (&b"ok"[..], text.len() - 3));
    assert_eq!(m.trailers.get("t").map(String::as_str), Some("u"));
    assert!(read(&text[..text.len() - 5], Kind::Request, false).is_none());
    let (m, used) = read("HTTP/1.1 304 Not\r\ncontent-length: 3\r\n\r\n", ok, false).unwrap();
    assert_eq!((m.framing, used), ("no body", 39));
}
