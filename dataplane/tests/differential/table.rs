//! The table of cases: text files in `cases/`, one folder's worth, read as data.
//!
//! ```text
//! [id] hostile; RFC 9112 6.1; what it is, or whose attack
//! > GET / HTTP/1.1        a line of the client, CRLF is added
//! >= raw                  bytes of the client, nothing is added
//! >wait                   the client waits for the next answer (interim ones count)
//! >end                    the client ends its direction
//! < HTTP/1.1 200 OK       a line of the member's answer to the first request it receives
//! <= raw                  bytes of it
//! <early                  the member answers when the head is there
//! <close  <reset          the member ends its connection after the answer
//! <then                   what follows answers its next request
//! = 200 400               statuses that Krater answers
//! @ GET / HTTP/1.1        request lines that Krater's member receives; `@ none`
//! @ POST / HTTP/1.1 cut   it may also receive the beginning of such a request, never its end
//! ~ RFC 9112 6.1: why     Krater and HAProxy differ, and why that is right
//! ```
//! Escapes: `\r \n \t \0 \\ \xNN`, and `\{N TEXT}` for TEXT N times. Without `<`, the member answers 200.

use std::path::PathBuf;

/// What a client does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Send(Vec<u8>),
    /// Wait for one more answer.
    Wait,
    /// End the client's direction.
    End,
}

/// What a member does with a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    pub(crate) early: bool,
    pub(crate) close: bool,
    pub(crate) reset: bool,
}

impl Reply {
    /// What the member answers when the case says nothing.
    pub(crate) fn of_nothing() -> Self {
        Self {
            bytes: b"HTTP/1.1 200 OK\r\nX-Member: 1\r\nContent-Length: 2\r\n\r\nok".to_vec(),
            ..Self::default()
        }
    }
}

/// A case.
#[derive(Debug, Clone, Default)]
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) hostile: bool,
    pub(crate) rule: String,
    pub(crate) about: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) replies: Vec<Reply>,
    /// Statuses of Krater's answers.
    pub(crate) statuses: Vec<u16>,
    /// Request lines at Krater's member; none: one whole request per answer of the member.
    pub(crate) received: Option<Vec<String>>,
    /// Clause and reason of a difference.
    pub(crate) differs: Option<(String, String)>,
}

impl Case {
    /// Everything the client sends.
    pub(crate) fn sent(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for step in &self.steps {
            if let Step::Send(bytes) = step {
                all.extend_from_slice(bytes);
            }
        }
        all
    }

    /// Whether the client sends all in one go, so that it can be split or put behind another request.
    pub(crate) fn plain(&self) -> bool {
        self.steps
            .iter()
            .all(|step| matches!(step, Step::Send(_) | Step::End))
    }

    /// The methods of the request lines it sends, so that answers to HEAD are read as such.
    pub(crate) fn methods(&self) -> Vec<String> {
        let sent = self.sent();
        let lines = sent.split(|b| *b == b'\n');
        lines
            .filter(|line| line.ends_with(b" HTTP/1.1\r") || line.ends_with(b" HTTP/1.0\r"))
            .map(|line| {
                let method = line.split(|b| *b == b' ').next().unwrap_or_default();
                String::from_utf8_lossy(method).into_owned()
            })
            .collect()
    }

    /// What is left when runs of letters and digits no longer differ, except in names that the
    /// protocol knows: two cases with one shape and the same answers would differ in a value only.
    pub(crate) fn shape(&self) -> String {
        let mut text = self.sent();
        for reply in &self.replies {
            text.push(0);
            text.extend_from_slice(&reply.bytes);
            text.push(
                u8::from(reply.early) | u8::from(reply.close) << 1 | u8::from(reply.reset) << 2,
            );
        }
        for step in &self.steps {
            text.push(match step {
                Step::Send(_) => continue,
                Step::Wait => 1,
                Step::End => 2,
            });
        }
        let known = include_str!("known.txt");
        let mut shape = format!("{} {:?} ", self.hostile, self.statuses);
        for run in text.chunk_by(|a, b| a.is_ascii_alphanumeric() == b.is_ascii_alphanumeric()) {
            let word = run.escape_ascii().to_string();
            let kept = !run[0].is_ascii_alphanumeric()
                || known
                    .split_whitespace()
                    .any(|k| k.eq_ignore_ascii_case(&word));
            match kept {
                true => shape.push_str(&word),
                false => shape.push(if run.len() > LONG { 'W' } else { 'w' }),
            }
        }
        shape
    }
}

