//! Errors that name the field, the value and the fix.

use std::error::Error;
use std::fmt;

/// A refused value: which field, what was wrong, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct FieldError {
    /// Path of the field, such as `load_balancers[0].listeners[2].port`.
    pub field: String,
    /// The value as far as it may be shown, what is wrong with it, and the fix.
    pub why: String,
}

impl FieldError {
    /// A refusal of `field` with the reason `why`.
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            why: why.into(),
        }
    }

    /// The one way to refuse what is known but has no effect yet (design.md, rule 8).
    pub fn not_supported(field: impl Into<String>) -> Self {
        let field = field.into();
        Self {
            why: format!("not supported yet: {field}"),
            field,
        }
    }

    /// Puts `parent` in front of the field's path.
    #[must_use]
    pub fn within(mut self, parent: impl fmt::Display) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}

/// Prints an error with its chain of causes on one line: `a: b: c`.
pub fn report(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
