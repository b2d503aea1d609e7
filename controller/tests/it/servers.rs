//! What only database servers do: go away and come back, serve several controllers.

use crate::common::{Api, new_database};
use krater_controller::config::Topology;
use krater_controller::db::Db;
use krater_controller::db::entity::load_balancer;
use krater_controller::inventory;
use krater_e2e::database::{DATABASE, Durability, Engine, Server};
use sea_orm::{ConnectionTrait as _, EntityTrait as _};
use serde_json::json;
use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LBS: &str = "/v2/lbaas/loadbalancers";

async fn api(server: &Server) -> Api {
    let address = server.url(DATABASE).parse().unwrap();
    let db = Db::connect(&address).await.unwrap();
    Api::of(tempfile::tempdir().unwrap(), db, Topology::Single).await
}

/// Runs what waits for processes where it holds up no task.
async fn on_the_side(mut server: Server, work: fn(&mut Server)) -> Server {
    let done = tokio::task::spawn_blocking(move || {
        work(&mut server);
        server
    });
    done.await.unwrap()
}

type Acknowledged = Arc<Mutex<BTreeSet<String>>>;

/// Waits until `more` were acknowledged.
async fn progress(acknowledged: &Acknowledged, more: usize) {
    let before = acknowledged.lock().unwrap().len();
    for _ in 0..6_000 {
        if acknowledged.lock().unwrap().len() >= before + more {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{before} were acknowledged, and not {more} more in a minute");
}

/// Kills the server while clients write. Gives what was answered with 201 and is not there after its return.
async fn goes_and_comes_back(engine: Engine, name: &str, durability: Durability) -> Vec<String> {
    let server = Server::start(engine, durability);
    let api = Arc::new(api(&server).await);
    let acknowledged = Acknowledged::default();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (api, acknowledged, stop) = (api.clone(), acknowledged.clone(), stop.clone());
        writers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let body = json!({"loadbalancer": {"vip_subnet_id": api.subnet6}});
                let answer = api.post(LBS, body).await;
                if answer.status == 201 {
                    let id = answer.json()["loadbalancer"]["id"].to_string();
                    acknowledged.lock().unwrap().insert(id);
                } else {
                    answer.fault(503);
                }
            }
        });
    }
    progress(&acknowledged, 50).await;
    let server = on_the_side(server, Server::kill).await;
    let text = api.get(LBS).await.fault(503);
    assert!(text.contains(name), "{text}");
    assert!(text.contains("does not answer"), "{text}");
    assert_eq!(api.get("/healthcheck").await.status, 503);
    let server = on_the_side(server, Server::up).await;
    // By itself, at the first request.
    api.get(LBS).await.ok(200);
    progress(&acknowledged, 50).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let rows = load_balancer::Entity::find().all(api.db.read()).await;
    let rows = rows.unwrap();
    let rows: BTreeSet<String> = rows.iter().map(|row| json!(row.id).to_string()).collect();
    let acknowledged = acknowledged.lock().unwrap();
    drop(server);
    acknowledged.difference(&rows).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_goes_and_comes_back_and_no_acknowledged_write_is_lost() {
    let name = "PostgreSQL database krater at /";
    let lost = goes_and_comes_back(Engine::Postgres, name, Durability::Full).await;
    assert_eq!(lost, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_goes_and_comes_back_and_no_acknowledged_write_is_lost() {
    let name = "MariaDB database krater at /";
    let lost = goes_and_comes_back(Engine::MariaDb, name, Durability::Full).await;
    assert_eq!(lost, [""; 0]);
}

/// The negative control of the two before: this server answers a commit before it is on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_forgetful_server_loses_is_noticed() {
    let name = "PostgreSQL database";
    let lost = goes_and_comes_back(Engine::Postgres, name, Durability::Relaxed).await;
    assert!(!lost.is_empty());
}

/// Controllers that start at the same time on an empty database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_are_done_once() {
    for engine in Engine::ALL {
        let server = Server::start(engine, Durability::Relaxed);
        let address = new_database(&server.url(DATABASE)).await;
        let mut starts = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let address = address.clone();
            starts.spawn(async move { Db::connect(&address).await.map(drop) });
        }
        while let Some(start) = starts.join_next().await {
            start.unwrap().unwrap();
        }
    }
}

