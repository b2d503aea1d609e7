//! Lines of access logs: HAProxy's `option httplog` and `option tcplog`, and JSON.
//!
//! Whatever a client sends, an entry is one line: bytes that are no printable ASCII are escaped, and so is
//! what delimits.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

/// Bytes of a request line that are logged; the rest is cut off.
pub const MAX_LINE: usize = 4_096;

/// One request, or one connection of a TCP listener.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// First byte of the request, or begin of the connection: milliseconds since 1970 in UTC.
    pub began: u64,
    /// The client.
    pub client: SocketAddr,
    /// The listener, by a [`label`].
    pub listener: &'a str,
    /// TLS version of the client's connection.
    pub tls: Option<&'a str>,
    /// The pool, by a [`label`], when one was chosen.
    pub pool: Option<&'a str>,
    /// The member, by a [`label`], when one was chosen.
    pub member: Option<&'a str>,
    /// How long each part took.
    pub times: Times,
    /// Bytes sent to the client, heads included.
    pub bytes: u64,
    /// How it ended.
    pub end: End,
    /// What persistence by our cookie did; `--` without.
    pub cookie: [u8; 2],
    /// How busy everything was at the end.
    pub load: Load,
    /// What an HTTP listener knows beyond; none: a line of a TCP listener.
    pub http: Option<Http<'a>>,
    /// Why we answered or closed, when it was us.
    pub reason: Option<&'a str>,
}

/// An HTTP request.
#[derive(Debug, Clone, Copy)]
pub struct Http<'a> {
    /// Status of the answer; none when the client got none.
    pub status: Option<u16>,
    /// The request line without its end; none when there was no valid request.
    pub line: Option<&'a [u8]>,
}

/// Milliseconds; none: it did not come to that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// From the first byte of a request to the end of its head.
    pub request: Option<u64>,
    /// In the queue of a pool.
    pub queue: Option<u64>,
    /// Until a member was connected; 0 on a kept connection.
    pub connect: Option<u64>,
    /// From there to the end of the response's head.
    pub response: Option<u64>,
    /// All together.
    pub total: u64,
}

/// Connections and requests in progress when the entry was made, and on the way there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Client connections of the process.
    pub process: u64,
    /// Client connections of the listener.
    pub listener: u64,
    /// Of the pool's members.
    pub pool: u64,
    /// Of the member.
    pub member: u64,
    /// Members that were tried in vain.
    pub retries: u64,
    /// Who was before it in the queue, while it waited for one member.
    pub member_queue: u64,
    /// Who was before it in the queue, while it waited for any member.
    pub pool_queue: u64,
}

/// How a request or connection ended: the first two letters of HAProxy's termination state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End(pub [u8; 2]);

impl End {
    /// In order.
    pub const GOOD: Self = Self(*b"--");
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|letter| f.write_char(char::from(*letter)))
    }
}

/// How something configured is called in a log: by its name, when that is a word, else by its id.
pub fn label(name: &str, id: impl fmt::Display) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.:@".contains(&c);
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        name.to_owned()
    } else {
        id.to_string()
    }
}

