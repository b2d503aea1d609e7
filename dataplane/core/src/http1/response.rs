//! Response heads.

use super::fault::Fault;
use super::framing::Framing;
use super::head::{
    Field, Known, MAX_FIELDS, Span, Version, connection_options, fault_of, framing_fields, list,
    spans,
};
use super::request::{Method, only};

/// A response head, as spans of the buffer it was parsed from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status, 100 to 999.
    pub status: u16,
    /// Reason phrase, perhaps empty.
    pub reason: Span,
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
    /// The member keeps the connection open afterwards.
    pub keep_alive: bool,
    /// A Content-Length that was a list of one number; the field must be written anew.
    pub reduced_length: Option<u64>,
}

impl ResponseHead {
    /// The value of the last cookie called `name` that it sets (HAProxy's `res.cook`).
    pub fn set_cookie<'a>(&self, buffer: &'a [u8], name: &str) -> Option<&'a [u8]> {
        let mut lines = self.fields.iter().rev();
        lines.find_map(|field| {
            let line = (field.known == Known::SetCookie).then(|| field.value.of_buffer(buffer))?;
            crate::persistence::set_cookie(line, name)
        })
    }

    /// Parses the head in `start..end` of `buffer`: the answer to a request with `method`, which
    /// offered to switch to one of these protocols (see [`super::RequestHead::offered`]).
    pub fn parse(
        &mut self,
        buffer: &[u8],
        start: usize,
        end: usize,
        method: Method,
        offered: &[u8],
    ) -> Result<(), Fault> {
        let head = buffer.get(start..end).ok_or(Fault::HeadTooLarge)?;
        let mut storage = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let outcome = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut parsed,
            head,
            &mut storage,
        );
        match outcome {
            Ok(httparse::Status::Complete(n)) if n == head.len() => {}
            Ok(_) => return Err(Fault::StatusLine),
            Err(error) => return Err(fault_of(error, head, Fault::StatusLine)),
        }
        let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
            return Err(Fault::StatusLine);
        };
        if status < 100 {
            return Err(Fault::StatusLine);
        }
        self.status = status;
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
        // httparse hands out no reason with obs-text, so it is taken from the line itself.
        let line_end = usize::from(self.fields_start).saturating_sub(2);
        self.reason = match buffer.get(start + 13..line_end) {
            Some(reason) => Span::of(reason, buffer),
            None => Span::default(),
        };
        let options = connection_options(&mut self.fields, buffer);
        self.keep_alive = match self.version {
            Version::Http11 => !options.close,
            Version::Http10 => options.keep_alive && !options.close,
        };
        let found = framing_fields(&mut self.fields, buffer, self.version, true)?;
        self.reduced_length = found.length.filter(|_| found.reduced);
        self.framing = match status {
            101 if !(options.upgrade && self.switches_to_one_of(offered, buffer)) => {
                return Err(Fault::UnexpectedUpgrade);
            }
            101 => {
                self.strip_framing();
                Framing::Tunnel
            }
            // RFC 9110 section 8.6: no Content-Length, RFC 9112 section 6.1: no Transfer-Encoding.
            100..200 | 204 => {
                self.strip_framing();
                Framing::None
            }
            304 => Framing::None,
            _ if method == Method::Head => Framing::None,
            _ if found.chunked => Framing::Chunked,
            _ => found.length.map_or(Framing::UntilClose, Framing::Length),
        };
        Ok(())
    }

    /// Whether 101 names protocols, and only ones that were offered (RFC 9110 section 7.8).
    fn switches_to_one_of(&self, offered: &[u8], buffer: &[u8]) -> bool {
        let mut any = false;
        for field in self.fields.iter().filter(|f| f.known == Known::Upgrade) {
            for protocol in list(field.value.of_buffer(buffer)) {
                any = true;
                if !list(offered).any(|offer| offer.eq_ignore_ascii_case(protocol)) {
                    return false;
                }
            }
        }
        any
    }

    /// The value of the only field with this name.
    pub fn only<'a>(&self, name: &[u8], buffer: &'a [u8]) -> Option<&'a [u8]> {
        only(&self.fields, name, buffer)
    }

    /// An interim response: another head follows.
    pub const fn interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    fn strip_framing(&mut self) {
        self.reduced_length = None;
        for field in &mut self.fields {
            field.drop |= field.known == Known::ContentLength;
        }
    }
}