/// A run of letters or digits that is longer is another kind of value: a number too large, a flood.
const LONG: usize = 16;

/// All cases, in order of their files' names.
pub(crate) fn cases() -> Vec<Case> {
    // The fuzz targets' replay includes this file too, from its own package.
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../dataplane")
        .join("tests/differential/cases");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        read(&file.display().to_string(), &text, &mut cases);
    }
    cases
}

fn read(file: &str, text: &str, cases: &mut Vec<Case>) {
    for (number, line) in text.lines().enumerate() {
        let place = format!("{file}:{}: {line:?}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            cases.push(title(rest).unwrap_or_else(|| panic!("{place}: [id] kind; rule; about")));
            continue;
        }
        let case = cases
            .last_mut()
            .unwrap_or_else(|| panic!("{place}: no [id] before"));
        add(case, line).unwrap_or_else(|| panic!("{place}: no such line"));
    }
}

fn title(rest: &str) -> Option<Case> {
    let (id, rest) = rest.split_once("] ")?;
    let mut parts = rest.splitn(3, "; ");
    let hostile = match parts.next()? {
        "hostile" => true,
        "valid" => false,
        _ => return None,
    };
    Some(Case {
        id: id.into(),
        hostile,
        rule: parts.next()?.into(),
        about: parts.next()?.into(),
        ..Case::default()
    })
}

fn add(case: &mut Case, line: &str) -> Option<()> {
    let (mark, text) = match line.split_once(' ') {
        Some((mark, text)) => (mark, text),
        None => (line, ""),
    };
    match mark {
        ">" | ">=" => {
            let bytes = unescape(text, mark == ">")?;
            match case.steps.last_mut() {
                Some(Step::Send(sent)) => sent.extend_from_slice(&bytes),
                _ => case.steps.push(Step::Send(bytes)),
            }
        }
        ">wait" => case.steps.push(Step::Wait),
        ">end" => case.steps.push(Step::End),
        "<then" => case.replies.push(Reply::default()),
        "<" | "<=" | "<early" | "<close" | "<reset" => {
            if case.replies.is_empty() {
                case.replies.push(Reply::default());
            }
            let reply = case.replies.last_mut()?;
            match mark {
                "<early" => reply.early = true,
                "<close" => reply.close = true,
                "<reset" => reply.reset = true,
                _ => reply.bytes.extend(unescape(text, mark == "<")?),
            }
        }
        "=" => {
            let statuses: Result<Vec<u16>, _> = text.split_whitespace().map(str::parse).collect();
            case.statuses = statuses.ok()?;
        }
        "@" => {
            let received = case.received.get_or_insert_default();
            if text != "none" {
                received.push(text.into());
            }
        }
        "~" => {
            let (clause, why) = text.split_once(": ")?;
            case.differs = Some((clause.into(), why.into()));
        }
        _ => return None,
    }
    Some(())
}

fn unescape(text: &str, line: bool) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.extend_from_slice(before.as_bytes());
        let mut chars = after.chars();
        let mark = chars.next()?;
        rest = chars.as_str();
        match mark {
            'r' => out.push(b'\r'),
            'n' => out.push(b'\n'),
            't' => out.push(b'\t'),
            '0' => out.push(0),
            '\\' => out.push(b'\\'),
            'x' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
                rest = tail;
            }
            '{' => {
                let (inner, tail) = rest.split_once('}')?;
                let (count, what) = inner.split_once(' ')?;
                out.extend(unescape(what, false)?.repeat(count.parse().ok()?));
                rest = tail;
            }
            _ => return None,
        }
    }
    out.extend_from_slice(rest.as_bytes());
    if line {
        out.extend_from_slice(b"\r\n");
    }
    Some(out)
}

#[test]
fn escapes_are_taken() {
    let text = unescape(r"a\r\n\0\x7f\\\{3 x\t}", true).unwrap();
    assert_eq!(text, b"a\r\n\0\x7f\\x\tx\tx\t\r\n");
    assert!(unescape(r"\q", false).is_none());
}
