//! Which files a config drive may put where.

use super::shown;
use std::fmt;

/// Below these, and nowhere else. Each is a file system in memory of its own, that root alone may enter.
pub const FOLDERS: [&str; 3] = ["/etc/krater", "/etc/octavia", "/etc/rsyslog.d"];
/// More files than any controller sends: upstream's sends four, Krater's seven.
pub const MAX_FILES: usize = 64;
/// Longest file in bytes: a certificate with a long chain has a tenth.
pub const MAX_FILE: usize = 256 * 1024;
/// All files together, in bytes.
pub const MAX_TOTAL: usize = 2 * 1024 * 1024;
/// Longest path.
const MAX_PATH: usize = 255;

/// An absolute path below one of [`FOLDERS`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target(String);

impl Target {
    /// Checks a path that a config drive wants written; the error says what is wrong with it.
    pub fn parse(path: &str) -> Result<Self, String> {
        let below = |folder: &&str| {
            let rest = path.strip_prefix(*folder)?.strip_prefix('/')?;
            is_plain(rest).then_some(())
        };
        if path.len() > MAX_PATH || FOLDERS.iter().find_map(below).is_none() {
            return Err(format!(
                "{}: not a file below {}",
                shown(path),
                FOLDERS.join(", ")
            ));
        }
        Ok(Self(path.into()))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where on the drive a file's content is: `/content/0000`, relative to its folder `openstack`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source(String);

impl Source {
    /// Checks a `content_path`.
    pub fn parse(path: &str) -> Result<Self, String> {
        let relative = path.strip_prefix('/').unwrap_or(path);
        if path.len() > MAX_PATH || !is_plain(relative) {
            return Err(format!("{}: not a path on the drive", shown(path)));
        }
        Ok(Self(relative.into()))
    }

    /// Relative to the drive's folder `openstack`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Relative, of names alone: nothing that leads out of a folder.
fn is_plain(path: &str) -> bool {
    let name = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.split('/').all(name) && !path.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_below_the_folders_and_nothing_that_leads_out() {
        for good in [
            "/etc/krater/agent.toml",
            "/etc/octavia/certs/server.pem",
            "/etc/rsyslog.d/10-rsyslog.conf",
        ] {
            assert_eq!(Target::parse(good).unwrap().as_str(), good);
        }
        for wrong in [
            "",
            "/etc/krater",
            "/etc/krater/",
            "/etc/kraterx/a",
            "/etc/passwd",
            "/etc/krater/../passwd",
            "/etc/krater/./a",
            "/etc/krater//a",
            "etc/krater/a",
            "/etc/krater/a\0b",
            "/init",
        ] {
            let error = Target::parse(wrong).unwrap_err();
            assert!(error.contains("/etc/krater"), "{wrong}: {error}");
        }
        assert!(Target::parse(&format!("/etc/krater/{}", "x".repeat(MAX_PATH))).is_err());
    }

    #[test]
    fn content_is_on_the_drive() {
        assert_eq!(
            Source::parse("/content/0000").unwrap().as_str(),
            "content/0000"
        );
        for wrong in ["", "/", "/../x", "content/../../x", "//content"] {
            assert!(Source::parse(wrong).is_err(), "{wrong}");
        }
    }
}
