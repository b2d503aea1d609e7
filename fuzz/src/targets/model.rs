//! Parsers of krater-model, and the configuration files.

use krater_controller::app::policy::file::Overrides;
use krater_controller::app::policy::{Identity, Rule};
use krater_controller::config::Config;
use krater_controller::http::access::policy_names;
use krater_controller::tokens::Tokens;
use krater_model::config::AgentConfig;
use krater_model::config::appliance::Appliance;
use krater_model::control::{Progress, Snapshot};
use krater_model::secret::Secret;
use krater_model::wire::heartbeat::Beat;
use krater_model::{DesiredState, Revision};

/// A datagram as it arrives, and the same bytes as the body of a datagram that is authentic: what a
/// stolen key could send.
pub(super) fn heartbeat(data: &[u8]) {
    let key = Secret::new("fuzz");
    let _ = Beat::decode(data, &key);
    if let Ok(beat) = serde_json::from_slice::<Beat>(data)
        && let Some(sent) = beat.encode(&key)
    {
        assert_eq!(
            Beat::decode(&sent, &key).as_ref(),
            Ok(&beat),
            "an encoded beat is read back"
        );
        let mut damaged = sent;
        if let Some(byte) = damaged.last_mut() {
            *byte ^= 1;
        }
        assert!(
            Beat::decode(&damaged, &key).is_err(),
            "a damaged tag is refused"
        );
    }
}

/// What is accepted must survive its own serialisation: the agent's ledger depends on it.
pub(super) fn desired_state(data: &[u8]) {
    match DesiredState::parse(data) {
        Ok(state) => {
            let text = serde_json::to_vec(&state).unwrap_or_default();
            let again = DesiredState::parse(&text);
            assert_eq!(again, Ok(state), "a written state is read back");
        }
        Err(error) => assert!(!error.to_string().is_empty(), "a refusal says why"),
    }
}

/// The config drive.
pub(super) fn agent_toml(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = AgentConfig::parse(text);
    }
}

/// An appliance's file. What is accepted is a snapshot that the data plane reads.
pub(super) fn amphora_toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(file) = Appliance::parse(text, |path| Ok(format!("content of {path}"))) {
        let snapshot = file.snapshot(Revision::default());
        let json = serde_json::to_vec(&snapshot).unwrap_or_default();
        assert_eq!(
            Snapshot::parse(&json),
            Ok(snapshot),
            "a file is what a controller would send"
        );
    }
}

/// The tokens of an appliance.
pub(super) fn tokens_toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Tokens::parse(text) {
        Ok(tokens) => assert_ne!(format!("{tokens:?}"), "0 tokens"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A file of policy overrides. What it says is answered for everybody, in bounded time.
pub(super) fn policy_yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Overrides::parse(text, &policy_names()) {
        Ok(file) => {
            for role in ["admin", "member", "load-balancer_observer", "other"] {
                let who = Identity::new("u".into(), "p".into(), [role.to_owned()]);
                for name in policy_names() {
                    let _ = file.may(&who, Some(&name), Rule::Write, Some("p"));
                    let _ = file.reads_all(&who, Some(&name));
                }
                let _ = file.reads_all_quotas(&who);
            }
        }
        Err(why) => assert!(!why.is_empty(), "a refusal says why"),
    }
}

/// The controller's file. What is accepted is what `--print-config` shows.
pub(super) fn krater_toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Config::parse(text) {
        Ok(config) => {
            let shown = config.to_toml().unwrap_or_default();
            let meant = Config {
                networks: config.inventory(),
                ..config
            };
            assert_eq!(
                Config::parse(&shown),
                Ok(meant),
                "a shown file is read back"
            );
        }
        Err(error) => assert!(!error.to_string().is_empty(), "a refusal says why"),
    }
}

/// The record in shared memory.
pub(super) fn progress(data: &[u8]) {
    let mut record = [0; Progress::SIZE];
    for (to, from) in record.iter_mut().zip(data) {
        *to = *from;
    }
    if let Some(progress) = Progress::decode(&record) {
        assert_eq!(Progress::decode(&progress.encode()), Some(progress));
    }
}
