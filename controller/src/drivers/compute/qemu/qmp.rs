//! QEMU's machine protocol: one JSON document a line, in both directions. Pure.
//!
//! A connection begins with a greeting; after `qmp_capabilities` commands are answered, each under the id that it was
//! sent with, and events come in between. What is on the other side is a program that runs somebody's guest: its
//! lines are bounded and read with suspicion.

use krater_model::FieldError;
use serde_json::{Value, json};

/// Longest line, in bytes. The longest answer that is asked for, the names of all devices, is a few thousand.
pub const MAX_LINE: usize = 256 * 1024;

/// What QEMU says.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The first line.
    Greeting {
        /// Such as `7.2.22`.
        version: String,
    },
    /// A command succeeded.
    Done {
        /// Of the command.
        id: u64,
        /// What it returned.
        value: Value,
    },
    /// A command failed.
    Failed {
        /// Of the command; none when QEMU could not read it.
        id: Option<u64>,
        /// Such as `GenericError` or `DeviceNotFound`.
        class: String,
        /// For people.
        text: String,
    },
    /// Something happened.
    Event {
        /// Such as `DEVICE_DELETED`.
        name: String,
        /// What about.
        data: Value,
    },
}

/// Reads a line.
///
/// # Errors
/// When it is none of the four; the error names the field.
pub fn parse(line: &[u8]) -> Result<Message, FieldError> {
    let refuse = |field: &str, why: &str| FieldError::new(format!("qmp.{field}"), why);
    let document: Value = serde_json::from_slice(line)
        .map_err(|error| FieldError::new("qmp", format!("no JSON: {error}")))?;
    let Value::Object(mut fields) = document else {
        return Err(refuse("", "no object"));
    };
    let id = fields.get("id").and_then(Value::as_u64);
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    if let Some(greeting) = fields.get("QMP") {
        let part = |name: &str| {
            let part = greeting.get("version")?.get("qemu")?.get(name)?;
            part.as_u64()
        };
        return match (part("major"), part("minor"), part("micro")) {
            (Some(major), Some(minor), Some(micro)) => Ok(Message::Greeting {
                version: format!("{major}.{minor}.{micro}"),
            }),
            _ => Err(refuse("QMP.version", "no version")),
        };
    }
    if let Some(error) = fields.get("error") {
        let class = text(error.get("class")).ok_or_else(|| refuse("error.class", "no text"))?;
        let text = text(error.get("desc")).ok_or_else(|| refuse("error.desc", "no text"))?;
        return Ok(Message::Failed { id, class, text });
    }
    if let Some(name) = fields.get("event") {
        let name = text(Some(name)).ok_or_else(|| refuse("event", "no text"))?;
        let data = fields.remove("data").unwrap_or(Value::Null);
        return Ok(Message::Event { name, data });
    }
    match (fields.remove("return"), id) {
        (Some(value), Some(id)) => Ok(Message::Done { id, value }),
        (Some(_), None) => Err(refuse("id", "an answer to nobody")),
        (None, _) => Err(refuse("", "neither greeting, answer nor event")),
    }
}

/// A command as it is sent. `arguments` null: it has none.
pub fn encode(id: u64, command: &str, arguments: &Value) -> Vec<u8> {
    let mut document = json!({ "execute": command, "id": id });
    if !arguments.is_null() {
        document["arguments"] = arguments.clone();
    }
    format!("{document}\n").into_bytes()
}

/// Divides what comes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Before this everything was given out.
    start: usize,
    /// Between `start` and this there is no end of a line.
    searched: usize,
    /// Length of the line that has no end yet.
    begun: usize,
}

