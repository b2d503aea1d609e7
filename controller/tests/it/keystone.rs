//! Tokens of a real Keystone.

use crate::access::{TOKEN_HEADER, TOKENS, each_endpoint, objects, send};
use crate::process::Controller;
use krater_controller::auth::Auth;
use krater_controller::auth::keystone::Keystone as Driver;
use krater_controller::config::Config;
use krater_e2e::keystone::{Keystone, PASSWORD};
use krater_e2e::{libraries, peers, wait};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use tokio::sync::Mutex;

/// A Keystone is some hundred megabytes of Python that starts for seconds: one at a time.
static ALONE: Mutex<()> = Mutex::const_new(());
/// Tokens of so many seconds outlive the test.
const LONG: u32 = 3_600;

/// `krater.toml` for a Keystone, and its password file.
fn config(dir: &Path, keystone: &Keystone, more: &str) -> String {
    let password = dir.join("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    format!(
        "[keystone]\nurl = \"{}\"\nusername = \"krater\"\npassword_file = {password:?}\n{more}\n",
        keystone.url()
    )
}

/// The user whose token the controller shows.
fn service_user(keystone: &Keystone) -> String {
    let project = keystone.project("service");
    keystone.user("krater", &project, "service")
}

fn driver(text: &str) -> Auth {
    let config = Config::parse(text).unwrap();
    Auth::keystone(Driver::new(&config.keystone).unwrap())
}

/// Each endpoint with the tokens of each role: allowed, forbidden, of a foreign project, none, wrong.
#[test]
fn each_endpoint_lets_through_whom_keystone_says() {
    let _alone = ALONE.blocking_lock();
    // Keystone ends with the thread that started it, so it is this one and none of the runtime's.
    let keystone = Keystone::start(LONG);
    service_user(&keystone);
    let projects: BTreeMap<&str, String> = ["own", "foreign"]
        .map(|name| (name, keystone.project(name)))
        .into();
    let tokens: BTreeMap<&str, String> = TOKENS
        .map(|(name, project, role)| {
            // `admin` is the bootstrap's.
            let user = format!("{name}-user");
            keystone.user(&user, &projects[project], role);
            (name, keystone.token(&user, project))
        })
        .into();
    let unscoped = keystone.unscoped("member-user");
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (mut api, ids) = objects(&projects["own"]).await;
        api.guard(driver(&config(dir.path(), &keystone, ""))).await;
        each_endpoint(&api, &ids, &projects["own"], |name| tokens[name].clone()).await;
        let path = "/v2/lbaas/loadbalancers";
        let answer = send(&api, None, "GET", path, None).await;
        assert_eq!(answer.status, 401);
        let challenge = format!("Keystone uri=\"{}\"", keystone.url());
        assert_eq!(answer.headers["www-authenticate"], challenge);
        // A token of no project is known and may nothing.
        send(&api, Some(&unscoped), "GET", path, None)
            .await
            .fault(403);
        let body = json!({"loadbalancer": {"vip_subnet_id": api.subnet}});
        let made = send(&api, Some(&tokens["stranger"]), "POST", path, Some(&body)).await;
        let made = made.ok(201)["loadbalancer"]["project_id"].clone();
        assert_eq!(made, projects["foreign"].as_str());
    });
}