fn krater(arguments: &[&str], url: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_krater"))
        .args(arguments)
        .env("KRATER_DATABASE", url)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn krater_db_checks_and_migrates_a_server_and_names_its_tools_for_the_rest() {
    for (engine, name, tool) in [
        (Engine::Postgres, "PostgreSQL database", "pg_dump"),
        (Engine::MariaDb, "MariaDB database", "mysqldump"),
    ] {
        let server = Server::start(engine, Durability::Relaxed);
        let url = server.url(DATABASE);
        let empty = krater(&["db", "check"], &url);
        assert!(empty.status.success(), "{}", text(&empty.stderr));
        let said = text(&empty.stdout);
        assert!(said.contains("schema none"), "{said}");
        let migrated = krater(&["db", "migrate"], &url);
        assert!(migrated.status.success(), "{}", text(&migrated.stderr));
        assert!(text(&migrated.stdout).starts_with("schema none → m0"));
        let again = text(&krater(&["db", "migrate"], &url).stdout);
        assert!(again.contains("nothing to do"), "{again}");
        let report = krater(&["db", "check", "--json"], &url);
        let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
        assert_eq!(report["schema"], report["known"]);
        assert_eq!(report["missing"], json!([]));
        let tables = report["rows"].as_array().unwrap();
        assert!(tables.contains(&json!(["load_balancer", 0])), "{report}");
        for command in [&["db", "backup", "x"][..], &["db", "restore", "x"]] {
            let refused = krater(command, &url);
            assert!(!refused.status.success());
            let said = text(&refused.stderr);
            assert!(said.contains(name) && said.contains(tool), "{said}");
        }
        // A newer program was here.
        let db = Db::connect(&url.parse().unwrap()).await.unwrap();
        db.write()
            .execute_unprepared("INSERT INTO seaql_migrations VALUES ('m9999_future', 0)")
            .await
            .unwrap();
        let faulty = krater(&["db", "check"], &url);
        assert!(!faulty.status.success());
        let said = text(&faulty.stdout);
        assert!(said.contains("m9999_future"), "{said}");
        let said = text(&krater(&["db", "migrate"], &url).stderr);
        assert!(said.contains("m9999_future"), "{said}");
    }
}

/// Amphorae of `netns` are on one host.
#[tokio::test]
async fn a_second_host_is_refused_until_it_takes_over() {
    let server = Server::start(Engine::Postgres, Durability::Relaxed);
    let url = server.url(DATABASE);
    let db = Db::connect(&url.parse().unwrap()).await.unwrap();
    assert_eq!(inventory::host(&db, "0badcafe").await.unwrap(), "0badcafe");
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_str().unwrap();
    let start = [
        "up",
        "--listen",
        "127.0.0.1:0",
        "--amphora-bin",
        "/bin/true",
    ];
    let refused = krater(&[&start[..], &["--state-dir", state]].concat(), &url);
    assert!(!refused.status.success());
    let said = text(&refused.stderr);
    assert!(said.contains("on the host of instance 0badcafe"), "{said}");
    let taken = krater(&["db", "--state-dir", state, "take-over"], &url);
    assert!(taken.status.success(), "{}", text(&taken.stderr));
    let own = std::fs::read_to_string(dir.path().join("instance")).unwrap();
    let said = text(&taken.stdout);
    assert_eq!(said.trim(), format!("0badcafe → {}", own.trim()));
    let host = inventory::host(&db, "11111111").await.unwrap();
    assert_eq!(host, own.trim());
}

#[test]
fn an_address_that_is_none_or_does_not_answer_is_said_without_its_password() {
    for (url, said) in [
        ("sqlite://x", "postgres://USER"),
        (
            "postgres://k:secret@127.0.0.1:1/krater",
            "PostgreSQL database krater at 127.0.0.1:1 cannot be used",
        ),
        (
            "mysql://k:secret@127.0.0.1:1/krater",
            "MariaDB database krater at 127.0.0.1:1 cannot be used",
        ),
    ] {
        let refused = krater(&["db", "check"], url);
        assert!(!refused.status.success());
        let text = text(&refused.stderr);
        assert!(text.contains(said), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}
