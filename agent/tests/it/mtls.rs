//! Who may call.

use super::rig::{Ca, Rig};
use krater_model::wire::agent::{CONTROLLER_NAME, Info};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn only_the_controller_is_let_in() {
    let rig = Rig::started();
    let info: Info = rig.get("/2.0/info");
    assert_eq!(info.amphora_id, rig.amphora);
    assert!(info.revision.is_none() && info.schema == 1);
    assert!(info.certificate_expires.ends_with('Z'));

    let foreign = Ca::new().client(CONTROLLER_NAME);
    let other_name = rig.client_ca.client("somebody-else");
    let usage = rcgen::ExtendedKeyUsagePurpose::ServerAuth;
    let not_a_client = rig.client_ca.issue(CONTROLLER_NAME, usage);
    for (who, identity) in [
        ("no certificate", None),
        ("foreign CA", Some(&foreign)),
        ("wrong name", Some(&other_name)),
        ("wrong usage", Some(&not_a_client)),
    ] {
        let identity = identity.map(String::as_str);
        let answer = rig.call_as(identity, "PUT", "/2.0/state", &rig.state(1).to_string());
        assert!(answer.is_err(), "{who}: {answer:?}");
    }
    let plain: Vec<u8> = b"GET /2.0/info HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
    let agent = "127.0.0.1:9443".parse().unwrap();
    let mut stream = rig
        .management
        .tcp_connect(agent, Duration::from_secs(5))
        .unwrap();
    std::io::Write::write_all(&mut stream, &plain).unwrap();
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    assert!(!answer.starts_with(b"HTTP"));

    let info: Info = rig.get("/2.0/info");
    assert!(info.revision.is_none(), "nothing changed");
    let (_, metrics) = rig.call("GET", "/metrics", "");
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    assert!(
        metrics.contains("krater_agent_handshakes_refused_total 5"),
        "{metrics}"
    );
    let log = rig.agent_log();
    assert_eq!(log.matches("TLS handshake refused").count(), 5, "{log}");
}

#[test]
fn half_a_body_changes_nothing() {
    let rig = Rig::started();
    let body = rig.state(1).to_string();
    let pem = rig.client_ca.client(CONTROLLER_NAME);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut stream = rig.tls(Some(&pem)).await.unwrap();
        let length = body.len();
        let head =
            format!("PUT /2.0/state HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
            .write_all(&body.as_bytes()[..length / 2])
            .await
            .unwrap();
        stream.flush().await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    });
    let info: Info = rig.get("/2.0/info");
    assert!(info.revision.is_none());
    rig.wait("it is logged", |rig| {
        rig.agent_log().contains("the body did not arrive")
    });
    rig.apply(&rig.state(1));
}

#[test]
fn a_certificate_is_exchanged_while_running_and_kept() {
    let mut rig = Rig::started();
    let usage = rcgen::ExtendedKeyUsagePurpose::ServerAuth;
    let refused = |pem: &str| {
        let body = serde_json::json!({ "pem": pem }).to_string();
        let (status, answer) = rig.call("PUT", "/2.0/certificate", &body);
        assert_eq!(status, 400);
        String::from_utf8(answer.to_vec()).unwrap()
    };
    assert!(refused(&rig.server_ca.issue("other", usage.clone())).contains("no DNS name"));
    assert!(refused("rubbish").contains("holds no certificate"));
    let _: Info = rig.get("/2.0/info");

    // A new CA: from now on only the new certificate is accepted by the client.
    let new_ca = Ca::new();
    let pem = new_ca.issue(&rig.amphora.to_string(), usage);
    let body = serde_json::json!({ "pem": pem }).to_string();
    assert_eq!(rig.call("PUT", "/2.0/certificate", &body).0, 204);
    rig.server_ca = new_ca;
    let _: Info = rig.get("/2.0/info");
    rig.kill_agent();
    rig.start_agent();
    let _: Info = rig.get("/2.0/info");
    let on_disk = std::fs::read_to_string(rig.dir.join("state/server.pem.sealed")).unwrap();
    assert!(!on_disk.contains("PRIVATE"));
}

#[test]
fn unknown_and_oversized_requests_are_answered() {
    let rig = Rig::started();
    assert_eq!(rig.call("GET", "/", "").0, 404);
    assert_eq!(rig.call("DELETE", "/2.0/state", "").0, 405);
    assert_eq!(rig.call("PUT", "/2.0/log-level", &"x".repeat(5_000)).0, 413);
    assert_eq!(
        rig.call("PUT", "/2.0/log-level", "{\"level\":\"loud\"}").0,
        400
    );
    assert_eq!(
        rig.call("PUT", "/2.0/log-level", "{\"level\":\"debug\"}").0,
        204
    );
    assert_eq!(rig.call("GET", "/2.0/logs?process=nobody", "").0, 400);
    let (status, body) = rig.call("GET", "/2.0/logs?process=agent&lines=5", "");
    assert_eq!(
        (status, body.iter().filter(|c| **c == b'\n').count()),
        (200, 5)
    );
    assert_eq!(rig.call("GET", "/healthz", "").0, 200);
    assert_eq!(rig.call("GET", "/readyz", "").0, 503);
    rig.apply(&rig.state(1));
    rig.wait("ready", |rig| rig.call("GET", "/readyz", "").0 == 200);
}
