//! TLS to database servers: real ones, which take no TCP connection without it and ask for a certificate themselves.

use crate::common::Api;
use crate::servers::on_the_side;
use crate::tls::Ca;
use krater_controller::config::Topology;
use krater_controller::db::Db;
use krater_e2e::database::{DATABASE, Durability, Engine, PASSWORD, Server, Tls, own_address};
use rcgen::{DnType, ExtendedKeyUsagePurpose};
use sea_orm::{ConnectionTrait as _, Statement};
use serde_json::json;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

const LBS: &str = "/v2/lbaas/loadbalancers";

/// Certificate and key of a server or client.
fn issue(ca: &Ca, name: &str) -> (String, String) {
    ca.issue(name, |params| {
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
    })
}

/// Names of the parameters, and words of the mode: none, not verified, verified.
struct Words {
    mode: &'static str,
    ca: &'static str,
    cert: &'static str,
    key: &'static str,
    modes: [&'static str; 3],
}

const fn words(engine: Engine) -> Words {
    match engine {
        Engine::Postgres => Words {
            mode: "sslmode",
            ca: "sslrootcert",
            cert: "sslcert",
            key: "sslkey",
            modes: ["disable", "require", "verify-full"],
        },
        Engine::MariaDb => Words {
            mode: "ssl-mode",
            ca: "ssl-ca",
            cert: "ssl-cert",
            key: "ssl-key",
            modes: ["DISABLED", "REQUIRED", "VERIFY_IDENTITY"],
        },
    }
}

fn shown(ca: &Ca, name: &str, address: Ipv4Addr, clients: &Ca) -> Tls {
    let (certificate, key) = issue(ca, name);
    Tls {
        address,
        certificate,
        key,
        client_ca: clients.pem.clone(),
    }
}

/// Why the server is not used: the whole chain.
async fn refusal(url: &str) -> String {
    let error = Db::connect(&url.parse().unwrap()).await.unwrap_err();
    krater_model::report(&error)
}

/// The version of TLS that the server says it speaks with us.
async fn version(engine: Engine, db: &Db) -> String {
    let (sql, column) = match engine {
        Engine::Postgres => (
            "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
            "version",
        ),
        Engine::MariaDb => ("SHOW STATUS LIKE 'Ssl_version'", "Value"),
    };
    let statement = Statement::from_string(db.read().get_database_backend(), sql);
    let row = db.read().query_one(statement).await.unwrap().unwrap();
    row.try_get("", column).unwrap()
}

/// The command line, which also hides the password.
fn db_check(url: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_krater"))
        .args(["db", "check"])
        .env("KRATER_DATABASE", url)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

async fn is_verified(engine: Engine) {
    let (ours, theirs, clients) = (Ca::new("servers"), Ca::new("others"), Ca::new("clients"));
    let address = own_address();
    let good = shown(&ours, &address.to_string(), address, &clients);
    let mut server = Server::with_tls(engine, Durability::Relaxed, good.clone());
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path: &Path = dir.path();
        std::fs::write(path.join(name), text).unwrap();
        path.join(name).display().to_string()
    };
    let (certificate, key) = issue(&clients, "krater");
    let (ca, other) = (file("ca.pem", &ours.pem), file("other.pem", &theirs.pem));
    let w = words(engine);
    let own = format!(
        "{}={}&{}={}",
        w.cert,
        file("c.pem", &certificate),
        w.key,
        file("c.key", &key)
    );
    let url = |parameters: &str| server.tcp_url(DATABASE, parameters);
    let [none, unverified, verified] = w.modes.map(|mode| format!("{}={mode}", w.mode));
    let right = url(&format!("{verified}&{}={ca}&{own}", w.ca));

    // Who shows nothing, or speaks plainly, is refused by the server; who shows another certificate, by us.
    for (parameters, said) in [
        (none, ""),
        (unverified.clone(), ""),
        (format!("{verified}&{}={ca}", w.ca), ""),
        (
            format!("{verified}&{}={other}&{own}", w.ca),
            "UnknownIssuer",
        ),
        (format!("{verified}&{own}"), "UnknownIssuer"),
        (
            format!("{verified}&{}=/nowhere.pem&{own}", w.ca),
            "No such file",
        ),
    ] {
        let why = refusal(&url(&parameters)).await;
        assert!(why.contains(said), "{parameters}: {why}");
        assert!(!why.contains(PASSWORD), "{why}");
    }
    // What is not verified is taken.
    drop(
        Db::connect(&url(&format!("{unverified}&{own}")).parse().unwrap())
            .await
            .unwrap(),
    );

    let db = Db::connect(&right.parse().unwrap()).await.unwrap();
    assert_eq!(version(engine, &db).await, "TLSv1.3");
    let api = Api::of(tempfile::tempdir().unwrap(), db, Topology::Single).await;
    let body = json!({"loadbalancer": {"vip_subnet_id": api.subnet}});
    api.post(LBS, body).await.ok(201);
    let (fine, said) = db_check(&right);
    assert!(fine, "{said}");
    let (fine, said) = db_check(&url(&format!("{verified}&{}={other}&{own}", w.ca)));
    assert!(
        !fine && said.contains("UnknownIssuer") && !said.contains(PASSWORD),
        "{said}"
    );

    // A server that shows a certificate of somebody else, or for another name, is not used any more; the right one is again.
    for (tls, status) in [
        (shown(&theirs, &address.to_string(), address, &clients), 503),
        (shown(&ours, "db.example", address, &clients), 503),
        (good, 200),
    ] {
        server = on_the_side(server, move |server| {
            server.kill();
            server.show(tls);
            server.up();
        })
        .await;
        let answer = api.get(LBS).await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_verified() {
    is_verified(Engine::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_is_verified() {
    is_verified(Engine::MariaDb).await;
}
