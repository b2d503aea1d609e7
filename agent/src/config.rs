//! Reads what the config drive holds. Everything is checked before the agent does anything.

use crate::ledger::SealKey;
use krater_model::FieldError;
use krater_model::config::AgentConfig;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}: {source}")]
    Field { path: PathBuf, source: FieldError },
}

/// Reads `agent.toml`. Relative paths in it are relative to its folder.
pub(crate) fn load(path: &Path) -> Result<AgentConfig, ConfigError> {
    let field = |source| ConfigError::Field {
        path: path.to_owned(),
        source,
    };
    let mut config = AgentConfig::parse(&text(path)?).map_err(field)?;
    let absolute = std::path::absolute(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let dir = absolute.parent().unwrap_or_else(|| Path::new("/"));
    for path in [
        &mut config.run_dir,
        &mut config.state_dir,
        &mut config.log_dir,
        &mut config.vip_netns,
        &mut config.server_pem,
        &mut config.client_ca,
    ] {
        *path = dir.join(&path);
    }
    config.seal_key = config.seal_key.map(|key| dir.join(key));
    check(&config).map_err(field)?;
    Ok(config)
}

fn check(config: &AgentConfig) -> Result<(), FieldError> {
    if config.listen.port() == 0 {
        return Err(FieldError::new(
            "listen",
            "port 0: name the port, such as 9443",
        ));
    }
    if config.workers == Some(0) {
        return Err(FieldError::new(
            "workers",
            "0: use at least 1, or leave it out",
        ));
    }
    if let Some(heartbeat) = &config.heartbeat
        && heartbeat.interval.value() < 50
    {
        return Err(FieldError::new("heartbeat.interval", "use at least 50 ms"));
    }
    if !["error", "warn", "info", "debug", "trace"].contains(&config.log_level.as_str()) {
        let why = format!(
            "{:?}: use error, warn, info, debug or trace",
            config.log_level
        );
        return Err(FieldError::new("log_level", why));
    }
    Ok(())
}

/// The text of a file that the configuration names.
pub(crate) fn text(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The seal key, when there is one.
pub(crate) fn seal_key(config: &AgentConfig) -> Result<Option<SealKey>, ConfigError> {
    let Some(path) = &config.seal_key else {
        return Ok(None);
    };
    let text = zeroize::Zeroizing::new(text(path)?);
    SealKey::parse(&text)
        .map(Some)
        .map_err(|source| ConfigError::Field {
            path: path.clone(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
amphora_id = "00000000-0000-0000-0000-000000000007"
listen = "100.96.0.2:9443"
run_dir = "run"
state_dir = "/state"
log_dir = "log"
vip_netns = "vip"
server_pem = "server.pem"
client_ca = "ca.pem"
"#;

    fn load_text(text: &str) -> Result<AgentConfig, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        fs::write(&path, text).unwrap();
        load(&path).map_err(|error| krater_model::report(&error))
    }

    #[test]
    fn relative_paths_are_relative_to_the_file() {
        let config = load_text(GOOD).unwrap();
        assert!(config.run_dir.is_absolute() && config.run_dir.ends_with("run"));
        assert_eq!(config.state_dir, Path::new("/state"));
    }

    #[test]
    fn wrong_files_name_field_and_fix() {
        for (change, expect) in [
            ("colour = 1\n", "unknown field `colour`"),
            ("workers = 0\n", "workers: 0: use at least 1"),
            ("log_level = \"loud\"\n", "log_level: \"loud\": use error"),
        ] {
            let text = load_text(&format!("{GOOD}{change}")).unwrap_err();
            assert!(
                text.contains("agent.toml") && text.contains(expect),
                "{text}"
            );
        }
        let text = load_text(&GOOD.replace(":9443", ":0")).unwrap_err();
        assert!(text.contains("listen: port 0"), "{text}");
    }
}
