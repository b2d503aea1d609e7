//! HTTPS of the API.

use crate::process::Controller;
use krater_e2e::{libraries, peers};
use serde_json::Value;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

/// A certificate of its own authority for 127.0.0.1, and its key.
fn certificate(dir: &Path, name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let write = |kind: &str, text: String| {
        let path = dir.join(format!("{name}.{kind}"));
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    (
        write("pem", made.cert.pem()),
        write("key", made.signing_key.serialize_pem()),
    )
}

fn curl(arguments: &[&str]) -> Output {
    let fetched = peers().join("tree/usr/bin/curl");
    let program = if fetched.exists() {
        fetched
    } else {
        "/usr/bin/curl".into()
    };
    Command::new(program)
        .args(["--silent", "--show-error", "--max-time", "30"])
        .args(arguments)
        .env("LD_LIBRARY_PATH", libraries())
        .output()
        .unwrap()
}

#[test]
fn the_api_is_https_with_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (pem, key) = certificate(dir.path(), "api");
    let (other, other_key) = certificate(dir.path(), "other");
    let controller = Controller::start(&["--tls-cert", &pem, "--tls-key", &key]);
    let url = format!("https://{}/", controller.api.address);
    // Some who connect and say nothing.
    let silent: Vec<TcpStream> = (0..32)
        .map(|_| TcpStream::connect(controller.api.address).unwrap())
        .collect();
    for version in ["--tlsv1.2", "--tlsv1.3"] {
        let done = curl(&["--cacert", &pem, version, &url]);
        let shown: Value = serde_json::from_slice(&done.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)));
        // Links lead back here.
        let link = shown["versions"][0]["links"][0]["href"].as_str().unwrap();
        assert_eq!(link, format!("{url}v2"));
    }
    drop(silent);
    // Negative controls: another authority, no TLS.
    assert!(!curl(&["--cacert", &other, &url]).status.success());
    assert!(!curl(&[&url.replace("https", "http")]).status.success());

    let status = |ca: &str, endpoint: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_krater"));
        command.args(["status", "--endpoint", endpoint, "--ca-file", ca]);
        command.output().unwrap().status.success()
    };
    assert!(status(&pem, &url));
    assert!(!status(&other, &url));

    let refused = |arguments: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_krater"))
            .args(["controller", "--drivers", "noop", "--listen", "127.0.0.1:0"])
            .arg("--state-dir")
            .arg(dir.path().join("refused"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(!done.status.success());
        String::from_utf8(done.stderr).unwrap()
    };
    for (arguments, said) in [
        (vec!["--tls-cert", pem.as_str()], "api.tls_key"),
        (vec!["--tls-key", &key], "api.tls_cert"),
        (
            vec!["--tls-cert", &pem, "--tls-key", &other_key],
            "api.tls_key",
        ),
        (vec!["--tls-cert", &key, "--tls-key", &key], "api.tls_cert"),
        (
            vec!["--tls-cert", "/nonexistent", "--tls-key", &key],
            "/nonexistent",
        ),
    ] {
        let text = refused(&arguments);
        assert!(text.contains(said), "{text}");
    }
}