impl Lines {
    /// Takes what was read.
    ///
    /// # Errors
    /// When a line gets longer than [`MAX_LINE`]; nothing more can be read then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), FieldError> {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
        self.begun = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => bytes.len() - end - 1,
            None => self.begun + bytes.len(),
        };
        if self.begun > MAX_LINE {
            let why = format!("a line of more than {MAX_LINE} bytes");
            return Err(FieldError::new("qmp", why));
        }
        Ok(())
    }

    /// The next whole line without its end; empty lines are left out.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        loop {
            let rest = self.bytes.get(self.searched..)?;
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.bytes.len();
                return None;
            };
            let end = self.searched + end;
            let mut line = self.bytes.get(self.start..end)?;
            (self.start, self.searched) = (end + 1, end + 1);
            if let Some(short) = line.strip_suffix(b"\r") {
                line = short;
            }
            if !line.is_empty() {
                return Some(line.to_vec());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of a real QEMU 7.2.
    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18"}, "capabilities": ["oob"]}}"#;

    #[test]
    fn each_kind_of_line_is_read() {
        let version = "7.2.22".into();
        assert_eq!(
            parse(GREETING.as_bytes()),
            Ok(Message::Greeting { version })
        );
        let done =
            br#"{"return": {"status": "running", "singlestep": false, "running": true}, "id": 2}"#;
        let Ok(Message::Done { id: 2, value }) = parse(done) else {
            panic!("{:?}", parse(done));
        };
        assert_eq!(value["status"], "running");
        let failed =
            br#"{"id": 3, "error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}}"#;
        assert_eq!(
            parse(failed),
            Ok(Message::Failed {
                id: Some(3),
                class: "DeviceNotFound".into(),
                text: "Device 'x' not found".into()
            })
        );
        let event = br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "DEVICE_DELETED", "data": {"device": "nx", "path": "/machine/peripheral/nx"}}"#;
        let Ok(Message::Event { name, data }) = parse(event) else {
            panic!("{:?}", parse(event));
        };
        assert_eq!(
            (name.as_str(), &data["device"]),
            ("DEVICE_DELETED", &json!("nx"))
        );
        let bare = br#"{"event": "RESET"}"#;
        assert!(matches!(
            parse(bare),
            Ok(Message::Event {
                data: Value::Null,
                ..
            })
        ));
    }

    #[test]
    fn what_is_no_message_is_refused_by_field() {
        for (line, field) in [
            ("", "qmp:"),
            ("{", "qmp:"),
            ("[]", "qmp."),
            ("{}", "qmp."),
            (
                r#"{"QMP": {"version": {"qemu": {"major": "7"}}}}"#,
                "QMP.version",
            ),
            (r#"{"error": {"desc": "x"}}"#, "error.class"),
            (r#"{"error": {"class": "x"}}"#, "error.desc"),
            (r#"{"event": 7}"#, "event"),
            (r#"{"return": {}}"#, "id"),
            (r#"{"return": {}, "id": -1}"#, "id"),
        ] {
            let error = parse(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(field), "{line}: {error}");
        }
        // serde_json's limit of nesting.
        parse("[".repeat(MAX_LINE).as_bytes()).unwrap_err();
    }

    #[test]
    fn commands_are_one_line() {
        let command = encode(7, "device_del", &json!({ "id": "a\nb" }));
        assert_eq!(command.iter().filter(|byte| **byte == b'\n').count(), 1);
        let document: Value = serde_json::from_slice(&command).unwrap();
        assert_eq!(document["execute"], "device_del");
        assert_eq!(document["arguments"]["id"], "a\nb");
        assert_eq!(document["id"], 7);
        let command = encode(8, "query-status", &Value::Null);
        assert_eq!(command, b"{\"execute\":\"query-status\",\"id\":8}\n");
    }

    #[test]
    fn lines_are_found_however_they_come() {
        let text = b"one\r\n\r\n\ntwo\nthr";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for part in text.chunks(size) {
                lines.push(part).unwrap();
                while let Some(line) = lines.next_line() {
                    found.push(line);
                }
            }
            assert_eq!(
                found,
                [b"one".to_vec(), b"two".to_vec()],
                "in pieces of {size}"
            );
        }
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; MAX_LINE]).unwrap();
        lines.push(b"x").unwrap_err();
        assert!(lines.next_line().is_none());
    }
}