impl Entry<'_> {
    /// As HAProxy writes it to a log that is a file: without a syslog header, times in UTC.
    pub fn haproxy(&self, out: &mut String) {
        // Writing into a String cannot fail.
        let _infallible = self.write_haproxy(out);
        out.push('\n');
    }

    fn write_haproxy(&self, out: &mut String) -> fmt::Result {
        let (ip, port) = (self.client.ip(), self.client.port());
        let secured = if self.tls.is_some() { "~" } else { "" };
        let pool = self.pool.unwrap_or(self.listener);
        let member = self.member.unwrap_or("<NOSRV>");
        let (times, load) = (&self.times, &self.load);
        write!(out, "{ip}:{port} [")?;
        Moment::of(self.began).haproxy(out)?;
        write!(out, "] {}{secured} {pool}/{member} ", self.listener)?;
        let (queue, connect) = (Shown(times.queue), Shown(times.connect));
        if let Some(http) = &self.http {
            let (request, response) = (Shown(times.request), Shown(times.response));
            let status = Shown(http.status.map(u64::from));
            write!(
                out,
                "{request}/{queue}/{connect}/{response}/{} {status}",
                times.total
            )?;
        } else {
            write!(out, "{queue}/{connect}/{}", times.total)?;
        }
        write!(out, " {} ", self.bytes)?;
        if self.http.is_some() {
            let [first, second] = self.cookie.map(char::from);
            write!(out, "- - {}{first}{second}", self.end)?;
        } else {
            write!(out, "{}", self.end)?;
        }
        // A retry went to another member: HAProxy's mark of a redispatch.
        let again = if load.retries > 0 { "+" } else { "" };
        write!(
            out,
            " {}/{}/{}/{}/{again}{} {}/{}",
            load.process,
            load.listener,
            load.pool,
            load.member,
            load.retries,
            load.member_queue,
            load.pool_queue
        )?;
        if let Some(http) = &self.http {
            out.write_str(" \"")?;
            match http.line {
                Some(line) => number_signs(line, out)?,
                None => out.write_str("<BADREQ>")?,
            }
            out.write_str("\"")?;
        }
        Ok(())
    }

    /// As one JSON object.
    pub fn json(&self, out: &mut String) {
        // Writing into a String cannot fail.
        let _infallible = self.write_json(out);
        out.push('\n');
    }

    fn write_json(&self, out: &mut String) -> fmt::Result {
        out.write_str("{\"time\":\"")?;
        Moment::of(self.began).iso(out)?;
        let (ip, port) = (self.client.ip(), self.client.port());
        write!(out, "\",\"client\":\"{ip}\",\"client_port\":{port}")?;
        text(out, "listener", self.listener.as_bytes())?;
        for (key, value) in [
            ("tls", self.tls),
            ("pool", self.pool),
            ("member", self.member),
        ] {
            if let Some(value) = value {
                text(out, key, value.as_bytes())?;
            }
        }
        if let Some(http) = &self.http {
            let mut parts = http.line.unwrap_or_default().splitn(3, |c| *c == b' ');
            for key in ["method", "target", "version"] {
                if let Some(part) = parts.next().filter(|_| http.line.is_some()) {
                    text(out, key, part)?;
                }
            }
            if let Some(status) = http.status {
                write!(out, ",\"status\":{status}")?;
            }
        }
        write!(out, ",\"bytes\":{}", self.bytes)?;
        let times = &self.times;
        for (key, time) in [
            ("request_ms", times.request),
            ("queue_ms", times.queue),
            ("connect_ms", times.connect),
            ("response_ms", times.response),
            ("total_ms", Some(times.total)),
        ] {
            if let Some(ms) = time {
                write!(out, ",\"{key}\":{ms}")?;
            }
        }
        write!(out, ",\"end\":\"{}\"", self.end)?;
        if self.load.retries > 0 {
            write!(out, ",\"retries\":{}", self.load.retries)?;
        }
        if let Some(reason) = self.reason {
            text(out, "reason", reason.as_bytes())?;
        }
        out.write_str("}")
    }
}

/// A number, or HAProxy's -1.
struct Shown(Option<u64>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("-1"),
        }
    }
}

/// HAProxy's escape: `#` and two hex digits for what is no printable ASCII, and for `"` and `#`.
fn number_signs(bytes: &[u8], out: &mut String) -> fmt::Result {
    for byte in bytes.iter().take(MAX_LINE) {
        match byte {
            b'"' | b'#' => write!(out, "#{byte:02X}")?,
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => write!(out, "#{byte:02X}")?,
        }
    }
    Ok(())
}

/// A member of a JSON object. A byte beyond ASCII becomes the code point of its number, so that nothing is lost.
fn text(out: &mut String, key: &str, bytes: &[u8]) -> fmt::Result {
    write!(out, ",\"{key}\":\"")?;
    for byte in bytes.iter().take(MAX_LINE) {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(*byte));
            }
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => write!(out, "\\u{byte:04x}")?,
        }
    }
    out.write_str("\"")
}

/// A time of day in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    year: u64,
    month: u64,
    day: u64,
    ms: u64,
}

const DAY_MS: u64 = 86_400_000;

impl Moment {
    /// From milliseconds since 1970 (Howard Hinnant's `civil_from_days`: years that begin in March, in eras
    /// of 400).
    fn of(unix_ms: u64) -> Self {
        let days = unix_ms / DAY_MS + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + era * 400 + u64::from(month <= 2);
        Self {
            year,
            month,
            day,
            ms: unix_ms % DAY_MS,
        }
    }

    fn clock(self) -> (u64, u64, u64, u64) {
        let seconds = self.ms / 1_000;
        (
            seconds / 3_600,
            seconds / 60 % 60,
            seconds % 60,
            self.ms % 1_000,
        )
    }

    /// `30/Nov/2026:15:49:02.123`
    fn haproxy(self, out: &mut String) -> fmt::Result {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let month = usize::try_from(self.month).unwrap_or(1).wrapping_sub(1);
        let month = MONTHS.get(month).copied().unwrap_or_default();
        let (h, m, s, ms) = self.clock();
        write!(
            out,
            "{:02}/{month}/{:04}:{h:02}:{m:02}:{s:02}.{ms:03}",
            self.day, self.year
        )
    }

