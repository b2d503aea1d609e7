//! JSON bodies and queries of the REST API.

use krater_controller::http::v2::{BODIES, LISTS, read, read_query};

/// Longest text of a refusal: it repeats a value at most, never a whole body.
const REFUSAL: usize = 8 * 1024;

/// A body is read as that of every resource and operation: whatever reads it answers, and a refusal
/// names what is wrong in a text that fits into an answer.
pub(super) fn body(data: &[u8]) {
    for body in BODIES {
        if let Err(error) = read(body, data) {
            let text = error.to_string();
            assert!(!text.is_empty(), "a refusal of {body} says why");
            assert!(
                (400..=501).contains(&error.status().as_u16()),
                "a refusal of {body} is the client's fault, or not supported yet"
            );
            assert!(
                text.len() < REFUSAL.max(data.len() * 8),
                "{} bytes",
                text.len()
            );
        }
    }
}

/// A query is read as that of every list: it is understood, or refused with a text.
pub(super) fn query(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else {
        return;
    };
    for list in LISTS {
        if let Err(error) = read_query(list, query) {
            let text = error.to_string();
            assert!(!text.is_empty(), "a refusal of {list} says why");
            assert_eq!(
                error.status().as_u16(),
                400,
                "a query is the client's: {text}"
            );
            assert!(
                text.len() < REFUSAL.max(data.len() * 8),
                "{} bytes",
                text.len()
            );
        }
    }
}
