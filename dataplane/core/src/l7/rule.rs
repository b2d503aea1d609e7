//! One condition of a policy.

use crate::exchange::{ClientInfo, RequestView};
use krater_model::FieldError;
use krater_model::state::{L7Compare, L7Rule, L7Subject};
use memchr::memmem;
use regex::bytes::{Regex, RegexBuilder};

/// Largest compiled regular expression in bytes. Values have at most 255 characters, but
/// `(\w{99}){99}` compiles to megabytes.
const MAX_REGEX: usize = 256 * 1024;
/// Longest host that is compared, in bytes: a name (RFC 1035 section 2.3.4), a final dot and a port.
const MAX_HOST: usize = 255 + 7;

/// A compiled rule.
#[derive(Debug)]
pub(super) struct Rule {
    subject: Subject,
    test: Test,
    invert: bool,
}

#[derive(Debug)]
enum Subject {
    Host,
    Path,
    FileType,
    Header(Box<[u8]>),
    Cookie(Box<[u8]>),
    HasCertificate,
    VerifyResult,
    DnField(Box<str>),
}

#[derive(Debug)]
enum Test {
    Regex(Box<Regex>),
    Starts(Box<[u8]>),
    Ends(Box<[u8]>),
    Contains(Box<memmem::Finder<'static>>),
    Equal(Box<[u8]>),
    Number(u32),
    True,
}

/// What a request must have for a rule to match at all: an index can be built on it.
pub(super) enum Key {
    Host(Box<[u8]>),
    Path(Box<[u8]>),
    PathPrefix(Box<[u8]>),
}

/// A request under evaluation, and what was derived from it.
pub(super) struct Scratch<'a, R> {
    pub(super) request: &'a R,
    client: &'a ClientInfo<'a>,
    host: [u8; MAX_HOST],
    host_length: usize,
    name_length: usize,
}

impl<'a, R: RequestView> Scratch<'a, R> {
    pub(super) fn new(request: &'a R, client: &'a ClientInfo<'a>) -> Self {
        let mut scratch = Self {
            request,
            client,
            host: [0; MAX_HOST],
            host_length: 0,
            name_length: 0,
        };
        let host = request.host();
        // A longer one cannot exist; it then matches nothing that names a host.
        if let Some(lower) = scratch.host.get_mut(..host.len()) {
            lower.copy_from_slice(host);
            lower.make_ascii_lowercase();
            scratch.host_length = host.len();
            scratch.name_length = without_port(host).len();
        }
        scratch
    }

    /// The host's name in lower case: without port and without a final dot.
    pub(super) fn name(&self) -> &[u8] {
        self.host.get(..self.name_length).unwrap_or_default()
    }

    /// The host in lower case as the client sent it, if that is not [`Self::name`] already.
    pub(super) fn host(&self) -> Option<&[u8]> {
        let more = self.host_length > self.name_length;
        self.host.get(..self.host_length).filter(|_| more)
    }
}

fn without_port(host: &[u8]) -> &[u8] {
    let end = match host.iter().position(|b| *b == b']') {
        Some(bracket) => bracket + 1,
        None => host.iter().position(|b| *b == b':').unwrap_or(host.len()),
    };
    let name = host.get(..end).unwrap_or_default();
    name.strip_suffix(b".").unwrap_or(name)
}

impl Rule {
    pub(super) fn compile(rule: &L7Rule) -> Result<Self, FieldError> {
        let key = |key: &str, field: &str| {
            if key.is_empty() || !key.bytes().all(crate::http1::head::is_token) {
                return Err(FieldError::new(
                    format!("subject.{field}"),
                    format!("{key:?} is not a name: use letters, digits and - _ ."),
                ));
            }
            Ok(key.as_bytes().into())
        };
        let subject = match &rule.subject {
            L7Subject::HostName => Subject::Host,
            L7Subject::Path => Subject::Path,
            L7Subject::FileType => Subject::FileType,
            L7Subject::Header { key: name } => Subject::Header(key(name, "key")?),
            L7Subject::Cookie { key: name } => Subject::Cookie(key(name, "key")?),
            L7Subject::SslConnHasCert => Subject::HasCertificate,
            L7Subject::SslVerifyResult => Subject::VerifyResult,
            L7Subject::SslDnField { key } => Subject::DnField(key.as_str().into()),
        };
        let test = match &subject {
            // HAProxy's `ssl_c_used` and `ssl_c_verify eq V`: the comparison is not looked at.
            Subject::HasCertificate => match rule.value.as_str() {
                value if value.eq_ignore_ascii_case("true") => Test::True,
                value => {
                    let why = format!("{value:?}: use True, with invert for the opposite");
                    return Err(FieldError::new("value", why));
                }
            },
            Subject::VerifyResult => Test::Number(rule.value.parse().map_err(|_| {
                FieldError::new("value", format!("{:?} is not a number from 0", rule.value))
            })?),
            Subject::FileType if !matches!(rule.compare, L7Compare::Regex | L7Compare::EqualTo) => {
                return Err(FieldError::new(
                    "compare",
                    "FILE_TYPE can be compared by REGEX and EQUAL_TO",
                ));
            }
            _ => Test::compile(rule, matches!(subject, Subject::Host))?,
        };
        Ok(Self {
            subject,
            test,
            invert: rule.invert,
        })
    }

