//! Parsers of krater-model, and the configuration files.

use krater_controller::app::policy::file::Overrides;
use krater_controller::app::policy::{Identity, Rule};
use krater_controller::config::Config;
use krater_controller::http::access::policy_names;
use krater_controller::tokens::Tokens;
use krater_model::config::AgentConfig;
use krater_model::config::appliance::{Appliance, Book, MAX_ADDRESSES};
use krater_model::control::{Progress, Snapshot};
use krater_model::names::{AllFound, Found};
use krater_model::secret::Secret;
use krater_model::wire::dns::{self, Answer, AnswerError, Family, Name, Question};
use krater_model::wire::heartbeat::Beat;
use krater_model::{DesiredState, Revision};
use std::net::IpAddr;

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
        // Before names are resolved, and with as many addresses as they have places, and one more.
        let mut book = Book::default();
        for number in 0..=u8::try_from(MAX_ADDRESSES).unwrap_or(u8::MAX) {
            let snapshot = file.snapshot(Revision::default(), &book);
            let json = serde_json::to_vec(&snapshot).unwrap_or_default();
            assert_eq!(
                Snapshot::parse(&json),
                Ok(snapshot),
                "a file is what a controller would send"
            );
            let addresses: Vec<IpAddr> = (0..=number).map(|n| [192, 0, 2, n].into()).collect();
            let found = |name: Name| {
                let addresses = addresses.clone();
                let problem = None;
                (name, Found { addresses, problem })
            };
            let all: AllFound = file.hosts.names().into_iter().map(found).collect();
            if !book.follow(&file.hosts, &all) {
                break;
            }
        }
    }
}

/// What a name server sends, as the answer to a question for either family. The first two bytes are the question's id, which
/// a blind attacker does not know, but who is on the path does.
pub(super) fn dns_answer(data: &[u8]) {
    let Some((id, _)) = data.split_first_chunk::<2>() else {
        return;
    };
    let Ok(name) = "app.example".parse::<Name>() else {
        return;
    };
    for family in [Family::Ipv4, Family::Ipv6] {
        let question = Question {
            id: u16::from_be_bytes(*id),
            name: name.clone(),
            family,
        };
        if let Ok(Answer::Addresses { addresses, ttl }) = question.read(data) {
            assert!((1..=dns::MAX_ADDRESSES).contains(&addresses.len()));
            assert!(
                ttl.as_secs() <= u64::from(i32::MAX.unsigned_abs()),
                "RFC 2181 section 8"
            );
            let fits = |ip: &IpAddr| ip.is_ipv4() == (family == Family::Ipv4);
            assert!(
                addresses.iter().all(fits),
                "of the family that was asked for"
            );
        }
        assert_eq!(
            question.read(&question.encode()),
            Err(AnswerError::Foreign),
            "a question is no answer"
        );
    }
    // A name that is accepted is one that goes on the wire and comes back.
    if let Ok(name) = String::from_utf8_lossy(data).parse::<Name>() {
        assert_eq!(name.to_string().parse(), Ok(name));
    }
}

/// A host's resolv.conf.
pub(super) fn resolv_conf(data: &[u8]) {
    let servers = krater_model::names::resolv_conf(&String::from_utf8_lossy(data));
    assert!((1..=krater_model::names::MAX_SERVERS).contains(&servers.len()));
    for server in servers {
        assert_eq!(server.to_string().parse(), Ok(server));
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
