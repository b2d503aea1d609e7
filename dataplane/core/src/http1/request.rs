//! Request heads.

use super::fault::Fault;
use super::framing::Framing;
use super::head::{
    ConnectionOptions, Field, Known, MAX_FIELDS, Span, Version, connection_options, fault_of,
    framing_fields, list, spans,
};
use crate::exchange::RequestView;

/// Longest method that is accepted, in bytes; the longest registered one has 17.
const MAX_METHOD: usize = 24;

/// Methods that the proxy treats specially.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// GET
    #[default]
    Get,
    /// HEAD: the response has no body.
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// OPTIONS: may have the target `*`.
    Options,
    /// TRACE
    Trace,
    /// Any other.
    Other,
}

impl Method {
    fn of(token: &[u8]) -> Self {
        match token {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }

    /// May be sent twice without harm (RFC 9110 section 9.2.2).
    pub const fn idempotent(self) -> bool {
        !matches!(self, Self::Post | Self::Other)
    }
}

/// Forms of the request target (RFC 9112 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetForm {
    /// `/path?query`
    #[default]
    Origin,
    /// `http://host/path`
    Absolute,
    /// `*`
    Asterisk,
}

/// A request head, as spans of the buffer it was parsed from. Kept and refilled, so that parsing
/// allocates nothing once the field list has grown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// Method.
    pub method: Method,
    /// Its token.
    pub method_span: Span,
    /// Form of the target.
    pub form: TargetForm,
    /// What goes to the member: path and query, or `*`. Empty for `http://host` (sent as `/`, or `*` with OPTIONS).
    pub target: Span,
    /// Path alone.
    pub path: Span,
    /// Host with port; none when an HTTP/1.0 client sent none.
    pub host: Option<Span>,
    /// Version.
    pub version: Version,
    /// Field lines in order.
    pub fields: Vec<Field>,
    /// Where the field lines begin.
    pub fields_start: u16,
    /// Where the head ends, its empty line included.
    pub end: u16,
    /// The body that follows.
    pub framing: Framing,
    /// The client keeps the connection open afterwards.
    pub keep_alive: bool,
    /// The client waits for 100 (Continue).
    pub expect_continue: bool,
    /// The client wants to switch protocols, and may.
    pub upgrade: bool,
    /// To one of these, as a list; empty without [`Self::upgrade`].
    pub offered: Vec<u8>,
    /// The key of a WebSocket's handshake; empty without one.
    pub websocket_key: Vec<u8>,
}

