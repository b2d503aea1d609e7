//! Who may use the API: static tokens of a file, or Keystone's. What they may do is [`crate::app::policy`].

use crate::app::policy::Identity;
use crate::app::policy::file::Overrides;
use crate::tokens::Tokens;
use http::HeaderValue;
use keystone::Keystone;

pub mod cache;
pub mod keystone;

/// See the module.
#[derive(Debug)]
pub struct Auth {
    source: Source,
    overrides: Overrides,
}

#[derive(Debug)]
enum Source {
    Tokens(Tokens),
    Keystone(Box<Keystone>),
}

/// The identity service cannot be asked. Why is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the identity service does not answer")]
pub struct Unavailable;

impl Auth {
    /// By the tokens of a file.
    pub fn tokens(tokens: Tokens) -> Self {
        Self {
            source: Source::Tokens(tokens),
            overrides: Overrides::default(),
        }
    }

    /// By Keystone's tokens.
    pub fn keystone(keystone: Keystone) -> Self {
        Self {
            source: Source::Keystone(Box::new(keystone)),
            overrides: Overrides::default(),
        }
    }

    /// With other rules than those as shipped.
    #[must_use]
    pub fn with_overrides(self, overrides: Overrides) -> Self {
        Self { overrides, ..self }
    }

    /// Whose a token is; none: nobody's.
    ///
    /// # Errors
    /// Keystone does not answer.
    pub async fn identify(&self, token: &str) -> Result<Option<Identity>, Unavailable> {
        match &self.source {
            Source::Tokens(tokens) => Ok(tokens.find(token).cloned()),
            Source::Keystone(keystone) => keystone.identify(token).await,
        }
    }

    /// What a 401 says about where tokens come from.
    pub fn challenge(&self) -> HeaderValue {
        match &self.source {
            Source::Tokens(_) => HeaderValue::from_static("X-Auth-Token"),
            Source::Keystone(keystone) => keystone.challenge(),
        }
    }

    /// The rules that differ from those as shipped.
    pub const fn overrides(&self) -> &Overrides {
        &self.overrides
    }
}
