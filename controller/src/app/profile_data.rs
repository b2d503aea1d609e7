//! What the data of flavor profiles and availability zone profiles have in common: JSON text with one key that has an
//! effect.

use super::Error;
use serde_json::{Map, Value};

/// Longest text; upstream's limit.
pub const MAX: usize = 4096;
/// Longest part of a foreign text in a refusal.
const SHOWN: usize = 255;

/// Gives the value of `key`, if the text has it, to `take`. `attribute` is what the text is called.
///
/// # Errors
/// 400: no JSON object, a key without effect, a value that `take` refuses.
pub(super) fn read(
    text: &str,
    attribute: &str,
    key: &str,
    mut take: impl FnMut(&Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let object: Option<Map<String, Value>> = serde_json::from_str(text).ok();
    let object = object.ok_or_else(|| Error::option(shown(text), attribute))?;
    for (name, value) in &object {
        if name != key {
            return Err(Error::data_key_not_supported(&shown(name)));
        }
        take(value)?;
    }
    Ok(())
}

/// The beginning of a foreign text.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
