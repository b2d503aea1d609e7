//! The part of cloud-init's `#cloud-config` that carries an amphora's files: `write_files`, and `timezone`.
//!
//! Octavia sends it as user data when `user_data_config_drive` is set. It is YAML that a template has written;
//! this reads the YAML that such templates write (block mappings and sequences, plain, quoted and literal
//! scalars) and refuses anchors, flow collections and the rest by line, instead of guessing.

use super::delivery::{MAX_FILE, MAX_FILES};
use super::{bounded, shown};
use crate::FieldError;
use base64::Engine as _;

/// What is used of user data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CloudConfig {
    /// `write_files`.
    pub files: Vec<File>,
    /// `timezone`.
    pub timezone: Option<String>,
    /// Other keys at the top: they are not carried out.
    pub skipped: Vec<String>,
}

/// A file to write. Its content may be a private key.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// Where to, not checked yet.
    pub path: String,
    /// What.
    pub content: Vec<u8>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let length = self.content.len();
        write!(f, "{} ({length} bytes)", self.path)
    }
}

/// A line without its indentation.
#[derive(Clone, Copy)]
struct Line<'a> {
    number: usize,
    indent: usize,
    text: &'a str,
}

impl Line<'_> {
    /// Nothing but white space or a comment.
    fn is_blank(&self) -> bool {
        self.text.is_empty() || self.text.starts_with('#')
    }
}

/// Top-level keys that are remembered for the console.
const MAX_SKIPPED: usize = 16;

impl CloudConfig {
    /// Whether user data says that it is this.
    pub fn is(text: &[u8]) -> bool {
        let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        first.trim_ascii_end() == b"#cloud-config"
    }

    /// Reads it.
    pub fn parse(text: &[u8]) -> Result<Self, FieldError> {
        let text = std::str::from_utf8(bounded("user_data", text)?)
            .map_err(|error| FieldError::new("user_data", error.to_string()))?;
        let lines: Vec<Line<'_>> = text
            .lines()
            .enumerate()
            .map(|(number, line)| {
                let text = line.trim_start_matches(' ');
                Line {
                    number: number + 1,
                    indent: line.len() - text.len(),
                    text: text.trim_end_matches('\r'),
                }
            })
            .collect();
        let mut reader = Reader {
            lines: &lines,
            at: 0,
        };
        let mut config = Self::default();
        while let Some(line) = reader.next_line() {
            if line.indent > 0 || line.text.starts_with('-') {
                return Err(wrong(
                    line,
                    "a key at the beginning of the line is expected",
                ));
            }
            let (key, value) = key_and_value(line)?;
            reader.at += 1;
            match key {
                "write_files" if value.is_empty() => config.files = reader.files()?,
                "write_files" => {
                    return Err(wrong(line, "write the list as lines that begin with -"));
                }
                "timezone" => config.timezone = Some(reader.scalar(line, value)?),
                other => {
                    if config.skipped.len() < MAX_SKIPPED {
                        config.skipped.push(other.into());
                    }
                    reader.skip_below();
                }
            }
        }
        Ok(config)
    }
}