impl RequestHead {
    /// Parses the head that lies in `start..end` of `buffer`, as [`super::Scanner`] found it.
    pub fn parse(&mut self, buffer: &[u8], start: usize, end: usize) -> Result<(), Fault> {
        let head = buffer.get(start..end).ok_or(Fault::HeadTooLarge)?;
        let mut storage = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut []);
        let outcome = httparse::ParserConfig::default().parse_request_with_uninit_headers(
            &mut parsed,
            head,
            &mut storage,
        );
        match outcome {
            // The scanner saw the whole head; httparse may see an end only where we do.
            Ok(httparse::Status::Complete(n)) if n == head.len() => {}
            Ok(_) => return Err(Fault::RequestLine),
            Err(error) => return Err(fault_of(error, head, Fault::RequestLine)),
        }
        let (Some(method), Some(target), Some(minor)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(Fault::RequestLine);
        };
        self.version = if minor == 0 {
            Version::Http10
        } else {
            Version::Http11
        };
        self.end = Span::new(0, end).end;
        spans(&mut self.fields, parsed.headers, buffer);
        self.fields_start = match self.fields.first() {
            Some(field) => field.name.start,
            None => self.end - 2,
        };
        self.method_span = Span::of(method.as_bytes(), buffer);
        if method.is_empty() || method.len() > MAX_METHOD {
            return Err(Fault::MethodToken);
        }
        self.method = Method::of(method.as_bytes());
        if method == "CONNECT" {
            return Err(Fault::Connect);
        }
        self.host(buffer)?;
        self.target(target.as_bytes(), buffer)?;
        self.connection(buffer);
        let found = framing_fields(&mut self.fields, buffer, self.version, false)?;
        self.framing = match (found.chunked, found.length) {
            (true, _) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::None, // RFC 9112 section 6.3, rule 7
        };
        // A body before the switch would have to be relayed first; nobody does this. One of nothing is usual: Go's client
        // sends it with each POST, as `kubectl exec` does.
        self.upgrade &= self.framing.is_empty();
        self.handshake(buffer)
    }

    /// Keeps what the answer to an upgrade must match: the head itself is gone by then.
    fn handshake(&mut self, buffer: &[u8]) -> Result<(), Fault> {
        self.offered.clear();
        self.websocket_key.clear();
        if !self.upgrade {
            return Ok(());
        }
        let mut websocket = false;
        for field in self.fields.iter().filter(|f| f.known == Known::Upgrade) {
            for protocol in list(field.value.of_buffer(buffer)) {
                websocket |= protocol.eq_ignore_ascii_case(b"websocket");
                self.offered.extend_from_slice(protocol);
                self.offered.push(b',');
            }
        }
        if websocket {
            let key = only(&self.fields, b"sec-websocket-key", buffer)
                .filter(|key| valid_key(key))
                .ok_or(Fault::WebSocketKey)?;
            self.websocket_key.extend_from_slice(key);
        }
        Ok(())
    }

    /// Its method's token.
    pub fn method_token<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        self.method_span.of_buffer(buffer)
    }

    /// What to send as target.
    pub fn target_text<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        let text = self.target.of_buffer(buffer);
        match self.form {
            // RFC 9112 section 3.2.4: about the server as a whole.
            TargetForm::Absolute if text.is_empty() && self.method == Method::Options => b"*",
            TargetForm::Absolute if text.is_empty() => b"/",
            _ => text,
        }
    }

    /// For policies and logs.
    pub fn view<'a>(&'a self, buffer: &'a [u8]) -> Http1Request<'a> {
        Http1Request { head: self, buffer }
    }

    fn host(&mut self, buffer: &[u8]) -> Result<(), Fault> {
        self.host = None;
        for field in self.fields.iter().filter(|f| f.known == Known::Host) {
            if self.host.replace(field.value).is_some() {
                return Err(Fault::HostSeveral);
            }
        }
        match self.host {
            None if self.version == Version::Http11 => Err(Fault::HostMissing),
            Some(host) if !valid_host(host.of_buffer(buffer)) => Err(Fault::HostInvalid),
            _ => Ok(()),
        }
    }

    fn target(&mut self, target: &[u8], buffer: &[u8]) -> Result<(), Fault> {
        // Visible ASCII only, and no fragment: it never belongs in a request (RFC 9112 section 3.2).
        if !target
            .iter()
            .all(|b| matches!(b, 0x21..=0x7e) && *b != b'#')
        {
            return Err(Fault::Target);
        }
        let part = |part: &[u8]| Span::of(part, buffer);
        let path_of = |target: &[u8]| {
            let length = target
                .iter()
                .position(|b| *b == b'?')
                .unwrap_or(target.len());
            Span::of(target.get(..length).unwrap_or_default(), buffer)
        };
        if target.first() == Some(&b'/') {
            self.form = TargetForm::Origin;
            self.target = part(target);
            self.path = path_of(target);
            return Ok(());
        }
        if target == b"*" {
            self.form = TargetForm::Asterisk;
            self.target = part(target);
            self.path = part(target);
            return match self.method {
                Method::Options => Ok(()),
                _ => Err(Fault::Target), // RFC 9112 section 3.2.4
            };
        }
        let (rest, usual_port) = [(&b"http://"[..], &b":80"[..]), (b"https://", b":443")]
            .iter()
            .find_map(|(scheme, port)| {
                let (head, rest) = target.split_at_checked(scheme.len())?;
                head.eq_ignore_ascii_case(scheme).then_some((rest, *port))
            })
            .ok_or(Fault::Target)?;
        let length = rest
            .iter()
            .position(|b| matches!(b, b'/' | b'?'))
            .unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(length);
        // User information is refused by `valid_host` too (RFC 9110 section 4.2.4).
        if authority.is_empty() || !valid_host(authority) {
            return Err(Fault::Target);
        }
        // The usual port of the scheme may be named or not (RFC 9110 section 4.2.3).
        if let Some(host) = self.host.map(|host| host.of_buffer(buffer))
            && !without(usual_port, host).eq_ignore_ascii_case(without(usual_port, authority))
        {
            return Err(Fault::HostMismatch);
        }
        if rest.first() == Some(&b'?') {
            return Err(Fault::Target); // an empty path must be sent as "/" (RFC 9110 section 4.2.3)
        }
        self.form = TargetForm::Absolute;
        self.host = Some(part(authority));
        self.target = part(rest);
        self.path = path_of(rest);
        Ok(())
    }

    fn connection(&mut self, buffer: &[u8]) {
        let ConnectionOptions {
            close,
            keep_alive,
            upgrade,
            ..
        } = connection_options(&mut self.fields, buffer);
        self.keep_alive = match self.version {
            Version::Http11 => !close,
            Version::Http10 => keep_alive && !close,
        };
        self.expect_continue = false;
        let mut wanted = false;
        let mut allowed = true;
        for field in &mut self.fields {
            let value = field.value.of_buffer(buffer);
            match field.known {
                // RFC 9110 section 10.1.1: ignored from HTTP/1.0, and not made one of HTTP/1.1.
                Known::Expect if self.version == Version::Http10 => field.drop = true,
                Known::Expect => {
                    self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
                }
                Known::Upgrade => {
                    for protocol in list(value) {
                        wanted = true;
                        // HTTP/2 inside a tunnel would carry requests past every policy.
                        let lower = |n| protocol.get(..n).unwrap_or_default().to_ascii_lowercase();
                        allowed &= lower(3) != b"h2c" && lower(5) != b"http/";
                    }
                }
                _ => {}
            }
        }
        // RFC 9110 section 7.8: Upgrade needs the connection option, and HTTP/1.1.
        self.upgrade = upgrade && wanted && allowed && self.version == Version::Http11;
    }
}

