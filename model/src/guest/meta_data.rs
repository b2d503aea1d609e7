//! `meta_data.json` of a config drive, as Nova writes it.

use super::delivery::{MAX_FILES, Source};
use super::{bounded, shown};
use crate::FieldError;
use base64::Engine as _;
use serde::Deserialize;

/// Longest host name that Linux takes.
const MAX_HOSTNAME: usize = 64;
/// Longest seed that is used: Nova's has 512 bytes, the kernel's pool holds 32.
const MAX_SEED: usize = 4_096;

/// What is used of it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct MetaData {
    /// The instance's id.
    pub uuid: Option<String>,
    /// Its name in the network.
    pub hostname: Option<String>,
    /// Random bytes of the host.
    pub random_seed: Vec<u8>,
    /// Files to write.
    pub files: Vec<File>,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where to, not checked yet: a drive may hold files for others, which hinder nobody.
    pub path: String,
    /// Where on the drive it is.
    pub content: Source,
}

impl std::fmt::Debug for MetaData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the seed.
        f.debug_struct("MetaData")
            .field("uuid", &self.uuid)
            .field("hostname", &self.hostname)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Document {
    uuid: Option<String>,
    hostname: Option<String>,
    random_seed: Option<String>,
    #[serde(default)]
    files: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    path: String,
    content_path: String,
}

impl MetaData {
    /// Reads the document.
    pub fn parse(text: &[u8]) -> Result<Self, FieldError> {
        let wrong = |why: String| FieldError::new("meta_data.json", why);
        let document: Document = serde_json::from_slice(bounded("meta_data.json", text)?)
            .map_err(|error| wrong(error.to_string()))?;
        if document.files.len() > MAX_FILES {
            let why = format!("{} files, at most {MAX_FILES}", document.files.len());
            return Err(FieldError::new("files", why).within("meta_data.json"));
        }
        let mut files = Vec::new();
        for (number, entry) in document.files.into_iter().enumerate() {
            let content = Source::parse(&entry.content_path).map_err(|why| {
                FieldError::new(format!("files[{number}].content_path"), why)
                    .within("meta_data.json")
            })?;
            files.push(File {
                path: entry.path,
                content,
            });
        }
        let hostname = document.hostname.map(hostname).transpose()?;
        let random_seed = match document.random_seed {
            None => Vec::new(),
            Some(text) => base64::engine::general_purpose::STANDARD
                .decode(text.trim())
                .ok()
                .filter(|seed| seed.len() <= MAX_SEED)
                // Not shown: it is a secret of the host.
                .ok_or_else(|| wrong("random_seed: not base64 of at most 4096 bytes".into()))?,
        };
        Ok(Self {
            uuid: document.uuid,
            hostname,
            random_seed,
            files,
        })
    }
}

fn hostname(text: String) -> Result<String, FieldError> {
    let ok = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if text.is_empty() || text.len() > MAX_HOSTNAME || !text.chars().all(ok) {
        let why = format!(
            "{}: use 1 to {MAX_HOSTNAME} letters, digits, dots and hyphens",
            shown(&text)
        );
        return Err(FieldError::new("meta_data.json.hostname", why));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOVA: &str = r#"{
        "random_seed": "AAEC", "uuid": "83679162-1378-4288-a2d4-70e13ec132aa", "availability_zone": "nova",
        "keys": [], "hostname": "amphora-83679162.novalocal", "launch_index": 0, "devices": [],
        "files": [
          {"content_path": "/content/0000", "path": "/etc/octavia/certs/server.pem"},
          {"content_path": "/content/0001", "path": "/etc/krater/agent.toml"}],
        "project_id": "f7ac731cc11f40efbc03a9f9e1d1d21f", "name": "amphora-83679162"}"#;

    #[test]
    fn novas_document_is_read() {
        let meta = MetaData::parse(NOVA.as_bytes()).unwrap();
        assert_eq!(meta.hostname.as_deref(), Some("amphora-83679162.novalocal"));
        assert_eq!(meta.random_seed, [0, 1, 2]);
        assert_eq!(meta.files.len(), 2);
        assert_eq!(meta.files[1].path, "/etc/krater/agent.toml");
        assert_eq!(meta.files[1].content.as_str(), "content/0001");
        assert!(
            !format!("{meta:?}").contains("[0, 1, 2]"),
            "a seed is shown"
        );
    }

    #[test]
    fn an_empty_one_has_nothing() {
        assert_eq!(MetaData::parse(b"{}").unwrap(), MetaData::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expect) in [
            ("", "meta_data.json: EOF"),
            ("[1]", "meta_data.json"),
            (r#"{"hostname": "a b"}"#, "hostname: \"a b\": use"),
            (r#"{"hostname": ""}"#, "hostname"),
            (r#"{"random_seed": "!"}"#, "random_seed"),
            (
                r#"{"files": [{"path": "/a", "content_path": "/../x"}]}"#,
                "files[0].content_path",
            ),
            (r#"{"files": [{"path": "/a"}]}"#, "content_path"),
        ] {
            let error = MetaData::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expect), "{text}: {error}");
        }
        let many = format!(
            r#"{{"files": [{}]}}"#,
            vec![r#"{"path": "/a", "content_path": "b"}"#; MAX_FILES + 1].join(",")
        );
        assert!(MetaData::parse(many.as_bytes()).is_err());
        assert!(MetaData::parse(&vec![b' '; super::super::MAX_DOCUMENT + 1]).is_err());
    }
}
