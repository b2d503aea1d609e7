//! `amphora check FILE` and `amphora check --config FILE`
#![allow(clippy::print_stdout, reason = "the answer of a command")]

use crate::config;
use anyhow::Context;
use krater_model::DesiredState;
use std::path::Path;

/// Says `ok`, or what is wrong and how to mend it.
pub(crate) fn run(file: Option<&Path>, appliance: Option<&Path>) -> anyhow::Result<()> {
    if let Some(path) = appliance {
        let file = crate::appliance::load(path)?;
        println!("ok: {}", crate::appliance::summary(&file));
    }
    if let Some(path) = file {
        println!("ok: {}", verdict(path)?);
    }
    Ok(())
}

fn verdict(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    if text.trim_ascii_start().starts_with(b"{") {
        let state = DesiredState::parse(&text).with_context(|| path.display().to_string())?;
        crate::apply::plan::refuse(&state, &[]).with_context(|| path.display().to_string())?;
        return Ok(format!(
            "desired state {} of amphora {}: {} interfaces, {} virtual routers, {} load balancers",
            state.revision(),
            state.amphora_id,
            state.interfaces.len(),
            state.vrrp.len(),
            state.load_balancers.len(),
        ));
    }
    let config = config::load(path)?;
    Ok(format!("agent of amphora {}", config.amphora_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, text).unwrap();
        verdict(&path).map_err(|error| krater_model::report(error.as_ref()))
    }

    const STATE: &str = r#"{"schema":1,"epoch":1,"generation":2,
        "amphora_id":"00000000-0000-0000-0000-000000000007","request_id":"req-1"}"#;

    #[test]
    fn a_desired_state_is_told_from_a_configuration() {
        assert!(
            check(STATE)
                .unwrap()
                .starts_with("desired state 1.2 of amphora 0000")
        );
        let error = check(&STATE.replace("\"epoch\":1", "\"epoch\":\"x\"")).unwrap_err();
        assert!(error.contains("epoch: invalid type"), "{error}");
        let error = check("colour = 1").unwrap_err();
        assert!(error.contains("agent.toml"), "{error}");
    }
}
