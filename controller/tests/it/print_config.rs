//! `--print-config`: file, environment and options, in this order, over the defaults.

use std::process::Command;

#[test]
fn options_win_over_the_file_and_nothing_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("krater.toml");
    std::fs::write(
        &file,
        "[api]\nlisten = \"127.0.0.1:1\"\n[heartbeat]\ninterval_ms = 77\n",
    )
    .unwrap();
    let run = |config: &std::path::Path| {
        Command::new(env!("CARGO_BIN_EXE_krater"))
            .args(["up", "--print-config", "--listen", "[::1]:2", "--state-dir"])
            .arg(dir.path().join("state"))
            .env("KRATER_CONFIG", config)
            .output()
            .unwrap()
    };
    let done = run(&file);
    let printed = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success());
    for line in [
        "listen = \"[::1]:2\"",
        "interval_ms = 77",
        "validity_days = 30",
    ] {
        assert!(
            printed.lines().any(|printed| printed == line),
            "{line}: {printed}"
        );
    }
    assert!(!dir.path().join("state").exists());

    let database = Command::new(env!("CARGO_BIN_EXE_krater"))
        .args(["controller", "--print-config", "--database"])
        .arg("postgres://krater:hunter2@db.example/krater")
        .output()
        .unwrap();
    let shown = String::from_utf8(database.stdout).unwrap();
    let line = "url = \"postgres://krater@db.example/krater\"";
    assert!(shown.contains(line), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");

    std::fs::write(&file, printed.replace("interval_ms", "intervall_ms")).unwrap();
    let refused = run(&file);
    assert!(!refused.status.success());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("intervall_ms"), "{said}");
}
