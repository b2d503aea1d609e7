//! The little of DNS that finding members by name needs: a question for addresses, and reading its answer.
//!
//! A stub (RFC 1123 section 6.1.3.1): a recursive resolver is asked, which follows aliases and puts the whole
//! chain into its answer. Pure; the caller has sockets and clocks. What is read was written by strangers: every
//! loop ends with the bytes, and a pointer leads backwards only.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

/// Largest datagram that we ask for (RFC 6891): what passes every path in one piece.
pub const MAX_DATAGRAM: u16 = 1232;
/// Addresses of one name that are looked at: a pool with more is not balanced by a name.
pub const MAX_ADDRESSES: usize = 64;
/// Aliases that are followed within one answer: resolvers give up before that.
const MAX_ALIASES: usize = 16;
/// Bytes of a name on the wire (RFC 1035 section 3.1).
const MAX_WIRE: usize = 255;
const MAX_LABEL: usize = 63;
const HEADER: usize = 12;
const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const IN: u16 = 1;
const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const RECURSE: u16 = 0x0100;
const RCODE: u16 = 0x000f;

/// A host's name, whole: lower case, without the last point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is no [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is an address.
    #[error("this is an address: use the key address")]
    Address,
    /// RFC 1123 section 2.1, and `_`, which such names have in practice.
    #[error(
        "use the whole name of a host, such as app.example: labels of 1 to 63 letters, digits, - and _, at most 253 bytes"
    )]
    Syntax,
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return Err(NameError::Address);
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        let good = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let label = |label: &str| (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(good);
        // Digits alone at the end are a mistyped address, and no resolver has them.
        let last = text.rsplit('.').next().unwrap_or_default();
        let number = !last.is_empty() && last.bytes().all(|c| c.is_ascii_digit());
        if number || text.len() > MAX_WIRE - 2 || !text.split('.').all(label) {
            return Err(NameError::Syntax);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Name {
    /// Labels with their lengths, and the root.
    fn wire(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() + 2);
        for label in self.0.split('.') {
            out.push(u8::try_from(label.len()).unwrap_or_default()); // at most 63
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
        out
    }
}

/// Which addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// A records.
    Ipv4,
    /// AAAA records.
    Ipv6,
}

impl Family {
    const fn kind(self) -> u16 {
        match self {
            Self::Ipv4 => A,
            Self::Ipv6 => AAAA,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// A question for the addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Which; random, so that who does not see it cannot answer it (RFC 5452).
    pub id: u16,
    /// Whose.
    pub name: Name,
    /// Of which family.
    pub family: Family,
}

/// What a resolver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name has these, for so long.
    Addresses {
        /// At least one, at most [`MAX_ADDRESSES`], in order.
        addresses: Vec<IpAddr>,
        /// The least of the chain.
        ttl: Duration,
    },
    /// There is no such name.
    NoName {
        /// How long that is so (RFC 2308), if the answer says.
        ttl: Option<Duration>,
    },
    /// The name has no address of this family.
    NoAddress {
        /// How long that is so, if the answer says.
        ttl: Option<Duration>,
    },
    /// It does not fit into a datagram: ask over TCP.
    Truncated,
    /// The resolver could not find out, or does not answer us; its RCODE.
    Failed(u8),
}

/// Why bytes are no answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// To another one, or forged: the right one may still come.
    #[error("not the answer to this question")]
    Foreign,
    /// To this one, but not understood.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
}

impl Question {
    /// The message, with the sizes of answers that we take (RFC 6891).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + MAX_WIRE + 15);
        // One question, one additional record.
        for word in [self.id, RECURSE, 1, 0, 0, 1] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(&self.name.wire());
        for word in [self.family.kind(), IN] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.push(0);
        for word in [OPT, MAX_DATAGRAM, 0, 0, 0] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out
    }

    /// Reads what came back.
    pub fn read(&self, message: &[u8]) -> Result<Answer, AnswerError> {
        let mut reader = Reader { message, at: 0 };
        let mut header = [0; HEADER / 2];
        for word in &mut header {
            *word = reader.u16().map_err(|_| AnswerError::Foreign)?;
        }
        let [id, flags, questions, answers, authorities, _] = header;
        if id != self.id || flags & RESPONSE == 0 || flags & OPCODE != 0 {
            return Err(AnswerError::Foreign);
        }
        let rcode = (flags & RCODE).to_be_bytes()[1];
        // A resolver that does not take the question at all may leave it out.
        if questions == 0 && rcode != 0 && rcode != 3 {
            return Ok(Answer::Failed(rcode));
        }
        let asked = (questions == 1).then(|| (reader.name(), reader.u16(), reader.u16()));
        match asked {
            Some((Ok(name), Ok(kind), Ok(IN)))
                if name == self.name.wire() && kind == self.family.kind() => {}
            _ => return Err(AnswerError::Foreign),
        }
        match rcode {
            0 if flags & TRUNCATED != 0 => return Ok(Answer::Truncated),
            0 | 3 => {}
            _ => return Ok(Answer::Failed(rcode)),
        }
        let records = reader.records(answers)?;
        if let Some(found) = self.addresses(&records)? {
            return Ok(found);
        }
        let ttl = negative_ttl(&reader.records(authorities)?);
        Ok(match rcode {
            3 => Answer::NoName { ttl },
            _ => Answer::NoAddress { ttl },
        })
    }

    /// Follows the aliases of the answer to the addresses at their end.
    fn addresses(&self, records: &[Record<'_>]) -> Result<Option<Answer>, AnswerError> {
        let (mut name, mut ttl) = (self.name.wire(), Duration::MAX);
        for _ in 0..=MAX_ALIASES {
            let of_name = |kind| {
                let is_it = move |r: &&Record<'_>| r.kind == kind && r.class == IN;
                records.iter().filter(is_it).filter(|r| r.owner == name)
            };
            let mut addresses = Vec::new();
            for record in of_name(self.family.kind()) {
                ttl = ttl.min(record.ttl);
                addresses.push(record.address()?);
            }
            if !addresses.is_empty() {
                addresses.sort_unstable();
                addresses.dedup();
                addresses.truncate(MAX_ADDRESSES);
                return Ok(Some(Answer::Addresses { addresses, ttl }));
            }
            let Some(alias) = of_name(CNAME).next() else {
                return Ok(None);
            };
            ttl = ttl.min(alias.ttl);
            name = alias.target()?;
        }
        Err(AnswerError::Malformed("aliases go round or are too many"))
    }
}

/// RFC 2308 section 5: the lesser of the SOA record's own time and its last field.
fn negative_ttl(authorities: &[Record<'_>]) -> Option<Duration> {
    let soa = authorities
        .iter()
        .find(|r| r.kind == SOA && r.class == IN)?;
    let (_, minimum) = soa.data().split_last_chunk::<4>()?;
    Some(soa.ttl.min(seconds(u32::from_be_bytes(*minimum))))
}

/// RFC 2181 section 8: what has the highest bit is no time.
fn seconds(ttl: u32) -> Duration {
    let sane = i32::try_from(ttl).is_ok();
    Duration::from_secs(if sane { ttl.into() } else { 0 })
}

struct Record<'a> {
    owner: Vec<u8>,
    kind: u16,
    class: u16,
    ttl: Duration,
    message: &'a [u8],
    /// Where its data begin and end in the message: names in them may point backwards.
    data: (usize, usize),
}

impl<'a> Record<'a> {
    fn data(&self) -> &'a [u8] {
        self.message
            .get(self.data.0..self.data.1)
            .unwrap_or_default()
    }

    fn address(&self) -> Result<IpAddr, AnswerError> {
        let data = self.data();
        let address: Option<IpAddr> = match self.kind {
            A => <[u8; 4]>::try_from(data)
                .ok()
                .map(|octets| Ipv4Addr::from(octets).into()),
            _ => <[u8; 16]>::try_from(data)
                .ok()
                .map(|octets| Ipv6Addr::from(octets).into()),
        };
        address.ok_or(AnswerError::Malformed("an address has 4 or 16 bytes"))
    }

    fn target(&self) -> Result<Vec<u8>, AnswerError> {
        let mut reader = Reader {
            message: self.message,
            at: self.data.0,
        };
        reader.name()
    }
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

const SHORT: AnswerError = AnswerError::Malformed("it ends too early");

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], AnswerError> {
        let rest = self.message.get(self.at..).unwrap_or_default();
        let bytes = rest.first_chunk::<N>().ok_or(SHORT)?;
        self.at += N;
        Ok(*bytes)
    }

    fn u16(&mut self) -> Result<u16, AnswerError> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, AnswerError> {
        self.take().map(u32::from_be_bytes)
    }

    /// A name in lower case, pointers followed. Each pointer leads to before the part that it stands in (RFC 1035
    /// section 4.1.4: "a prior occurrence"), so that there is an end.
    fn name(&mut self) -> Result<Vec<u8>, AnswerError> {
        let mut out = Vec::new();
        let (mut at, mut begin, mut jumped) = (self.at, self.at, false);
        // A label or a pointer each, and a name has at most 127 labels.
        for _ in 0..MAX_WIRE {
            let byte = |at: usize| self.message.get(at).copied().ok_or(SHORT);
            let length = byte(at)?;
            at += 1;
            match length {
                0 => {
                    out.push(0);
                    if !jumped {
                        self.at = at;
                    }
                    return Ok(out);
                }
                1..=63 => {
                    let end = at + usize::from(length);
                    let label = self.message.get(at..end).ok_or(SHORT)?;
                    out.push(length);
                    out.extend(label.iter().map(u8::to_ascii_lowercase));
                    if out.len() >= MAX_WIRE {
                        return Err(AnswerError::Malformed("a name is too long"));
                    }
                    at = end;
                }
                0xc0.. => {
                    let target = usize::from(length & 0x3f) << 8 | usize::from(byte(at)?);
                    if !jumped {
                        self.at = at + 1;
                    }
                    if target >= begin {
                        return Err(AnswerError::Malformed("a pointer does not lead backwards"));
                    }
                    (at, begin, jumped) = (target, target, true);
                }
                _ => return Err(AnswerError::Malformed("a label of an unknown kind")),
            }
        }
        Err(AnswerError::Malformed("too many pointers"))
    }

    fn records(&mut self, count: u16) -> Result<Vec<Record<'a>>, AnswerError> {
        let mut out = Vec::new();
        for _ in 0..count {
            let owner = self.name()?;
            let (kind, class) = (self.u16()?, self.u16()?);
            let ttl = seconds(self.u32()?);
            let length = usize::from(self.u16()?);
            let data = (self.at, self.at + length);
            if data.1 > self.message.len() {
                return Err(SHORT);
            }
            self.at = data.1;
            // The others (signatures, say) are nothing to us.
            if [A, AAAA, CNAME, SOA].contains(&kind) {
                out.push(Record {
                    owner,
                    kind,
                    class,
                    ttl,
                    message: self.message,
                    data,
                });
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