/// What time and outages do to tokens, and the unmodified client with the catalog.
#[test]
fn tokens_end_are_remembered_and_keystone_may_go_away() {
    let _alone = ALONE.blocking_lock();
    let mut keystone = Keystone::start(LONG);
    let service = service_user(&keystone);
    let project = keystone.project("own");
    keystone.user("member", &project, "member");
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, more: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, config(dir.path(), &keystone, more)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (with, without) = (file("with", ""), file("without", "cache_seconds = 0"));
    let controller = Controller::start(&["--config", &with]);
    let forgetful = Controller::start(&["--config", &without]);
    let status = |controller: &Controller, token: &str| {
        let headers = [(TOKEN_HEADER, token)];
        let answer = controller
            .api
            .raw("GET", "/v2/lbaas/loadbalancers", &headers, b"");
        answer.unwrap().status
    };
    let token = keystone.token("member", "own");
    assert_eq!(status(&controller, &token), 200);
    assert_eq!(status(&forgetful, &token), 200);
    assert_eq!(status(&controller, "wrong"), 401);
    the_client_finds_it_by_the_catalog(&keystone, &controller);

    // Revoked: who asks each time knows at once, who remembers does not for a while.
    let revoked = keystone.token("member", "own");
    assert_eq!(status(&controller, &revoked), 200);
    assert_eq!(status(&forgetful, &revoked), 200);
    keystone.revoke(&revoked);
    assert_eq!(status(&forgetful, &revoked), 401);
    assert_eq!(status(&controller, &revoked), 200);

    // Our own token was revoked: a new one is made.
    let enable = |enabled: bool| {
        let body = json!({"user": {"enabled": enabled}});
        keystone.admin("PATCH", &format!("/users/{service}"), &body);
    };
    enable(false);
    enable(true);
    // Keystone counts in whole seconds: it refuses a token of the second of the revocation, also one that was made after it.
    wait::for_condition("a new token of our own", || {
        status(&forgetful, &token) == 200
    });

    let later = keystone.token("member", "own");
    keystone.down();
    assert_eq!(status(&controller, &token), 200, "remembered");
    assert_eq!(status(&forgetful, &token), 503, "the negative control");
    let headers = [(TOKEN_HEADER, later.as_str())];
    let answer = controller
        .api
        .raw("GET", "/v2/lbaas/loadbalancers", &headers, b"");
    let answer = answer.unwrap();
    assert_eq!(answer.status, 503);
    let text = answer.body["error"]["message"].as_str().unwrap().to_owned();
    assert!(text.contains("identity service"), "{text}");
    // What needs no token goes on.
    assert_eq!(controller.api.get("/")["versions"][0]["id"], "v2.0");

    // From now on tokens, our own too, live for seconds.
    keystone.up(6);
    assert_eq!(status(&controller, &later), 200, "by itself");
    let short = keystone.token("member", "own");
    assert_eq!(status(&controller, &short), 200);
    wait::until("the remembered token ends", || {
        (status(&controller, &short) == 401).then_some(())
    });
    let fresh = keystone.token("member", "own");
    assert_eq!(status(&controller, &fresh), 200, "our own token is renewed");
    assert_eq!(status(&controller, &later), 200, "long ones live on");
    for controller in [&controller, &forgetful] {
        let log = controller.log();
        for secret in [PASSWORD, &token, &short, &later] {
            let said = log.lines().find(|line| line.contains(secret));
            assert_eq!(said, None, "{secret} is in the log");
        }
    }
}

/// `openstack` with a name, a password and Keystone's address alone.
fn the_client_finds_it_by_the_catalog(keystone: &Keystone, controller: &Controller) {
    let here = format!("http://{}", controller.api.address);
    keystone.service("load-balancer", &here);
    keystone.service("network", &format!("{here}/network"));
    let openstack = |arguments: &[&str]| {
        let output = Command::new(peers().join("venv-cli/bin/openstack"))
            .args(arguments)
            .args(["-f", "json"])
            .env("LD_LIBRARY_PATH", libraries())
            .envs([
                ("OS_AUTH_URL", keystone.url().as_str()),
                ("OS_IDENTITY_API_VERSION", "3"),
                ("OS_USERNAME", "member"),
                ("OS_PASSWORD", PASSWORD),
                ("OS_PROJECT_NAME", "own"),
                ("OS_USER_DOMAIN_ID", "default"),
                ("OS_PROJECT_DOMAIN_ID", "default"),
                ("OS_REGION_NAME", "RegionOne"),
            ])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.success(), shown, said)
    };
    let (made, shown, said) = openstack(&[
        "loadbalancer",
        "create",
        "--name",
        "web",
        "--vip-subnet-id",
        "noop-subnet",
        "--additional-vip",
        "subnet-id=noop-subnet6",
    ]);
    assert!(made, "{said}");
    assert_eq!(shown["vip_address"], "198.18.33.33");
    let more = shown["additional_vips"].to_string();
    assert!(more.contains("2001:db8:33:33:33:33:33:33"), "{shown}");
    let (listed, shown, said) = openstack(&["loadbalancer", "list"]);
    assert!(listed, "{said}");
    assert_eq!(shown[0]["name"], "web");
    let (allowed, _, said) = openstack(&["loadbalancer", "amphora", "list"]);
    assert!(!allowed && said.contains("403"), "{said}");
}
