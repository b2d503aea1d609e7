//! Static tokens of an appliance: who may use the API without an identity service.
//!
//! The file holds digests, not tokens. It is read at the start.

use crate::app::policy::Identity;
use aws_lc_rs::digest::{SHA256, digest};
use krater_model::FieldError;
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

/// Longest file in bytes: some thousand tokens.
const MAX_FILE: u64 = 1 << 20;
/// Longest project and user, as in the database.
const MAX_ID: usize = 36;
/// Longest role.
const MAX_ROLE: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tokens: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    sha256: String,
    user: String,
    project: String,
    roles: Vec<String>,
}

/// Digest → whose it is.
pub struct Tokens(HashMap<String, Identity>);

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// Unreadable, too long, or one of [`Self::parse`].
    pub fn load(path: &Path) -> Result<Self, FieldError> {
        let refuse =
            |why: String| FieldError::new("api.tokens", format!("{}: {why}", path.display()));
        let length = std::fs::metadata(path)
            .map_err(|error| refuse(error.to_string()))?
            .len();
        if length > MAX_FILE {
            return Err(refuse(format!("longer than {MAX_FILE} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        Self::parse(&text)
    }

    /// Reads the text.
    ///
    /// # Errors
    /// No TOML, an unknown key, a value out of range, a token twice, no token at all. Names the entry.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let file: File = toml::from_str(text)
            .map_err(|error| FieldError::new("api.tokens", error.to_string()))?;
        let mut tokens = HashMap::new();
        for (number, entry) in file.tokens.into_iter().enumerate() {
            let refuse = |key: &str, why: &str| {
                Err(FieldError::new(
                    format!("tokens[{number}].{key}"),
                    why.to_owned(),
                ))
            };
            let plain = |text: &str, max: usize| {
                !text.is_empty() && text.len() <= max && text.chars().all(|c| c.is_ascii_graphic())
            };
            let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            if entry.sha256.len() != 64 || !entry.sha256.bytes().all(hex) {
                return refuse(
                    "sha256",
                    "use the 64 hex digits of `printf %s TOKEN | sha256sum`",
                );
            }
            if !plain(&entry.project, MAX_ID) {
                return refuse("project", "use 1 to 36 visible ASCII characters");
            }
            if !plain(&entry.user, MAX_ID) {
                return refuse("user", "use 1 to 36 visible ASCII characters");
            }
            if !entry.roles.iter().all(|role| plain(role, MAX_ROLE)) {
                return refuse("roles", "use 1 to 64 visible ASCII characters for each");
            }
            let who = Identity::new(entry.user, entry.project, entry.roles);
            if tokens.insert(entry.sha256, who).is_some() {
                return refuse("sha256", "an earlier entry has it too");
            }
        }
        if tokens.is_empty() {
            return Err(FieldError::new(
                "api.tokens",
                "there is no [[tokens]] entry".to_owned(),
            ));
        }
        Ok(Self(tokens))
    }

    /// Whose a token is. The time that the look-up takes tells about digests, which nobody can choose.
    pub fn find(&self, token: &str) -> Option<&Identity> {
        let hash = digest(&SHA256, token.as_bytes());
        let hex: String = hash
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.0.get(&hex)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `secret`.
    const DIGEST: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn entry(sha256: &str, project: &str, roles: &str) -> String {
        format!(
            "[[tokens]]\nsha256 = \"{sha256}\"\nuser = \"u\"\nproject = \"{project}\"\nroles = [{roles}]\n"
        )
    }

    #[test]
    fn a_token_is_found_by_itself_alone() {
        let tokens = Tokens::parse(&entry(DIGEST, "p", "\"member\"")).unwrap();
        assert_eq!(tokens.find("secret").unwrap().project, "p");
        for wrong in ["", "secret ", "Secret", DIGEST] {
            assert_eq!(tokens.find(wrong), None, "{wrong}");
        }
        assert_eq!(format!("{tokens:?}"), "1 tokens");
    }

    #[test]
    fn refusals_name_entry_and_key() {
        let twice = entry(DIGEST, "p", "") + &entry(DIGEST, "q", "");
        for (text, said) in [
            (String::new(), "there is no"),
            ("[[tokens]]\nsha256 = 1".to_owned(), "invalid type"),
            (entry(DIGEST, "p", "") + "rôle = 1\n", "api.tokens"),
            (entry(DIGEST, "p", "") + "role = 1\n", "unknown field"),
            (entry("secret", "p", ""), "tokens[0].sha256"),
            (entry(&DIGEST.to_uppercase(), "p", ""), "tokens[0].sha256"),
            (entry(DIGEST, "", ""), "tokens[0].project"),
            (entry(DIGEST, &"p".repeat(37), ""), "tokens[0].project"),
            (entry(DIGEST, "p", "\"a b\""), "tokens[0].roles"),
            (twice, "tokens[1].sha256"),
        ] {
            let error = Tokens::parse(&text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
