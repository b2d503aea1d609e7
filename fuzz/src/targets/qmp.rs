//! What QEMU's monitor says.

use krater_controller::drivers::compute::qemu::qmp::{Lines, MAX_LINE, Message, encode, parse};

/// A session, read in pieces of every size that the first byte says; the same lines come out as of one piece, each
/// line is refused or means something, and what it carries can be sent in a command without becoming two.
pub(super) fn session(data: &[u8]) {
    let Some((size, data)) = data.split_first() else {
        return;
    };
    let read = |size: usize| -> Option<Vec<Vec<u8>>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for part in data.chunks(size) {
            lines.push(part).ok()?;
            while let Some(line) = lines.next_line() {
                assert!(!line.is_empty() && !line.contains(&b'\n'));
                found.push(line);
            }
        }
        Some(found)
    };
    let (pieces, whole) = (read(usize::from(*size).max(1)), read(data.len().max(1)));
    assert!(data.len() > MAX_LINE || pieces == whole);
    for line in pieces.unwrap_or_default() {
        let value = match parse(&line) {
            Err(error) => {
                assert!(error.field.starts_with("qmp"));
                continue;
            }
            Ok(Message::Done { value, .. }) => value,
            Ok(Message::Event { name, data }) => serde_json::json!({ "name": name, "data": data }),
            Ok(Message::Failed { class, text, .. }) => serde_json::json!([class, text]),
            Ok(Message::Greeting { version }) => version.into(),
        };
        let sent = encode(1, "x", &value);
        assert_eq!(sent.iter().filter(|byte| **byte == b'\n').count(), 1);
        let back: serde_json::Value = serde_json::from_slice(&sent).unwrap_or_default();
        assert!(back["execute"] == "x" && back["id"] == 1);
    }
}
