//! What only database servers do: go away and come back, serve several controllers.

use crate::common::{Api, new_database};
use crate::model;
use krater_controller::config::Topology;
use krater_controller::db::Db;
use krater_controller::db::entity::{load_balancer, meta};
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
pub(crate) async fn on_the_side(
    mut server: Server,
    work: impl FnOnce(&mut Server) + Send + 'static,
) -> Server {
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

/// The server is killed in the middle of concurrent changes of the same load balancers: nothing is half done.
async fn dies_under_changes(engine: Engine) {
    let mut server = Server::start(engine, Durability::Full);
    let api = Arc::new(api(&server).await);
    let lbs = [api.lb("a").await, api.lb("b").await, api.lb("c").await];
    let mut acknowledged = Vec::new();
    let mut taken = 0;
    for number in 0..6 {
        // Each time at another moment of the changes.
        let later = Duration::from_millis(4 * u64::try_from(number).unwrap());
        let kill = async {
            tokio::time::sleep(later).await;
            on_the_side(server, Server::kill).await
        };
        let (round, killed) = tokio::join!(model::round(&api, &lbs, number), kill);
        server = on_the_side(killed, Server::up).await;
        acknowledged.extend(round.0);
        taken += round.1;
        model::locks_hold(&api).await;
        api.settle().await;
    }
    // Not all changes came too late.
    let (made, _) = model::round(&api, &lbs, 6).await;
    acknowledged.extend(made);
    assert!(!acknowledged.is_empty(), "{taken} changes");
    for path in acknowledged {
        api.get(&path).await.ok(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_under_changes_leaves_nothing_half_done() {
    for engine in Engine::ALL {
        dies_under_changes(engine).await;
    }
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

/// Stops the server, without ending it, under eight writers. Gives how many of their requests are still not answered after
/// two later ones were, one after the other, and answers of the first ones.
async fn hangs(engine: Engine, deadline: Duration) -> (usize, Vec<u16>) {
    let server = Server::start(engine, Durability::Relaxed);
    let mut api = api(&server).await;
    api.hurry(deadline).await;
    let api = Arc::new(api);
    let acknowledged = Acknowledged::default();
    let (paused, stop) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    // Writers that have an answer to a request that they began before the pause.
    let answered: Arc<Mutex<Vec<u16>>> = Arc::default();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (api, acknowledged) = (api.clone(), acknowledged.clone());
        let (paused, stop, answered) = (paused.clone(), stop.clone(), answered.clone());
        writers.spawn(async move {
            let mut counted = false;
            while !stop.load(Ordering::Relaxed) {
                let body = json!({"loadbalancer": {"vip_subnet_id": api.subnet6}});
                let answer = api.post(LBS, body).await;
                if answer.status == 201 {
                    let id = answer.json()["loadbalancer"]["id"].to_string();
                    acknowledged.lock().unwrap().insert(id);
                } else {
                    answer.fault(503);
                }
                if paused.load(Ordering::SeqCst) && !counted {
                    counted = true;
                    answered.lock().unwrap().push(answer.status.as_u16());
                }
            }
        });
    }
    progress(&acknowledged, 50).await;
    let server = on_the_side(server, |server| server.pause(true)).await;
    paused.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let text = api.get(LBS).await.fault(503);
        assert!(text.contains("does not answer"), "{text}");
    }
    let answers = answered.lock().unwrap().clone();
    let server = on_the_side(server, |server| server.pause(false)).await;
    // By itself: each writer goes on.
    progress(&acknowledged, 50).await;
    api.get(LBS).await.ok(200);
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    drop(server);
    (8 - answers.len(), answers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_makes_no_request_hang() {
    for engine in Engine::ALL {
        let (silent, answers) = hangs(engine, Duration::from_secs(1)).await;
        assert_eq!(silent, 0, "{engine:?}");
        assert!(answers.contains(&503), "{engine:?}: {answers:?}");
    }
}

/// The negative control: the same without a deadline that matters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_deadline_requests_hang_as_long_as_the_server() {
    let (silent, _) = hangs(Engine::Postgres, Duration::from_secs(3_600)).await;
    assert!(silent > 0);
}

/// A client that stops in the middle of its body.
#[tokio::test]
async fn half_a_body_is_answered() {
    let mut api = Api::new().await;
    api.hurry(Duration::from_millis(300)).await;
    let endless = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    let request = http::Request::builder()
        .method("POST")
        .uri(LBS)
        .header("content-type", "application/json")
        .body(axum::body::Body::from_stream(endless));
    let text = api.send(request.unwrap()).await.fault(408);
    assert!(text.contains("did not arrive within 300ms"), "{text}");
    api.get(LBS).await.ok(200);
}

/// A transaction that is given up while it begins takes nothing of what follows on its connection with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_begin_that_was_given_up_is_kept() {
    for engine in Engine::ALL {
        let server = Server::start(engine, Durability::Relaxed);
        let db = Db::connect(&server.url(DATABASE).parse().unwrap())
            .await
            .unwrap();
        for round in 0..400_u64 {
            let begun = tokio::time::timeout(Duration::from_micros(round * 5), db.begin()).await;
            drop(begun);
            let key = format!("round-{round}");
            let text = format!("INSERT INTO meta (name, value) VALUES ('{key}', 'x')");
            db.write().execute_unprepared(&text).await.unwrap();
            let row = meta::Entity::find_by_id(key).one(db.read()).await;
            assert!(row.unwrap().is_some(), "{engine:?}: round {round}");
        }
    }
}