/// The value of the only field with this name.
pub(super) fn only<'a>(fields: &[Field], name: &[u8], buffer: &'a [u8]) -> Option<&'a [u8]> {
    let mut named = fields
        .iter()
        .filter(|field| field.name.of_buffer(buffer).eq_ignore_ascii_case(name));
    let value = named.next()?.value.of_buffer(buffer);
    named.next().is_none().then_some(value)
}

/// Sixteen bytes in base64 (RFC 6455 section 4.2.1).
fn valid_key(key: &[u8]) -> bool {
    let digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key.iter().take(22).all(digit)
}

/// `host` without this port, if it names it.
fn without<'a>(port: &[u8], host: &'a [u8]) -> &'a [u8] {
    host.strip_suffix(port).unwrap_or(host)
}

/// `uri-host [":" port]` (RFC 9110 section 7.2). Empty is valid (RFC 9112 section 3.2).
fn valid_host(host: &[u8]) -> bool {
    let (name, port) = if host.first() == Some(&b'[') {
        let Some(end) = host.iter().position(|b| *b == b']') else {
            return false;
        };
        let (literal, rest) = host.split_at(end + 1);
        let inner = literal.get(1..end).unwrap_or_default();
        let plain = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
        if inner.is_empty() || !inner.iter().all(plain) {
            return false;
        }
        (&b"x"[..], rest)
    } else {
        let end = host.iter().position(|b| *b == b':').unwrap_or(host.len());
        host.split_at(end)
    };
    // reg-name without percent signs and sub-delims that no host has but attacks do.
    let name_ok = name
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'!'));
    let port_ok = match port.split_first() {
        None => true,
        Some((b':', digits)) => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        Some(_) => false,
    };
    name_ok && port_ok && (!name.is_empty() || port.is_empty())
}

/// An HTTP/1 request as policies see it.
#[derive(Debug, Clone, Copy)]
pub struct Http1Request<'a> {
    head: &'a RequestHead,
    buffer: &'a [u8],
}

impl RequestView for Http1Request<'_> {
    fn method(&self) -> &[u8] {
        self.head.method_token(self.buffer)
    }

    fn host(&self) -> &[u8] {
        self.head
            .host
            .map_or(&b""[..], |host| host.of_buffer(self.buffer))
    }

    fn path(&self) -> &[u8] {
        let path = self.head.path.of_buffer(self.buffer);
        match path.is_empty() {
            true => self.head.target_text(self.buffer), // "/" or "*", as the member sees it
            false => path,
        }
    }

    fn path_and_query(&self) -> &[u8] {
        self.head.target_text(self.buffer)
    }

    fn any_value(&self, name: &[u8], test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.head.fields.iter().any(|field| {
            field.name.of_buffer(self.buffer).eq_ignore_ascii_case(name)
                && test(field.value.of_buffer(self.buffer))
        })
    }
}