    /// `2026-11-30T15:49:02.123Z`
    fn iso(self, out: &mut String) -> fmt::Result {
        let (h, m, s, ms) = self.clock();
        let Self {
            year, month, day, ..
        } = self;
        write!(
            out,
            "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(line: Option<&[u8]>) -> Entry<'_> {
        Entry {
            began: 1_796_053_742_123,
            client: "192.0.2.9:41000".parse().unwrap(),
            listener: "web",
            tls: None,
            pool: Some("shop"),
            member: Some("s1"),
            times: Times {
                request: Some(1),
                queue: Some(0),
                connect: Some(2),
                response: Some(30),
                total: 35,
            },
            bytes: 2_750,
            end: End::GOOD,
            cookie: *b"--",
            load: Load {
                process: 4,
                listener: 3,
                pool: 2,
                member: 1,
                ..Load::default()
            },
            http: Some(Http {
                status: Some(200),
                line,
            }),
            reason: None,
        }
    }

    fn haproxy(entry: &Entry<'_>) -> String {
        let mut out = String::new();
        entry.haproxy(&mut out);
        out
    }

    fn json(entry: &Entry<'_>) -> String {
        let mut out = String::new();
        entry.json(&mut out);
        out
    }

    #[test]
    fn a_good_request() {
        assert_eq!(
            haproxy(&entry(Some(b"GET /a?b HTTP/1.1"))),
            "192.0.2.9:41000 [30/Nov/2026:15:49:02.123] web shop/s1 1/0/2/30/35 200 2750 - - ---- 4/3/2/1/0 0/0 \"GET /a?b HTTP/1.1\"\n"
        );
        assert_eq!(
            json(&entry(Some(b"GET /a?b HTTP/1.1"))),
            "{\"time\":\"2026-11-30T15:49:02.123Z\",\"client\":\"192.0.2.9\",\"client_port\":41000,\"listener\":\"web\",\
             \"pool\":\"shop\",\"member\":\"s1\",\"method\":\"GET\",\"target\":\"/a?b\",\"version\":\"HTTP/1.1\",\"status\":200,\
             \"bytes\":2750,\"request_ms\":1,\"queue_ms\":0,\"connect_ms\":2,\"response_ms\":30,\"total_ms\":35,\"end\":\"--\"}\n"
        );
    }

    #[test]
    fn a_bad_request_over_tls() {
        let mut bad = entry(None);
        bad.tls = Some("TLSv1.3");
        (bad.pool, bad.member) = (None, None);
        bad.times = Times {
            request: Some(0),
            ..Times::default()
        };
        bad.end = End(*b"PR");
        bad.reason = Some("bare LF");
        bad.http = Some(Http {
            status: Some(400),
            line: None,
        });
        assert_eq!(
            haproxy(&bad),
            "192.0.2.9:41000 [30/Nov/2026:15:49:02.123] web~ web/<NOSRV> 0/-1/-1/-1/0 400 2750 - - PR-- 4/3/2/1/0 0/0 \"<BADREQ>\"\n"
        );
        let value = json(&bad);
        assert!(
            value.contains("\"tls\":\"TLSv1.3\",\"status\":400")
                && value.contains("\"end\":\"PR\",\"reason\":\"bare LF\"}"),
            "{value}"
        );
    }

    #[test]
    fn a_connection() {
        let mut tcp = entry(None);
        tcp.http = None;
        tcp.client = "[2001:db8::1]:5".parse().unwrap();
        tcp.load.retries = 2;
        tcp.load.pool_queue = 7;
        tcp.end = End(*b"CD");
        assert_eq!(
            haproxy(&tcp),
            "2001:db8::1:5 [30/Nov/2026:15:49:02.123] web shop/s1 0/2/35 2750 CD 4/3/2/1/+2 0/7\n"
        );
        assert!(json(&tcp).contains("\"retries\":2"));
    }

    #[test]
    fn dates_around_leap_days_and_ends_of_years() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let mut out = String::new();
            Moment::of(unix).iso(&mut out).unwrap();
            assert_eq!(out, text);
        }
    }

    #[test]
    fn names_that_are_no_words_are_not_shown() {
        assert_eq!(label("web-1", 7), "web-1");
        for name in ["", "a b", "a\nb", "a\"", "<x>", &"x".repeat(65)] {
            assert_eq!(label(name, 7), "7", "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_stay_on_one_line(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let entry = entry(Some(&line));
            for text in [haproxy(&entry), json(&entry)] {
                let (last, rest) = text.as_bytes().split_last().unwrap();
                prop_assert_eq!(*last, b'\n');
                prop_assert!(rest.iter().all(|c| (b' '..=b'~').contains(c)));
            }
            let quotes = haproxy(&entry).bytes().filter(|c| *c == b'"').count();
            prop_assert_eq!(quotes, 2);
        }
    }
}
