//! `krater db`, as an operator runs it.

use krater_controller::db::Db;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

fn krater_db(state_dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_krater"))
        .args(["db", "--state-dir"])
        .arg(state_dir)
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_backup_is_checked_and_restored_only_without_a_controller() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("krater.db");
    drop(Db::open_sqlite(&file).await.unwrap());
    let copy = dir.path().join("copy.db");
    let copy = copy.to_str().unwrap();

    let done = krater_db(dir.path(), &["backup", copy]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let again = krater_db(dir.path(), &["backup", copy]);
    assert!(!again.status.success());
    assert!(
        text(&again.stderr).contains("exists already"),
        "{}",
        text(&again.stderr)
    );

    let checked = krater_db(dir.path(), &["check", copy, "--json"]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(report["faults"], serde_json::json!([]));
    assert_eq!(report["schema"], report["known"]);

    let running = File::create(dir.path().join("lock")).unwrap();
    let running = Flock::lock(running, FlockArg::LockExclusiveNonblock).unwrap();
    for command in [&["restore", copy][..], &["migrate"][..]] {
        let refused = krater_db(dir.path(), command);
        assert!(!refused.status.success());
        let said = text(&refused.stderr);
        assert!(said.contains("in use by another controller"), "{said}");
    }
    drop(running);
    let restored = krater_db(dir.path(), &["restore", copy]);
    assert!(restored.status.success(), "{}", text(&restored.stderr));
    assert!(dir.path().join("krater.db.replaced-1").exists());
    let migrated = krater_db(dir.path(), &["migrate"]);
    assert!(
        text(&migrated.stdout).contains("nothing to do"),
        "{}",
        text(&migrated.stdout)
    );
}

#[test]
fn what_is_no_database_is_said_in_one_line_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let missing = krater_db(dir.path(), &["check"]);
    assert!(!missing.status.success());
    assert!(text(&missing.stderr).contains("no such file"));
    std::fs::write(dir.path().join("krater.db"), "no database").unwrap();
    let broken = krater_db(dir.path(), &["check"]);
    assert!(!broken.status.success());
    let said = text(&broken.stderr);
    assert_eq!(said.matches("not a database").count(), 1, "{said}");
}
