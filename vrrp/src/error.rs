//! Why vrrp cannot run.

use std::io;
use std::path::PathBuf;

/// A failure that ends the process.
#[derive(Debug, thiserror::Error)]
pub enum VrrpError {
    /// The namespace cannot be entered.
    #[error("enter network namespace {path}")]
    Netns {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A Unix socket cannot be made.
    #[error("listen on {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else that is needed at start or for ever.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Netlink does not work.
    #[error("netlink")]
    Netlink(#[from] krater_net::Error),
    /// A command line that only this program itself writes was wrong.
    #[error("vrrp-guard: {0}")]
    GuardArguments(String),
}

/// `.map_err(during("…"))`
pub(crate) fn during<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> VrrpError + Copy {
    move |source| VrrpError::Io {
        what,
        source: source.into(),
    }
}
