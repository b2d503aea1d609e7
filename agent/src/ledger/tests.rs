use super::*;
use krater_model::state::{Heartbeat, Logging};
use krater_model::units::{Epoch, Generation, Millis};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

const PEM: &str = "-----BEGIN PRIVATE KEY-----\nhunter2\n";

fn state(generation: u64) -> DesiredState {
    DesiredState {
        schema: SCHEMA,
        epoch: Epoch(1),
        generation: Generation(generation),
        amphora_id: AmphoraId(uuid::Uuid::from_u128(7)),
        request_id: "req-1".into(),
        interfaces: vec![],
        vrrp: vec![
            serde_json::from_value(serde_json::json!({
                "vrid": 1, "interface": "eth1", "version": 2, "password": "vrrppw", "priority": 100,
                "advert_interval": 100, "source": "192.0.2.1", "addresses": ["192.0.2.100/32"], "peers": ["192.0.2.2"],
                "liveness": {"key": "livekey-of-16-bytes"},
            }))
            .unwrap(),
        ],
        load_balancers: vec![],
        certificates: vec![Certificate {
            id: CertificateId::of(PEM.as_bytes()),
            pem: Secret::new(PEM),
        }],
        heartbeat: Some(Heartbeat {
            targets: vec!["100.96.0.1:5555".parse().unwrap()],
            interval: Millis::literal(1_000),
            key: Secret::new("beatkey"),
        }),
        logging: Logging::default(),
    }
}

fn ledger(dir: &Path, key: Option<&str>) -> Ledger {
    let key = key.map(|digit| SealKey::parse(&digit.repeat(64)).unwrap());
    Ledger::new(dir, state(1).amphora_id, key)
}

fn put(ledger: &Ledger, state: &DesiredState) -> Result<(), LedgerError> {
    ledger.prepare(state, &digest(state).unwrap())?.commit()
}

#[test]
fn comes_back_whole_with_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path(), Some("a"));
    assert!(ledger.restore().unwrap().is_none());
    put(&ledger, &state(1)).unwrap();
    let restored = ledger.restore().unwrap().unwrap();
    assert_eq!(restored.state, state(1));
    assert!(restored.complete);
    let meta = fs::metadata(dir.path().join(FILE)).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777,
        0o600
    );
}

#[test]
fn no_secret_is_on_disk_in_clear() {
    for key in [Some("a"), None] {
        let dir = tempfile::tempdir().unwrap();
        put(&ledger(dir.path(), key), &state(1)).unwrap();
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        for secret in ["hunter2", "beatkey", "vrrppw", "livekey"] {
            assert!(!text.contains(secret), "{secret}");
        }
    }
}

#[test]
fn without_the_key_the_secrets_are_missing_and_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    put(&ledger(dir.path(), Some("a")), &state(1)).unwrap();
    for key in [None, Some("b")] {
        let restored = ledger(dir.path(), key).restore().unwrap().unwrap();
        assert!(!restored.complete);
        assert!(restored.state.certificates.is_empty());
        let password = restored.state.vrrp[0].password.as_ref().unwrap();
        assert!(password.expose().is_empty());
        let liveness = restored.state.vrrp[0].liveness.as_ref().unwrap();
        assert!(liveness.key.expose().is_empty());
        assert_eq!(restored.state.revision(), state(1).revision());
        assert_eq!(restored.digest, digest(&state(1)).unwrap());
    }
}

#[test]
fn a_state_without_secrets_needs_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut plain = state(1);
    plain.certificates.clear();
    plain.heartbeat = None;
    plain.vrrp.clear();
    put(&ledger(dir.path(), None), &plain).unwrap();
    assert!(
        ledger(dir.path(), None)
            .restore()
            .unwrap()
            .unwrap()
            .complete
    );
}

#[test]
fn what_is_not_committed_never_happened() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path(), None);
    put(&ledger, &state(1)).unwrap();
    let next = state(2);
    drop(ledger.prepare(&next, "d").unwrap());
    assert!(!dir.path().join(NEW).exists());
    // As after a kill between the two phases:
    std::mem::forget(ledger.prepare(&next, "d").unwrap());
    let restored = ledger.restore().unwrap().unwrap();
    assert_eq!(restored.state.revision(), state(1).revision());
    put(&ledger, &next).unwrap();
    let restored = ledger.restore().unwrap().unwrap();
    assert_eq!(restored.state.revision(), next.revision());
}

#[test]
fn an_unreadable_or_foreign_file_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["", "{\"schema\":1", "[]", "\u{0}"] {
        fs::write(dir.path().join(FILE), text).unwrap();
        assert!(ledger(dir.path(), None).restore().unwrap().is_none());
        assert!(dir.path().join(BAD).exists() && !dir.path().join(FILE).exists());
    }
    put(&ledger(dir.path(), None), &state(1)).unwrap();
    let other = Ledger::new(dir.path(), AmphoraId::random(), None);
    assert!(other.restore().unwrap().is_none());
}

/// In a mount namespace of this thread alone.
#[test]
fn a_full_disk_keeps_the_old_state_and_is_named() {
    unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tmpfs = Some("tmpfs");
    mount(tmpfs, dir.path(), tmpfs, MsFlags::empty(), Some("size=64k")).unwrap();
    let ledger = ledger(dir.path(), None);
    put(&ledger, &state(1)).unwrap();
    let mut large = state(2);
    large.request_id = "x".repeat(100_000);
    let error = put(&ledger, &large).unwrap_err();
    let text = krater_model::report(&error);
    let path = dir.path().join(NEW).display().to_string();
    assert!(
        text.contains(&path) && text.contains("No space left on device"),
        "{text}"
    );
    assert!(!dir.path().join(NEW).exists(), "the space is given back");
    let restored = ledger.restore().unwrap().unwrap();
    assert_eq!(restored.state.revision(), state(1).revision());
    umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
}