    pub(super) fn key(&self) -> Option<Key> {
        match (&self.subject, &self.test) {
            _ if self.invert => None,
            (Subject::Host, Test::Equal(host)) => Some(Key::Host(host.clone())),
            (Subject::Path, Test::Equal(path)) => Some(Key::Path(path.clone())),
            (Subject::Path, Test::Starts(prefix)) => Some(Key::PathPrefix(prefix.clone())),
            _ => None,
        }
    }

    pub(super) fn matches<R: RequestView>(&self, scratch: &Scratch<'_, R>) -> bool {
        let test = |value: &[u8]| self.test.holds(value);
        let request = scratch.request;
        let certificate = scratch.client.certificate;
        let matched = match &self.subject {
            // A rule names a host, and holds whatever the port; or it names the port too, as with HAProxy.
            Subject::Host => test(scratch.name()) || scratch.host().is_some_and(test),
            Subject::Path => test(request.path()),
            // What Octavia describes is an extension; what its templates make of it is a path that ends so, or an
            // expression for the path as a whole.
            Subject::FileType => match &self.test {
                Test::Equal(end) => request.path().ends_with(end),
                _ => extension(request.path()).is_some_and(test) || test(request.path()),
            },
            // A field may be a list; HAProxy's `req.hdr` looks at each element. The whole value
            // counts too, so that a value with a comma in it can be named.
            Subject::Header(name) => request.any_value(name, &mut |value| {
                test(value) || value.contains(&b',') && elements(value).any(test)
            }),
            Subject::Cookie(name) => request.any_value(b"cookie", &mut |value| {
                cookies(value).any(|(key, value)| key == &**name && test(value))
            }),
            Subject::HasCertificate => certificate.is_some(),
            Subject::VerifyResult => match (certificate, &self.test) {
                (Some(certificate), Test::Number(n)) => certificate.verify == *n,
                // OpenSSL's result without a certificate is 0, X509_V_OK.
                (None, Test::Number(n)) => *n == 0,
                _ => false,
            },
            Subject::DnField(field) => certificate.is_some_and(|certificate| {
                // Of several with one name the first counts, as with HAProxy's `ssl_c_s_dn`.
                let named = |(key, _): &&(String, String)| key.eq_ignore_ascii_case(field);
                let found = certificate.subject_fields.iter().find(named);
                found.is_some_and(|(_, value)| test(value.as_bytes()))
            }),
        };
        matched != self.invert
    }
}

impl Test {
    fn compile(rule: &L7Rule, ignore_case: bool) -> Result<Self, FieldError> {
        let value = &rule.value;
        let bytes = || -> Box<[u8]> {
            if ignore_case {
                value.to_ascii_lowercase().into_bytes().into()
            } else {
                value.as_bytes().into()
            }
        };
        if value.is_empty() {
            return Err(FieldError::new("value", "must not be empty"));
        }
        Ok(match rule.compare {
            L7Compare::Regex => {
                let regex = RegexBuilder::new(value)
                    .case_insensitive(ignore_case)
                    .unicode(false)
                    .size_limit(MAX_REGEX)
                    .build()
                    .map_err(|error| {
                        let why = error.to_string().replace('\n', " ");
                        FieldError::new("value", format!("{value:?}: {why}"))
                    })?;
                Self::Regex(Box::new(regex))
            }
            L7Compare::StartsWith => Self::Starts(bytes()),
            L7Compare::EndsWith => Self::Ends(bytes()),
            L7Compare::Contains => {
                Self::Contains(Box::new(memmem::Finder::new(&bytes()).into_owned()))
            }
            L7Compare::EqualTo => Self::Equal(bytes()),
        })
    }

    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Regex(regex) => regex.is_match(value),
            Self::Starts(start) => value.starts_with(start),
            Self::Ends(end) => value.ends_with(end),
            Self::Contains(finder) => finder.find(value).is_some(),
            Self::Equal(whole) => value == &**whole,
            Self::Number(_) => false,
            Self::True => true,
        }
    }
}

/// Elements of a list, of which a comma in quotes ends none (RFC 9110 section 5.6.1).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let ends = move |byte: &u8| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    };
    value.split(ends).map(<[u8]>::trim_ascii)
}

/// What follows the last dot of the path's last segment.
fn extension(path: &[u8]) -> Option<&[u8]> {
    let name = path.rsplit(|b| *b == b'/').next()?;
    let dot = name.iter().rposition(|b| *b == b'.')?;
    name.get(dot + 1..)
}

/// Names and values of a Cookie field (RFC 6265 section 4.2.1); quotes around a value are kept.
pub(crate) fn cookies(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    value.split(|b| *b == b';').filter_map(|pair| {
        let equals = pair.iter().position(|b| *b == b'=')?;
        let (name, value) = pair.split_at(equals);
        Some((name.trim_ascii(), value.get(1..)?.trim_ascii()))
    })
}