struct Reader<'a> {
    lines: &'a [Line<'a>],
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next line that says something; it is not taken.
    fn next_line(&mut self) -> Option<Line<'a>> {
        loop {
            let line = *self.lines.get(self.at)?;
            let marker = line.indent == 0 && line.text.trim_end() == "---";
            if !line.is_blank() && !marker {
                return Some(line);
            }
            self.at += 1;
        }
    }

    /// Skips the value of a key at the top: what is indented, and sequences, which need no indentation.
    fn skip_below(&mut self) {
        while let Some(line) = self.lines.get(self.at) {
            if line.indent == 0 && !line.is_blank() && !line.text.starts_with('-') {
                return;
            }
            self.at += 1;
        }
    }

    /// The sequence of `write_files`.
    fn files(&mut self) -> Result<Vec<File>, FieldError> {
        let mut files = Vec::new();
        let mut column = None;
        while let Some(line) = self.next_line() {
            let Some(rest) = item(line) else {
                if line.indent == 0 {
                    break; // the next key at the top
                }
                return Err(wrong(line, "an item that begins with - is expected"));
            };
            if *column.get_or_insert(line.indent) != line.indent {
                return Err(wrong(line, "it is not below the items before it"));
            }
            if files.len() == MAX_FILES {
                return Err(wrong(line, &format!("more than {MAX_FILES} files")));
            }
            files.push(self.file(line, rest)?);
        }
        Ok(files)
    }

    /// The mapping of one item, whose first key may stand in the line of the hyphen.
    fn file(&mut self, dash: Line<'a>, rest: &'a str) -> Result<File, FieldError> {
        let inner = rest.trim_start_matches(' ');
        let mut first = (!inner.is_empty() && !inner.starts_with('#')).then(|| Line {
            number: dash.number,
            indent: dash.indent + dash.text.len() - inner.len(),
            text: inner,
        });
        if first.is_none() {
            self.at += 1;
        }
        let mut column = first.map(|line| line.indent);
        let (mut path, mut content, mut encoding) = (None, None, None);
        loop {
            let line = match first.take() {
                Some(line) => line,
                None => match self.next_line() {
                    Some(line) if line.indent > dash.indent => line,
                    _ => break,
                },
            };
            if *column.get_or_insert(line.indent) != line.indent {
                return Err(wrong(line, "it is not below the keys before it"));
            }
            let (key, value) = key_and_value(line)?;
            self.at += 1;
            let scalar = self.scalar(line, value)?;
            match key {
                "path" => path = Some(scalar),
                "content" => content = Some(scalar),
                "encoding" => encoding = Some((line, scalar)),
                // All files belong to root and are for root alone.
                "owner" | "permissions" => {}
                other => return Err(wrong(line, &format!("{}: not supported yet", shown(other)))),
            }
        }
        let path = path.ok_or_else(|| wrong(dash, "the item has no path"))?;
        let content = content.unwrap_or_default();
        let content = match encoding {
            None => content.into_bytes(),
            Some((line, name)) => match name.as_str() {
                "text/plain" => content.into_bytes(),
                "b64" | "base64" => {
                    let packed: String = content.split_ascii_whitespace().collect();
                    base64::engine::general_purpose::STANDARD
                        .decode(packed)
                        .map_err(|_| wrong(line, "the content is not base64"))?
                }
                other => {
                    let why = format!("encoding {}: use b64 or none", shown(other));
                    return Err(wrong(line, &why));
                }
            },
        };
        if content.len() > MAX_FILE {
            let why = format!(
                "{} bytes in {}, at most {MAX_FILE}",
                content.len(),
                shown(&path)
            );
            return Err(wrong(dash, &why));
        }
        Ok(File { path, content })
    }

    /// A scalar whose beginning is `value`; a literal one goes on in the lines below.
    fn scalar(&mut self, line: Line<'_>, value: &str) -> Result<String, FieldError> {
        if let Some(header) = value.strip_prefix('|') {
            return self.literal(line, header);
        }
        let Some(first) = value.chars().next() else {
            return Ok(String::new());
        };
        match first {
            '\'' => {
                let inner = closed(line, value, '\'')?;
                Ok(inner.replace("''", "'"))
            }
            '"' => unescape(line, closed(line, value, '"')?),
            '>' | '&' | '*' | '!' | '[' | '{' | '%' | '@' | '`' => {
                let why = format!("{}: only plain, quoted and literal (|) text", shown(value));
                Err(wrong(line, &why))
            }
            _ => {
                let end = value.find(" #").unwrap_or(value.len());
                Ok(value.get(..end).unwrap_or_default().trim_end().to_owned())
            }
        }
    }

    /// A literal block: what is indented deeper than its key.
    fn literal(&mut self, key: Line<'_>, header: &str) -> Result<String, FieldError> {
        let keep = match header.trim_end() {
            "" => Chomp::Clip,
            "-" => Chomp::Strip,
            "+" => Chomp::Keep,
            other => {
                let why = format!("|{other}: only |, |- and |+ of literal text");
                return Err(wrong(key, &why));
            }
        };
        let mut indent = None;
        let mut text = String::new();
        // Lines without text belong to the block only when text follows, or when they are kept.
        let mut empty = 0_usize;
        while let Some(line) = self.lines.get(self.at) {
            if line.text.trim_end_matches(['\r', ' ']).is_empty() {
                empty += 1;
                self.at += 1;
                continue;
            }
            if line.indent <= key.indent {
                break;
            }
            let indent = *indent.get_or_insert(line.indent);
            if line.indent < indent {
                return Err(wrong(*line, "it is not below the text before it"));
            }
            text.extend(std::iter::repeat_n('\n', empty));
            empty = 0;
            text.extend(std::iter::repeat_n(' ', line.indent - indent));
            text.push_str(line.text);
            text.push('\n');
            self.at += 1;
        }
        match keep {
            Chomp::Clip => {}
            Chomp::Strip => {
                text.pop();
            }
            Chomp::Keep => text.extend(std::iter::repeat_n('\n', empty)),
        }
        Ok(text)
    }
}

enum Chomp {
    Clip,
    Strip,
    Keep,
}

/// What follows the hyphen of an item.
fn item<'a>(line: Line<'a>) -> Option<&'a str> {
    let rest = line.text.strip_prefix('-')?;
    (rest.is_empty() || rest.starts_with(' ')).then_some(rest)
}

