//! Two controllers on one database: either is killed under load, the other one goes on, and nothing that was acknowledged
//! is lost.

use crate::process::Controller;
use krater_e2e::api::Api;
use krater_e2e::database::{DATABASE, Durability, Engine, Server};
use krater_e2e::wait;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

const WRITERS: usize = 6;
/// Pause of a writer whom no controller serves.
const PAUSE: Duration = Duration::from_millis(20);

/// Paths that a client was told exist.
type Acknowledged = Arc<Mutex<BTreeSet<String>>>;
/// Where the controllers listen now.
type Apis = Arc<RwLock<[Api; 2]>>;

/// Asks one controller, then the other one: its answer, unless it cannot serve.
fn ask(
    apis: &Apis,
    first: usize,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Option<(u16, Value)> {
    for turn in 0..2 {
        let api = apis.read().unwrap()[(first + turn) % 2];
        if let Ok(answer) = api.send(method, path, body)
            && answer.status < 500
        {
            return Some((answer.status, answer.body));
        }
    }
    None
}

fn created(answer: Option<(u16, Value)>, root: &str) -> Option<String> {
    match answer? {
        (201, body) => body[root]["id"].as_str().map(str::to_owned),
        // The load balancer is still PENDING.
        (409, _) => None,
        other => panic!("{other:?}"),
    }
}

/// Makes load balancers with a listener each until it is told to stop; the two controllers in turn.
fn write(number: usize, apis: &Apis, acknowledged: &Acknowledged, stop: &AtomicBool) {
    let mut turn = number;
    let note = |path: String| {
        acknowledged.lock().unwrap().insert(path);
    };
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let body =
            json!({"loadbalancer": {"vip_subnet_id": "0b5e6a4e-0000-4000-8000-000000000001"}});
        let answer = ask(apis, turn, "POST", "/v2/lbaas/loadbalancers", Some(&body));
        let Some(lb) = created(answer, "loadbalancer") else {
            std::thread::sleep(PAUSE);
            continue;
        };
        note(format!("/v2/lbaas/loadbalancers/{lb}"));
        let body =
            json!({"listener": {"loadbalancer_id": lb, "protocol": "HTTP", "protocol_port": 80}});
        while !stop.load(Ordering::Relaxed) {
            turn += 1;
            let answer = ask(apis, turn, "POST", "/v2/lbaas/listeners", Some(&body));
            if let Some(listener) = created(answer, "listener") {
                note(format!("/v2/lbaas/listeners/{listener}"));
                break;
            }
            std::thread::sleep(PAUSE);
            // Its answer may have died with its controller.
            let path = format!("/v2/lbaas/listeners?loadbalancer_id={lb}");
            if let Some((200, list)) = ask(apis, turn, "GET", &path, None)
                && list["listeners"] != json!([])
            {
                break;
            }
        }
    }
}

/// What of the acknowledged objects is not there, or not ACTIVE, asked of one controller.
fn missing(api: Api, acknowledged: &BTreeSet<String>) -> Vec<String> {
    let mut missing = Vec::new();
    for path in acknowledged {
        let state = wait::until("the object leaves PENDING", || {
            let answer = api.send("GET", path, None).unwrap();
            let object = answer
                .body
                .as_object()
                .and_then(|body| body.values().next().cloned());
            let status = object.unwrap_or_default()["provisioning_status"].to_string();
            (!status.contains("PENDING")).then_some((answer.status, status))
        });
        if state != (200, "\"ACTIVE\"".to_owned()) {
            missing.push(format!("{path}: {state:?}"));
        }
    }
    missing
}

fn killed_in_turn(engine: Engine) {
    let server = Server::start(engine, Durability::Full);
    let url = server.url(DATABASE);
    let arguments = ["--database", url.as_str()];
    let first = Controller::start(&arguments);
    let second = Controller::beside(&first);
    let mut controllers = [first, second];
    let apis: Apis = Arc::new(RwLock::new([controllers[0].api, controllers[1].api]));
    let acknowledged = Acknowledged::default();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<JoinHandle<()>> = (0..WRITERS)
        .map(|number| {
            let (apis, acknowledged, stop) = (apis.clone(), acknowledged.clone(), stop.clone());
            std::thread::spawn(move || write(number, &apis, &acknowledged, &stop))
        })
        .collect();
    let progress = |more: usize| {
        let before = acknowledged.lock().unwrap().len();
        wait::for_condition("more is acknowledged", || {
            acknowledged.lock().unwrap().len() >= before + more
        });
    };
    progress(30);
    for victim in [0, 1] {
        controllers[victim].kill();
        progress(30);
        if victim == 0 {
            // Comes back at once: it goes on with its own flows.
            controllers[victim].up();
            apis.write().unwrap()[victim] = controllers[victim].api;
            progress(30);
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().unwrap();
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    // The second one stays dead: its flows are taken over when their leases end.
    assert_eq!(missing(controllers[0].api, &acknowledged), [""; 0]);
    controllers[1].up();
    assert_eq!(missing(controllers[1].api, &acknowledged), [""; 0]);
    // The check notices one that is gone.
    let gone = acknowledged
        .iter()
        .find(|path| path.contains("/listeners/"));
    controllers[1].api.must("DELETE", gone.unwrap(), None);
    let api = controllers[1].api;
    wait::for_condition("a deleted listener is missing", || {
        missing(api, &acknowledged).len() == 1
    });
}

#[test]
fn either_of_two_controllers_on_postgresql_is_killed_and_no_acknowledged_write_is_lost() {
    killed_in_turn(Engine::Postgres);
}

#[test]
fn either_of_two_controllers_on_mariadb_is_killed_and_no_acknowledged_write_is_lost() {
    killed_in_turn(Engine::MariaDb);
}