fn key_and_value(line: Line<'_>) -> Result<(&str, &str), FieldError> {
    let (key, value) = line
        .text
        .split_once(':')
        .ok_or_else(|| wrong(line, "`key: value` is expected"))?;
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if key.is_empty() || !key.chars().all(name) {
        return Err(wrong(line, "a key of letters, digits, _ and - is expected"));
    }
    if !value.is_empty() && !value.starts_with(' ') {
        return Err(wrong(line, "a space is expected after the colon"));
    }
    let value = value.trim();
    Ok((key, if value.starts_with('#') { "" } else { value }))
}

/// The text between quotes that end with the value.
fn closed<'a>(line: Line<'_>, value: &'a str, quote: char) -> Result<&'a str, FieldError> {
    let inner = value
        .strip_prefix(quote)
        .and_then(|rest| rest.strip_suffix(quote));
    inner.ok_or_else(|| wrong(line, "the quoted text does not end with the line"))
}

fn unescape(line: Line<'_>, text: &str) -> Result<String, FieldError> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '"' {
            return Err(wrong(line, "a quote inside of quoted text: write \\\""));
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('\\') => '\\',
            Some('"') => '"',
            _ => return Err(wrong(line, "only \\n, \\t, \\\\ and \\\" are known")),
        });
    }
    Ok(out)
}

/// Without the line's text, which may be of a private key.
fn wrong(line: Line<'_>, why: &str) -> FieldError {
    FieldError::new(format!("user_data line {}", line.number), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Octavia's template gives.
    const OCTAVIA: &str = "#cloud-config
# vim: syntax=yaml
#
# This configuration with take user-data dict and build a cloud-init
# script utilizing the write_files module.

write_files:
-   path: /etc/octavia/certs/server.pem
    content: |
        -----BEGIN CERTIFICATE-----
        MIIB

        -----END CERTIFICATE-----
-   path: /etc/octavia/amphora-agent.conf
    content: |

        [DEFAULT]
          debug = True

runcmd:
- systemctl restart rsyslog
- [ls, -l]
timezone: UTC
";

    fn error(text: &str) -> String {
        CloudConfig::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn octavias_template_is_read() {
        assert!(CloudConfig::is(OCTAVIA.as_bytes()));
        let config = CloudConfig::parse(OCTAVIA.as_bytes()).unwrap();
        assert_eq!(config.timezone.as_deref(), Some("UTC"));
        assert_eq!(config.skipped, ["runcmd"]);
        assert_eq!(config.files.len(), 2);
        assert_eq!(config.files[0].path, "/etc/octavia/certs/server.pem");
        assert_eq!(
            config.files[0].content,
            b"-----BEGIN CERTIFICATE-----\nMIIB\n\n-----END CERTIFICATE-----\n"
        );
        assert_eq!(config.files[1].content, b"\n[DEFAULT]\n  debug = True\n");
    }

    #[test]
    fn scalars_in_their_forms() {
        let text = "write_files:\n  - content: 'it''s'\n    path: \"/a\\tb\"\n    permissions: '0600'\n  -\n    \
                    path: /b # here\n    encoding: b64\n    content: |-\n      aGVs\n      bG8=\n";
        let config = CloudConfig::parse(text.as_bytes()).unwrap();
        let file = |n: usize| {
            let file = &config.files[n];
            (file.path.as_str(), file.content.as_slice())
        };
        assert_eq!(file(0), ("/a\tb", &b"it's"[..]));
        assert_eq!(file(1), ("/b", &b"hello"[..]));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_line_and_never_shown() {
        for (text, expect) in [
            ("write_files: [a]\n", "line 1"),
            (
                "write_files:\n- path: &x /a\n",
                "line 2: \"&x /a\": only plain",
            ),
            (
                "write_files:\n- path: /a\n   content: x\n",
                "line 3: it is not below",
            ),
            (
                "write_files:\n- content: x\n",
                "line 2: the item has no path",
            ),
            (
                "write_files:\n- path: /a\n  append: true\n",
                "line 3: \"append\": not supported yet",
            ),
            (
                "write_files:\n- path: /a\n  encoding: gzip\n  content: x\n",
                "line 3: encoding",
            ),
            ("write_files:\n- path: /a\n  content: |2\n", "line 3: |2"),
            ("  x: 1\n", "line 1"),
            ("timezone: 'UTC\n", "line 1: the quoted text"),
            ("nonsense\n", "line 1: `key: value`"),
        ] {
            let error = error(text);
            assert!(error.contains(expect), "{text}: {error}");
        }
        let secret = error("write_files:\n- path: /a\n  content: |\n    x\n  KEY\n");
        assert!(!secret.contains("KEY"), "{secret}");
        assert!(!CloudConfig::is(b"#!/bin/sh\n"));
    }

    #[test]
    fn many_files_are_too_many() {
        let items = |n: usize| format!("write_files:\n{}", "- path: /a\n".repeat(n));
        assert!(CloudConfig::parse(items(MAX_FILES).as_bytes()).is_ok());
        assert!(error(&items(MAX_FILES + 1)).contains("more than 64"));
    }
}
